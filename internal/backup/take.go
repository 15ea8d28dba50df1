package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// Names inside an archive; docs/format.md is the reference.
const (
	DatabaseEntry    = "database/database.sqlite"
	workflowFolder   = "workflows/"
	FileFolder       = "files/"
	deploymentFolder = "deployment/"
)

// Create takes one backup. It returns a Result with the archive's sidecar; a
// degraded archive is a Result, not an error. After an error nothing is visible
// in the target, save possibly an archive without its sidecar when the target
// failed between the two.
func Create(ctx context.Context, cfg Config) (*Result, error) {
	start := time.Now()
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := archive.CheckInstanceName(cfg.Instance); err != nil {
		return nil, (&problem.Error{Kind: problem.Usage, Err: err}).WithHint("choose a name with --instance")
	}
	kind, err := archive.RecipientKind(cfg.Recipients)
	if err != nil {
		return nil, problem.Wrap(problem.Usage, err, "recipients").
			WithHint("give at least one --recipient age1..., all X25519 or all hybrid post-quantum")
	}
	lock, err := lockInstance(cfg.LockDir, cfg.Instance)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	work, err := OpenWork(cfg.WorkDir, cfg.Logger)
	if err != nil {
		return nil, err
	}
	defer work.Close()

	// The fingerprint costs half a second on purpose; the snapshot hides it.
	fingerprint := make(chan string, 1)
	go func() { fingerprint <- string(cfg.Key.Fingerprint()) }()

	t := &take{Config: cfg, work: work, kind: kind}
	ctx, end, err := t.open(ctx)
	if err != nil {
		return nil, t.lost(err)
	}
	defer end()
	t.fingerprint = <-fingerprint
	sidecar, err := t.run(ctx)
	if err != nil {
		return nil, t.lost(yielded(ctx, err))
	}
	return &Result{Sidecar: sidecar, Targets: t.up.stored(), Findings: t.findings,
		Failures: t.census.Failures, Warnings: t.warnings, Notes: t.notes, Elapsed: time.Since(start)}, nil
}

// take is one run of Create after its checks.
type take struct {
	Config
	work        *Work
	kind        string  // of the recipients
	copy        string  // the private copy of an SQLite database
	dump        *dumper // of a PostgreSQL database; nil otherwise
	db          *n8ndb.DB
	fingerprint string
	keys        *n8ndb.Keyset
	digester    *archive.Digester
	up          *uploads
	needle      *n8ndb.Needle

	mu       sync.Mutex
	findings []archive.Finding
	warnings []string
	notes    []string

	bundles   []string      // execution data outside the database, below storage
	storage   string        // held copies of execution data outside the database; "" without
	checked   chan struct{} // closed when the integrity check is through
	damaged   bool          // what it found; to be read after that
	census    *n8ndb.Census
	workflows int64
}

func (t *take) find(code, place, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.findings = append(t.findings, archive.Finding{Code: code, Place: place, Detail: fmt.Sprintf(format, args...)})
}

func (t *take) warn(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.warnings = append(t.warnings, fmt.Sprintf(format, args...))
}

// open brings the database to a standstill: what is proved is what is archived.
// The context it returns is the one to go on with until end.
func (t *take) open(ctx context.Context) (_ context.Context, end func(), err error) {
	switch {
	case t.Postgres != nil:
		return t.openPostgres(ctx)
	case t.Only == OnlyWorkflows:
		t.db, err = n8ndb.OpenSQLite(ctx, n8ndb.SQLiteConfig{Path: t.Database, TablePrefix: t.TablePrefix})
	default:
		t.copy = filepath.Join(t.work.Dir, "database.sqlite")
		if err := t.snapshot(ctx); err != nil {
			return ctx, nil, err
		}
		t.db, err = n8ndb.OpenSQLite(ctx, n8ndb.SQLiteConfig{Path: t.copy, TablePrefix: t.TablePrefix, Immutable: true})
	}
	if err != nil {
		return ctx, nil, err
	}
	return ctx, func() { t.db.Close() }, nil
}

func (t *take) snapshot(ctx context.Context) error {
	size, err := fileSize(t.Database)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "looking at the database")
	}
	wal, err := fileSize(t.Database + "-wal")
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "looking at the database")
	}
	if t.History.All() {
		if err := t.work.Need(size + wal + 16<<20); err != nil {
			return err
		}
	}
	report, err := n8ndb.Snapshot(ctx, n8ndb.SnapshotConfig{Source: t.Database, Dest: t.copy, TablePrefix: t.TablePrefix,
		History: t.History, DropWaiting: t.DropWaiting, Now: t.Now, Progress: t.Progress.of("copying the database")})
	if err != nil {
		return err
	}
	failpoint.Hit("backup.snapshot")
	if report.BlockedWriter {
		t.warn("the database uses a rollback journal (n8n 1.x): n8n could not save while it was copied, for %s", report.Duration.Round(time.Millisecond))
	}
	return nil
}

// run proves the copy and streams the archive at the same time; the sidecar is
// written when both agree.
func (t *take) run(ctx context.Context) (archive.Sidecar, error) {
	id := archive.NewID(t.Now(), t.Instance)
	salt := archive.NewSalt()
	version, err := t.db.Version(ctx)
	if err != nil {
		return archive.Sidecar{}, err
	}
	if version.Warning != "" {
		t.warn("%s", version.Warning)
	}
	if t.keys, err = t.db.Keyset(ctx, t.Receipt, t.Key); err != nil {
		return archive.Sidecar{}, err
	}
	t.census = &n8ndb.Census{}
	if t.digester, err = archive.NewDigester([]byte(t.Key.Reveal()), salt); err != nil {
		return archive.Sidecar{}, problem.Wrap(problem.Unexpected, err, "preparing digests")
	}
	t.needle = n8ndb.NewNeedle(t.Key, t.OtherKeys...)
	if t.needle.Weak() {
		t.warn("the instance key has fewer than 16 characters: it is weak, and looked for only as a whole value")
	}

	header := archive.Header{Format: archive.FormatVersion, ID: id, Instance: t.Instance, Created: id.Time(),
		KeyFingerprint: t.fingerprint, Tool: t.Tool}
	manifest := archive.Manifest{Format: archive.FormatVersion, ID: id, Instance: t.Instance, Created: id.Time(), Tool: t.Tool,
		Engine: t.engine(), Schema: t.db.Schema(), N8NVersion: version.N8N, LastMigration: version.LastMigration, TablePrefix: t.TablePrefix,
		KeyFingerprint: t.fingerprint, DigestSalt: salt, History: t.History.String()}

	up := startUploads(ctx, t.Stores, id.ArchiveName())
	t.up = up
	defer up.abort()
	w, err := archive.NewWriter(up, archive.WriterConfig{Header: header, Recipients: t.Recipients, SpoolDir: t.work.Dir})
	if err != nil {
		return archive.Sidecar{}, up.explain(problem.Wrap(problem.Unexpected, err, "starting the archive"))
	}
	defer w.Abort()

	if t.Only == OnlyWorkflows {
		manifest.History = "none"
		err = t.writeWorkflows(ctx, w)
	} else {
		err = t.whole(ctx, w, &manifest)
	}
	if err = t.intact(ctx, err); err != nil {
		return archive.Sidecar{}, up.explain(err)
	}
	for _, p := range t.census.Places {
		manifest.Census = append(manifest.Census, archive.PlaceCount{Place: string(p.ID), Values: p.Values, Opened: p.Opened,
			Failed: p.Failed, Plaintext: p.Plain, ByKey: p.ByKey})
	}
	manifest.State, manifest.Findings, manifest.Unproved = t.state(), t.findings, t.unproved()
	failpoint.Hit("backup.manifest")
	sum, err := w.Close(manifest)
	if err != nil {
		return archive.Sidecar{}, up.explain(problem.Wrap(problem.Unexpected, err, "finishing the archive"))
	}
	if err := up.finish(); err != nil {
		return archive.Sidecar{}, err
	}
	failpoint.Hit("backup.archive-stored")

	sidecar := archive.Sidecar{Format: archive.FormatVersion, ID: id, Instance: t.Instance, Created: id.Time(), State: manifest.State,
		Unproved: manifest.Unproved, Engine: manifest.Engine, N8NVersion: manifest.N8NVersion, LastMigration: manifest.LastMigration,
		KeyFingerprint: t.fingerprint, RecipientKind: t.kind, History: manifest.History, Size: sum.Size, PlainSize: sum.PlainSize, SHA256: sum.SHA256,
		Entries: int64(sum.Entries), Secrets: t.census.Values, SecretsOpened: t.census.Opened, SecretsFailed: t.census.Failed,
		Workflows: t.workflows, Findings: int64(len(t.findings))}
	return sidecar, t.commit(ctx, sidecar)
}

// whole proves and writes a database and what belongs to it.
func (t *take) whole(ctx context.Context, w *archive.Writer, manifest *archive.Manifest) error {
	ctx, cancel := context.WithCancel(ctx)
	checked := t.startIntegrity(ctx)
	defer func() { cancel(); <-t.checked }()
	// First what decides whether the rest is worth doing: a key that opens the catalogue.
	if err := t.holdBundles(ctx); err != nil {
		return err
	}
	if err := t.prove(ctx, w); err != nil {
		return err
	}
	if err := t.findRunning(ctx); err != nil {
		return err
	}
	if t.dump != nil {
		var counts []n8ndb.RowCount
		if err := t.together(ctx,
			func(ctx context.Context) error { return t.write(ctx, w) }, // which sweeps and counts on the way
			func(ctx context.Context) (err error) {
				counts, err = t.db.FilteredCounts(ctx, t.dump.filters)
				return err
			},
		); err != nil {
			return err
		}
		manifest.Tables = tableCounts(counts)
		return sameRows(t.dump.counts, counts)
	}
	if err := t.together(ctx,
		func(ctx context.Context) error { return t.sweep(ctx) },
		func(ctx context.Context) error { return t.write(ctx, w) },
		func(context.Context) error { return checked() },
	); err != nil {
		return err
	}
	counts, err := t.db.RowCounts(ctx)
	if err := t.tolerate(err); err != nil {
		return err
	}
	manifest.Tables = tableCounts(counts)
	return nil
}

func tableCounts(counts []n8ndb.RowCount) (list []archive.TableCount) {
	for _, c := range counts {
		list = append(list, archive.TableCount{Table: c.Table, Rows: c.Rows})
	}
	return list
}

// findRunning says what was going on: such an execution is archived half-way.
func (t *take) findRunning(ctx context.Context) error {
	running, err := t.db.Running(ctx)
	if err := t.tolerate(err); err != nil || len(running) == 0 {
		return err
	}
	t.find(FindingRunning, "execution_entity", "%s running when the database was copied, %s of workflow %s among them; n8n marks them as crashed after a restore",
		wasOrWere(len(running)), running[0].ID, running[0].WorkflowID)
	return nil
}

func wasOrWere(n int) string {
	if n == 1 {
		return "1 execution was"
	}
	return count(int64(n), "execution") + " were"
}

func (t *take) engine() string {
	if t.Only == OnlyWorkflows {
		return EngineWorkflows
	}
	return string(t.db.Engine())
}

// commit writes the sidecar: from here on the archive exists.
func (t *take) commit(ctx context.Context, s archive.Sidecar) error {
	signed, err := archive.SignSidecar(s, t.SigningKey)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "signing the sidecar")
	}
	failpoint.Hit("backup.sidecar")
	if err := t.up.commit(ctx, s.ID, signed); err != nil {
		return err
	}
	failpoint.Hit("backup.committed")
	return nil
}

// together runs the functions side by side; the first error cancels the others.
func (t *take) together(ctx context.Context, fs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, f := range fs {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// targetProblem gives an error of a store its kind and the next step, unless the
// store has named a better one.
func targetProblem(err error, store blob.Store, format string, args ...any) *problem.Error {
	where := flagValue(store.Properties().Location)
	switch {
	case errors.Is(err, context.Canceled):
		return problem.New(problem.Interrupted, format+": interrupted", args...).WithHint("run the command again; what it had begun counts for nothing and is removed")
	case errors.Is(err, blob.ErrNotFound):
		return problem.Wrap(problem.NotFound, err, format, args...).WithHint("see what is there: \"n8keep backup list --target %s\"", where)
	case problem.HintOf(err) != "":
		return problem.Wrap(problem.Unreachable, err, format, args...).WithHint("%s", problem.HintOf(err))
	case errors.Is(err, os.ErrPermission):
		return problem.Wrap(problem.Unreachable, err, format, args...).WithHint("this user has not the rights for it in %s", where)
	}
	p := problem.Wrap(problem.Unreachable, err, format, args...)
	if strings.Contains(where, "://") {
		return p.WithHint("check the address %s, the network and the credentials, and what they may do, with \"n8keep target check URL\"", where)
	}
	return p.WithHint("check the target %s: free space, permissions, mount", where)
}

// flagValue writes a path so that a shell takes it as one word.
func flagValue(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./~-]+$`)
