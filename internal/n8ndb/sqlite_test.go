package n8ndb_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// wantProblem checks kind, text and hint of an error, in which DIR stands for dir.
func wantProblem(t *testing.T, err error, kind problem.Kind, dir, text, hint string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", text)
	}
	clean := func(s string) string { return strings.ReplaceAll(s, dir, "DIR") }
	if problem.KindOf(err) != kind || clean(err.Error()) != text || clean(problem.HintOf(err)) != hint {
		t.Errorf("got %s: %s\n hint %s\nwant %s: %s\n hint %s", problem.KindOf(err), clean(err.Error()), clean(problem.HintOf(err)), kind, text, hint)
	}
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func execSQLite(t *testing.T, path string, stmts ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range stmts {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestOpenSQLiteErrors(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.sqlite")
	execSQLite(t, other, `CREATE TABLE t (a text)`)
	empty := filepath.Join(dir, "no-tables.sqlite")
	execSQLite(t, empty, `CREATE TABLE t (a text)`, `DROP TABLE t`)
	prefixed := filepath.Join(dir, "prefixed.sqlite")
	execSQLite(t, prefixed, `CREATE TABLE n8n_credentials_entity (data text)`, `CREATE TABLE n8n_migrations (a text)`, `CREATE TABLE n8n_workflow_entity (a text)`)
	plain := filepath.Join(dir, "plain.sqlite")
	execSQLite(t, plain, `CREATE TABLE credentials_entity (data text)`, `CREATE TABLE migrations (a text)`, `CREATE TABLE workflow_entity (a text)`)
	damaged := write(t, filepath.Join(dir, "damaged.sqlite"), "SQLite format 3\x00"+strings.Repeat("\x01", 4000))

	for name, c := range map[string]struct {
		cfg        n8ndb.SQLiteConfig
		kind       problem.Kind
		text, hint string
	}{
		"missing": {n8ndb.SQLiteConfig{Path: filepath.Join(dir, "none.sqlite")}, problem.NotFound,
			`there is no database at "DIR/none.sqlite"`, "name the folder that holds database.sqlite with --n8n-dir, or the file itself with --database"},
		"folder": {n8ndb.SQLiteConfig{Path: dir}, problem.Usage, `"DIR" is a folder, not a database file`, `n8n's database is usually "DIR/database.sqlite"`},
		"empty":  {n8ndb.SQLiteConfig{Path: write(t, filepath.Join(dir, "empty"), "")}, problem.Damaged, `"DIR/empty" is empty`, ""},
		"text": {n8ndb.SQLiteConfig{Path: write(t, filepath.Join(dir, "text"), strings.Repeat("no database ", 20))}, problem.Damaged,
			`"DIR/text" is not an SQLite database, or it is encrypted`, ""},
		"short": {n8ndb.SQLiteConfig{Path: write(t, filepath.Join(dir, "short"), "SQLite format 3\x00")}, problem.Damaged,
			`"DIR/short" is not an SQLite database, or it is encrypted`, ""},
		"damaged":           {n8ndb.SQLiteConfig{Path: damaged}, problem.Damaged, `"DIR/damaged.sqlite" is damaged: file is not a database (26)`, ""},
		"another program's": {n8ndb.SQLiteConfig{Path: other}, problem.Usage, `"DIR/other.sqlite" is not an n8n database`, ""},
		"no tables": {n8ndb.SQLiteConfig{Path: empty}, problem.Usage, `"DIR/no-tables.sqlite" is not an n8n database`,
			"it has no tables: n8n was never started on it, or its -wal file is missing"},
		"with prefix": {n8ndb.SQLiteConfig{Path: prefixed}, problem.Usage, `"DIR/prefixed.sqlite" is not an n8n database`,
			"it has n8n's tables with a prefix: --table-prefix n8n_"},
		"without prefix": {n8ndb.SQLiteConfig{Path: plain, TablePrefix: "x_"}, problem.Usage, `"DIR/plain.sqlite" is not an n8n database`,
			"its tables have no prefix: leave --table-prefix out"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := n8ndb.OpenSQLite(context.Background(), c.cfg)
			wantProblem(t, err, c.kind, dir, c.text, c.hint)
		})
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*-*al")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestOddPaths: no character of a path is taken for an option of SQLite.
func TestOddPaths(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	b, err := os.ReadFile(filepath.Join(f.Dir, "database.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), `a?mode=rwc&b#c%20d é "e'`)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := write(t, filepath.Join(dir, "database.sqlite"), string(b))
	f.Open(t, path)
}

// hot is n8n's database after a stop: almost everything is still in the -wal.
func hot(t *testing.T) (f n8ndbtest.Fixture, path string) {
	f = n8ndbtest.Load(t, "2.41.1-sqlite")
	dir := t.TempDir()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		b, err := os.ReadFile(filepath.Join(f.Dir, "raw-hot", "database.sqlite"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "database.sqlite"+suffix), string(b))
	}
	return f, filepath.Join(dir, "database.sqlite")
}

func sums(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][32]byte{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Name(), "-shm") {
			b = nil // readers note themselves in it
		}
		all[e.Name()] = sha256.Sum256(b)
	}
	return all
}

func census(t *testing.T, db *n8ndb.DB, f n8ndbtest.Fixture) *n8ndb.Census {
	t.Helper()
	return n8ndbtest.Census(t, db, f.Key, n8ndb.CensusConfig{}).Census
}

func TestHotWAL(t *testing.T) {
	f, path := hot(t)
	before := sums(t, filepath.Dir(path))
	db, err := n8ndb.OpenSQLite(context.Background(), n8ndb.SQLiteConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if c := census(t, db, f); c.Failed != 0 || c.Opened < 15 {
		t.Errorf("census %+v", c)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, sums(t, filepath.Dir(path))); diff != "" {
		t.Errorf("reading changed the folder: %s", diff)
	}
}

// checkpointed is a database in WAL mode that nobody has open.
func checkpointed(t *testing.T) (f n8ndbtest.Fixture, path string) {
	f = n8ndbtest.Load(t, "2.41.1-sqlite")
	path = f.Copy(t)
	execSQLite(t, path, `PRAGMA journal_mode=WAL`, `PRAGMA wal_checkpoint(TRUNCATE)`)
	return f, path
}

func TestOwnSideFilesAreRemoved(t *testing.T) {
	f, path := checkpointed(t)
	before := sums(t, filepath.Dir(path))
	if len(before) != 1 {
		t.Fatalf("files before: %v", before)
	}
	db, err := n8ndb.OpenSQLite(context.Background(), n8ndb.SQLiteConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if c := census(t, db, f); c.Failed != 0 {
		t.Errorf("census %+v", c)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, sums(t, filepath.Dir(path))); diff != "" {
		t.Errorf("reading left something: %s", diff)
	}
}

// TestSideFilesOfOthersStay: n8n comes while we read, commits, and must lose nothing.
func TestSideFilesOfOthersStay(t *testing.T) {
	f, path := checkpointed(t)
	db, err := n8ndb.OpenSQLite(context.Background(), n8ndb.SQLiteConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	census(t, db, f)
	n8n, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer n8n.Close()
	n8n.SetMaxOpenConns(1)
	if _, err := n8n.Exec(`UPDATE settings SET value = 'changed' WHERE key = 'ui.banners.dismissed'`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + "-wal"); err != nil {
		t.Errorf("the other's log is gone: %v", err)
	}
	if _, err := n8n.Exec(`UPDATE settings SET value = 'again' WHERE key = 'ui.banners.dismissed'`); err != nil {
		t.Error(err)
	}
}

func TestImmutable(t *testing.T) {
	f, path := checkpointed(t)
	before := sums(t, filepath.Dir(path))
	db, err := n8ndb.OpenSQLite(context.Background(), n8ndb.SQLiteConfig{Path: path, Immutable: true})
	if err != nil {
		t.Fatal(err)
	}
	census(t, db, f)
	if diff := cmp.Diff(before, sums(t, filepath.Dir(path))); diff != "" {
		t.Errorf("while open: %s", diff)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

const asNobody = "N8NDB_TEST_OPEN"

// TestReadOnlyFolder opens databases as a user who cannot write their folder: a
// child process, because root may write everywhere.
func TestReadOnlyFolder(t *testing.T) {
	if path := os.Getenv(asNobody); path != "" {
		db, err := n8ndb.OpenSQLite(context.Background(), n8ndb.SQLiteConfig{Path: path})
		if err != nil {
			t.Fatalf("%s: %v (%s)", problem.KindOf(err), err, problem.HintOf(err))
		}
		n := 0
		for _, err := range db.Workflows(context.Background()) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("read %d workflows", n)
		return
	}
	run := func(t *testing.T, path string, mode os.FileMode, want string) {
		t.Helper()
		dir := filepath.Dir(path)
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if err := os.Chmod(filepath.Join(dir, e.Name()), mode); err != nil {
				t.Fatal(err)
			}
		}
		for p := dir; len(p) > len(os.TempDir()); p = filepath.Dir(p) {
			if err := os.Chmod(p, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(dir, 0o555); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Chmod(dir, 0o700) })
		binary := filepath.Join(t.TempDir(), "test")
		b, err := os.ReadFile(os.Args[0])
		if err == nil {
			err = os.WriteFile(binary, b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		for p := filepath.Dir(binary); len(p) > len(os.TempDir()); p = filepath.Dir(p) {
			os.Chmod(p, 0o755)
		}
		cmd := exec.Command(binary, "-test.run", "^TestReadOnlyFolder$", "-test.v")
		cmd.Env = append(os.Environ(), asNobody+"="+path)
		cmd.Dir = "/"
		dropPrivileges(cmd)
		out, _ := cmd.CombinedOutput()
		if got := strings.ReplaceAll(string(out), dir, "DIR"); !strings.Contains(got, want) {
			t.Errorf("want %q in\n%s", want, got)
		}
	}
	t.Run("nobody has it open", func(t *testing.T) {
		_, path := checkpointed(t)
		run(t, path, 0o444, "read 5 workflows")
	})
	t.Run("log with index", func(t *testing.T) {
		_, path := hot(t)
		run(t, path, 0o444, "read 5 workflows")
	})
	t.Run("log without index", func(t *testing.T) {
		_, path := hot(t)
		if err := os.Remove(path + "-shm"); err != nil {
			t.Fatal(err)
		}
		run(t, path, 0o444, `usage: "DIR/database.sqlite" has a write-ahead log that cannot be read, because its folder cannot be written `+
			`(make the folder writable for this user, or copy the file together with its -wal to a folder that is)`)
	})
	t.Run("rollback journal mode", func(t *testing.T) {
		path := n8ndbtest.Load(t, "1.123.81-sqlite").Copy(t)
		run(t, path, 0o444, "read 5 workflows")
	})
	t.Run("no permission", func(t *testing.T) {
		path := n8ndbtest.Load(t, "2.0.3-sqlite").Copy(t)
		run(t, path, 0, `usage: permission denied for "DIR/database.sqlite" (run as the user that runs n8n, or as root)`)
	})
	t.Run("left in the middle of a write", func(t *testing.T) {
		path := n8ndbtest.Load(t, "2.0.3-sqlite").Copy(t)
		interrupt(t, path)
		run(t, path, 0o444, `usage: "DIR/database.sqlite" was left in the middle of a write, and only a program that may write it can repair it `+
			`(start n8n on it once, or take a backup, which repairs a copy)`)
	})
}

// interrupt leaves a hot rollback journal, as a killed n8n does.
func interrupt(t *testing.T, path string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=cache_size(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range []string{`PRAGMA journal_mode = DELETE`, `BEGIN IMMEDIATE`, `CREATE TABLE filler AS SELECT * FROM workflow_entity`,
		`INSERT INTO filler SELECT * FROM filler`, `INSERT INTO filler SELECT * FROM filler`, `INSERT INTO filler SELECT * FROM filler`,
		`UPDATE credentials_entity SET name = name || 'x'`} {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	journal, err := os.ReadFile(path + "-journal")
	if err != nil {
		t.Fatal(err)
	}
	main, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	write(t, path, string(main))
	write(t, path+"-journal", string(journal))
}

// dropPrivileges runs the command as nobody when the test runs as root.
func dropPrivileges(cmd *exec.Cmd) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}

// TestNothingLeftBeside: a census leaves no -wal and no -shm, whether it was
// cancelled, or the database is reached through a symbolic link.
func TestNothingLeftBeside(t *testing.T) {
	_, path := checkpointed(t)
	link := filepath.Join(t.TempDir(), "database.sqlite")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link} {
		for _, cancelled := range []bool{false, true} {
			db, err := n8ndb.OpenSQLite(t.Context(), n8ndb.SQLiteConfig{Path: name})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			for _, err := range db.Workflows(ctx) {
				if cancelled {
					cancel()
				} else if err != nil {
					t.Error(err)
				}
			}
			cancel()
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			for _, suffix := range []string{"-wal", "-shm"} {
				if _, err := os.Stat(path + suffix); err == nil {
					t.Errorf("through %q, cancelled %v: %s is left", filepath.Base(name), cancelled, suffix)
				}
			}
		}
	}
}
