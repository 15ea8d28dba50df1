package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
)

// apply is one run of a plan.
type apply struct {
	Config
	target
	*folder
	owner    *Owner // nil: files are not given away
	made     []string
	journal  *journal
	unpacked Unpacked
	// keptFolder is where replaced files are kept; "": none is replaced.
	keptFolder string
	report     Report
}

func (a *apply) run(ctx context.Context) (Report, error) {
	began := a.Now()
	a.report = Report{ID: a.Sidecar.ID, To: a.target.dir, Warnings: []string{}, Recovery: a.report.Recovery}
	var err error
	if a.owner, err = a.checkOwner(&a.Config); err != nil {
		return a.report, err
	}
	if err := a.makeFolder(); err != nil {
		a.unmakeFolder()
		return a.report, err
	}
	if err := a.inFolder(ctx); err != nil {
		a.unmakeFolder()
		return a.report, err
	}
	a.report.Elapsed = a.Now().Sub(began)
	return a.report, nil
}

// makeFolder makes the target folder and its missing parents, for their owner
// alone only the folder itself.
func (a *apply) makeFolder() error {
	for i, dir := range a.missing {
		mode := fs.FileMode(0o755)
		if i == len(a.missing)-1 {
			mode = 0o700
		}
		err := os.Mkdir(dir, mode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return a.failed(err, "making folder %q", dir)
		}
		a.made = append(a.made, dir)
		if a.owner != nil {
			if err := os.Lchown(dir, a.owner.UID, a.owner.GID); err != nil {
				return a.failed(err, "giving folder %q to its owner", dir)
			}
		}
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return a.failed(err, "making folder %q", dir)
		}
	}
	return nil
}

// unmakeFolder removes what makeFolder made, as far as it is empty.
func (a *apply) unmakeFolder() {
	for _, dir := range slices.Backward(a.made) {
		os.Remove(dir)
	}
}

// inFolder is everything that happens with the folder locked.
func (a *apply) inFolder(ctx context.Context) error {
	f, err := openFolder(a.target.dir, a.AssumeStopped, a.faults)
	if err != nil {
		return openProblem(err, a.target.dir)
	}
	defer f.close()
	a.folder = f
	if err := a.lookAgain(ctx); err != nil {
		return err
	}
	if err := a.stage(ctx); err != nil {
		return a.undo(err)
	}
	return a.swap(ctx)
}

// lookAgain repeats what the plan looked at: time has passed since.
func (a *apply) lookAgain(ctx context.Context) error {
	again, _, err := a.recover(ctx, a.recovery())
	if err != nil {
		return err
	}
	a.report.Recovery.Runs = append(a.report.Recovery.Runs, again.Runs...)
	t := target{dir: a.target.dir, base: a.target.dir, exists: true, size: -1, owner: a.target.owner}
	if err := t.inspect(&a.Config, nil); err != nil {
		return err
	}
	a.target = t
	return nil
}

// stage unpacks the archive and prepares every file, without touching the target.
func (a *apply) stage(ctx context.Context) error {
	id := a.Sidecar.ID
	a.Progress("unpacking and proving the archive")
	a.journal = &journal{Format: journalFormat, ID: id, Started: a.Now().UTC(), Stage: unpacking, Moves: []move{}, Folders: []string{}}
	dir := stagingPrefix + string(id)
	for _, name := range []string{dir, dir + "/" + unpackedName, dir + "/" + homeName} {
		if err := a.mkdir(name, 0o700, nil); err != nil {
			return a.failed(err, "making the staging folder in %q", a.folder.dir)
		}
		if name != dir {
			continue
		}
		if err := a.writeJournal(a.journal); err != nil {
			return a.failed(err, "writing the journal in %q", a.folder.dir)
		}
		if err := a.sync("."); err != nil {
			return a.failed(err, "making the staging folder in %q", a.folder.dir)
		}
	}
	var err error
	if a.unpacked, err = a.Unpack(ctx, a.path(dir+"/"+unpackedName)); err != nil {
		return a.unpackProblem(err)
	}
	if err := ctx.Err(); err != nil {
		return a.failed(err, "restoring archive %q", a.Sidecar.ID)
	}
	if err := a.agree(); err != nil {
		return err
	}
	return a.prepare()
}

// agree compares what came out of the archive with what it was chosen for.
func (a *apply) agree() error {
	if err := agree(&a.unpacked.Manifest, &a.Sidecar); err != nil {
		return err
	}
	if a.unpacked.Database == "" {
		return problem.New(problem.Damaged, "archive %q holds no database", a.Sidecar.ID).WithHint("nothing was written; take another archive")
	}
	return nil
}

func agree(m *archive.Manifest, s *archive.Sidecar) error {
	for _, c := range []struct{ what, got, want string }{
		{"id", string(m.ID), string(s.ID)},
		{"engine", m.Engine, s.Engine},
		{"key fingerprint", m.KeyFingerprint, s.KeyFingerprint},
	} {
		if c.got != c.want {
			return problem.New(problem.Damaged, "archive %q is not what its sidecar says: the %s is %q inside and %q in the sidecar", s.ID, c.what, c.got, c.want).
				WithHint("nothing was written; take another archive")
		}
	}
	return nil
}

func (a *apply) unpackProblem(err error) error {
	if k := problem.KindOf(err); k != problem.Unexpected {
		return err
	}
	return a.failed(err, "unpacking archive %q", a.Sidecar.ID)
}

// swap puts everything in place, the database last, and looks at it there. The
// new database is held from before the rename until it is proved, so that no n8n
// starts on one that may still be taken away.
func (a *apply) swap(ctx context.Context) error {
	old, err := a.holdOld(ctx)
	if err != nil {
		return a.undo(err)
	}
	fresh, err := a.holdNew(ctx)
	if err == nil {
		defer a.letGo(fresh)
		err = a.move(ctx, old)
	}
	if err != nil {
		err = a.undo(err)
	}
	a.letGo(old)
	if err != nil {
		return err
	}
	a.Progress("proving the database in its place")
	if err := a.prove(ctx); err != nil {
		return a.rollBack(err)
	}
	return a.finish()
}

func (a *apply) letGo(h *holding) {
	if err := h.release(); err != nil {
		a.Logger.Warn("database not released", "archive", string(a.Sidecar.ID), "error", err)
	}
}

// holdNew holds the staged database, which nobody else knows of.
func (a *apply) holdNew(ctx context.Context) (*holding, error) {
	db, _ := a.journal.database()
	h, err := hold(ctx, a.path(db.Staged), holdOptions{assumeStopped: true})
	if err != nil {
		return nil, err
	}
	if h.damaged != nil {
		return nil, a.misfit("its database is none")
	}
	return h, nil
}

// holdOld keeps n8n out and brings the old database into one file. A database
// that cannot be opened is what restores are for: its files are put aside.
func (a *apply) holdOld(ctx context.Context) (*holding, error) {
	if a.size < 0 {
		return &holding{}, nil
	}
	a.Progress("finishing the log of the database that is there")
	h, err := holdAlone(ctx, a.path(a.database), holdOptions{healthURL: a.HealthURL, assumeStopped: a.AssumeStopped})
	if err != nil {
		return nil, err
	}
	if h.damaged != nil {
		a.warn("the database that was there cannot be opened, and is kept as it is: %v", h.damaged)
	}
	if text := h.unchecked(); text != "" {
		a.warn("%s", text)
	}
	return h, nil
}

// move follows the journal: keep, place, and the database at the end.
func (a *apply) move(ctx context.Context, h *holding) error {
	if err := a.planMoves(h); err != nil {
		return err
	}
	if err := a.moveOthers(ctx); err != nil {
		return err
	}
	db, _ := a.journal.database()
	if err := a.noLogBeside(db.Path); err != nil {
		return err
	}
	a.Progress("putting the database in place")
	if err := a.place(db); err != nil {
		return a.failed(err, "putting the database in place at %q", a.path(db.Path))
	}
	if err := a.sync("."); err != nil {
		return a.failed(err, "putting the database in place at %q", a.path(db.Path))
	}
	return nil
}

// moveOthers keeps what stands there, and places all but the database.
func (a *apply) moveOthers(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return a.failed(err, "restoring archive %q", a.Sidecar.ID)
	}
	a.journal.Stage = placing
	a.journal.Flawed = a.journal.Flawed || a.flawed()
	if err := a.writeJournal(a.journal); err != nil {
		return a.failed(err, "writing the journal in %q", a.folder.dir)
	}
	a.Progress("putting files in place")
	for _, name := range a.journal.Folders {
		mode := fs.FileMode(0o755)
		if name == a.keptFolder {
			mode = 0o700
		}
		if err := a.mkdir(name, mode, a.owner); err != nil {
			return a.failed(err, "making folder %q", a.path(name))
		}
	}
	var kept []string
	for _, m := range a.journal.Moves {
		if m.Kept == "" {
			continue
		}
		if err := a.keep(m, stagingPrefix+string(a.Sidecar.ID)); err != nil {
			return a.failed(err, "keeping %q as %q", a.path(m.Path), m.Kept)
		}
		kept = append(kept, m.Kept)
	}
	if err := a.syncParents(append(kept, a.journal.Folders...)); err != nil {
		return a.failed(err, "keeping what stands in %q", a.folder.dir)
	}
	others := a.journal.Moves[:len(a.journal.Moves)-1]
	for _, m := range others {
		if err := a.place(m); err != nil {
			return a.failed(err, "putting %q in place", a.path(m.Path))
		}
	}
	if err := a.syncParents(paths(others)); err != nil {
		return a.failed(err, "putting files in place in %q", a.folder.dir)
	}
	if err := ctx.Err(); err != nil {
		return a.failed(err, "restoring archive %q", a.Sidecar.ID)
	}
	return nil
}

// noLogBeside is the last look before the rename: a log of the old database
// would be played into the new one.
func (a *apply) noLogBeside(database string) error {
	for _, name := range prefixAll(database, journalSuffixes()) {
		info, err := a.stat(name)
		if err != nil {
			return a.failed(err, "looking at %q", a.path(name))
		}
		if info != nil {
			return problem.New(problem.Busy, "%q is still there: somebody opened the database that is to be replaced", a.path(name)).
				WithHint("stop n8n and whatever else reads this database, then repeat the restore; nothing was changed")
		}
	}
	return nil
}

// prove looks at the database where it now stands.
func (a *apply) prove(ctx context.Context) error {
	path := a.path(a.database)
	problems, err := sound(ctx, path, a.Config.faults)
	if err != nil {
		return err
	}
	if len(problems) > 0 && !a.flawed() {
		return problem.New(problem.Damaged, "the restored database failed its integrity check in its place: %s", problems[0])
	}
	if len(problems) > 0 {
		a.warn("the database fails its integrity check, as it did when the backup was taken: %s", problems[0])
	}
	if a.Prove == nil {
		return nil
	}
	return a.Prove(ctx, path, a.unpacked.Manifest)
}

// rollBack puts everything back after the new database did not prove itself.
func (a *apply) rollBack(why error) error {
	a.Progress("putting back what stood there before")
	kind := problem.KindOf(why)
	r := a.asRecovery()
	err := r.settle(a.journal)
	if err == nil {
		err = r.undoMoves(a.journal)
	}
	if err != nil {
		return problem.Wrap(kind, why, "the restored database did not prove itself, and not everything could be put back").
			WithHint("%v", err).WithHint("repeat the command: it first undoes what is left").WithHint("%s", a.keptHint())
	}
	e := problem.Wrap(kind, why, "the restored database did not prove itself where it stands; everything was put back as it was")
	for _, w := range r.run.Warnings {
		e = e.WithHint("%s", w)
	}
	if hint := problem.HintOf(why); hint != "" {
		e = e.WithHint("%s", hint)
	}
	return e.WithHint("check the disk of %q, then repeat the restore", a.folder.dir)
}

func (a *apply) keptHint() string {
	if db, ok := a.journal.database(); ok && db.Kept != "" {
		return fmt.Sprintf("the database from before is %q", a.path(db.Kept))
	}
	return fmt.Sprintf("there was no database in %q before", a.folder.dir)
}

// undo takes back whatever was done and returns why, or what went wrong with
// that as well. The old database is still held by the caller, or was never
// touched.
func (a *apply) undo(why error) error {
	r := a.asRecovery()
	var err error
	db, _ := a.journal.database()
	switch {
	case a.journal.Stage == unpacking:
		err = r.finish(a.journal)
	default:
		var staged fs.FileInfo
		if staged, err = a.stat(db.Staged); err == nil && staged == nil {
			// The rename happened, the sync after it did not.
			return a.rollBack(why)
		}
		if err == nil {
			err = r.undoMoves(a.journal)
		}
	}
	if err == nil {
		return why
	}
	return problem.Wrap(problem.KindOf(why), why, "the restore failed, and not everything could be put back").
		WithHint("%v", err).WithHint("repeat the command: it first undoes what is left").WithHint("%s", a.keptHint())
}

func (a *apply) asRecovery() *recovery {
	cfg := a.recovery()
	cfg.Logger = a.Logger
	return &recovery{folder: a.folder, cfg: cfg, run: &RecoveredRun{ID: a.Sidecar.ID}, made: map[string]bool{}}
}

// finish cleans and fills the report. A staging folder that cannot be removed
// does not make the restore fail: the next run removes it.
func (a *apply) finish() error {
	if err := a.clean(stagingPrefix + string(a.Sidecar.ID)); err != nil {
		a.warn("the staging folder could not be removed, the next run does it: %v", err)
	}
	m := &a.unpacked.Manifest
	db, _ := a.journal.database()
	a.report.Database, a.report.DatabaseBytes = a.path(db.Path), db.Size
	if db.Kept != "" {
		a.report.SafetyCopy = a.path(db.Kept)
	}
	for _, move := range a.journal.Moves[:len(a.journal.Moves)-1] {
		switch {
		case move.Staged == "" || move.Path == "config":
		case move.Kept != "":
			a.report.FilesReplaced++
			fallthrough
		default:
			a.report.Files++
		}
	}
	if a.keptFolder != "" {
		a.report.SafetyFolder = a.path(a.keptFolder)
	}
	a.report.Config = ConfigWritten
	switch {
	case a.config:
		a.report.Config = ConfigKept
	case a.NoConfig:
		a.report.Config = ConfigLeftOut
		a.report.KeyLine = keyLine(&a.Config)
	}
	a.report.N8NVersion, a.report.LastMigration, a.report.State = m.N8NVersion, m.LastMigration, m.State
	a.report.SecretsOpened, a.report.SecretsFailed = a.unpacked.SecretsOpened, a.unpacked.SecretsFailed
	return nil
}

func (a *apply) flawed() bool {
	for _, f := range a.unpacked.Manifest.Findings {
		if f.Code == findingIntegrity {
			return true
		}
	}
	return false
}

// findingIntegrity is the manifest's word for a database that already failed
// its integrity check when the backup was taken.
const findingIntegrity = "database_integrity"

func (a *apply) warn(format string, args ...any) {
	a.report.Warnings = append(a.report.Warnings, fmt.Sprintf(format, args...))
}

// failed words an error of the system.
func (a *apply) failed(err error, format string, args ...any) error {
	doing := fmt.Sprintf(format, args...)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return problem.Wrap(problem.Unexpected, cause(err), "%s", doing).
			WithHint("there is not enough space in %q; the target is as it was", a.target.dir)
	}
	if errors.Is(err, context.Canceled) {
		return problem.Wrap(problem.Interrupted, err, "%s", doing).WithHint("the target is as it was")
	}
	return problem.Wrap(problem.Unexpected, cause(err), "%s", doing).WithHint("the target is as it was")
}
