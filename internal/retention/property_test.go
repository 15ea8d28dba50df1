package retention_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/n8keep/n8keep/internal/retention"
)

// collection draws what a target may hold: a few instances, signers and keys, with
// times that collide, that lie, and that lie in the future.
func collection(t *rapid.T) []retention.Item {
	var items []retention.Item
	n := rapid.IntRange(0, 40).Draw(t, "items")
	for k := range n {
		l := func(s string) string { return fmt.Sprintf("%s %d", s, k) }
		stored := now.Add(-time.Duration(rapid.IntRange(-3, 120*24).Draw(t, l("age in hours"))) * hour)
		i := retention.Item{ID: fmt.Sprintf("id%02d", k), Kind: rapid.SampledFrom([]retention.Kind{retention.Archives, retention.Archives, retention.Workflows}).Draw(t, l("kind")),
			Instance: rapid.SampledFrom([]string{"prod", "test"}).Draw(t, l("instance")), Signer: rapid.SampledFrom([]string{"s1", "s1", "s2"}).Draw(t, l("signer")),
			State: rapid.SampledFrom([]retention.State{retention.Good, retention.Good, retention.Good, retention.Degraded, retention.Incomplete}).Draw(t, l("state")),
			Key:   rapid.SampledFrom([]string{"k1", "k1", "k2", "k3", ""}).Draw(t, l("key")),
			// Mostly as stored.
			Created: stored.Add(-time.Duration(max(0, rapid.IntRange(-60*24, 60*24).Draw(t, l("skew in hours")))) * hour), Stored: stored}
		if rapid.IntRange(0, 5).Draw(t, l("verified")) == 0 {
			i.Verified = now.Add(-rapid.SampledFrom([]time.Duration{hour, 100 * day}).Draw(t, l("verified since")))
		}
		if rapid.IntRange(0, 9).Draw(t, l("held")) == 0 {
			i.Hold = "altered"
		}
		if rapid.IntRange(0, 9).Draw(t, l("locked")) == 0 {
			i.LockedUntil = now.Add(time.Duration(rapid.IntRange(-48, 48).Draw(t, l("lock in hours"))) * hour)
		}
		items = append(items, i)
	}
	return items
}

func policy(t *rapid.T, name string) retention.Policy {
	n := func(rule string) int { return rapid.IntRange(0, 6).Draw(t, name+" "+rule) }
	return retention.Policy{Last: n("last"), Hourly: n("hourly"), Daily: n("daily"), Weekly: n("weekly"), Monthly: n("monthly"), Yearly: n("yearly")}
}

func config(t *rapid.T) retention.Config {
	return retention.Config{Now: now, Policies: map[retention.Kind]retention.Policy{retention.Archives: policy(t, "archives"), retention.Workflows: policy(t, "workflows")}}
}

func kept(p retention.Plan) []retention.Item {
	var items []retention.Item
	for _, d := range p.Decisions {
		if d.Keep {
			items = append(items, d.Item)
		}
	}
	return items
}

func counts(i retention.Item) bool { return i.Hold == "" && i.State != retention.Incomplete }

type groupOf struct {
	instance, signer string
	kind             retention.Kind
}

func of(i retention.Item) groupOf { return groupOf{i.Instance, i.Signer, i.Kind} }

// TestNeverTheLast: of each group the newest good archive stays, by either time,
// the newest verified one, and one for each key that is not given up: the newest,
// the newest verified one, and one that is sound, whichever have rotted unseen.
func TestNeverTheLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items, cfg := collection(t), config(t)
		if rapid.Bool().Draw(t, "forget k3") {
			cfg.ForgottenKeys = []string{"k3"}
		}
		stays := map[string]bool{}
		plan := retention.Decide(items, cfg)
		for _, i := range kept(plan) {
			stays[i.ID] = true
		}
		rotten := map[string]bool{} // but for what was found sound just now
		for _, i := range items {
			rotten[i.ID] = now.Sub(i.Verified) > hour && rapid.Bool().Draw(t, "rotten "+i.ID)
		}
		left := carriedOut(plan, rotten)
		sound, soundBefore := map[string]bool{}, map[string]bool{}
		keys, keysBefore := map[string]bool{}, map[string]bool{}
		for _, i := range items {
			if !counts(i) {
				continue
			}
			if i.Kind == retention.Archives && i.Key != "" && (i.Key != "k3" || len(cfg.ForgottenKeys) == 0) {
				name := fmt.Sprint(of(i), i.Key)
				keysBefore[name] = true
				keys[name] = keys[name] || stays[i.ID]
				if !rotten[i.ID] {
					soundBefore[name] = true
					sound[name] = sound[name] || left[i.ID]
				}
				if !i.Verified.IsZero() && !stays[i.ID] && !slices.ContainsFunc(items, func(j retention.Item) bool {
					return counts(j) && of(j) == of(i) && j.Key == i.Key && !j.Verified.IsZero() && stays[j.ID] && (j.State < i.State || j.State == i.State && !j.Stored.Before(i.Stored))
				}) {
					t.Fatalf("%+v goes, and no newer one that was verified stays for its key", i)
				}
			}
			if i.State != retention.Good || stays[i.ID] {
				continue
			}
			// It goes: then there is a good one in its group that is newer and stays, by either time.
			byStored, byCreated, proved := false, false, i.Verified.IsZero()
			for _, j := range items {
				if !counts(j) || j.State != retention.Good || of(j) != of(i) || !stays[j.ID] {
					continue
				}
				byStored = byStored || !j.Stored.Before(i.Stored)
				byCreated = byCreated || !j.Created.Before(i.Created)
				proved = proved || !j.Verified.IsZero() && !j.Stored.Before(i.Stored)
			}
			if !byStored || !byCreated || !proved {
				t.Fatalf("%+v goes, and nothing newer stays (%v, %v, verified %v)", i, byStored, byCreated, proved)
			}
		}
		for name := range keysBefore {
			if !keys[name] {
				t.Fatalf("nothing is left for %s", name)
			}
		}
		for name := range soundBefore {
			if !sound[name] {
				t.Fatalf("nothing sound is left for %s", name)
			}
		}
	})
}

// carriedOut is what a plan leaves when each proof reads its candidates until one
// is not rotten, which stays, as do all that it is about when there is none.
func carriedOut(plan retention.Plan, rotten map[string]bool) map[string]bool {
	left := map[string]bool{}
	for _, i := range kept(plan) {
		left[i.ID] = true
	}
	for _, p := range plan.Proofs {
		n := slices.IndexFunc(p.Candidates, func(id string) bool { return !rotten[id] })
		if n >= 0 {
			left[p.Candidates[n]] = true
			continue
		}
		for _, d := range plan.Decisions {
			left[d.ID] = left[d.ID] || counts(d.Item) && p.Same(d.Item)
		}
	}
	return left
}

// TestNeverRemovesWhatIsNotOurs: held, locked, and what may still be under way.
func TestNeverRemovesWhatIsNotOurs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items, cfg := collection(t), config(t)
		plan := retention.Decide(items, cfg)
		if len(plan.Decisions) != len(items) {
			t.Fatalf("%d decisions about %d items", len(plan.Decisions), len(items))
		}
		for _, d := range plan.Decisions {
			if !d.Keep && (d.Hold != "" || d.LockedUntil.After(now) || d.State == retention.Incomplete && now.Sub(d.Stored) < day) {
				t.Fatalf("%+v", d)
			}
			if d.Reason == "" {
				t.Fatalf("no reason: %+v", d)
			}
		}
	})
}

// TestIdempotent: what a prune leaves, the next leaves too.
func TestIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items, cfg := collection(t), config(t)
		left := kept(retention.Decide(items, cfg))
		for _, d := range retention.Decide(left, cfg).Decisions {
			if !d.Keep {
				t.Fatalf("at the second time goes %s: %s", d.ID, d.Reason)
			}
		}
	})
}

// TestMonotone: a policy that is larger in every number keeps at least as much.
func TestMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items, small := collection(t), config(t)
		large := small
		large.Policies = map[retention.Kind]retention.Policy{}
		for k, p := range small.Policies {
			q := policy(t, "more "+string(k))
			large.Policies[k] = retention.Policy{Last: p.Last + q.Last, Hourly: p.Hourly + q.Hourly, Daily: p.Daily + q.Daily,
				Weekly: p.Weekly + q.Weekly, Monthly: p.Monthly + q.Monthly, Yearly: p.Yearly + q.Yearly}
		}
		stays := map[string]bool{}
		for _, i := range kept(retention.Decide(items, large)) {
			stays[i.ID] = true
		}
		for _, i := range kept(retention.Decide(items, small)) {
			if !stays[i.ID] {
				t.Fatalf("%s is kept by the smaller policy only", i.ID)
			}
		}
	})
}

// TestClockAloneRemovesNothingComplete: whatever the time is said to be, complete
// archives without a lock are decided alike.
func TestClockAloneRemovesNothingComplete(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items, cfg := collection(t), config(t)
		for i := range items {
			items[i].LockedUntil = time.Time{}
		}
		before := retention.Decide(items, cfg)
		cfg.Now = cfg.Now.Add(time.Duration(rapid.IntRange(-1000, 1000).Draw(t, "days")) * day)
		for i, d := range retention.Decide(items, cfg).Decisions {
			if counts(d.Item) && d.Keep != before.Decisions[i].Keep {
				t.Fatalf("%+v", d)
			}
		}
	})
}

// TestForgedDatesDisplaceNothingOlder: an intruder who holds the signing key puts
// archives with any dates of their own into a target today. What was stored on
// days before, and is good, stays as it would have stayed without.
func TestForgedDatesDisplaceNothingOlder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := config(t)
		for k, p := range cfg.Policies {
			p.Last, p.Hourly = 0, 0 // these count archives, and hours of today
			cfg.Policies[k] = p
		}
		var items []retention.Item
		for _, i := range collection(t) {
			if i.Stored.Before(now.Truncate(day)) {
				items = append(items, i)
			}
		}
		// The host's own backup of today, in each group.
		for n, g := range []groupOf{{"prod", "s1", retention.Archives}, {"prod", "s1", retention.Workflows}} {
			items = append(items, retention.Item{ID: fmt.Sprint("today", n), Kind: g.kind, Instance: g.instance, Signer: g.signer, State: retention.Good, Key: "k1", Created: now.Add(-hour), Stored: now.Add(-hour)})
		}
		before := kept(retention.Decide(items, cfg))
		for n := range rapid.IntRange(1, 20).Draw(t, "forged") {
			items = append(items, retention.Item{ID: fmt.Sprintf("x%02d", n), Kind: rapid.SampledFrom([]retention.Kind{retention.Archives, retention.Workflows}).Draw(t, "kind"), Instance: "prod", Signer: "s1", State: retention.Good, Key: "k1",
				Created: now.Add(-time.Duration(rapid.IntRange(-5000, 5000).Draw(t, "forged age")) * hour), Stored: now.Add(-time.Minute)})
		}
		stays := map[string]bool{}
		for _, i := range kept(retention.Decide(items, cfg)) {
			stays[i.ID] = true
		}
		for _, i := range before {
			if i.Stored.Before(now.Truncate(day)) && !stays[i.ID] && i.State == retention.Good {
				t.Fatalf("%+v was displaced", i)
			}
		}
	})
}
