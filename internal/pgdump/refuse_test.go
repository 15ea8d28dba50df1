package pgdump

import (
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestRefusals: what the engine does not understand is an error that names it, before anything is written.
func TestRefusals(t *testing.T) {
	const schema = `CREATE SCHEMA s; CREATE TABLE s.t (id int, a text);`
	for _, test := range []struct {
		name, sql, want string
		whole           bool
	}{
		{name: "partitioned", sql: `CREATE TABLE s.p (a int) PARTITION BY RANGE (a); CREATE TABLE s.p1 PARTITION OF s.p DEFAULT`,
			want: `partitioned table "s.p"`},
		{name: "inherited", sql: `CREATE TABLE s.c () INHERITS (s.t)`,
			want: `table "s.c", which inherits or is inherited from, table "s.t", which inherits or is inherited from`},
		{name: "typed", sql: `CREATE TYPE s.y AS (a int); CREATE TABLE s.ty OF s.y`, want: `table "s.ty", which is a table of a type`},
		{name: "aggregate", sql: `CREATE AGGREGATE s.total(int) (SFUNC = int4pl, STYPE = int)`, want: `aggregate "s.total"`},
		{name: "operator", sql: `CREATE OPERATOR s.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)`, want: `operator "s.==="`},
		{name: "text search", sql: `CREATE TEXT SEARCH CONFIGURATION s.conf (COPY = simple)`, want: `text search configuration "s.conf"`},
		{name: "foreign table", sql: `CREATE EXTENSION file_fdw; CREATE SERVER f FOREIGN DATA WRAPPER file_fdw; CREATE FOREIGN TABLE s.f (a int) SERVER f OPTIONS (filename '/x')`,
			want: `foreign table "s.f"`},
		{name: "base type", sql: `CREATE TYPE s.shell`, want: `base type "s.shell"`},
		{name: "canonical range", sql: `CREATE TYPE s.r; CREATE FUNCTION s.canon(s.r) RETURNS s.r LANGUAGE internal IMMUTABLE STRICT AS 'int4range_canonical'; CREATE TYPE s.r AS RANGE (subtype = int, canonical = s.canon)`,
			want: `range type "s.r", which has a canonical function`},
		{name: "outside type", sql: `CREATE SCHEMA other; CREATE TYPE other.e AS ENUM ('a'); ALTER TABLE s.t ADD e other.e`,
			want: `table "s"."t", which needs enum type "other.e" outside the scope`},
		{name: "outside foreign key", sql: `CREATE SCHEMA other; CREATE TABLE other.k (id int PRIMARY KEY); ALTER TABLE s.t ADD CONSTRAINT outside FOREIGN KEY (id) REFERENCES other.k (id)`,
			want: `foreign key "s"."t" "outside", which needs`},
		{name: "marked", sql: `CREATE EXTENSION citext; CREATE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION s.f() DEPENDS ON EXTENSION citext`,
			want: `function "s.f", which is marked to depend on extension "citext"`},
		{name: "event trigger", whole: true, sql: `CREATE FUNCTION s.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER ev ON ddl_command_end EXECUTE FUNCTION s.e()`,
			want: `event trigger "ev"`},
		{name: "publication", whole: true, sql: `CREATE PUBLICATION pub FOR ALL TABLES`, want: `publication "pub"`},
		{name: "cast", whole: true, sql: `CREATE TYPE s.y AS (a int); CREATE FUNCTION s.c(s.y) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE CAST (s.y AS int) WITH FUNCTION s.c(s.y)`,
			want: `cast "s.y to integer"`},
		{name: "large object", whole: true, sql: `SELECT lo_create(77)`, want: `large object "77"`},
		{name: "default privileges", whole: true, sql: `ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC`, want: `default privileges of role "postgres"`},
		{name: "server", whole: true, sql: `CREATE EXTENSION file_fdw; CREATE SERVER f FOREIGN DATA WRAPPER file_fdw`, want: `foreign server "f"`},
		{name: "cycle", sql: `CREATE FUNCTION s.g(s.t) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; ALTER TABLE s.t ADD g int GENERATED ALWAYS AS (s.g(NULL::s.t)) STORED`,
			want: `objects that need each other: function "s"."g"(s.t), table "s"."t"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dsn := pgtest.New(t)
			execute(t, dsn, schema+test.sql)
			_, err := Dump(t.Context(), DumpConfig{DSN: dsn, Schema: "s", WholeDatabase: test.whole, Emit: func(name string, _ []byte) error {
				t.Errorf("%s was written", name)
				return nil
			}})
			if err == nil || !strings.HasPrefix(err.Error(), "the native engine cannot dump ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %s", err, test.want)
			}
			if problem.KindOf(err) != problem.Usage || !strings.Contains(problem.HintOf(err), `"--engine pg_dump"`) {
				t.Errorf("kind %s, hint %q", problem.KindOf(err), problem.HintOf(err))
			}
		})
	}
}

func TestNothingThere(t *testing.T) {
	dsn := pgtest.New(t)
	execute(t, dsn, `CREATE TABLE public.t (id int)`)
	for _, test := range []struct {
		cfg  DumpConfig
		want string
		kind problem.Kind
	}{
		{DumpConfig{DSN: dsn, Schema: "none"}, `the database has no schema "none"`, problem.NotFound},
		{DumpConfig{DSN: dsn, TablePrefix: "x_"}, `schema "public" has no tables with the prefix "x_"`, problem.NotFound},
		{DumpConfig{DSN: dsn, Filters: map[string]Filter{"no": {}}}, `no table "no" to filter`, problem.Usage},
		{DumpConfig{DSN: "postgres://u:geheim@127.0.0.1:1/x?sslmode=disable"}, "connecting to the database: ", problem.Unreachable},
		{DumpConfig{DSN: "postgres://u:geheim@[::1/x"}, "the address of the database is not understood", problem.Usage},
	} {
		_, err := Dump(t.Context(), test.cfg)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) || problem.KindOf(err) != test.kind {
			t.Errorf("error %v of kind %s, want %s of kind %s", err, problem.KindOf(err), test.want, test.kind)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("the password is in %v", err)
		}
	}
}

// TestNotes: what is left out is said.
func TestNotes(t *testing.T) {
	dsn := pgtest.New(t)
	execute(t, dsn, `CREATE TABLE public.t (id int); INSERT INTO public.t VALUES (1), (1)`)
	conn, err := connect(t.Context(), dsn, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.PgConn().Exec(t.Context(), `CREATE UNIQUE INDEX CONCURRENTLY broken ON public.t (id)`).ReadAll(); err == nil {
		t.Fatal("a unique index over equal rows")
	}
	dir := t.TempDir()
	report := dumpTo(t, dir, DumpConfig{DSN: dsn})
	want := `index "public.broken" is not valid (left by an interrupted CREATE INDEX CONCURRENTLY?) and is not kept`
	if len(report.Notes) != 1 || report.Notes[0] != want {
		t.Errorf("notes %q", report.Notes)
	}
	restoreFrom(t, dir, pgtest.New(t))
}
