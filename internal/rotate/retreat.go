package rotate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

const (
	// patience is how long a database is tried again that somebody uses in passing.
	patience = 30 * time.Second
	// wayBack bounds what is done after a failure, or after Ctrl-C, to have n8n run again.
	wayBack = 15 * time.Minute
)

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

// giveUp is what becomes of a rotation that has failed, and has changed nothing: where
// n8keep has stopped n8n, it starts it again with the key that it had, and the rotation
// ends. What cannot be done of that is in the error, and the rotation can be gone on with.
func (e *engine) giveUp(ctx context.Context, cause error) error {
	switch {
	case e.distrust, e.j.State != Preparing && e.j.State != Applying:
		return cause
	case e.j.lastSwitch() == nil:
		return e.drop(ctx, cause)
	case !e.mayStart():
		return cause
	}
	return e.retreat(ctx, cause, func(ctx context.Context) error {
		// What is staged harms nobody, and n8n is started in any case.
		if err := errors.Join(e.startAgain(ctx, true), e.discard()); err != nil {
			return err
		}
		e.j.forget()
		return e.endBack(Abandoned)
	})
}

// drop ends a rotation that has failed before n8n was stopped: there is nothing to go on
// with, unless it was interrupted.
func (e *engine) drop(ctx context.Context, cause error) error {
	if ctx.Err() != nil || errors.Is(cause, context.Canceled) {
		return cause
	}
	if e.discard() != nil || e.endBack(Abandoned) != nil {
		e.cfg.Logger.Warn("a rotation that changed nothing could not be ended", "rotation", e.j.ID)
	}
	return cause
}

// stay is giveUp for a rollback: n8n goes on with the new key, which the database has.
func (e *engine) stay(ctx context.Context, cause error) error {
	if !e.mayStart() || e.j.State != RollingBack || e.j.From == "" {
		return cause
	}
	return e.retreat(ctx, cause, func(ctx context.Context) error {
		err := errors.Join(e.startAgain(ctx, false), e.discardBundles(), e.removeFile(undoName))
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

// startAgain starts n8n on the way back, if it is known to start with this key. Where
// the key is set in a place that n8keep does not change, somebody may have changed it for
// the rotation, as they were told to: n8n would write with a key that is not the database's.
func (e *engine) startAgain(ctx context.Context, back bool) error {
	if err := e.startsWith(ctx, back); err != nil {
		return err
	}
	if places := e.j.KeyElsewhere; len(places) > 0 {
		record, then := e.j.New, "start it yourself"
		if back {
			record = e.j.Old
			then = fmt.Sprintf("go back with \"n8keep rotate rollback %s\", which starts it", e.j.ID)
		}
		return problem.New(problem.CheckFailed, "n8n was not started again: its key is set in %s, where n8keep does not change it, and may be another one than the database's", strings.Join(places, ", ")).
			WithHint("to have n8n run again, put the key %s there, then %s", record.Fingerprint, then)
	}
	return e.startStopped(ctx, back)
}

// startsWith refuses to start n8n where it is seen to take another key than the
// database has: the old one with back, else the new one.
func (e *engine) startsWith(ctx context.Context, back bool) error {
	key := e.cfg.New.Key
	if back {
		key = e.cfg.Old.Key
	}
	if !key.IsZero() {
		other, err := e.otherKeyFile(key)
		if err != nil {
			return err
		}
		if other != "" {
			return problem.New(problem.CheckFailed, "n8n was not started again: %q holds another key than the database", other).
				WithHint("somebody has changed it: put the right key there, and go on")
		}
	}
	if e.cfg.KeyPlaces == nil {
		return nil
	}
	return e.cfg.KeyPlaces(ctx, back)
}

// startStopped starts n8n. A stop that was cut short may still be under way without us,
// as docker goes on with it: the start would find n8n running, which then ends. So that
// stop is waited for first; n8n is started whatever it says.
func (e *engine) startStopped(ctx context.Context, back bool) error {
	if s := e.j.lastSwitch(); s != nil && s.stops() && s.Result != Done && s.Result != ByUser {
		if e.stop(ctx, StepRollbackStop) != nil {
			e.cfg.Logger.Warn("n8n is started without having been seen to stop", "rotation", e.j.ID)
		}
	}
	return e.start(ctx, StepRollbackStart, back)
}

// nothingCommitted asks the database whether it has its old values, where only the
// journal says so, which may be an older copy of itself: what is removed now is the only
// way back of a database that has the new ones. A rotation that comes from no earlier
// command needs no answer. An n8n that was stopped for the question does not stay so
// for an error.
func (e *engine) nothingCommitted(ctx context.Context) error {
	steps := len(e.j.Steps)
	err := e.askUncommitted(ctx)
	if err == nil || len(e.j.Steps) == steps || !e.mayStart() {
		return err
	}
	return e.retreat(ctx, err, func(ctx context.Context) error {
		if e.distrust {
			return e.startAgain(ctx, false)
		}
		return e.startAgain(ctx, true)
	})
}

func (e *engine) askUncommitted(ctx context.Context) error {
	if e.unspent {
		return nil
	}
	_, err := os.Lstat(filepath.Join(e.j.dir, rowsName))
	none := errors.Is(err, fs.ErrNotExist)
	if err := e.findOldKey(); err != nil {
		return err
	}
	t, err := e.countLive(ctx)
	switch {
	case err != nil:
		return e.withoutDatabase(err)
	case e.cfg.New.Key.IsZero() && t.closed > 0:
		return e.needKeys(false, true) // these may be under the new key
	case t.new > e.j.FoundNew:
		return e.committedAfterAll(t)
	case t.old == 0 && !none:
		if err := e.nothingWritten(ctx, t); err != nil {
			return err
		}
	}
	e.unspent = true
	return nil
}

// findOldKey takes the old key from the journal where it was not given.
func (e *engine) findOldKey() (err error) {
	if e.cfg.Old.Key.IsZero() {
		e.cfg.Old.Key, err = e.j.OldKey(e.cfg.New.Key)
	}
	return err
}

// nothingWritten asks the pre-images, column by column, where every secret stands in
// clear and no census tells old from new. They may be of an attempt before the journal's,
// or of one that a journal which is older than they are knows nothing of.
func (e *engine) nothingWritten(ctx context.Context, t tally) error {
	attempt, err := e.attemptOf(rowsName)
	if err != nil {
		e.distrust = true
		return e.withoutPreimages(err)
	}
	if err := e.needKeys(false, true); err != nil {
		return err
	}
	if err := e.stop(ctx, StepRollbackStop); err != nil {
		return err
	}
	had := e.j.Attempt
	e.j.Attempt = attempt
	w, clean, err := e.ask(ctx, e.j.Choices.Executions, func(o outcome) (bool, error) {
		return o.After+o.made == 0 && (o.Before > 0 || o.Other+o.Gone == 0), nil
	})
	e.j.Attempt = max(had, attempt)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if !clean {
		return e.committedAfterAll(t)
	}
	return nil
}

// withoutDatabase adds to an error about a database that is lost what is left to do: a
// restore is refused as long as the rotation has not ended.
func (e *engine) withoutDatabase(err error) error {
	if kind := problem.KindOf(err); kind != problem.NotFound && kind != problem.Damaged {
		return err
	}
	p := &problem.Error{Kind: problem.KindOf(err), Msg: err.Error(), Hint: problem.HintOf(err), Err: err}
	which := "a backup"
	if b := e.j.Backup; b != nil {
		which = fmt.Sprintf("the backup %q in %s, which is of before the rotation", b.ID, b.Target)
	}
	return p.WithHint("nothing was removed; if that database is lost, move %q out of the state folder, and restore %s; it opens with the old key %s", e.j.dir, which, e.j.Old.Fingerprint)
}

// countLive is count of the live database. One that a killed process has left in the
// middle of a write can only be read by who may write, and nobody else has it open.
func (e *engine) countLive(ctx context.Context) (t tally, err error) {
	db, err := e.cfg.Read(ctx)
	if errors.Is(err, n8ndb.ErrMidWrite) {
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
