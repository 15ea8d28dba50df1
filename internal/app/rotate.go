package app

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/keyring"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/rotate"
	"github.com/n8keep/n8keep/internal/secret"
	"github.com/n8keep/n8keep/internal/service"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// HookOptions say how n8n is stopped and started. Empty ones take what the
// configuration says; without any, the user does it.
type HookOptions struct {
	StopCommand     string
	StartCommand    string
	SystemdUnits    []string
	ComposeFile     string
	ComposeServices []string
	HealthURL       string
}

// RotateOptions are the options of "rotate instance".
type RotateOptions struct {
	NewKeyFile     string
	Executions     string // waiting, all
	Quarantine     bool
	AcceptUnlisted []string // table.column
	AfterLeak      bool
	Finalise       bool
	KeySetByUser   bool
	AssumeStopped  bool
	DryRun         bool
	Hooks          HookOptions

	Targets           []string
	Recipients        []string
	RecipientFiles    []string
	Identities        []age.Identity
	BackupYoungerThan time.Duration
	NoBackup          bool

	// Confirm is shown the plan before it is carried out; an error ends the command
	// with nothing done. Required unless DryRun.
	Confirm func(*api.RotationPlan) error
}

// rotating is what a command on one rotation works with.
type rotating struct {
	in            *instance
	old, new      resolvedKey // either may be zero once there is a journal
	spec          service.Spec
	service       *service.Service // nil: the user stops and starts n8n
	others        []n8ndb.OtherKey
	backup        rotationBackup
	noBackup      bool
	keySetByUser  bool
	assumeStopped bool
}

// RotateInstance replaces the instance key. A dry run returns the plan, anything else
// the rotation, also beside an error when it has begun. A plan that must not be
// carried out is a plan and an error of kind CheckFailed.
func (a *App) RotateInstance(ctx context.Context, io InstanceOptions, o RotateOptions) (plan *api.RotationPlan, done *api.Rotation, err error) {
	start := a.Now()
	scope, err := executionScope(o.Executions)
	if err != nil {
		return nil, nil, err
	}
	if o.BackupYoungerThan < 0 {
		return nil, nil, problem.New(problem.Usage, "--backup-younger-than takes a time").WithHint("write it as 30m or 24h")
	}
	in, unlock, err := a.changing(ctx, io, o.DryRun)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	r := &rotating{in: in, spec: in.spec(o.Hooks, o.KeySetByUser), noBackup: o.NoBackup, keySetByUser: o.KeySetByUser, assumeStopped: o.AssumeStopped}
	version, err := in.version(ctx)
	if err != nil {
		return nil, nil, err
	}
	if r.old, err = a.key(in, version); err != nil {
		return nil, nil, err
	}
	if r.new, err = a.keyAt(newKeyFile, o.NewKeyFile); err != nil {
		return nil, nil, err
	}
	if err := a.serve(r, r.old); err != nil {
		return nil, nil, err
	}
	r.backup = rotationBackup{in: in, key: r.old, targets: o.Targets, recipients: o.Recipients, recipientFiles: o.RecipientFiles, identities: o.Identities,
		youngerThan: o.BackupYoungerThan, quarantine: o.Quarantine, level: backup.Secrets}

	detail := map[string]any{"dry_run": o.DryRun, "after_leak": o.AfterLeak, "no_backup": o.NoBackup,
		"old_key": string(r.old.key.Fingerprint()), "new_key": string(r.new.key.Fingerprint())}
	receipt, end, err := a.begin(ctx, "rotate instance", in.name, writing(o.DryRun), detail)
	if err != nil {
		return nil, nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	if r.others, err = a.retiredKeys(ctx, in.name, r.old.key, r.new.key); err != nil {
		return nil, nil, err
	}
	choices := rotate.Choices{Executions: scope, Quarantine: o.Quarantine, AcceptUnlisted: o.AcceptUnlisted, AfterLeak: o.AfterLeak}
	made, err := a.rotationPlan(ctx, r, choices, receipt)
	if err != nil {
		return nil, nil, explainWrongKey(err, r.old)
	}
	plan = made.doc
	plan.DryRun = o.DryRun
	if plan.Backup, err = a.backupInWords(ctx, r); err != nil {
		if !o.DryRun {
			return nil, nil, err
		}
		plan.Warnings = append(plan.Warnings, err.Error()+" (which the rotation itself would refuse)")
	}
	plan.Seconds = a.since(start)
	counts["values"], counts["change"], counts["unopened"] = plan.Values, plan.Change, plan.Unopened
	if err := made.refused; err != nil || o.DryRun {
		return plan, nil, err
	}
	if err := o.Confirm(plan); err != nil {
		return nil, nil, err
	}
	if err := a.notRotating(in.known); err != nil {
		return plan, nil, err
	}
	start = a.Now() // how long somebody thought about it is of no interest
	cfg, err := a.engineConfig(r, receipt)
	if err != nil {
		return nil, nil, err
	}
	cfg.Instance, cfg.Database, cfg.Choices, cfg.Files, cfg.Storage = in.name, in.known.at, choices, made.files, in.bundleDir()
	cfg.SameDatabase, cfg.Plan, cfg.KeyElsewhere = in.known.same, made.plan, made.elsewhere
	var paths []string
	for _, f := range made.files {
		paths = append(paths, f.Path())
	}
	cfg.KeyPlaces = a.keyPlaces(r, paths)
	if cfg.Reopen, err = r.reopening(a, o); err != nil {
		return nil, nil, err
	}
	if err := r.stopped(ctx, cfg); err != nil {
		return plan, nil, err
	}
	res, err := rotate.Run(ctx, cfg)
	if res == nil {
		return plan, nil, err
	}
	done = resultDoc(res)
	done.Plan = plan
	done.Do = list(slices.Concat(made.before, done.Do, made.afterwards))
	counts["changed"], counts["quarantined"] = done.Values, done.Quarantine
	if o.Finalise && (err == nil || problem.KindOf(err) == problem.Partial) {
		partial := err
		if err = a.finalise(ctx, r, cfg, res.Journal, done); err == nil {
			err = partial
		}
	}
	done.Seconds = a.since(start)
	return plan, done, a.journalGone(err, done)
}

// spec is how n8n is stopped and started: as the options say, else the configuration.
func (in *instance) spec(o HookOptions, recreate bool) service.Spec {
	s := service.Spec{StopCommand: o.StopCommand, StartCommand: o.StartCommand, Systemd: o.SystemdUnits, Compose: o.ComposeFile, ComposeServices: o.ComposeServices}
	if s.ByUser() {
		c := in.conf
		s = service.Spec{StopCommand: c.StopCommand, StartCommand: c.StartCommand, Systemd: c.SystemdUnits, Compose: c.ComposeFile, ComposeServices: c.ComposeServices}
		if len(o.ComposeServices) > 0 {
			s.ComposeServices = o.ComposeServices
		}
	}
	s.ComposeRecreate = recreate && s.Compose != ""
	s.HealthURL = first(o.HealthURL, in.conf.HealthURL)
	return s
}

// stopped is Busy, before a backup is taken and a journal begun, when nothing is named
// that stops n8n and somebody uses its database. It changes nothing.
func (r *rotating) stopped(ctx context.Context, cfg rotate.Config) error {
	if r.service != nil {
		return nil
	}
	err := func() error {
		if r.in.dsn == "" {
			h, err := n8ndb.Hold(ctx, r.in.database, r.hold())
			if err != nil {
				return err
			}
			return h.Release()
		}
		w, err := cfg.Write(ctx)
		if err != nil {
			return err
		}
		return w.Close()
	}()
	if p := (*problem.Error)(nil); problem.KindOf(err) == problem.Busy && errors.As(err, &p) {
		p.WithHint("nothing was done; or let n8keep stop and start n8n: --systemd UNIT, --compose FILE, or --stop-command and --start-command")
	}
	return err
}

// hold says how to find out whether n8n is stopped.
func (r *rotating) hold() n8ndb.HoldConfig {
	return n8ndb.HoldConfig{AssumeStopped: r.assumeStopped, HealthURL: r.spec.HealthURL}
}

// serve makes the service of the spec. Neither key gets into what it runs, and n8n is
// not started with the one that is replaced.
func (a *App) serve(r *rotating, replaced resolvedKey) (err error) {
	if r.spec, err = r.spec.Absolute(); err != nil {
		return err
	}
	if r.spec.ByUser() {
		if len(r.spec.ComposeServices) > 0 {
			return problem.New(problem.Usage, "--compose-service names a service without a compose file").WithHint("give the file, too: --compose FILE")
		}
		return nil
	}
	var hide []secret.String
	for _, k := range []resolvedKey{r.old, r.new} {
		if !k.key.IsZero() {
			hide = append(hide, secret.NewString(k.key.Reveal()))
		}
	}
	cfg := service.Config{Logger: a.Logger}
	if !replaced.key.IsZero() {
		cfg.Replaced = secret.NewString(replaced.key.Reveal())
	}
	r.service, err = service.Open(r.spec, cfg, hide...)
	return err
}

// engineConfig is what the engine gets from every command.
func (a *App) engineConfig(r *rotating, receipt audit.Receipt) (rotate.Config, error) {
	in := r.in
	cfg := rotate.Config{StateDir: a.StateDir, Old: engineKey(r.old), New: engineKey(r.new), Others: r.others, Receipt: receipt,
		Read: in.openDB, Now: a.Now, Logger: a.Logger,
		Write: func(ctx context.Context) (*n8ndb.Writer, error) {
			if in.dsn != "" {
				return n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: in.dsn, Schema: in.schema, TablePrefix: in.prefix, AppName: "n8keep-rotate", AssumeStopped: r.assumeStopped})
			}
			return n8ndb.WriteSQLite(ctx, n8ndb.SQLiteWriteConfig{Path: in.database, TablePrefix: in.prefix, Hold: r.hold()})
		}}
	if r.service != nil {
		cfg.Service = r.service
	}
	if !r.noBackup {
		cfg.Backup = func(ctx context.Context) (rotate.BackupRef, error) { return a.take(ctx, r.backup) }
	}
	cfg.Progress = a.stepProgress()
	return cfg, nil
}

// stepProgress shows one step at a time. A backup shows its own phases.
func (a *App) stepProgress() func(step rotate.StepName, table string, rows int64) {
	if a.Progress == nil {
		return nil
	}
	words := map[rotate.StepName]string{rotate.StepStop: "stopping n8n", rotate.StepApply: "encrypting", rotate.StepStart: "starting n8n", rotate.StepVerify: "proving",
		rotate.StepRollbackStop: "stopping n8n", rotate.StepRollbackApply: "going back", rotate.StepRollbackStart: "starting n8n", rotate.StepRollbackVerify: "proving"}
	shown := ""
	return func(step rotate.StepName, _ string, rows int64) {
		if phase := words[step]; phase != shown {
			if shown != "" {
				a.Progress(shown, 1, 1) // it has ended
			}
			shown = phase
		}
		if shown != "" {
			a.Progress(shown, rows, 0)
		}
	}
}

func engineKey(k resolvedKey) rotate.Key {
	key := rotate.Key{Key: k.key}
	if !k.key.IsZero() {
		key.Fingerprint = k.key.Fingerprint()
	}
	if filepath.IsAbs(k.source.Where) {
		key.Path = k.source.Where
	} else if path, err := filepath.Abs(k.source.Where); err == nil && k.source.Where != "" && isFile(k.source.Where) {
		key.Path = path
	}
	return key
}

// retiredKeys are the keys that the instance had, as far as the keyring has them and
// one of the keys opens it. What it says of them is worth a warning, not a failure: a
// census tells whether they are missing.
func (a *App) retiredKeys(ctx context.Context, name string, keys ...n8ncrypt.InstanceKey) ([]n8ndb.OtherKey, error) {
	var others []n8ndb.OtherKey
	for _, key := range keys {
		if key.IsZero() {
			continue
		}
		retired, err := keyring.New(keyring.Config{StateDir: a.StateDir, Now: a.Now}).Retired(ctx, name, key)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case problem.KindOf(err) == problem.WrongKey: // they are sealed under another key than this one
			continue
		case err != nil:
			a.Logger.Warn("older keys of the keyring are not tried", "error", err)
			continue
		}
		for _, r := range retired {
			known := slices.ContainsFunc(others, func(o n8ndb.OtherKey) bool { return o.Key.Equal(r.Key) }) ||
				slices.ContainsFunc(keys, func(k n8ncrypt.InstanceKey) bool { return k.Equal(r.Key) })
			if !r.Key.IsZero() && !known {
				others = append(others, n8ndb.OtherKey{Name: string(r.Fingerprint), Key: r.Key})
			}
		}
	}
	return others, nil
}

// backupInWords says what the rotation would rest on, and fails for what would make a
// backup impossible.
func (a *App) backupInWords(ctx context.Context, r *rotating) (string, error) {
	if r.noBackup {
		return "none: you accept the risk", nil
	}
	if r.backup.youngerThan > 0 {
		ref, ok, err := a.young(ctx, r.backup)
		if err != nil {
			return "", err
		}
		if ok {
			return ref.ID + " in " + ref.Target + ", verified here with every secret", nil
		}
	}
	if err := a.ready(ctx, &r.backup); err != nil {
		return "", err
	}
	var places []string
	for _, t := range r.backup.targets {
		where, err := a.targetLocation(t)
		if err != nil {
			return "", err
		}
		places = append(places, where)
	}
	verified := "verified with every secret"
	if len(places) > 1 {
		verified += " in the first that has it; one that misses it is a warning"
	}
	return "one is taken into " + strings.Join(places, ", ") + ", and " + verified, nil
}

// reopening is what the journal keeps.
func (r *rotating) reopening(a *App, o RotateOptions) (json.RawMessage, error) {
	in := r.in
	keep := reopening{N8NDir: absolute(in.dir), TablePrefix: in.prefix, Schema: in.schema, Service: r.spec,
		Recipients: o.Recipients, RecipientFiles: absolutes(o.RecipientFiles), AssumeStopped: r.assumeStopped, KeySetByUser: r.keySetByUser}
	if len(keep.Recipients)+len(keep.RecipientFiles) == 0 {
		keep.Recipients, keep.RecipientFiles = a.conf.Recipients, a.conf.RecipientFiles
	}
	switch file, isFile := strings.CutPrefix(in.address, "file:"); {
	case in.dsn == "":
		keep.Database = absolute(in.database)
	case in.fromEnv:
	case isFile:
		keep.Database = "file:" + absolute(file)
	default:
		keep.Database = first(in.address, in.conf.Database.String())
	}
	for _, t := range r.backup.targets {
		if named, ok := a.conf.Targets[t]; ok {
			t = named.Location()
		}
		if !strings.Contains(t, "://") {
			t = absolute(t)
		}
		keep.Targets = append(keep.Targets, t)
	}
	b, err := json.Marshal(keep)
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "writing down how the rotation is gone on with")
	}
	return b, nil
}

func absolute(path string) string {
	if path == "" {
		return ""
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func absolutes(paths []string) (list []string) {
	for _, p := range paths {
		list = append(list, absolute(p))
	}
	return list
}

// finaliseFirst is what is left to do as long as the rotation has not ended.
func finaliseFirst(id string) string {
	return "in this order: \"n8keep rotate finalise " + id + "\", then \"n8keep data-key rotate\", which is refused before; the active data key could be read with the old key"
}

// resultDoc is what the engine returned as people and scripts see it.
func resultDoc(res *rotate.Result) *api.Rotation {
	doc := rotationDoc(res.Journal)
	doc.Warnings = append(doc.Warnings, res.Warnings...)
	doc.Do = append(doc.Do, res.Do...)
	doc.Next = list(res.Next)
	if e := res.Exposure; e != nil {
		for _, x := range e.List {
			out := exposedDoc(x)
			if out.Replaced && (goesBack(res.Journal) || res.Journal.State == rotate.RolledBack) {
				out.Replaced, out.Do = false, "what leaked is in force again with the rollback: rotate again as soon as you can"
			}
			doc.Exposed = append(doc.Exposed, out)
		}
		doc.ExposedAdvice = e.Advice
		switch state := res.Journal.State; {
		case !e.LeavesDataKey:
		case state == rotate.Finalised:
			doc.Do = append(doc.Do, "make a new data key now: \"n8keep data-key rotate\"; the active one could be read with the old key")
		case !state.Ended() && state != rotate.RollingBack && state != rotate.RollbackCommitting && state != rotate.RollbackApplied:
			doc.Do = append(doc.Do, finaliseFirst(res.Journal.ID))
		}
	}
	return doc
}
