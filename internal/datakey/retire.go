package datakey

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// Retired is what Retire found and did.
type Retired struct {
	Key     Key
	At      time.Time // of the mark; zero of a plan
	Already bool      // it was retired before
	Listing *Listing
}

// PlanRetirement looks whether anything uses a key, and refuses what Retire refuses. With
// an error of kind CheckFailed the result says how many values use it.
func PlanRetirement(ctx context.Context, cfg Config, id string) (*Retired, error) {
	l, err := list(ctx, cfg, true)
	if err != nil {
		return nil, err
	}
	k := l.Key(id)
	if k == nil {
		return nil, problem.New(problem.NotFound, "there is no data key %q", id).WithHint("n8keep data-key list shows the ids")
	}
	r := &Retired{Key: *k, Already: !k.Retired.IsZero(), Listing: l}
	switch {
	case k.Legacy:
		return r, problem.New(problem.Usage, "%q is no data key: it holds the instance key, with which n8n reads un-prefixed values", id).
			WithHint("n8keep rotate instance replaces the instance key")
	case k.Status == "active":
		return r, problem.New(problem.Usage, "the data key %q is active: n8n encrypts with it", id).
			WithHint("n8keep data-key rotate makes another one active; then n8keep reencrypt --to active")
	case k.Values > 0:
		return r, problem.New(problem.CheckFailed, "the data key %q is still used by %s: %s", id, plural(k.Values, "value"), places(k.ByPlace)).
			WithHint("%s", hintFor(k.ByPlace))
	}
	if holes := l.holes(); len(holes) > 0 {
		return r, problem.New(problem.CheckFailed, "it cannot be proved that nothing uses the data key %q: %s", id, strings.Join(holes, "; ")).
			WithHint("a key that is not retired costs nothing: leave it as it is")
	}
	return r, nil
}

// Retire marks a key that nothing uses. Repeating it changes nothing.
func Retire(ctx context.Context, cfg Config, id string) (*Retired, error) {
	r, err := PlanRetirement(ctx, cfg, id)
	if err != nil || r.Already {
		if r != nil && r.Already {
			r.At = r.Key.Retired
		}
		return r, err
	}
	at := cfg.now().UTC().Truncate(time.Millisecond)
	if err := cfg.Marks.RetireDataKey(ctx, cfg.Instance, id, at); err != nil {
		return r, err
	}
	r.At, r.Key.Retired = at, at
	return r, nil
}

// holes are the values of which nobody can say that they do not need the key.
func (l *Listing) holes() (holes []string) {
	if n := l.Bundles.Elsewhere; n > 0 {
		holes = append(holes, plural(n, "execution")+" in S3 or Azure cannot be read")
	}
	if n := len(l.Bundles.Missing); n > 0 {
		holes = append(holes, fmt.Sprintf("the data of %s is not in n8n's storage folder", plural(int64(n), "execution")))
	}
	if l.unread > 0 {
		holes = append(holes, plural(l.unread, "value")+" cannot be read at all")
	}
	for _, u := range l.Unlisted {
		if u.Opened > 0 {
			holes = append(holes, fmt.Sprintf("%s in %s.%s, which n8keep does not know as a place of secrets, open under n8n's keys", plural(u.Opened, "value"), u.Table, u.Column))
		}
	}
	return holes
}

func (l *Listing) warn(census *n8ndb.Census) {
	for _, k := range l.Keys {
		switch {
		case !k.Opens:
			l.Warnings = append(l.Warnings, fmt.Sprintf("the instance key does not open the data key %q, and what is under it is lost without the key that does", k.ID))
		case k.Legacy && !k.Same:
			l.Warnings = append(l.Warnings, fmt.Sprintf("the legacy row %q holds another instance key than the one in use: n8n 2.39 and later cannot read what it writes with its key rotation flag off", k.ID))
		case !k.Retired.IsZero() && k.Values > 0:
			l.Warnings = append(l.Warnings, fmt.Sprintf("the data key %q was retired and is used again, by %s", k.ID, plural(k.Values, "value")))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.Missing)) {
		l.Warnings = append(l.Warnings, fmt.Sprintf("%s a data key %q that the database does not have", plural(l.Missing[id], "value")+" name", id))
	}
	var active int
	var keys int
	for _, k := range l.Keys {
		if !k.Legacy {
			keys++
			if k.Status == "active" {
				active++
			}
		}
	}
	if keys > 0 && active != 1 {
		l.Warnings = append(l.Warnings, fmt.Sprintf("%d data keys are active; n8n needs exactly one to encrypt with", active))
	}
	if census.Unproved > 0 {
		l.Warnings = append(l.Warnings, fmt.Sprintf("%s open with a data key that is stored in clear (n8n 2.18): whoever has the database reads them", plural(census.Unproved, "value")))
	}
}

func hintFor(by map[n8ndb.PlaceID]int64) string {
	const start = "n8keep reencrypt --to active"
	for id := range by {
		if p, ok := n8ndb.Catalogued(id); ok && (p.Container == n8ndb.Flatted || p.Container == n8ndb.Bundle) {
			return start + " --executions all moves them to the active key; the data of finished executions is also removed by n8n's own pruning"
		}
	}
	return start + " moves them to the active key"
}

func places(by map[n8ndb.PlaceID]int64) string {
	var list []string
	for _, p := range n8ndb.Catalogue() {
		if n := by[p.ID]; n > 0 {
			list = append(list, fmt.Sprintf("%d in %s", n, p.ID))
		}
	}
	return strings.Join(list, ", ")
}

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
