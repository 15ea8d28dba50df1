package rotate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
)

// engine is one command on one rotation.
type engine struct {
	cfg      Config
	j        *Journal
	key      *journalKey
	lock     *durable.Lock
	warnings []string
	todo     []string
	// elsewhere is where the database is that was opened, when it is not where the
	// rotation's was.
	elsewhere string
	// unspent: it is known of the database, not from the journal, that nothing was
	// committed.
	unspent bool
	// distrust: the journal does not say what is, so that nothing it says is repeated.
	distrust bool
	// anyway: steps go on where the journal cannot be written.
	anyway  bool
	exposed *Exposure
}

func newEngine(cfg Config) (*engine, error) {
	switch {
	case cfg.StateDir == "", cfg.Read == nil, cfg.Write == nil:
		return nil, problem.New(problem.Unexpected, "a rotation needs a state folder and a database")
	case !cfg.Receipt.Valid():
		return nil, problem.New(problem.Unexpected, "a rotation begins when its audit event is recorded")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(StepName, string, int64) {}
	}
	if cfg.Wait == nil {
		cfg.Wait = n8ndb.Pause
	}
	return &engine{cfg: cfg}, nil
}

// Run makes a rotation, up to verified. It returns a Result whenever there is a
// journal, also beside an error. With values in quarantine it ends in an error of kind
// Partial, and is verified all the same.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	e, err := newEngine(cfg)
	if err != nil {
		return nil, err
	}
	if err := e.create(ctx); err != nil {
		return nil, err
	}
	defer e.unlock()
	return e.result(e.forward(ctx))
}

// Resume goes on with a rotation, or with a rollback, wherever it was left.
func Resume(ctx context.Context, cfg Config) (*Result, error) {
	e, err := open(cfg)
	if err != nil {
		return nil, err
	}
	defer e.unlock()
	switch s := e.j.State; {
	case s.Ended():
		return e.result(problem.New(problem.Usage, "rotation %q is over: it is %s", e.j.ID, s))
	case s == Finalising:
		return e.result(problem.New(problem.Usage, "rotation %q is being finalised", e.j.ID).
			WithHint(`go on with "n8keep rotate finalise %s"`, e.j.ID))
	}
	if err := e.unwrap(); err != nil {
		return e.result(err)
	}
	switch e.j.State {
	case RollingBack, RollbackCommitting, RollbackApplied:
		return e.result(e.backward(ctx))
	case Verified:
		return e.result(nil)
	}
	return e.result(e.forward(ctx))
}

// Rollback takes a rotation back, at any time before it is finalised.
func Rollback(ctx context.Context, cfg Config) (*Result, error) {
	e, err := open(cfg)
	if err != nil {
		return nil, err
	}
	defer e.unlock()
	switch s := e.j.State; s {
	case RolledBack, Abandoned:
		return e.result(problem.New(problem.Usage, "rotation %q is over: it is %s", e.j.ID, s))
	case Finalising, Finalised:
		return e.result(problem.New(problem.Usage, "rotation %q is %s and cannot be undone", e.j.ID, s).
			WithHint("rotate back to the old key with \"n8keep rotate instance\", or restore the backup of before the rotation"))
	}
	if err := e.unwrap(); err != nil {
		return e.result(err)
	}
	return e.result(e.backward(ctx))
}

// create makes the journal of a new rotation.
func (e *engine) create(ctx context.Context) error {
	cfg := &e.cfg
	switch {
	case cfg.Instance == "", cfg.Database == "":
		return problem.New(problem.Unexpected, "a rotation needs the names of its instance and database")
	case cfg.Old.Key.IsZero(), cfg.New.Key.IsZero():
		return problem.New(problem.Usage, "a rotation needs the old and the new instance key")
	case cfg.Old.Key.Equal(cfg.New.Key):
		return problem.New(problem.Usage, "the new instance key is the old one").
			WithHint("make another one: \"openssl rand -base64 32\" writes a good one")
	case cfg.Choices.Executions == n8ndb.NoExecutions:
		return problem.New(problem.Usage, "the data of executions that wait cannot be left under the old key")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if cfg.ID == "" {
		cfg.ID = NewID(cfg.Instance, cfg.Now())
	}
	if !idText.MatchString(cfg.ID) {
		return problem.New(problem.Unexpected, "%q is no id of a rotation", cfg.ID)
	}
	if cfg.Storage != "" {
		abs, err := filepath.Abs(cfg.Storage)
		if err != nil {
			return problem.Wrap(problem.Unexpected, err, "naming the storage folder %q", cfg.Storage)
		}
		cfg.Storage = abs
	}
	first, err := e.lookFirst(ctx)
	if err != nil {
		return err
	}
	all := filepath.Join(cfg.StateDir, folderName)
	if err := os.MkdirAll(all, 0o700); err != nil {
		return problem.Wrap(problem.Unexpected, err, "making the folder of rotations")
	}
	beginning, err := durable.TryLock(filepath.Join(all, lockName))
	if errors.Is(err, durable.ErrLocked) {
		return problem.New(problem.Busy, "another rotation is beginning").WithHint("try again in a moment")
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "beginning a rotation")
	}
	defer beginning.Unlock()
	open, err := Unfinished(cfg.StateDir, cfg.Database, cfg.SameDatabase)
	if err != nil {
		return err
	}
	if open != nil {
		return open.Busy()
	}
	if err := removeStillborn(all); err != nil {
		return err
	}
	dir := filepath.Join(all, cfg.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return problem.Wrap(problem.Unexpected, err, "making the folder of the rotation")
	}
	failpoint.Hit("rotate.folder")
	if err := errors.Join(durable.SyncDir(all), durable.SyncDir(cfg.StateDir)); err != nil {
		return problem.Wrap(problem.Unexpected, err, "making the folder of the rotation")
	}
	if e.lock, err = lockRotation(dir, cfg.ID); err != nil {
		return err
	}
	if e.key, err = newJournalKey(); err != nil {
		e.unlock()
		return err
	}
	wrapped, err := e.key.wrap(cfg.ID, cfg.Old.Key, cfg.New.Key)
	if err != nil {
		e.unlock()
		return err
	}
	e.j = &Journal{
		Format: JournalFormat, ID: cfg.ID, Instance: cfg.Instance, Database: cfg.Database, SameDatabase: cfg.SameDatabase, Reopen: cfg.Reopen,
		State: Preparing, Started: cfg.Now().UTC(), Storage: cfg.Storage, Choices: cfg.Choices, Wrapped: wrapped,
		Old: record(cfg.Old), New: record(cfg.New), dir: dir,
	}
	identity := e.key.identify(first.anchors)
	e.j.Identity, e.j.FoundNew = &identity, first.new
	e.j.KeyElsewhere = cfg.KeyElsewhere
	for _, f := range cfg.Files {
		e.j.Files = append(e.j.Files, n8nhome.StagedFile{Form: f.Form, Path: f.Path()})
	}
	if cfg.Service != nil {
		e.j.Service = cfg.Service.String()
	}
	if err := e.keepPlan(); err != nil {
		e.unlock()
		return err
	}
	if err := errors.Join(e.needStorage(), e.j.save()); err != nil {
		e.unlock()
		return err
	}
	e.unspent = true // the journal is as old as what this command does
	return nil
}

// removeStillborn removes folders of rotations that were killed before they had a
// journal. Nobody is making one now: the caller has the lock for that.
func removeStillborn(all string) error {
	entries, err := os.ReadDir(all)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "listing rotations")
	}
	for _, f := range entries {
		if !f.IsDir() || !idText.MatchString(f.Name()) {
			continue
		}
		dir := filepath.Join(all, f.Name())
		if _, err := os.Lstat(filepath.Join(dir, journalName)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := removeEmpty(dir); err != nil {
			return problemOf(err, "removing a rotation that never began")
		}
	}
	return nil
}

// removeEmpty removes a folder in which nothing is but a lock, what was being written,
// and what is written before the journal. One that has more has lost its journal, and
// is left to people.
func removeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range entries {
		if f.Name() != lockName && f.Name() != exposureName && !strings.HasPrefix(f.Name(), durable.TempPrefix) {
			return problem.New(problem.Damaged, "the folder %q has %q and no journal", dir, f.Name()).
				WithHint("put its %s back, from a backup of the state folder, or move the folder away if the rotation is of no use any more", journalName)
		}
	}
	return os.RemoveAll(dir)
}

func record(k Key) KeyRecord {
	if k.Fingerprint == "" {
		k.Fingerprint = k.Key.Fingerprint()
	}
	return KeyRecord{Fingerprint: k.Fingerprint, Path: k.Path}
}

func lockRotation(dir, id string) (*durable.Lock, error) {
	lock, err := durable.TryLock(filepath.Join(dir, lockName))
	if errors.Is(err, durable.ErrLocked) {
		return nil, problem.New(problem.Busy, "another process is at rotation %q", id).
			WithHint(`see how far it is with "n8keep rotate status %s"`, id)
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "locking rotation %q", id)
	}
	return lock, nil
}

func (e *engine) unlock() {
	if e.lock != nil {
		e.lock.Unlock()
	}
}

// open begins a command on an existing rotation.
func open(cfg Config) (*engine, error) {
	e, err := newEngine(cfg)
	if err != nil {
		return nil, err
	}
	j, err := Open(cfg.StateDir, cfg.ID)
	if err != nil {
		return nil, err
	}
	if e.lock, err = lockRotation(j.dir, j.ID); err != nil {
		return nil, err
	}
	// It may have gone on before the lock was taken.
	if j, err = Open(cfg.StateDir, j.ID); err != nil {
		e.unlock()
		return nil, err
	}
	e.j = j
	if cfg.Database != j.Database {
		e.elsewhere = cfg.Database
	}
	e.cfg.ID, e.cfg.Choices, e.cfg.Storage, e.cfg.Database, e.cfg.Instance = j.ID, j.Choices, j.Storage, j.Database, j.Instance
	return e, nil
}

// unwrap opens the journal key, which proves the instance keys that were given: each
// must be the rotation's, and one is enough.
func (e *engine) unwrap() error {
	w := e.j.Wrapped
	for _, k := range []struct {
		name   string
		key    Key
		sealed []byte
		record KeyRecord
	}{{"old", e.cfg.Old, w.Old, e.j.Old}, {"new", e.cfg.New, w.New, e.j.New}} {
		if k.key.Key.IsZero() {
			continue
		}
		key, err := w.open(e.j.ID, k.sealed, k.key.Key)
		if errors.Is(err, errNotThisKey) {
			return problem.New(problem.WrongKey, "the key given as the %s one is not that of rotation %q, which has the fingerprint %s", k.name, e.j.ID, k.record.Fingerprint).
				WithHint("nothing was touched")
		}
		if err != nil {
			return problem.Wrap(problem.Unexpected, err, "opening the journal of rotation %q", e.j.ID)
		}
		e.key = key
	}
	if e.key == nil {
		return problem.New(problem.WrongKey, "neither the old nor the new instance key of rotation %q can be read", e.j.ID).
			WithHint("nothing was touched; the keys were in %s", e.keyPaths()).
			WithHint("give them with --key-file OLD and --new-key-file NEW")
	}
	e.readExposure()
	return e.sweepFolder() // a killed process may have been writing the journal
}

func (e *engine) keyPaths() string {
	var paths []string
	for _, p := range []string{e.j.Old.Path, e.j.New.Path} {
		if p != "" {
			paths = append(paths, fmt.Sprintf("%q", p))
		}
	}
	if len(paths) == 0 {
		return "no file"
	}
	return strings.Join(paths, " and ")
}

// needKeys refuses to go on without keys that the way ahead needs.
func (e *engine) needKeys(before, after bool) error {
	missing := func(name, flag string, r KeyRecord) error {
		return problem.New(problem.WrongKey, "the %s instance key of rotation %q is needed to go on and cannot be read from %q", name, e.j.ID, r.Path).
			WithHint("nothing was touched; give it with %s FILE", flag)
	}
	switch {
	case before && e.cfg.Old.Key.IsZero():
		return missing("old", "--key-file", e.j.Old)
	case after && e.cfg.New.Key.IsZero():
		return missing("new", "--new-key-file", e.j.New)
	}
	return nil
}

// do is one operation on the disk or on a service: a test can end the process before
// and after it, or let it fail.
func (e *engine) do(op, name string, fn func() error) error {
	failpoint.Hit("rotate." + op)
	if e.cfg.fault != nil {
		if err := e.cfg.fault(op, name); err != nil {
			return err
		}
	}
	if err := fn(); err != nil {
		return err
	}
	failpoint.Hit("rotate." + op + "-done")
	return nil
}

// to changes the state and writes the journal. When that fails, the state in memory
// is again the one that is known to be on the disk.
func (e *engine) to(s State) error {
	was := e.j.State
	e.j.State = s
	if s.Ended() {
		e.j.Ended = e.cfg.Now().UTC()
	}
	if err := e.save(); err != nil {
		e.j.State, e.j.Ended = was, time.Time{}
		return err
	}
	return nil
}

func (e *engine) save() error {
	return e.do("journal", string(e.j.State), e.j.save)
}

// step records that a step begins, does it, and records how it ended.
func (e *engine) step(ctx context.Context, name StepName, fn func() (result, detail string, err error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e.cfg.Progress(name, "", 0)
	e.cfg.Logger.Info("rotation step begins", "rotation", e.j.ID, "step", string(name))
	e.j.Steps = append(e.j.Steps, Step{Name: name, Begun: e.cfg.Now().UTC()})
	if err := e.save(); err != nil && !e.anyway {
		e.j.Steps = e.j.Steps[:len(e.j.Steps)-1]
		return err
	}
	result, detail, err := fn()
	s := e.j.Step(name)
	s.Ended, s.Result, s.Detail = e.cfg.Now().UTC(), result, detail
	if err != nil {
		if ctx.Err() != nil && problem.KindOf(err) == problem.Unexpected {
			err = fmt.Errorf("%w: %w", ctx.Err(), err) // what was cut short says so in many ways
		}
		s.Result, s.Detail = Failed, string(problem.KindOf(err))
		// The error is what counts; the journal is as good without this.
		if e.save() != nil {
			e.cfg.Logger.Warn("rotation journal not written", "rotation", e.j.ID)
		}
		return err
	}
	if err := e.save(); err != nil && !e.anyway {
		return err
	}
	return nil
}

func (e *engine) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(e.warnings, text) {
		e.warnings = append(e.warnings, text)
	}
}

// result puts together what a command returns. An error gets what the state is and
// which commands go on from there.
func (e *engine) result(err error) (*Result, error) {
	r := &Result{Journal: e.j, Warnings: e.warnings, Do: e.todo, Next: e.j.Next(), Exposure: e.exposed}
	if err == nil {
		if e.j.LeftTotal > 0 && e.j.State == Verified {
			return r, problem.New(problem.Partial, "%d values open under no key and were left as they are", e.j.LeftTotal).
				WithHint("the rotation %q is verified", e.j.ID)
		}
		if e.j.LeftTotal > 0 && e.j.State == RolledBack {
			return r, problem.New(problem.Partial, "%d values open under no key and are as they were", e.j.LeftTotal).
				WithHint("the rotation %q is rolled back", e.j.ID)
		}
		return r, nil
	}
	p := &problem.Error{Kind: problem.KindOf(err), Msg: err.Error(), Hint: problem.HintOf(err), Err: err}
	if errors.Is(err, context.Canceled) {
		p.Kind, p.Msg = problem.Interrupted, "interrupted"
	}
	if errors.Is(err, syscall.ENOSPC) {
		p = p.WithHint("make room on that disk first")
	}
	if !strings.Contains(p.Msg, e.j.ID) {
		p.Op = fmt.Sprintf("rotation %q", e.j.ID)
	}
	if e.distrust {
		r.Next = nil
		return r, p
	}
	if !strings.Contains(p.Hint, "nothing was touched") {
		p = p.WithHint("%s", e.j.Situation())
	}
	if e.j.State == Abandoned && len(e.j.KeyElsewhere) > 0 {
		p = p.WithHint("where you have put the new key already (%s), put the old one back before n8n is started the next time", strings.Join(e.j.KeyElsewhere, ", "))
	}
	for _, next := range e.j.Next() {
		p = p.WithHint("%s", next)
	}
	return r, p
}

// forward goes from wherever the rotation is to verified.
func (e *engine) forward(ctx context.Context) error {
	applied := e.j.State == Applied
	if err := e.needKeys(!applied, true); err != nil {
		return err
	}
	if e.j.State == Preparing || e.j.State == Applying {
		if err := e.nothingCommitted(ctx); err != nil {
			return err
		}
	}
	if e.j.State == Preparing {
		if err := e.prepare(ctx); err != nil {
			return err
		}
	}
	if !applied {
		err := e.stop(ctx, StepStop)
		if err == nil {
			err = e.step(ctx, StepApply, func() (string, string, error) { return e.apply(ctx) })
		}
		if err != nil {
			return e.giveUp(ctx, err)
		}
	}
	if err := e.start(ctx, StepStart, false); err != nil {
		return err
	}
	if err := e.step(ctx, StepVerify, func() (string, string, error) { return e.verify(ctx) }); err != nil {
		return err
	}
	return e.to(Verified)
}

// prepare is what happens while n8n runs.
func (e *engine) prepare(ctx context.Context) error {
	if err := e.prepareSteps(ctx); err != nil {
		return e.giveUp(ctx, err)
	}
	return nil
}

func (e *engine) prepareSteps(ctx context.Context) error {
	if !e.j.ended(StepBackup) {
		err := e.step(ctx, StepBackup, func() (string, string, error) {
			if e.cfg.Backup == nil {
				return Skipped, "the user goes without", nil
			}
			var ref BackupRef
			err := e.do("backup", "", func() (err error) {
				ref, err = e.cfg.Backup(ctx)
				return err
			})
			if err != nil {
				return "", "", err
			}
			e.j.Backup = &ref
			return Done, ref.ID, nil
		})
		if err != nil {
			return err
		}
	}
	return e.step(ctx, StepStage, func() (string, string, error) {
		for i := range e.j.Files {
			if err := e.stageKey(i); err != nil {
				return "", "", err
			}
		}
		return Done, counted(int64(len(e.j.Files)), "key file"), nil
	})
}

func (e *engine) stop(ctx context.Context, name StepName) error {
	return e.step(ctx, name, func() (string, string, error) {
		if e.cfg.Service == nil {
			return ByUser, "", nil
		}
		err := e.do("stop", "", func() error { return e.cfg.Service.Stop(ctx) })
		return Done, e.cfg.Service.String(), err
	})
}

// start starts n8n with the new key, or with the old one going back, unless it is seen
// that it would start with another one.
func (e *engine) start(ctx context.Context, name StepName, back bool) error {
	if e.cfg.Service != nil {
		if err := e.startsWith(ctx, back); err != nil {
			return err
		}
	}
	return e.step(ctx, name, func() (string, string, error) {
		if e.cfg.Service == nil {
			e.todo = append(e.todo, "start n8n")
			return ByUser, "", nil
		}
		if err := e.do("start", "", func() error { return e.cfg.Service.Start(ctx) }); err != nil {
			return "", "", err
		}
		err := e.do("healthy", "", func() error { return e.cfg.Service.Healthy(ctx) })
		return Done, e.cfg.Service.String(), err
	})
}
