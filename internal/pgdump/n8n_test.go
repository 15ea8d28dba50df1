package pgdump

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/pgtest"
)

// fixture loads a database of a real n8n, moved to another schema and given a table prefix, as its settings
// DB_POSTGRESDB_SCHEMA and DB_TABLE_PREFIX would have it, with a table that a user's workflow made.
func fixture(t testing.TB, dump string) string {
	t.Helper()
	dsn := pgtest.Restore(t, dump)
	execute(t, dsn, `CREATE SCHEMA "n8n Schema"`, `ALTER EXTENSION "uuid-ossp" SET SCHEMA "n8n Schema"`, `DO $$ DECLARE t text; BEGIN
		FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
			EXECUTE format('ALTER TABLE public.%I SET SCHEMA "n8n Schema"', t);
			EXECUTE format('ALTER TABLE "n8n Schema".%I RENAME TO %I', t, 'pre_' || t);
		END LOOP;
		FOR t IN SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace = 'public'::regnamespace LOOP
			EXECUTE 'ALTER FUNCTION ' || t || ' SET SCHEMA "n8n Schema"';
		END LOOP;
		FOR t IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S' LOOP
			EXECUTE format('ALTER SEQUENCE public.%I SET SCHEMA "n8n Schema"', t);
		END LOOP; END $$`,
		`CREATE TABLE "n8n Schema"."pre_data_table_user_Abc" (id serial PRIMARY KEY, "my Column" text, uid uuid DEFAULT "n8n Schema".uuid_generate_v4())`,
		`INSERT INTO "n8n Schema"."pre_data_table_user_Abc" ("my Column") SELECT 'row ' || i FROM generate_series(1, 50) i`,
		`CREATE TABLE "n8n Schema".foreign_app (id int)`, `INSERT INTO "n8n Schema".foreign_app VALUES (1)`)
	return dsn
}

func TestFixtures(t *testing.T) {
	dumps, _ := filepath.Glob("../../testdata/fixtures/*/database.dump")
	if len(dumps) == 0 {
		t.Fatal("no PostgreSQL dump under testdata/fixtures")
	}
	for i, d := range dumps {
		t.Run(filepath.Base(filepath.Dir(d)), func(t *testing.T) {
			source, dir := fixture(t, d), t.TempDir()
			report := dumpTo(t, dir, DumpConfig{DSN: source, Schema: "n8n Schema", TablePrefix: "pre_"})
			if report.Rows["pre_credentials_entity"] == 0 || report.Rows["pre_data_table_user_Abc"] != 50 {
				t.Errorf("rows %v", report.Rows)
			}
			restored := pgtest.New(t)
			restoreFrom(t, dir, restored)
			if got := lines(t, restored, `SELECT relname::text FROM pg_class WHERE relname = 'foreign_app'`); len(got) > 0 {
				t.Error("another application's table came along")
			}
			execute(t, source, `DROP TABLE "n8n Schema".foreign_app`)
			if diff := cmp.Diff(digests(t, source), digests(t, restored)); diff != "" {
				t.Errorf("rows differ:\n%s", diff)
			}
			if i > 0 && os.Getenv("N8KEEP_SOAK") == "" {
				return
			}
			if diff := cmp.Diff(schemaText(t, source, "-n", `"n8n Schema"`), schemaText(t, restored, "-n", `"n8n Schema"`)); diff != "" {
				t.Errorf("pg_dump -s differs:\n%s", diff)
			}
			for _, kind := range []string{"trigger", "uuid_generate_v4", "nextval"} {
				if !strings.Contains(readFile(t, filepath.Join(dir, "pre.sql"))+readFile(t, filepath.Join(dir, "post.sql")), kind) {
					t.Errorf("the fixture has no %s: this test shows less than it says", kind)
				}
			}
			newer := pgtest.Versions()[1:]
			if os.Getenv("N8KEEP_SOAK") == "" {
				newer = newer[len(newer)-1:]
			}
			// A newer server takes the dump of an older one, and what it dumps is the same again.
			for _, version := range newer {
				t.Run(fmt.Sprint(version), func(t *testing.T) {
					once, twice, again := pgtest.NewVersion(t, version), pgtest.NewVersion(t, version), t.TempDir()
					restoreFrom(t, dir, once)
					dumpTo(t, again, DumpConfig{DSN: once, Schema: "n8n Schema", TablePrefix: "pre_"})
					restoreFrom(t, again, twice)
					compare(t, "second", once, twice)
					if diff := cmp.Diff(digests(t, source), digests(t, once)); diff != "" {
						t.Errorf("rows differ:\n%s", diff)
					}
				})
			}
		})
	}
}

// TestFilters: rows left out and rows chosen, in a dump and beside another one.
func TestFilters(t *testing.T) {
	source, dir := pgtest.New(t), t.TempDir()
	execute(t, source, `CREATE SCHEMA s; CREATE TABLE s.keep (id int); CREATE TABLE s.churn (id int, t text, g int GENERATED ALWAYS AS (id) STORED); CREATE TABLE s.none (id int);
		INSERT INTO s.keep VALUES (1); INSERT INTO s.churn SELECT i, 't' FROM generate_series(1, 100) i; INSERT INTO s.none VALUES (1)`)
	chosen := Filter{Query: `SELECT id, t FROM s.churn WHERE id > 90`}
	filters := map[string]Filter{"churn": chosen, "none": {}}
	report := dumpTo(t, dir, DumpConfig{DSN: source, Schema: "s", Filters: filters})
	if diff := cmp.Diff(map[string]int64{"keep": 1, "churn": 10, "none": 0}, report.Rows); diff != "" {
		t.Errorf("rows:\n%s", diff)
	}
	filters["churn"] = Filter{}
	dir = t.TempDir()
	dumpTo(t, dir, DumpConfig{DSN: source, Schema: "s", Filters: filters})
	kept := t.TempDir()
	rows, err := CopyRows(t.Context(), CopyConfig{DSN: source, Schema: "s", Table: "churn", Filter: chosen, First: 7, Emit: toFolder(kept)})
	if err != nil || rows != 10 {
		t.Fatalf("%d rows, error %v", rows, err)
	}
	if _, err := os.Stat(filepath.Join(kept, "0007.000001.sql")); err != nil {
		t.Error(err)
	}
	if rows, err := CopyRows(t.Context(), CopyConfig{DSN: source, Schema: "s", Table: "none"}); rows != 0 || err != nil {
		t.Errorf("%d rows, error %v", rows, err)
	}
	_, err = CopyRows(t.Context(), CopyConfig{DSN: source, Schema: "s", Table: "gone", Filter: chosen})
	if err == nil || err.Error() != `no table "gone" in schema "s"` {
		t.Errorf("error %v", err)
	}
	restored := pgtest.New(t)
	cfg := RestoreConfig{DSN: restored, Dir: dir, Sections: []string{PreData, Data}}
	if err := Restore(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := Load(t.Context(), RestoreConfig{DSN: restored, Dir: kept}); err != nil {
		t.Fatal(err)
	}
	cfg.Sections = []string{PostData}
	if err := Restore(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	want := []string{"churn 10", "keep 1", "none 0"}
	got := lines(t, restored, `SELECT 'keep ' || count(*) FROM s.keep UNION ALL SELECT 'churn ' || count(*) FROM s.churn WHERE g = id UNION ALL SELECT 'none ' || count(*) FROM s.none`)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows:\n%s", diff)
	}
}
