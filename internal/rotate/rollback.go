package rotate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// backward goes from wherever the rotation is to rolled back.
func (e *engine) backward(ctx context.Context) error {
	switch e.j.State {
	case Preparing, Applying:
		return e.abandon(ctx)
	case RollbackApplied:
		if err := e.needKeys(true, false); err != nil {
			return err
		}
		return e.comeBack(ctx)
	}
	if err := e.needKeys(true, true); err != nil {
		return err
	}
	if e.j.State == Committing {
		if err := e.stop(ctx, StepRollbackStop); err != nil {
			return err
		}
		untouched, err := e.untouched(ctx)
		if err != nil {
			return err
		}
		if untouched {
			e.unspent = true
			if err := e.to(Applying); err != nil {
				return err
			}
			return e.abandon(ctx)
		}
	}
	// What cannot be read to its end, or cannot be changed, is found out before anything
	// is stopped or written.
	if err := errors.Join(e.proveRecords(rowsName, e.j.Attempt), e.proveRecords(filesName, e.j.Attempt)); err != nil {
		return e.withoutPreimages(err)
	}
	before, err := e.keyContents()
	if err == nil {
		err = e.changeable(before)
	}
	if err != nil {
		return err
	}
	if e.cfg.Service == nil && (e.j.State == Verified || e.j.State == Applied) {
		// An n8n that was forgotten is found while the rotation may still be finalised instead.
		w, err := e.cfg.Write(ctx)
		if err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	if e.j.State != RollbackCommitting {
		if e.j.State == Verified || e.j.State == Applied {
			e.j.From = e.j.State
		}
		if err := e.to(RollingBack); err != nil {
			return err
		}
	}
	err = e.stop(ctx, StepRollbackStop)
	if err == nil {
		err = e.step(ctx, StepRollbackApply, func() (string, string, error) { return e.undo(ctx) })
	}
	if err != nil {
		return e.stay(ctx, err)
	}
	return e.comeBack(ctx)
}

// withoutPreimages adds to an error about pre-images that cannot be read what can be
// done without them.
func (e *engine) withoutPreimages(err error) error {
	if problem.KindOf(err) != problem.Damaged {
		return err
	}
	p := &problem.Error{Kind: problem.Damaged, Msg: err.Error(), Hint: problem.HintOf(err), Err: err}
	switch e.j.State {
	case Verified:
		p = p.WithHint(`without it there is no rollback: stay with the new key, with "n8keep rotate finalise %s"`, e.j.ID)
	case Applied:
		p = p.WithHint(`without it there is no rollback: stay with the new key, with "n8keep rotate resume %s" and "n8keep rotate finalise %s"`, e.j.ID, e.j.ID)
	default:
		p = p.WithHint("without it n8keep cannot tell how far the rotation came: put it back from a copy of %q", e.j.dir)
	}
	if b := e.j.Backup; b != nil {
		p = p.WithHint("what was there before the rotation is in backup %q in %s, which opens with the old key %s; a restore of it loses what n8n has written since, and is refused until the rotation has ended", b.ID, b.Target, e.j.Old.Fingerprint)
	}
	return p
}

// abandon ends a rotation whose transaction never committed.
func (e *engine) abandon(ctx context.Context) error {
	end := Abandoned
	if e.j.State == Applying {
		end = RolledBack
	}
	if err := e.nothingCommitted(ctx); err != nil {
		return err
	}
	if err := errors.Join(e.discard(), e.sweepFolder()); err != nil {
		return err
	}
	if e.j.lastSwitch() != nil {
		if e.cfg.Service != nil {
			if err := e.findOldKey(); err != nil {
				return err
			}
		}
		if err := e.startStopped(ctx, true); err != nil {
			return err
		}
	}
	e.j.forget()
	return e.endBack(end)
}

// comeBack starts n8n with the old key and proves it.
func (e *engine) comeBack(ctx context.Context) error {
	for _, text := range e.j.BackWarnings() {
		e.warn("%s", text)
	}
	if err := e.start(ctx, StepRollbackStart, true); err != nil {
		return err
	}
	if err := e.step(ctx, StepRollbackVerify, func() (string, string, error) { return e.verifyBack(ctx) }); err != nil {
		return err
	}
	return e.endBack(RolledBack)
}

// endBack ends it. What the files hold is in the database again, or was never taken
// from it.
func (e *engine) endBack(end State) error {
	if err := e.removeFiles(); err != nil {
		return err
	}
	wrapped := e.j.Wrapped
	e.j.Wrapped = nil
	err := e.to(end)
	if err != nil {
		e.j.Wrapped = wrapped
	}
	return err
}

// BackWarnings are for people who go back, or have gone: what is as bad, or worse,
// with the old key.
func (j *Journal) BackWarnings() []string {
	var list []string
	if len(j.KeyElsewhere) > 0 {
		list = append(list, fmt.Sprintf("n8n's key is also set in %s, where n8keep does not change it: the old key %s has to be there again before n8n starts", strings.Join(j.KeyElsewhere, ", "), j.Old.Fingerprint))
	}
	if j.Choices.AfterLeak && j.State != Preparing && j.State != Applying && j.State != Abandoned {
		text := "the key %s that was leaked is in force again with a rollback, and so are the signing secrets"
		if j.NewDataKey != "" {
			text += " and the data key"
		}
		list = append(list, fmt.Sprintf(text+" of before: whoever has them reads the database, and can sign in as anybody; rotate again as soon as you can", j.Old.Fingerprint))
	}
	if j.Undone != nil && j.Undone.NoActiveKey {
		list = append(list, `no data key is active any more: the one that the rotation had made was deleted, and with its key rotation on n8n needs one; see "n8keep data-key list", and make one with "n8keep data-key rotate" once the rollback is through`)
	}
	if j.Undone != nil && len(j.Undone.Under) > 0 {
		list = append(list, fmt.Sprintf("values in %s are under the new key %s and stay so, because n8keep does not know what they are: keep that key", strings.Join(j.Undone.Under, ", "), j.New.Fingerprint))
	}
	return list
}

// undo takes the database and the files back, or goes on with that.
func (e *engine) undo(ctx context.Context) (result, detail string, err error) {
	var w *n8ndb.Writer
	through := false
	if e.j.State == RollbackCommitting {
		if w, through, err = e.undone(ctx); err != nil {
			return "", "", err
		}
	}
	if through {
		err = errors.Join(e.placeBack(), w.Close())
	} else if err = closing(w); err == nil {
		err = e.transactBack(ctx)
	}
	if err != nil {
		return "", "", err
	}
	u := e.j.Undone
	return Done, fmt.Sprintf("%d restored, %d written since and encrypted with the old key", u.Restored, u.Rewritten), nil
}

// placeBack gives the files what they had, when the database has.
func (e *engine) placeBack() error {
	if err := e.placeBundles(undoName, e.j.Undo); err != nil {
		return err
	}
	if err := e.undoKeys(); err != nil {
		return err
	}
	e.j.From = ""
	return e.to(RollbackApplied)
}

// transactBack is the transaction back.
func (e *engine) transactBack(ctx context.Context) (err error) {
	if e.j.State == RollbackCommitting {
		if err := e.to(RollingBack); err != nil {
			return err
		}
	}
	if err := errors.Join(e.discardBundles(), e.sweepFolder()); err != nil {
		return err
	}
	e.j.Undo++
	e.j.Undone = &Undone{}
	if err := e.to(RollingBack); err != nil {
		return err
	}
	w, err := e.write(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if err := e.prepareBack(ctx, w); err != nil {
		return err
	}
	if err := e.to(RollbackCommitting); err != nil {
		return err
	}
	if err := e.commit(ctx, w); err != nil {
		return err
	}
	return e.placeBack()
}

func (e *engine) prepareBack(ctx context.Context, w *n8ndb.Writer) error {
	j, cfg := e.j, &e.cfg
	version, err := w.Version(ctx)
	if err != nil {
		return err
	}
	var restored n8ndb.Restored
	err = e.do("restore-rows", "", func() (err error) {
		restored, err = w.Restore(ctx, e.changes())
		return err
	})
	if err != nil {
		return err
	}
	if e.elsewhere != "" && restored.Restored == 0 && restored.Same > 0 {
		return e.olderCopy()
	}
	j.Undone.Restored, j.Undone.Changed, j.Undone.Gone = restored.Restored+restored.Same, restored.Changed, restored.Gone
	if j.NewDataKey != "" {
		if err := w.ReactivateDataKey(ctx, j.NewDataKey, strings.Fields(j.OldDataKey)); err != nil {
			return err
		}
		if err := e.activeKey(ctx, w); err != nil {
			return err
		}
	}
	keys, err := w.KeysetOf(ctx, cfg.Receipt, cfg.New.Key, e.others(cfg.Old.Key)...)
	if err != nil {
		return err
	}
	utf8, err := e.oldEncoding(ctx, w, version)
	if err != nil {
		return err
	}
	how := &sealing{to: cfg.Old.Key, version: version, back: true, utf8: utf8}
	before, after := e.newProof(), e.newProof()
	rewrite := n8ndb.RewriteConfig{Keys: keys, Receipt: cfg.Receipt, Executions: n8ndb.AllExecutions, Seal: how.seal,
		Digest: before.digest, DigestPlain: true, Visit: before.visit,
		Progress: func(table string, n int64) { cfg.Progress(StepRollbackApply, table, n) }}
	done, err := w.Rewrite(ctx, rewrite)
	if err != nil {
		return err
	}
	j.Undone.Rewritten = done.Values
	j.Undone.Closed, j.Left, j.LeftTotal = before.failed, before.left, before.failed
	now, err := w.KeysetOf(ctx, cfg.Receipt, cfg.Old.Key, cfg.Others...)
	if err != nil {
		return err
	}
	_, err = w.Census(ctx, n8ndb.CensusConfig{Keys: now, Receipt: cfg.Receipt, Executions: n8ndb.AllExecutions, Digest: after.digest, DigestPlain: true, Visit: after.visit,
		Progress: func(table string, n int64) { cfg.Progress(StepRollbackApply, table, n) }})
	if err != nil {
		return err
	}
	if places := differ(before.sums(), after.sums()); len(places) > 0 {
		return problem.New(problem.CheckFailed, "the values of %s would not open to what they are under the old key", joinPlaces(places))
	}
	if err := e.sweepNew(ctx, w); err != nil {
		return err
	}
	list, err := e.createRecords(undoName, j.Undo)
	if err != nil {
		return err
	}
	defer list.abort()
	if err := e.undoBundles(ctx, w, rewrite, now, list); err != nil {
		return err
	}
	if err := e.commitRecords(list); err != nil {
		return err
	}
	contents, err := e.keyContents()
	if err != nil {
		return err
	}
	return e.changeable(contents)
}

// activeKey notes that n8n has no data key to write with: the one that the rotation has
// made was deleted since, so that ReactivateDataKey had nothing to take back.
func (e *engine) activeKey(ctx context.Context, w *n8ndb.Writer) error {
	rows, err := w.KeyRows(ctx)
	if err != nil {
		return err
	}
	e.j.Undone.NoActiveKey = e.j.OldDataKey != "" && !slices.ContainsFunc(rows, func(r n8ndb.KeyRow) bool {
		return r.Type == "data_encryption" && r.Status == "active"
	})
	return nil
}

// undoBundles stages what the bundles become: what they were, where they are still
// ours, and else what is in them now under the old key.
func (e *engine) undoBundles(ctx context.Context, w *n8ndb.Writer, rewrite n8ndb.RewriteConfig, now *n8ndb.Keyset, list *recordWriter) error {
	root, err := e.storage()
	if err != nil || root == nil {
		return err
	}
	defer root.Close()
	put := func(b *bundle, content []byte) error {
		if err := e.stageBundle(root, b, content); err != nil {
			return err
		}
		return list.writeBundle(bundle{name: b.name, mode: b.mode, uid: b.uid, gid: b.gid, after: b.after})
	}
	err = e.eachBundle(filesName, e.j.Attempt, func(was bundle) error {
		b, err := readBundle(root, was.name)
		switch {
		case err != nil:
			return err
		case b == nil:
			e.j.Undone.Gone++
			return nil
		case sha256.Sum256(b.before) == was.after:
			e.j.Undone.Restored++
			if err := e.undoBundle(&bundle{name: was.name, before: was.before}, rewrite, now, nil); err != nil {
				return err
			}
			return put(b, was.before)
		case string(b.before) != string(was.before):
			e.j.Undone.Changed++
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	names, err := w.BundleFiles(ctx, e.j.Storage, n8ndb.AllExecutions)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := root.Lstat(name + e.suffix()); !errors.Is(err, fs.ErrNotExist) {
			continue // staged above
		}
		b, err := readBundle(root, name)
		if err != nil {
			return err
		}
		if b == nil {
			continue
		}
		if err := e.undoBundle(b, rewrite, now, put); err != nil {
			return err
		}
	}
	return nil
}

// undoBundle puts a bundle under the old key; with a nil put it only counts.
func (e *engine) undoBundle(b *bundle, rewrite n8ndb.RewriteConfig, now *n8ndb.Keyset, put func(*bundle, []byte) error) error {
	before, after := e.newProof(), e.newProof()
	rewrite.Digest, rewrite.Visit = before.digest, before.visit
	content, values, err := rewrite.Keys.RewriteBundle(rewrite, n8ndb.BundleRow(b.name), b.before)
	if err != nil {
		return err
	}
	e.j.Undone.Closed += before.failed
	if values == 0 || put == nil {
		return nil
	}
	rewrite.Digest, rewrite.Visit = after.digest, after.visit
	rewrite.Seal = func(n8ndb.Place, n8ndb.Secret, []byte) (string, bool, error) { return "", false, nil }
	if _, _, err := now.RewriteBundle(rewrite, n8ndb.BundleRow(b.name), content); err != nil {
		return err
	}
	if places := differ(before.sums(), after.sums()); len(places) > 0 {
		return problem.New(problem.CheckFailed, "the values of the execution %q on disk would not open to what they are under the old key", n8ndb.BundleRow(b.name))
	}
	e.j.Undone.Rewritten += int64(values)
	return put(b, content)
}

// sweepNew looks for values under the new key that no place accounts for, such as
// somebody has written since: they need the key after the rollback, too.
func (e *engine) sweepNew(ctx context.Context, w *n8ndb.Writer) error {
	keys, err := w.KeysetOf(ctx, e.cfg.Receipt, e.cfg.New.Key)
	if err != nil {
		return err
	}
	census, err := w.Census(ctx, n8ndb.CensusConfig{Keys: keys, Receipt: e.cfg.Receipt, Executions: n8ndb.AllExecutions, SkipPlaces: true, Sweep: true,
		Progress: func(table string, n int64) { e.cfg.Progress(StepRollbackApply, table, n) }})
	if err != nil {
		return err
	}
	e.j.Undone.Under = nil
	for _, u := range census.Unlisted {
		if u.Opened > 0 {
			e.j.Undone.Under = append(e.j.Undone.Under, fmt.Sprintf("%s.%s", u.Table, u.Column))
		}
	}
	return nil
}
