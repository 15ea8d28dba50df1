package n8ndb_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// export begins a transaction and returns its snapshot; end ends the transaction.
func export(t *testing.T, dsn string) (id string, end func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	end = func() { conn.Close(context.WithoutCancel(t.Context())) }
	t.Cleanup(end)
	if _, err := conn.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), "SELECT pg_export_snapshot()").Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id, end
}

func openPostgres(t *testing.T, cfg n8ndb.PostgresConfig) *n8ndb.DB {
	t.Helper()
	db, err := n8ndb.OpenPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// seen is all that reading a database can tell.
func seen(t *testing.T, f n8ndbtest.Fixture, db *n8ndb.DB, storage string) map[string]any {
	t.Helper()
	ctx := t.Context()
	must := func(v any, err error) any {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	receipt := n8ndbtest.Receipt(t)
	keys, err := db.Keyset(ctx, receipt, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	var workflows []string
	for w, err := range db.Workflows(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		workflows = append(workflows, string(w.JSON))
	}
	tables, err := db.Tables(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, table := range tables {
		names = append(names, table.Name)
	}
	r := n8ndbtest.Census(t, db, f.Key, n8ndb.CensusConfig{Receipt: receipt, Executions: n8ndb.AllExecutions, BundleDir: storage, Sweep: true, Needle: n8ndb.NewNeedle(f.Key)})
	return map[string]any{
		"version": must(db.Version(ctx)), "counts": must(db.RowCounts(ctx)), "bundles": must(db.Bundles(ctx, storage)),
		"running": must(db.Running(ctx)), "key ids": keys.KeyIDs(), "legacy ids": keys.LegacyIDs(), "workflows": workflows,
		"tables": names, "secrets": r.Secrets, "plaintexts": r.Plaintexts, "census": r.Census,
	}
}

// TestImportedSnapshot: what is written after the export is seen by nothing.
func TestImportedSnapshot(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn := f.Copy(t)
	id, end := export(t, dsn)
	cfg := n8ndb.PostgresConfig{DSN: dsn, Snapshot: id, AppName: "n8keep-snapshot1"}
	before := openPostgres(t, cfg)
	want := seen(t, f, before, "")
	n8ndbtest.Seed(t, f, dsn)
	for _, stmt := range []string{
		`INSERT INTO instance_version_history (major, minor, patch) VALUES (99, 0, 0)`,
		`INSERT INTO migrations (timestamp, name) VALUES (9999999999999, 'Future9999999999999')`,
		`INSERT INTO workflow_entity (id, name, active, nodes, connections, "versionId", "triggerCount") VALUES ('later', 'later', false, '[]', '[]', 'v', 0)`,
		`INSERT INTO variables (id, key, type, value) VALUES ('later', 'k', 'string', '` + f.Key.Reveal() + `')`,
		`CREATE TABLE data_table_user_later (id int PRIMARY KEY)`,
		`UPDATE credentials_entity SET data = 'garbage'`,
	} {
		f.Exec(t, dsn, stmt)
	}
	for name, db := range map[string]*n8ndb.DB{"before": before, "after": openPostgres(t, cfg)} {
		if diff := cmp.Diff(want, seen(t, f, db, "")); diff != "" {
			t.Errorf("opened %s: what is seen has changed:\n%s", name, diff)
		}
	}
	end()
	wait := time.After(10 * time.Second)
	for {
		_, err := before.Version(t.Context())
		if err != nil {
			checkSnapshotGone(t, err, id)
			break
		}
		select {
		case <-wait:
			t.Fatal("the snapshot outlived its session")
		default:
		}
	}
	_, err := n8ndb.OpenPostgres(t.Context(), cfg)
	checkSnapshotGone(t, err, id)
	now := openPostgres(t, n8ndb.PostgresConfig{DSN: dsn})
	if v, err := now.Version(t.Context()); err != nil || v.N8N != "99.0.0" {
		t.Errorf("without a snapshot: %+v %v", v, err)
	}
}

func checkSnapshotGone(t *testing.T, err error, id string) {
	t.Helper()
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), `the snapshot "`+id+`" of the database is gone: `) ||
		!strings.Contains(problem.HintOf(err), "the session that held it has ended") {
		t.Errorf("got %v, hint %q", err, problem.HintOf(err))
	}
}

func TestSnapshotIDs(t *testing.T) {
	for _, id := range []string{"x", "00000003-0000001B-1'; DROP TABLE x; --", "00000003", "-1-2"} {
		_, err := n8ndb.OpenPostgres(t.Context(), n8ndb.PostgresConfig{DSN: "postgres://127.0.0.1:1/x", Snapshot: id})
		if err == nil || !strings.Contains(err.Error(), "is no exported snapshot of PostgreSQL") {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestSessions(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn := f.Copy(t)
	t.Run("name", func(t *testing.T) { appName(t, dsn) })
	t.Run("cancelled", func(t *testing.T) { cancelled(t, f, dsn) })
	t.Run("dropped table", func(t *testing.T) { droppedTable(t, f, dsn) })
}

func appName(t *testing.T, dsn string) {
	for given, want := range map[string]string{"": "n8keep", "n8keep-abcdefghijkl": "n8keep-abcdefghijkl"} {
		db := openPostgres(t, n8ndb.PostgresConfig{DSN: dsn, AppName: given})
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = $2", want, strings.TrimPrefix(u.Path, "/")).Scan(&n); err != nil || n != 1 {
			t.Errorf("%d sessions are called %q (%v)", n, want, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func cancelled(t *testing.T, f n8ndbtest.Fixture, dsn string) {
	db := openPostgres(t, n8ndb.PostgresConfig{DSN: dsn})
	receipt := n8ndbtest.Receipt(t)
	keys, err := db.Keyset(t.Context(), receipt, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = db.Census(ctx, n8ndb.CensusConfig{Keys: keys, Receipt: receipt, Visit: func(n8ndb.Secret) error {
		cancel()
		return nil
	}})
	if err != context.Canceled {
		t.Errorf("got %v", err)
	}
	if _, err := db.Version(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := db.Version(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// A table that an upgrade drops while it is read is no bug of ours.
func droppedTable(t *testing.T, f n8ndbtest.Fixture, dsn string) {
	db := openPostgres(t, n8ndb.PostgresConfig{DSN: dsn})
	f.Exec(t, dsn, `DROP TABLE activity_event`)
	_, err := db.RowCounts(t.Context())
	if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "the structure of the database was changed while it was read: ") ||
		problem.HintOf(err) != "n8n is probably being upgraded: try again when it has started" {
		t.Errorf("got %v, hint %q", err, problem.HintOf(err))
	}
	id, _ := export(t, dsn)
	f.Exec(t, dsn, `DROP TABLE chat_hub_messages`)
	openPostgres(t, n8ndb.PostgresConfig{DSN: dsn, Snapshot: id})
}

func TestRunning(t *testing.T) {
	for _, name := range []string{"2.41.1-postgres", "2.41.1-sqlite", "1.123.81-sqlite"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			db := f.Open(t, location)
			if got, err := db.Running(t.Context()); err != nil || len(got) != 0 {
				t.Errorf("at rest: %v %v", got, err)
			}
			workflow := ""
			for w, err := range db.Workflows(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				workflow = w.ID
			}
			for i, status := range []string{"new", "running", "waiting", "success", "error"} {
				started := any("2026-08-01 02:00:00.250")
				if status == "new" {
					started = nil
				}
				f.Exec(t, location, `INSERT INTO execution_entity (id, "workflowId", finished, mode, status, "startedAt") VALUES ($1, $2, $3, 'manual', $4, $5)`, 9001+i, workflow, false, status, started)
			}
			got, err := db.Running(t.Context())
			want := []n8ndb.RunningExecution{
				{ID: "9001", WorkflowID: workflow, Status: "new"},
				{ID: "9002", WorkflowID: workflow, Status: "running", Started: time.Date(2026, 8, 1, 2, 0, 0, 250e6, time.UTC)},
			}
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}
