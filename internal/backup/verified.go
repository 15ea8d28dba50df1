package backup

import (
	"context"
	"slices"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/state"
)

// Checked is what verifications on this side showed of an archive.
type Checked struct {
	Sound   time.Time // when it was last found sound; zero for never, or when it is damaged
	Level   Level     // how deep that was
	Damaged time.Time // when it was found damaged; zero when it was not, or was found sound since
}

// CheckedOf sums up what is remembered of the archive that s describes. Damage is
// only made up for by a later look that was at least as deep.
func CheckedOf(remembered []state.Verification, s archive.Sidecar) Checked {
	var c Checked
	deepest := Level(-1)
	newestFirst := slices.Clone(remembered)
	slices.SortStableFunc(newestFirst, func(a, b state.Verification) int { return b.Time.Compare(a.Time) })
	for _, v := range newestFirst {
		level, err := ParseLevel(v.Level)
		if err != nil || v.SHA256 != s.SHA256 {
			continue // of a newer n8keep, or of another archive that had this id
		}
		switch {
		case v.Outcome == state.Sound:
			if c.Sound.IsZero() {
				c.Sound, c.Level = v.Time, level
			}
			deepest = max(deepest, level)
		case v.Outcome == state.Damaged && level > deepest && c.Damaged.IsZero():
			c.Damaged = v.Time
		}
	}
	if !c.Damaged.IsZero() {
		c.Sound, c.Level = time.Time{}, Quick
	}
	return c
}

// Remember records what a verification of the archive that s describes came to. A
// wrong key, a missing identity and a target that does not answer say nothing of
// the archive and are not recorded.
func Remember(ctx context.Context, db *state.DB, target string, s archive.Sidecar, level Level, now time.Time, outcome error) error {
	v := state.Verification{Archive: string(s.ID), Level: level.String(), SHA256: s.SHA256, Time: now, Outcome: state.Sound}
	switch {
	case problem.KindOf(outcome) == problem.Damaged:
		v.Outcome = state.Damaged
	case outcome != nil:
		return nil
	}
	// A cancelled command has learnt something, too.
	return db.RecordVerification(context.WithoutCancel(ctx), target, v)
}
