package n8ndb

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"modernc.org/sqlite"
)

// TestAhead: rows come in the order of the key, all of them and by the caller's
// goroutine, and whoever has seen enough ends the reading.
func TestAhead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "database.sqlite")
	pool, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	const rows = 3*aheadRows + 7
	_, err = pool.Exec(fmt.Sprintf(`CREATE TABLE credentials_entity (id TEXT PRIMARY KEY, data TEXT);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)
		INSERT INTO credentials_entity SELECT format('%%06d', %d - i), CASE WHEN i %% 5 = 0 THEN printf('%%.*c', %d, 'x') END FROM n`, rows, rows, aheadBytes/3))
	if err != nil {
		t.Fatal(err)
	}
	db := &DB{engine: SQLite}
	v := &view{db: db, q: pool}
	table := &Table{Name: "credentials_entity", PrimaryKey: []string{"id"}, Columns: []Column{{Name: "id", Kind: Text}, {Name: "data", Kind: Text}}}
	q := query{table: table, exprs: []string{`t."data"`}}
	for _, most := range []int{rows, aheadRows + 1, 1} {
		errEnough := errors.New("enough")
		var seen []string
		var kept [][]any
		err := v.ahead(t.Context(), q, func(row string, cols []any) error {
			if seen = append(seen, row); most < rows && len(seen) == most {
				return errEnough
			}
			kept = append(kept, cols)
			return nil
		})
		if most == rows && err != nil || most < rows && !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
		if len(seen) != most || !slices.IsSorted(seen) || seen[0] != "000000" {
			t.Errorf("%d rows, the first one %q, want %d in order", len(seen), seen[0], most)
		}
		for i, cols := range kept {
			if filled := len(bytesOf(cols[0])) == aheadBytes/3; filled != ((rows-i)%5 == 0) {
				t.Fatalf("row %d was not kept as it was read", i)
			}
		}
	}
	if n := pool.Stats().InUse; n != 0 {
		t.Errorf("%d connections are still in use", n)
	}
	// What cannot be read is an error, after what could.
	q.exprs = []string{"abs(-9223372036854775808)"}
	if err := v.ahead(t.Context(), q, func(string, []any) error { return nil }); err == nil {
		t.Error("an error of the database was lost")
	}
}

// rowsRead counts the rows for which a query has asked for it.
var rowsRead atomic.Int64

// TestAheadOfLargeValues: while somebody works on a value that is large, the next one is
// not read.
func TestAheadOfLargeValues(t *testing.T) {
	if err := sqlite.RegisterScalarFunction("ahead_read", 1, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		rowsRead.Add(1)
		return args[0], nil
	}); err != nil {
		t.Fatal(err)
	}
	pool, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "database.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	_, err = pool.Exec(fmt.Sprintf(`CREATE TABLE credentials_entity (id TEXT PRIMARY KEY, data TEXT);
		INSERT INTO credentials_entity SELECT 'row' || value, printf('%%.*c', %d, 'x') FROM json_each('[1,2,3,4]')`, aheadBytes))
	if err != nil {
		t.Fatal(err)
	}
	v := &view{db: &DB{engine: SQLite}, q: pool}
	table := &Table{Name: "credentials_entity", PrimaryKey: []string{"id"}, Columns: []Column{{Name: "id", Kind: Text}, {Name: "data", Kind: Text}}}
	rowsRead.Store(0)
	done := int64(0)
	err = v.ahead(t.Context(), query{table: table, exprs: []string{`ahead_read(t."data")`}}, func(row string, _ []any) error {
		done++
		for end := time.Now().Add(30 * time.Millisecond); time.Now().Before(end); {
			if read := rowsRead.Load(); read != done {
				return fmt.Errorf("at %s %d rows were read", row, read)
			}
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if err != nil || done != 4 {
		t.Errorf("%d rows, %v", done, err)
	}
}
