package app

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/restore"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// RestoreOptions are the options of "restore".
type RestoreOptions struct {
	To            string
	Overwrite     bool
	DryRun        bool
	NoConfig      bool
	AssumeStopped bool
	Owner         string // UID:GID
	HealthURL     string

	// For PostgreSQL.
	AdminDatabase string // address of a login that may create databases
	FilesTo       string // n8n's folder, for the files of the archive
	PgBin         string // folder of pg_restore
}

// Restore puts an archive back, or says how it would.
func (a *App) Restore(ctx context.Context, o ArchiveOptions, io InstanceOptions, r RestoreOptions) (doc *api.Restore, err error) {
	start := a.Now()
	server := isDatabaseAddress(r.To)
	switch {
	case !server && strings.Contains(r.To, "://"):
		return nil, problem.New(problem.Usage, "--to takes a folder or postgres://..., not %q", strings.SplitN(r.To, ":", 2)[0]+"://...").
			WithHint("give n8n's folder, or the address of a PostgreSQL database")
	case !server && (r.AdminDatabase != "" || r.FilesTo != ""):
		return nil, problem.New(problem.Usage, "--admin-database and --files-to are for a restore to a server").WithHint("name the server with --to postgres://USER@HOST:5432/DATABASE")
	}
	owner, err := parseOwner(r.Owner)
	if err != nil {
		return nil, err
	}
	arc, err := a.open(ctx, o)
	if err != nil {
		return nil, err
	}
	signed, err := backup.ReadSidecar(ctx, arc.store, arc.id, arc.trust)
	if err != nil {
		return nil, err
	}
	home := r.To
	if server {
		home = r.FilesTo
	}
	key, err := a.keyFor(io, arc.id.Instance(), home)
	if err != nil {
		return nil, err
	}
	if key, err = a.retiredKey(ctx, o, signed.Sidecar, key); err != nil {
		return nil, err
	}
	target := namedFile(n8nhome.DatabasePath(r.To, a.Env))
	if !server {
		unlock, err := a.lockChange(ctx, target, r.DryRun)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	receipt, end, err := a.begin(ctx, "restore", arc.id.Instance(), audit.FailClosed, map[string]any{"archive": string(arc.id), "dry_run": r.DryRun, "overwrite": r.Overwrite})
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()

	verify := backup.VerifyConfig{Store: arc.store, ID: arc.id, Level: backup.Secrets, Trust: arc.trust, Identities: o.Identities, Key: key.key,
		Receipt: receipt, WorkDir: a.WorkDir, Programs: r.PgBin, Logger: a.Logger, Progress: a.Progress}
	others := func(fp n8ncrypt.Fingerprint) []archive.ID { return a.archivesOf(ctx, arc, string(fp)) }
	if server {
		return a.restorePostgres(ctx, arc, o, signed.Sidecar, key, verify, restore.PostgresConfig{Owner: owner, OtherArchives: others}, r, counts)
	}
	var verified *backup.Verified
	// The health URL of the configuration is that of the instance that lives there.
	conf := a.conf.Instances[arc.id.Instance()]
	if !sameFile(conf.N8NDir, r.To) {
		conf.HealthURL = ""
	}
	cfg := restore.Config{Sidecar: signed.Sidecar, To: r.To, Key: key.key, Overwrite: r.Overwrite, NoConfig: r.NoConfig,
		AssumeStopped: r.AssumeStopped, DryRun: r.DryRun, Owner: owner, HealthURL: first(r.HealthURL, conf.HealthURL),
		Now: a.Now, Logger: a.Logger, Env: a.Env, Receipt: receipt,
		OtherArchives: others,
		Unpack: func(ctx context.Context, dir string) (restore.Unpacked, error) {
			if verified, err = backup.Unpack(ctx, verify, dir); err != nil {
				return restore.Unpacked{}, err
			}
			return unpacked(verified, dir), nil
		},
		Prove: func(ctx context.Context, path string, _ archive.Manifest) error {
			return backup.Prove(ctx, verify, verified, path)
		},
	}
	plan, err := restore.NewPlan(ctx, cfg)
	if err != nil {
		if p := (*problem.Error)(nil); errors.As(err, &p) && p.Kind == problem.WrongKey {
			hintKey(p, key)
			a.hintRetired(p, signed.Sidecar, o)
		}
		return nil, err
	}
	doc = &api.Restore{ID: string(arc.id), Target: plan.To, DryRun: r.DryRun, Steps: []string{}, Database: plan.Database,
		Failures: []api.Secret{}, Findings: []api.Finding{}, Warnings: append(list(key.warnings), plan.Warnings...)}
	for _, s := range plan.Steps {
		doc.Steps = append(doc.Steps, s.Do)
	}
	if r.DryRun {
		// The dry run proves the archive, too: a plan for a damaged one is no plan.
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
	doc.SafetyCopy, doc.SafetyFolder, doc.Files, doc.SetBeforeStart = report.SafetyCopy, report.SafetyFolder, report.Files, report.KeyLine
	doc.ConfigWritten = report.Config == restore.ConfigWritten
	doc.Warnings = append(doc.Warnings, report.Warnings...)
	doc.Seconds = a.Now().Sub(start).Seconds()
	return doc, degradedRestore(verified)
}

// degradedRestore says that what was restored is as degraded as its archive.
func degradedRestore(v *backup.Verified) error {
	switch s := v.Sidecar; {
	case s.State == archive.StateGood:
		return nil
	case s.SecretsFailed > 0:
		return problem.New(problem.Partial, "archive %q is degraded: %d of its %d encrypted values do not open with the instance key", s.ID, s.SecretsFailed, s.SecretsOpened+s.SecretsFailed).
			WithHint("everything else is as it was; enter these credentials again in n8n, or look for an older backup in which they open")
	default:
		return problem.New(problem.Partial, "archive %q is degraded: see its findings", s.ID).
			WithHint("everything is as it was when the backup was made")
	}
}

func describe(doc *api.Restore, v *backup.Verified) {
	doc.SecretsOpened, doc.Failures, doc.Findings = v.Opened, archivedFailures(v.Failed), foundDocs(v)
	doc.Warnings = append(doc.Warnings, alteredWarnings(v.Altered)...)
}

func parseOwner(s string) (*restore.Owner, error) {
	if s == "" {
		return nil, nil
	}
	u, g, ok := strings.Cut(s, ":")
	// The largest number means "leave as it is" to chown.
	uid, err := strconv.ParseUint(u, 10, 32)
	gid, err2 := strconv.ParseUint(g, 10, 32)
	if !ok || err != nil || err2 != nil || uid == math.MaxUint32 || gid == math.MaxUint32 {
		return nil, problem.New(problem.Usage, "owner %q is not UID:GID in numbers", s).WithHint("write it as numbers, UID:GID, as in --owner 1000:1000 (node in n8n's image)")
	}
	return &restore.Owner{UID: int(uid), GID: int(gid)}, nil
}

// unpacked says where below dir backup.Unpack left what it proved.
func unpacked(v *backup.Verified, dir string) restore.Unpacked {
	u := restore.Unpacked{Manifest: v.Manifest, Database: filepath.Join(dir, filepath.FromSlash(backup.DatabaseEntry)), SecretsOpened: v.Opened, SecretsFailed: v.FailedTotal}
	for _, e := range v.Manifest.Entries {
		if rest, ok := strings.CutPrefix(e.Name, backup.FileFolder); ok {
			u.Files = append(u.Files, restore.File{Path: rest, Staged: filepath.Join(dir, filepath.FromSlash(e.Name)), Mode: e.Mode, ModTime: e.ModTime, Size: e.Size})
		}
	}
	return u
}
