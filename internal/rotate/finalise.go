package rotate

import (
	"context"

	"github.com/n8keep/n8keep/internal/problem"
)

// Finalise ends a verified rotation and destroys what could undo it. Before that it
// proves the live database under the new key once more, and takes the fresh backup:
// what fails there leaves the rotation as it was.
func Finalise(ctx context.Context, cfg Config, hooks FinaliseHooks) (*Result, error) {
	e, err := open(cfg)
	if err != nil {
		return nil, err
	}
	defer e.unlock()
	return e.result(e.finalise(ctx, hooks))
}

func (e *engine) finalise(ctx context.Context, hooks FinaliseHooks) error {
	switch s := e.j.State; s {
	case Finalised:
		return nil
	case RolledBack, Abandoned:
		return problem.New(problem.Usage, "rotation %q is over: it is %s", e.j.ID, s)
	case Finalising:
		if e.j.Wrapped != nil {
			// The keyring gets both keys: they are proved here as they were in the beginning.
			if err := e.unwrap(); err != nil {
				return err
			}
			if err := e.needKeys(true, true); err != nil {
				return err
			}
		}
		return e.destroy(ctx, hooks)
	case Verified:
	default:
		return problem.New(problem.Usage, "rotation %q is not verified: it is %s", e.j.ID, s)
	}
	if err := e.unwrap(); err != nil {
		return err
	}
	if err := e.needKeys(false, true); err != nil {
		return err
	}
	if err := e.filesHoldNew(); err != nil {
		return err
	}
	if e.cfg.KeyPlaces != nil {
		if err := e.cfg.KeyPlaces(ctx, false); err != nil {
			return err
		}
	}
	if err := e.step(ctx, StepVerify, func() (string, string, error) { return e.verify(ctx) }); err != nil {
		return err
	}
	err := e.step(ctx, StepFinalise, func() (string, string, error) {
		if hooks.Backup == nil {
			return Done, "no fresh backup", nil
		}
		var ref BackupRef
		err := e.do("fresh-backup", "", func() (err error) {
			ref, err = hooks.Backup(ctx)
			return err
		})
		if err != nil {
			return "", "", err
		}
		e.j.Fresh = &ref
		return Done, ref.ID, nil
	})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.to(Finalising); err != nil {
		return err
	}
	return e.destroy(ctx, hooks)
}

// destroy ends it. The keyring comes first: without it the old key could be lost
// together with the journal. Once that has none, the keyring has it.
func (e *engine) destroy(ctx context.Context, hooks FinaliseHooks) error {
	if hooks.Keyring != nil && e.j.Wrapped != nil {
		if err := e.do("keyring", "", func() error { return hooks.Keyring(ctx) }); err != nil {
			return err
		}
	}
	e.j.Wrapped = nil
	if err := e.save(); err != nil {
		return err
	}
	if err := e.removeFiles(); err != nil {
		return err
	}
	return e.to(Finalised)
}
