package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/problem"
)

// NewPlan looks at the target and refuses what must not be done. It writes
// nothing, with one exception: what a killed restore left in the target is
// undone or completed first (see [Recover]), unless cfg.DryRun.
func NewPlan(ctx context.Context, cfg Config) (*Plan, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if cfg.Sidecar.Engine != "sqlite" {
		return nil, problem.New(problem.Usage, "archive %q holds a %s database, which cannot be restored to a folder", cfg.Sidecar.ID, engineName(cfg.Sidecar.Engine)).
			WithHint("restore it to a server: --to postgres://...")
	}
	t, err := locate(cfg.To)
	if err != nil {
		return nil, err
	}
	if err := checkKey(&cfg); err != nil {
		return nil, err
	}
	p := &Plan{ID: cfg.Sidecar.ID, To: t.dir, cfg: cfg, Warnings: []string{}, NewFolder: !t.exists}
	var made map[string]bool
	if t.exists {
		if p.Recovery, made, err = recoverTarget(ctx, t.dir, cfg.recovery()); err != nil {
			return nil, err
		}
	}
	if err := t.inspect(&cfg, made); err != nil {
		return nil, err
	}
	warning, err := t.checkAttached(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	if warning != "" {
		p.Warnings = append(p.Warnings, warning)
	}
	owner, err := t.checkOwner(&cfg)
	if err != nil {
		return nil, err
	}
	if p.NeedBytes, p.FreeBytes, err = t.space(&cfg); err != nil {
		return nil, err
	}
	p.cfg, p.target = cfg, t
	p.describe(owner)
	return p, nil
}

func (cfg *Config) complete() error {
	if _, err := archive.ParseID(string(cfg.Sidecar.ID)); err != nil {
		return problem.Wrap(problem.Unexpected, err, "planning a restore")
	}
	if cfg.Unpack == nil {
		return problem.New(problem.Unexpected, "planning a restore: nothing to unpack the archive with")
	}
	if !cfg.DryRun && !cfg.Receipt.Valid() {
		return problem.New(problem.Unexpected, "planning a restore: the command is not in the audit log")
	}
	if cfg.PlainSize == 0 {
		cfg.PlainSize = cfg.Sidecar.PlainSize
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Env == nil {
		cfg.Env = func(string) (string, bool) { return "", false }
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	return nil
}

func (cfg *Config) recovery() RecoverConfig {
	return RecoverConfig{To: cfg.To, AssumeStopped: cfg.AssumeStopped, HealthURL: cfg.HealthURL, Logger: cfg.Logger, DryRun: cfg.DryRun, faults: cfg.faults}
}

func engineName(engine string) string {
	if engine == "postgres" {
		return "PostgreSQL"
	}
	return fmt.Sprintf("%q", engine)
}

// describe writes the steps down.
func (p *Plan) describe(owner *Owner) {
	t, cfg := &p.target, &p.cfg
	p.Database = filepath.Join(t.dir, t.database)
	step := func(path string, size int64, format string, args ...any) {
		p.Steps = append(p.Steps, Step{Do: fmt.Sprintf(format, args...), Path: path, Size: size})
	}
	for _, r := range p.Recovery.Runs {
		if cfg.DryRun {
			step(filepath.Join(t.dir, stagingPrefix+string(r.ID)), 0, "deal with a restore that was killed: %s", strings.Join(r.Did, ", "))
		}
	}
	for _, dir := range t.missing {
		step(dir, 0, "make the folder")
	}
	step(filepath.Join(t.dir, stagingPrefix+string(p.ID)), cfg.PlainSize, "unpack archive %s beside, and prove every entry, the database and its %d encrypted values", p.ID, cfg.Sidecar.SecretsOpened+cfg.Sidecar.SecretsFailed)
	if t.size >= 0 {
		p.Replaces = t.size
		p.SafetyCopy = filepath.Join(t.dir, freeName(t.dir, t.database+keptInfix+string(p.ID)))
		step(p.Database, t.size, "finish the write-ahead log of the database that is there")
		step(p.SafetyCopy, t.size, "keep that database as a safety copy")
	} else if len(t.beside) > 0 {
		step(filepath.Join(t.dir, t.beside[0]), 0, "put aside what is left of a database without its main file")
	}
	step(t.dir, 0, "put the archive's files in place; a file that is there is kept in %s", freeName(t.dir, keptPrefix+string(p.ID)))
	switch {
	case t.config:
		p.Config = ConfigKept
	case cfg.NoConfig:
		p.Config = ConfigLeftOut
		p.Warnings = append(p.Warnings, keyLine(cfg))
	default:
		p.Config = ConfigWritten
		step(filepath.Join(t.dir, "config"), 0, "write n8n's config with the instance key %s", cfg.KeyFingerprint)
	}
	step(p.Database, 0, "rename the restored database to its place: from here on the restore counts")
	step(p.Database, 0, "prove it again where it stands; if that fails, put everything back")
	p.Owner = Owner{os.Geteuid(), os.Getegid()}
	if owner != nil {
		p.Owner = *owner
	}
	if cfg.Sidecar.State == archive.StateDegraded {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the backup is degraded: %d of %d encrypted values did not open when it was taken", cfg.Sidecar.SecretsFailed, cfg.Sidecar.SecretsOpened+cfg.Sidecar.SecretsFailed))
	}
	if owner == nil && t.owner.UID != p.Owner.UID {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%q belongs to uid %d, but what is restored will belong to uid %d; only root can change that", t.base, t.owner.UID, p.Owner.UID))
	}
}

// keyLine is what has to be set when there is no config to hold the key.
func keyLine(cfg *Config) string {
	return fmt.Sprintf("no config was written: set N8N_ENCRYPTION_KEY (or N8N_ENCRYPTION_KEY_FILE, n8n 1.116.2 and later) to the instance key %s before n8n starts, or it makes a new one that opens nothing", cfg.KeyFingerprint)
}

// Apply restores. Until the new database is in place every failure leaves the
// target as it was; when it does not prove itself there, everything is put back.
// A cancelled context counts as a failure. Apply may be called once.
func (p *Plan) Apply(ctx context.Context) (Report, error) {
	if p.cfg.DryRun {
		return Report{}, problem.New(problem.Unexpected, "applying a plan that was made for looking only")
	}
	if p.cfg.Unpack == nil {
		return Report{}, errors.New("applying a plan twice")
	}
	a := &apply{Config: p.cfg, target: p.target, report: Report{Recovery: p.Recovery}}
	p.cfg.Unpack = nil
	return a.run(ctx)
}
