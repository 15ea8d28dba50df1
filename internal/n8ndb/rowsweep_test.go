package n8ndb_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/pgcopy"
	"github.com/n8keep/n8keep/internal/problem"
)

// gathered are all rows of a script.
type gathered struct {
	table pgcopy.Table
	rows  []dumpedRow
}

type dumpedRow struct {
	table  pgcopy.Table
	fields [][]byte
}

func (g *gathered) Begin(t pgcopy.Table) (bool, error) { g.table = t; return false, nil }
func (g *gathered) End(int64) error                    { return nil }
func (g *gathered) Row(fields [][]byte) error {
	r := dumpedRow{table: g.table}
	for _, f := range fields {
		r.fields = append(r.fields, bytes.Clone(f)) // nil stays nil
	}
	g.rows = append(g.rows, r)
	return nil
}

// planted are a key and ciphertexts wherever nobody expects them.
func planted(t *testing.T, f n8ndbtest.Fixture, dsn string) {
	t.Helper()
	cbc, err := f.Key.EncryptCBC([]byte(`{"left":"behind"}`))
	if err != nil {
		t.Fatal(err)
	}
	opens, alike, key := cbc.String(), "U2FsdGVkX1+"+strings.Repeat("A", 70)+"==", f.Key.Reveal()
	for _, stmt := range []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO variables (id, key, type, value) SELECT 'v' || i, 'k' || i, 'string', 'x ' || $1 FROM generate_series(1, 150) AS i`, []any{key}},
		{`INSERT INTO workflow_entity (id, name, active, nodes, connections, "versionId", "triggerCount", "pinData") VALUES ('planted', 'x', false, json_build_object('k', $1::text), '[]', 'v', 0, json_build_object('k', $2::text))`, []any{opens, alike}},
		{`INSERT INTO settings (key, value) VALUES ('planted', $1), ('planted2', $2)`, []any{opens, key}},
		{`UPDATE settings SET value = jsonb_set(value::jsonb, '{more}', to_jsonb($1::text))::text WHERE key = 'features.oidc'`, []any{opens}},
		{`INSERT INTO binary_data ("fileId", "sourceType", "sourceId", data, "fileSize") VALUES (gen_random_uuid(), 'agent_file', 'x', convert_to('file ' || $1, 'UTF8'), 1), (gen_random_uuid(), 'agent_file', 'y', convert_to(repeat('-', 9000000) || $1, 'UTF8'), 1),
			(gen_random_uuid(), 'agent_file', 'z', convert_to($2, 'UTF8'), 1), (gen_random_uuid(), 'agent_file', 'large', convert_to(repeat('-', 9000000) || $2, 'UTF8'), 1)`, []any{key, opens}},
		{`CREATE TABLE data_table_user_1 (a text, b int, c uuid, d char(400), e jsonb, f bytea, PRIMARY KEY (b, a, c))`, nil},
		{`INSERT INTO data_table_user_1 SELECT i::text, 10 - i, '00000000-0000-0000-0000-000000000001', $1, jsonb_build_object('a', $2::text), convert_to($3, 'UTF8') FROM generate_series(1, 12) AS i`, []any{opens, alike, key}},
		{`CREATE TABLE data_table_user_2 (a text, b varchar(20)[])`, nil},
		{`INSERT INTO data_table_user_2 VALUES ($1, NULL), (NULL, '{x}'), ($2, '{}')`, []any{key, opens}},
		{`UPDATE execution_data SET "workflowData" = json_build_object('k', $1::text) WHERE "executionId" IN (9001, 9004)`, []any{opens}},
		{`UPDATE execution_data SET data = replace(data, '"HTTP"', '"' || $1 || '"') WHERE "executionId" IN (9002, 9004)`, []any{key}},
		{`UPDATE execution_data SET data = replace(data, '"HTTP"', '"' || $1 || '"') WHERE "executionId" IN (9003, 9001)`, []any{opens}},
		// Big enough to be read in pieces.
		{`CREATE TABLE data_table_user_3 (id int PRIMARY KEY, v text)`, nil},
		{`ALTER TABLE data_table_user_3 ALTER COLUMN v SET STORAGE EXTERNAL`, nil},
		{`INSERT INTO data_table_user_3 SELECT i, repeat('z', 25000) || CASE WHEN i % 500 = 0 THEN $1 ELSE '' END FROM generate_series(1, 3000) AS i`, []any{key}},
	} {
		f.Exec(t, dsn, stmt.sql, stmt.args...)
	}
}

// TestRowSweeper: rows of a dump, in any order and from several goroutines, tell
// what reading the database tells.
func TestRowSweeper(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn, _ := f.CopySeeded(t)
	planted(t, f, dsn)
	db := f.Open(t, dsn)
	id, _ := export(t, dsn)
	fixed := openPostgres(t, n8ndb.PostgresConfig{DSN: dsn, Snapshot: id})
	dump := script(t, dsn)
	var all gathered
	if err := pgcopy.ReadScript(bytes.NewReader(dump), &all); err != nil {
		t.Fatal(err)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all.rows), func(i, j int) { all.rows[i], all.rows[j] = all.rows[j], all.rows[i] })
	receipt := n8ndbtest.Receipt(t)
	keys, err := db.Keyset(t.Context(), receipt, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, scope := range []n8ndb.ExecutionScope{n8ndb.AllExecutions, n8ndb.Unfinished, n8ndb.NoExecutions} {
		for _, with := range []struct{ sweep, needle bool }{{true, true}, {true, false}, {false, true}} {
			if scope != n8ndb.AllExecutions && !(with.sweep && with.needle) {
				continue
			}
			cfg := n8ndb.CensusConfig{Keys: keys, Receipt: receipt, SkipPlaces: true, Executions: scope, Sweep: with.sweep}
			if with.needle {
				cfg.Needle = n8ndb.NewNeedle(f.Key)
			}
			want, err := db.Census(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if with.needle && (len(want.NeedleHits) != 100 || want.NeedleTotal < 170) || with.sweep && len(want.Unlisted) < 7 {
				t.Errorf("found only %d %v", want.NeedleTotal, want.Unlisted)
			}
			again, err := fixed.Census(t.Context(), cfg)
			if diff := cmp.Diff(want, again); err != nil || diff != "" {
				t.Errorf("%v %v, in a snapshot: %v\n%s", scope, with, err, diff)
			}
			stream, err := db.NewRowSweeper(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := pgcopy.ReadScript(bytes.NewReader(dump), stream.Handler()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, stream.Census()); diff != "" {
				t.Errorf("%v %v, as a script:\n%s", scope, with, diff)
			}
			many, err := db.NewRowSweeper(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			var done sync.WaitGroup
			for rows := range slices.Chunk(all.rows, len(all.rows)/3+1) {
				done.Go(func() {
					for _, r := range rows {
						if !many.Wants(r.table.Schema, r.table.Name) {
							continue
						}
						if err := many.Row(r.table.Name, r.table.Columns, r.fields); err != nil {
							t.Error(err)
						}
					}
				})
			}
			done.Wait()
			if diff := cmp.Diff(want, many.Census()); diff != "" {
				t.Errorf("%v %v, in any order:\n%s", scope, with, diff)
			}
		}
	}
	r, err := db.NewRowSweeper(t.Context(), n8ndb.CensusConfig{Keys: keys, Receipt: receipt, Sweep: true, Executions: n8ndb.AllExecutions})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		columns []string
		fields  [][]byte
		text    string
	}{
		{[]string{"fileId", "data"}, [][]byte{[]byte("x")}, `a row of "binary_data" has 1 values for 2 columns`},
		{[]string{"fileId", "data"}, [][]byte{[]byte("x"), []byte(`\x0g`)}, `a row of "binary_data" has no bytes in "data"`},
		{[]string{"data"}, [][]byte{[]byte("x")}, `the rows of "binary_data" have no column "fileId"`},
	} {
		if err := r.Row("binary_data", tt.columns, tt.fields); problem.KindOf(err) != problem.Damaged || err.Error() != tt.text {
			t.Errorf("got %v, want %q", err, tt.text)
		}
	}
	if r.Wants("other", "settings") || r.Wants("public", "nobody's") || !r.Wants("public", "settings") || r.Row("nobody's", nil, nil) != nil {
		t.Error("wants")
	}
	if _, err := db.NewRowSweeper(t.Context(), n8ndb.CensusConfig{Keys: keys}); err == nil {
		t.Error("without a receipt")
	}
	if _, err := db.NewRowSweeper(t.Context(), n8ndb.CensusConfig{Receipt: receipt}); err == nil || err.Error() != "a census needs a key set" {
		t.Errorf("without keys: %v", err)
	}
}
