package rotate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// TestStorageAway: without the storage folder, or with an empty one where its disk is
// not mounted, nothing goes on; with it everything does.
func TestStorageAway(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for op, then := range map[string][]string{"place-bundle 1": {"resume", "rollback"}, "start 1": {"resume"}, "commit 1": {"rollback"}} {
		for _, do := range then {
			j := b.interrupted(t, op)
			j.Do = do
			if err := os.Rename(j.path("storage"), j.path("away")); err != nil {
				t.Fatal(err)
			}
			_, err := j.do()
			if problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), "is not there any more") || !strings.Contains(problem.HintOf(err), "mount it") {
				t.Fatalf("%s, %s: %v, hint %q", op, do, err, problem.HintOf(err))
			}
			if err := os.Mkdir(j.path("storage"), 0o700); err != nil {
				t.Fatal(err)
			}
			_, err = j.do()
			if problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), `has no folder "workflows" any more`) {
				t.Fatalf("%s, %s: %v", op, do, err)
			}
			if err := errors.Join(os.Remove(j.path("storage")), os.Rename(j.path("away"), j.path("storage"))); err != nil {
				t.Fatal(err)
			}
			b.finish(t, j, do, op+", "+do)
		}
	}
	// The folder of one execution.
	j := b.interrupted(t, "place-bundle 1")
	j.Do = "resume"
	if err := os.Rename(j.path("storage", "workflows"), j.path("away")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(j.path("storage", "workflows"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := j.do(); problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), "the folder of the execution") {
		t.Fatal(err)
	}
}

// elsewhere makes the jobs of a world open another SQLite database.
func elsewhere(path string) func(*Config) {
	return func(c *Config) {
		c.Read = func(ctx context.Context) (*n8ndb.DB, error) {
			return n8ndb.OpenSQLite(ctx, n8ndb.SQLiteConfig{Path: path})
		}
		c.Write = func(ctx context.Context) (*n8ndb.Writer, error) {
			return n8ndb.WriteSQLite(ctx, n8ndb.SQLiteWriteConfig{Path: path, Hold: n8ndb.HoldConfig{AssumeStopped: true}})
		}
	}
}

func end(ctx context.Context, c Config) (*Result, error) { return Finalise(ctx, c, FinaliseHooks{}) }

// TestAnotherDatabase: a rotation goes on, back or to its end with its own database.
func TestAnotherDatabase(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for _, name := range []string{"2.41.1-sqlite", "1.123.81-sqlite"} {
		other := newPlainBase(t, name)
		if name == b.f.Name {
			b.f.Exec(t, other.at, `UPDATE deployment_key SET value = 'another' WHERE type = 'instance.id'`)
		}
		for op, do := range map[string]func(context.Context, Config) (*Result, error){"preimages-complete 1": Resume, "place-bundle 1": Rollback, "start 1": Resume} {
			if !soak() && (name == b.f.Name) == (op == "start 1") {
				continue // each point with one of the two
			}
			j := b.interrupted(t, op)
			j.Do = "resume"
			cfg := j.mustConfig(t)
			elsewhere(other.at)(&cfg)
			_, err := do(t.Context(), cfg)
			if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "this is another database than that of rotation") || !strings.Contains(problem.HintOf(err), "--database") {
				t.Fatalf("%s: %v", op, err)
			}
			b.finish(t, j, "rollback", name+", "+op)
		}
	}
	j := b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	j.Do = "finalise"
	empty := newPlainBase(t, "2.41.1-sqlite")
	for _, s := range []string{"DELETE FROM credentials_entity", "UPDATE user SET mfaSecret=NULL, mfaRecoveryCodes=NULL", "DELETE FROM settings", "DELETE FROM execution_data",
		"DELETE FROM deployment_key WHERE type <> 'instance.id'"} {
		b.f.Exec(t, empty.at, s)
	}
	if err := errors.Join(os.RemoveAll(j.path("storage", "workflows")), os.Mkdir(j.path("storage", "workflows"), 0o700)); err != nil {
		t.Fatal(err)
	}
	cfg := j.mustConfig(t)
	elsewhere(empty.at)(&cfg)
	if r, err := end(t.Context(), cfg); problem.KindOf(err) != problem.CheckFailed || !strings.Contains(err.Error(), "this database has none") || r.Journal.State != Verified {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestOlderCopy: a copy from before the rotation does not tell that its commit never
// went through.
func TestOlderCopy(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for op, c := range map[string]struct {
		at   string // as the caller says
		text string
	}{"apply-key 1": {"", "this is an older copy of the database"}, "place-bundle 1": {"/elsewhere/database.sqlite", "it may be an older copy"}, "start 1": {"/elsewhere/database.sqlite", "it may be an older copy"}} {
		j := b.interrupted(t, op)
		old := j.path("copy.sqlite")
		content, err := os.ReadFile(b.at)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(old, content, 0o600); err != nil {
			t.Fatal(err)
		}
		j.Do = "rollback"
		cfg := j.mustConfig(t)
		elsewhere(old)(&cfg)
		if c.at != "" {
			cfg.Database = c.at
		}
		_, err = Rollback(t.Context(), cfg)
		if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), c.text) {
			t.Fatalf("%s: %v", op, err)
		}
		b.finish(t, j, "rollback", op)
	}
}

// TestNothingTellsOldFromNew: where every secret stands in clear no census tells
// whether a commit went through, and the pre-images do.
func TestNothingTellsOldFromNew(t *testing.T) {
	b := newPlainBase(t, "2.38.7-sqlite")
	for _, op := range []string{"commit 1", "apply-key 1"} {
		j := b.inClear(t)
		before := b.rowsOf(t, j)
		if _, err := j.with(t, t.Context(), at(op, func() error { return errors.New("interrupted by the test") })); err == nil {
			t.Fatal("nothing failed")
		}
		if changed := b.rowsOf(t, j) != before; changed != (op != "commit 1") {
			t.Fatalf("%s: changed %t", op, changed)
		}
		j.Do = "rollback"
		if r, err := j.do(); err != nil || r.Journal.State != RolledBack {
			t.Fatalf("%s: %+v, %v", op, r, err)
		}
		if b.rowsOf(t, j) != before {
			t.Errorf("%s: the secrets of before are not back", op)
		}
	}
}

// TestFinaliseGoesOn: keys that are not the rotation's do not come to the keyring.
func TestFinaliseGoesOn(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	j.Do = "finalise"
	cfg := j.mustConfig(t)
	if _, err := Finalise(t.Context(), cfg, FinaliseHooks{Keyring: func(context.Context) error { return errors.New("no room") }}); err == nil {
		t.Fatal("nothing failed")
	}
	wrong := Key{Key: mustKey("a-third-key-that-is-of-no-use-here"), Fingerprint: oldFP}
	refused(t, j, end, func(c *Config) { c.Old = wrong }, problem.WrongKey, "the key given as the old one is not that of rotation")
	refused(t, j, end, func(c *Config) { c.New = wrong }, problem.WrongKey, "the key given as the new one is not that of rotation")
	refused(t, j, end, func(c *Config) { c.Old.Key = n8ncrypt.InstanceKey{} }, problem.WrongKey, "the old instance key of rotation", "--key-file FILE")
	if r, err := j.do(); err != nil || r.Journal.State != Finalised {
		t.Fatalf("%+v, %v", r, err)
	}
	b.check(t, j, "finalised")
}

// TestFinaliseLooksAtFiles: a deployment tool has put the old config back.
func TestFinaliseLooksAtFiles(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	if len(j.mustConfig(t).Files) == 0 {
		t.Fatal("no key file")
	}
	path := j.mustConfig(t).Files[0].Name
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	j.Do = "finalise"
	refused(t, j, end, nil, problem.CheckFailed, "does not hold the new key any more", "put the new key there")
	if err := os.WriteFile(path, after, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := j.do(); err != nil || r.Journal.State != Finalised {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestJournalThatIsNoFile: reading a pipe would wait for ever.
func TestJournalThatIsNoFile(t *testing.T) {
	state := t.TempDir()
	dir := filepath.Join(state, folderName, "20260701T020000Z-prod-aaaaaa")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, journalName), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := List(state); problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), "no ordinary file") {
		t.Errorf("%v", err)
	}
}

// TestBackAfterALeak: what was leaked is in force again, and what somebody has put
// under the new key still needs it.
func TestBackAfterALeak(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	j.Leak = true
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	v, err := mustKey(newText).EncryptCBC([]byte(`{"hidden":true}`))
	if err != nil {
		t.Fatal(err)
	}
	b.exec(t, j, `INSERT INTO variables (id, key, value) VALUES ('v1', 'hidden', $1)`, v.String())
	j.Do = "rollback"
	r, err := j.do()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(r.Warnings, "\n")
	for _, want := range []string{string(oldFP) + " that was leaked is in force again", "and the data key of before", "values in variables.value are under the new key " + string(newFP)} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %q", want, text)
		}
	}
}

// TestStillborn: a folder with pre-images and no journal is not taken away.
func TestStillborn(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	dir := j.path("state", folderName, "20260701T020000Z-prod-aaaaaa")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/"+rowsName, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, j, Run, nil, problem.Damaged, rowsName, "no journal", "move the folder away")
	if err := errors.Join(os.Remove(dir+"/"+rowsName), os.WriteFile(dir+"/"+lockName, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
