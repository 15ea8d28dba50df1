package retention_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/retention"
)

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) // a Friday

const hour, day = time.Hour, 24 * time.Hour

// item is a good archive of "prod" that was stored when it was made.
func item(id string, age time.Duration, change ...func(*retention.Item)) retention.Item {
	i := retention.Item{ID: id, Kind: retention.Archives, Instance: "prod", Signer: "s1", State: retention.Good, Key: "k1",
		Created: now.Add(-age), Stored: now.Add(-age)}
	for _, c := range change {
		c(&i)
	}
	return i
}

func decide(items []retention.Item, p retention.Policy, forgotten ...string) retention.Plan {
	return retention.Decide(items, retention.Config{Now: now, ForgottenKeys: forgotten,
		Policies: map[retention.Kind]retention.Policy{retention.Archives: p, retention.Workflows: {Last: 1}}})
}

// said is what the plan says of each item, in the items' order.
func said(plan retention.Plan) map[string]string {
	m := map[string]string{}
	for _, d := range plan.Decisions {
		m[d.ID] = d.String()
	}
	return m
}

func TestReasons(t *testing.T) {
	degraded := func(i *retention.Item) { i.State = retention.Degraded }
	incomplete := func(i *retention.Item) { i.State = retention.Incomplete }
	key := func(k string) func(*retention.Item) { return func(i *retention.Item) { i.Key = k } }
	signer := func(s string) func(*retention.Item) { return func(i *retention.Item) { i.Signer = s } }
	hold := func(s string) func(*retention.Item) { return func(i *retention.Item) { i.Hold = s } }
	locked := func(d time.Duration) func(*retention.Item) {
		return func(i *retention.Item) { i.LockedUntil = now.Add(d) }
	}
	made := func(age time.Duration) func(*retention.Item) {
		return func(i *retention.Item) { i.Created = now.Add(-age) }
	}
	verified := func(i *retention.Item) { i.Verified = now }
	workflows := func(i *retention.Item) { i.Kind, i.Key = retention.Workflows, "" }

	for _, c := range []struct {
		name      string
		policy    retention.Policy
		items     []retention.Item
		forgotten []string
		want      map[string]string
	}{
		{"daily", retention.Policy{Daily: 2}, []retention.Item{item("a", hour), item("b", 2*hour), item("c", day), item("d", 2*day)}, nil, map[string]string{
			"a": "kept: daily 2026-11-20, newest good", "b": "removed: not among daily 2", "c": "kept: daily 2026-11-19", "d": "removed: not among daily 2"}},
		{"days without a backup do not count", retention.Policy{Daily: 2}, []retention.Item{item("a", 100*day), item("b", 200*day)}, nil, map[string]string{
			"a": "kept: daily 2026-08-12, newest good", "b": "kept: daily 2026-05-04"}},
		{"every rule", retention.Policy{Last: 1, Hourly: 1, Weekly: 1, Monthly: 1, Yearly: 2}, []retention.Item{item("a", 0), item("b", 400*day)}, nil, map[string]string{
			"a": "kept: last 1, hourly 2026-11-20T12h, weekly 2026-W47, monthly 2026-11, yearly 2026, newest good", "b": "kept: yearly 2025"}},
		{"no policy", retention.Policy{}, []retention.Item{item("a", 0), item("b", day)}, nil, map[string]string{
			"a": "kept: newest good", "b": "removed: not among nothing"}},
		{"good before newer", retention.Policy{Daily: 1}, []retention.Item{item("a", hour, degraded), item("b", 2*hour)}, nil, map[string]string{
			"a": "removed: not among daily 1", "b": "kept: daily 2026-11-20, newest good"}},
		{"none is good", retention.Policy{}, []retention.Item{item("a", hour, degraded), item("b", 2*hour, degraded)}, nil, map[string]string{
			"a": "kept: newest, and none is good", "b": "removed: not among nothing"}},
		{"keys", retention.Policy{Last: 1}, []retention.Item{item("a", 0, key("k3")), item("b", day, key("k2")), item("c", 2*day, key("k1")), item("d", 3*day, key("k1")), item("e", 4*day, key(""))}, nil, map[string]string{
			"a": "kept: last 1, newest good", "b": "kept: the only one that key k2 opens", "c": "kept: the newest that key k1 opens", "d": "removed: not among last 1", "e": "removed: not among last 1"}},
		{"a key nobody has", retention.Policy{Last: 1}, []retention.Item{item("a", 0, key("k3")), item("b", day, key("k2")), item("c", 2*day, key("k1"))}, []string{"k2"}, map[string]string{
			"a": "kept: last 1, newest good", "b": "removed: not among last 1", "c": "kept: the only one that key k1 opens"}},
		{"verified here", retention.Policy{Last: 1}, []retention.Item{item("a", 0), item("b", day, verified), item("c", 2*day, verified)}, nil, map[string]string{
			"a": "kept: last 1, newest good", "b": "kept: newest good that was verified here", "c": "removed: not among last 1"}},
		{"verified here, of a key", retention.Policy{Last: 1}, []retention.Item{item("a", 0, key("k2"), verified), item("b", day), item("c", 2*day, verified), item("d", 3*day, verified), item("e", 4*day)}, nil, map[string]string{
			"a": "kept: last 1, newest good", "b": "kept: the newest that key k1 opens", "c": "kept: the newest that was verified here and key k1 opens", "d": "removed: not among last 1", "e": "removed: not among last 1"}},
		{"locked", retention.Policy{Last: 1}, []retention.Item{item("a", 0), item("b", day, locked(day)), item("c", 2*day, locked(-hour)), item("d", 3*day, incomplete, locked(hour))}, nil, map[string]string{
			"a": "kept: last 1, newest good", "b": "kept: locked until 2026-11-21T12:00:00Z", "c": "removed: not among last 1", "d": "kept: locked until 2026-11-20T13:00:00Z"}},
		{"incomplete", retention.Policy{Last: 1}, []retention.Item{item("a", 23*hour, incomplete), item("b", 24*hour, incomplete), item("c", 30*day)}, nil, map[string]string{
			"a": "kept: incomplete, younger than 24 hours", "b": "removed: incomplete since 2026-11-19 12:00", "c": "kept: last 1, newest good"}},
		{"signers and instances apart", retention.Policy{Last: 1}, []retention.Item{item("a", 0), item("b", day, signer("s2")), item("c", 2*day, func(i *retention.Item) { i.Instance = "test" }), item("d", 3*day)}, nil, map[string]string{
			"a": "kept: last 1, newest good", "b": "kept: last 1, newest good", "c": "kept: last 1, newest good", "d": "removed: not among last 1"}},
		{"held ones do not count", retention.Policy{Last: 1}, []retention.Item{item("a", 0, hold("signer is not trusted")), item("b", day, hold("altered: x"), incomplete), item("c", 40*day)}, nil, map[string]string{
			"a": "kept: signer is not trusted", "b": "kept: altered: x", "c": "kept: last 1, newest good"}},
		{"workflows apart", retention.Policy{Last: 2}, []retention.Item{item("a", 0), item("b", hour, workflows), item("c", day), item("d", 2*day, workflows)}, nil, map[string]string{
			"a": "kept: last 2, newest good", "b": "kept: last 1, newest good", "c": "kept: last 2", "d": "removed: not among last 1"}},
		{"copied today", retention.Policy{Daily: 1}, []retention.Item{item("a", hour, made(2*day)), item("b", 2*hour, made(2*day+hour)), item("c", 2*hour, made(3*day)), item("d", 2*hour)}, nil, map[string]string{
			"a": "kept: newest good", "b": "kept: daily 2026-11-18 (stored 2026-11-20)", "c": "kept: daily 2026-11-17 (stored 2026-11-20)", "d": "kept: daily 2026-11-20, newest good by its own time"}},
		{"dates of the past push nothing out", retention.Policy{Daily: 2}, []retention.Item{item("fake", hour, made(day-10*time.Minute)), item("today", 2*hour), item("yesterday", day)}, nil, map[string]string{
			"fake": "kept: daily 2026-11-19 (stored 2026-11-20), newest good", "today": "kept: daily 2026-11-20, newest good by its own time", "yesterday": "kept: daily 2026-11-19"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, said(decide(c.items, c.policy, c.forgotten...))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDefaultOverAYear: a backup a night, pruned every noon.
func TestDefaultOverAYear(t *testing.T) {
	policy := retention.Policy{Daily: 30, Weekly: 14} // config.DefaultRetention
	var items []retention.Item
	for d := range 365 {
		at := now.Add(time.Duration(d) * day)
		stored := at.Add(-10 * hour)
		items = append(items, retention.Item{ID: fmt.Sprint(d), Kind: retention.Archives, Instance: "prod", Signer: "s", State: retention.Good, Key: "k", Created: stored, Stored: stored, Verified: stored})
		plan := retention.Decide(items, retention.Config{Now: at, Policies: map[retention.Kind]retention.Policy{retention.Archives: policy}})
		items = nil
		for _, i := range plan.Decisions {
			if i.Keep {
				items = append(items, i.Item)
			}
		}
		if len(plan.Proofs) > 0 {
			t.Fatalf("day %d: %v", d, plan.Proofs)
		}
	}
	oldest := items[len(items)-1]
	span := items[0].Stored.Sub(oldest.Stored)
	if len(items) < 38 || len(items) > 40 || span < 85*day || span > 91*day {
		t.Errorf("%d archives over %v", len(items), span)
	}
	for i := range 29 {
		if gap := items[i].Stored.Sub(items[i+1].Stored); gap != day {
			t.Errorf("gap of %v after %d days", gap, i)
		}
	}
}

func TestProofs(t *testing.T) {
	verified := func(i *retention.Item) { i.Verified = now }
	degraded := func(i *retention.Item) { i.State = retention.Degraded }
	other := func(i *retention.Item) { i.Signer = "s2" }
	key := func(k string) func(*retention.Item) { return func(i *retention.Item) { i.Key = k } }
	longAgo := func(i *retention.Item) { i.Verified = now.Add(-7*day - hour) }
	keyProof := func(k string, ids ...string) retention.Proof {
		return retention.Proof{Instance: "prod", Signer: "s1", Kind: retention.Archives, Key: k, Candidates: ids}
	}
	proof := func(signer string, ids ...string) []retention.Proof {
		return []retention.Proof{{Instance: "prod", Signer: signer, Kind: retention.Archives, Candidates: ids}}
	}
	for _, c := range []struct {
		name  string
		items []retention.Item
		want  []retention.Proof
	}{
		{"nothing goes", []retention.Item{item("a", 0)}, nil},
		{"nobody looked", []retention.Item{item("a", 0), item("b", day, degraded), item("c", 2*day)}, proof("s1", "a", "c")},
		{"looked this week", []retention.Item{item("a", 0), item("b", 7*day, verified), item("c", 8*day)}, nil},
		{"looked too long ago", []retention.Item{item("a", 0), item("b", 7*day+hour, verified), item("c", 8*day)}, proof("s1", "a", "b", "c")},
		{"none is good", []retention.Item{item("a", 0, degraded), item("b", day, degraded)}, proof("s1", "a", "b")},
		{"an old key", []retention.Item{item("a", 0, key("k2")), item("b", day), item("c", 2*day)}, append(proof("s1", "a", "b", "c"), keyProof("k1", "b", "c"))},
		{"an old key whose kept one was looked at", []retention.Item{item("a", 0, key("k2"), verified), item("b", day), item("c", 2*day, verified), item("d", 3*day)}, nil},
		{"an old key whose looked at one would go", []retention.Item{item("a", 0, key("k2"), verified), item("b", day, longAgo), item("c", 2*day, verified)}, []retention.Proof{keyProof("k1", "b", "c")}},
		{"an old key looked at too long ago", []retention.Item{item("a", 0, key("k2"), verified), item("b", day, longAgo), item("c", 2*day)}, []retention.Proof{keyProof("k1", "b", "c")}},
		{"of an old key nothing goes", []retention.Item{item("a", 0, key("k2")), item("b", day), item("c", 2*day, key("k2"))}, append(proof("s1", "a", "b", "c"), keyProof("k2", "a", "c"))},
		{"an old key without a good one", []retention.Item{item("a", 0, key("k2"), verified), item("b", day, degraded), item("c", 2*day, degraded)}, []retention.Proof{keyProof("k1", "b", "c")}},
		{"only where something goes", []retention.Item{item("a", 0), item("b", 0, other), item("c", day, other)}, proof("s2", "b", "c")},
	} {
		if diff := cmp.Diff(c.want, decide(c.items, retention.Policy{Last: 1}).Proofs); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	given := decide([]retention.Item{item("a", 0, key("k2"), verified), item("b", day), item("c", 2*day)}, retention.Policy{Last: 1}, "k1")
	if len(given.Proofs) > 0 || given.Decisions[2].Keep {
		t.Errorf("a key that was given up: %+v", given)
	}
}

func TestClock(t *testing.T) {
	const year = 365 * day
	for _, c := range []struct {
		name  string
		clock retention.Clock
		want  string // "" for plausible
	}{
		{"all as it should be", retention.Clock{Local: now, Target: now.Add(hour), Seen: now.Add(-day), Newest: now.Add(-hour)}, ""},
		{"nothing known", retention.Clock{Local: now}, ""},
		{"set back by a year, a target with a clock", retention.Clock{Local: now.Add(-year), Target: now}, "this host's clock says 2025-11-20 12:00 UTC, the target's 2026-11-20 12:00 UTC"},
		{"set forward by a year, a target with a clock", retention.Clock{Local: now.Add(year), Target: now}, "this host's clock says"},
		{"set back by a year, archives", retention.Clock{Local: now.Add(-year), Newest: now}, "the clock says 2025-11-20 12:00 UTC, but something in the target was stored on 2026-11-20 12:00 UTC: the clock was set back"},
		{"set back by a year, pruned before", retention.Clock{Local: now.Add(-year), Newest: now.Add(-2 * year), Seen: now}, "but the target was pruned on"},
		{"set forward by a year", retention.Clock{Local: now.Add(year), Newest: now.Add(-hour), Seen: now}, "the clock was set forward, or nothing was stored since"},
		{"pruned lately, nothing stored", retention.Clock{Local: now, Newest: now.Add(-year), Seen: now.Add(-day)}, ""},
		{"both clocks say so", retention.Clock{Local: now, Target: now, Newest: now.Add(-year), Seen: now.Add(-year)}, ""},
	} {
		got := c.clock.Implausible()
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	if got := (retention.Clock{Local: now, Target: now.Add(hour)}).Now(); !got.Equal(now.Add(hour)) {
		t.Error(got)
	}
}

func BenchmarkDecide10000(b *testing.B) {
	var items []retention.Item
	for i := range 10_000 {
		items = append(items, item(fmt.Sprint(i), time.Duration(i)*hour))
	}
	for b.Loop() {
		decide(items, retention.Policy{Hourly: 48, Daily: 30, Weekly: 13, Monthly: 24})
	}
}
