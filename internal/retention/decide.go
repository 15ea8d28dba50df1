package retention

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// group is what one policy is counted over.
type group struct {
	instance, signer string
	kind             Kind
}

// decider collects reasons to keep, by id.
type decider struct {
	Config
	counted map[group][]Item // newest first
	order   []group
	reasons map[string][]string
	removed map[string]string
}

// Decide applies the policies. Items have distinct ids.
func Decide(items []Item, cfg Config) Plan {
	d := &decider{Config: cfg, counted: map[group][]Item{}, reasons: map[string][]string{}, removed: map[string]string{}}
	items = slices.Clone(items)
	slices.SortFunc(items, newerFirst)
	for _, i := range items {
		switch {
		case i.Hold != "":
			d.keep(i, i.Hold)
		case i.State == Incomplete:
			d.incomplete(i)
		default:
			g := group{i.Instance, i.Signer, i.Kind}
			if d.counted[g] == nil {
				d.order = append(d.order, g)
			}
			d.counted[g] = append(d.counted[g], i)
		}
	}
	for _, g := range d.order {
		d.apply(g)
	}
	var plan Plan
	for _, i := range items {
		plan.Decisions = append(plan.Decisions, d.decision(i))
	}
	for _, g := range d.order {
		plan.Proofs = append(plan.Proofs, d.proofs(g)...)
	}
	return plan
}

// newerFirst orders by the target's time; archives that it got at the same time,
// as copies may be, by their own.
func newerFirst(a, b Item) int {
	return cmp.Or(b.Stored.Compare(a.Stored), b.Created.Compare(a.Created), strings.Compare(b.ID, a.ID))
}

func (d *decider) keep(i Item, reason string) {
	d.reasons[i.ID] = append(d.reasons[i.ID], reason)
}

func (d *decider) incomplete(i Item) {
	if d.Now.Sub(i.Stored) < incompleteAge {
		d.keep(i, "incomplete, younger than 24 hours")
		return
	}
	d.removed[i.ID] = "incomplete since " + i.Stored.UTC().Format("2006-01-02 15:04")
}

func (d *decider) apply(g group) {
	list := d.counted[g]
	policy := d.Policies[g.kind]
	for _, r := range policy.rules() {
		if r.period == nil {
			for _, i := range list[:min(r.count, len(list))] {
				d.keep(i, fmt.Sprintf("last %d", r.count))
			}
			continue
		}
		d.periods(list, r)
	}
	d.newest(list)
	if g.kind == Archives {
		d.keys(list)
	}
	for _, i := range list {
		if d.reasons[i.ID] == nil {
			d.removed[i.ID] = "not among " + policy.String()
		}
	}
}

// slot is a period of the target's clock and, within it, one of the archives' own.
type slot struct{ stored, created string }

func (d *decider) periods(list []Item, r rule) {
	seen := map[string]bool{}
	best := map[slot]Item{}
	for _, i := range list {
		s := slot{r.period(i.Stored), r.period(i.Stored)}
		if i.Stored.Sub(i.Created).Abs() > Tolerance {
			s.created = r.period(i.Created)
		}
		if !seen[s.stored] && len(seen) >= r.count {
			continue // of the same stored period there may be more
		}
		seen[s.stored] = true
		// A good archive is better than a degraded one, whichever is newer. Of copies
		// of one period the first that was stored stays: nothing that is put today may
		// displace what was there, whatever dates it claims.
		b, ok := best[s]
		if !ok || i.State < b.State || i.State == b.State && s.created != s.stored && i.Stored.Before(b.Stored) {
			best[s] = i
		}
	}
	for s, i := range best {
		reason := r.name + " " + s.created
		if s.created != s.stored {
			reason += " (stored " + s.stored + ")"
		}
		d.keep(i, reason)
	}
}

// newest keeps what is kept whatever the policy says.
func (d *decider) newest(list []Item) {
	good := only(list, func(i Item) bool { return i.State == Good })
	if len(good) == 0 {
		d.keep(list[0], "newest, and none is good")
		return
	}
	d.keep(good[0], "newest good")
	// A copied collection may have been stored in any order.
	if own := slices.MaxFunc(good, func(a, b Item) int {
		return cmp.Or(a.Created.Compare(b.Created), a.Stored.Compare(b.Stored), strings.Compare(a.ID, b.ID))
	}); own.ID != good[0].ID {
		d.keep(own, "newest good by its own time")
	}
	if proved := only(good, verified); len(proved) > 0 && proved[0].ID != good[0].ID {
		d.keep(proved[0], "newest good that was verified here")
	}
}

func verified(i Item) bool { return !i.Verified.IsZero() }

// keyed are the archives of each key that somebody may still have, newest first.
func (d *decider) keyed(list []Item) (keys []string, of map[string][]Item) {
	of = map[string][]Item{}
	for _, i := range list {
		if i.Key == "" || slices.Contains(d.ForgottenKeys, i.Key) {
			continue
		}
		if of[i.Key] == nil {
			keys = append(keys, i.Key)
		}
		of[i.Key] = append(of[i.Key], i)
	}
	return keys, of
}

// keys keeps of each key the newest archive, which only its sidecar may call good,
// and the newest that was found sound here.
func (d *decider) keys(list []Item) {
	keys, of := d.keyed(list)
	for _, key := range keys {
		switch i := best(of[key]); {
		case d.reasons[i.ID] != nil: // it stays anyway
		case len(of[key]) == 1:
			d.keep(i, "the only one that key "+key+" opens")
		default:
			d.keep(i, "the newest that key "+key+" opens")
		}
		if proved := only(of[key], verified); len(proved) > 0 {
			if i := best(proved); d.reasons[i.ID] == nil {
				d.keep(i, "the newest that was verified here and key "+key+" opens")
			}
		}
	}
}

// best is the newest good one, or the newest if none is good.
func best(list []Item) Item { return goodOrAll(list)[0] }

func goodOrAll(list []Item) []Item {
	if good := only(list, func(i Item) bool { return i.State == Good }); len(good) > 0 {
		return good
	}
	return list
}

func (d *decider) decision(i Item) Decision {
	switch reasons := d.reasons[i.ID]; {
	case len(reasons) > 0:
		return Decision{Item: i, Keep: true, Reason: strings.Join(reasons, ", ")}
	case i.LockedUntil.After(d.Now):
		return Decision{Item: i, Keep: true, Reason: "locked until " + i.LockedUntil.UTC().Format(time.RFC3339)}
	}
	return Decision{Item: i, Reason: d.removed[i.ID]}
}

// proofs are what the group as a whole needs, then each of its keys.
func (d *decider) proofs(g group) []Proof {
	list := d.counted[g]
	if !d.loses(list) {
		return nil
	}
	var proofs []Proof
	good := goodOrAll(list)
	if proved := only(good, verified); len(proved) == 0 || good[0].Stored.Sub(proved[0].Stored) > proofAge {
		proofs = append(proofs, Proof{Instance: g.instance, Signer: g.signer, Kind: g.kind, Candidates: ids(good)})
	}
	if g.kind != Archives {
		return proofs
	}
	keys, of := d.keyed(list)
	for _, key := range keys {
		good := goodOrAll(of[key])
		p := Proof{Instance: g.instance, Signer: g.signer, Kind: g.kind, Key: key, Candidates: ids(good)}
		switch {
		case !d.loses(of[key]):
		case slices.ContainsFunc(good, d.provedLately):
		case len(proofs) > 0 && slices.Equal(proofs[0].Candidates, p.Candidates): // it demands the same
		default:
			proofs = append(proofs, p)
		}
	}
	return proofs
}

func (d *decider) loses(list []Item) bool {
	return slices.ContainsFunc(list, func(i Item) bool { return !d.decision(i).Keep })
}

// provedLately says that i stays and was found sound within the last days. Archives
// of a key that is no longer in use become no newer, so here the time of the look
// counts: what was sound years ago may have rotted.
func (d *decider) provedLately(i Item) bool {
	return verified(i) && d.Now.Sub(i.Verified).Abs() <= proofAge && d.decision(i).Keep
}

func ids(list []Item) []string {
	var out []string
	for _, i := range list {
		out = append(out, i.ID)
	}
	return out
}

func only(list []Item, want func(Item) bool) []Item {
	var out []Item
	for _, i := range list {
		if want(i) {
			out = append(out, i)
		}
	}
	return out
}
