package restore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// What the made-up archive holds: enough tables to be an n8n, and two files.
const loadSQL = `CREATE TABLE migrations (id int PRIMARY KEY);
CREATE TABLE credentials_entity (id text);
CREATE TABLE workflow_entity (id text);
INSERT INTO workflow_entity SELECT 'new' || i FROM generate_series(1, 500) i;`

var archivedFiles = map[string]string{"nodes/package.json": "new nodes", "binaryData/a/b": "new bytes"}

func postgresConfig(dsn, work, filesTo string, receipt audit.Receipt) PostgresConfig {
	key, err := n8ncrypt.NewInstanceKey(testKey)
	if err != nil {
		panic(err)
	}
	m := archive.Manifest{ID: testID, Engine: "postgres", KeyFingerprint: string(testFP), State: archive.StateGood, N8NVersion: "2.41.1", Schema: "public",
		Tables: []archive.TableCount{{Table: "migrations"}, {Table: "credentials_entity"}, {Table: "workflow_entity", Rows: 500}}}
	return PostgresConfig{
		Sidecar: archive.Sidecar{ID: testID, Engine: "postgres", KeyFingerprint: string(testFP), State: archive.StateGood, SecretsOpened: 3, PlainSize: 4096},
		DSN:     dsn, WorkDir: work, FilesTo: filesTo, Key: key, KeyFingerprint: testFP, Receipt: receipt,
		Now: func() time.Time { return time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC) },
		Unpack: func(_ context.Context, dir string) (Unpacked, error) {
			u := Unpacked{Manifest: m, SecretsOpened: 3}
			write := func(name, text string) error {
				path := filepath.Join(dir, filepath.FromSlash(name))
				return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600))
			}
			for name, text := range archivedFiles {
				if err := write("files/"+name, text); err != nil {
					return u, err
				}
				u.Files = append(u.Files, File{Path: name, Staged: filepath.Join(dir, "files", filepath.FromSlash(name)), Mode: 0o640, ModTime: time.Unix(1e9, 0), Size: int64(len(text))})
			}
			return u, write("database/load.sql", loadSQL)
		},
		Load: func(ctx context.Context, dsn, dir string, _ archive.Manifest) error {
			sql, err := os.ReadFile(filepath.Join(dir, "database", "load.sql"))
			if err != nil {
				return err
			}
			c, err := pgx.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			defer c.Close(ctx)
			_, err = c.Exec(ctx, string(sql))
			return err
		},
		Prove: func(ctx context.Context, dsn string, m archive.Manifest) error {
			c, err := pgx.Connect(ctx, dsn)
			if err != nil {
				return err
			}
			defer c.Close(ctx)
			var n int64
			if err := c.QueryRow(ctx, `SELECT count(*) FROM workflow_entity`).Scan(&n); err != nil {
				return err
			}
			if n != m.Tables[2].Rows {
				return problem.New(problem.Damaged, "%d workflows", n)
			}
			return nil
		},
	}
}

// restorePostgres is the process that is killed.
func (j job) restorePostgres(ctx context.Context) error {
	log, err := audit.Open(audit.Config{Dir: filepath.Join(j.State, "audit")})
	if err != nil {
		return err
	}
	receipt, err := log.Begin(ctx, "os:test", audit.Event{Command: "restore"}, audit.FailClosed)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(j.State, "work-")
	if err != nil {
		return err
	}
	cfg := postgresConfig(j.DSN, work, j.To, receipt)
	cfg.Overwrite = j.Overwrite
	p, err := NewPostgresPlan(ctx, cfg)
	if err != nil {
		return err
	}
	_, err = p.Apply(ctx)
	return err
}

// server is a database for restores, dropped at the end with all that they make.
type server struct {
	t    *testing.T
	dsn  string
	name string
}

func newServer(t *testing.T) *server {
	t.Helper()
	dsn := pgtest.New(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t, dsn, strings.TrimPrefix(u.Path, "/")}
	t.Cleanup(func() {
		for _, name := range s.databases() {
			if name != s.name {
				s.admin(`DROP DATABASE "` + name + `" WITH (FORCE)`)
			}
		}
	})
	return s
}

func (s *server) in(name string) string {
	u, err := url.Parse(s.dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

func (s *server) query(dsn, sql string) (string, error) {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	var text string
	err = c.QueryRow(ctx, sql).Scan(&text)
	return text, err
}

func (s *server) exec(dsn string, statements ...string) {
	s.t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		c.Close(ctx)
		s.gone(c.PgConn().PID())
	}()
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql); err != nil {
			s.t.Errorf("%s: %v", sql, err)
		}
	}
}

// gone waits until the server has noticed the end of a session.
func (s *server) gone(pid uint32) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		n, err := s.query(s.in("postgres"), fmt.Sprintf(`SELECT count(*)::text FROM pg_stat_activity WHERE pid = %d`, pid))
		if err != nil {
			s.t.Fatal(err)
		}
		if n == "0" {
			return
		}
	}
	s.t.Fatal("a session does not end")
}

func (s *server) admin(statements ...string) { s.t.Helper(); s.exec(s.in("postgres"), statements...) }

func (s *server) databases() []string {
	s.t.Helper()
	text, err := s.query(s.in("postgres"), fmt.Sprintf(`SELECT coalesce(string_agg(datname, ' ' ORDER BY datname), '') FROM pg_database WHERE starts_with(datname, '%s')`, s.name))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Fields(text)
}

// old fills the database as an n8n that is to be replaced.
func (s *server) old() {
	s.t.Helper()
	s.exec(s.dsn, `CREATE TABLE migrations (id int)`, `CREATE TABLE credentials_entity (id text)`, `CREATE TABLE workflow_entity (id text)`, `INSERT INTO workflow_entity VALUES ('old')`)
}

// holds says which rows a database has: "old", "new", or what is wrong.
func (s *server) holds(name string) string {
	text, err := s.query(s.in(name), `SELECT count(*) || min(id) FROM workflow_entity`)
	switch {
	case err != nil:
		return err.Error()
	case text == "1old":
		return "old"
	case text == "500new1":
		return "new"
	}
	return text
}

func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		found[filepath.ToSlash(rel)] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func receiptFor(t *testing.T) audit.Receipt {
	t.Helper()
	log, err := audit.Open(audit.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := log.Begin(t.Context(), "os:test", audit.Event{Command: "restore"}, audit.FailClosed)
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

func restorePostgres(ctx context.Context, cfg PostgresConfig) (PostgresReport, error) {
	p, err := NewPostgresPlan(ctx, cfg)
	if err != nil {
		return PostgresReport{}, err
	}
	return p.Apply(ctx)
}

func TestPostgresNew(t *testing.T) {
	s := newServer(t)
	cfg := postgresConfig(s.in(s.name+"_fresh"), t.TempDir(), "", receiptFor(t))
	dry := cfg
	dry.DryRun = true
	p, err := NewPostgresPlan(t.Context(), dry)
	if err != nil {
		t.Fatal(err)
	}
	if !p.New || p.Database != s.name+"_fresh" || strings.Contains(p.To, "@") || len(p.Steps) < 4 || p.Config != ConfigLeftOut || len(p.Warnings) > 0 {
		t.Errorf("%+v", p)
	}
	if _, err := p.Apply(t.Context()); err == nil {
		t.Error("applied a dry run")
	}
	if len(s.databases()) != 1 {
		t.Errorf("a dry run made %q", s.databases())
	}
	r, err := restorePostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if s.holds(r.Database) != "new" || r.Kept != "" || r.DropLine != "" || r.DatabaseBytes == 0 || r.SecretsOpened != 3 || r.N8NVersion != "2.41.1" || r.FilesLeftOut != 2 ||
		!strings.Contains(r.KeyLine, "N8N_ENCRYPTION_KEY") || !strings.Contains(strings.Join(r.Warnings, "\n"), "2 files of n8n's folder in the archive were not restored") {
		t.Errorf("%+v", r)
	}
	if got := s.databases(); len(got) != 2 {
		t.Errorf("left: %q", got)
	}
	// It is there now.
	cfg = postgresConfig(cfg.DSN, t.TempDir(), "", cfg.Receipt)
	if _, err := restorePostgres(t.Context(), cfg); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "holds an n8n") {
		t.Error(err)
	}
}

func TestPostgresEmpty(t *testing.T) {
	s := newServer(t)
	r, err := restorePostgres(t.Context(), postgresConfig(s.dsn, t.TempDir(), "", receiptFor(t)))
	if err != nil || r.Kept != "" || s.holds(s.name) != "new" || len(s.databases()) != 1 {
		t.Errorf("%+v, %v, %q", r, err, s.databases())
	}
}

func TestPostgresOverwrite(t *testing.T) {
	s := newServer(t)
	s.old()
	to := t.TempDir()
	if err := os.MkdirAll(filepath.Join(to, "nodes"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, "nodes/package.json"), []byte("old nodes"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := postgresConfig(s.dsn, t.TempDir(), to, receiptFor(t))
	cfg.Overwrite = true
	var steps []string
	cfg.Progress = func(s string) { steps = append(steps, s) }
	r, err := restorePostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(r.Kept, s.name+"_before_20260801_") || r.DropLine != `DROP DATABASE "`+r.Kept+`";` || s.holds(s.name) != "new" || s.holds(r.Kept) != "old" || len(s.databases()) != 2 {
		t.Errorf("%+v, %q", r, s.databases())
	}
	if r.Files != 2 || r.FilesReplaced != 1 || r.Config != ConfigWritten || r.KeyLine != "" || r.SafetyFolder == "" || len(r.Warnings) > 0 {
		t.Errorf("%+v", r)
	}
	got := filesIn(t, to)
	if got["nodes/package.json"] != "new nodes" || got["binaryData/a/b"] != "new bytes" || !strings.Contains(got["config"], testKey) ||
		got[keptPrefix+string(testID)+"/nodes/package.json"] != "old nodes" || len(got) != 4 {
		t.Errorf("files %q", got)
	}
	if len(steps) < 5 || steps[0] != "unpacking and proving the archive" {
		t.Errorf("steps %q", steps)
	}
}

// TestPostgresRefusals: nothing is made, nothing is unpacked.
func TestPostgresRefusals(t *testing.T) {
	s := newServer(t)
	s.old()
	for _, c := range []struct {
		name   string
		change func(*PostgresConfig)
		kind   problem.Kind
		text   string
		hint   string
	}{
		{"sqlite", func(c *PostgresConfig) { c.Sidecar.Engine = "sqlite" }, problem.Usage, "which cannot be restored to a server", "--to DIR"},
		{"workflows", func(c *PostgresConfig) { c.Sidecar.Engine = "workflows" }, problem.Usage, "holds no database", "an export"},
		{"key", func(c *PostgresConfig) { c.KeyFingerprint = "n8k1-bbbbbbbbbbbbbbbb" }, problem.WrongKey, "wrong instance key", "is needed"},
		{"space", func(c *PostgresConfig) { c.PlainSize = 1 << 60 }, problem.Usage, "not enough space", "--work-dir"},
		{"holds n8n", func(*PostgresConfig) {}, problem.Usage, "holds an n8n", "--overwrite"},
		{"no receipt", func(c *PostgresConfig) { c.Receipt = audit.Receipt{} }, problem.Unexpected, "not in the audit log", ""},
		{"nothing to load with", func(c *PostgresConfig) { c.Load = nil }, problem.Unexpected, "nothing to load", ""},
		{"nowhere", func(c *PostgresConfig) { c.Overwrite, c.FilesTo = true, "postgres_test.go/x" }, problem.Usage, "cannot be made", ""},
		{"foreign", func(c *PostgresConfig) {
			s.exec(s.dsn, `CREATE TABLE customers (id int)`)
			c.Overwrite = true
		}, problem.Usage, `holds more than n8n: table "public.customers"`, "name another one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := postgresConfig(s.dsn, t.TempDir(), "", receiptFor(t))
			unpack := cfg.Unpack
			cfg.Unpack = func(ctx context.Context, dir string) (Unpacked, error) {
				t.Error("unpacked")
				return unpack(ctx, dir)
			}
			c.change(&cfg)
			_, err := restorePostgres(t.Context(), cfg)
			if problem.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) || !strings.Contains(problem.HintOf(err), c.hint) {
				t.Errorf("%v: %v\n%s", problem.KindOf(err), err, problem.HintOf(err))
			}
			if s.holds(s.name) != "old" || len(s.databases()) != 1 {
				t.Errorf("%q", s.databases())
			}
		})
	}
	s.exec(s.dsn, `DROP TABLE customers`)
	// A folder with the config of another key.
	to := t.TempDir()
	if err := os.WriteFile(filepath.Join(to, "config"), []byte(`{"encryptionKey":"another-key-0123456789"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := postgresConfig(s.dsn, t.TempDir(), to, receiptFor(t))
	cfg.Overwrite = true
	if _, err := restorePostgres(t.Context(), cfg); problem.KindOf(err) != problem.WrongKey || !strings.Contains(err.Error(), "has a config with another instance key") {
		t.Error(err)
	}
	// n8n is connected.
	ctx := t.Context()
	n8n, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer n8n.Close(ctx)
	cfg.FilesTo = ""
	if _, err := restorePostgres(ctx, cfg); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "is in use") {
		t.Error(err)
	}
	cfg = postgresConfig(s.dsn, t.TempDir(), "", cfg.Receipt)
	cfg.Overwrite, cfg.AssumeStopped = true, true
	p, err := NewPostgresPlan(ctx, cfg)
	if err != nil || !strings.Contains(strings.Join(p.Warnings, "\n"), "is connected, and will be ended") {
		t.Fatal(err, p)
	}
	if _, err := p.Apply(ctx); err != nil || s.holds(s.name) != "new" {
		t.Error(err)
	}
	if err := n8n.Ping(ctx); err == nil {
		t.Error("the old session lives on")
	}
	if _, err := p.Apply(ctx); err == nil {
		t.Error("applied twice")
	}
}

// TestPostgresFails: whatever fails, server and files are as they were.
func TestPostgresFails(t *testing.T) {
	s := newServer(t)
	s.old()
	var back *pgx.Conn
	for _, c := range []struct {
		name   string
		change func(*PostgresConfig, context.CancelFunc)
		kind   problem.Kind
		text   string
	}{
		{"unpack", func(c *PostgresConfig, _ context.CancelFunc) {
			c.Unpack = func(context.Context, string) (Unpacked, error) {
				return Unpacked{}, problem.New(problem.Damaged, "archive is damaged")
			}
		}, problem.Damaged, "archive is damaged"},
		{"another archive", func(c *PostgresConfig, _ context.CancelFunc) {
			u := c.Unpack
			c.Unpack = func(ctx context.Context, dir string) (Unpacked, error) {
				x, err := u(ctx, dir)
				x.Manifest.Engine = "sqlite"
				return x, err
			}
		}, problem.Damaged, "is not what its sidecar says"},
		{"load", func(c *PostgresConfig, _ context.CancelFunc) {
			c.Load = func(context.Context, string, string, archive.Manifest) error { return errors.New("half of it") }
		}, problem.Unexpected, "loading archive"},
		{"prove", func(c *PostgresConfig, _ context.CancelFunc) {
			c.Prove = func(context.Context, string, archive.Manifest) error {
				return problem.New(problem.Damaged, "one secret less")
			}
		}, problem.Damaged, "did not prove itself; it was dropped"},
		{"cancelled while loading", func(c *PostgresConfig, cancel context.CancelFunc) {
			load := c.Load
			c.Load = func(ctx context.Context, dsn, dir string, m archive.Manifest) error {
				err := load(ctx, dsn, dir, m)
				cancel()
				return errors.Join(err, ctx.Err())
			}
		}, problem.Interrupted, "loading archive"},
		{"cancelled at the swap", func(c *PostgresConfig, cancel context.CancelFunc) {
			c.Progress = func(step string) {
				if step == "putting the database in place" {
					cancel()
				}
			}
		}, problem.Interrupted, ""},
		{"n8n came back", func(c *PostgresConfig, _ context.CancelFunc) {
			prove := c.Prove
			c.Prove = func(ctx context.Context, dsn string, m archive.Manifest) error {
				n8n, err := pgx.Connect(ctx, s.dsn)
				if err != nil {
					return err
				}
				back = n8n
				return prove(ctx, dsn, m)
			}
		}, problem.Busy, "is in use"},
		{"files", func(c *PostgresConfig, _ context.CancelFunc) {
			if err := os.WriteFile(filepath.Join(c.FilesTo, "binaryData"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, problem.Usage, "is a file, the archive has a folder of that name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := t.TempDir()
			if err := os.WriteFile(filepath.Join(to, "mine"), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := postgresConfig(s.dsn, t.TempDir(), to, receiptFor(t))
			cfg.Overwrite = true
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c.change(&cfg, cancel)
			before := filesIn(t, to)
			_, err := restorePostgres(ctx, cfg)
			if back != nil {
				back.Close(context.Background())
				s.gone(back.PgConn().PID())
				back = nil
			}
			if problem.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v: %v\n%s", problem.KindOf(err), err, problem.HintOf(err))
			}
			if s.holds(s.name) != "old" || len(s.databases()) != 1 {
				t.Errorf("%s, %q", s.holds(s.name), s.databases())
			}
			if after := filesIn(t, to); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("files were %q and are %q", before, after)
			}
		})
	}
	// Without --overwrite no file is replaced.
	to := t.TempDir()
	if err := os.MkdirAll(filepath.Join(to, "nodes"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, "nodes/package.json"), []byte("old nodes"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := postgresConfig(s.in(s.name+"_2"), t.TempDir(), to, receiptFor(t))
	if _, err := restorePostgres(t.Context(), cfg); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), `has files that the archive has, too: "nodes/package.json"`) {
		t.Error(err)
	}
	if got := filesIn(t, to); len(got) != 1 || len(s.databases()) != 1 {
		t.Errorf("%q %q", got, s.databases())
	}
}

// TestPostgresRealDump loads a dump of a real n8n over another one with pg_restore.
func TestPostgresRealDump(t *testing.T) {
	dumps, _ := filepath.Glob(fixtures + "/2.41.1-postgres*/database.dump")
	if len(dumps) < 2 {
		t.Fatal("no PostgreSQL fixtures")
	}
	program, err := pgtest.Program("pg_restore")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	load := func(ctx context.Context, dsn, dump string) error {
		out, err := exec.CommandContext(ctx, program, "--exit-on-error", "--no-owner", "--no-privileges", "-d", dsn, dump).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := load(t.Context(), s.dsn, dumps[0]); err != nil {
		t.Fatal(err)
	}
	cfg := postgresConfig(s.dsn, t.TempDir(), "", receiptFor(t))
	cfg.Overwrite = true
	cfg.Load = func(ctx context.Context, dsn, _ string, _ archive.Manifest) error { return load(ctx, dsn, dumps[1]) }
	cfg.Prove = func(context.Context, string, archive.Manifest) error { return nil }
	r, err := restorePostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	const look = `SELECT string_agg(id || name, ',' ORDER BY id) FROM credentials_entity`
	was, err1 := s.query(s.in(r.Kept), look)
	is, err2 := s.query(s.dsn, look)
	if err1 != nil || err2 != nil || was == "" || was == is {
		t.Errorf("%q %q %v %v", was, is, err1, err2)
	}
}
