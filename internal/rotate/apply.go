package rotate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// apply changes the database and the files, or goes on with that.
func (e *engine) apply(ctx context.Context) (result, detail string, err error) {
	var w *n8ndb.Writer
	through := false
	if e.j.State == Committing {
		if w, through, err = e.committed(ctx); err != nil {
			return "", "", err
		}
	}
	if through {
		// The database is held until the files fit it, here as well.
		err = errors.Join(e.place(), w.Close())
	} else if err = closing(w); err == nil {
		e.unspent = true
		err = e.transact(ctx)
	}
	if err != nil {
		return "", "", err
	}
	return Done, fmt.Sprintf("%d values", e.j.Values), nil
}

func closing(w *n8ndb.Writer) error {
	if w == nil {
		return nil
	}
	return w.Close()
}

// place gives the files what was staged, when the database has the new values.
func (e *engine) place() error {
	if err := e.placeBundles(filesName, e.j.Attempt); err != nil {
		return err
	}
	if err := e.applyKeys(); err != nil {
		return err
	}
	return e.to(Applied)
}

// others are the key set beside its first key.
func (e *engine) others(other n8ncrypt.InstanceKey) []n8ndb.OtherKey {
	return append([]n8ndb.OtherKey{{Name: otherKey, Key: other}}, e.cfg.Others...)
}

// tally is how many values are under the old keys, how many under the new one, and how
// many open under none.
type tally struct{ old, new, closed int64 }

// count takes a census of the database under both keys.
func (e *engine) count(ctx context.Context, db *n8ndb.DB, scope n8ndb.ExecutionScope) (tally, error) {
	others := e.cfg.Others
	if !e.cfg.New.Key.IsZero() {
		others = e.others(e.cfg.New.Key)
	}
	keys, err := db.KeysetOf(ctx, e.cfg.Receipt, e.cfg.Old.Key, others...)
	if err != nil {
		return tally{}, err
	}
	data := keys.KeyIDs()
	var t tally
	_, err = db.Census(ctx, n8ndb.CensusConfig{Keys: keys, Receipt: e.cfg.Receipt, Executions: scope, Visit: func(s n8ndb.Secret) error {
		switch {
		case s.Plain:
		case !s.Opens:
			t.closed++
		case s.KeyRef == otherKey:
			t.new++
		case !slices.Contains(data, s.KeyRef):
			t.old++ // under the old key, a retired one, or one that a legacy row holds
		}
		return nil
	}})
	return t, err
}

// write opens the database for changing.
func (e *engine) write(ctx context.Context) (*n8ndb.Writer, error) {
	var w *n8ndb.Writer
	err := e.patiently(ctx, func() error {
		return e.do("write", "", func() (err error) {
			w, err = e.cfg.Write(ctx)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	if err := e.recognise(ctx, w.DB); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	e.j.Unchecked = w.Unchecked
	for _, u := range w.Unchecked {
		e.warn("%s", u)
	}
	return w, nil
}

// transact is the transaction, and what follows it. Whatever error it returns, the
// database has its old values, or the state is committing.
func (e *engine) transact(ctx context.Context) (err error) {
	if e.j.State == Committing {
		// The database has its old values: what was staged for that commit is void.
		if err := e.to(Applying); err != nil {
			return err
		}
	}
	if err := e.discardBundles(); err != nil {
		return err
	}
	if err := e.sweepFolder(); err != nil {
		return err
	}
	e.j.Attempt++
	e.j.forget()
	if err := e.to(Applying); err != nil {
		return err
	}
	w, err := e.write(ctx)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, w.Close())
		if err != nil && e.j.State == Applying {
			// Best effort: resume and rollback do it again.
			if e.discardBundles() != nil {
				e.cfg.Logger.Warn("staged files not removed", "rotation", e.j.ID)
			}
		}
	}()
	if err := e.prepareChange(ctx, w); err != nil {
		return err
	}
	if err := e.to(Committing); err != nil {
		return err
	}
	// After an error the state stays committing, which is always safe.
	if err := e.commit(ctx, w); err != nil {
		return err
	}
	// The database is held until the files fit it, where that is possible.
	return e.place()
}

func (e *engine) commit(ctx context.Context, w *n8ndb.Writer) error {
	if err := e.do("commit", "", func() error { return w.Commit(ctx) }); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	for _, text := range w.Warnings {
		e.warn("%s", text)
	}
	return nil
}

// forget removes what an earlier attempt has found.
func (j *Journal) forget() {
	j.Places, j.ByPlace, j.Left, j.ChangedSince = nil, nil, nil, nil
	j.Columns, j.Values, j.Bundles, j.AlreadyNew, j.LeftTotal = 0, 0, 0, 0, 0
	j.NewDataKey, j.OldDataKey = "", ""
}

// prepareChange does everything up to the commit: afterwards the transaction holds
// only new values, the staged files are complete, and what undoes all of it is on the
// disk.
func (e *engine) prepareChange(ctx context.Context, w *n8ndb.Writer) error {
	j, cfg := e.j, &e.cfg
	version, err := w.Version(ctx)
	if err != nil {
		return err
	}
	how := &sealing{to: cfg.New.Key, version: version, leak: j.Choices.AfterLeak}
	if err := how.checkNewKey(); err != nil {
		return err
	}
	var leaked *n8ndb.Keyset
	if how.leak { // with the data keys, which are known to others as well
		if leaked, err = w.KeysetOf(ctx, cfg.Receipt, cfg.Old.Key, cfg.Others...); err != nil {
			return err
		}
	}
	if how.leak && !version.Before(2, 39) {
		if err := e.newDataKey(ctx, w, how); err != nil {
			return err
		}
	}
	keys, err := w.KeysetOf(ctx, cfg.Receipt, cfg.Old.Key, e.others(cfg.New.Key)...)
	if err != nil {
		return err
	}
	before, after := e.newProof(), e.newProof()

	rows, err := e.createRecords(rowsName, j.Attempt)
	if err != nil {
		return err
	}
	defer rows.abort()
	rewrite := n8ndb.RewriteConfig{Keys: keys, Receipt: cfg.Receipt, Executions: j.Choices.Executions, Seal: how.seal,
		Digest: before.digest, DigestPlain: true, Visit: before.visit, Record: rows.writeChange,
		Progress: func(table string, n int64) { cfg.Progress(StepApply, table, n) }}
	done, err := w.Rewrite(ctx, rewrite)
	if err != nil {
		return err
	}
	j.Columns, j.Values, j.ByPlace = done.Columns, done.Values, done.ByPlace

	files, err := e.createRecords(filesName, j.Attempt)
	if err != nil {
		return err
	}
	defer files.abort()
	now, err := w.KeysetOf(ctx, cfg.Receipt, cfg.New.Key)
	if err != nil {
		return err
	}
	if ids := now.LegacyIDs(); len(ids) > 0 {
		return problem.New(problem.CheckFailed, "the legacy key rows %s hold another key than the new one", strings.Join(ids, ", "))
	}
	// Bundles come behind the columns of their kind in every census, but each has a
	// place, and so a chain, of its own.
	if err := e.changeBundles(ctx, w, rewrite, now, after, files); err != nil {
		return err
	}
	if err := e.restageKeys(files); err != nil {
		return err
	}
	if err := e.quarantine(before); err != nil {
		return err
	}
	if err := errors.Join(e.commitRecords(rows), e.commitRecords(files)); err != nil {
		return err
	}
	if err := e.prove(ctx, w, how, now, before, after); err != nil {
		return err
	}
	j.Places, j.AlreadyNew = before.sums(), before.byKey[otherKey]
	return e.sweepOld(ctx, w, leaked)
}

// newDataKey makes the data key of a rotation after a leak; the one that was active
// becomes inactive first, since n8n's index allows one.
func (e *engine) newDataKey(ctx context.Context, w *n8ndb.Writer, how *sealing) error {
	made, err := n8ncrypt.NewDataKey(n8ncrypt.NewKeyID())
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "making a data key")
	}
	wrapped, err := n8ncrypt.WrapDataKey(e.cfg.New.Key, made)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "making a data key")
	}
	previous, err := w.InsertDataKey(ctx, made.ID, wrapped)
	if err != nil {
		return err
	}
	how.data = made
	e.j.NewDataKey, e.j.OldDataKey = made.ID, strings.Join(previous, " ")
	return nil
}

// changeBundles stages the new content of every bundle in scope, proves it, and
// records the old one.
func (e *engine) changeBundles(ctx context.Context, w *n8ndb.Writer, rewrite n8ndb.RewriteConfig, now *n8ndb.Keyset, after *proof, files *recordWriter) error {
	root, err := e.storage()
	if err != nil || root == nil {
		return err
	}
	defer root.Close()
	names, err := w.BundleFiles(ctx, e.j.Storage, e.j.Choices.Executions)
	if err != nil {
		return err
	}
	read := rewrite
	read.Keys, read.Digest, read.Visit = now, after.digest, after.visit
	read.Seal = func(n8ndb.Place, n8ndb.Secret, []byte) (string, bool, error) { return "", false, nil }
	for i, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := readBundle(root, name)
		if err != nil {
			return err
		}
		if b == nil {
			continue
		}
		content, values, err := rewrite.Keys.RewriteBundle(rewrite, n8ndb.BundleRow(name), b.before)
		if err != nil {
			return err
		}
		if _, _, err := now.RewriteBundle(read, n8ndb.BundleRow(name), content); err != nil {
			return err
		}
		if values > 0 {
			if err := e.stageBundle(root, b, content); err != nil {
				return err
			}
			if err := files.writeBundle(*b); err != nil {
				return err
			}
			e.j.Bundles++
			e.j.Values += int64(values)
		}
		if i%100 == 0 {
			e.cfg.Progress(StepApply, "bundle.json", int64(i))
		}
	}
	return nil
}

// quarantine refuses values that open under no key, or lists them.
func (e *engine) quarantine(before *proof) error {
	e.j.Left, e.j.LeftTotal = before.left, before.failed
	if before.failed == 0 || e.j.Choices.Quarantine {
		return nil
	}
	first := before.left[0]
	return problem.New(problem.CheckFailed, "%d values open under no key, the first one is %s in row %q (%s)", before.failed, first.Place, first.Row, first.Problem).
		WithHint("find their key with \"n8keep key find\", or leave exactly these as they are with --quarantine")
}

// prove takes a census of the changed transaction: every value that opened before
// opens now, and is the same.
func (e *engine) prove(ctx context.Context, w *n8ndb.Writer, how *sealing, now *n8ndb.Keyset, before, after *proof) error {
	var misplaced *n8ndb.Secret
	ref := n8ndb.KeyInstance
	if !how.data.IsZero() {
		ref = how.data.ID
	}
	leaked := map[n8ndb.PlaceID]bool{} // where a key of before would be one that others have
	for _, p := range n8ndb.Catalogue() {
		leaked[p.ID] = how.leak && p.Encoding == n8ndb.V2
	}
	_, err := w.Census(ctx, n8ndb.CensusConfig{Keys: now, Receipt: e.cfg.Receipt, Executions: e.j.Choices.Executions,
		Digest: after.digest, DigestPlain: true,
		Visit: func(s n8ndb.Secret) error {
			if s.Opens && s.KeyRef != ref && leaked[s.Place] && misplaced == nil {
				misplaced = &s
			}
			return after.visit(s)
		},
		Progress: func(table string, n int64) { e.cfg.Progress(StepApply, table, n) }})
	if err != nil {
		return err
	}
	if misplaced != nil {
		return problem.New(problem.CheckFailed, "a value of %s in row %q would still be under a key that was leaked", misplaced.Place, misplaced.Row)
	}
	if places := differ(before.sums(), after.sums()); len(places) > 0 {
		return problem.New(problem.CheckFailed, "the new values of %s would not open to what the old ones are", joinPlaces(places))
	}
	return nil
}

func joinPlaces(places []n8ndb.PlaceID) string {
	text := make([]string, len(places))
	for i, p := range places {
		text[i] = string(p)
	}
	return strings.Join(text, ", ")
}

// sweepOld looks for values under the old key that no place accounts for; after a leak
// also for those under any key of before. Else the key set is read anew: by now it
// holds the old key and none of the data keys, which stay.
func (e *engine) sweepOld(ctx context.Context, w *n8ndb.Writer, leaked *n8ndb.Keyset) error {
	old, err := leaked, error(nil)
	if old == nil {
		old, err = w.KeysetOf(ctx, e.cfg.Receipt, e.cfg.Old.Key)
	}
	if err != nil {
		return err
	}
	scope := e.j.Choices.Executions
	census, err := w.Census(ctx, n8ndb.CensusConfig{Keys: old, Receipt: e.cfg.Receipt, Executions: scope, SkipPlaces: true, Sweep: true,
		Progress: func(table string, n int64) { e.cfg.Progress(StepApply, table, n) }})
	if err != nil {
		return err
	}
	for _, u := range census.Unlisted {
		column := u.Table + "." + u.Column
		if u.Opened == 0 || slices.Contains(e.j.Choices.AcceptUnlisted, column) {
			continue
		}
		return problem.New(problem.CheckFailed, "%d values in %s open under the old key and are nothing that n8keep knows, the first one in row %q", u.Opened, column, u.Row).
			WithHint("accept that they stay as they are with --accept-unlisted %s", column)
	}
	return nil
}

// sweepFolder removes what a killed process was writing in the journal's folder.
func (e *engine) sweepFolder() error {
	entries, err := os.ReadDir(e.j.dir)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading the folder of the rotation")
	}
	for _, f := range entries {
		if strings.HasPrefix(f.Name(), durable.TempPrefix) {
			if err := e.removeFile(f.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *engine) removeFile(name string) error {
	return e.do("remove", name, func() error {
		if err := os.Remove(filepath.Join(e.j.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return problem.Wrap(problem.Unexpected, err, "removing %q", name)
		}
		return nil
	})
}

// discard removes everything that was staged.
func (e *engine) discard() error { return errors.Join(e.discardBundles(), e.discardKeys()) }

// removeFiles removes the pre-images.
func (e *engine) removeFiles() error {
	for _, name := range []string{rowsName, filesName, undoName, exposureName} {
		if err := e.removeFile(name); err != nil {
			return err
		}
	}
	return e.sweepFolder()
}
