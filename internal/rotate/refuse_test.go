package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

func (j job) mustConfig(t testing.TB) Config {
	t.Helper()
	cfg, err := j.config()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// state is every file of a world's folders, to see that nothing was touched. The audit
// log grows with every command.
func (j job) state(t *testing.T) map[string]string {
	t.Helper()
	all := files(t, j.Dir)
	for name := range all {
		if strings.HasPrefix(name, "audit") {
			delete(all, name)
		}
	}
	return all
}

// refused: the error is of the kind, its text and hint have the words, and the world
// is as it was.
func refused(t *testing.T, j job, do func(context.Context, Config) (*Result, error), change func(*Config), kind problem.Kind, words ...string) {
	t.Helper()
	cfg := j.mustConfig(t)
	if change != nil {
		change(&cfg)
	}
	before := j.state(t)
	_, err := do(t.Context(), cfg)
	if problem.KindOf(err) != kind {
		t.Fatalf("kind %q, want %q: %v", problem.KindOf(err), kind, err)
	}
	for _, w := range words {
		if text := err.Error() + "\n" + problem.HintOf(err); !strings.Contains(text, w) {
			t.Errorf("%q is not in %q", w, text)
		}
	}
	after := j.state(t)
	delete(before, "state/rotations/lock")
	delete(after, "state/rotations/lock")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("something was touched: %s", diff)
	}
}

// dead makes a fault of everything from one operation on, as if the process had ended
// there.
func dead(op string) func(op, name string) error {
	err := errors.New("interrupted by the test")
	struck := false
	strike := at(op, func() error { struck = true; return err })
	return func(op, name string) error {
		if struck {
			return err
		}
		return strike(op, name)
	}
}

// interrupted leaves a rotation that was killed at an operation.
func (b *base) interrupted(t *testing.T, op string) job {
	t.Helper()
	j := b.world(t)
	if _, err := j.with(t, t.Context(), dead(op)); err == nil {
		t.Fatalf("%q did not fail", op)
	}
	return j
}

func TestKeysOfTheJournal(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	another := Key{Key: mustKey("a-third-key-that-is-of-no-use-here"), Fingerprint: newFP}
	j := b.world(t)
	refused(t, j, Run, func(c *Config) { c.New = c.Old }, problem.Usage, "the new instance key is the old one", "openssl rand")
	refused(t, j, Run, func(c *Config) { c.Choices.Executions = n8ndb.NoExecutions }, problem.Usage, "executions that wait")

	j = b.interrupted(t, "preimages-complete 1")
	// The journal has the old key for whoever has the new one, and nobody else.
	journal, err := Open(j.path("state"), testID)
	if err != nil {
		t.Fatal(err)
	}
	if key, err := journal.OldKey(mustKey(newText)); err != nil || !key.Equal(mustKey(j.Old)) {
		t.Errorf("%v, %v", key, err)
	}
	for _, text := range []string{j.Old, "a-third-key-that-is-of-no-use-here"} {
		if _, err := journal.OldKey(mustKey(text)); problem.KindOf(err) != problem.WrongKey || !strings.Contains(err.Error(), string(newFP)) {
			t.Error(err)
		}
	}

	for name, do := range map[string]func(context.Context, Config) (*Result, error){"resume": Resume, "rollback": Rollback} {
		j.Do = name
		refused(t, j, do, func(c *Config) { c.New = another }, problem.WrongKey, "the key given as the new one is not that of rotation", string(newFP), "nothing was touched")
		refused(t, j, do, func(c *Config) { c.Old = another }, problem.WrongKey, "the key given as the old one is not that of rotation", string(oldFP), "nothing was touched")
		refused(t, j, do, func(c *Config) { c.Old.Key, c.New.Key = n8ncrypt.InstanceKey{}, n8ncrypt.InstanceKey{} }, problem.WrongKey,
			"neither the old nor the new instance key", j.path("old.key"), j.path("new.key"), "--key-file", "n8keep rotate resume "+testID)
	}
	j.Do = "resume"
	refused(t, j, Resume, func(c *Config) { c.New.Key = n8ncrypt.InstanceKey{} }, problem.WrongKey, "the new instance key of rotation", j.path("new.key"), "--new-key-file FILE")
	refused(t, j, Resume, func(c *Config) { c.Old.Key = n8ncrypt.InstanceKey{} }, problem.WrongKey, "the old instance key of rotation", j.path("old.key"), "--key-file FILE")
	b.finish(t, j, "resume", "with both keys again")

	// One key is enough to take back what has changed nothing.
	j = b.interrupted(t, "preimages-complete 1")
	j.Do = "rollback"
	cfg := j.mustConfig(t)
	cfg.New.Key = n8ncrypt.InstanceKey{}
	if _, err := Rollback(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	b.check(t, j, "rolled back with the old key alone")
}

// TestTampered: pre-images that are cut, altered or of another rotation are refused
// before anything is stopped or written.
func TestTampered(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	j.Do = "rollback"
	other := b.world(t)
	if _, err := other.do(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{rowsName, filesName} {
		path := j.path("state", folderName, testID, name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := os.ReadFile(other.path("state", folderName, testID, name))
		if err != nil {
			t.Fatal(err)
		}
		altered := append([]byte(nil), content...)
		altered[len(altered)-20] ^= 1
		for kind, bad := range map[string][]byte{"cut": content[:len(content)-1], "short": content[:len(content)/2], "altered": altered, "longer": append(content[:len(content):len(content)], 0), "of another rotation": foreign, "empty": {}} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Log(name, kind)
			refused(t, j, Rollback, nil, problem.Damaged, name, "is damaged", testID)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		refused(t, j, Rollback, nil, problem.Damaged, name, "is damaged")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	b.check(t, j, "rolled back")
}

func TestJournals(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}

	// Until it is finalised, nothing else begins.
	refused(t, j, func(ctx context.Context, c Config) (*Result, error) { c.ID = ""; return Run(ctx, c) }, nil, problem.Busy,
		"is not finalised", "n8keep rotate finalise "+testID, "n8keep rotate rollback "+testID)
	open, err := Unfinished(j.path("state"), j.mustConfig(t).Database)
	if err != nil || open == nil || open.ID != testID {
		t.Errorf("%+v, %v", open, err)
	}
	if open, err = Unfinished(j.path("state"), "another database"); open != nil || err != nil {
		t.Errorf("%+v, %v", open, err)
	}
	for _, id := range []string{"latest", testID[:12], testID} {
		if found, err := Open(j.path("state"), id); err != nil || found.ID != testID {
			t.Errorf("%q: %+v, %v", id, found, err)
		}
	}
	if _, err := Open(j.path("state"), "2027"); problem.KindOf(err) != problem.NotFound || !strings.Contains(problem.HintOf(err), "n8keep rotate status") {
		t.Errorf("%v", err)
	}

	// Somebody else is at it.
	lock, err := lockRotation(j.path("state", folderName, testID), testID)
	if err != nil {
		t.Fatal(err)
	}
	j.Do = "rollback"
	refused(t, j, Rollback, nil, problem.Busy, "another process is at rotation", "n8keep rotate status "+testID)
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}

	path := j.path("state", folderName, testID, journalName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(map[string]any)) {
		t.Helper()
		var doc map[string]any
		if err := json.Unmarshal(good, &doc); err != nil {
			t.Fatal(err)
		}
		change(doc)
		bad, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		change func(map[string]any)
		kind   problem.Kind
		words  []string
	}{
		"newer":         {func(d map[string]any) { d["format"] = 2 }, problem.Usage, []string{"has format 2, this n8keep knows 1", "nothing was touched", "a newer one"}},
		"other id":      {func(d map[string]any) { d["id"] = "20260801T020000Z-prod-aaaaaa" }, problem.Damaged, []string{"it is of rotation", "nothing was touched"}},
		"unknown state": {func(d map[string]any) { d["state"] = "dreaming" }, problem.Damaged, []string{`unknown state "dreaming"`}},
		"unknown field": {func(d map[string]any) { d["more"] = 1 }, problem.Damaged, []string{"cannot be read"}},
		"no key":        {func(d map[string]any) { delete(d, "journal_key") }, problem.Damaged, []string{"no journal key"}},
		"storage":       {func(d map[string]any) { d["storage"] = "x/.." }, problem.Damaged, []string{"names the storage folder"}},
		"relative file": {func(d map[string]any) { d["files"].([]any)[0].(map[string]any)["path"] = "../x" }, problem.Damaged, []string{"names the file"}},
	} {
		edit(c.change)
		t.Log(name)
		refused(t, j, Rollback, nil, c.kind, c.words...)
		refused(t, j, Resume, nil, c.kind)
		if _, err := Unfinished(j.path("state"), "any"); err == nil {
			t.Errorf("%s: a journal that cannot be read is passed over", name)
		}
	}
	if err := os.WriteFile(path, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, j, Rollback, nil, problem.Damaged, "cannot be read")
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}

	// Its end, and what is refused after it.
	j.Do = "finalise"
	r, err := j.do()
	if err != nil || r.Journal.State != Finalised || r.Journal.Fresh == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	b.check(t, j, "finalised")
	if _, err := os.Stat(j.path("keyring")); err != nil {
		t.Error(err)
	}
	refused(t, j, Rollback, nil, problem.Usage, "is finalised and cannot be undone", "rotate back")
	refused(t, j, Resume, nil, problem.Usage, "is over: it is finalised")
	if _, err := j.do(); err != nil { // doing it twice does nothing
		t.Error(err)
	}
	if open, err := Unfinished(j.path("state"), j.mustConfig(t).Database); open != nil || err != nil {
		t.Errorf("%+v, %v", open, err)
	}
}

// TestQuarantine: a value that opens under no key ends the rotation, or stays as it is.
func TestQuarantine(t *testing.T) {
	for name, fixture := range engines() {
		t.Run(name, func(t *testing.T) {
			b := newBase(t, fixture)
			j := b.world(t)
			v, err := mustKey("a-key-that-nobody-has-any-more").EncryptCBC([]byte(`{"lost":true}`))
			if err != nil {
				t.Fatal(err)
			}
			b.exec(t, j, `UPDATE credentials_entity SET data = $1 WHERE id = (SELECT min(id) FROM credentials_entity)`, v.String())
			_, err = j.do()
			if problem.KindOf(err) != problem.CheckFailed || !strings.Contains(err.Error(), "1 values open under no key") || !strings.Contains(problem.HintOf(err), "--quarantine") ||
				!strings.Contains(problem.HintOf(err), "nothing was changed; n8n runs again with the old key") {
				t.Fatalf("%v, hint %q", err, problem.HintOf(err))
			}
			cfg := j.mustConfig(t)
			cfg.ID, cfg.Choices.Quarantine = "20260801T030000Z-prod-zzzzzz", true
			r, err := Run(t.Context(), cfg)
			if problem.KindOf(err) != problem.Partial || r.Journal.State != Verified || r.Journal.LeftTotal != 1 || len(r.Journal.Left) != 1 || r.Journal.Left[0].Place != "credentials_entity.data" {
				t.Fatalf("%+v, %v", r, err)
			}
			r, err = Rollback(t.Context(), cfg)
			if problem.KindOf(err) != problem.Partial || r.Journal.State != RolledBack || r.Journal.LeftTotal != 1 || r.Journal.Left[0].Place != "credentials_entity.data" {
				t.Fatalf("%+v, %v", r, err)
			}
		})
	}
}

// TestUnlisted: what lies under the old key in a column that nobody knows ends the
// rotation inside its transaction, unless it was accepted.
func TestUnlisted(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	v, err := mustKey(j.Old).EncryptCBC([]byte(`{"hidden":true}`))
	if err != nil {
		t.Fatal(err)
	}
	b.exec(t, j, `INSERT INTO variables (id, key, value) VALUES ('v1', 'hidden', $1)`, v.String())
	before := b.rowsOf(t, j)
	_, err = j.do()
	if problem.KindOf(err) != problem.CheckFailed || !strings.Contains(err.Error(), "variables.value") || !strings.Contains(problem.HintOf(err), "--accept-unlisted variables.value") {
		t.Fatalf("%v, hint %q", err, problem.HintOf(err))
	}
	if b.rowsOf(t, j) != before {
		t.Error("the database was changed")
	}
	b.check(t, j, "refused")
	cfg := j.mustConfig(t)
	cfg.Files = []n8nhome.KeyFile{n8nhome.PlainKeyFile(j.path("home", "key-file")), n8nhome.ConfigKeyFile(j.path("home"))}
	cfg.ID, cfg.Choices = "20260801T030000Z-prod-zzzzzz", Choices{AcceptUnlisted: []string{"variables.value"}}
	if r, err := Run(t.Context(), cfg); err != nil || r.Journal.State != Verified {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestBackupFails: nothing was begun, so that nothing is left to go on with.
func TestBackupFails(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	cfg := j.mustConfig(t)
	cfg.Backup = func(context.Context) (BackupRef, error) {
		return BackupRef{}, problem.New(problem.Unreachable, "the target is gone")
	}
	r, err := Run(t.Context(), cfg)
	if problem.KindOf(err) != problem.Unreachable || r.Journal.State != Abandoned || !strings.Contains(err.Error(), "the target is gone") {
		t.Fatalf("%+v, %v", r, err)
	}
	b.check(t, j, "abandoned")
	cfg = j.mustConfig(t)
	cfg.ID, cfg.Backup = "20260801T030000Z-prod-zzzzzz", nil
	if r, err = Run(t.Context(), cfg); err != nil || r.Journal.Step(StepBackup).Result != Skipped {
		t.Fatalf("%+v, %v", r, err)
	}
}

// brokenService fails where it is told to.
type brokenService struct {
	fakeService
	stop, healthy error
}

func (s brokenService) Stop(ctx context.Context) error {
	return errors.Join(s.stop, s.fakeService.Stop(ctx))
}

func (s brokenService) Healthy(context.Context) error { return s.healthy }

func TestServiceFails(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	stop, healthy := problem.New(problem.Busy, "n8n does not stop"), problem.New(problem.Unreachable, "n8n does not answer")
	for name, s := range map[string]brokenService{"stop": {stop: stop}, "healthy": {healthy: healthy}, "both": {stop: stop, healthy: healthy}} {
		j := b.world(t)
		s.fakeService = fakeService{j}
		cfg := j.mustConfig(t)
		cfg.Service = s
		r, err := Run(t.Context(), cfg)
		if name == "stop" {
			if problem.KindOf(err) != problem.Busy || r.Journal.State != Abandoned || !strings.Contains(problem.HintOf(err), "n8n runs again with the old key") {
				t.Fatalf("%s: %+v, %v, hint %q", name, r, err, problem.HintOf(err))
			}
			b.check(t, j, "stop fails")
			continue
		}
		if err == nil || r.Journal.State.Ended() || !strings.Contains(problem.HintOf(err), "n8keep rotate resume") || !strings.Contains(problem.HintOf(err), r.Journal.Situation()) {
			t.Fatalf("%s: %+v, %v, hint %q", name, r, err, problem.HintOf(err))
		}
		if name == "both" && (problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "n8n does not stop; and then, on the way back: n8n does not answer") ||
			!strings.Contains(problem.HintOf(err), "n8n may be running or not")) {
			t.Errorf("%s: %v, hint %q", name, err, problem.HintOf(err))
		}
		b.finish(t, j, map[string]string{"both": "rollback", "healthy": "resume"}[name], name+" fails")
	}
}

// TestByUser: without a service the steps are the user's, and recorded so.
func TestByUser(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	j.Orphan = true
	r, err := j.do()
	if err != nil || r.Journal.Step(StepStop).Result != ByUser || r.Journal.Step(StepStart).Result != ByUser || r.Journal.Downtime() != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if diff := cmp.Diff([]string{"start n8n"}, r.Do); diff != "" {
		t.Error(diff)
	}
	b.check(t, j, "by the user")
}

// TestSomebodyWrote: a database that is neither old nor new is not guessed at, and a
// rollback takes it back all the same.
func TestSomebodyWrote(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.interrupted(t, "place-bundle 1") // the commit went through
	v, err := mustKey(j.Old).EncryptCBC([]byte(`{"late":true}`))
	if err != nil {
		t.Fatal(err)
	}
	b.exec(t, j, `INSERT INTO credentials_entity (id, name, type, data) VALUES ('late00000000001', 'late', 'x', $1)`, v.String())
	j.Do = "resume"
	_, err = j.do()
	if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), "1 values under the old key and") || !strings.Contains(problem.HintOf(err), "n8keep rotate rollback") {
		t.Fatalf("%v, hint %q", err, problem.HintOf(err))
	}
	j.Do = "rollback"
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	b.exec(t, j, `DELETE FROM credentials_entity WHERE id = 'late00000000001'`)
	b.check(t, j, "rolled back")
}

// TestReceipt: nothing is opened before the command was recorded.
func TestReceipt(t *testing.T) {
	j := job{Dir: t.TempDir(), Old: "an-old-key-0123456789"}
	cfg := j.mustConfig(t)
	cfg.Receipt = n8ndbtest.Receipt(t)
	cfg.Read = nil
	if _, err := Run(t.Context(), cfg); problem.KindOf(err) != problem.Unexpected {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(j.Dir, "state")); err == nil {
		t.Errorf("%v", entries)
	}
}
