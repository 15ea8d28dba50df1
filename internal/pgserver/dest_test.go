package pgserver

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

const archiveID = "20260801T020000Z-prod-k3x7qa"

// n8nLike are as many tables as make a database n8n's.
var n8nLike = []string{`CREATE TABLE migrations (id int PRIMARY KEY)`, `CREATE TABLE credentials_entity (id text)`, `CREATE TABLE workflow_entity (id text)`, `INSERT INTO workflow_entity VALUES ('old')`}

func dest(t *testing.T, cfg DestConfig) Dest {
	t.Helper()
	d, err := InspectDest(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func target(t *testing.T, cfg DestConfig) *Target {
	t.Helper()
	tg, err := OpenTarget(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tg.Close() })
	return tg
}

// with opens a session, runs statements in it and ends it: nobody is to be
// connected afterwards.
func with(t *testing.T, dsn string, statements ...string) {
	t.Helper()
	ctx := context.Background() // also in a cleanup
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statements {
		if _, err := c.Exec(ctx, s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	pid := c.PgConn().PID()
	c.Close(ctx)
	// The server notices a moment later.
	m, err := WithDatabase(dsn, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	if c, err = pgx.Connect(ctx, m); err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	for left, deadline := 1, time.Now().Add(10*time.Second); left > 0; {
		if err := c.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, int(pid)).Scan(&left); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("a session does not end")
		}
	}
}

func databases(t *testing.T, dsn, like string) []string {
	t.Helper()
	c := maintenance(t, dsn)
	rows, err := c.Query(t.Context(), `SELECT datname::text FROM pg_database WHERE datname LIKE $1 ORDER BY 1`, like)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func maintenance(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	m, err := WithDatabase(dsn, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	return session(t, m)
}

func nameOf(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

func in(t *testing.T, dsn, name string) string {
	t.Helper()
	s, err := WithDatabase(dsn, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dropLater removes every database of a test whose name begins like this.
func dropLater(t *testing.T, dsn, name string) {
	t.Cleanup(func() {
		ctx := context.Background()
		m, err := WithDatabase(dsn, "postgres")
		if err != nil {
			t.Error(err)
			return
		}
		c, err := pgx.Connect(ctx, m)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close(ctx)
		rows, _ := c.Query(ctx, `SELECT datname::text FROM pg_database WHERE starts_with(datname, $1)`, name+"_")
		list, _ := pgx.CollectRows(rows, pgx.RowTo[string])
		for _, x := range list {
			if _, err := c.Exec(ctx, `DROP DATABASE `+quote(x)+` WITH (FORCE)`); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestInspect(t *testing.T) {
	dsn := pgtest.New(t)
	d := dest(t, DestConfig{DSN: dsn})
	if !d.Exists || !d.Empty || d.HasN8N || !d.CanCreate || len(d.Foreign) > 0 || d.Owner != pgtest.User || d.Bytes == 0 || len(d.Sessions) > 0 {
		t.Errorf("empty: %+v", d)
	}
	if err := d.Refuse(false, false); err != nil {
		t.Error(err)
	}
	d = dest(t, DestConfig{DSN: in(t, dsn, "not there")})
	if d.Exists || d.Empty || d.HasN8N || !d.CanCreate || d.Refuse(false, false) != nil {
		t.Errorf("missing: %+v", d)
	}
	with(t, dsn, n8nLike...)
	d = dest(t, DestConfig{DSN: dsn})
	if !d.HasN8N || d.Empty || d.Role != pgtest.User || len(d.Foreign) > 0 {
		t.Errorf("n8n: %+v", d)
	}
	if err := d.Refuse(false, false); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "holds an n8n") || !strings.Contains(problem.HintOf(err), "--overwrite") {
		t.Error(err)
	}
	if err := d.Refuse(true, false); err != nil {
		t.Error(err)
	}
	other := session(t, dsn)
	run(t, other, `SET application_name = 'n8n'`)
	d = dest(t, DestConfig{DSN: dsn})
	if err := d.Refuse(true, false); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), `of user "postgres" (n8n) from 127.0.0.1`) || !strings.Contains(problem.HintOf(err), "--assume-stopped") {
		t.Errorf("%v %v", err, d.Sessions)
	}
	if err := d.Refuse(true, true); err != nil {
		t.Error(err)
	}
}

func TestRealN8N(t *testing.T) {
	dumps, _ := filepath.Glob("../../testdata/fixtures/*/database.dump")
	if len(dumps) == 0 {
		t.Fatal("no PostgreSQL fixtures")
	}
	for _, dump := range dumps {
		d := dest(t, DestConfig{DSN: pgtest.Restore(t, dump)})
		if !d.HasN8N || len(d.Foreign) > 0 || len(d.Extensions) > 0 {
			t.Errorf("%s: %+v", dump, d)
		}
	}
}

func TestForeignObjects(t *testing.T) {
	dsn := pgtest.New(t)
	with(t, dsn, append(n8nLike, `CREATE TABLE customers (id serial)`, `CREATE SCHEMA shop`, `CREATE TABLE shop.orders (id int)`, `CREATE VIEW v AS SELECT * FROM workflow_entity`,
		`CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'`, `CREATE TYPE mood AS ENUM ('a')`, `CREATE PUBLICATION p FOR TABLE workflow_entity`, `SELECT lo_create(4711)`,
		`CREATE EXTENSION hstore`, `CREATE TABLE instance_ai_something_new (id int)`, `CREATE SEQUENCE loose`,
		`CREATE FUNCTION increment_workflow_version() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`,
		`CREATE TRIGGER x BEFORE UPDATE ON workflow_entity FOR EACH ROW EXECUTE FUNCTION increment_workflow_version()`)...)
	d := dest(t, DestConfig{DSN: dsn})
	want := []string{`function "public.f"`, `large object "4711"`, `publication "p"`, `schema "shop"`, `sequence "public.loose"`, `table "public.customers"`, `table "shop.orders"`, `type "public.mood"`, `view "public.v"`}
	got := slices.DeleteFunc(d.Foreign, func(s string) bool { return s == `sequence "public.customers_id_seq"` })
	if !slices.Equal(got, want) {
		t.Errorf("foreign: %q\nwant %q", got, want)
	}
	if !slices.Equal(d.Extensions, []string{"hstore"}) {
		t.Errorf("extensions %q", d.Extensions)
	}
	err := d.Refuse(true, true)
	if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), `holds more than n8n: function "public.f", large object "4711"`) || !strings.Contains(err.Error(), "and 4 more") {
		t.Error(err)
	}
	if d := dest(t, DestConfig{DSN: dsn, Tables: []string{"customers"}}); slices.Contains(d.Foreign, `table "public.customers"`) {
		t.Errorf("a table of the archive is foreign: %q", d.Foreign)
	}
}

func TestPrefixAndSchema(t *testing.T) {
	dsn := pgtest.New(t)
	with(t, dsn, `CREATE SCHEMA flows`, `CREATE TABLE flows.n8n_migrations (id int)`, `CREATE TABLE flows.n8n_credentials_entity (id int)`, `CREATE TABLE flows.n8n_workflow_entity (id int)`,
		`CREATE TABLE flows.n8n_whatever (id serial)`)
	cfg := DestConfig{DSN: dsn, Schema: "flows", TablePrefix: "n8n_"}
	if d := dest(t, cfg); !d.HasN8N || len(d.Foreign) > 0 {
		t.Errorf("%+v", d)
	}
	with(t, dsn, `CREATE TABLE flows.migrations (id int)`)
	if d := dest(t, cfg); !slices.Equal(d.Foreign, []string{`table "flows.migrations"`}) {
		t.Errorf("%+v", d)
	}
	if d := dest(t, DestConfig{DSN: dsn}); !d.HasN8N || !slices.Equal(d.Foreign, []string{`table "flows.migrations"`}) {
		t.Errorf("not found: %+v", d)
	}
	if d := dest(t, DestConfig{DSN: dsn, Schema: "public"}); d.HasN8N || len(d.Foreign) < 5 {
		t.Errorf("%+v", d)
	}
}

func TestNoRights(t *testing.T) {
	dsn := pgtest.New(t)
	name := role(t, dsn, "NOCREATEDB")
	creator := role(t, dsn, "CREATEDB")
	db := nameOf(t, dsn)
	with(t, dsn, fmt.Sprintf(`ALTER DATABASE %s OWNER TO %s`, db, quote(name)))
	t.Cleanup(func() { with(t, dsn, fmt.Sprintf(`ALTER DATABASE %s OWNER TO postgres`, db)) })
	d := dest(t, DestConfig{DSN: as(t, dsn, name, "p")})
	err := d.Refuse(false, false)
	if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), fmt.Sprintf("role %q may not create databases", name)) ||
		!strings.Contains(problem.HintOf(err), fmt.Sprintf("ALTER ROLE %q CREATEDB", name)) || !strings.Contains(problem.HintOf(err), "--admin-database") {
		t.Errorf("%v\n%s", err, problem.HintOf(err))
	}
	if _, err := target(t, DestConfig{DSN: as(t, dsn, name, "p")}).Create(t.Context(), d, archiveID); problem.KindOf(err) != problem.Usage {
		t.Errorf("created: %v", err)
	}
	// A creator that is no member of the owner can neither make nor rename its databases.
	cfg := DestConfig{DSN: as(t, dsn, name, "p"), AdminDSN: in(t, as(t, dsn, creator, "p"), "postgres")}
	d = dest(t, cfg)
	if err := d.Refuse(false, false); problem.KindOf(err) != problem.Usage || !strings.Contains(problem.HintOf(err), fmt.Sprintf("GRANT %q TO %q", name, creator)) {
		t.Errorf("%v\n%s", err, problem.HintOf(err))
	}
	with(t, dsn, fmt.Sprintf(`GRANT %s TO %s`, quote(name), quote(creator)))
	d = dest(t, cfg)
	if err := d.Refuse(false, false); err != nil {
		t.Error(err)
	}
	// Tables of somebody else.
	with(t, dsn, n8nLike...)
	d = dest(t, cfg)
	if err := d.Refuse(true, false); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), `belong to "postgres"`) || !strings.Contains(problem.HintOf(err), fmt.Sprintf(`GRANT "postgres" TO %q`, name)) {
		t.Errorf("%v\n%s", err, problem.HintOf(err))
	}
}

func TestRefusedTargets(t *testing.T) {
	dsn := pgtest.New(t)
	if _, err := InspectDest(t.Context(), DestConfig{DSN: in(t, dsn, "postgres")}); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "a database of the server itself") {
		t.Error(err)
	}
	if _, err := InspectDest(t.Context(), DestConfig{DSN: as(t, dsn, "postgres", "wrong-secret")}); problem.KindOf(err) != problem.Unreachable || strings.Contains(err.Error(), "wrong-secret") {
		t.Error(err)
	}
	first := target(t, DestConfig{DSN: dsn})
	second, err := newTarget(t.Context(), DestConfig{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	run(t, second.admin, `SET lock_timeout = '50ms'`)
	if err := second.lock(t.Context()); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "another restore of database") {
		t.Error(err)
	}
	first.Close()
	run(t, second.admin, `SET lock_timeout = '10s'`)
	if err := second.lock(t.Context()); err != nil {
		t.Error(err)
	}
	with(t, dsn, `SELECT 1`)
	run(t, maintenance(t, dsn), `ALTER DATABASE `+nameOf(t, dsn)+` ALLOW_CONNECTIONS false`)
	defer run(t, maintenance(t, dsn), `ALTER DATABASE `+nameOf(t, dsn)+` ALLOW_CONNECTIONS true`)
	d := dest(t, DestConfig{DSN: dsn})
	if err := d.Refuse(true, true); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "lets nobody in") {
		t.Error(err)
	}
}

func TestRefusesStandby(t *testing.T) {
	there := standby(t, pgtest.New(t))
	if _, err := InspectDest(t.Context(), DestConfig{DSN: in(t, there, "n8n")}); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "is a standby") {
		t.Error(err)
	}
}
