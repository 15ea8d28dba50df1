package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"filippo.io/age"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/keyring"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/rotate"
)

// JournalOptions are the options of "rotate resume", "rollback" and "finalise".
// What is empty is taken from the journal.
type JournalOptions struct {
	ID             string // or the beginning of one
	KeyFile        string
	NewKeyFile     string
	Database       string
	N8NDir         string
	AssumeStopped  bool
	Hooks          HookOptions
	Targets        []string
	Recipients     []string
	RecipientFiles []string
	Identities     []age.Identity
	NoBackup       bool

	// Confirm is shown the rotation before anything is done. Required.
	Confirm func(*api.Rotation) error
}

// RotateResume goes on with a rotation.
func (a *App) RotateResume(ctx context.Context, o JournalOptions) (*api.Rotation, error) {
	return a.onJournal(ctx, resume, o, func(ctx context.Context, _ *rotating, cfg rotate.Config, _ *rotate.Journal, doc *api.Rotation) error {
		return a.engine(doc, func() (*rotate.Result, error) { return rotate.Resume(ctx, cfg) })
	})
}

// The commands that go on and back.
const (
	resume   = "rotate resume"
	rollback = "rotate rollback"
)

// RotateRollback goes back to the old key.
func (a *App) RotateRollback(ctx context.Context, o JournalOptions) (*api.Rotation, error) {
	return a.onJournal(ctx, rollback, o, func(ctx context.Context, _ *rotating, cfg rotate.Config, _ *rotate.Journal, doc *api.Rotation) error {
		return a.engine(doc, func() (*rotate.Result, error) { return rotate.Rollback(ctx, cfg) })
	})
}

// RotateFinalise ends a rotation.
func (a *App) RotateFinalise(ctx context.Context, o JournalOptions) (*api.Rotation, error) {
	return a.onJournal(ctx, "rotate finalise", o, a.finalise)
}

// engine runs the engine and puts what it returned into doc.
func (a *App) engine(doc *api.Rotation, run func() (*rotate.Result, error)) error {
	res, err := run()
	if res != nil {
		*doc = *resultDoc(res)
	}
	return err
}

// onJournal is what the commands on a journal have in common: instance, keys and
// service of the journal, the question, the audit event.
func (a *App) onJournal(ctx context.Context, command string, o JournalOptions, do func(context.Context, *rotating, rotate.Config, *rotate.Journal, *api.Rotation) error) (doc *api.Rotation, err error) {
	j, err := rotate.Open(a.StateDir, o.ID)
	if err != nil {
		return nil, err
	}
	unlock, err := a.lockDatabase(j.Database, j.Database, j.SameDatabase)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if j, err = rotate.Open(a.StateDir, j.ID); err != nil { // as it is now that nobody else is at it
		return nil, err
	}
	receipt, end, err := a.begin(ctx, command, j.Instance, audit.FailClosed, map[string]any{"rotation": j.ID, "state": string(j.State)})
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	if j.State.Ended() {
		return nil, problem.New(problem.Usage, "rotation %q is over: it is %s", j.ID, j.State).WithHint("there is nothing to go on with; \"n8keep rotate instance\" begins another")
	}
	r, err := a.reopen(j, o, command == rollback)
	if err != nil {
		return nil, err
	}
	unlockMoved, err := a.lockMoved(ctx, r.in, j)
	if err != nil {
		return nil, err
	}
	defer unlockMoved()
	places := a.keyPlaces(r, stagedPaths(j.Files))
	if back := command == rollback || goesBack(j); r.service != nil && (back || command == resume && j.State != rotate.Verified && j.State != rotate.Finalising) {
		// Before anything is stopped or changed; the engine asks again.
		if err := places(ctx, back); err != nil {
			if p := (*problem.Error)(nil); errors.As(err, &p) {
				p.WithHint("nothing was touched")
			}
			return nil, err
		}
	}
	doc = rotationDoc(j)
	if command == rollback {
		doc.Warnings = append(doc.Warnings, j.BackWarnings()...)
	}
	if err := o.Confirm(doc); err != nil {
		return nil, err
	}
	start := a.Now()
	if r.others, err = a.retiredKeys(ctx, j.Instance, r.old.key, r.new.key); err != nil {
		return nil, err
	}
	cfg, err := a.engineConfig(r, receipt)
	if err != nil {
		return nil, err
	}
	cfg.ID, cfg.Database, cfg.KeyPlaces = j.ID, r.in.identity(), places
	err = a.journalGone(do(ctx, r, cfg, j, doc), doc)
	counts["changed"], counts["quarantined"] = doc.Values, doc.Quarantine
	if u := doc.Rollback; u != nil {
		counts["restored"], counts["rewritten"], counts["gone"] = u.Restored, u.Rewritten, u.Gone
	}
	if r.keySetByUser && doc.State == string(rotate.RolledBack) && j.State != rotate.Preparing {
		doc.Do = append([]string{fmt.Sprintf("where you have set the new key yourself, set N8N_ENCRYPTION_KEY back to the old one, %s, before n8n starts: with the new key n8n reads nothing and writes what nobody else reads", j.Old.Fingerprint)}, doc.Do...)
	}
	doc.Seconds = a.since(start)
	return doc, err
}

// lockMoved locks the database of a rotation by names that its journal does not have:
// --database, under another address, or moved.
func (a *App) lockMoved(ctx context.Context, in *instance, j *rotate.Journal) (unlock func(), err error) {
	db := in.named()
	if db.recognise(ctx) != nil && ctx.Err() != nil { // a server that does not answer may have to be started
		return nil, ctx.Err()
	}
	known := lockedDatabases([]string{j.Database, j.SameDatabase})
	names := slices.DeleteFunc(lockedDatabases([]string{db.at, db.same}), func(name string) bool { return slices.Contains(known, name) })
	return a.lockDatabase(db.at, names...)
}

// finalise ends a rotation: keyring, fresh backup, list of archives that need the old
// key, destruction of what could undo it.
func (a *App) finalise(ctx context.Context, r *rotating, cfg rotate.Config, j *rotate.Journal, doc *api.Rotation) error {
	cfg.ID = j.ID
	ring := keyring.New(keyring.Config{StateDir: a.StateDir, Now: a.Now})
	if _, err := ring.Instances(); err != nil { // while there still is a way back
		return err
	}
	hooks := rotate.FinaliseHooks{Keyring: func(ctx context.Context) error {
		active, err := ring.Activate(ctx, keyring.Activation{Instance: j.Instance, Rotation: j.ID,
			Old: ringKey(r.old, j.Old), New: ringKey(r.new, j.New)})
		for _, fp := range active.Unopened {
			a.Logger.Warn("an older key in the keyring is sealed under a key that nobody gave; it was left as it is", "key", string(fp))
		}
		return err
	}}
	if !r.noBackup {
		after := r.backup
		after.key, after.youngerThan, after.quarantine, after.level, after.last = r.new, 0, true, backup.Secrets, true
		if len(after.identities) == 0 {
			after.level = backup.Quick
		}
		hooks.Backup = func(ctx context.Context) (rotate.BackupRef, error) { return a.take(ctx, after) }
	}
	plan, warnings, todo := doc.Plan, doc.Warnings, doc.Do
	err := a.engine(doc, func() (*rotate.Result, error) { return rotate.Finalise(ctx, cfg, hooks) })
	doc.Plan = plan
	// What was said of the rotation before is not said twice.
	doc.Warnings, doc.Do = withoutRepeats(append(warnings, doc.Warnings...)), withoutRepeats(append(todo, doc.Do...))
	if doc.State != string(rotate.Finalised) {
		return err
	}
	doc.Do = slices.DeleteFunc(doc.Do, func(do string) bool { return do == finaliseFirst(j.ID) })
	var more []string
	doc.NeedOldKey, more = a.madeWith(ctx, r.in, r.backup.targets, string(j.Old.Fingerprint))
	doc.Warnings = append(doc.Warnings, more...)
	if len(doc.NeedOldKey) > 0 {
		doc.Do = append(doc.Do, "keep the old key "+string(j.Old.Fingerprint)+" as long as you keep any of these archives; n8keep's keyring has it, sealed under the new one")
	}
	if j.Choices.AfterLeak {
		doc.Warnings = append(doc.Warnings, "whoever has the old key and an identity can still read the older archives")
	}
	return err
}

// withoutRepeats keeps the first of each line.
func withoutRepeats(lines []string) []string {
	kept := []string{}
	for _, l := range lines {
		if !slices.Contains(kept, l) {
			kept = append(kept, l)
		}
	}
	return kept
}

func ringKey(k resolvedKey, record rotate.KeyRecord) keyring.Key {
	return keyring.Key{Key: k.key, Fingerprint: record.Fingerprint, Path: record.Path}
}

// reopen puts together what a journal's commands work with. What the options say
// wins, and must still lead to the journal's database. back says that the old key is
// to be n8n's again.
func (a *App) reopen(j *rotate.Journal, o JournalOptions, back bool) (*rotating, error) {
	var keep reopening
	if len(j.Reopen) > 0 {
		if err := json.Unmarshal(j.Reopen, &keep); err != nil {
			return nil, problem.Wrap(problem.Damaged, err, "the journal of rotation %q", j.ID)
		}
	}
	io := InstanceOptions{Name: j.Instance, N8NDir: first(o.N8NDir, keep.N8NDir), Database: first(o.Database, keep.Database), TablePrefix: keep.TablePrefix, Schema: keep.Schema}
	in, err := a.instance(io)
	if err != nil {
		return nil, err
	}
	if o.Database == "" && o.N8NDir == "" && in.identity() != j.Database {
		return nil, problem.New(problem.Usage, "rotation %q is of the database %s, and what the journal leads to now is %s", j.ID, j.Database, in.identity()).
			WithHint("nothing was touched; name the database with --database, or n8n's folder with --n8n-dir")
	}
	r := &rotating{in: in, spec: keep.Service, noBackup: o.NoBackup || j.Step(rotate.StepBackup) != nil && j.Step(rotate.StepBackup).Result == rotate.Skipped,
		keySetByUser: keep.KeySetByUser, assumeStopped: o.AssumeStopped || keep.AssumeStopped}
	if given := in.spec(o.Hooks, keep.KeySetByUser); !given.ByUser() && (keep.Service.ByUser() || o.Hooks.named()) {
		r.spec = given
	}
	r.spec.HealthURL = first(o.Hooks.HealthURL, r.spec.HealthURL)
	if err := a.journalKeys(r, j, o); err != nil {
		return nil, err
	}
	replaced := r.old
	if back || goesBack(j) {
		replaced = r.new
	}
	if err := a.serve(r, replaced); err != nil {
		return nil, err
	}
	r.backup = rotationBackup{in: in, key: r.old, targets: o.Targets, recipients: o.Recipients, recipientFiles: o.RecipientFiles, identities: o.Identities,
		quarantine: j.Choices.Quarantine, level: backup.Secrets}
	if len(o.Targets) == 0 {
		r.backup.targets = keep.Targets
	}
	if len(o.Recipients)+len(o.RecipientFiles) == 0 {
		r.backup.recipients, r.backup.recipientFiles = keep.Recipients, keep.RecipientFiles
	}
	return r, nil
}

// goesBack: a rollback was begun, and every command goes on with it.
func goesBack(j *rotate.Journal) bool {
	return j.State == rotate.RollingBack || j.State == rotate.RollbackCommitting || j.State == rotate.RollbackApplied
}

func (o HookOptions) named() bool {
	return o.StopCommand != "" || o.StartCommand != "" || len(o.SystemdUnits) > 0 || o.ComposeFile != ""
}

// journalKeys finds the keys of a rotation: those that are given, else whatever has
// the fingerprint that the journal says: the recorded files, n8n's own key, the
// journal itself. One that is not found stays zero; the engine says whether it can do
// without.
func (a *App) journalKeys(r *rotating, j *rotate.Journal, o JournalOptions) (err error) {
	given := func(option, path string, into *resolvedKey) error {
		if path == "" {
			return nil
		}
		k, err := a.keyAt(option, path)
		*into = k
		return err
	}
	if err := given(n8nhome.FromKeyFile, o.KeyFile, &r.old); err != nil {
		return err
	}
	if err := given(newKeyFile, o.NewKeyFile, &r.new); err != nil {
		return err
	}
	var found []resolvedKey
	for _, path := range []string{j.Old.Path, j.New.Path} {
		if k, ok := a.recordedKey(path); ok {
			found = append(found, k)
		}
	}
	if k, err := a.key(r.in, ""); err == nil {
		found = append(found, k)
	}
	for _, k := range found {
		switch k.key.Fingerprint() {
		case j.Old.Fingerprint:
			if r.old.key.IsZero() {
				r.old = k
			}
		case j.New.Fingerprint:
			if r.new.key.IsZero() {
				r.new = k
			}
		}
	}
	if r.old.key.IsZero() && !r.new.key.IsZero() && j.Wrapped != nil {
		// A key that was given and does not fit is for the engine to refuse.
		if key, err := j.OldKey(r.new.key); err == nil {
			r.old = resolvedKey{key: key, source: api.KeySource{Source: "journal", Where: j.Old.Path}}
		}
	}
	return nil
}

// recordedKey reads a key from where the journal says that it was.
func (a *App) recordedKey(path string) (resolvedKey, bool) {
	if path == "" {
		return resolvedKey{}, false
	}
	if k, err := a.keyAt("", path); err == nil {
		return k, true
	}
	for _, f := range []n8nhome.KeyFile{{Form: n8nhome.ConfigForm, Name: path}, n8nhome.PlainKeyFile(path)} {
		if key, err := f.Key(); err == nil {
			return resolvedKey{key: key, source: api.KeySource{Source: "journal", Where: path}}, true
		}
	}
	return resolvedKey{}, false
}

// keyAt reads a key from the file that an option names.
func (a *App) keyAt(option, path string) (resolvedKey, error) {
	return a.key(&instance{keyFile: path, keyOption: option}, "")
}

// newKeyFile is the option with the key that n8n is to have.
const newKeyFile = "--new-key-file"

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
