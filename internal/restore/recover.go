package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/n8keep/n8keep/internal/problem"
)

// Recover undoes or completes the restores that were killed in a folder. A
// restore whose database was not in its place yet is undone; one whose database
// was is completed, unless that database fails its integrity check. It is
// repeated safely, and does nothing in a folder without leftovers or without a
// folder. It refuses (Busy) while another restore is at work, and while n8n is
// attached if files that n8n uses have to be moved.
func Recover(ctx context.Context, cfg RecoverConfig) (Recovery, error) {
	t, err := locate(cfg.To)
	if err != nil {
		return Recovery{}, err
	}
	if !t.exists {
		return Recovery{}, nil
	}
	r, _, err := recoverTarget(ctx, t.dir, cfg)
	return r, err
}

// recoverTarget is Recover; with cfg.DryRun it also says which names in dir will
// not be there any more.
func recoverTarget(ctx context.Context, dir string, cfg RecoverConfig) (Recovery, map[string]bool, error) {
	f, err := openFolder(dir, cfg.AssumeStopped, cfg.faults)
	if err != nil {
		return Recovery{}, nil, openProblem(err, dir)
	}
	defer f.close()
	return f.recover(ctx, cfg)
}

func openProblem(err error, dir string) error {
	switch {
	case errors.Is(err, errInUse):
		return problem.Wrap(problem.Busy, err, "the target %q is locked", dir).WithHint("wait until it has finished")
	case errors.Is(err, fs.ErrPermission):
		return problem.New(problem.Usage, "looking into the target %q: %v", dir, cause(err)).WithHint("run n8keep as the user that owns it, or as root")
	}
	return problem.Wrap(problem.Unexpected, cause(err), "opening the target %q", dir).
		WithHint("if this file system has no locks: make sure that nothing else works in the folder, and add --assume-stopped")
}

func (f *folder) recover(ctx context.Context, cfg RecoverConfig) (Recovery, map[string]bool, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	var all Recovery
	made := map[string]bool{}
	ids, err := f.leftovers()
	if err != nil {
		return all, nil, problem.New(problem.Usage, "looking into the target %q: %v", f.dir, cause(err)).WithHint("run n8keep as the user that owns it, or as root")
	}
	for _, id := range ids {
		run := RecoveredRun{ID: id, Did: []string{}}
		r := &recovery{folder: f, cfg: cfg, run: &run, made: made}
		if err := r.one(ctx); err != nil {
			return all, nil, err
		}
		cfg.Logger.Info("killed restore found", "archive", string(id), "outcome", string(run.Outcome), "dry_run", cfg.DryRun)
		all.Runs = append(all.Runs, run)
	}
	return all, made, nil
}

// recovery deals with one staging folder.
type recovery struct {
	*folder
	cfg  RecoverConfig
	run  *RecoveredRun
	made map[string]bool
}

func (r *recovery) one(ctx context.Context) error {
	id := r.run.ID
	staging := stagingPrefix + string(id)
	j, err := r.readJournal(id)
	if err != nil {
		kind := problem.Damaged
		if errors.Is(err, fs.ErrPermission) {
			kind = problem.Usage
		}
		return problem.Wrap(kind, cause(err), "a restore of %q was killed in %q, and what it did cannot be read", id, r.dir).
			WithHint("nothing of it was touched now; run n8keep as the user that ran the restore, or as root, and with the version that ran it").
			WithHint("what stood there before has %q in its name; the staging folder is %q", keptInfix+string(id), r.path(staging))
	}
	r.run.Outcome = Undone
	if j == nil || j.Stage == unpacking {
		r.did("removed what was unpacked; the folder had not been touched")
		return r.finish(j)
	}
	db, _ := j.database()
	stagedDB, err := r.stat(db.Staged)
	if err != nil {
		return r.trouble(err)
	}
	at, err := r.stat(db.Path)
	if err != nil {
		return r.trouble(err)
	}
	if j.Stage == placing && (stagedDB == nil || at != nil && os.SameFile(at, stagedDB)) {
		return r.complete(ctx, j)
	}
	return r.undoAll(ctx, j)
}

// complete ends a restore whose database is in its place. Only when n8n has not
// touched it since can it still be judged.
func (r *recovery) complete(ctx context.Context, j *journal) error {
	db, _ := j.database()
	at, err := r.stat(db.Path)
	if err != nil {
		return r.trouble(err)
	}
	used := at == nil || r.used(db, at)
	if !used && !j.Flawed {
		problems, err := sound(ctx, r.path(db.Path), r.flt)
		if err != nil {
			return r.trouble(err)
		}
		if len(problems) > 0 {
			r.warn("the restored database failed its integrity check: %s", problems[0])
			return r.rollBack(ctx, j)
		}
	}
	r.run.Outcome = Completed
	r.did("the restored database was in its place, and stays")
	if at == nil {
		r.warn("%q was removed since", r.path(db.Path))
	}
	if db.Kept != "" {
		r.run.SafetyCopy = r.path(db.Kept)
	}
	if !r.cfg.DryRun {
		if err := r.syncParents(paths(j.Moves)); err != nil {
			return r.trouble(err)
		}
	}
	j.Folders = nil
	return r.finish(j)
}

// used reports whether the database that a restore placed was written to since,
// or may be: it has a log.
func (r *recovery) used(db move, at fs.FileInfo) bool {
	for _, name := range prefixAll(db.Path, journalSuffixes()) {
		if info, err := r.stat(name); err != nil || info != nil {
			return true
		}
	}
	return at.Size() != db.Size || !at.ModTime().Equal(db.ModTime)
}

// rollBack takes a database that is in its place, and that nobody has used, away
// again.
func (r *recovery) rollBack(ctx context.Context, j *journal) error {
	db, _ := j.database()
	r.run.Outcome = Undone
	h, err := r.hold(ctx, db.Path)
	if err != nil {
		return err
	}
	defer h.release()
	if !r.cfg.DryRun {
		if err := r.settle(j); err != nil {
			return r.trouble(err)
		}
	}
	return r.undoMoves(j)
}

// settle prepares a held database for being taken away: a log beside it would
// change what is put back, and the journal learns how the database looks now. A
// journal that cannot be written (a full disk) does not keep the old database
// from coming back.
func (r *recovery) settle(j *journal) error {
	db, _ := j.database()
	for _, name := range prefixAll(db.Path, journalSuffixes()) {
		if at, err := r.stat(name); err != nil || at == nil {
			continue
		}
		if err := r.remove(name); err != nil {
			return err
		}
	}
	at, err := r.stat(db.Path)
	if err != nil {
		return err
	}
	if at != nil {
		last := &j.Moves[len(j.Moves)-1]
		last.Size, last.ModTime = at.Size(), at.ModTime()
	}
	j.Stage = rollingBack
	if err := r.writeJournal(j); err != nil {
		r.cfg.Logger.Warn("journal not written", "archive", string(j.ID), "error", err)
	}
	return nil
}

// undoAll undoes a restore that came to nothing.
func (r *recovery) undoAll(ctx context.Context, j *journal) error {
	touched, err := r.touched(j)
	if err != nil {
		return r.trouble(err)
	}
	if touched {
		db, _ := j.database()
		h, err := r.hold(ctx, db.Path)
		if err != nil {
			return err
		}
		defer h.release()
	}
	return r.undoMoves(j)
}

// hold keeps n8n out while files are moved. Nobody works with a database that is
// missing or damaged.
func (r *recovery) hold(ctx context.Context, database string) (*holding, error) {
	at, err := r.stat(database)
	if err != nil {
		return nil, r.trouble(err)
	}
	if at == nil || r.cfg.DryRun {
		return &holding{}, nil
	}
	h, err := hold(ctx, r.path(database), holdOptions{healthURL: r.cfg.HealthURL, assumeStopped: r.cfg.AssumeStopped, damagedToo: true})
	if err != nil {
		return nil, problem.Wrap(problem.KindOf(err), err, "a restore of %q was cut short in %q and has to be undone first", r.run.ID, r.dir).WithHint("%s", problem.HintOf(err))
	}
	return h, nil
}

// touched reports whether files that n8n uses were moved: anything but second
// names and staging. Logs that were put aside belong to a database that cannot
// be opened, so nobody is asked to stop for them.
func (r *recovery) touched(j *journal) (bool, error) {
	for _, m := range j.Moves {
		if m.Staged == "" {
			return false, nil
		}
	}
	for _, m := range j.Moves {
		staged, err := r.stat(m.Staged)
		if err != nil || staged == nil {
			return true, err
		}
	}
	return false, nil
}

// undoMoves puts everything back, the database first, and cleans.
func (r *recovery) undoMoves(j *journal) error {
	adopted, err := r.adopted(j)
	if err != nil {
		return r.trouble(err)
	}
	if adopted {
		r.warn("the database %q was used since, and stays, and so do the files beside it", r.path(j.Moves[len(j.Moves)-1].Path))
		for _, m := range j.Moves {
			if m.Kept != "" {
				r.warn("%q from before the restore is %q", m.Path, r.path(m.Kept))
			}
		}
		r.did("left the folder as it is")
		j.Folders = nil
		return r.finish(j)
	}
	r.did("put back what stood there before")
	if r.cfg.DryRun {
		for _, m := range j.Moves {
			r.made[m.Kept] = true
			r.made[m.Path] = r.made[m.Path] || m.Kept == ""
		}
		for _, name := range j.Folders {
			r.made[name] = true
		}
		return r.finish(j)
	}
	var moved []string
	for _, m := range slices.Backward(j.Moves) {
		warning, err := r.undo(m)
		if err != nil {
			return r.trouble(err)
		}
		if warning != "" {
			r.warn("%s", warning)
		}
		moved = append(moved, m.Path)
		if m.Kept != "" {
			moved = append(moved, m.Kept)
		}
	}
	if err := r.syncParents(r.existing(moved)); err != nil {
		return r.trouble(err)
	}
	return r.finish(j)
}

// adopted reports whether an n8n was started since on a database that an undo
// would take away, or beside the config that it would take away.
func (r *recovery) adopted(j *journal) (bool, error) {
	db, _ := j.database()
	at, err := r.stat(db.Path)
	if err != nil || at == nil {
		return false, err
	}
	staged, err := r.stat(db.Staged)
	if err != nil {
		return false, err
	}
	if staged != nil {
		return db.Kept == "" && !os.SameFile(at, staged), nil
	}
	if db.Kept != "" {
		kept, err := r.stat(db.Kept)
		if err != nil || kept == nil || os.SameFile(at, kept) {
			return false, err // put back already
		}
	}
	return r.used(db, at), nil
}

// existing leaves out names whose folder was never made.
func (r *recovery) existing(names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		info, err := os.Lstat(filepath.Dir(r.path(name)))
		return err != nil || !info.IsDir()
	})
}

// finish removes the folders that stayed empty and the staging folder, in it the
// journal first.
func (r *recovery) finish(j *journal) error {
	staging := stagingPrefix + string(r.run.ID)
	r.made[staging] = true
	if r.cfg.DryRun {
		return nil
	}
	if j != nil {
		for _, name := range slices.Backward(j.Folders) {
			if err := r.prune(name); err != nil {
				return r.trouble(err)
			}
		}
	}
	if err := r.clean(staging); err != nil {
		return r.trouble(err)
	}
	return nil
}

func (f *folder) clean(staging string) error {
	if err := f.remove(staging + "/" + journalName); err != nil {
		return err
	}
	if err := f.do("clean", staging, func() error { return f.root.RemoveAll(staging) }); err != nil {
		return err
	}
	return f.sync(".")
}

func (r *recovery) did(format string, args ...any) {
	r.run.Did = append(r.run.Did, fmt.Sprintf(format, args...))
}
func (r *recovery) warn(format string, args ...any) {
	r.run.Warnings = append(r.run.Warnings, fmt.Sprintf(format, args...))
}

func (r *recovery) trouble(err error) error {
	return problem.Wrap(problem.Unexpected, err, "undoing a restore of %q that was killed in %q", r.run.ID, r.dir).
		WithHint("nothing is lost: the database from before is %q or has %q in its name; repeat the command when the cause is gone", "database.sqlite", keptInfix+string(r.run.ID))
}

func paths(moves []move) []string {
	var out []string
	for _, m := range moves {
		out = append(out, m.Path)
	}
	return out
}
