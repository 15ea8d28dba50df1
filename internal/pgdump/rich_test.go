package pgdump

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/pgtest"
)

// rich fills a database with everything the engine understands.
func rich(t testing.TB, dsn string) {
	t.Helper()
	for _, role := range []string{`reader`, `"Odd ""role"`} {
		execute(t, dsn, `DO $$ BEGIN CREATE ROLE `+role+`; EXCEPTION WHEN duplicate_object THEN END $$`)
	}
	execute(t, dsn, readFile(t, "testdata/rich.sql"))
	if lines(t, dsn, `SELECT current_setting('server_version_num')`)[0] >= "180000" {
		execute(t, dsn, readFile(t, "testdata/rich18.sql"))
	}
}

// compare compares two databases by everything their catalogs say, by their rows, and by pg_dump where it can.
func compare(t *testing.T, what, a, b string, pgDump ...string) {
	t.Helper()
	if diff := cmp.Diff(digests(t, a), digests(t, b)); diff != "" {
		t.Errorf("%s: rows differ:\n%s", what, diff)
	}
	if diff := cmp.Diff(catalogs(t, a), catalogs(t, b)); diff != "" {
		t.Errorf("%s: catalogs differ:\n%s", what, diff)
	}
	if lines(t, a, `SELECT version()`)[0] != lines(t, b, `SELECT version()`)[0] {
		t.Fatalf("%s: different servers", what)
	}
	if strings.Contains(lines(t, a, `SELECT version()`)[0], "Debian") {
		if diff := cmp.Diff(schemaText(t, a, pgDump...), schemaText(t, b, pgDump...)); diff != "" {
			t.Errorf("%s: pg_dump -s differs:\n%s", what, diff)
		}
	}
}

// catalogs is what the server's catalogs say about everything in user schemas, by name.
func catalogs(t testing.TB, dsn string) []string {
	t.Helper()
	queries := strings.Split(readFile(t, "testdata/catalogs.sql"), ";\n")
	if len(queries) < 15 {
		t.Fatalf("only %d queries of the catalogs", len(queries))
	}
	var all []string
	for _, q := range queries {
		if q = strings.TrimSpace(q); q != "" {
			all = append(all, lines(t, dsn, `SELECT x FROM (`+q+`) s(x) ORDER BY 1`)...)
		}
	}
	if len(all) == 0 {
		t.Fatal("nothing in the catalogs")
	}
	return all
}

func TestRichSchema(t *testing.T) {
	for _, version := range pgtest.Versions() {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			source, dir := pgtest.NewVersion(t, version), t.TempDir()
			rich(t, source)
			report := dumpTo(t, dir, DumpConfig{DSN: source, WholeDatabase: true, Schema: "Rich schema"})
			if report.Rows["user"] != 500 || report.Rows["no_columns"] != 7 || len(report.Rows) != report.Tables || report.Bytes == 0 {
				t.Errorf("report %+v", report)
			}
			if version == pgtest.Versions()[0] {
				checkCounts(t, source, dir)
			}
			ours := pgtest.NewVersion(t, version)
			restoreFrom(t, dir, ours)
			compare(t, "Restore", source, ours)
			if version == pgtest.Versions()[0] || os.Getenv("N8KEEP_SOAK") != "" {
				byHand := pgtest.NewVersion(t, version)
				psql(t, byHand, dir)
				compare(t, "psql", source, byHand)
			}
		})
	}
}

// recorder keeps what is logged.
type recorder struct {
	mu sync.Mutex
	strings.Builder
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Builder.Write(p)
}

func (r *recorder) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

// TestScopeIsSchema: without WholeDatabase, what is in the other schema is left out, but the extension that is used there.
func TestScopeIsSchema(t *testing.T) {
	source, dir := pgtest.New(t), t.TempDir()
	rich(t, source)
	execute(t, source, `CREATE TABLE helper.other (id int); CREATE TABLE public.other (id int); CREATE EXTENSION pg_stat_statements SCHEMA public`)
	dumpTo(t, dir, DumpConfig{DSN: source, Schema: "Rich schema"})
	restored := pgtest.New(t)
	restoreFrom(t, dir, restored)
	if diff := cmp.Diff(schemaText(t, source, "-n", `"Rich schema"`), schemaText(t, restored, "-n", `"Rich schema"`)); diff != "" {
		t.Errorf("pg_dump -s differs:\n%s", diff)
	}
	want := []string{"citext helper", "plpgsql pg_catalog", `uuid-ossp "Rich schema"`}
	if diff := cmp.Diff(want, lines(t, restored, `SELECT extname || ' ' || extnamespace::regnamespace::text FROM pg_extension ORDER BY 1`)); diff != "" {
		t.Errorf("extensions:\n%s", diff)
	}
	if got := lines(t, restored, `SELECT tablename::text FROM pg_tables WHERE tablename = 'other'`); len(got) > 0 {
		t.Errorf("tables of other schemas came along: %v", got)
	}
}

// TestRestoreAsAnotherRole: no superuser, no owner, no role of the source.
func TestRestoreAsAnotherRole(t *testing.T) {
	versions := pgtest.Versions()
	newest := versions[len(versions)-1]
	source, dir := pgtest.New(t), t.TempDir()
	rich(t, source)
	dumpTo(t, dir, DumpConfig{DSN: source, WholeDatabase: true})
	admin := pgtest.NewVersion(t, newest)
	execute(t, admin, `DO $$ BEGIN DROP OWNED BY reader; DROP ROLE reader; EXCEPTION WHEN undefined_object OR dependent_objects_still_exist THEN END $$`)
	dsn := pgtest.Role(t, admin, "")
	var warnings recorder
	if err := Restore(t.Context(), RestoreConfig{DSN: dsn, Dir: dir, Logger: warnings.logger()}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(digests(t, source), digests(t, admin)); diff != "" {
		t.Errorf("rows differ:\n%s", diff)
	}
	if got := warnings.String(); !strings.Contains(got, "left out: not all of its roles exist here: ") {
		t.Errorf("no warning about missing roles in %s", got)
	}
	owners := lines(t, admin, `SELECT DISTINCT relowner::regrole::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'Rich schema'`)
	if len(owners) != 1 || !strings.HasPrefix(owners[0], "role_") {
		t.Errorf("owners %v", owners)
	}
}

// TestDumpAsAnotherRole: a role that may only read dumps; row security that would hide rows is an error, not silence.
func TestDumpAsAnotherRole(t *testing.T) {
	source := pgtest.New(t)
	dsn := pgtest.Role(t, source, "")
	execute(t, dsn, `CREATE TABLE public.t (id serial PRIMARY KEY, a text DEFAULT 'x'); INSERT INTO public.t VALUES (1), (2)`)
	report := dumpTo(t, t.TempDir(), DumpConfig{DSN: dsn})
	if report.Rows["t"] != 2 {
		t.Errorf("rows %v", report.Rows)
	}
	execute(t, source, `ALTER TABLE public.t ENABLE ROW LEVEL SECURITY; ALTER TABLE public.t FORCE ROW LEVEL SECURITY`)
	_, err := Dump(t.Context(), DumpConfig{DSN: dsn, Emit: toFolder(t.TempDir())})
	if err == nil || !strings.Contains(err.Error(), `reading table "public.t"`) || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("error %v", err)
	}
}

// TestScriptsAreForPeople: the files have the names and forms that format.md promises.
func TestScriptsAreForPeople(t *testing.T) {
	source, dir := pgtest.New(t), t.TempDir()
	execute(t, source, `CREATE TABLE public.b (id int, t text); INSERT INTO public.b VALUES (1, 'x'), (2, NULL); CREATE TABLE public.a ()`)
	dumpTo(t, dir, DumpConfig{DSN: source})
	if got, want := readFile(t, filepath.Join(dir, "data/0002.000001.sql")), "COPY \"public\".\"b\" (\"id\", \"t\") FROM stdin;\n1\tx\n2\t\\N\n\\.\n"; got != want {
		t.Errorf("data file %q, want %q", got, want)
	}
	want := "-- Restores this dump into an empty database: psql -X -d DATABASE -f restore.sql\n\\set ON_ERROR_STOP on\n\\ir pre.sql\n\\ir data/0002.000001.sql\n\\ir post.sql\n"
	if got := readFile(t, filepath.Join(dir, "restore.sql")); got != want {
		t.Errorf("restore.sql %q, want %q", got, want)
	}
}
