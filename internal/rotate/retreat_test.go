package rotate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// says fails unless the error is of the kind, and its text and hint have the words.
func says(t *testing.T, where string, err error, kind problem.Kind, words ...string) {
	t.Helper()
	if problem.KindOf(err) != kind {
		t.Fatalf("%s: kind %q, want %q: %v", where, problem.KindOf(err), kind, err)
	}
	for _, w := range words {
		if text := err.Error() + "\n" + problem.HintOf(err); !strings.Contains(text, w) {
			t.Errorf("%s: %q is not in %q", where, w, text)
		}
	}
}

// passing makes a database busy until it was waited for so long.
func passing(c *Config, busy time.Duration) (waited *time.Duration, tries *int) {
	waited, tries = new(time.Duration), new(int)
	write := c.Write
	c.Write = func(ctx context.Context) (*n8ndb.Writer, error) {
		*tries++
		if *waited < busy {
			return nil, problem.New(problem.Busy, "the database is in use by a backup, try %d", *tries).WithHint("wait for it")
		}
		return write(ctx)
	}
	c.Wait = func(ctx context.Context, d time.Duration) error {
		*waited += d
		return ctx.Err()
	}
	return waited, tries
}

// TestPatience: who has the database for a moment does not end a rotation whose n8n is
// stopped already, in neither direction.
func TestPatience(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	cfg := j.mustConfig(t)
	waited, tries := passing(&cfg, 20*time.Second)
	r, err := Run(t.Context(), cfg)
	if err != nil || r.Journal.State != Verified || *waited < 20*time.Second || *tries < 5 {
		t.Fatalf("%+v, %v, waited %s, %d tries", r, err, *waited, *tries)
	}
	b.check(t, j, "rotated")

	j.Do = "rollback"
	cfg = j.mustConfig(t)
	waited, tries = passing(&cfg, time.Hour)
	r, err = Rollback(t.Context(), cfg)
	says(t, "rollback", err, problem.Busy, fmt.Sprintf("try %d", *tries), "wait for it", "the rollback has changed nothing", "n8n was started again with it", "n8keep rotate finalise "+testID)
	if *waited < patience || *waited > patience+5*time.Second || r.Journal.State != Verified || r.Journal.From != "" || r.Journal.Undone != nil {
		t.Errorf("%+v, waited %s", r.Journal, *waited)
	}
	b.check(t, j, "a rollback that failed")
	cfg = j.mustConfig(t)
	passing(&cfg, 2*time.Second)
	if _, err := Rollback(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	b.check(t, j, "rolled back")

	// What the user has forgotten to stop is said at once.
	j = b.world(t)
	j.Orphan = true
	cfg = j.mustConfig(t)
	waited, tries = passing(&cfg, time.Hour)
	r, err = Run(t.Context(), cfg)
	says(t, "by the user", err, problem.Busy, "try 1", "n8n was to be stopped by you", "n8keep rotate resume")
	if *waited != 0 || *tries != 1 || r.Journal.State != Applying {
		t.Errorf("%+v, waited %s, %d tries", r.Journal, *waited, *tries)
	}
}

// TestGivenUp: whatever fails before the commit ends the rotation, with n8n running as
// before; so does Ctrl-C.
func TestGivenUp(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for _, c := range []struct {
		op   string
		err  error // nil: Ctrl-C
		kind problem.Kind
	}{
		{"stop 1", errors.New("no"), problem.Unexpected},
		{"write 1", problem.New(problem.Unreachable, "gone"), problem.Unreachable},
		{"preimages 2", nil, problem.Interrupted},
		{"journal 9", errors.New("no room"), problem.Unexpected},
	} {
		j := b.world(t)
		ctx, cancel := context.WithCancel(t.Context())
		r, err := j.with(t, ctx, at(c.op, func() error {
			if c.err == nil {
				cancel()
			}
			return c.err
		}))
		cancel()
		says(t, c.op, err, c.kind, "nothing was changed; n8n runs again with the old key")
		if r.Journal.State != Abandoned || len(r.Next) > 0 {
			t.Fatalf("%s: %+v", c.op, r)
		}
		b.check(t, j, c.op)
	}

	// A disk that stays full keeps the journal from being written, not n8n from running.
	j := b.world(t)
	full := false
	r, err := j.with(t, t.Context(), func(op, _ string) error {
		if full = full || op == "write"; full && (op == "journal" || op == "preimages") {
			return errors.New("no room")
		}
		return nil
	})
	says(t, "full disk", err, problem.Unexpected, "no room; and then, on the way back: no room", "n8keep rotate rollback "+testID)
	if running, err := os.ReadFile(j.path("running")); string(running) != "old" || r.Journal.State != Applying {
		t.Fatalf("%+v, n8n runs with %q, %v", r.Journal, running, err)
	}
	b.finish(t, j, "rollback", "full disk")

	// An n8n that does not start leaves both errors, and a rotation to go on with.
	j = b.world(t)
	r, err = j.with(t, t.Context(), func(op, _ string) error {
		if op == "write" || op == "start" {
			return errors.New("no " + op)
		}
		return nil
	})
	says(t, "no start", err, problem.Unexpected, "no write; and then, on the way back: no start", "n8n may be running or not", "n8keep rotate resume "+testID)
	if r.Journal.State != Applying {
		t.Fatalf("%+v", r.Journal)
	}
	b.finish(t, j, "resume", "no start")

	// Nor is it started with a key that is not the database's.
	j = b.world(t)
	config := j.path("home", "config")
	_, err = j.with(t, t.Context(), func(op, _ string) error {
		if op != "write" {
			return nil
		}
		return os.WriteFile(config, fmt.Appendf(nil, configText, "a-third-key-that-is-of-no-use-here"), 0o640)
	})
	says(t, "third key", err, problem.WrongKey, "holds another key than the one to be replaced", "n8n was not started again", "put the right key there")
	if _, err := os.Stat(j.path("running")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("n8n runs: %v", err)
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, configText, j.Old), 0o640); err != nil {
		t.Fatal(err)
	}
	b.finish(t, j, "rollback", "third key")
}

// TestStays: a rollback that fails before its commit leaves n8n running with the new
// key, also when it goes on with one that was killed.
func TestStays(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"rollback-stop", "restore-rows 1", "preimages-complete 1"} {
		for _, do := range []string{"rollback", "resume"} {
			if op == "rollback-stop" {
				op = "stop 1"
			}
			j.Do = "rollback"
			if do == "resume" {
				if _, err := j.with(t, t.Context(), dead(op)); err == nil {
					t.Fatal("nothing failed")
				}
				if journal, err := Open(j.path("state"), testID); err != nil || journal.State != RollingBack || journal.From != Verified {
					t.Fatalf("%+v, %v", journal, err)
				}
				j.Do = "resume"
			}
			ctx, cancel := context.WithCancel(t.Context())
			r, err := j.with(t, ctx, at(op, func() error { cancel(); return ctx.Err() }))
			cancel()
			where := op + ", " + do
			says(t, where, err, problem.Interrupted, "the rollback has changed nothing", "n8n was started again with it", "n8keep rotate finalise "+testID)
			if r.Journal.State != Verified {
				t.Fatalf("%s: %+v", where, r.Journal)
			}
			b.check(t, j, where)
		}
	}
	j.Do = "rollback"
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	b.check(t, j, "rolled back")

	// One that was not proved yet is where it was.
	j = b.interrupted(t, "start 1")
	j.Do = "rollback"
	r, err := j.with(t, t.Context(), at("restore-rows 1", func() error { return errors.New("no") }))
	says(t, "applied", err, problem.Unexpected, "n8n was not proved with it yet", "n8keep rotate resume "+testID)
	if r.Journal.State != Applied {
		t.Fatalf("%+v", r.Journal)
	}
	b.finish(t, j, "resume", "applied")
}

// setBack makes the journal say another state, as an older copy of it would.
func setBack(t *testing.T, j job, state State) {
	t.Helper()
	path := j.path("state", folderName, testID, journalName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	doc["state"] = string(state)
	delete(doc, "already_new")
	if text, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// preimages are the names of the age files of a rotation.
func preimages(t *testing.T, j job) []string {
	t.Helper()
	names, err := filepath.Glob(j.path("state", folderName, testID, "*.age"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestOlderJournal: a journal that is older than its database is not believed, and what
// leads back is not removed.
func TestOlderJournal(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	state := j.path("state", folderName, testID, journalName)
	newest, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	had := preimages(t, j)
	if len(had) < 2 {
		t.Fatalf("%q", had)
	}
	rows := j.path("state", folderName, testID, rowsName)
	for _, whole := range []bool{true, false} {
		content, err := os.ReadFile(rows)
		if err != nil {
			t.Fatal(err)
		}
		if !whole {
			if err := os.WriteFile(rows, content[:len(content)/2], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, back := range []State{Preparing, Applying} {
			for do, run := range map[string]func(context.Context, Config) (*Result, error){"resume": Resume, "rollback": Rollback} {
				setBack(t, j, back)
				j.Do = do
				cfg := j.mustConfig(t)
				r, err := run(t.Context(), cfg)
				where := fmt.Sprintf("%s from %s, whole %t", do, back, whole)
				says(t, where, err, problem.Damaged, "the journal is older than the database", "values under the new key and 0 under the old one",
					"nothing was removed; put the journal.json back", "stay with the new key "+string(newFP))
				if text := err.Error() + problem.HintOf(err); strings.Contains(text, "nothing of n8n was changed") || strings.Contains(text, "has its old values,") || len(r.Next) > 0 {
					t.Errorf("%s: %s", where, text)
				}
				if now := preimages(t, j); !slices.Equal(now, had) {
					t.Fatalf("%s: %q", where, now)
				}
				if running, err := os.ReadFile(j.path("running")); string(running) != "new" {
					t.Errorf("%s: n8n runs with %q, %v", where, running, err)
				}
			}
		}
		if err := os.WriteFile(rows, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(state, newest, 0o600); err != nil {
		t.Fatal(err)
	}
	j.Do = "rollback"
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	b.check(t, j, "rolled back")
}

// TestOlderJournalInClear: where no census tells, the pre-images do.
func TestOlderJournalInClear(t *testing.T) {
	b := newPlainBase(t, "2.38.7-sqlite")
	j := b.inClear(t)
	before := b.rowsOf(t, j)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	after := b.rowsOf(t, j)
	setBack(t, j, Applying)
	j.Do = "rollback"
	_, err := j.do()
	says(t, "committed", err, problem.Damaged, "the journal is older than the database", "nothing was removed")
	if running, err := os.ReadFile(j.path("running")); string(running) != "new" || b.rowsOf(t, j) != after {
		t.Errorf("n8n runs with %q, %v", running, err)
	}
	setBack(t, j, Verified)
	if _, err := j.do(); err != nil || b.rowsOf(t, j) != before {
		t.Fatalf("the secrets of before are not back: %v", err)
	}

	// One that was really not committed.
	j = b.world(t)
	j.Leak = true
	if _, err := j.with(t, t.Context(), dead("commit 1")); err == nil {
		t.Fatal("nothing failed")
	}
	setBack(t, j, Applying)
	j.Do = "rollback"
	if r, err := j.do(); err != nil || r.Journal.State != RolledBack {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestFoundNew: values that were under the new key before are no sign of a commit.
func TestFoundNew(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for _, do := range []string{"resume", "rollback"} {
		j := b.world(t)
		v, err := mustKey(newText).EncryptCBC([]byte(`{"early":true}`))
		if err != nil {
			t.Fatal(err)
		}
		b.exec(t, j, `INSERT INTO credentials_entity (id, name, type, data) VALUES ('early0000000001', 'early', 'x', $1)`, v.String())
		if _, err := j.with(t, t.Context(), dead("journal 9")); err == nil {
			t.Fatal("nothing failed")
		}
		if journal, err := Open(j.path("state"), testID); err != nil || journal.State != Applying || journal.FoundNew != 1 {
			t.Fatalf("%+v, %v", journal, err)
		}
		j.Do = do
		if _, err := j.do(); err != nil {
			t.Fatalf("%s: %v\n%s", do, err, problem.HintOf(err))
		}
	}
}

// TestWithoutTheNewKey: a rotation that has changed nothing is taken back without the
// new key as long as that can be seen without it.
func TestWithoutTheNewKey(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	setBack(t, j, Applying)
	j.Do = "rollback"
	refused(t, j, Rollback, func(c *Config) { c.New.Key = n8ncrypt.InstanceKey{} }, problem.WrongKey, "the new instance key of rotation", "--new-key-file FILE")
}

// TestKeyFilesFirst: key files that cannot be given the other key are found before
// anything is stopped or changed.
func TestKeyFilesFirst(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	j.Do = "rollback"
	config := j.path("home", "config")
	if err := os.WriteFile(config, fmt.Appendf(nil, configText, "a-third-key-that-is-of-no-use-here"), 0o640); err != nil {
		t.Fatal(err)
	}
	refused(t, j, Rollback, nil, problem.WrongKey, "holds another key than the old one and the new one of this rotation", "put one of the two there", "database and files have the new key")
	if err := os.WriteFile(config, fmt.Appendf(nil, configText, newText), 0o640); err != nil {
		t.Fatal(err)
	}
	refused(t, j, Rollback, func(c *Config) {
		c.fault = func(op, name string) error {
			if op == "try-key" && name == config {
				return problem.New(problem.Usage, "%q cannot be changed", name)
			}
			return nil
		}
	}, problem.Usage, "cannot be changed", "n8keep rotate rollback "+testID)
	// What comes to be while n8n stops is found before the commit.
	r, err := j.with(t, t.Context(), at("try-key 4", func() error { return problem.New(problem.Usage, "it cannot be changed") }))
	says(t, "meanwhile", err, problem.Usage, "it cannot be changed", "n8n was started again")
	if r.Journal.State != Verified {
		t.Fatalf("%+v", r.Journal)
	}
	b.check(t, j, "meanwhile")
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	b.check(t, j, "rolled back")
}

// TestDamagedPreimages: the error says what is left to do.
func TestDamagedPreimages(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for op, words := range map[string][]string{
		"":               {"n8keep rotate finalise " + testID, `backup "b1" in t`, string(oldFP)},
		"start 1":        {"n8keep rotate resume " + testID + `" and "n8keep rotate finalise ` + testID, `backup "b1" in t`},
		"place-bundle 1": {"cannot tell how far the rotation came", `backup "b1" in t`},
	} {
		j := b.world(t)
		if _, err := j.with(t, t.Context(), dead(op)); (err == nil) != (op == "") {
			t.Fatal(err)
		}
		if err := os.Truncate(j.path("state", folderName, testID, rowsName), 100); err != nil {
			t.Fatal(err)
		}
		j.Do = "rollback"
		_, err := j.do()
		says(t, op, err, problem.Damaged, append(words, rowsName, "is damaged", "is refused until the rotation has ended")...)
	}
}

// TestNoActiveDataKey: n8n has deleted the data key that the rotation had made.
func TestNoActiveDataKey(t *testing.T) {
	b := newPlainBase(t, "2.41.1-sqlite-keyrotation")
	j := b.world(t)
	j.Leak = true
	r, err := j.do()
	if err != nil {
		t.Fatal(err)
	}
	if r.Journal.NewDataKey == "" || r.Journal.OldDataKey == "" {
		t.Fatalf("%+v", r.Journal)
	}
	b.exec(t, j, `DELETE FROM deployment_key WHERE id = $1`, r.Journal.NewDataKey)
	j.Do = "rollback"
	r, err = j.do()
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(r.Warnings, "\n"); !strings.Contains(text, "no data key is active any more") || !strings.Contains(text, "n8keep data-key rotate") {
		t.Errorf("%q", text)
	}
	if journal, err := Open(j.path("state"), testID); err != nil || !journal.Undone.NoActiveKey {
		t.Errorf("%+v, %v", journal, err)
	}
}

// TestPlanIsKept: what the plan has counted and listed is there for later commands, as
// long as there is a key for it.
func TestPlanIsKept(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	plan := &Plan{LeftBehind: 3, LeftValues: 5, LeftUnseen: 2, Exposed: []Exposed{{Kind: "credential", ID: "c1", Type: "slackApi", Name: "the customer's Slack", Count: 1}},
		ExposedAdvice: []string{"look at the logs"}}
	cfg := j.mustConfig(t)
	cfg.Plan, cfg.Choices.AfterLeak = plan, true
	if r, err := Run(t.Context(), cfg); err != nil || r.Exposure == nil {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, do := range []string{"resume", "finalise"} {
		j.Do = do
		r, err := j.do()
		if err != nil {
			t.Fatal(err)
		}
		if l := r.Journal.LeftBehind; l == nil || *l != (LeftBehind{Executions: 3, Values: 5, Unseen: 2}) || r.Journal.Exposed != 1 {
			t.Errorf("%s: %+v, %d exposed", do, l, r.Journal.Exposed)
		}
		if x := r.Exposure; x == nil || len(x.List) != 1 || x.List[0].Name != "the customer's Slack" || !slices.Equal(x.Advice, plan.ExposedAdvice) {
			t.Errorf("%s: %+v", do, x)
		}
		if do == "finalise" {
			break
		}
		for name, content := range files(t, j.path("state")) {
			if strings.Contains(content, "customer") {
				t.Errorf("%q names a credential", name)
			}
		}
	}
	b.tidy(t, j, "finalised", &Journal{State: Finalised})

	// Without its file a rotation goes on.
	j = b.world(t)
	cfg = j.mustConfig(t)
	cfg.Plan = plan
	if _, err := Run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(j.path("state", folderName, testID, exposureName)); err != nil {
		t.Fatal(err)
	}
	j.Do = "resume"
	r, err := j.do()
	if err != nil || r.Exposure != nil || !strings.Contains(strings.Join(r.Warnings, "\n"), "the checklist of what was exposed cannot be read any more") {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestSituations: nothing is said of n8n that no step has seen.
func TestSituations(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		state State
		step  Step
		want  string
	}{
		{Applying, Step{Name: StepStop, Ended: now, Result: Done}, "the database has its old values, n8n was stopped by n8keep"},
		{Applying, Step{Name: StepStop, Ended: now, Result: ByUser}, "the database has its old values, n8n was to be stopped by you"},
		{Applying, Step{Name: StepStop}, "the database has its old values, n8n may be running or not"},
		{Applying, Step{Name: StepRollbackStart, Ended: now, Result: Done}, "the database has its old values, n8n was started by n8keep"},
		{Applying, Step{Name: StepRollbackStart, Ended: now, Result: Failed}, "the database has its old values, n8n may be running or not"},
		{Preparing, Step{Name: StepStage, Ended: now, Result: Done}, "nothing of n8n was changed, n8n was not stopped"},
		{RollingBack, Step{Name: StepStart, Ended: now, Result: ByUser}, "the rollback has changed nothing yet, n8n was to be started by you"},
		{Verified, Step{Name: StepStart, Ended: now, Result: Done}, "database and files have the new key"},
		{Abandoned, Step{Name: StepStage, Ended: now, Result: Failed}, "nothing was changed"},
	} {
		j := &Journal{State: c.state, Steps: []Step{{Name: StepBackup, Ended: now, Result: Done}, c.step}}
		if got := j.Situation(); got != c.want {
			t.Errorf("%s after %+v: %q, want %q", c.state, c.step, got, c.want)
		}
	}
}

// TestLeftInTheMiddle: what only a writer can read, since a kill has left it in the
// middle of a write, is looked into all the same.
func TestLeftInTheMiddle(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for do, run := range map[string]func(context.Context, Config) (*Result, error){"resume": Resume, "rollback": Rollback} {
		j := b.interrupted(t, "preimages-complete 1")
		j.Do = do
		cfg := j.mustConfig(t)
		read, tries := cfg.Read, 0
		cfg.Read = func(ctx context.Context) (*n8ndb.DB, error) {
			if tries++; tries == 1 {
				return nil, problem.Wrap(problem.Usage, n8ndb.ErrMidWrite, "the database")
			}
			return read(ctx)
		}
		if _, err := run(t.Context(), cfg); err != nil || tries == 0 {
			t.Fatalf("%s: %v, read %d times", do, err, tries)
		}
		if want := map[string]holds{"resume": newWorld, "rollback": oldWorld}[do]; b.check(t, j, do) != want {
			t.Errorf("%s: not %s", do, want)
		}
	}
}
