package pgdump

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/n8keep/n8keep/internal/pgcopy"
)

// counter counts what pgcopy reads in data files.
type counter struct {
	table pgcopy.Table
	rows  map[string]int64
}

func (c *counter) Begin(t pgcopy.Table) (bool, error) {
	c.table = t
	return false, nil
}

func (c *counter) Row(fields [][]byte) error {
	if len(fields) != len(c.table.Columns) {
		return fmt.Errorf("%d fields for %d columns of %q", len(fields), len(c.table.Columns), c.table.Name)
	}
	return nil
}

func (c *counter) End(rows int64) error {
	c.rows[c.table.Schema+"."+c.table.Name] += rows
	return nil
}

// counted is what a verification without a server finds in a dump: rows by schema.table.
func counted(t testing.TB, dir string) map[string]int64 {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(dir, "data", "*.sql"))
	if len(files) == 0 {
		t.Fatal("no data files")
	}
	c := &counter{rows: map[string]int64{}}
	for _, name := range append(files, filepath.Join(dir, "pre.sql"), filepath.Join(dir, "post.sql")) {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := pgcopy.ReadScript(f, c); err != nil {
			t.Errorf("reading %s: %v", filepath.Base(name), err)
		}
		f.Close()
	}
	return c.rows
}

// checkCounts compares the rows in the files with those in the database.
func checkCounts(t testing.TB, dsn, dir string) {
	t.Helper()
	rows := counted(t, dir)
	tables := lines(t, dsn, `SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE relkind = 'r' AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND c.oid >= 16384 ORDER BY c.oid`)
	counts := lines(t, dsn, `SELECT (xpath('//c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I.%I', nspname, relname), false, true, '')))[1]::text
		FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
		WHERE relkind = 'r' AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND c.oid >= 16384 ORDER BY c.oid`)
	for i, table := range tables {
		if got := fmt.Sprint(rows[table]); got != counts[i] {
			t.Errorf("table %q: %s rows in the files, %s in the database", table, got, counts[i])
		}
	}
}
