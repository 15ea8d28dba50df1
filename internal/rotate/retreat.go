package rotate

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	// patience is how long a database is tried again that somebody uses in passing.
	patience = 30 * time.Second
	// wayBack bounds what is done after a failure, or after Ctrl-C, to have n8n run again.
	wayBack = 15 * time.Minute
)

// wait is the Wait of a Config that has none.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// patiently opens a database for changing. Once n8keep has stopped n8n, whoever has the
// database for a moment, a backup, a census, a session that is just ending, is no reason
// to have n8n down for nothing: it is tried again. Where the user stops n8n, what has
// the database is what was forgotten, and is said at once.
func (e *engine) patiently(ctx context.Context, open func() error) error {
	begun, waited, next := e.cfg.Now(), time.Duration(0), 100*time.Millisecond
	for {
		err := open()
		left := patience - max(waited, e.cfg.Now().Sub(begun))
		if problem.KindOf(err) != problem.Busy || !e.j.stoppedByUs() || left <= 0 {
			return err
		}
		if waited == 0 {
			e.cfg.Logger.Info("the database is in use, and is tried again", "rotation", e.j.ID)
		}
		next = min(next, left)
		if err := e.cfg.Wait(ctx, next); err != nil {
			return err
		}
		waited += next
		next = min(2*next, 5*time.Second)
	}
}

// giveUp is what becomes of a rotation that has failed while n8n is stopped, and has
// changed nothing: where n8keep has stopped n8n, it starts it again with the key that it
// had, and the rotation ends. What cannot be done of that is in the error, and the
// rotation can be gone on with.
func (e *engine) giveUp(ctx context.Context, cause error) error {
	if e.distrust || !e.mayStart() || e.j.State != Preparing && e.j.State != Applying {
		return cause
	}
	return e.retreat(ctx, cause, func(ctx context.Context) error {
		if err := e.nothingCommitted(ctx); err != nil {
			return err
		}
		// What is staged harms nobody, and n8n is started in any case.
		if err := errors.Join(e.startAgain(ctx, e.cfg.Old.Key), e.discard()); err != nil {
			return err
		}
		return e.endBack(Abandoned)
	})
}

// stay is giveUp for a rollback: n8n goes on with the new key, which the database has.
func (e *engine) stay(ctx context.Context, cause error) error {
	if !e.mayStart() || e.j.State != RollingBack || e.j.From == "" {
		return cause
	}
	return e.retreat(ctx, cause, func(ctx context.Context) error {
		err := errors.Join(e.startAgain(ctx, e.cfg.New.Key), e.discardBundles(), e.removeFile(undoName))
		if err != nil {
			return err
		}
		undone, from := e.j.Undone, e.j.From
		e.j.Undone, e.j.From = nil, ""
		if err := e.to(from); err != nil {
			e.j.Undone, e.j.From = undone, from
			return err
		}
		return nil
	})
}

// retreat goes back in spite of Ctrl-C, which may be what has brought it here. A second
// one kills the process, which is safe at any point.
func (e *engine) retreat(ctx context.Context, cause error, back func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wayBack)
	defer cancel()
	e.anyway = true
	defer func() { e.anyway = false }()
	err := back(ctx)
	if err == nil {
		return cause
	}
	e.cfg.Logger.Warn("n8n could not be given back as it was", "rotation", e.j.ID)
	kind, msg, hint := problem.KindOf(cause), cause.Error(), problem.HintOf(cause)
	if errors.Is(cause, context.Canceled) {
		kind, msg = problem.Interrupted, "interrupted"
	}
	p := problem.New(kind, "%s; and then, on the way back: %v", msg, err)
	for _, h := range []string{hint, problem.HintOf(err)} {
		if h != "" {
			p = p.WithHint("%s", h)
		}
	}
	return p
}

// mayStart: n8keep can start n8n, and it was not the user who has stopped it.
func (e *engine) mayStart() bool {
	s := e.j.lastSwitch()
	return e.cfg.Service != nil && s != nil && s.Result != ByUser
}

// startAgain starts n8n on the way back, if it would start with this key.
func (e *engine) startAgain(ctx context.Context, key n8ncrypt.InstanceKey) error {
	other, err := e.otherKeyFile(key)
	if err != nil {
		return err
	}
	if other != "" {
		return problem.New(problem.CheckFailed, "n8n was not started again: %q holds another key than the database", other).
			WithHint("somebody has changed it: put the right key there, and go on")
	}
	return e.start(ctx, StepRollbackStart)
}

// nothingCommitted asks the database whether it has its old values, where only the
// journal says so, which may be an older copy of itself: what is removed now is the only
// way back of a database that has the new ones. A rotation that comes from no earlier
// command needs no answer.
func (e *engine) nothingCommitted(ctx context.Context) error {
	if e.unspent {
		return nil
	}
	_, err := os.Lstat(filepath.Join(e.j.dir, rowsName))
	if e.j.Attempt == 0 && errors.Is(err, fs.ErrNotExist) {
		e.unspent = true
		return nil
	}
	if e.cfg.Old.Key.IsZero() {
		if e.cfg.Old.Key, err = e.j.OldKey(e.cfg.New.Key); err != nil {
			return err
		}
	}
	t, err := e.countLive(ctx)
	switch {
	case err != nil:
		return err
	case e.cfg.New.Key.IsZero() && t.closed > 0:
		return e.needKeys(false, true) // these may be under the new key
	case t.new > e.j.FoundNew:
		return e.committedAfterAll(t)
	case t.old == 0 && e.proveRecords(rowsName, e.j.Attempt) == nil:
		// Where every secret stands in clear no census tells old from new.
		if err := e.stop(ctx, StepRollbackStop); err != nil {
			return err
		}
		untouched, err := e.untouched(ctx)
		if err != nil {
			return err
		}
		if !untouched {
			err := e.committedAfterAll(t)
			if e.mayStart() {
				err = errors.Join(err, e.startAgain(ctx, e.cfg.New.Key))
			}
			return err
		}
	}
	e.unspent = true
	return nil
}

// countLive is count of the live database. One that a killed process has left in the
// middle of a write can only be read by who may write, and nobody else has it open.
func (e *engine) countLive(ctx context.Context) (t tally, err error) {
	db, err := e.cfg.Read(ctx)
	if problem.KindOf(err) == problem.Usage {
		if err := e.stop(ctx, StepRollbackStop); err != nil {
			return t, err
		}
		w, err := e.write(ctx)
		if err != nil {
			return t, err
		}
		t, err = e.count(ctx, w.DB, e.j.Choices.Executions)
		return t, errors.Join(err, w.Close())
	}
	if err != nil {
		return t, err
	}
	if err = e.recognise(ctx, db); err == nil {
		t, err = e.count(ctx, db, e.j.Choices.Executions)
	}
	return t, errors.Join(err, db.Close())
}

// committedAfterAll refuses a journal that is older than its database.
func (e *engine) committedAfterAll(t tally) error {
	e.distrust = true
	p := problem.New(problem.Damaged, "the journal says that nothing was committed, and the database has %d values under the new key and %d under the old one: "+
		"the journal is older than the database", t.new, t.old).
		WithHint("nothing was removed; put the %s back that was there last, from the newest copy of %q, and go on", journalName, e.j.dir)
	if t.old == 0 {
		return p.WithHint("if there is none, stay with the new key %s, which opens every value: see that n8n's config has it, and move that folder out of the state folder", e.j.New.Fingerprint)
	}
	if b := e.j.Backup; b != nil {
		return p.WithHint("if there is none, keep n8n stopped; the backup of before the rotation is %q in %s", b.ID, b.Target)
	}
	return p.WithHint("if there is none, keep n8n stopped, and both keys")
}
