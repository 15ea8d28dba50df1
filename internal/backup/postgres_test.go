package backup_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// newPostgresHost is a host whose n8n is on PostgreSQL.
func newPostgresHost(t *testing.T, fixture string) (*host, string) {
	t.Helper()
	dsn := pgtest.Restore(t, filepath.Join("../../testdata/fixtures", fixture, "database.dump"))
	h := newHost(t, "2.41.1-sqlite", fixtureKey(t, fixture))
	if err := os.Remove(h.cfg.Database); err != nil {
		t.Fatal(err)
	}
	h.cfg.Database, h.cfg.Postgres = "", &backup.Postgres{DSN: dsn}
	return h, dsn
}

func execute(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestPostgresFixtures(t *testing.T) {
	for _, fixture := range []string{"2.41.1-postgres", "2.41.1-postgres-keyrotation"} {
		for _, engine := range []string{backup.EnginePgDump, backup.EngineNative} {
			for _, history := range []string{"all", "none"} {
				t.Run(fixture+"/"+engine+"/"+history, func(t *testing.T) {
					t.Parallel()
					h, _ := newPostgresHost(t, fixture)
					h.cfg.Postgres.Engine = engine
					var err error
					if h.cfg.History, err = n8ndb.ParseHistory(history); err != nil {
						t.Fatal(err)
					}
					res := h.create()
					if res.Sidecar.State != archive.StateGood || res.Sidecar.SecretsOpened < 15 || res.Sidecar.Workflows < 4 || res.Sidecar.Engine != "postgres" {
						t.Errorf("%+v\n%v", res.Sidecar, res.Findings)
					}
					if len(res.Notes) == 0 {
						t.Error("nothing is said of the server")
					}
					v, err := backup.Verify(t.Context(), h.verifyConfig(res.Sidecar.ID, backup.Secrets))
					if err != nil {
						t.Fatal(err)
					}
					if v.Opened != res.Sidecar.SecretsOpened {
						t.Errorf("%d secrets verified, %d in the sidecar", v.Opened, res.Sidecar.SecretsOpened)
					}
					h.clean()
				})
			}
		}
	}
}

// A secret of another key, the key itself in a row, and a place that nobody knows
// are found in PostgreSQL as in SQLite.
func TestPostgresFindings(t *testing.T) {
	for _, engine := range []string{backup.EnginePgDump, backup.EngineNative} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			h, dsn := newPostgresHost(t, "2.41.1-postgres")
			h.cfg.Postgres.Engine = engine
			foreign, err := h.cfg.Key.EncryptCBC([]byte(`{"a":"b"}`))
			if err != nil {
				t.Fatal(err)
			}
			execute(t, dsn,
				`UPDATE credentials_entity SET data = 'U2FsdGVkX18wMTIzNDU2N4Qp2nWnXQX4mHQKsEEhFEs=' WHERE id = (SELECT min(id) FROM credentials_entity)`,
				`CREATE TABLE data_table_user_x (id int PRIMARY KEY, note text)`,
				`INSERT INTO data_table_user_x VALUES (1, 'the key is `+fixtureKey(t, "2.41.1-postgres")+`'), (2, '`+foreign.String()+`')`)
			res := h.create()
			found := map[string]int{}
			for _, f := range res.Findings {
				found[f.Code]++
			}
			for _, code := range []string{backup.FindingSecret, backup.FindingKeyInside, backup.FindingUnlisted} {
				if found[code] != 1 {
					t.Errorf("%d findings of %s: %+v", found[code], code, res.Findings)
				}
			}
			if res.Sidecar.State != archive.StateDegraded || res.Sidecar.SecretsFailed != 1 {
				t.Errorf("%+v", res.Sidecar)
			}
			if _, err := backup.Verify(t.Context(), h.verifyConfig(res.Sidecar.ID, backup.Secrets)); err != nil {
				t.Error(err)
			}
			h.clean()
		})
	}
}

// A key that opens nothing ends the backup with nothing stored and no session left.
func TestPostgresWrongKey(t *testing.T) {
	h, dsn := newPostgresHost(t, "2.41.1-postgres")
	h.cfg.Key = newHost(t, "2.41.1-sqlite", "another-key-0123456789").cfg.Key
	_, err := backup.Create(t.Context(), h.cfg)
	if problem.KindOf(err) != problem.WrongKey {
		t.Fatalf("got %v", err)
	}
	h.clean()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var n int
	for range 100 { // the server notices the end of a session a moment later
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_sleep(0.02), pg_stat_activity WHERE application_name LIKE 'n8keep-%' AND datname = current_database()`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
	t.Errorf("%d sessions left", n)
}

// Engines, programs and addresses that are not there.
func TestPostgresRefusals(t *testing.T) {
	h, dsn := newPostgresHost(t, "2.41.1-postgres")
	empty := t.TempDir()
	nowhere, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	nowhere.Path = "/no_such_database"
	for name, c := range map[string]struct {
		change func(*backup.Postgres)
		kind   problem.Kind
		text   string
	}{
		"engine":   {func(p *backup.Postgres) { p.Engine = "dd" }, problem.Usage, `unknown engine "dd"`},
		"programs": {func(p *backup.Postgres) { p.Engine, p.Programs = backup.EnginePgDump, empty }, problem.Usage, "pg_dump"},
		"database": {func(p *backup.Postgres) { p.DSN = nowhere.String() }, problem.NotFound, "no_such_database"},
		"schema":   {func(p *backup.Postgres) { p.Schema = "elsewhere" }, problem.Usage, "not an n8n database"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := h.cfg
			p := *cfg.Postgres
			cfg.Postgres = &p
			c.change(&p)
			_, err := backup.Create(t.Context(), cfg)
			if err == nil || c.kind != "" && problem.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v (%v)", err, problem.KindOf(err))
			}
			h.clean()
		})
	}
}

// A table that is rewritten after the snapshot was taken has no rows for whoever
// reads it later; a backup without them must not be called good.
func TestPostgresRewrittenMeanwhile(t *testing.T) {
	for _, engine := range []string{backup.EnginePgDump, backup.EngineNative} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			h, dsn := newPostgresHost(t, "2.41.1-postgres")
			h.cfg.Postgres.Engine = engine
			upgrade := sync.OnceFunc(func() {
				execute(t, dsn, `ALTER TABLE credentials_entity ALTER COLUMN type TYPE text USING type || ''`)
			})
			h.cfg.Now = func() time.Time { // the archive is named after the snapshot was taken
				upgrade()
				return time.Now()
			}
			_, err := backup.Create(t.Context(), h.cfg)
			if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), `rewrote table "credentials_entity"`) {
				t.Errorf("got %v", err)
			}
			h.clean()
		})
	}
}

// Somebody who waits for our locks ends the backup, which leaves nothing.
func TestPostgresYields(t *testing.T) {
	h, dsn := newPostgresHost(t, "2.41.1-postgres")
	h.cfg.Postgres.Engine = backup.EnginePgDump
	h.cfg.Postgres.YieldAfter = 1 // nanosecond
	// More than fits into the pipe from pg_dump.
	execute(t, dsn, `CREATE TABLE data_table_user_big (id int PRIMARY KEY, note text)`,
		`INSERT INTO data_table_user_big SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 8000) i`)
	// From its first byte the dump has its locks. It then stands still until the
	// upgrade has come through, which it can only when the backup has given way.
	begun, upgraded := make(chan struct{}), make(chan error, 1)
	begin := sync.OnceFunc(func() { close(begun) })
	through := make(chan struct{})
	h.cfg.Progress = func(phase string, done, total int64) {
		if phase == "dumping the database" && done > 0 {
			begin()
			<-through
		}
	}
	go func() {
		defer close(through)
		<-begun
		conn, err := pgx.Connect(t.Context(), dsn)
		if err == nil {
			defer conn.Close(t.Context())
			_, err = conn.Exec(t.Context(), "ALTER TABLE workflow_entity ADD COLUMN later text")
		}
		upgraded <- err
	}()
	_, err := backup.Create(t.Context(), h.cfg)
	begin()
	if problem.KindOf(err) != problem.Busy {
		t.Errorf("got %v", err)
	}
	if err := <-upgraded; err != nil {
		t.Errorf("the upgrade: %v", err)
	}
	h.clean()
}
