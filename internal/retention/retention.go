// Package retention decides which archives of a target stay and which go. It is a
// pure function: it reads no clock, no target and no file, and the same items and
// policy give the same decisions.
//
// The policy is counted per instance, signer and kind, in periods of UTC (hours,
// days, ISO weeks, months, years) that have an archive: "daily 30" keeps the
// newest of each of the last 30 days on which there is one. Periods without an
// archive do not count, so when backups stop, nothing goes; no wrong clock of this
// host makes an archive go either.
//
// The age of an archive is the target's own time of it. What a sidecar says would
// be an invitation: whoever took over the n8n host could sign worthless archives
// with the dates of the past, and let the policy prefer them to the real ones.
// Archives that were copied to a target have a time there that is later than their
// own; those of one stored period stay apart by their own periods, and of each the
// first that was stored stays. So a copied collection is thinned much as it would
// have been where it came from, while nothing that is put today can displace what
// was put on days before, whatever dates it claims. Only "last" and "hourly" can
// be outrun by many archives in a short time.
//
// Whatever the policy says, these stay: the newest good archive, also when the
// target's order and the archives' own differ; the newest good one that was
// verified on the pruner's side; the newest that each known key opens, and the
// newest of these that was verified on the pruner's side; what is locked; what another signer signed, what was altered, damaged or cut, because
// somebody should look at it; what is incomplete and younger than a day.
package retention

import (
	"fmt"
	"strings"
	"time"
)

// Kind separates what is counted apart.
type Kind string

// The kinds.
const (
	Archives  Kind = "archives"  // with a database
	Workflows Kind = "workflows" // portable exports, without a secret
)

// State is what an archive is.
type State int

// The states. Good and degraded are what the signed sidecar says.
const (
	Good State = iota + 1
	Degraded
	Incomplete // without a sidecar
)

// Item is one archive of a target.
type Item struct {
	ID       string
	Kind     Kind
	Instance string
	Signer   string // its fingerprint
	State    State
	Key      string // fingerprint of the instance key; "" for none
	Created  time.Time
	Stored   time.Time // the target's clock
	// LockedUntil is when the target lets it be deleted; zero for now.
	LockedUntil time.Time
	// Verified is when it was last found sound on the pruner's side; zero for never,
	// or when it was found damaged since.
	Verified time.Time
	// Hold says why nobody but a person may remove it: unknown signer, altered,
	// damaged. It is not counted either. "" for nothing.
	Hold string
}

// Policy counts periods. Of each, one archive is kept, and what any rule keeps
// stays. The zero value keeps only what always stays.
type Policy struct{ Last, Hourly, Daily, Weekly, Monthly, Yearly int }

// String is the policy in words: "daily 30, weekly 13".
func (p Policy) String() string {
	var parts []string
	for _, r := range p.rules() {
		if r.count > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", r.name, r.count))
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// Config is what decisions depend on besides the items.
type Config struct {
	Now      time.Time // the target's clock where it can be asked
	Policies map[Kind]Policy
	// ForgottenKeys are fingerprints of instance keys that nobody has any more, or
	// wants to have: their last archives may go.
	ForgottenKeys []string
}

// Decision is what happens to one item.
type Decision struct {
	Item
	Keep   bool
	Reason string // "daily 2026-11-20, weekly 2026-W47", "locked until ...", "beyond daily 30, weekly 13"
}

// String is the decision in words.
func (d Decision) String() string {
	if d.Keep {
		return "kept: " + d.Reason
	}
	return "removed: " + d.Reason
}

// Plan is the decisions about all items, newest first, and what has to be proved
// before they may be carried out.
type Plan struct {
	Decisions []Decision
	Proofs    []Proof
}

// Proof is demanded for a group of which something is removed while its newest
// good archives were not verified here: one of Candidates has to be found sound
// first. It then stays, whatever the decision about it; if none is sound, nothing
// of the group may be removed. With a Key it is about the archives of the group
// that this key opens, all of Candidates being such: it is demanded when one of
// them is removed and none that stays was found sound here within a week.
type Proof struct {
	Instance   string
	Signer     string
	Kind       Kind
	Key        string   // fingerprint; "" for the whole group
	Candidates []string // ids, newest first
}

// Same reports whether an item is of the group, and of the key, that p is about.
func (p Proof) Same(i Item) bool {
	return i.Instance == p.Instance && i.Signer == p.Signer && i.Kind == p.Kind && (p.Key == "" || i.Key == p.Key)
}

const (
	// Tolerance is how far the target's time of an archive and its own may differ
	// before they count as different; a long backup differs by less.
	Tolerance = time.Hour
	// incompleteAge is how long an archive may be without its sidecar.
	incompleteAge = 24 * time.Hour
	// proofAge is how much older than the newest good archive the newest verified
	// one may be, so that a daily prune does not read an archive every day, and how
	// long ago one of a key may have been looked at.
	proofAge = 7 * 24 * time.Hour
)
