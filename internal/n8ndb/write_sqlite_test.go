package n8ndb_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func writeSQLite(path string) (*n8ndb.Writer, error) {
	return n8ndb.WriteSQLite(context.Background(), n8ndb.SQLiteWriteConfig{Path: path, Hold: n8ndb.HoldConfig{AssumeStopped: true}})
}

// files are the names beside a database with owner, mode and size.
func files(t *testing.T, path string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		stat := info.Sys().(*syscall.Stat_t)
		list[e.Name()] = fmt.Sprintf("%v %d:%d", info.Mode(), stat.Uid, stat.Gid)
	}
	return list
}

func header(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 100 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	return b[:100]
}

// abandon leaves the database as a process that was killed: with what the connection
// has written beside it.
func abandon(t *testing.T, path string, pragmas, statement string) string {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?"+pragmas)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(t.TempDir(), "database.sqlite")
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		b, err := os.ReadFile(path + suffix)
		if os.IsNotExist(err) {
			continue
		}
		if err == nil {
			err = os.WriteFile(killed+suffix, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Exec("ROLLBACK"); err != nil && !strings.Contains(err.Error(), "no transaction") {
		t.Fatal(err)
	}
	return killed
}

// TestWriteSQLiteLog: a log that n8n left is part of what is rewritten, and afterwards
// there is none; the file stays in WAL mode.
func TestWriteSQLiteLog(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	value, err := f.Key.EncryptCBC([]byte(`{"only":"in the log"}`))
	if err != nil {
		t.Fatal(err)
	}
	path := abandon(t, f.Copy(t), "_pragma=wal_autocheckpoint(0)", `INSERT INTO credentials_entity (id, name, type, data) VALUES ('inTheLog00000001', 'x', 'y', '`+value.String()+`')`)
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() == 0 {
		t.Fatalf("there is no log: %v", err)
	}
	if err := os.Chown(path, 1234, 2345); err != nil && os.Geteuid() == 0 {
		t.Fatal(err)
	}
	owned := files(t, path)["database.sqlite"]
	w, err := writeSQLite(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	changes, _, _ := rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
	found := false
	for _, c := range changes {
		found = found || c.Key[0] == "inTheLog00000001"
	}
	if !found {
		t.Error("what is in the log only was not rewritten")
	}
	if err := w.Commit(context.Background()); err != nil || len(w.Warnings) != 0 {
		t.Fatalf("%v, %v", err, w.Warnings)
	}
	if info, err := os.Stat(path + "-wal"); err == nil && info.Size() != 0 {
		t.Errorf("after the commit the log has %d bytes", info.Size())
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	left := files(t, path)
	delete(left, "database.sqlite-shm") // as it was left; SQLite makes it anew
	if diff := cmp.Diff(map[string]string{"database.sqlite": owned}, left); diff != "" {
		t.Error(diff)
	}
	if h := header(t, path); h[18] != 2 || h[19] != 2 {
		t.Errorf("the journal mode was changed: %d %d", h[18], h[19])
	}
	r := n8ndbtest.Census(t, f.Open(t, path), n8ndbtest.Key(t, newKeyText), n8ndb.CensusConfig{})
	if r.Census.Failed != 0 || r.Plaintexts["credentials_entity.data[inTheLog00000001]"] != `{"only":"in the log"}` {
		t.Errorf("%+v", r.Census)
	}
}

// TestWriteSQLiteOwner: what SQLite makes beside the database while it writes belongs
// to whom the database belongs to.
func TestWriteSQLiteOwner(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "1.123.81-sqlite"} {
		f := n8ndbtest.Load(t, name)
		path := f.Copy(t)
		if os.Geteuid() == 0 {
			if err := os.Chown(path, 1234, 2345); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		owned := files(t, path)["database.sqlite"]
		w, err := writeSQLite(path)
		if err != nil {
			t.Fatal(err)
		}
		rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
		during := files(t, path)
		if len(during) < 2 {
			t.Errorf("%s: nothing beside the database: %v", name, during)
		}
		for file, is := range during {
			if is != owned {
				t.Errorf("%s: %s is %s, the database %s", name, file, is, owned)
			}
		}
		if err := w.Commit(context.Background()); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(map[string]string{"database.sqlite": owned}, files(t, path)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		want := byte(2)
		if name == "1.123.81-sqlite" {
			want = 1
		}
		if h := header(t, path); h[18] != want || h[19] != want {
			t.Errorf("%s: the journal mode was changed: %d %d", name, h[18], h[19])
		}
	}
}

// TestWriteSQLiteJournal: what a crash of n8n 1.x cut off is rolled back first, as n8n
// would do it.
func TestWriteSQLiteJournal(t *testing.T) {
	f := n8ndbtest.Load(t, "1.123.81-sqlite")
	original := f.Copy(t)
	before := dump(t, f, original)
	// A cache of one page makes SQLite write into the database before the commit.
	path := abandon(t, original, "_pragma=cache_size(1)&_pragma=cache_spill(1)", `BEGIN; UPDATE credentials_entity SET data = 'cut off'; UPDATE workflow_entity SET nodes = 'cut off'; UPDATE workflow_history SET nodes = 'cut off'`)
	journal, err := os.ReadFile(path + "-journal")
	if err != nil || len(journal) < 512 || binary.BigEndian.Uint32(journal[8:]) == 0 && bytes.HasPrefix(journal, make([]byte, 8)) {
		t.Fatalf("there is no hot journal: %d bytes, %v", len(journal), err)
	}
	w, err := writeSQLite(path)
	if err != nil {
		t.Fatal(err)
	}
	changes, _, _ := rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
	if err := w.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	before.apply(t, f, changes)
	if diff := difference(before, dump(t, f, path)); diff != "" {
		t.Error(diff)
	}
}

// TestWriteSQLiteAlone: with somebody attached there is no Writer, and with a Writer
// nobody gets in, neither before nor after the commit, until it is closed.
func TestWriteSQLiteAlone(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "1.123.81-sqlite"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := n8ndbtest.Load(t, name)
			path := f.Copy(t)
			ctx := context.Background()
			other, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(50)")
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			other.SetMaxIdleConns(0)
			tx, err := other.Begin()
			if err != nil {
				t.Fatal(err)
			}
			var n int
			if err := tx.QueryRow(`SELECT count(*) FROM credentials_entity`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			before := files(t, path)
			if _, err := writeSQLite(path); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "is in use by") {
				t.Errorf("with a reader: %v", err)
			}
			if diff := cmp.Diff(before, files(t, path)); diff != "" {
				t.Errorf("a refusal changed something: %s", diff)
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			w, err := writeSQLite(path)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			closed := func(when string) {
				t.Helper()
				if err := other.QueryRow(`SELECT count(*) FROM credentials_entity`).Scan(&n); err == nil || !strings.Contains(err.Error(), "locked") {
					t.Errorf("%s somebody reads: %v", when, err)
				}
				if _, err := other.Exec(`UPDATE credentials_entity SET name = 'x'`); err == nil || !strings.Contains(err.Error(), "locked") {
					t.Errorf("%s somebody writes: %v", when, err)
				}
				if _, err := writeSQLite(path); problem.KindOf(err) != problem.Busy {
					t.Errorf("%s there is a second Writer: %v", when, err)
				}
			}
			closed("at the beginning")
			rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
			closed("after the changes")
			if err := w.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			closed("after the commit")
			if _, err := n8ndb.OpenSQLite(ctx, n8ndb.SQLiteConfig{Path: path}); problem.KindOf(err) != problem.Busy {
				t.Errorf("it is opened: %v", err)
			}
			if err := w.Commit(ctx); err == nil || err.Error() != "the transaction is over" {
				t.Errorf("a second commit: %v", err)
			}
			if _, err := w.Rewrite(ctx, n8ndb.RewriteConfig{}); err == nil {
				t.Error("rewriting without a key set")
			}
			if _, err := w.Restore(ctx, sequence(nil)); err == nil || err.Error() != "the transaction is over" {
				t.Errorf("restoring after the commit: %v", err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if err := other.QueryRow(`SELECT count(*) FROM credentials_entity`).Scan(&n); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// TestWriteSQLiteKilled: what a process leaves that dies in the middle is the old
// state, and after the commit the new one.
func TestWriteSQLiteKilled(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "1.123.81-sqlite"} {
		f := n8ndbtest.Load(t, name)
		path := f.Copy(t)
		before := dump(t, f, path)
		w, err := writeSQLite(path)
		if err != nil {
			t.Fatal(err)
		}
		changes, _, _ := rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
		aside := func() string {
			to := filepath.Join(t.TempDir(), "database.sqlite")
			for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
				if b, err := os.ReadFile(path + suffix); err == nil {
					if err := os.WriteFile(to+suffix, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			return to
		}
		open := aside()
		if err := w.Commit(context.Background()); err != nil {
			t.Fatal(err)
		}
		committed := aside()
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		// n8n's own way of opening it repairs what has to be.
		for _, at := range []string{open, committed} {
			db, err := sql.Open("sqlite", "file:"+at)
			if err != nil {
				t.Fatal(err)
			}
			var result string
			if err := db.QueryRow("PRAGMA integrity_check").Scan(&result); err != nil || result != "ok" {
				t.Errorf("%s: %s %v", name, result, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if diff := difference(before, dump(t, f, open)); diff != "" {
			t.Errorf("%s, killed before the commit: %s", name, diff)
		}
		before.apply(t, f, changes)
		if diff := difference(before, dump(t, f, committed)); diff != "" {
			t.Errorf("%s, killed after the commit: %s", name, diff)
		}
	}
}

func TestWriteSQLiteRefuses(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	path := f.Copy(t)
	f.Exec(t, path, `CREATE TRIGGER mine AFTER UPDATE OF data ON credentials_entity BEGIN UPDATE credentials_entity SET "updatedAt" = 1 WHERE id = NEW.id; END`)
	_, err := writeSQLite(path)
	if err == nil || err.Error() != `the trigger "mine" would run with every row of "credentials_entity" that is written` {
		t.Errorf("%v", err)
	}
	f.Exec(t, path, `DROP TRIGGER mine`)
	// As n8n 3.0 has it.
	f.Exec(t, path, `CREATE TRIGGER prevent_deletion BEFORE DELETE ON deployment_key BEGIN SELECT RAISE(ABORT, 'no'); END`)
	w, err := writeSQLite(path)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := writeSQLite(filepath.Join(t.TempDir(), "none")); problem.KindOf(err) != problem.NotFound {
		t.Errorf("%v", err)
	}
	if _, err := n8ndb.WriteSQLite(context.Background(), n8ndb.SQLiteWriteConfig{Path: path, TablePrefix: "p_", Hold: n8ndb.HoldConfig{AssumeStopped: true}}); err == nil || !strings.Contains(err.Error(), "is not an n8n database") {
		t.Errorf("%v", err)
	}
	// After every refusal the lock is gone.
	if w, err = writeSQLite(path); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// TestRewriteEnds: an error of any callback ends a Rewrite, and nothing is changed.
func TestRewriteEnds(t *testing.T) {
	both(t, func(t *testing.T, f n8ndbtest.Fixture, location string) {
		ctx, r := context.Background(), n8ndbtest.Receipt(t)
		before := dump(t, f, location)
		stop := fs.ErrClosed
		for _, at := range []string{"seal", "record", "visit", "cancel"} {
			w := writer(t, f, location)
			keys, err := w.Keyset(ctx, r, f.Key)
			if err != nil {
				t.Fatal(err)
			}
			cancelled, cancel := context.WithCancel(ctx)
			seal := resealer(f.Key, n8ndbtest.Key(t, newKeyText))
			n := 0
			_, err = w.Rewrite(cancelled, n8ndb.RewriteConfig{Keys: keys, Receipt: r, Executions: n8ndb.AllExecutions,
				Seal: func(p n8ndb.Place, s n8ndb.Secret, plaintext []byte) (string, bool, error) {
					if n++; at == "seal" && n == 5 {
						return "", true, stop
					}
					return seal(p, s, plaintext)
				},
				Record: func(n8ndb.Change) error {
					if at == "record" && n == 5 {
						return stop
					}
					return nil
				},
				Visit: func(n8ndb.Secret) error {
					if at == "visit" && n == 5 {
						return stop
					}
					if at == "cancel" && n == 5 {
						cancel()
					}
					return nil
				}})
			cancel()
			if want := map[string]error{"cancel": context.Canceled}[at]; want == nil && err != stop || want != nil && err != want {
				t.Errorf("%s: %v", at, err)
			}
			if err := w.Close(); err != nil {
				t.Errorf("%s: %v", at, err)
			}
		}
		if diff := difference(before, dump(t, f, location)); diff != "" {
			t.Error(diff)
		}
	})
}

// TestWriteSQLiteFull: no room is said in words, nothing was changed, and there is no
// half of a commit.
func TestWriteSQLiteFull(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "1.123.81-sqlite"} {
		f := n8ndbtest.Load(t, name)
		path := f.Copy(t)
		before := dump(t, f, path)
		w, err := writeSQLite(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Exec("PRAGMA max_page_count = 1"); err != nil { // no page more than there are
			t.Fatal(err)
		}
		keys, err := w.Keyset(context.Background(), n8ndbtest.Receipt(t), f.Key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Rewrite(context.Background(), n8ndb.RewriteConfig{Keys: keys, Receipt: n8ndbtest.Receipt(t), Seal: func(n8ndb.Place, n8ndb.Secret, []byte) (string, bool, error) {
			return strings.Repeat("x", 1<<20), true, nil
		}})
		if err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("there is no room left to write %q: ", path)) || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := difference(before, dump(t, f, path)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
