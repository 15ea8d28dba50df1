package app

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/config"
	"github.com/n8keep/n8keep/internal/pgclient"
	"github.com/n8keep/n8keep/internal/pgdump"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/restore"
)

// isDatabaseAddress reports whether --to names a server: an address, or a
// reference to one.
func isDatabaseAddress(to string) bool {
	return isPostgres(to) || strings.HasPrefix(to, "file:") && !strings.HasPrefix(to, "file://") || strings.HasPrefix(to, "env:")
}

// serverAddress is the address behind an option, with its password.
func (a *App) serverAddress(option, value string) (string, error) {
	address, err := config.ParseAddress(value)
	if err != nil {
		return "", err
	}
	dsn, err := a.databaseAddress(address)
	if err != nil {
		return "", err
	}
	if !isPostgres(dsn) {
		return "", problem.New(problem.Usage, "%s names no PostgreSQL server", option).WithHint("write it as %s postgres://USER@HOST:5432/DATABASE", option)
	}
	return a.postgresAddress(dsn)
}

// adminAddress is serverAddress for a login that is not n8n's: n8n's variables are
// not for it, and its line in the password file comes before PGPASSWORD, which is
// the other one's.
func (a *App) adminAddress(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	hide := func(pgpassword bool) *App {
		b := *a
		b.Env = func(name string) (string, bool) {
			if strings.HasPrefix(name, "DB_POSTGRESDB_") || pgpassword && name == "PGPASSWORD" {
				return "", false
			}
			return a.Env(name)
		}
		return &b
	}
	const option = "--admin-database"
	dsn, err := hide(true).serverAddress(option, value)
	if err != nil || hasPassword(dsn) {
		return dsn, err
	}
	return hide(false).serverAddress(option, value)
}

func hasPassword(dsn string) bool {
	_, password, err := pgclient.SplitDSN(dsn)
	return err == nil && !password.IsZero()
}

// restorePostgres puts an archive into a server.
func (a *App) restorePostgres(ctx context.Context, arc opened, o ArchiveOptions, side archive.Sidecar, key resolvedKey, verify backup.VerifyConfig, cfg restore.PostgresConfig, r RestoreOptions, counts map[string]int64) (*api.Restore, error) {
	start := a.Now()
	var err error
	if cfg.DSN, err = a.serverAddress("--to", r.To); err != nil {
		return nil, err
	}
	if cfg.AdminDSN, err = a.adminAddress(r.AdminDatabase); err != nil {
		return nil, err
	}
	target := namedServer(cfg.DSN)
	unlock, err := a.lockChange(ctx, target, r.DryRun)
	if err != nil {
		return nil, err
	}
	defer unlock()
	work, err := backup.OpenWork(a.WorkDir, a.Logger)
	if err != nil {
		return nil, err
	}
	defer work.Close()
	var verified *backup.Verified
	cfg.Sidecar, cfg.WorkDir, cfg.Key, cfg.Receipt, cfg.Now, cfg.Logger = side, work.Dir, key.key, verify.Receipt, a.Now, a.Logger
	cfg.Overwrite, cfg.NoConfig, cfg.AssumeStopped, cfg.DryRun, cfg.FilesTo = r.Overwrite, r.NoConfig, r.AssumeStopped, r.DryRun, r.FilesTo
	cfg.Unpack = func(ctx context.Context, dir string) (restore.Unpacked, error) {
		var err error
		if verified, err = backup.Unpack(ctx, verify, dir); err != nil {
			return restore.Unpacked{}, err
		}
		u := unpacked(verified, dir)
		u.Database = ""
		return u, nil
	}
	cfg.Load = func(ctx context.Context, dsn, dir string, m archive.Manifest) error {
		return a.load(ctx, dsn, dir, r.PgBin, m)
	}
	cfg.Prove = func(ctx context.Context, dsn string, _ archive.Manifest) error {
		return backup.ProvePostgres(ctx, verify, verified, dsn)
	}
	plan, err := restore.NewPostgresPlan(ctx, cfg)
	if err != nil {
		if p := (*problem.Error)(nil); errors.As(err, &p) && p.Kind == problem.WrongKey {
			hintKey(p, key)
			a.hintRetired(p, side, o)
		}
		return nil, err
	}
	doc := &api.Restore{ID: string(arc.id), Target: plan.To, DryRun: r.DryRun, Steps: list(plan.Recovered), Database: plan.Database,
		Failures: []api.Secret{}, Findings: []api.Finding{}, Warnings: list(slices.Concat(key.warnings, target.doubts(), plan.Warnings))}
	for _, s := range plan.Steps {
		doc.Steps = append(doc.Steps, s.Do)
	}
	if r.DryRun {
		v, err := backup.Verify(ctx, verify)
		if err != nil {
			return nil, err
		}
		describe(doc, v)
		doc.Seconds = a.Now().Sub(start).Seconds()
		return doc, degradedRestore(v)
	}
	if err := a.notRotating(target); err != nil {
		return nil, err
	}
	report, err := plan.Apply(ctx)
	if err != nil {
		return nil, err
	}
	describe(doc, verified)
	counts["secrets_opened"], counts["secrets_failed"], counts["files"] = verified.Opened, verified.FailedTotal, report.Files
	doc.SafetyCopy, doc.SafetyFolder, doc.Files, doc.SetBeforeStart = report.Kept, report.SafetyFolder, report.Files, report.KeyLine
	doc.DropWith, doc.FilesTo, doc.ConfigWritten = report.DropLine, report.FilesTo, report.Config == restore.ConfigWritten
	doc.Warnings = append(doc.Warnings, report.Warnings...)
	doc.Seconds = a.Now().Sub(start).Seconds()
	return doc, degradedRestore(verified)
}

// load fills an empty database with the dump that was unpacked below dir.
func (a *App) load(ctx context.Context, dsn, dir, programs string, m archive.Manifest) error {
	began := time.Now()
	defer func() {
		a.Logger.Debug("database loaded", "archive", string(m.ID), "seconds", time.Since(began).Seconds())
	}()
	dump := filepath.Join(dir, filepath.FromSlash(backup.DumpEntry))
	if _, err := os.Stat(dump); errors.Is(err, fs.ErrNotExist) {
		return pgdump.Restore(ctx, pgdump.RestoreConfig{DSN: dsn, Dir: filepath.Join(dir, filepath.FromSlash(backup.NativeFolder)), AppName: restoreApp, Logger: a.Logger})
	} else if err != nil {
		return problem.Wrap(problem.Unexpected, err, "looking for the dump")
	}
	found, err := pgclient.Find(ctx, pgclient.FindConfig{Dir: programs})
	if err != nil {
		return err
	}
	run := func(sections ...string) error {
		warnings, err := pgclient.Restore(ctx, pgclient.RestoreConfig{Programs: found, DSN: dsn, File: dump, Sections: sections, AppName: restoreApp, Schemas: []string{m.Schema}})
		for _, w := range warnings {
			a.Logger.Warn("pg_restore: " + w)
		}
		return err
	}
	kept := filepath.Join(dir, filepath.FromSlash(backup.KeptFolder))
	if _, err := os.Stat(kept); errors.Is(err, fs.ErrNotExist) {
		return run()
	}
	// The kept rows come before the constraints.
	if err := run("pre-data", "data"); err != nil {
		return err
	}
	if err := pgdump.Load(ctx, pgdump.RestoreConfig{DSN: dsn, Dir: kept, AppName: restoreApp, Logger: a.Logger}); err != nil {
		return err
	}
	return run("post-data")
}

// restoreApp is the application_name by which the sessions of a restore know each other.
const restoreApp = "n8keep-restore"
