package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"golang.org/x/sys/unix"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/pgserver"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// LoadFunc fills the empty database that dsn names with what was unpacked below
// dir. It returns only when all of it is there; after an error the database is
// dropped. Schema n8n's schema may exist already, empty.
type LoadFunc func(ctx context.Context, dsn, dir string, m archive.Manifest) error

// ProveDatabaseFunc opens the database that dsn names and checks that its rows
// and its census are the manifest's. It changes nothing.
type ProveDatabaseFunc func(ctx context.Context, dsn string, m archive.Manifest) error

// PostgresConfig says which PostgreSQL archive is restored, and to which server.
type PostgresConfig struct {
	// Sidecar is the archive's, its signature checked by the caller. Required.
	Sidecar archive.Sidecar
	// Unpack brings the archive below WorkDir, and proves it. Required.
	Unpack UnpackFunc
	// Load fills the new database. Required.
	Load LoadFunc
	// Prove looks at the new database before it takes the place. Required.
	Prove ProveDatabaseFunc
	// DSN names the database, with the role that n8n uses; it may hold the
	// password. The database is made when it does not exist. Required.
	DSN string
	// AdminDSN is a login on the same server that may create databases; its
	// database is any other. Optional: the role of DSN.
	AdminDSN string
	// WorkDir is a private, empty folder for what is unpacked; the caller removes
	// it. Required unless DryRun; then it need only be on the right file system.
	WorkDir string
	// FilesTo is n8n's folder, for the files of the archive and the config with the
	// key. Optional: the files are left out.
	FilesTo string

	// Key is the instance key. Required.
	Key n8ncrypt.InstanceKey
	// KeyFingerprint, OtherArchives and PlainSize are as in Config.
	KeyFingerprint n8ncrypt.Fingerprint
	OtherArchives  func(n8ncrypt.Fingerprint) []archive.ID
	PlainSize      int64

	// Overwrite allows a database that holds an n8n, and files that are there;
	// both are kept.
	Overwrite bool
	// NoConfig leaves a missing config in FilesTo missing.
	NoConfig bool
	// AssumeStopped goes on although somebody is connected to the database: their
	// sessions are ended when the new one takes its place.
	AssumeStopped bool
	// DryRun makes NewPostgresPlan only look.
	DryRun bool
	// Owner of the files, as in Config.
	Owner *Owner

	// Now, Logger, Progress and Receipt are as in Config.
	Now      func() time.Time
	Logger   *slog.Logger
	Progress func(step string)
	Receipt  audit.Receipt

	faults faults
}

// PostgresPlan is what a restore to a server would do. It is made by
// [NewPostgresPlan], and applied once.
type PostgresPlan struct {
	ID        archive.ID `json:"id"`
	To        string     `json:"to"`                 // address without password
	Database  string     `json:"database"`           // its name
	Steps     []Step     `json:"steps"`              // in order
	New       bool       `json:"new"`                // the database does not exist yet
	Replaces  int64      `json:"replaces,omitempty"` // bytes of the database that is there
	FilesTo   string     `json:"files_to,omitempty"`
	Config    string     `json:"config"` // as in Plan; ConfigLeftOut without FilesTo
	NeedBytes int64      `json:"need_bytes"`
	FreeBytes int64      `json:"free_bytes"` // in the work folder; the server's disk cannot be asked
	Warnings  []string   `json:"warnings"`
	Recovered []string   `json:"recovered,omitempty"` // what was done about killed restores on the server
	Recovery  Recovery   `json:"recovery"`            // and in FilesTo

	cfg   PostgresConfig
	files *filesPart
}

// PostgresReport is what a restore to a server did.
type PostgresReport struct {
	ID            archive.ID    `json:"id"`
	To            string        `json:"to"`
	Database      string        `json:"database"`
	DatabaseBytes int64         `json:"database_bytes"`
	Kept          string        `json:"kept,omitempty"`      // the name that the old database has now
	DropLine      string        `json:"drop_line,omitempty"` // the statement that removes it
	FilesTo       string        `json:"files_to,omitempty"`
	SafetyFolder  string        `json:"safety_folder,omitempty"` // files that stood in FilesTo before
	Files         int64         `json:"files"`
	FilesLeftOut  int64         `json:"files_left_out"` // without FilesTo
	FilesReplaced int64         `json:"files_replaced"`
	Config        string        `json:"config"`
	KeyLine       string        `json:"key_line,omitempty"`
	N8NVersion    string        `json:"n8n_version"`
	LastMigration string        `json:"last_migration"`
	State         archive.State `json:"state"`
	SecretsOpened int64         `json:"secrets_opened"`
	SecretsFailed int64         `json:"secrets_failed"`
	Warnings      []string      `json:"warnings"`
	Recovered     []string      `json:"recovered"`
	Recovery      Recovery      `json:"recovery"`
	Elapsed       time.Duration `json:"-"`
}

// NewPostgresPlan looks at the server and at the folder for the files, and
// refuses what must not be done. It changes nothing but what killed restores
// left there, which it puts in order first, unless cfg.DryRun.
func NewPostgresPlan(ctx context.Context, cfg PostgresConfig) (*PostgresPlan, error) {
	files, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	switch cfg.Sidecar.Engine {
	case "postgres":
	case "sqlite":
		return nil, problem.New(problem.Usage, "archive %q holds an SQLite database, which cannot be restored to a server", cfg.Sidecar.ID).
			WithHint("restore it to n8n's folder: --to DIR")
	default:
		return nil, problem.New(problem.Usage, "archive %q holds no database", cfg.Sidecar.ID).WithHint("it is an export: take an archive with a database")
	}
	if err := checkKey(files); err != nil {
		return nil, err
	}
	cfg.KeyFingerprint = files.KeyFingerprint
	p := &PostgresPlan{ID: cfg.Sidecar.ID, To: redactURL(cfg.DSN), Warnings: []string{}, Config: ConfigLeftOut, cfg: cfg}
	if p.NeedBytes, p.FreeBytes, err = workSpace(&cfg); err != nil {
		return nil, err
	}
	d, err := p.look(ctx)
	if err != nil {
		return nil, err
	}
	if cfg.FilesTo != "" {
		if p.files, err = planFiles(ctx, *files); err != nil {
			return nil, err
		}
		p.Recovery, p.FilesTo = p.files.recovered, p.files.target.dir
		p.Config = p.files.configOutcome()
	}
	p.describe(d)
	return p, nil
}

// complete fills what is optional, and makes of it the configuration of the
// files.
func (cfg *PostgresConfig) complete() (*Config, error) {
	if cfg.Load == nil || cfg.Prove == nil || cfg.WorkDir == "" {
		return nil, problem.New(problem.Unexpected, "planning a restore: nothing to load or prove the database with")
	}
	files := &Config{Sidecar: cfg.Sidecar, Unpack: cfg.Unpack, To: cfg.FilesTo, Key: cfg.Key, KeyFingerprint: cfg.KeyFingerprint, OtherArchives: cfg.OtherArchives,
		PlainSize: cfg.PlainSize, Overwrite: cfg.Overwrite, NoConfig: cfg.NoConfig, AssumeStopped: cfg.AssumeStopped, DryRun: cfg.DryRun, Owner: cfg.Owner,
		Now: cfg.Now, Logger: cfg.Logger, Progress: cfg.Progress, Receipt: cfg.Receipt, faults: cfg.faults}
	if err := files.complete(); err != nil {
		return nil, err
	}
	cfg.PlainSize, cfg.Now, cfg.Logger, cfg.Progress = files.PlainSize, files.Now, files.Logger, files.Progress
	return files, nil
}

// workSpace is what unpacking needs at least.
func workSpace(cfg *PostgresConfig) (need, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cfg.WorkDir, &st); err != nil {
		return 0, 0, problem.Wrap(problem.Unexpected, err, "asking for the free space of %q", cfg.WorkDir)
	}
	need, free = max(cfg.PlainSize, cfg.Sidecar.Size), int64(st.Bavail)*int64(st.Bsize)
	if need > free {
		return need, free, problem.New(problem.Usage, "not enough space in %q: the archive unpacks to %s, %s are free", cfg.WorkDir, bytesText(need), bytesText(free)).
			WithHint("free some space, or choose another folder with --work-dir")
	}
	return need, free, nil
}

// dest is the server's part of the configuration. Before the archive is open its
// schema and prefix are those of the n8n that is there.
func (cfg *PostgresConfig) dest(m *archive.Manifest) pgserver.DestConfig {
	d := pgserver.DestConfig{DSN: cfg.DSN, AdminDSN: cfg.AdminDSN, AppName: "n8keep-restore", Now: cfg.Now, Logger: cfg.Logger}
	if m != nil {
		d.Schema, d.TablePrefix = cmp.Or(m.Schema, "public"), m.TablePrefix
		for _, t := range m.Tables {
			d.Tables = append(d.Tables, t.Table)
		}
	}
	return d
}

// look sees what is on the server, after putting in order what killed restores left.
func (p *PostgresPlan) look(ctx context.Context) (pgserver.Dest, error) {
	var d pgserver.Dest
	var err error
	if p.cfg.DryRun {
		d, err = pgserver.InspectDest(ctx, p.cfg.dest(nil))
	} else {
		var t *pgserver.Target
		if t, err = pgserver.OpenTarget(ctx, p.cfg.dest(nil)); err != nil {
			return d, err
		}
		defer t.Close()
		if p.Recovered, err = t.Recover(ctx); err != nil {
			return d, err
		}
		d, err = t.Inspect(ctx)
	}
	if err != nil {
		return d, err
	}
	return d, d.Refuse(p.cfg.Overwrite, p.cfg.AssumeStopped)
}

// describe writes the steps down.
func (p *PostgresPlan) describe(d pgserver.Dest) {
	cfg := &p.cfg
	p.Database, p.New, p.Replaces = d.Name, !d.Exists, d.Bytes
	step := func(path string, size int64, format string, args ...any) {
		p.Steps = append(p.Steps, Step{Do: fmt.Sprintf(format, args...), Path: path, Size: size})
	}
	for _, l := range d.Left {
		step(l.Database, 0, "remove database %q, which a killed restore had left", l.Database)
	}
	step(cfg.WorkDir, cfg.PlainSize, "unpack archive %s, and prove every entry and its %d encrypted values", p.ID, cfg.Sidecar.SecretsOpened+cfg.Sidecar.SecretsFailed)
	if d.Exists {
		step("", 0, "make a database beside %q, with its owner, locale, grants and settings", d.Name)
	} else {
		step("", 0, "make a new database under a temporary name")
	}
	step("", 0, "load the archive into it, and prove its rows and every secret there")
	if p.files != nil {
		step(p.FilesTo, 0, "put the archive's files in place")
		if p.Config == ConfigWritten {
			step(p.FilesTo+"/config", 0, "write n8n's config with the instance key %s", cfg.KeyFingerprint)
		}
	}
	switch {
	case !d.Exists:
		step("", 0, "give it the name %q: from here on the restore counts", d.Name)
	case d.Empty:
		step("", 0, "swap the two names in one transaction: from here on the restore counts; the empty database is dropped")
	default:
		step("", 0, "close both, end whoever is still connected, swap the two names in one transaction: from here on the restore counts")
		step("", d.Bytes, "keep the old database under a dated name")
	}
	for _, s := range d.Sessions {
		p.Warnings = append(p.Warnings, "session "+s.String()+" is connected, and will be ended")
	}
	for _, x := range d.Extensions {
		p.Warnings = append(p.Warnings, fmt.Sprintf("extension %q of the old database is not n8n's: the new one will not have it", x))
	}
	if p.files != nil && p.Config == ConfigLeftOut {
		p.Warnings = append(p.Warnings, p.keyLine())
	}
	if cfg.Sidecar.State == archive.StateDegraded {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the backup is degraded: %d of %d encrypted values did not open when it was taken", cfg.Sidecar.SecretsFailed, cfg.Sidecar.SecretsOpened+cfg.Sidecar.SecretsFailed))
	}
}

func (p *PostgresPlan) keyLine() string {
	if p.files == nil {
		return fmt.Sprintf("n8n needs the instance key %s: as N8N_ENCRYPTION_KEY, or in the config in its folder", p.cfg.KeyFingerprint)
	}
	return keyLine(&Config{KeyFingerprint: p.cfg.KeyFingerprint})
}

// Apply restores. Until the swap every failure leaves the server and the files as
// they were; a cancelled context counts as a failure. It may be called once.
func (p *PostgresPlan) Apply(ctx context.Context) (PostgresReport, error) {
	if p.cfg.DryRun {
		return PostgresReport{}, problem.New(problem.Unexpected, "applying a plan that was made for looking only")
	}
	if p.cfg.Unpack == nil {
		return PostgresReport{}, errors.New("applying a plan twice")
	}
	a := &applyPostgres{PostgresConfig: p.cfg, plan: p, report: PostgresReport{ID: p.ID, To: p.To, FilesTo: p.FilesTo, Config: p.Config, Warnings: []string{},
		Recovered: append([]string{}, p.Recovered...), Recovery: p.Recovery}}
	p.cfg.Unpack = nil
	began := a.Now()
	err := a.run(ctx)
	a.report.Elapsed = a.Now().Sub(began)
	return a.report, err
}

// applyPostgres is one run of a plan.
type applyPostgres struct {
	PostgresConfig
	plan     *PostgresPlan
	unpacked Unpacked
	report   PostgresReport
}

func (a *applyPostgres) run(ctx context.Context) error {
	a.Progress("unpacking and proving the archive")
	if err := a.unpack(ctx); err != nil {
		return err
	}
	m := &a.unpacked.Manifest
	// Locked from here to the end: time has passed since the plan looked.
	t, err := pgserver.OpenTarget(ctx, a.dest(m))
	if err != nil {
		return err
	}
	defer t.Close()
	did, err := t.Recover(ctx)
	a.report.Recovered = append(a.report.Recovered, did...)
	if err != nil {
		return err
	}
	d, err := t.Inspect(ctx)
	if err != nil {
		return err
	}
	if err := d.Refuse(a.Overwrite, a.AssumeStopped); err != nil {
		return err
	}
	a.Progress("making the database")
	n, err := t.Create(ctx, d, string(a.Sidecar.ID))
	if err != nil {
		return err
	}
	if err := a.fill(ctx, t, n); err != nil {
		return a.unmake(ctx, t, n, err)
	}
	return a.finish(ctx, t, n)
}

func (a *applyPostgres) unpack(ctx context.Context) error {
	var err error
	if a.unpacked, err = a.Unpack(ctx, a.WorkDir); err != nil {
		if problem.KindOf(err) != problem.Unexpected {
			return err
		}
		return a.failed(err, "unpacking archive %q", a.Sidecar.ID)
	}
	failpoint.Hit("restore.unpacked")
	return agree(&a.unpacked.Manifest, &a.Sidecar)
}

// fill loads the new database and proves it.
func (a *applyPostgres) fill(ctx context.Context, t *pgserver.Target, n *pgserver.Temporary) error {
	a.Progress("loading the database")
	if err := a.Load(ctx, n.DSN, a.WorkDir, a.unpacked.Manifest); err != nil {
		return a.failed(err, "loading archive %q", a.Sidecar.ID)
	}
	failpoint.Hit("restore.loaded")
	if err := t.Finish(ctx, n); err != nil {
		return err
	}
	a.Progress("proving the database")
	if err := a.Prove(ctx, n.DSN, a.unpacked.Manifest); err != nil {
		kind := problem.KindOf(err)
		return problem.Wrap(kind, err, "the restored database did not prove itself; it was dropped, and nothing else was changed").WithHint("%s", cmp.Or(problem.HintOf(err), "repeat the restore, or take another archive"))
	}
	failpoint.Hit("restore.proved")
	return nil
}

// unmake drops what did not become the database.
func (a *applyPostgres) unmake(ctx context.Context, t *pgserver.Target, n *pgserver.Temporary, why error) error {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := t.Drop(after, n); err != nil {
		return problem.Wrap(problem.KindOf(why), why, "the restore failed, and the database %q that it had made is still there", n.Name).
			WithHint("%v", err).WithHint("repeat the command: it first removes what is left")
	}
	return why
}

// finish places the files, swaps, and fills the report.
func (a *applyPostgres) finish(ctx context.Context, t *pgserver.Target, n *pgserver.Temporary) error {
	files, err := a.placeFiles(ctx)
	if err != nil {
		return a.unmake(ctx, t, n, err)
	}
	a.Progress("putting the database in place")
	swapped, err := t.Swap(ctx, n, string(a.Sidecar.ID), a.AssumeStopped)
	failpoint.Hit("restore.swapped")
	if err != nil {
		return a.unmake(ctx, t, n, files.undo(err))
	}
	files.complete(&a.report)
	m := &a.unpacked.Manifest
	if d, err := t.Inspect(ctx); err == nil {
		a.report.Database, a.report.DatabaseBytes = d.Name, d.Bytes
	} else {
		a.report.Database = a.plan.Database
	}
	a.report.Kept, a.report.DropLine = swapped.Kept, swapped.DropLine()
	a.report.Warnings = append(a.report.Warnings, n.Warnings...)
	if a.report.Config == ConfigLeftOut {
		a.report.KeyLine = a.plan.keyLine()
	}
	if files == nil && len(a.unpacked.Files) > 0 {
		a.report.FilesLeftOut = int64(len(a.unpacked.Files))
		a.report.Warnings = append(a.report.Warnings, fmt.Sprintf("%d files of n8n's folder in the archive were not restored: give the folder with --files-to DIR", len(a.unpacked.Files)))
	}
	a.report.N8NVersion, a.report.LastMigration, a.report.State = m.N8NVersion, m.LastMigration, m.State
	a.report.SecretsOpened, a.report.SecretsFailed = a.unpacked.SecretsOpened, a.unpacked.SecretsFailed
	return nil
}

// failed words an error that is not for people yet.
func (a *applyPostgres) failed(err error, format string, args ...any) error {
	if problem.KindOf(err) != problem.Unexpected && !errors.Is(err, context.Canceled) {
		return err
	}
	kind := problem.Unexpected
	if errors.Is(err, context.Canceled) {
		kind = problem.Interrupted
	}
	return problem.Wrap(kind, cause(err), format, args...).WithHint("the database %s is as it was", addressName(a.DSN))
}

// addressName is the name of the database in an address, for a message.
func addressName(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil || len(u.Path) < 2 {
		return "on the server"
	}
	return fmt.Sprintf("%q", u.Path[1:])
}
