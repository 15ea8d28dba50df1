package n8ndb_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/pgcopy"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// script is a database as a plain dump.
func script(t *testing.T, dsn string) []byte {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	u.User = url.User(pgtest.User)
	program, err := pgtest.Program("pg_dump")
	if err != nil {
		t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, "--no-owner", "-d", u.String())
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "PGPASSWORD="+password, "PGTZ=America/New_York"), &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	return out.Bytes()
}

// described sends the tables through JSON, as an archive does.
func described(t *testing.T, db *n8ndb.DB) []n8ndb.Table {
	t.Helper()
	tables, err := db.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(tables)
	if err != nil {
		t.Fatal(err)
	}
	var again []n8ndb.Table
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	return again
}

func scratch(t *testing.T, db *n8ndb.DB, dump []byte) (*n8ndb.DB, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scratch.sqlite")
	s, err := n8ndb.NewScratch(t.Context(), n8ndb.ScratchConfig{Path: path, Tables: described(t, db), Schema: db.Schema(), TablePrefix: db.TablePrefix()})
	if err != nil {
		t.Fatal(err)
	}
	if err := pgcopy.ReadScript(bytes.NewReader(dump), s.Handler()); err != nil {
		t.Fatal(err)
	}
	made, err := s.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		made.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Dir(path) + "/*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return made, path
}

// same compares all that a census of both tells.
func same(t *testing.T, f n8ndbtest.Fixture, db, made *n8ndb.DB, bundles string) {
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
	tell := func(db *n8ndb.DB) map[string]any {
		keys, err := db.Keyset(ctx, receipt, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		told := map[string]any{"version": must(db.Version(ctx)), "counts": must(db.RowCounts(ctx)), "bundles": must(db.Bundles(ctx, bundles)),
			"key ids": keys.KeyIDs(), "legacy ids": keys.LegacyIDs()}
		for _, scope := range []n8ndb.ExecutionScope{n8ndb.Unfinished, n8ndb.AllExecutions, n8ndb.NoExecutions} {
			for _, key := range []string{f.Key.Reveal(), "another-instance-key-0123"} {
				r := n8ndbtest.Census(t, db, n8ndbtest.Key(t, key), n8ndb.CensusConfig{Receipt: receipt, Executions: scope, BundleDir: bundles})
				told[fmt.Sprint("secrets ", scope, key)], told[fmt.Sprint("census ", scope, key)] = r.Secrets, r.Census
				told[fmt.Sprint("plaintexts ", scope, key)] = r.Plaintexts
				if len(r.Secrets) == 0 {
					t.Error("no secrets")
				}
			}
		}
		return told
	}
	if diff := cmp.Diff(tell(db), tell(made)); diff != "" {
		t.Error(diff)
	}
}

func postgresFixtures(t *testing.T) (names []string) {
	for _, name := range n8ndbtest.Names(t) {
		if strings.Contains(name, "postgres") {
			names = append(names, name)
		}
	}
	if len(names) < 2 {
		t.Fatalf("only %v", names)
	}
	return names
}

func TestScratch(t *testing.T) {
	for _, name := range postgresFixtures(t) {
		for _, seed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				f := n8ndbtest.Load(t, name)
				dsn, seeded := f.Prepare(t, seed)
				bundles := seeded.BundleDir
				if seed {
					for _, stmt := range []string{
						// Order by bytes, not by a language's rules; keys of every type.
						`INSERT INTO credentials_entity (id, name, type, data) SELECT v, 'n', 't', data FROM (VALUES ('a'), ('B'), ('_'), ('ä'), ('é'), ('Z'), ('-x'), ('😀'), (E'tab\there\\n\nline'), ('')) AS x (v), (SELECT data FROM credentials_entity LIMIT 1) AS y`,
						`INSERT INTO secrets_provider_connection (id, "providerKey", type, "encryptedSettings", "isEnabled") SELECT i, 'k' || i, 't', "encryptedSettings", true FROM generate_series(8, 120) AS i, secrets_provider_connection WHERE id = 7`,
						`INSERT INTO dynamic_credential_user_entry ("credentialId", "userId", "resolverId", data) SELECT c.id, u."userId", u."resolverId", u.data FROM credentials_entity AS c, dynamic_credential_user_entry AS u ON CONFLICT DO NOTHING`,
						`ALTER TABLE promotion_provider ALTER COLUMN auth TYPE json USING to_json(auth)`,
						`ALTER TABLE git_connection ALTER COLUMN "encryptedUsername" TYPE character(300)`,
						`ALTER TABLE git_connection ADD COLUMN ref uuid, ADD COLUMN body jsonb, ADD COLUMN raw bytea`,
						`UPDATE execution_entity SET "waitTill" = now() WHERE id = 9004`,
						`INSERT INTO execution_entity (id, "workflowId", finished, mode, status) VALUES (9201, 'labWorkflowCli01', true, 'manual', 'unknown')`,
						`ALTER TABLE execution_entity ALTER COLUMN status DROP NOT NULL`,
						`INSERT INTO execution_entity (id, "workflowId", finished, mode, status) VALUES (9202, 'labWorkflowCli01', true, 'manual', NULL)`,
						`INSERT INTO execution_entity (id, "workflowId", finished, mode, status, "stoppedAt") VALUES (9203, 'labWorkflowCli01', true, 'manual', NULL, now())`,
						`INSERT INTO execution_data ("executionId", "workflowData", data) SELECT i, '{}', data FROM generate_series(9201, 9203) AS i, execution_data WHERE "executionId" = 9003`,
						`CREATE SCHEMA other`, `CREATE TABLE other.settings (key text PRIMARY KEY, value text)`, `INSERT INTO other.settings VALUES ('features.oidc', 'not n8n''s')`,
					} {
						f.Exec(t, dsn, stmt)
					}
				}
				db := f.Open(t, dsn)
				made, path := scratch(t, db, script(t, dsn))
				same(t, f, db, made, bundles)
				if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
					t.Errorf("mode %v %v", info.Mode(), err)
				}
			})
		}
	}
}

func TestScratchPrefix(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn := f.Copy(t)
	for _, stmt := range []string{
		`CREATE SCHEMA "odd schema"`,
		`DO $$ DECLARE r record; BEGIN FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
			EXECUTE format('ALTER TABLE public.%I SET SCHEMA "odd schema"', r.tablename); EXECUTE format('ALTER TABLE "odd schema".%I RENAME TO %I', r.tablename, 'n8n"_' || r.tablename); END LOOP; END $$`,
		`CREATE TABLE "odd schema".credentials_entity (id text PRIMARY KEY, data text)`,
		`INSERT INTO "odd schema".credentials_entity VALUES ('x', 'not with the prefix')`,
	} {
		f.Exec(t, dsn, stmt)
	}
	db := openPostgres(t, n8ndb.PostgresConfig{DSN: dsn, Schema: "odd schema", TablePrefix: `n8n"_`})
	made, _ := scratch(t, db, script(t, dsn))
	same(t, f, db, made, "")
}

// What is kept does not grow with the history.
func TestScratchIsSmall(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn, _ := f.CopySeeded(t)
	f.Exec(t, dsn, `INSERT INTO execution_entity (id, "workflowId", finished, mode, status) SELECT 20000 + i, 'labWorkflowCli01', true, 'manual', 'success' FROM generate_series(1, 5000) AS i`)
	f.Exec(t, dsn, `INSERT INTO execution_data ("executionId", "workflowData", data) SELECT 20000 + i, '{}',
		CASE WHEN i % 10 = 0 THEN replace(d.data, '"HTTP"', '"' || repeat('x', 20000) || '"') ELSE '["' || repeat('y', 2000) || '"]' END FROM generate_series(1, 5000) AS i, execution_data AS d WHERE d."executionId" = 9003`)
	db := f.Open(t, dsn)
	dump := script(t, dsn)
	made, path := scratch(t, db, dump)
	info, err := os.Stat(path)
	if err != nil || len(dump) < 15<<20 || info.Size() > 2<<20 {
		t.Errorf("%d bytes of %d (%v)", info.Size(), len(dump), err)
	}
	same(t, f, db, made, "")
}

func TestScratchRefusals(t *testing.T) {
	tables := []n8ndb.Table{
		{Name: "migrations", PrimaryKey: []string{"id"}, Columns: []n8ndb.Column{{Name: "id", Type: "integer", Kind: n8ndb.Other}, {Name: "name", Type: "text", Kind: n8ndb.Text}}},
		{Name: "credentials_entity", PrimaryKey: []string{"id"}, Columns: []n8ndb.Column{{Name: "id", Type: "text", Kind: n8ndb.Text}, {Name: "data", Type: "text", Kind: n8ndb.Text}}},
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	for _, tt := range []struct {
		tables []n8ndb.Table
		text   string
	}{
		{nil, `the description of the database has no table "migrations"`},
		{tables[:1], `the description of the database has no table "credentials_entity"`},
		{append(tables, tables[0]), `the description of the database has the table "migrations" twice`},
	} {
		_, err := n8ndb.NewScratch(t.Context(), n8ndb.ScratchConfig{Path: path, Tables: tt.tables})
		if problem.KindOf(err) != problem.Damaged || err.Error() != tt.text {
			t.Errorf("got %v", err)
		}
	}
	s, err := n8ndb.NewScratch(t.Context(), n8ndb.ScratchConfig{Path: path, Tables: tables})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n8ndb.NewScratch(t.Context(), n8ndb.ScratchConfig{Path: path, Tables: tables}); problem.KindOf(err) != problem.Usage || !strings.HasSuffix(err.Error(), "the file exists") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the file of another was removed")
	}
	text := func(values ...string) (fields [][]byte) {
		for _, v := range values {
			fields = append(fields, []byte(v))
		}
		return fields
	}
	for _, tt := range []struct {
		table   string
		columns []string
		fields  [][]byte
		text    string
	}{
		{"migrations", []string{"id", "name"}, text("1"), `a row of "migrations" has 1 values for 2 columns`},
		{"migrations", []string{"id", "other"}, text("1", "x"), `the rows of "migrations" have no column "name"`},
		{"migrations", []string{"id", "name"}, text("one", "x"), `a row of "migrations" has no integer in "id"`},
		{"migrations", []string{"id", "name"}, text("1", "x"), ``},
		{"migrations", []string{"name", "id"}, text("x", "1"), `the table "migrations" has a row twice`},
		{"nobody's", []string{"id"}, text("1"), ``},
	} {
		err := s.Row(tt.table, tt.columns, tt.fields)
		if tt.text == "" && err != nil || tt.text != "" && (problem.KindOf(err) != problem.Damaged || err.Error() != tt.text) {
			t.Errorf("got %v, want %q", err, tt.text)
		}
	}
	if s.Wants("other", "migrations") || !s.Wants("public", "migrations") || s.Wants("public", "nobody's") {
		t.Error("wants")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
	if _, err := n8ndb.NewScratch(t.Context(), n8ndb.ScratchConfig{Path: filepath.Join(dir, "none", "s"), Tables: tables}); err == nil || !strings.Contains(err.Error(), fs.ErrNotExist.Error()) && !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}
