package n8ndb

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
)

func TestParseHistory(t *testing.T) {
	now := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"all": {}, "none": {},
		"12h": now.Add(-12 * time.Hour), "30d": now.AddDate(0, 0, -30), "2w": now.AddDate(0, 0, -14),
	} {
		h, err := ParseHistory(text)
		if err != nil {
			t.Fatal(err)
		}
		since, ok := h.Since(now)
		if !since.Equal(want) || ok != !want.IsZero() || h.String() != text || h.All() != (text == "all") {
			t.Errorf("%q: %v %v %q %v", text, since, ok, h, h.All())
		}
	}
	if (History{}).String() != "all" {
		t.Error("the zero History is not all")
	}
	for _, text := range []string{"", "d", "0d", "-1d", "+1d", "01d", "1.5d", "30", "30m", "30 d", "1y", "ALL", "99999999999w", "4000000000w"} {
		_, err := ParseHistory(text)
		if problem.KindOf(err) != problem.Usage || err.Error() != fmt.Sprintf("history %q is not understood", text) ||
			problem.HintOf(err) != `use "all", "none", or hours, days or weeks such as "12h", "30d" or "2w"` {
			t.Errorf("%q: %v, %q", text, err, problem.HintOf(err))
		}
	}
}

// historyExec runs statements and fails the test when one does.
func historyExec(t *testing.T, path string, stmts ...string) {
	t.Helper()
	db := snapMust(snapPool(snapURI(path, "mode=rwc&_pragma=foreign_keys(0)&_pragma=synchronous(off)")))
	defer db.Close()
	for _, s := range stmts {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func historyColumn(t *testing.T, path, query string) (values []string) {
	t.Helper()
	db := snapMust(snapPool(snapURI(path, "mode=ro&immutable=1")))
	defer db.Close()
	rows, err := db.Query(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		var v sql.NullString
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		if !v.Valid {
			v.String = "NULL"
		}
		values = append(values, v.String)
	}
	return values
}

func historyTake(t *testing.T, path string, cfg SnapshotConfig) (string, SnapshotReport) {
	t.Helper()
	cfg.Source, cfg.Dest = path, filepath.Join(t.TempDir(), "copy")
	report, err := Snapshot(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Dest, report
}

// historyExecutions adds executions of every state, with all that hangs on them,
// to a database of n8n 2.41.1 whose tables have a prefix or none.
func historyExecutions(t *testing.T, path, prefix string, now time.Time) {
	t.Helper()
	workflow := historyColumn(t, path, "SELECT id FROM "+quote(prefix+"workflow_entity")+" LIMIT 1")[0]
	at := func(d time.Duration) string { return now.Add(d).UTC().Format("2006-01-02 15:04:05.000") }
	add := func(id int, status string, stopped string) []string {
		stop := "NULL"
		if stopped != "" {
			stop = "'" + stopped + "'"
		}
		s := []string{
			fmt.Sprintf(`INSERT INTO execution_entity (id, workflowId, finished, mode, status, startedAt, stoppedAt) VALUES (%d, '%s', 0, 'manual', '%s', '%s', %s)`, id, workflow, status, at(-99*time.Hour), stop),
			fmt.Sprintf(`INSERT INTO execution_data (executionId, workflowData, data) VALUES (%d, '{}', '[%d]')`, id, id),
			fmt.Sprintf(`INSERT INTO execution_metadata (executionId, key, value) VALUES (%d, 'k', 'v')`, id),
			fmt.Sprintf(`INSERT INTO execution_annotations (id, executionId, vote) VALUES (%d, %d, 'up')`, id+1000, id),
			fmt.Sprintf(`INSERT INTO execution_annotation_tags (annotationId, tagId) VALUES (%d, 't1')`, id+1000),
			fmt.Sprintf(`INSERT INTO binary_data (fileId, sourceType, sourceId, data, fileSize) VALUES ('e%d', 'execution', '%d', x'00', 1)`, id, id),
		}
		for i := range s {
			for _, table := range []string{"execution_entity", "execution_data", "execution_metadata", "execution_annotations", "execution_annotation_tags", "binary_data"} {
				s[i] = strings.Replace(s[i], "INTO "+table+" ", "INTO "+quote(prefix+table)+" ", 1)
			}
		}
		return s
	}
	var stmts []string
	// The fixture's own executions are of the day it was made.
	stmts = append(stmts, "DELETE FROM "+quote(prefix+"execution_entity"), "DELETE FROM "+quote(prefix+"execution_data"),
		"INSERT INTO "+quote(prefix+"annotation_tag_entity")+" (id, name) VALUES ('t1', 'tag')")
	for _, s := range [][]string{
		add(9001, "success", at(-72*time.Hour)), add(9002, "error", at(-5*time.Hour)), add(9003, "canceled", at(-23*time.Hour)), add(9004, "crashed", ""),
		append(add(9005, "error", at(-80*time.Hour)), "UPDATE "+quote(prefix+"execution_entity")+" SET waitTill = '"+at(time.Hour)+"' WHERE id = 9005"),
		add(9011, "new", ""), add(9012, "running", ""), add(9013, "waiting", at(-90*time.Hour)), add(9014, "waiting", at(-time.Hour)),
	} {
		stmts = append(stmts, s...)
	}
	for _, kind := range []string{"chat_message_attachment", "agent_file", "agent_chat_attachment"} {
		stmts = append(stmts, fmt.Sprintf(`INSERT INTO %s (fileId, sourceType, sourceId, data, fileSize) VALUES ('%s', '%s', 'x', x'00', 1)`, quote(prefix+"binary_data"), kind, kind))
	}
	historyExec(t, path, stmts...)
}

func TestHistoryKeepsExecutions(t *testing.T) {
	now := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	for _, prefix := range []string{"", "n8n_", "odd\"pre'fix "} {
		if prefix == "n8n_" && os.Getenv("N8KEEP_SOAK") == "" {
			continue // the odd one is harder
		}
		_, path := snapCopyFixture(t, "2.41.1-sqlite")
		if prefix != "" {
			historyPrefix(t, path, prefix)
		}
		historyExecutions(t, path, prefix, now)
		all := historyColumn(t, path, `SELECT id FROM `+quote(prefix+"execution_entity")+` ORDER BY id`)
		for _, tt := range []struct {
			history string
			drop    bool
			want    []string
		}{
			{"none", false, []string{"9005", "9011", "9012", "9013", "9014"}},
			{"none", true, nil},
			{"1d", false, []string{"9002", "9003", "9005", "9011", "9012", "9013", "9014"}},
			{"12h", false, []string{"9002", "9005", "9011", "9012", "9013", "9014"}},
			{"1w", false, []string{"9001", "9002", "9003", "9004", "9005", "9011", "9012", "9013", "9014"}},
			{"1d", true, []string{"9002", "9003"}},
		} {
			if prefix != "" && tt.history != "12h" && !(tt.history == "none" && tt.drop) && os.Getenv("N8KEEP_SOAK") == "" {
				continue // names are all that differs
			}
			dest, report := historyTake(t, path, SnapshotConfig{TablePrefix: prefix, History: snapMust(ParseHistory(tt.history)),
				DropWaiting: tt.drop, Now: func() time.Time { return now }})
			name := fmt.Sprintf("%q %s drop=%v", prefix, tt.history, tt.drop)
			column := func(query, table string) []string {
				return historyColumn(t, dest, strings.Replace(query, "TABLE", quote(prefix+table), 1))
			}
			for _, q := range [][2]string{
				{"SELECT id FROM TABLE ORDER BY id", "execution_entity"},
				{"SELECT executionId FROM TABLE ORDER BY 1", "execution_data"},
				{"SELECT executionId FROM TABLE ORDER BY 1", "execution_metadata"},
				{"SELECT executionId FROM TABLE ORDER BY 1", "execution_annotations"},
				{"SELECT annotationId - 1000 FROM TABLE ORDER BY 1", "execution_annotation_tags"},
				{"SELECT substr(fileId, 2) FROM TABLE WHERE sourceType = 'execution' ORDER BY 1", "binary_data"},
			} {
				got := column(q[0], q[1])
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("%s: %s:\n%s", name, q[1], diff)
				}
			}
			if got := column("SELECT fileId FROM TABLE WHERE sourceType <> 'execution' ORDER BY 1", "binary_data"); !slices.Equal(got, []string{"agent_chat_attachment", "agent_file"}) {
				t.Errorf("%s: binary data %q", name, got)
			}
			if report.DroppedExecutions != int64(len(all)-len(tt.want)) {
				t.Errorf("%s: %d dropped of %d", name, report.DroppedExecutions, len(all))
			}
			if found, err := CheckIntegrity(t.Context(), dest); err != nil || !found.OK {
				t.Errorf("%s: %+v %v", name, found, err)
			}
		}
	}
}

// historyPrefix gives the tables of the executions, and those they need, a prefix.
func historyPrefix(t *testing.T, path, prefix string) {
	t.Helper()
	var stmts []string
	for _, name := range historyColumn(t, path, "SELECT name FROM sqlite_schema WHERE type = 'table' AND (name LIKE 'execution%' OR name IN ('binary_data', 'annotation_tag_entity', 'workflow_entity'))") {
		stmts = append(stmts, "ALTER TABLE "+quote(name)+" RENAME TO "+quote(prefix+name))
	}
	historyExec(t, path, stmts...)
}

// Rows that refer to rows left out do what the schema says.
func TestHistoryMendsReferences(t *testing.T) {
	_, path := snapCopyFixture(t, "2.41.1-sqlite")
	now := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	historyExecutions(t, path, "", now)
	historyExec(t, path,
		`CREATE TABLE by_null (id INTEGER PRIMARY KEY, e INTEGER REFERENCES execution_entity (id) ON DELETE SET NULL)`,
		`CREATE TABLE by_default (id INTEGER PRIMARY KEY, e INTEGER REFERENCES Execution_Entity)`,
		`CREATE TABLE by_cascade (id INTEGER PRIMARY KEY, e INTEGER REFERENCES execution_entity (id) ON DELETE CASCADE)`,
		`CREATE TABLE by_not_null (id TEXT PRIMARY KEY, e INTEGER NOT NULL REFERENCES execution_entity (id))`,
		`CREATE TABLE by_key (e INTEGER PRIMARY KEY REFERENCES execution_entity (id), v TEXT) WITHOUT ROWID`,
		`CREATE TABLE by_check (id INTEGER PRIMARY KEY, e INTEGER REFERENCES execution_entity (id), CHECK (e IS NOT NULL))`,
		`CREATE TABLE grandchild (id INTEGER PRIMARY KEY, p TEXT NOT NULL REFERENCES by_not_null (id) ON DELETE CASCADE)`,
		`CREATE TABLE pair (a TEXT, b INTEGER, PRIMARY KEY (a, b), FOREIGN KEY (b) REFERENCES execution_entity (id) ON DELETE CASCADE)`,
		`CREATE TABLE pair_child (id INTEGER PRIMARY KEY, a TEXT, b INTEGER, FOREIGN KEY (a, b) REFERENCES pair)`,
		`CREATE TABLE elsewhere (id INTEGER PRIMARY KEY, w TEXT REFERENCES workflow_entity (id))`,
		`INSERT INTO by_null VALUES (1, 9001), (2, 9011), (3, NULL)`,
		`INSERT INTO by_default VALUES (1, 9001), (2, 9011)`,
		`INSERT INTO by_cascade VALUES (1, 9001), (2, 9011)`,
		`INSERT INTO by_not_null VALUES ('a', 9001), ('b', 9011)`,
		`INSERT INTO by_key VALUES (9001, 'a'), (9011, 'b')`,
		`INSERT INTO by_check VALUES (1, 9001), (2, 9011)`,
		`INSERT INTO grandchild VALUES (1, 'a'), (2, 'b')`,
		`INSERT INTO pair VALUES ('x', 9001), ('y', 9011)`,
		`INSERT INTO pair_child VALUES (1, 'x', 9001), (2, 'y', 9011)`,
		`INSERT INTO elsewhere VALUES (1, 'was broken before')`,
	)
	dest, _ := historyTake(t, path, SnapshotConfig{History: snapMust(ParseHistory("none"))})
	for query, want := range map[string][]string{
		"SELECT e FROM by_null ORDER BY id":             {"NULL", "9011", "NULL"},
		"SELECT e FROM by_default ORDER BY id":          {"NULL", "9011"},
		"SELECT e FROM by_cascade":                      {"9011"},
		"SELECT id FROM by_not_null":                    {"b"},
		"SELECT e FROM by_key":                          {"9011"},
		"SELECT e FROM by_check":                        {"9011"},
		"SELECT id FROM grandchild":                     {"2"},
		"SELECT a FROM pair":                            {"y"},
		"SELECT id || coalesce(a, '-') FROM pair_child": {"1-", "2y"},
		"SELECT w FROM elsewhere":                       {"was broken before"},
	} {
		if diff := cmp.Diff(want, historyColumn(t, dest, query)); diff != "" {
			t.Errorf("%s:\n%s", query, diff)
		}
	}
	found := snapMust(CheckIntegrity(t.Context(), dest))
	if diff := cmp.Diff([]string{`row 1 of "elsewhere" refers to a missing row of "workflow_entity"`}, found.ForeignKeys); diff != "" || len(found.Problems) > 0 {
		t.Errorf("%v\n%s", found.Problems, diff)
	}
}

// Whatever a table looks like, its values arrive bit by bit.
func TestHistoryCopiesValuesExactly(t *testing.T) {
	for _, settings := range [][]string{
		{"PRAGMA page_size = 4096", "PRAGMA journal_mode = wal"},
		{"PRAGMA page_size = 512", "PRAGMA encoding = 'UTF-16le'", "PRAGMA auto_vacuum = incremental"},
		{"PRAGMA page_size = 65536", "PRAGMA encoding = 'UTF-16be'", "PRAGMA auto_vacuum = full"},
	} {
		path := filepath.Join(t.TempDir(), "database.sqlite")
		historyExec(t, path, append(settings,
			`PRAGMA user_version = 77`, `PRAGMA application_id = 4242`,
			`CREATE TABLE "data_table_user_a b""c'd;--" ("select" INTEGER PRIMARY KEY AUTOINCREMENT, "a""b" TEXT, [from] REAL, `+"`group`"+` BLOB, "ünï ☃")`,
			`INSERT INTO "data_table_user_a b""c'd;--" VALUES (1, 'x' || char(0) || 'y', 0.1, x'00ff00', NULL), (9223372036854775807, '', -0.0, x'', 9007199254740993),
				(-9223372036854775808, '☃😀', 1e308, zeroblob(100000), 'text'), (5, NULL, 9007199254740993, 'text in blob', 5e-324), (7, '12', 3, NULL, x'c3')`,
			`INSERT INTO "data_table_user_a b""c'd;--" VALUES (8, 'long' || hex(randomblob(50000)), 1e999, NULL, -1e999)`,
			`CREATE TABLE without (a TEXT COLLATE NOCASE, b INT, c, PRIMARY KEY (a, b)) WITHOUT ROWID`,
			`INSERT INTO without VALUES ('x', 1, 1.5), ('y', 2, NULL), ('Z', '3', x'01')`,
			`CREATE TABLE generated (a INTEGER, b INTEGER AS (a * 2) STORED, c TEXT AS (a || 'x') VIRTUAL, d TEXT DEFAULT 'd')`,
			`INSERT INTO generated (a, d) VALUES (1, NULL), (2, 'z')`,
			`CREATE TABLE grown (a)`, `INSERT INTO grown VALUES (1), (2)`, `ALTER TABLE grown ADD COLUMN b TEXT NOT NULL DEFAULT 'added'`,
			`CREATE TABLE strict_one (a INTEGER, b ANY) STRICT`, `INSERT INTO strict_one VALUES (1, '1'), (2, 1.0)`,
			`CREATE TABLE rowid_less (rowid TEXT, oid INT, _rowid_ BLOB)`, `INSERT INTO rowid_less VALUES ('r', 1, x'00')`,
			`CREATE TABLE checked (a CHECK (a > 0))`, `PRAGMA ignore_check_constraints = 1`, `INSERT INTO checked VALUES (1)`,
			`CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)`, `INSERT INTO counted VALUES (500)`, `DELETE FROM counted`,
			`CREATE TABLE "sqliteish" (a)`,
			`CREATE UNIQUE INDEX partial ON without (c) WHERE c IS NOT NULL`, `CREATE INDEX expression ON grown (lower(b), a DESC)`,
			`CREATE VIEW looking AS SELECT a FROM grown`,
			`CREATE TRIGGER on_insert AFTER INSERT ON grown BEGIN INSERT INTO counted (id) VALUES (NULL); END`,
			`CREATE TRIGGER on_view INSTEAD OF INSERT ON looking BEGIN SELECT 1; END`,
			`ANALYZE`,
		)...)
		dest, _ := historyTake(t, path, SnapshotConfig{History: snapMust(ParseHistory("none"))})
		want := snapDump(t, snapURI(path, "mode=ro"))
		if len(want["table without"]) != 3 {
			t.Fatal("the source is not what it should be")
		}
		if diff := cmp.Diff(want, snapDump(t, snapURI(dest, "mode=ro&immutable=1"))); diff != "" {
			t.Errorf("%v:\n%s", settings, diff)
		}
		if head := snapMust(readHeader(dest)); head.wal() != strings.Contains(settings[1], "wal") {
			t.Errorf("journal mode %v", head[18:20])
		}
		// It is a database that can be written as before.
		historyExec(t, dest, `INSERT INTO looking VALUES (1)`, `INSERT INTO counted DEFAULT VALUES`)
		if got := historyColumn(t, dest, "SELECT count(*) FROM counted"); got[0] == "NULL" {
			t.Error("nothing was written")
		}
	}
}

// The gigabytes are in execution_data and binary_data. They are asked for single
// ids and never read as a whole, in n8n's own schemas.
func TestHistoryQueryPlans(t *testing.T) {
	for _, name := range snapFixtureNames(t) {
		_, path := snapCopyFixture(t, name)
		src := snapMust(snapOpen(t.Context(), path, t.TempDir()))
		pool := snapMust(snapPool("file::memory:"))
		conn := snapMust(pool.Conn(t.Context()))
		for _, history := range []string{"none", "30d"} {
			r := &snapRebuilder{conn: conn, cfg: SnapshotConfig{History: snapMust(ParseHistory(history)), Now: time.Now}}
			if history == "none" {
				if err := r.exec(t.Context(), "ATTACH ? AS src", src.uri); err != nil {
					t.Fatal(err)
				}
				for _, step := range []func() error{func() error { return r.readSchema(t.Context()) }, func() error { return r.createTables(t.Context()) }} {
					if err := step(); err != nil {
						t.Fatal(err)
					}
				}
				r.cfg.Dest = filepath.Join(t.TempDir(), "copy")
				remove, err := r.attachScratch(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer remove()
			} else if err := r.readSchema(t.Context()); err != nil {
				t.Fatal(err)
			}
			checked := 0
			for _, table := range historyTables() {
				if !r.has(table) {
					continue
				}
				stmt, err := r.copyStatement(t.Context(), table)
				if err != nil {
					t.Fatal(err)
				}
				if stmt == "" {
					continue
				}
				checked++
				plan := historyPlan(t, conn, stmt)
				for _, line := range plan {
					// k is the list of ids.
					if strings.HasPrefix(line, "SCAN") && line != "SCAN k" {
						t.Errorf("%s, %s: %q in %q", name, table, line, plan)
					}
				}
			}
			if checked < 4 {
				t.Errorf("%s: only %d statements", name, checked)
			}
			conditions, err := r.keptConditions(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if want := map[string]int{"none": 3, "30d": 5}[history]; len(conditions) != want {
				t.Errorf("%s, %s: %d conditions", name, history, len(conditions))
			}
			for _, c := range conditions {
				plan := strings.Join(historyPlan(t, conn, r.executionQuery(c), c.args...), " ")
				// An OR over indexes and everything sorted would be kept in memory.
				if plan == "" || strings.Contains(plan, "execution_data") || strings.Contains(plan, "OR") || strings.Contains(plan, "TEMP B-TREE") {
					t.Errorf("%s: %q", name, plan)
				}
			}
			if !r.has("binary_data") {
				continue
			}
			for _, query := range r.binaryQueries() {
				for _, line := range historyPlan(t, conn, query) {
					if strings.HasPrefix(line, "SCAN") && line != "SCAN k" {
						t.Errorf("%s: %q in %q", name, line, query)
					}
				}
			}
		}
		conn.Close()
		pool.Close()
		src.close()
	}
}

func historyPlan(t *testing.T, conn *sql.Conn, stmt string, args ...any) (lines []string) {
	t.Helper()
	err := snapRows(t.Context(), conn, func(rows *sql.Rows) error {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			return err
		}
		lines = append(lines, detail)
		return nil
	}, "EXPLAIN QUERY PLAN "+stmt, args...)
	if err != nil {
		t.Fatalf("%s: %v", stmt, err)
	}
	return lines
}

// The list of tables is that of n8n 2.41.1: a misspelt name would quietly keep a table.
func TestHistoryTablesExist(t *testing.T) {
	tables := historyColumn(t, filepath.Join(snapFixtures, "2.41.1-sqlite", "database.sqlite"), "SELECT name FROM sqlite_schema WHERE type = 'table'")
	for _, name := range historyTables() {
		// PostgreSQL alone has workflow_statistics_delta.
		if !slices.Contains(tables, name) && name != "workflow_statistics_delta" {
			t.Errorf("n8n 2.41.1 has no table %q", name)
		}
	}
	if historyIsChurn("execution_data", "n8n_") || !historyIsChurn("n8n_execution_data", "n8n_") || historyIsChurn("workflow_entity", "") {
		t.Error("prefixes are not told apart")
	}
}

func TestHistoryStatusColumnMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "database.sqlite")
	historyExec(t, path, "CREATE TABLE execution_entity (id INTEGER PRIMARY KEY)")
	_, err := Snapshot(t.Context(), SnapshotConfig{Source: path, Dest: path + ".copy", History: snapMust(ParseHistory("none"))})
	want := fmt.Sprintf("copying database %q: table \"execution_entity\" has no column \"status\"", path)
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path + ".copy"); err == nil {
		t.Error("a copy was left")
	}
}
