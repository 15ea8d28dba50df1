package n8ndb

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func filterConn(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func filterExec(t *testing.T, dsn string, stmts ...string) {
	t.Helper()
	conn := filterConn(t, dsn)
	defer conn.Close(t.Context())
	for _, s := range stmts {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// filterColumnOf is the first column of a query as text.
func filterColumnOf(t *testing.T, dsn, query string) (values []string) {
	t.Helper()
	conn := filterConn(t, dsn)
	defer conn.Close(t.Context())
	return filterAsk(t, conn, query)
}

// filterAsk does it on a connection: a login costs more than a query.
func filterAsk(t *testing.T, conn *pgx.Conn, query string) (values []string) {
	t.Helper()
	rows, err := conn.Query(t.Context(), query, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		v := "NULL"
		if raw := rows.RawValues()[0]; raw != nil {
			v = string(raw)
		}
		values = append(values, v)
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return values
}

// filterSnapshot exports one, which is there while the connection is.
func filterSnapshot(t *testing.T, conn *pgx.Conn) (id string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT pg_export_snapshot()").Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// filterScripts are the statements that make the tables, and the constraints.
func filterScripts(t *testing.T, dsn string) map[string][]byte {
	t.Helper()
	u := snapMust(url.Parse(dsn))
	password, _ := u.User.Password()
	u.User = url.User(pgtest.User)
	dump := snapMust(pgtest.Program("pg_dump"))
	scripts := map[string][]byte{}
	for _, section := range []string{"pre-data", "post-data"} {
		var out, stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), dump, "--section="+section, "--schema-only", "--no-owner", "--no-privileges", "-d", u.String())
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "PGPASSWORD="+password), &out, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v\n%s", err, stderr.String())
		}
		for _, line := range bytes.SplitAfter(out.Bytes(), []byte("\n")) {
			if !bytes.HasPrefix(line, []byte(`\`)) { // \restrict is psql's
				scripts[section] = append(scripts[section], line...)
			}
		}
	}
	return scripts
}

// filterLoad makes a database of what the filters keep, as a restore would: tables,
// rows, and then every constraint, which must hold. It returns its address.
func filterLoad(t *testing.T, dsn, schema string, scripts map[string][]byte, filters map[string]RowFilter, snapshot string) string {
	t.Helper()
	dest := pgtest.New(t)
	from, to, lists := filterConn(t, dsn), filterConn(t, dest), filterConn(t, dsn)
	defer lists.Close(t.Context())
	defer from.Close(t.Context())
	defer to.Close(t.Context())
	run := func(script []byte) {
		t.Helper()
		if _, err := to.Exec(t.Context(), string(script), pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	run(scripts["pre-data"])
	if _, err := from.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		t.Fatal(err)
	}
	if snapshot != "" {
		if _, err := from.Exec(t.Context(), "SET TRANSACTION SNAPSHOT '"+snapshot+"'"); err != nil {
			t.Fatal(err)
		}
	}
	// What pg_dump sets: nothing may depend on the path.
	if _, err := from.Exec(t.Context(), "SET LOCAL search_path = ''"); err != nil {
		t.Fatal(err)
	}
	for _, table := range filterAsk(t, lists, `SELECT c.relname FROM pg_class c WHERE relnamespace = `+literal(quote(schema))+`::regnamespace AND relkind IN ('r', 'p') ORDER BY 1`) {
		f, filtered := filters[table]
		if !filtered {
			columns := filterAsk(t, lists, fmt.Sprintf(`SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`,
				literal(quote(schema)+"."+quote(table))))
			f = RowFilter{Columns: columns, Query: "SELECT " + joined(columns, quote) + " FROM " + quote(schema) + "." + quote(table)}
		}
		if f.Query == "" {
			continue
		}
		var rows bytes.Buffer
		if _, err := from.PgConn().CopyTo(t.Context(), &rows, "COPY ("+f.Query+") TO STDOUT"); err != nil {
			t.Fatalf("%s: %v", f.Query, err)
		}
		if _, err := to.PgConn().CopyFrom(t.Context(), &rows, "COPY "+quote(schema)+"."+quote(table)+" ("+joined(f.Columns, quote)+") FROM STDIN"); err != nil {
			t.Fatalf("%s: %v", table, err)
		}
	}
	run(scripts["post-data"])
	return dest
}

func filterOpenDB(t *testing.T, cfg PostgresConfig) *DB {
	t.Helper()
	db := snapMust(OpenPostgres(t.Context(), cfg))
	t.Cleanup(func() { db.Close() })
	return db
}

// filterPlanted gives a fixture of PostgreSQL the rows that historyExecutions gives
// one of SQLite, and a row in what else is history.
func filterPlanted(t *testing.T, dsn, prefix string, now time.Time) {
	t.Helper()
	workflow := filterColumnOf(t, dsn, "SELECT id FROM "+quote(prefix+"workflow_entity")+" LIMIT 1")[0]
	stmts := []string{"DELETE FROM " + quote(prefix+"execution_entity"), "INSERT INTO " + quote(prefix+"annotation_tag_entity") + " (id, name) VALUES ('t1', 'tag')"}
	at := func(d time.Duration) string { return now.Add(d).UTC().Format("2006-01-02 15:04:05.000+00") }
	for _, e := range []struct {
		id              int
		status, stopped string
	}{
		{9001, "success", at(-72 * time.Hour)}, {9002, "error", at(-5 * time.Hour)}, {9003, "canceled", at(-23 * time.Hour)}, {9004, "crashed", ""}, {9005, "error", at(-80 * time.Hour)},
		{9011, "new", ""}, {9012, "running", ""}, {9013, "waiting", at(-90 * time.Hour)}, {9014, "waiting", at(-time.Hour)},
	} {
		stopped := "NULL"
		if e.stopped != "" {
			stopped = "'" + e.stopped + "'"
		}
		for _, s := range []string{
			fmt.Sprintf(`execution_entity (id, "workflowId", finished, mode, status, "startedAt", "stoppedAt") VALUES (%d, '%s', false, 'manual', '%s', '%s', %s)`, e.id, workflow, e.status, at(-99*time.Hour), stopped),
			fmt.Sprintf(`execution_data ("executionId", "workflowData", data) VALUES (%d, '{}', '[%d]')`, e.id, e.id),
			fmt.Sprintf(`execution_metadata ("executionId", key, value) VALUES (%d, 'k', 'v')`, e.id),
			fmt.Sprintf(`execution_annotations (id, "executionId", vote) VALUES (%d, %d, 'up')`, e.id+1000, e.id),
			fmt.Sprintf(`execution_annotation_tags ("annotationId", "tagId") VALUES (%d, 't1')`, e.id+1000),
			fmt.Sprintf(`binary_data ("fileId", "sourceType", "sourceId", data, "fileSize") VALUES ('00000000-0000-0000-0000-00000000%d', 'execution', '%d', '\x00', 1)`, e.id, e.id),
		} {
			table, rest, _ := strings.Cut(s, " ")
			stmts = append(stmts, "INSERT INTO "+quote(prefix+table)+" "+rest)
		}
	}
	stmts = append(stmts, "UPDATE "+quote(prefix+"execution_entity")+` SET "waitTill" = '`+at(time.Hour)+`' WHERE id = 9005`)
	for i, kind := range []string{"chat_message_attachment", "agent_file", "agent_chat_attachment"} {
		stmts = append(stmts, fmt.Sprintf(`INSERT INTO %s ("fileId", "sourceType", "sourceId", data, "fileSize") VALUES ('00000000-0000-0000-0000-00000000000%d', '%s', 'x', '\x00', 1)`, quote(prefix+"binary_data"), i, kind))
	}
	filterExec(t, dsn, stmts...)
}

// filterPrefix gives every table a prefix and another schema.
func filterPrefix(t *testing.T, dsn, schema, prefix string) {
	t.Helper()
	stmts := []string{"CREATE SCHEMA " + quote(schema)}
	for _, name := range filterColumnOf(t, dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") {
		stmts = append(stmts, "ALTER TABLE public."+quote(name)+" SET SCHEMA "+quote(schema), "ALTER TABLE "+quote(schema)+"."+quote(name)+" RENAME TO "+quote(prefix+name))
	}
	filterExec(t, dsn, stmts...)
}

var filterQueries = [][2]string{
	{`SELECT id FROM TABLE ORDER BY id`, "execution_entity"},
	{`SELECT "executionId" FROM TABLE ORDER BY 1`, "execution_data"},
	{`SELECT "executionId" FROM TABLE ORDER BY 1`, "execution_metadata"},
	{`SELECT "executionId" FROM TABLE ORDER BY 1`, "execution_annotations"},
	{`SELECT "annotationId" - 1000 FROM TABLE ORDER BY 1`, "execution_annotation_tags"},
	{`SELECT "sourceId" FROM TABLE WHERE "sourceType" = 'execution' ORDER BY 1`, "binary_data"},
	{`SELECT "sourceType" FROM TABLE WHERE "sourceType" <> 'execution' ORDER BY 1`, "binary_data"},
}

// The same executions are kept of both engines, and what is kept satisfies every
// constraint of n8n's schema.
func TestFiltersKeepWhatSnapshotsKeep(t *testing.T) {
	now := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	_, sqlite := snapCopyFixture(t, "2.41.1-sqlite")
	historyExecutions(t, sqlite, "", now)
	for _, place := range []struct{ schema, prefix string }{{"public", ""}, {`odd"schema's`, `n8n_`}} {
		dsn := pgtest.Restore(t, filepath.Join(snapFixtures, "2.41.1-postgres", "database.dump"))
		if place.prefix != "" {
			filterPrefix(t, dsn, place.schema, place.prefix)
			filterExec(t, dsn, fmt.Sprintf(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET search_path = %%I', current_database(), %s); END $$`, literal(place.schema)))
		}
		filterPlanted(t, dsn, place.prefix, now)
		scripts := filterScripts(t, dsn)
		conn, asked := filterConn(t, dsn), filterConn(t, dsn)
		snapshot := filterSnapshot(t, conn)
		for i, tt := range []struct {
			history string
			drop    bool
		}{{"none", false}, {"none", true}, {"1d", false}, {"1w", false}, {"1d", true}} {
			if place.prefix != "" && tt.history != "1w" && !(tt.history == "none" && tt.drop) && os.Getenv("N8KEEP_SOAK") == "" {
				continue // names are all that differs
			}
			name := fmt.Sprintf("%q %s drop=%v", place.prefix, tt.history, tt.drop)
			h := snapMust(ParseHistory(tt.history))
			want, _ := historyTake(t, sqlite, SnapshotConfig{History: h, DropWaiting: tt.drop, Now: func() time.Time { return now }})
			cfg := PostgresConfig{DSN: dsn, Schema: place.schema, TablePrefix: place.prefix}
			if i%2 == 0 { // ids stand in the queries, or do not
				cfg.Snapshot = snapshot
			}
			db := filterOpenDB(t, cfg)
			filters, err := db.HistoryFilters(t.Context(), h, tt.drop, now)
			if err != nil {
				t.Fatal(err)
			}
			for full, f := range filters {
				if !historyIsChurn(full, place.prefix) && full != place.prefix+"chat_hub_session_tools" && full != place.prefix+"ai_builder_temporary_workflow" {
					t.Errorf("%s: a filter for %q: %s", name, full, f.Query)
				}
			}
			for _, table := range historyTables() {
				if _, ok := filters[place.prefix+table]; !ok {
					t.Errorf("%s: no filter for %q", name, table)
				}
			}
			for _, q := range filterQueries {
				expected := historyColumn(t, want, strings.Replace(q[0], "TABLE", quote(q[1]), 1))
				var got []string
				if query := filters[place.prefix+q[1]].Query; query != "" {
					got = filterAsk(t, asked, strings.Replace(q[0], "TABLE", "("+query+") AS kept", 1))
				}
				if diff := cmp.Diff(expected, got); diff != "" {
					t.Errorf("%s: %s: %s", name, q[1], diff)
				}
			}
			if tt.drop || tt.history != map[bool]string{false: "none", true: "1w"}[place.prefix != ""] {
				continue // a restore takes a second
			}
			dest := filterLoad(t, dsn, place.schema, scripts, filters, cfg.Snapshot)
			counts := snapMust(db.FilteredCounts(t.Context(), filters))
			cfg.DSN, cfg.Snapshot = dest, ""
			if diff := cmp.Diff(snapMust(filterOpenDB(t, cfg).RowCounts(t.Context())), counts); diff != "" || len(counts) < 100 {
				t.Errorf("%s: counts: %s", name, diff)
			}
		}
	}
}

// filterReferences are tables that refer to executions in every way that the
// schemas of both engines can say.
func filterReferences() []string {
	return []string{
		`CREATE TABLE by_null (id INTEGER PRIMARY KEY, e INTEGER REFERENCES execution_entity (id) ON DELETE SET NULL)`,
		`CREATE TABLE by_default (id INTEGER PRIMARY KEY, e INTEGER REFERENCES execution_entity)`,
		`CREATE TABLE by_cascade (id INTEGER PRIMARY KEY, e INTEGER REFERENCES execution_entity (id) ON DELETE CASCADE)`,
		`CREATE TABLE by_not_null (id TEXT PRIMARY KEY, e INTEGER NOT NULL REFERENCES execution_entity (id))`,
		`CREATE TABLE by_key (e INTEGER PRIMARY KEY REFERENCES execution_entity (id), v TEXT)`,
		`CREATE TABLE by_check (id INTEGER PRIMARY KEY, e INTEGER REFERENCES execution_entity (id), CHECK (e IS NOT NULL))`,
		`CREATE TABLE by_some_check (id INTEGER PRIMARY KEY, e INTEGER REFERENCES execution_entity (id), v TEXT, CHECK (e IS NOT NULL OR v = 'free'))`,
		`CREATE TABLE grandchild (id INTEGER PRIMARY KEY, p TEXT NOT NULL REFERENCES by_not_null (id) ON DELETE CASCADE)`,
		`CREATE TABLE checked_child (id INTEGER PRIMARY KEY, p INTEGER REFERENCES by_some_check (id))`,
		`CREATE TABLE pair (a TEXT, b INTEGER, PRIMARY KEY (a, b), FOREIGN KEY (b) REFERENCES execution_entity (id) ON DELETE CASCADE)`,
		`CREATE TABLE pair_child (id INTEGER PRIMARY KEY, a TEXT, b INTEGER, FOREIGN KEY (a, b) REFERENCES pair)`,
		`CREATE TABLE two_parents (id INTEGER PRIMARY KEY, e INTEGER REFERENCES execution_entity (id), c TEXT REFERENCES chat_hub_sessions (id), w TEXT REFERENCES workflow_entity (id))`,
		`CREATE TABLE tree (id INTEGER PRIMARY KEY, up INTEGER REFERENCES tree (id), e INTEGER REFERENCES execution_entity (id) ON DELETE CASCADE)`,
		`CREATE TABLE quiet_tree (id INTEGER PRIMARY KEY, up INTEGER REFERENCES quiet_tree (id) ON DELETE CASCADE)`,
		`INSERT INTO by_null VALUES (1, 9001), (2, 9011), (3, NULL)`,
		`INSERT INTO by_default VALUES (1, 9001), (2, 9011)`,
		`INSERT INTO by_cascade VALUES (1, 9001), (2, 9011), (3, NULL)`,
		`INSERT INTO by_not_null VALUES ('a', 9001), ('b', 9011)`,
		`INSERT INTO by_key VALUES (9001, 'a'), (9011, 'b')`,
		`INSERT INTO by_check VALUES (1, 9001), (2, 9011)`,
		`INSERT INTO by_some_check VALUES (1, 9001, 'free'), (2, 9001, 'bound'), (3, 9011, 'bound'), (4, NULL, 'free')`,
		`INSERT INTO grandchild VALUES (1, 'a'), (2, 'b')`,
		`INSERT INTO checked_child VALUES (1, 1), (2, 2), (3, 3), (4, NULL)`,
		`INSERT INTO pair VALUES ('x', 9001), ('y', 9011)`,
		`INSERT INTO pair_child VALUES (1, 'x', 9001), (2, 'y', 9011), (3, 'z', NULL)`,
		`INSERT INTO two_parents VALUES (1, 9001, NULL, NULL), (2, 9011, NULL, NULL), (3, NULL, NULL, NULL)`,
		`INSERT INTO tree VALUES (1, NULL, 9001), (2, 1, NULL), (3, 2, 9011), (4, 1, 9001)`,
		`INSERT INTO quiet_tree VALUES (1, NULL), (2, 1)`,
	}
}

func TestFiltersMendReferences(t *testing.T) {
	now := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	_, sqlite := snapCopyFixture(t, "2.41.1-sqlite")
	historyExecutions(t, sqlite, "", now)
	historyExec(t, sqlite, filterReferences()...)
	dsn := pgtest.Restore(t, filepath.Join(snapFixtures, "2.41.1-postgres", "database.dump"))
	filterPlanted(t, dsn, "", now)
	stmts := filterReferences()
	for i := range stmts {
		stmts[i] = strings.Replace(stmts[i], "c TEXT REFERENCES chat_hub", "c UUID REFERENCES chat_hub", 1)
	}
	filterExec(t, dsn, stmts...)
	filterExec(t, dsn,
		// What only PostgreSQL has.
		`CREATE TABLE "by ""some" (tenant TEXT NOT NULL, e INTEGER, g INTEGER GENERATED ALWAYS AS (e * 2) STORED, n INTEGER GENERATED ALWAYS AS IDENTITY, UNIQUE (tenant, e))`,
		`ALTER TABLE execution_entity ADD COLUMN tenant TEXT DEFAULT 't'`, `ALTER TABLE execution_entity ADD UNIQUE (tenant, id)`,
		`ALTER TABLE "by ""some" ADD FOREIGN KEY (tenant, e) REFERENCES execution_entity (tenant, id) ON DELETE SET NULL (e)`,
		`INSERT INTO "by ""some" (tenant, e) VALUES ('t', 9001), ('t', 9011), ('t', NULL)`,
		`CREATE DOMAIN must AS INTEGER NOT NULL`, `CREATE TABLE by_domain (id TEXT, e must REFERENCES execution_entity (id))`, `INSERT INTO by_domain VALUES ('a', 9001), ('b', 9011)`,
		`CREATE TABLE by_index (id TEXT, e INTEGER REFERENCES execution_entity (id))`, `CREATE UNIQUE INDEX ON by_index ((e IS NULL)) WHERE e IS NULL`, `INSERT INTO by_index VALUES ('a', 9001), ('b', 9002), ('c', 9011)`,
		`CREATE TABLE by_nulls (e INTEGER REFERENCES execution_entity (id), UNIQUE NULLS NOT DISTINCT (e))`, `INSERT INTO by_nulls VALUES (9001), (9002), (9011), (NULL)`,
	)
	scripts := filterScripts(t, dsn)
	for _, history := range []string{"none", "1d"} {
		if history == "1d" && os.Getenv("N8KEEP_SOAK") == "" {
			continue
		}
		h := snapMust(ParseHistory(history))
		want, _ := historyTake(t, sqlite, SnapshotConfig{History: h, Now: func() time.Time { return now }})
		db := filterOpenDB(t, PostgresConfig{DSN: dsn})
		filters, err := db.HistoryFilters(t.Context(), h, false, now)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := filters["quiet_tree"]; ok {
			t.Error("a filter for a table that refers to nothing left out")
		}
		dest := filterLoad(t, dsn, "public", scripts, filters, "")
		for _, query := range []string{
			"SELECT e FROM by_null ORDER BY id", "SELECT e FROM by_default ORDER BY id", "SELECT e FROM by_cascade ORDER BY id", "SELECT id FROM by_not_null ORDER BY id",
			"SELECT e FROM by_key ORDER BY e", "SELECT e FROM by_check ORDER BY id", "SELECT id || coalesce(CAST(e AS TEXT), '-') FROM by_some_check ORDER BY id",
			"SELECT id FROM grandchild ORDER BY id", "SELECT id || coalesce(CAST(p AS TEXT), '-') FROM checked_child ORDER BY id", "SELECT a FROM pair ORDER BY a",
			"SELECT id || coalesce(a, '-') || coalesce(CAST(b AS TEXT), '-') FROM pair_child ORDER BY id", "SELECT id || coalesce(CAST(e AS TEXT), '-') FROM two_parents ORDER BY id",
			"SELECT id || coalesce(CAST(up AS TEXT), '-') || coalesce(CAST(e AS TEXT), '-') FROM tree ORDER BY id", "SELECT id FROM quiet_tree ORDER BY id",
		} {
			if diff := cmp.Diff(historyColumn(t, want, query), filterColumnOf(t, dest, query)); diff != "" {
				t.Errorf("%s: %s:\n%s", history, query, diff)
			}
		}
		for query, none := range map[string][]string{
			`SELECT tenant || coalesce(e::text, '-') || coalesce(g::text, '-') FROM "by ""some" ORDER BY n`: {"t--", "t901118022", "t--"},
			`SELECT id FROM by_domain`:           {"b"},
			`SELECT id FROM by_index ORDER BY 1`: {"c"},
			`SELECT e FROM by_nulls ORDER BY 1`:  {"9011", "NULL"},
		} {
			if got := filterColumnOf(t, dest, query); history == "none" && !slices.Equal(got, none) {
				t.Errorf("%s: %q, want %q", query, got, none)
			}
		}
	}
}

func TestFilterCircle(t *testing.T) {
	dsn := pgtest.Restore(t, filepath.Join(snapFixtures, "2.41.1-postgres", "database.dump"))
	filterExec(t, dsn, `CREATE TABLE tree (id INTEGER PRIMARY KEY, up INTEGER REFERENCES tree (id) ON DELETE CASCADE, e INTEGER REFERENCES execution_entity (id) ON DELETE CASCADE)`)
	db := filterOpenDB(t, PostgresConfig{DSN: dsn})
	_, err := db.HistoryFilters(t.Context(), snapMust(ParseHistory("none")), false, time.Now())
	if problem.KindOf(err) != problem.Usage || err.Error() != `rows around the table "tree" refer to each other in a circle, and not all of them would be kept` || problem.HintOf(err) != `use "--history all"` {
		t.Errorf("got %v", err)
	}
	if filters, err := db.HistoryFilters(t.Context(), History{}, false, time.Now()); filters != nil || err != nil {
		t.Errorf("all: %v %v", filters, err)
	}
	_, path := snapCopyFixture(t, "2.41.1-sqlite")
	lite := snapMust(OpenSQLite(t.Context(), SQLiteConfig{Path: path}))
	defer lite.Close()
	if _, err := lite.HistoryFilters(t.Context(), snapMust(ParseHistory("none")), false, time.Now()); err == nil {
		t.Error("filters for SQLite")
	}
	filterExec(t, dsn, `DROP TABLE tree`, `ALTER TABLE execution_entity DROP COLUMN status CASCADE`)
	_, err = db.HistoryFilters(t.Context(), snapMust(ParseHistory("none")), false, time.Now())
	if err == nil || err.Error() != `table "execution_entity" has no column "status"` {
		t.Errorf("got %v", err)
	}
}

// The gigabytes are in execution_data and binary_data: neither is read as a whole.
func TestFilterPlans(t *testing.T) {
	dsn := pgtest.Restore(t, filepath.Join(snapFixtures, "2.41.1-postgres", "database.dump"))
	now := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	filterPlanted(t, dsn, "", now)
	filterExec(t, dsn,
		`INSERT INTO execution_entity (id, "workflowId", finished, mode, status, "startedAt", "stoppedAt")
			SELECT 100000 + i, (SELECT id FROM workflow_entity LIMIT 1), true, 'trigger', 'success', at, at FROM (SELECT i, '2026-08-01 02:00Z'::timestamptz - interval '1 hour' * i AS at FROM generate_series(1, 20000) AS i) AS x`,
		`INSERT INTO execution_data ("executionId", "workflowData", data) SELECT 100000 + i, '{}', repeat('x', 300) FROM generate_series(1, 20000) AS i`,
		`INSERT INTO binary_data ("fileId", "sourceType", "sourceId", data, "fileSize") SELECT gen_random_uuid(), 'execution', (100000 + i)::text, decode(repeat('ab', 300), 'hex'), 300 FROM generate_series(1, 20000) AS i`,
		`ANALYZE execution_entity, execution_data, binary_data`)
	snapshot := filterSnapshot(t, filterConn(t, dsn))
	for _, id := range []string{"", snapshot} {
		for _, history := range []string{"none", "1d"} {
			db := filterOpenDB(t, PostgresConfig{DSN: dsn, Snapshot: id})
			filters := snapMust(db.HistoryFilters(t.Context(), snapMust(ParseHistory(history)), false, now))
			for _, table := range []string{"execution_data", "binary_data"} {
				plan := strings.Join(filterColumnOf(t, dsn, "EXPLAIN "+filters[table].Query), "\n")
				if !strings.Contains(plan, "Scan on "+table+" ") && !strings.Contains(plan, " on "+table+" ") || strings.Contains(plan, "Seq Scan on "+table) {
					t.Errorf("%s, %s:\n%s", history, table, plan)
				}
			}
		}
	}
}

// A table without the prefix is nobody's to dump, whatever it refers to.
func TestFiltersLeaveOthersAlone(t *testing.T) {
	dsn := pgtest.Restore(t, filepath.Join(snapFixtures, "2.41.1-postgres", "database.dump"))
	filterPrefix(t, dsn, "shared", "n8n_")
	filterExec(t, dsn, `CREATE TABLE shared.theirs (execution int REFERENCES shared.n8n_execution_entity ON DELETE CASCADE)`)
	filters, err := filterOpenDB(t, PostgresConfig{DSN: dsn, Schema: "shared", TablePrefix: "n8n_"}).HistoryFilters(t.Context(), snapMust(ParseHistory("none")), false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := filters["theirs"]; ok || len(filters) == 0 {
		t.Errorf("%d filters, one for the table of others: %t", len(filters), ok)
	}
}
