package n8ndb_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func swapEngines() []string { return []string{"2.41.1-sqlite", "2.41.1-postgres"} }

func openSwapper(t *testing.T, f n8ndbtest.Fixture, location string) *n8ndb.Swapper {
	t.Helper()
	var s *n8ndb.Swapper
	var err error
	if f.Engine == n8ndb.Postgres {
		s, err = n8ndb.SwapPostgres(context.Background(), n8ndb.SwapPostgresConfig{DSN: location, AppName: "n8keep test"})
	} else {
		s, err = n8ndb.SwapSQLite(context.Background(), n8ndb.SwapSQLiteConfig{Path: location, Patience: 2 * time.Second})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

// rawDB is somebody else's connection.
func rawDB(t *testing.T, f n8ndbtest.Fixture, location string) *sql.DB {
	t.Helper()
	driver, dsn := "pgx", location
	if f.Engine == n8ndb.SQLite {
		driver, dsn = "sqlite", "file:"+location+"?_txlock=immediate&_pragma=busy_timeout(5000)"
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func passConfig(t *testing.T, s *n8ndb.Swapper, f n8ndbtest.Fixture, id string) n8ndb.PassConfig {
	t.Helper()
	cfg := n8ndb.PassConfig{Receipt: n8ndbtest.Receipt(t), Digest: func(place, row string, plaintext []byte) string {
		return place + "/" + row + "/" + string(plaintext)
	}}
	var err error
	if cfg.Keys, err = s.Keyset(context.Background(), cfg.Receipt, f.Key); err != nil {
		t.Fatal(err)
	}
	if cfg.Seal, _, err = cfg.Keys.Reseal(id); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func activeID(f n8ndbtest.Fixture) string {
	for id, d := range f.Deployment {
		if d.Type == "data_encryption" && d.Algorithm == "aes-256-gcm" && d.Status == "active" {
			return id
		}
	}
	return ""
}

// TestPassNeedsItsParts: nothing is opened without them.
func TestPassNeedsItsParts(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	s := openSwapper(t, f, f.Copy(t))
	if _, err := s.Pass(context.Background(), n8ndb.PassConfig{}); err == nil || err.Error() != "a walk needs a key set, a sealer and a digest" {
		t.Errorf("%v", err)
	}
	cfg := passConfig(t, s, f, "")
	cfg.Receipt = n8ndbtest.Receipt(t)
	var none n8ndb.PassConfig
	cfg.Receipt = none.Receipt
	if _, err := s.Pass(context.Background(), cfg); err == nil || err.Error() != "no secret is opened before the audit event of the command is recorded" {
		t.Errorf("%v", err)
	}
	if _, _, err := cfg.Keys.Reseal("nosuchkey"); problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), `there is no data key "nosuchkey" that the instance key opens`) {
		t.Errorf("%v", err)
	}
}

// TestPassLeavesTheRest: what is not a value, and other columns of the row, updatedAt
// among them, stay byte for byte.
func TestPassLeavesTheRest(t *testing.T) {
	for _, name := range swapEngines() {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location, _ := f.CopySeeded(t)
			db := rawDB(t, f, location)
			read := func(query string) (out []string) {
				rows, err := db.Query(query)
				if err != nil {
					t.Fatal(err)
				}
				defer rows.Close()
				for rows.Next() {
					var s string
					if err := rows.Scan(&s); err != nil {
						t.Fatal(err)
					}
					out = append(out, s)
				}
				return out
			}
			const times, others = `SELECT id || CAST("updatedAt" AS text) || name FROM credentials_entity ORDER BY id`, `SELECT key || value FROM settings WHERE key NOT LIKE '%feature%' AND key <> 'credentialsOverwrite' ORDER BY key`
			const ldap = `SELECT value FROM settings WHERE key = 'features.ldap'`
			t1, o1, l1 := read(times), read(others), read(ldap)
			s := openSwapper(t, f, location)
			done, err := s.Pass(context.Background(), passConfig(t, s, f, activeID(f)))
			if err != nil || done.Changed == 0 || done.Lost != 0 || done.Unopened != 0 || done.Longest == 0 {
				t.Fatalf("%v: %+v", err, done)
			}
			if fmt.Sprint(t1) != fmt.Sprint(read(times)) || fmt.Sprint(o1) != fmt.Sprint(read(others)) {
				t.Error("other columns or rows were changed")
			}
			l2 := read(ldap)
			before, after := strings.Split(l1[0], `"`), strings.Split(l2[0], `"`)
			if len(before) != len(after) || l1[0] == l2[0] {
				t.Fatalf("%q became %q", l1[0], l2[0])
			}
			for i := range before {
				if before[i] != after[i] && !strings.HasPrefix(after[i], activeID(f)+":") {
					t.Errorf("%q became %q", before[i], after[i])
				}
			}
		})
	}
}

// TestPassProves: something in the database changes what is written. It is noticed
// before the commit, and nothing of the batch is there.
func TestPassProves(t *testing.T) {
	for _, name := range swapEngines() {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			id := ""
			for id = range f.Credentials {
				break
			}
			if f.Engine == n8ndb.Postgres {
				f.Exec(t, location, `CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.data := left(NEW.data, 90); RETURN NEW; END'`)
				f.Exec(t, location, `CREATE TRIGGER cut BEFORE UPDATE ON credentials_entity FOR EACH ROW WHEN (NEW.id = '`+id+`') EXECUTE FUNCTION cut()`)
			} else {
				f.Exec(t, location, `CREATE TRIGGER cut AFTER UPDATE OF data ON credentials_entity WHEN NEW.id = '`+id+`' BEGIN UPDATE credentials_entity SET data = substr(NEW.data, 1, 90) WHERE id = NEW.id; END`)
			}
			db := rawDB(t, f, location)
			count := func() (n int) {
				if err := db.QueryRow(`SELECT count(*) FROM credentials_entity WHERE data LIKE 'U2FsdGVk%'`).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			before := count()
			s := openSwapper(t, f, location)
			cfg := passConfig(t, s, f, activeID(f))
			cfg.BatchRows = 1000
			_, err := s.Pass(context.Background(), cfg)
			if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), fmt.Sprintf(`what was written to "credentials_entity.data" of %q does not open to what it was before; it was not committed`, id)) ||
				!strings.Contains(problem.HintOf(err), "trigger") {
				t.Errorf("%v", err)
			}
			if after := count(); after != before || before == 0 {
				t.Errorf("%d of %d values are left", after, before)
			}
		})
	}
}

// TestPassWaitsForNobody: rows that another session has locked are left to the next
// walk on PostgreSQL; on SQLite a writer that does not end makes it give up.
func TestPassWaitsForNobody(t *testing.T) {
	for _, name := range swapEngines() {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			s := openSwapper(t, f, location)
			cfg := passConfig(t, s, f, activeID(f))
			tx, err := rawDB(t, f, location).Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			if _, err := tx.Exec(`UPDATE credentials_entity SET name = name || '!'`); err != nil {
				t.Fatal(err)
			}
			done, err := s.Pass(ctx, cfg)
			if f.Engine == n8ndb.Postgres {
				if err != nil || done.Lost != int64(len(f.Credentials)) || done.ByPlace["credentials_entity.data"] != 0 || done.Changed == 0 {
					t.Errorf("%v: %+v", err, done)
				}
			} else if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "another process holds") {
				t.Errorf("%v: %+v", err, done)
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if done, err = s.Pass(ctx, cfg); err != nil || done.Lost != 0 || done.ByPlace["credentials_entity.data"] != int64(len(f.Credentials)) {
				t.Errorf("%v: %+v", err, done)
			}
		})
	}
}

func TestPassCancelled(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	location := f.Copy(t)
	s := openSwapper(t, f, location)
	ctx, cancel := context.WithCancel(context.Background())
	cfg := passConfig(t, s, f, activeID(f))
	cfg.BatchRows = 2
	cfg.Wait = func(ctx context.Context, rows int, _ time.Duration) error {
		cancel()
		return ctx.Err()
	}
	done, err := s.Pass(ctx, cfg)
	if !errors.Is(err, context.Canceled) || done.Written != 2 {
		t.Errorf("%v: %+v", err, done)
	}
}

// TestAttached tells whether somebody else is there.
func TestAttached(t *testing.T) {
	for _, name := range swapEngines() {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			s := openSwapper(t, f, location)
			if _, err := s.Pass(ctx, passConfig(t, s, f, activeID(f))); err != nil {
				t.Fatal(err)
			}
			a, err := s.Attached(ctx, n8ndb.HoldConfig{})
			if err != nil || len(a.By)+len(a.Unchecked) != 0 {
				t.Fatalf("%v: %+v", err, a)
			}
			if f.Engine == n8ndb.Postgres {
				c, err := pgx.Connect(ctx, location)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close(ctx)
				if _, err := c.Exec(ctx, `SET application_name = 'n8n'`); err != nil {
					t.Fatal(err)
				}
				if a, err = s.Attached(ctx, n8ndb.HoldConfig{}); err != nil || len(a.By) != 1 || !strings.Contains(a.By[0], "(n8n, user postgres, from 127.0.0.1)") {
					t.Errorf("%v: %+v", err, a)
				}
				if a, err = s.Attached(ctx, n8ndb.HoldConfig{AssumeStopped: true}); err != nil || len(a.By) != 0 {
					t.Errorf("%v: %+v", err, a)
				}
			}
			// It goes on afterwards.
			if _, err := s.Pass(ctx, passConfig(t, s, f, "")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSwapRefusals(t *testing.T) {
	ctx := context.Background()
	if _, err := n8ndb.SwapSQLite(ctx, n8ndb.SwapSQLiteConfig{Path: filepath.Join(t.TempDir(), "none.sqlite")}); problem.KindOf(err) != problem.NotFound {
		t.Errorf("no file: %v", err)
	}
	if _, err := n8ndb.SwapPostgres(ctx, n8ndb.SwapPostgresConfig{DSN: "postgres://x y"}); problem.KindOf(err) != problem.Usage || strings.Contains(err.Error(), "x y") {
		t.Errorf("no address: %v", err)
	}
}

// TestSwapNeedsTheRight: a user who may only read.
func TestSwapNeedsTheRight(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	location := f.Copy(t)
	reader := pgtest.Role(t, location, "")
	f.Exec(t, location, `GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC`)
	s, err := n8ndb.SwapPostgres(context.Background(), n8ndb.SwapPostgresConfig{DSN: reader})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Pass(context.Background(), passConfig(t, s, f, activeID(f)))
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(problem.HintOf(err), "grant this user UPDATE on n8n's tables") {
		t.Errorf("%v; hint %q", err, problem.HintOf(err))
	}
}

// TestPassOnARollbackJournal: a reader holds up the commit, which is tried again.
func TestPassOnARollbackJournal(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	location := f.Copy(t)
	f.Exec(t, location, `PRAGMA journal_mode = delete`)
	s := openSwapper(t, f, location)
	cfg := passConfig(t, s, f, activeID(f))
	reader, err := rawDB(t, f, location).Query(`SELECT name FROM migrations`)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	reader.Next()
	ended := make(chan n8ndb.Passed)
	go func() {
		done, err := s.Pass(context.Background(), cfg)
		if err != nil {
			t.Error(err)
		}
		ended <- done
	}()
	select {
	case done := <-ended:
		t.Errorf("it did not wait: %+v", done)
	case <-time.After(500 * time.Millisecond):
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if done := <-ended; done.Lost != 0 || done.ByPlace["credentials_entity.data"] != int64(len(f.Credentials)) {
		t.Errorf("%+v", done)
	}
	if a, err := s.Attached(context.Background(), n8ndb.HoldConfig{HealthURL: "x"}); problem.KindOf(err) != problem.Usage {
		t.Errorf("%v %+v", err, a)
	}
}

// TestAttachedByHealth: n8n on PostgreSQL may have no session for a while.
func TestAttachedByHealth(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	s := openSwapper(t, f, f.Copy(t))
	n8n := httptest.NewServer(http.NotFoundHandler())
	a, err := s.Attached(context.Background(), n8ndb.HoldConfig{HealthURL: n8n.URL})
	if err != nil || len(a.By) != 1 || !strings.Contains(a.By[0], "n8n answers at http://127.0.0.1") {
		t.Errorf("%v %+v", err, a)
	}
	n8n.Close()
	if a, err = s.Attached(context.Background(), n8ndb.HoldConfig{HealthURL: n8n.URL}); err != nil || len(a.By)+len(a.Unchecked) != 0 {
		t.Errorf("%v %+v", err, a)
	}
}
