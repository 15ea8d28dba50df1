package pgclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/pgcopy"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// role makes a login role without any rights, dropped with what it owns.
func role(t testing.TB, dsn string) (name, password string) {
	t.Helper()
	name, password = fmt.Sprintf("r_%d", time.Now().UnixNano()), "s3cret of a role"
	execute(t, dsn, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'`, name, password))
	t.Cleanup(func() {
		execute(t, with(t, dsn, func(u *url.URL) { u.Path = "/postgres" }), "DROP ROLE "+name)
	})
	return name, password
}

func as(t testing.TB, dsn, name, password string) string {
	return with(t, dsn, func(u *url.URL) { u.User = url.UserPassword(name, password) })
}

// TestDumpAndRestore: a real n8n's database, to a role that is no superuser in a database that is its own.
func TestDumpAndRestore(t *testing.T) {
	source := pgtest.Restore(t, fixture)
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole=%v", whole), func(t *testing.T) {
			cfg := DumpConfig{DSN: source, AppName: "n8keep-test", WholeDatabase: whole}
			if !whole {
				cfg.Extensions = []string{"uuid-ossp"}
			}
			file := dumpTo(t, cfg)
			target := pgtest.New(t)
			name, password := role(t, target)
			execute(t, target, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO `+name+`', current_database()); END $$`)
			t.Cleanup(func() {
				execute(t, target, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO postgres', current_database()); END $$`, "REASSIGN OWNED BY "+name+" TO postgres", "DROP OWNED BY "+name)
			})
			warnings, err := Restore(t.Context(), RestoreConfig{Programs: programs(t), DSN: as(t, target, name, password), File: file, Jobs: 2, AppName: "n8keep-test"})
			if err != nil || len(warnings) > 0 {
				t.Fatalf("%v, warnings %q", err, warnings)
			}
			if d := cmp.Diff(schemaOf(t, source), schemaOf(t, target)); d != "" {
				t.Errorf("schemas differ (-source +restored):\n%s", d)
			}
			if owner := query(t, target, `SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'credentials_entity'`); owner != name {
				t.Errorf("credentials_entity belongs to %s, want %s", owner, name)
			}
			const digest = `SELECT string_agg(md5(c::text), ' ' ORDER BY id) FROM credentials_entity c`
			if a, b := query(t, source, digest), query(t, target, digest); a == "" || a != b {
				t.Errorf("credentials differ: %s, %s", a, b)
			}
		})
	}
}

// TestSections: rows loaded between data and constraints, as a backup without history does it.
func TestSections(t *testing.T) {
	source := pgtest.New(t)
	execute(t, source, `CREATE TABLE parent (id int PRIMARY KEY)`, `CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent)`,
		`INSERT INTO parent VALUES (1), (2)`, `INSERT INTO child VALUES (1, 1), (2, 2)`)
	file := dumpTo(t, DumpConfig{DSN: source, ExcludeData: []string{"parent"}})
	target := pgtest.New(t)
	cfg := RestoreConfig{Programs: programs(t), DSN: target, File: file, Sections: []string{"pre-data", "data"}}
	if _, err := Restore(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if got := query(t, target, `SELECT (SELECT count(*) FROM parent)||' '||(SELECT count(*) FROM child)`); got != "0 2" {
		t.Errorf("rows %s, want 0 2", got)
	}
	post := cfg
	post.Sections = []string{"post-data"}
	_, err := Restore(t.Context(), post)
	if err == nil {
		t.Fatal("a constraint that does not hold was restored")
	}
	if msg := err.Error(); !strings.Contains(msg, `insert or update on table "child" violates foreign key constraint "child_p_fkey"`) ||
		!strings.Contains(msg, "(statement: ALTER TABLE ONLY public.child ADD CONSTRAINT") || strings.Contains(msg, "(p)=(1)") {
		t.Errorf("%s", msg)
	}
	target = pgtest.New(t)
	cfg.DSN, post.DSN = target, target
	if _, err := Restore(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	execute(t, target, `INSERT INTO parent VALUES (1), (2)`)
	if _, err := Restore(t.Context(), post); err != nil {
		t.Error(err)
	}
}

// TestNames: schema, prefix and tables with everything that a pattern could take for something else.
func TestNames(t *testing.T) {
	source := pgtest.New(t)
	const schema, prefix = `My."S*ma`, `n8N_.é?"`
	q := quotePattern
	name := func(table string) string { return q(schema) + "." + q(table) }
	var want []string
	for i, table := range []string{prefix, prefix + "a", prefix + "B.c", prefix + `d"e*`, prefix + "plain", prefix + "$x|(y)[z]"} {
		execute(t, source, `CREATE SCHEMA IF NOT EXISTS `+q(schema), `CREATE TABLE `+name(table)+` (id serial PRIMARY KEY)`, `INSERT INTO `+name(table)+` VALUES (DEFAULT)`)
		rows := "end 1"
		if i%2 == 1 {
			rows = ""
		}
		want = append(want, strings.TrimSpace(table+" "+rows))
	}
	execute(t, source, `CREATE FUNCTION `+q(schema)+`.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`,
		`CREATE TRIGGER touch BEFORE UPDATE ON `+name(prefix+"a")+` FOR EACH ROW EXECUTE FUNCTION `+q(schema)+`.touch()`,
		`CREATE SEQUENCE `+name("owned")+` OWNED BY `+name(prefix+"a")+`.id`,
		`CREATE EXTENSION "uuid-ossp"`, `ALTER TABLE `+name(prefix+"a")+` ADD u uuid DEFAULT uuid_generate_v4()`)
	for _, foreign := range []string{"n8N_.é?", "n8n_.é?\"", "N8N_.é?\"", "n8N_xé?\"", "n8N_.éa\"", "x" + prefix, "n", "other", "n8N__é?\"a", "zzz"} {
		execute(t, source, `CREATE TABLE `+name(foreign)+` (id serial)`, `CREATE VIEW `+name(foreign+" view")+` AS SELECT 1 AS a`)
	}
	execute(t, source, `CREATE TABLE public.`+q(prefix+"a")+` (id int)`)

	file := dumpTo(t, DumpConfig{DSN: source, Schema: schema, TablePrefix: prefix, Extensions: []string{"uuid-ossp"},
		ExcludeData: []string{prefix + "a", prefix + `d"e*`, prefix + "$x|(y)[z]"}})
	var script bytes.Buffer
	if err := Script(t.Context(), programs(t), file, &script); err != nil {
		t.Fatal(err)
	}
	blocks := blockCounter{}
	if err := pgcopy.ReadScript(&script, blocks); err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		table, rows := w, ""
		if t, r, ok := strings.Cut(w, " end "); ok {
			table, rows = t, r
		}
		if got := blocks[schema+"."+table]; got != rows {
			t.Errorf("%q has %q rows, want %q", table, got, rows)
		}
		delete(blocks, schema+"."+table)
	}
	if len(blocks) > 0 {
		t.Errorf("foreign tables in the dump: %v", blocks)
	}

	for _, existing := range []bool{false, true} {
		target := pgtest.New(t)
		cfg := RestoreConfig{Programs: programs(t), DSN: target, File: file}
		if existing {
			execute(t, target, `CREATE SCHEMA `+q(schema), `CREATE EXTENSION "uuid-ossp"`)
			cfg.Schemas = []string{schema}
		}
		if _, err := Restore(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		got := query(t, target, `SELECT string_agg(relname, E'\n' ORDER BY relname COLLATE "C") FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = $1 AND relkind IN ('r', 'v', 'S')`, schema)
		for line := range strings.SplitSeq(got, "\n") {
			if !strings.HasPrefix(line, prefix) && line != "owned" {
				t.Errorf("%q was restored", line)
			}
		}
		if n := strings.Count(got, "\n") + 1; n != 2*len(want)+1 {
			t.Errorf("%d tables and sequences, want %d:\n%s", n, 2*len(want)+1, got)
		}
		if n := query(t, target, `SELECT count(*)::text FROM pg_trigger WHERE tgname = 'touch'`); n != "1" {
			t.Errorf("%s triggers, want 1", n)
		}
	}
}

type blockCounter map[string]string

var last string

func (b blockCounter) Begin(t pgcopy.Table) (bool, error) { last = t.String(); return true, nil }
func (b blockCounter) Row([][]byte) error                 { return nil }
func (b blockCounter) End(rows int64) error               { b[last] = fmt.Sprint(rows); return nil }

func TestPrefixThatCannotBeExpressed(t *testing.T) {
	err := Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: "postgres://u@h/d", TablePrefix: "n𝄞", Out: io.Discard})
	wantProblem(t, err, problem.Usage, `the table prefix "n𝄞" has a character that pg_dump's patterns cannot express`, "--engine native")
}

// TestSnapshot: what is dumped is what the exported snapshot sees.
func TestSnapshot(t *testing.T) {
	dsn := pgtest.New(t)
	execute(t, dsn, `CREATE TABLE t (a int)`, `INSERT INTO t VALUES (1)`)
	conn := connectTo(t, dsn)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY`); err != nil {
		t.Fatal(err)
	}
	var snapshot string
	if err := tx.QueryRow(t.Context(), `SELECT pg_export_snapshot()`).Scan(&snapshot); err != nil {
		t.Fatal(err)
	}
	execute(t, dsn, `INSERT INTO t VALUES (2)`)
	var out, script bytes.Buffer
	cfg := DumpConfig{Programs: programs(t), DSN: dsn, Snapshot: snapshot, Out: &out}
	if err := Dump(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := ScriptFrom(t.Context(), cfg.Programs, &out, &script); err != nil {
		t.Fatal(err)
	}
	blocks := blockCounter{}
	if err := pgcopy.ReadScript(&script, blocks); err != nil {
		t.Fatal(err)
	}
	if got := blocks["public.t"]; got != "1" {
		t.Errorf("%s rows, want the 1 of the snapshot", got)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = Dump(t.Context(), cfg)
	wantProblem(t, err, problem.Unreachable, fmt.Sprintf(`dumping the database: query failed: ERROR: invalid snapshot identifier: "%s" (statement: SET TRANSACTION SNAPSHOT '%[1]s')`, snapshot),
		"the session that holds the snapshot has ended: run it again")
}

func TestDumpRefusals(t *testing.T) {
	dsn := pgtest.New(t)
	execute(t, dsn, `CREATE TABLE "Locked" (a int)`)
	name, password := role(t, dsn)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf(`connection to server at "127.0.0.1", port %s failed`, u.Port())
	locker, err := connectTo(t, dsn).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := locker.Exec(t.Context(), `LOCK TABLE "Locked"`); err != nil {
		t.Fatal(err)
	}
	defer locker.Rollback(context.WithoutCancel(t.Context()))
	t.Setenv("PGPASSFILE", "/dev/null")
	for _, c := range []struct {
		name       string
		cfg        DumpConfig
		kind       problem.Kind
		text, hint string
	}{
		{"wrong password", DumpConfig{DSN: as(t, dsn, "postgres", "not the password")}, problem.Unreachable,
			at + `: FATAL: password authentication failed for user "postgres"`, "check user and password"},
		{"no password", DumpConfig{DSN: with(t, dsn, func(u *url.URL) { u.User = url.User("postgres") })}, problem.Unreachable,
			at + `: fe_sendauth: no password supplied`, "check user and password"},
		{"unknown role", DumpConfig{DSN: as(t, dsn, "nobody", "x")}, problem.Unreachable,
			at + `: FATAL: password authentication failed for user "nobody"`, "check user and password"},
		{"unknown database", DumpConfig{DSN: with(t, dsn, func(u *url.URL) { u.Path = "/not there" })}, problem.NotFound,
			at + `: FATAL: database "not there" does not exist`, "DB_POSTGRESDB_DATABASE"},
		{"nobody listens", DumpConfig{DSN: "postgres://u:secret@127.0.0.1:1/d"}, problem.Unreachable,
			`connection to server at "127.0.0.1", port 1 failed: Connection refused Is the server running on that host and accepting TCP/IP connections?`, "check host, port"},
		{"no TLS there", DumpConfig{DSN: param(t, dsn, "sslmode", "require")}, problem.Unreachable,
			at + `: server does not support SSL, but SSL was required`, "check sslmode"},
		{"no permission", DumpConfig{DSN: as(t, dsn, name, password)}, problem.Unreachable,
			`query failed: ERROR: permission denied for table Locked (statement: LOCK TABLE public."Locked" IN ACCESS SHARE MODE)`, "grant this user"},
		{"locked", DumpConfig{DSN: dsn, LockTimeout: time.Millisecond}, problem.Busy,
			`query failed: ERROR: canceling statement due to statement timeout (statement: LOCK TABLE public."Locked" IN ACCESS SHARE MODE)`, "try again later"},
		{"no schema", DumpConfig{DSN: dsn, Schema: "N8N"}, problem.NotFound, `no matching schemas were found for pattern ""N8N""`, "DB_POSTGRESDB_SCHEMA"},
		{"no extension", DumpConfig{DSN: dsn, Extensions: []string{"uuid-ossp"}}, problem.NotFound, `no matching extensions were found for pattern ""uuid-ossp""`, "check schema"},
		{"passphrase", DumpConfig{DSN: param(t, dsn, "sslpassword", "hush")}, problem.Usage, "a client key with a passphrase (sslpassword) cannot be handed to PostgreSQL's programs", "openssl pkey"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.Programs, c.cfg.Out = programs(t), io.Discard
			text := "dumping the database: " + c.text
			if c.name == "passphrase" {
				text = c.text
			}
			wantProblem(t, Dump(t.Context(), c.cfg), c.kind, text, c.hint)
		})
	}
}

// TestOutputFails: the disk that takes the dump is full.
func TestOutputFails(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	err = Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: bigTable(t), Out: full})
	if !errors.Is(err, syscall.ENOSPC) || err.Error() != "dumping the database: writing the output of pg_dump: write /dev/full: no space left on device" {
		t.Errorf("%v", err)
	}
}

// TestTerminated: an administrator ends the session in the middle of the dump.
func TestTerminated(t *testing.T) {
	dsn := bigTable(t)
	ended := &once{do: func() {
		if got := query(t, dsn, `SELECT bool_and(pg_terminate_backend(pid))::text FROM pg_stat_activity WHERE application_name = $1`, unique("terminated")); got != "true" {
			t.Errorf("no session to terminate: %q", got)
		}
	}}
	err := Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: dsn, AppName: unique("terminated"), Out: ended})
	// What follows depends on what pg_dump had read by then.
	text := fmt.Sprint(err)
	if problem.KindOf(err) != problem.Unreachable || !strings.HasPrefix(text, `dumping the database: Dumping the contents of table "big" failed: PQget`) ||
		!strings.Contains(text, "terminating connection") && !strings.Contains(text, "server closed the connection") || !strings.Contains(problem.HintOf(err), "run it again") {
		t.Errorf("%s: %v, hint %q", problem.KindOf(err), err, problem.HintOf(err))
	}
}

// TestCancelledOnServer: somebody calls pg_cancel_backend.
func TestCancelledOnServer(t *testing.T) {
	dsn := bigTable(t)
	ended := &once{do: func() {
		query(t, dsn, `SELECT bool_and(pg_cancel_backend(pid))::text FROM pg_stat_activity WHERE application_name = $1`, unique("cancelled"))
	}}
	err := Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: dsn, AppName: unique("cancelled"), Out: ended})
	if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "canceling statement due to user request") {
		t.Errorf("%s %v", problem.KindOf(err), err)
	}
}

// bigTable is a database whose dump is much longer than all buffers between server and us.
func bigTable(t testing.TB) string {
	dsn := pgtest.New(t)
	execute(t, dsn, `CREATE TABLE big (a text)`, `INSERT INTO big SELECT repeat(md5(i::text), 100) FROM generate_series(1, 10000) i`)
	return dsn
}

// once acts when the first megabyte came.
type once struct {
	n    int
	done bool
	do   func()
}

func (o *once) Write(p []byte) (int, error) {
	if o.n += len(p); o.n > 1<<20 && !o.done {
		o.done = true
		o.do()
	}
	return len(p), nil
}

func TestScriptRefusesDamage(t *testing.T) {
	whole, err := os.ReadFile(fixture)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "dump")
	for what, b := range map[string][]byte{"cut": whole[:len(whole)/2], "nothing": nil, "something else": []byte("no dump at all, but long enough to look into")} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for how, err := range map[string]error{
			"Script":     Script(t.Context(), programs(t), name, io.Discard),
			"ScriptFrom": ScriptFrom(t.Context(), programs(t), bytes.NewReader(b), io.Discard),
		} {
			if problem.KindOf(err) != problem.Damaged || !strings.HasPrefix(err.Error(), "reading the dump: ") {
				t.Errorf("%s of %s: %s %v", how, what, problem.KindOf(err), err)
			}
		}
	}
	broken := errors.New("broken")
	err = ScriptFrom(t.Context(), programs(t), io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), failing{broken}), io.Discard)
	if !errors.Is(err, broken) || err.Error() != "reading the dump: reading the input of pg_restore: broken" {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestRestoreIntoFullDatabase: the first statement that fails ends the restore, and is named.
func TestRestoreIntoFullDatabase(t *testing.T) {
	target := pgtest.New(t)
	execute(t, target, `CREATE TABLE tag_entity (a int)`)
	_, err := Restore(t.Context(), RestoreConfig{Programs: programs(t), DSN: target, File: fixture})
	wantProblem(t, err, problem.Unexpected, `restoring the database: could not execute query: ERROR: relation "tag_entity" already exists`+
		` (statement: CREATE TABLE public.tag_entity ( name character varying(24) NOT NULL, "createdAt" timestamp(3) with time zone DEFAULT CURRENT_TIMESTAMP(3) NOT NULL, "updatedAt" timestamp(3) with time zone DEFAULT CUR...)`, "")
}

// TestRowsAreNotQuoted: the server's message about a row that does not fit holds the row.
func TestRowsAreNotQuoted(t *testing.T) {
	source := pgtest.New(t)
	execute(t, source, `CREATE TABLE t (a text)`, `INSERT INTO t VALUES ('planted secret'), ('planted secret')`)
	file := dumpTo(t, DumpConfig{DSN: source})
	target := pgtest.New(t)
	execute(t, target, `CREATE TABLE t (a text PRIMARY KEY)`)
	_, err := Restore(t.Context(), RestoreConfig{Programs: programs(t), DSN: target, File: file, Sections: []string{"data"}})
	wantProblem(t, err, problem.Unexpected, `restoring the database: COPY failed for table "t": ERROR: duplicate key value violates unique constraint "t_pkey"`, "")
}
