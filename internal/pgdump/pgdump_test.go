package pgdump

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// execute runs statements, several at once.
func execute(t testing.TB, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, s := range statements {
		if _, err := conn.PgConn().Exec(t.Context(), s).ReadAll(); err != nil {
			t.Fatalf("%v in %.200s", err, s)
		}
	}
}

func lines(t testing.TB, dsn, query string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%v in %.200s", err, query)
	}
	return all
}

// dumpTo dumps to a folder. cfg.Emit is set by it.
func dumpTo(t testing.TB, dir string, cfg DumpConfig) Report {
	t.Helper()
	cfg.Emit = toFolder(dir)
	report, err := Dump(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func toFolder(dir string) func(string, []byte) error {
	return func(name string, body []byte) error {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, body, 0o644)
	}
}

// schemaText is what pg_dump says about a database's definitions.
func schemaText(t testing.TB, dsn string, args ...string) string {
	t.Helper()
	bin, err := pgtest.Program("pg_dump")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(bin, append([]string{"-s", "--restrict-key=n8keep", "-d", dsn}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, out)
	}
	return string(out)
}

// digests are counts and checksums of every table, sequence and materialised view outside the system's schemas.
func digests(t testing.TB, dsn string) []string {
	t.Helper()
	var all []string
	for _, of := range lines(t, dsn, `SELECT CASE relkind WHEN 'S' THEN 'last_value, is_called' ELSE '*' END || ' FROM ' || quote_ident(nspname) || '.' || quote_ident(relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE relkind IN ('r', 'S', 'm') AND relispopulated AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1`) {
		all = append(all, lines(t, dsn, `SELECT `+"'"+strings.ReplaceAll(of, "'", "''")+"'"+` || ' ' || count(*) || ' ' || coalesce(md5(string_agg(md5(x::text), '' ORDER BY md5(x::text))), '')
			FROM (SELECT `+of+`) x`)...)
	}
	return all
}

func psql(t testing.TB, dsn, dir string) {
	t.Helper()
	bin, err := pgtest.Program("psql")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(bin, "-X", "-q", "-d", dsn, "-f", filepath.Join(dir, "restore.sql")).CombinedOutput(); err != nil || strings.Contains(string(out), "ERROR") {
		t.Fatalf("psql: %v\n%s", err, out)
	}
}

func restoreFrom(t testing.TB, dir, dsn string) {
	t.Helper()
	if err := Restore(t.Context(), RestoreConfig{DSN: dsn, Dir: dir}); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
