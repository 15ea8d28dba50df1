package n8ndb_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// session is another client of the database.
func session(t *testing.T, dsn, app string) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	c.RuntimeParams["application_name"] = app
	conn, err := pgx.ConnectConfig(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func run(t *testing.T, c *pgx.Conn, stmts ...string) {
	t.Helper()
	for _, stmt := range stmts {
		if _, err := c.Exec(context.Background(), stmt, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", stmt, err)
		}
	}
}

// TestWritePostgresAttached: other sessions are named, and only who says so goes on.
func TestWritePostgresAttached(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn, ctx := f.Copy(t), context.Background()
	other := session(t, dsn, "n8n worker")
	want := fmt.Sprintf("the database is in use by session %d (n8n worker, user postgres, from 127.0.0.1)", other.PgConn().PID())
	if _, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn}); problem.KindOf(err) != problem.Busy || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	w, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn, AssumeStopped: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(w.Unchecked) != 1 || !strings.HasPrefix(w.Unchecked[0], "other sessions are in the database: session ") {
		t.Errorf("unchecked %q", w.Unchecked)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	other.Close(ctx)
	session(t, dsn, "n8keep backup") // reads only
	// The server shows a session for a moment after it has ended.
	for range 200 {
		if w, err = n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn}); err == nil || problem.KindOf(err) != problem.Busy {
			break
		}
	}
	if err != nil || len(w.Unchecked) != 0 {
		t.Fatalf("%v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// TestWritePostgresLocks: n8n's own locks and any writer are waited for, and named.
func TestWritePostgresLocks(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn, ctx := f.Copy(t), context.Background()
	sum := sha256.Sum256([]byte("public:"))
	migrations := int32(binary.BigEndian.Uint32(sum[:4]))
	other := session(t, dsn, "n8n main")
	cfg := n8ndb.PostgresWriteConfig{DSN: dsn, AssumeStopped: true, LockTimeout: 50 * time.Millisecond}
	want := fmt.Sprintf("the database is held locked by session %d (n8n main, user postgres, from 127.0.0.1)", other.PgConn().PID())
	for _, stmt := range []string{
		fmt.Sprintf("SELECT pg_advisory_xact_lock(1005, %d)", migrations), "SELECT pg_advisory_xact_lock(1007)", "SELECT pg_advisory_xact_lock(1008)",
		`UPDATE "user" SET "firstName" = 'x'`, `DELETE FROM settings WHERE key = 'none'`, "LOCK TABLE execution_data IN SHARE UPDATE EXCLUSIVE MODE", "LOCK TABLE deployment_key IN ACCESS EXCLUSIVE MODE",
	} {
		run(t, other, "BEGIN", stmt)
		_, err := n8ndb.WritePostgres(ctx, cfg)
		if problem.KindOf(err) != problem.Busy || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", stmt, err, want)
		}
		run(t, other, "ROLLBACK")
	}
	// Readers and locks of other databases and tables are nobody's business.
	run(t, other, "BEGIN", `SELECT * FROM credentials_entity`, "LOCK TABLE workflow_entity IN EXCLUSIVE MODE", "SELECT pg_advisory_xact_lock(1006)")
	w, err := n8ndb.WritePostgres(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, other, "ROLLBACK")

	// With a Writer nobody writes, migrates or seeds; everybody reads.
	run(t, other, "SET lock_timeout = 50")
	for _, stmt := range []string{"SELECT pg_advisory_xact_lock(1005, " + fmt.Sprint(migrations) + ")", "SELECT pg_advisory_xact_lock(1007)", "SELECT pg_advisory_xact_lock(1008)",
		`UPDATE "user" SET "firstName" = 'x'`, `INSERT INTO settings (key, value) VALUES ('a', 'b')`, `DELETE FROM execution_data`, `UPDATE credentials_entity SET name = 'x'`, `SELECT * FROM deployment_key FOR UPDATE; UPDATE deployment_key SET value = ''`} {
		if _, err := other.Exec(ctx, stmt, pgx.QueryExecModeSimpleProtocol); err == nil || !strings.Contains(err.Error(), "55P03") {
			t.Errorf("%s: %v", stmt, err)
		}
	}
	run(t, other, `SELECT * FROM credentials_entity`, `SELECT * FROM "user"`)
	if _, err := n8ndb.WritePostgres(ctx, cfg); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "(n8keep, user postgres") {
		t.Errorf("a second Writer: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	run(t, other, `UPDATE "user" SET "firstName" = 'x'`)
}

func asRole(t *testing.T, dsn, role, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, password)
	return u.String()
}

// TestWritePostgresRefuses: what cannot work is said before anything is locked.
func TestWritePostgresRefuses(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn, ctx := f.Copy(t), context.Background()
	refused := func(what, dsn, want string) {
		t.Helper()
		_, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn, AssumeStopped: true})
		if err == nil || err.Error() != want || problem.HintOf(err) == "" {
			t.Errorf("%s: %v (%s), want %s", what, err, problem.HintOf(err), want)
		}
	}
	refused("no address", "nonsense://", "the PostgreSQL address cannot be read")
	admin := session(t, dsn, "admin")
	run(t, admin, `CREATE ROLE h1_reader LOGIN PASSWORD 'reader'`, `GRANT SELECT ON ALL TABLES IN SCHEMA public TO h1_reader`)
	t.Cleanup(func() { run(t, admin, `DROP OWNED BY h1_reader`, `DROP ROLE h1_reader`) })
	reader := asRole(t, dsn, "h1_reader", "reader")
	refused("without UPDATE", reader, `this user may not write the table "credentials_entity"`)
	run(t, admin, `GRANT UPDATE ON ALL TABLES IN SCHEMA public TO h1_reader`, `ALTER TABLE credentials_entity ENABLE ROW LEVEL SECURITY`)
	refused("with row security", reader, `row security hides rows of the table "credentials_entity" from this user`)
	run(t, admin, `ALTER TABLE credentials_entity DISABLE ROW LEVEL SECURITY`)
	w, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: reader, AssumeStopped: true})
	if err != nil {
		t.Fatalf("SELECT and UPDATE are enough: %v", err)
	}
	rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	run(t, admin, `CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW."updatedAt" = now(); RETURN NEW; END'`,
		`CREATE TRIGGER mine BEFORE INSERT OR UPDATE ON "user" FOR EACH ROW EXECUTE FUNCTION touch()`)
	refused("a trigger", dsn, `the trigger "mine" would run with every row of "user" that is written`)
	run(t, admin, `ALTER TABLE "user" DISABLE TRIGGER mine`,
		`CREATE TRIGGER prevent_deletion BEFORE DELETE OR TRUNCATE ON deployment_key FOR EACH STATEMENT EXECUTE FUNCTION touch()`) // as n8n 3.0
	if w, err = n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn, AssumeStopped: true}); err != nil {
		t.Fatalf("a disabled trigger, and one that n8n has: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn, Schema: "elsewhere", AssumeStopped: true}); err == nil || !strings.Contains(err.Error(), "is not an n8n database") {
		t.Errorf("%v", err)
	}
}

// TestWritePostgresElsewhere: schema and table prefix, a server whose order of texts is
// not that of bytes, and settings of the role that would end the work.
func TestWritePostgresElsewhere(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn, ctx := f.Copy(t), context.Background()
	admin := session(t, dsn, "admin")
	tables, err := f.Open(t, dsn).Tables(ctx)
	if err != nil || len(tables) < 100 {
		t.Fatalf("%d tables, %v", len(tables), err)
	}
	for _, table := range tables {
		run(t, admin, fmt.Sprintf(`ALTER TABLE "%s" RENAME TO "my ""%s"`, table.Name, table.Name))
	}
	run(t, admin, `ALTER SCHEMA public RENAME TO "n8n's ""own"""`, `CREATE SCHEMA public`)
	database := admin.Config().Database
	run(t, admin, `ALTER DATABASE "`+database+`" SET default_transaction_read_only = on`, `ALTER DATABASE "`+database+`" SET statement_timeout = 1`,
		`ALTER DATABASE "`+database+`" SET synchronous_commit = off`, `ALTER DATABASE "`+database+`" SET default_transaction_isolation = 'repeatable read'`)
	w, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn, Schema: `n8n's "own"`, TablePrefix: `my "`, AssumeStopped: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	changes, _, _ := rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
	r := n8ndbtest.Census(t, w.DB, n8ndbtest.Key(t, newKeyText), n8ndb.CensusConfig{Executions: n8ndb.AllExecutions})
	if r.Census.Failed != 0 || r.Census.Opened == 0 || len(changes) == 0 {
		t.Errorf("%+v", r.Census)
	}
	restored, err := w.Restore(ctx, sequence(changes))
	if err != nil || restored.Restored != int64(len(changes)) {
		t.Errorf("%+v, %v", restored, err)
	}
	if err := w.Commit(ctx); err != nil {
		t.Error(err)
	}
}

// TestRewritePages: many rows, among them large ones, are read in pages, met in the
// order of a census, and all written.
func TestRewritePages(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			fill(t, f, location, 1500)
			for i := range 12 {
				id := 700 + i
				v, err := f.Key.EncryptCBC(fmt.Appendf(nil, `{"n":%d,"s":"%s"}`, i, strings.Repeat("l", 3000*i)))
				if err != nil {
					t.Fatal(err)
				}
				f.Exec(t, location, `UPDATE credentials_entity SET data = $1 WHERE id = $2`, v.String(), fmt.Sprintf("bench%011d", id+i%3))
			}
			before := dump(t, f, location)
			db := f.Open(t, location)
			read := n8ndbtest.Census(t, db, f.Key, n8ndb.CensusConfig{Executions: n8ndb.AllExecutions})
			db.Close()
			w := writer(t, f, location)
			changes, secrets, _ := rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
			if diff := cmp.Diff(byPlace(read.Secrets), byPlace(secrets)); diff != "" {
				t.Errorf("a census and a rewrite meet other values: %s", diff)
			}
			again := n8ndbtest.Census(t, w.DB, n8ndbtest.Key(t, newKeyText), n8ndb.CensusConfig{Executions: n8ndb.AllExecutions})
			for id, text := range read.Plaintexts {
				if again.Plaintexts[id] != text && text != f.Key.Reveal() {
					t.Errorf("%s has changed", id)
				}
			}
			if again.Census.Failed != 0 || len(changes) < 1500 {
				t.Errorf("%d changes, %+v", len(changes), again.Census)
			}
			if err := w.Commit(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			before.apply(t, f, changes)
			if diff := difference(before, dump(t, f, location)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestWritePostgresLost: a server that goes away ends the work, and in the middle of a
// commit nobody knows.
func TestWritePostgresLost(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn, ctx := f.Copy(t), context.Background()
	before := dump(t, f, dsn)
	for _, at := range []string{"rewrite", "commit"} {
		w, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn, AppName: "n8keep lost", AssumeStopped: true})
		if err != nil {
			t.Fatal(err)
		}
		if at == "commit" {
			rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
		}
		run(t, session(t, dsn, "n8keep admin"), `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'n8keep lost'`)
		if at == "commit" {
			err = w.Commit(ctx)
			if !errors.Is(err, n8ndb.ErrCommitUnknown) || !strings.HasPrefix(err.Error(), "it is not known whether the changes were committed") || problem.KindOf(err) != problem.Unreachable {
				t.Errorf("commit: %v, kind %v", err, problem.KindOf(err))
			}
		} else {
			_, err = w.Keyset(ctx, n8ndbtest.Receipt(t), f.Key)
			if problem.KindOf(err) != problem.Unreachable || errors.Is(err, n8ndb.ErrCommitUnknown) {
				t.Errorf("rewrite: %v", err)
			}
		}
		if err := w.Close(); err != nil {
			t.Errorf("%s: closing: %v", at, err)
		}
	}
	if diff := difference(before, dump(t, f, dsn)); diff != "" {
		t.Error(diff)
	}
}

// cutting passes one client on to a server and cuts the connection at COMMIT: before
// or after the server has it.
func cutting(t *testing.T, dsn string, passOn bool) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	backend := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp", backend)
		if err != nil {
			return
		}
		defer server.Close()
		var cut atomic.Bool
		serving.Go(func() { // from the server
			b := make([]byte, 1<<16)
			for {
				n, err := server.Read(b)
				if err != nil || cut.Load() { // the server has answered the COMMIT
					client.Close()
					server.Close()
					return
				}
				if _, err := client.Write(b[:n]); err != nil {
					return
				}
			}
		})
		b := make([]byte, 1<<16)
		for {
			n, err := client.Read(b)
			if err != nil {
				return
			}
			if bytes.Contains(b[:n], []byte("COMMIT\x00")) {
				cut.Store(true)
				if !passOn {
					return
				}
			}
			if _, err := server.Write(b[:n]); err != nil {
				return
			}
			if cut.Load() {
				io.Copy(io.Discard, client) // until the other side has closed it
				return
			}
		}
	})
	u.Host = l.Addr().String()
	return u.String()
}

// TestWritePostgresCommitLost: without an answer the database alone knows, and it has
// all or nothing.
func TestWritePostgresCommitLost(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	for _, passOn := range []bool{false, true} {
		dsn := f.Copy(t)
		want := dump(t, f, dsn)
		w, err := n8ndb.WritePostgres(context.Background(), n8ndb.PostgresWriteConfig{DSN: cutting(t, dsn, passOn), AssumeStopped: true})
		if err != nil {
			t.Fatal(err)
		}
		changes, _, _ := rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
		if err := w.Commit(context.Background()); !errors.Is(err, n8ndb.ErrCommitUnknown) {
			t.Errorf("passed on %t: %v", passOn, err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		// The server may still be about it: this waits for its locks.
		f.Exec(t, dsn, `BEGIN; LOCK TABLE credentials_entity IN ACCESS EXCLUSIVE MODE; COMMIT`)
		if passOn {
			want.apply(t, f, changes)
		}
		if diff := difference(want, dump(t, f, dsn)); diff != "" {
			t.Errorf("passed on %t: %s", passOn, diff)
		}
	}
}

// TestRewriteMemory: what is in memory does not grow with the database.
func TestRewriteMemory(t *testing.T) {
	both(t, func(t *testing.T, f n8ndbtest.Fixture, location string) {
		const size, bound = 500 << 10, 24 << 20
		executions := int64(80) // far more than the bound, in all
		if soak() {
			executions = 160
		}
		v, err := f.Key.EncryptCBC([]byte(`{"version":1}`))
		if err != nil {
			t.Fatal(err)
		}
		data := `[{"executionData":"1"},{"runtimeData":"2"},{"credentials":"3"},"` + v.String() + `","` + strings.Repeat("some text ", size/10) + `"]`
		series := `generate_series(20001, 20000 + ` + fmt.Sprint(executions) + `) AS s(n)`
		if f.Engine == n8ndb.SQLite {
			series = `(WITH RECURSIVE s(n) AS (SELECT 20001 UNION ALL SELECT n + 1 FROM s WHERE n < 20000 + ` + fmt.Sprint(executions) + `) SELECT n FROM s) AS s`
		}
		f.Exec(t, location, `INSERT INTO execution_entity (id, "workflowId", finished, mode, status) SELECT s.n, 'labWorkflowCli01', $1, 'manual', 'success' FROM `+series, true)
		f.Exec(t, location, `INSERT INTO execution_data ("executionId", "workflowData", data) SELECT s.n, '{}', $1 FROM `+series, data)
		data = ""
		ctx, r := context.Background(), n8ndbtest.Receipt(t)
		w := writer(t, f, location)
		keys, err := w.Keyset(ctx, r, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		live := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before, most, n := live(), uint64(0), 0
		out, err := w.Rewrite(ctx, n8ndb.RewriteConfig{Keys: keys, Receipt: r, Executions: n8ndb.AllExecutions, Seal: resealer(f.Key, n8ndbtest.Key(t, newKeyText)), Visit: func(n8ndb.Secret) error {
			if n++; n%10 == 0 {
				most = max(most, live())
			}
			return nil
		}})
		if err != nil || out.ByPlace["execution_data.data[credentials]"] < executions {
			t.Fatalf("%+v, %v", out, err)
		}
		if most > before+bound {
			t.Errorf("%d MiB were in use to rewrite %d MiB", (most-before)>>20, executions*size>>20)
		}
	})
}
