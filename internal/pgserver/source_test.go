package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

const app = "n8keep-testtesttest"

func session(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

func run(t *testing.T, c *pgx.Conn, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := c.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func value[T any](t *testing.T, c *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := c.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// as is dsn for another role.
func as(t *testing.T, dsn, user, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// role makes a login role, dropped at the end with what it owns in databases.
func role(t *testing.T, dsn, attributes string, databases ...string) string {
	t.Helper()
	name := "r_" + strings.ToLower(strings.NewReplacer("/", "_", "=", "_").Replace(t.Name()))
	admin := maintenance(t, dsn)
	for i := 2; ; i++ {
		if !value[bool](t, admin, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, name) {
			break
		}
		name = strings.TrimRight(name, "0123456789") + fmt.Sprint(i)
	}
	run(t, admin, fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD 'p' %s`, quote(name), attributes))
	t.Cleanup(func() {
		ctx := context.Background()
		for _, d := range append(databases, dsn) {
			if c, err := pgx.Connect(ctx, d); err == nil {
				c.Exec(ctx, `DROP OWNED BY `+quote(name)+` CASCADE`)
				c.Close(ctx)
			}
		}
		c, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close(ctx)
		if _, err := c.Exec(ctx, `DROP ROLE `+quote(name)); err != nil {
			t.Error(err)
		}
	})
	return name
}

func open(t *testing.T, cfg SourceConfig) *Source {
	t.Helper()
	if cfg.AppName == "" {
		cfg.AppName = app
	}
	s, err := OpenSource(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSnapshot(t *testing.T) {
	dsn := pgtest.New(t)
	admin := session(t, dsn)
	run(t, admin, `CREATE TABLE t (n int)`, `INSERT INTO t VALUES (1)`)
	s := open(t, SourceConfig{DSN: dsn})
	run(t, admin, `INSERT INTO t VALUES (2)`)

	other := session(t, dsn)
	run(t, other, `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`, `SET TRANSACTION SNAPSHOT '`+s.Snapshot()+`'`)
	if n := value[int](t, other, `SELECT count(*) FROM t`); n != 1 {
		t.Errorf("the snapshot shows %d rows, want the 1 of its moment", n)
	}
	run(t, other, `COMMIT`)
	if got := s.Server(); got.Major() < 15 || got.Replica || got.User != pgtest.User || got.Bytes == 0 || got.Host != "127.0.0.1" || !strings.HasPrefix(got.Text, fmt.Sprint(got.Major(), ".")) {
		t.Errorf("server %+v", got)
	}
	if n := value[int](t, admin, `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, app); n != 1 {
		t.Errorf("%d sessions have the application name", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	run(t, other, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	if _, err := other.Exec(t.Context(), `SET TRANSACTION SNAPSHOT '`+s.Snapshot()+`'`); err == nil {
		t.Error("the snapshot can be imported after Close")
	}
}

// TestEmptiedMeanwhile: what a snapshot cannot show any more must not count as a
// table without rows.
func TestEmptiedMeanwhile(t *testing.T) {
	dsn := pgtest.New(t)
	other, late := session(t, dsn), session(t, dsn)
	run(t, other, `CREATE TABLE n8_kept (id int)`, `CREATE TABLE foreigner (id int)`)
	for _, c := range []struct {
		statement    string
		rows         int // that who reads late in the snapshot gets, of 1
		n8ns, anyone bool
	}{
		{`INSERT INTO n8_kept VALUES (2)`, 1, false, false},
		{`ALTER TABLE n8_kept ADD COLUMN more int`, 1, false, false},
		{`TRUNCATE foreigner`, 1, false, true},
		{`ALTER TABLE n8_kept ALTER COLUMN id TYPE bigint`, 0, true, true},
		{`TRUNCATE n8_kept`, 0, true, true},
		{`DROP TABLE n8_kept`, -1, true, true},
	} {
		run(t, other, `TRUNCATE n8_kept`, `INSERT INTO n8_kept VALUES (1)`)
		s := open(t, SourceConfig{DSN: dsn, TablePrefix: "n8_"})
		run(t, other, c.statement)
		if c.rows >= 0 {
			run(t, late, `BEGIN ISOLATION LEVEL REPEATABLE READ`, `SET TRANSACTION SNAPSHOT '`+s.Snapshot()+`'`)
			if n := value[int](t, late, `SELECT count(*) FROM n8_kept`); n != c.rows {
				t.Errorf("%s: %d rows are read", c.statement, n)
			}
			run(t, late, `COMMIT`)
		}
		for whole, want := range map[bool]bool{false: c.n8ns, true: c.anyone} {
			if err := s.Intact(t.Context(), whole); (err != nil) != want || want && problem.KindOf(err) != problem.Busy {
				t.Errorf("%s, whole %t: %v", c.statement, whole, err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A role, a database and a server with limits that would end every backup.
func TestLimitsForEverybody(t *testing.T) {
	dsn := pgtest.New(t)
	admin := session(t, dsn)
	name := role(t, dsn, "")
	db := value[string](t, admin, `SELECT current_database()`)
	run(t, admin, `ALTER ROLE `+quote(name)+` SET statement_timeout = '250ms'`,
		`ALTER DATABASE `+db+` SET idle_in_transaction_session_timeout = '60ms'`,
		`ALTER DATABASE `+db+` SET idle_session_timeout = '60ms'`)
	s := open(t, SourceConfig{DSN: as(t, dsn, name, "p")})
	ctx, stop := s.Watch(t.Context(), 100*time.Millisecond)
	defer stop()
	// The server itself waits for longer than all three limits.
	run(t, admin, `SET idle_session_timeout = 0`, `SELECT pg_sleep(0.5)`)
	if ctx.Err() != nil {
		t.Fatal(context.Cause(ctx))
	}
	if err := s.alive(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.conn.Exec(t.Context(), `SELECT pg_sleep(0.4)`); err != nil {
		t.Errorf("a statement longer than the role's limit: %v", err)
	}
}

func TestOrdinaryRole(t *testing.T) {
	dsn := pgtest.New(t)
	name := role(t, dsn, "NOSUPERUSER NOCREATEDB NOCREATEROLE")
	s := open(t, SourceConfig{DSN: as(t, dsn, name, "p")})
	if s.Server().User != name || s.Snapshot() == "" || len(s.Notes()) == 0 {
		t.Errorf("%+v %q %q", s.Server(), s.Snapshot(), s.Notes())
	}
}

func TestExtensions(t *testing.T) {
	dsn := pgtest.New(t)
	admin := session(t, dsn)
	run(t, admin, `CREATE EXTENSION "uuid-ossp"`, `CREATE EXTENSION citext`, `CREATE EXTENSION pg_trgm`, `CREATE EXTENSION btree_gin`, `CREATE EXTENSION hstore`, `CREATE EXTENSION pgcrypto`,
		`CREATE TABLE n8n_a (id uuid DEFAULT uuid_generate_v4(), name citext, body text)`, `CREATE INDEX ON n8n_a USING gin (body gin_trgm_ops)`,
		`CREATE TABLE foreign_b (h hstore)`)
	for prefix, want := range map[string][]string{"n8n_": {"citext", "pg_trgm", "uuid-ossp"}, "": {"citext", "hstore", "pg_trgm", "uuid-ossp"}, "other_": {"uuid-ossp"}} {
		if got := open(t, SourceConfig{DSN: dsn, TablePrefix: prefix}).Extensions(); !slices.Equal(got, want) {
			t.Errorf("prefix %q: %q, want %q", prefix, got, want)
		}
	}
}

func TestRefusedSources(t *testing.T) {
	dsn := pgtest.New(t)
	const password = "hunter2secret"
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	missing, err := WithDatabase(as(t, dsn, "postgres", password), "nowhere")
	if err != nil {
		t.Fatal(err)
	}
	real, _ := u.User.Password()
	missing = strings.Replace(missing, password, real, 1)
	for _, c := range []struct {
		name, dsn, text, hint string
		kind                  problem.Kind
	}{
		{"unreadable", "postgres://u:" + password + "@h:port/db", "the PostgreSQL address cannot be read", "postgres://USER@HOST:5432/DATABASE", problem.Usage},
		{"password", as(t, dsn, "postgres", password), "refuses the login of postgres", "check user and password", problem.Unreachable},
		{"nobody listens", "postgres://u:" + password + "@" + closed.Addr().String() + "/db", "cannot connect to db on 127.0.0.1: connection refused", "check host, port", problem.Unreachable},
		{"no database", missing, "there is no database nowhere on 127.0.0.1", "DB_POSTGRESDB_DATABASE", problem.NotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := OpenSource(t.Context(), SourceConfig{DSN: c.dsn, AppName: app})
			if problem.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) || !strings.Contains(problem.HintOf(err), c.hint) {
				t.Errorf("%v\n%v (hint %q)", problem.KindOf(err), err, problem.HintOf(err))
			}
			if strings.Contains(err.Error()+problem.HintOf(err), password) || strings.Contains(fmt.Sprint(err), real) {
				t.Errorf("the password is in %v", err)
			}
		})
	}
	if _, err := OpenSource(t.Context(), SourceConfig{DSN: dsn}); err == nil || !strings.Contains(err.Error(), "application name") {
		t.Errorf("without an application name: %v", err)
	}
}

func TestConnectionsUsedUp(t *testing.T) {
	dsn := pgtest.New(t)
	name := role(t, dsn, "CONNECTION LIMIT 1")
	mine := as(t, dsn, name, "p")
	session(t, mine)
	_, err := OpenSource(t.Context(), SourceConfig{DSN: mine, AppName: app})
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "has no connection left") {
		t.Fatal(err)
	}
}

func TestWithDatabase(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://u:p%20w@h:1/a?sslmode=disable":                "postgres://u:p%20w@h:1/we%20ird%2Fname?sslmode=disable",
		"postgresql:///a?host=/run/pg&dbname=b":                   "postgresql:///we%20ird%2Fname?host=%2Frun%2Fpg",
		"host=h user=u password='a b' dbname=a connect_timeout=1": "host=h user=u password='a b' dbname=a connect_timeout=1 dbname='we ird/name'",
	} {
		got, err := WithDatabase(in, "we ird/name")
		if err != nil {
			t.Fatal(err)
		}
		c, err := pgx.ParseConfig(got)
		if err != nil || c.Database != "we ird/name" {
			t.Errorf("%s: %v, %v", got, c, err)
		}
		if got != want && !strings.Contains(want, "%2Fname") {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, bad := range []string{"postgres://u:hunter2@[::1/db", "user=a password=hunter2 ="} {
		if _, err := WithDatabase(bad, "x"); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}

var errNone = errors.New("nothing")

func TestCauseText(t *testing.T) {
	if got := lastCause(fmt.Errorf("a: %w", errors.Join(errNone, errors.New("b")))); got != "nothing" {
		t.Error(got)
	}
}
