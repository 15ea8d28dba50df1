package restore

import (
	"context"
	"strings"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// holding keeps everybody else out of a database until release. The zero value
// holds nothing.
type holding struct {
	held    *n8ndb.Held
	damaged error // why the database cannot be read; it may then not be held
}

type holdOptions struct {
	healthURL     string
	assumeStopped bool
	damagedToo    bool // a database that cannot be opened is not in use: we wrote it, or judged it before
}

// hold makes sure that nobody is attached. A database that is none cannot be
// asked: somebody has to say that n8n is stopped.
func hold(ctx context.Context, path string, o holdOptions) (*holding, error) {
	held, err := n8ndb.Hold(ctx, path, n8ndb.HoldConfig{HealthURL: o.healthURL, AssumeStopped: o.assumeStopped})
	if err == nil {
		return &holding{held: held}, nil
	}
	if problem.KindOf(err) != problem.Damaged {
		return nil, err
	}
	if !o.assumeStopped && !o.damagedToo {
		return nil, stoppedUnknown(err)
	}
	return &holding{damaged: err}, nil
}

// unheld decides whether to go on with a database that is damaged and could not
// be held again.
func unheld(again, damaged error, o holdOptions) error {
	switch {
	case again == nil:
		return nil
	case problem.KindOf(again) == problem.Busy:
		return again
	case o.assumeStopped:
		return nil
	}
	return stoppedUnknown(damaged)
}

func stoppedUnknown(err error) error {
	return problem.Wrap(problem.Usage, err, "it cannot be found out whether n8n is stopped, because its database cannot be read").
		WithHint("stop n8n and all its workers, then add --assume-stopped; the damaged database is kept beside the restored one")
}

// holdAlone is hold with everything of the database in its one file.
func holdAlone(ctx context.Context, path string, o holdOptions) (*holding, error) {
	h, err := hold(ctx, path, o)
	if err != nil || h.damaged != nil {
		return h, err
	}
	if err := h.held.FinishWAL(ctx); err != nil {
		if problem.KindOf(err) != problem.Damaged {
			h.release()
			return nil, err
		}
		if err := unheld(h.held.Retake(), err, o); err != nil {
			h.release()
			return nil, err
		}
		h.damaged = err
	}
	return h, nil
}

// unchecked says what could not be checked.
func (h *holding) unchecked() string {
	if h.held == nil || len(h.held.Unchecked) == 0 {
		return ""
	}
	return "taken for stopped, as told: " + strings.Join(h.held.Unchecked, "; ")
}

func (h *holding) release() error {
	if h.held == nil {
		return nil
	}
	return h.held.Release()
}

// sound runs SQLite's integrity check. Rows that refer to missing ones are no
// damage: n8n lives with them, and the archive has them too.
func sound(ctx context.Context, path string, flt faults) ([]string, error) {
	check := n8ndb.CheckIntegrity
	if flt.integrity != nil {
		check = flt.integrity
	}
	found, err := check(ctx, path)
	return found.Problems, err
}
