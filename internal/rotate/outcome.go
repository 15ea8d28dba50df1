package rotate

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// outcome is what the database says of a commit.
type outcome struct {
	n8ndb.Compared
	// made and missing are the data key that the rotation has made, if any: 1 where it is there, and is not.
	made, missing int64
	count         tally // a census, as second opinion
}

// outcome compares every column that the rotation has written with its pre-image.
func (e *engine) outcome(ctx context.Context, w *n8ndb.Writer, scope n8ndb.ExecutionScope) (o outcome, err error) {
	if err := e.proveRecords(rowsName, e.j.Attempt); err != nil {
		return o, e.withoutPreimages(err)
	}
	err = e.do("compare", "", func() (err error) {
		o.Compared, err = w.Compare(ctx, e.changes())
		return err
	})
	if err != nil {
		return o, err
	}
	if e.j.NewDataKey != "" {
		rows, err := w.KeyRows(ctx)
		if err != nil {
			return o, err
		}
		if slices.ContainsFunc(rows, func(r n8ndb.KeyRow) bool { return r.ID == e.j.NewDataKey }) {
			o.made = 1
		} else {
			o.missing = 1
		}
	}
	if o.count, err = e.count(ctx, w.DB, scope); err != nil {
		return o, err
	}
	e.cfg.Logger.Info("the database says how a commit went", "rotation", e.j.ID, "before", o.Before, "after", o.After, "other", o.Other, "gone", o.Gone, "data_key", o.made,
		"old_values", o.count.old, "new_values", o.count.new)
	return o, nil
}

// untouched: every column holds what it held before.
func (o outcome) untouched(j *Journal) bool {
	return o.Before+o.missing > 0 && o.After+o.Other+o.Gone+o.made == 0 && o.count.new <= max(j.AlreadyNew, j.FoundNew)
}

// through: every column holds what was written. Where nothing was, the files decide.
func (o outcome) through() bool { return o.Before+o.Other+o.Gone+o.missing == 0 && o.count.old == 0 }

func (o outcome) mixed() *problem.Error {
	return problem.New(problem.Damaged, "of the columns that were to be written, %d hold what they held before, %d what was written, %d something else, and %d are gone; "+
		"the database has %d values under the old key and %d under the new one; no commit leaves that", o.Before+o.missing, o.After+o.made, o.Other, o.Gone, o.count.old, o.count.new)
}

// committed asks the database whether the commit went through. The Writer stays open,
// so that nobody else comes to it before the files fit.
func (e *engine) committed(ctx context.Context) (w *n8ndb.Writer, through bool, err error) {
	return e.ask(ctx, e.j.Choices.Executions, func(o outcome) (bool, error) {
		switch {
		case o.through():
			return true, nil
		case o.untouched(e.j):
			return false, e.nothingPlaced()
		}
		return false, o.mixed().
			WithHint("somebody has written to it meanwhile; a rollback takes all of them to the old key")
	})
}

// untouched asks the database whether a commit did not go through at all.
func (e *engine) untouched(ctx context.Context) (bool, error) {
	w, untouched, err := e.ask(ctx, e.j.Choices.Executions, func(o outcome) (bool, error) {
		if !o.untouched(e.j) {
			return false, nil
		}
		return true, e.nothingPlaced()
	})
	if err != nil {
		return false, err
	}
	return untouched, w.Close()
}

// undone asks the database whether the rollback was committed: then no column holds what
// the rotation has written, and nothing is under the new key. What n8n has written since
// holds neither bytes. Anything else is begun anew, since a column is only written back
// where it still holds what the rotation wrote. A database that is not as the rotation
// left it is not one to start n8n on with the new key, should that fail.
func (e *engine) undone(ctx context.Context) (w *n8ndb.Writer, through bool, err error) {
	return e.ask(ctx, n8ndb.AllExecutions, func(o outcome) (bool, error) {
		if o.After == 0 && o.count.new == 0 {
			return true, nil
		}
		if o.After == 0 || o.Before > 0 {
			e.j.From = ""
		}
		return false, nil
	})
}

func (e *engine) ask(ctx context.Context, scope n8ndb.ExecutionScope, answer func(outcome) (bool, error)) (w *n8ndb.Writer, yes bool, err error) {
	if w, err = e.write(ctx); err != nil {
		return nil, false, err
	}
	o, err := e.outcome(ctx, w, scope)
	if err == nil {
		yes, err = answer(o)
	}
	if err != nil {
		return nil, false, errors.Join(err, w.Close())
	}
	return w, yes, nil
}

// nothingPlaced refuses a database that has its old values beside files that have
// their new content, which are only given it after the commit: it is a copy.
func (e *engine) nothingPlaced() error {
	if e.elsewhere != "" {
		return e.olderCopy()
	}
	root, err := e.storage()
	if err != nil {
		return err
	}
	placed := ""
	if root != nil {
		defer root.Close()
		err = e.eachBundle(filesName, e.j.Attempt, func(b bundle) error {
			now, err := readBundle(root, b.name)
			if err == nil && now != nil && string(now.before) != string(b.before) && sha256.Sum256(now.before) == b.after {
				placed = n8ndb.BundleRow(b.name)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, f := range e.j.Files {
		if key, err := keyIn(f); err == nil && key.Equal(e.cfg.New.Key) && !key.Equal(e.cfg.Old.Key) {
			placed = f.Path
		}
	}
	if placed != "" {
		return problem.New(problem.Damaged, "the database has its old values, and %q has its new content already, which it gets after the database: this is an older copy of the database", placed).
			WithHint("nothing was touched; put back the database of rotation %q, which is %s", e.j.ID, e.j.Database)
	}
	return nil
}

// olderCopy refuses a database with its old values at another place than the rotation's.
func (e *engine) olderCopy() error {
	return problem.New(problem.Damaged, "%s has the values of before the rotation, whose database is %s: it may be an older copy", e.elsewhere, e.j.Database).
		WithHint("nothing was touched; put the database that n8n used last to where it was, and leave --database and --n8n-dir away")
}
