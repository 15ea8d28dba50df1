package backup

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/pgclient"
	"github.com/n8keep/n8keep/internal/pgcopy"
	"github.com/n8keep/n8keep/internal/pgdump"
	"github.com/n8keep/n8keep/internal/pgserver"
	"github.com/n8keep/n8keep/internal/problem"
)

// Names of a PostgreSQL database inside an archive; docs/format.md is the reference.
const (
	DumpEntry    = "database/postgres.dump" // pg_dump's custom format, in pieces .000001 and so on
	KeptFolder   = "database/kept/"         // rows of tables that the dump has without their rows
	NativeFolder = "database/native/"       // SQL that psql takes
	TablesEntry  = "database/tables.json"   // what verification without a server has to know
)

// Engines that dump a PostgreSQL database.
const (
	EngineAuto   = "auto"    // pg_dump where one as new as the server is found, else native
	EnginePgDump = "pg_dump" // PostgreSQL's own program
	EngineNative = "native"  // no program is needed
)

// Postgres says where a PostgreSQL database is and how it is dumped.
type Postgres struct {
	DSN           string        // URL; may hold the password
	Schema        string        // DB_POSTGRESDB_SCHEMA; "" is public
	Engine        string        // EngineAuto and so on; "" is EngineAuto
	Programs      string        // folder of pg_dump; "" looks in the usual ones
	FromReplica   bool          // allow a standby
	YieldAfter    time.Duration // how long somebody may wait for us; 0: 30 s
	WholeDatabase bool          // also what is not n8n's
}

// lockTimeout is how long a dump waits for a table that somebody changes.
const lockTimeout = time.Minute

// defaultYield is how long an upgrade of n8n may wait for a backup.
const defaultYield = 30 * time.Second

// dumper is the PostgreSQL part of a take.
type dumper struct {
	Postgres
	source   *pgserver.Source
	app      string // application_name of all our sessions
	native   bool
	programs pgclient.Programs
	filters  map[string]n8ndb.RowFilter // by full table name; nil: all rows
	counts   []n8ndb.RowCount           // of what was dumped
}

// openPostgres exports a snapshot, in which everything else then reads. The
// context it returns ends when somebody has waited for us for too long.
func (t *take) openPostgres(ctx context.Context) (_ context.Context, end func(), err error) {
	d := &dumper{Postgres: *t.Postgres, app: "n8keep-" + strings.ToLower(rand.Text()[:12])}
	d.source, err = pgserver.OpenSource(ctx, pgserver.SourceConfig{DSN: d.DSN, AppName: d.app, Schema: d.Schema, TablePrefix: t.TablePrefix,
		FromReplica: d.FromReplica, Logger: t.Logger})
	if err != nil {
		return ctx, nil, err
	}
	yield := d.YieldAfter
	if yield == 0 {
		yield = defaultYield
	}
	watched, stop := d.source.Watch(ctx, yield)
	closeAll := func() {
		if t.db != nil {
			t.db.Close()
		}
		stop()
		d.source.Close()
	}
	defer func() {
		if err != nil {
			err = yielded(watched, err)
			closeAll()
		}
	}()
	if err := d.choose(watched); err != nil {
		return ctx, nil, err
	}
	t.db, err = n8ndb.OpenPostgres(watched, n8ndb.PostgresConfig{DSN: d.DSN, Schema: d.Schema, TablePrefix: t.TablePrefix,
		Snapshot: d.source.Snapshot(), AppName: d.app})
	if err != nil {
		return ctx, nil, err
	}
	if !t.History.All() {
		if d.filters, err = t.db.HistoryFilters(watched, t.History, t.DropWaiting, t.Now()); err != nil {
			return ctx, nil, err
		}
	}
	t.dump, t.notes = d, d.source.Notes()
	failpoint.Hit("backup.snapshot")
	return watched, closeAll, nil
}

// choose finds the program, where one is wanted.
func (d *dumper) choose(ctx context.Context) (err error) {
	switch d.Engine {
	case EngineNative:
		d.native = true
		return nil
	case EngineAuto, EnginePgDump, "":
	default:
		return problem.New(problem.Usage, "unknown engine %q", d.Engine).WithHint("it is auto, pg_dump or native")
	}
	d.programs, err = pgclient.Find(ctx, pgclient.FindConfig{Dir: d.Programs, Server: d.source.Server().Version})
	if err != nil && d.Engine != EnginePgDump && d.Programs == "" && problem.KindOf(err) == problem.Usage {
		d.native = true
		return nil
	}
	return err
}

// lost gives a full disk and the loss of the connection to the database their
// words, wherever they were noticed.
func (t *take) lost(err error) error {
	var p *problem.Error
	if errors.As(err, &p) && (p.Kind != problem.Unexpected || p.Hint != "") {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) {
		return problem.Wrap(problem.Unexpected, err, "no space left in the work folder %q", t.work.Dir).WithHint("free space, or give another folder with --work-dir")
	}
	if t.Postgres == nil {
		return err
	}
	var network *net.OpError // not net.Error, which every system error is: a full disk is no lost connection
	lost := errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &network)
	// What the server says when it is stopped, has lost the session, or has lost the one that exported the snapshot, and
	// the driver when it has closed it.
	for _, text := range []string{"SQLSTATE 57P", "SQLSTATE 08", "conn closed", "invalid snapshot identifier"} {
		lost = lost || strings.Contains(err.Error(), text)
	}
	if lost {
		return problem.Wrap(problem.Unreachable, err, "the connection to the database was lost").
			WithHint("nothing was stored; run the backup again when the server answers")
	}
	return err
}

// yielded prefers the reason for which a context was ended over what came of it.
func yielded(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// intact is err, or that a table was changed so that the snapshot does not show its
// rows any more, which reading does not notice, or fails of in ways that say little.
func (t *take) intact(ctx context.Context, err error) error {
	if t.dump == nil || err != nil && problem.KindOf(err) != problem.Unexpected {
		return err
	}
	if changed := t.dump.source.Intact(ctx, t.dump.WholeDatabase); err == nil || problem.KindOf(changed) == problem.Busy {
		return changed
	}
	return err
}

// writeDump puts the database into the archive.
func (t *take) writeDump(ctx context.Context, w *archive.Writer) error {
	d := t.dump
	tables, err := t.db.Tables(ctx)
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(tables, "", "  ")
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "describing the tables")
	}
	if err := addBytes(w, TablesEntry, text, 0o600, t.Now()); err != nil {
		return err
	}
	sweep, err := t.newDumpSweep(ctx)
	if err != nil {
		return err
	}
	if d.native {
		err = t.writeNative(ctx, w, sweep)
	} else {
		err = t.writePgDump(ctx, w, sweep)
	}
	if err != nil {
		return err
	}
	t.report(sweep.sweeper.Census())
	d.counts, err = sweep.counts(tables, t.TablePrefix, d.filters)
	return err
}

func (t *take) writeNative(ctx context.Context, w *archive.Writer, sweep *dumpSweep) error {
	d := t.dump
	filters := map[string]pgdump.Filter{}
	for table, f := range d.filters {
		filters[table] = pgdump.Filter(f)
	}
	report := t.Progress.of("dumping the database")
	look := sweep.sweepers(ctx)
	made, err := pgdump.Dump(ctx, pgdump.DumpConfig{DSN: d.DSN, Snapshot: d.source.Snapshot(), AppName: d.app, Schema: t.db.Schema(), TablePrefix: t.TablePrefix,
		WholeDatabase: d.WholeDatabase, LockTimeout: lockTimeout, Filters: filters, Progress: func(done, _ int64) { report(done, d.source.Server().Bytes) },
		Emit: t.emit(w, NativeFolder, look), Logger: t.Logger})
	if looked := look.close(); looked != nil {
		return looked
	}
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.notes = append(t.notes, made.Notes...)
	t.mu.Unlock()
	return sweep.agree(made.Rows)
}

// emit puts files of the native engine into the archive, and has their rows looked
// through.
func (t *take) emit(w *archive.Writer, folder string, look *sweepers) func(name string, body []byte) error {
	return func(name string, body []byte) error {
		if (folder == KeptFolder || strings.HasPrefix(name, "data/")) && !look.add(body) {
			return errReading
		}
		return addBytes(w, folder+name, body, 0o600, t.Now())
	}
}

func (t *take) writePgDump(ctx context.Context, w *archive.Writer, sweep *dumpSweep) error {
	d := t.dump
	report := t.Progress.of("dumping the database")
	total := d.source.Server().Bytes
	s := w.Stream(DumpEntry, 0o600)
	tee, closeTee := sweep.tee(ctx, d.programs, s)
	err := pgclient.Dump(ctx, pgclient.DumpConfig{Programs: d.programs, DSN: d.DSN, Snapshot: d.source.Snapshot(), AppName: d.app, Schema: t.db.Schema(),
		TablePrefix: t.TablePrefix, Extensions: d.source.Extensions(), WholeDatabase: d.WholeDatabase, LockTimeout: lockTimeout, ExcludeData: slices.Sorted(maps.Keys(d.filters)),
		Out: &countingWriter{w: tee, report: func(n int64) { report(n, total) }}, Logger: t.Logger})
	err = closeTee(err)
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	failpoint.Hit("backup.dumped")
	look := sweep.sweepers(ctx)
	err = t.writeKept(ctx, w, look)
	if looked := look.close(); looked != nil {
		return looked
	}
	return err
}

// writeKept adds the rows that stay of tables whose rows pg_dump has left out.
func (t *take) writeKept(ctx context.Context, w *archive.Writer, look *sweepers) error {
	d := t.dump
	number := 0
	for _, table := range slices.Sorted(maps.Keys(d.filters)) {
		f := d.filters[table]
		if f.Query == "" {
			continue
		}
		number++
		_, err := pgdump.CopyRows(ctx, pgdump.CopyConfig{DSN: d.DSN, Snapshot: d.source.Snapshot(), AppName: d.app, Schema: t.db.Schema(), Table: table,
			Filter: pgdump.Filter(f), First: number, LockTimeout: lockTimeout, Emit: t.emit(w, KeptFolder, look)})
		if err != nil {
			return err
		}
	}
	return nil
}

type countingWriter struct {
	w      io.Writer
	n      int64
	report func(int64)
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.report(c.n)
	return n, err
}

// isDump reports whether an entry belongs to a PostgreSQL database.
func isDump(name string) bool {
	return name == TablesEntry || strings.HasPrefix(name, DumpEntry+".") || strings.HasPrefix(name, KeptFolder) || strings.HasPrefix(name, NativeFolder)
}

// proveDump reads a dump to its end, as it stands below dir, and proves what is in
// it without a server: rows are counted, and the secrets of the catalogue are
// opened in a private database made of the dump's own rows.
func (v *verifier) proveDump(ctx context.Context, dir, storage string) (err error) {
	var tables []n8ndb.Table
	b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(TablesEntry)))
	if err == nil {
		err = json.Unmarshal(b, &tables)
	}
	if err != nil {
		return v.damaged(errors.New("the description of its tables cannot be read"))
	}
	m := v.result.Manifest
	scratch, err := n8ndb.NewScratch(ctx, n8ndb.ScratchConfig{Path: filepath.Join(dir, "scratch.sqlite"), Tables: tables, Schema: m.Schema, TablePrefix: m.TablePrefix})
	if err != nil {
		return v.dumpProblem(err)
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	if err := v.readDump(ctx, dir, scratch.Handler()); err != nil {
		return err
	}
	db, err := scratch.Finish(ctx)
	if err != nil {
		return v.dumpProblem(err)
	}
	defer db.Close()
	counts, err := db.RowCounts(ctx)
	if err != nil {
		return err
	}
	if err := v.sameCounts(counts); err != nil {
		return err
	}
	if v.Level < Secrets {
		return nil
	}
	return v.proveSecrets(ctx, db, storage)
}

// readDump goes through every row of the dump below dir.
func (v *verifier) readDump(ctx context.Context, dir string, h pgcopy.Handler) error {
	dump := filepath.Join(dir, filepath.FromSlash(DumpEntry))
	_, err := os.Stat(dump)
	switch {
	case err == nil:
		if err := v.readCustom(ctx, dump, h); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return problem.Wrap(problem.Unexpected, err, "reading the dump")
	}
	for _, folder := range []string{KeptFolder, NativeFolder + "data/"} {
		files, err := os.ReadDir(filepath.Join(dir, filepath.FromSlash(folder)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return problem.Wrap(problem.Unexpected, err, "reading the dump")
		}
		for _, f := range files {
			if err := v.readScript(ctx, filepath.Join(dir, filepath.FromSlash(folder), f.Name()), h); err != nil {
				return err
			}
		}
	}
	return nil
}

// readCustom has pg_restore write the dump as text.
func (v *verifier) readCustom(ctx context.Context, dump string, h pgcopy.Handler) error {
	programs, err := pgclient.Find(ctx, pgclient.FindConfig{Dir: v.Programs})
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := pgclient.Script(ctx, programs, dump, w)
		w.CloseWithError(err)
		done <- err
	}()
	read := pgcopy.ReadScript(r, h)
	r.CloseWithError(errAborted)
	if err := <-done; err != nil && !errors.Is(err, errAborted) {
		return err
	}
	return v.dumpProblem(read)
}

func (v *verifier) readScript(ctx context.Context, path string, h pgcopy.Handler) error {
	f, err := os.Open(path)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading the dump")
	}
	defer f.Close()
	return v.dumpProblem(pgcopy.ReadScript(&countingReader{ctx: ctx, r: f}, h))
}

func (v *verifier) dumpProblem(err error) error {
	var p *problem.Error
	switch {
	case err == nil, errors.As(err, &p):
		return err
	case errors.Is(err, context.Canceled):
		return problem.Wrap(problem.Interrupted, err, "reading archive %q", v.ID)
	}
	return v.damaged(err)
}

// ProvePostgres is Prove for a database on a server.
func ProvePostgres(ctx context.Context, cfg VerifyConfig, found *Verified, dsn string) error {
	cfg.Level = Secrets
	v := &verifier{VerifyConfig: cfg, result: Verified{Sidecar: found.Sidecar, Manifest: found.Manifest, Level: Secrets, list: found.list}}
	m := found.Manifest
	db, err := n8ndb.OpenPostgres(ctx, n8ndb.PostgresConfig{DSN: dsn, Schema: m.Schema, TablePrefix: m.TablePrefix})
	if err != nil {
		return err
	}
	defer db.Close()
	counts, err := db.RowCounts(ctx)
	if err != nil {
		return err
	}
	if err := v.sameCounts(counts); err != nil {
		return err
	}
	return v.proveSecrets(ctx, db, "")
}

// extractDump joins the pieces of a dump into one file.
func extractDump(dir string, r io.Reader) error {
	path := filepath.Join(dir, filepath.FromSlash(DumpEntry))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	return f.Close()
}
