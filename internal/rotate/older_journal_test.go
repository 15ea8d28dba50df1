package rotate

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// inClear is a world in which every secret stands in clear, so that no census tells old
// from new; a leak replaces them.
func (b *base) inClear(t *testing.T) job {
	t.Helper()
	const signing = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	j := b.world(t)
	j.Leak = true
	for _, s := range []string{"DELETE FROM credentials_entity", "UPDATE user SET mfaSecret=NULL, mfaRecoveryCodes=NULL", "DELETE FROM settings", "DELETE FROM execution_data",
		"DELETE FROM deployment_key WHERE type NOT LIKE 'signing%' AND type <> 'instance.id'",
		"UPDATE deployment_key SET algorithm = NULL, value = '" + signing + "' WHERE type LIKE 'signing%'"} {
		b.exec(t, j, s)
	}
	return j
}

// TestCopyOfTheJournal: a copy from before the first attempt knows of no attempt, and the
// pre-images know theirs: nothing is removed, in clear or not.
func TestCopyOfTheJournal(t *testing.T) {
	b := newPlainBase(t, "2.38.7-sqlite")
	for _, clear := range []bool{true, false} {
		j := b.world(t)
		if clear {
			j = b.inClear(t)
		}
		before := b.rowsOf(t, j)
		path, rows := j.path("state", folderName, testID, journalName), j.path("state", folderName, testID, rowsName)
		read := func(path string) []byte {
			t.Helper()
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return content
		}
		write := func(path string, content []byte) {
			t.Helper()
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var older []byte
		if _, err := j.with(t, t.Context(), at("stop 1", func() error { older = read(path); return nil })); err != nil {
			t.Fatal(err)
		}
		newest, whole, after, had := read(path), read(rows), b.rowsOf(t, j), preimages(t, j)
		if after == before || len(had) < 2 {
			t.Fatalf("changed %t, %q", after != before, had)
		}
		for _, damaged := range []bool{false, true} {
			for do, run := range map[string]func(context.Context, Config) (*Result, error){"resume": Resume, "rollback": Rollback} {
				write(path, older)
				words := []string{"the journal is older than the database", "nothing was removed; put the journal.json back"}
				if damaged {
					write(rows, whole[:len(whole)/2])
					if clear {
						words = []string{rowsName, "is damaged", "cannot tell how far the rotation came", `backup "b1" in t`}
					}
				}
				j.Do = do
				r, err := run(t.Context(), j.mustConfig(t))
				says(t, do, err, problem.Damaged, words...)
				if r.Journal.State != Preparing || len(r.Next) > 0 || !slices.Equal(preimages(t, j), had) || b.rowsOf(t, j) != after || j.running(t) != "new" {
					t.Fatalf("clear %t, damaged %t, %s: %+v, %q, n8n runs with %q", clear, damaged, do, r.Journal, preimages(t, j), j.running(t))
				}
				write(rows, whole)
			}
		}
		write(path, newest)
		j.Do = "rollback"
		if r, err := j.do(); err != nil || r.Journal.State != RolledBack || b.rowsOf(t, j) != before {
			t.Fatalf("clear %t: %+v, %v", clear, r, err)
		}
	}
}

// TestPreimagesOfAnotherAttempt: in clear, too, one that was not committed is taken back,
// whatever attempt its pre-images are of.
func TestPreimagesOfAnotherAttempt(t *testing.T) {
	b := newPlainBase(t, "2.38.7-sqlite")
	for _, twice := range []bool{false, true} {
		j := b.inClear(t)
		before := b.rowsOf(t, j)
		if _, err := j.with(t, t.Context(), dead("preimages-complete 2")); err == nil { // those of the rows are complete
			t.Fatal("nothing failed")
		}
		if twice {
			j.Do = "resume"
			if _, err := j.with(t, t.Context(), dead("preimages 1")); err == nil {
				t.Fatal("nothing failed")
			}
		}
		journal, err := Open(j.path("state"), testID)
		if err != nil || journal.State != Applying || journal.Attempt == 2 != twice {
			t.Fatalf("%+v, %v", journal, err)
		}
		j.Do = "rollback"
		if r, err := j.do(); err != nil || r.Journal.State != RolledBack || b.rowsOf(t, j) != before || j.running(t) != "old" {
			t.Fatalf("twice %t: %+v, %v, n8n runs with %q", twice, r.Journal, err, j.running(t))
		}
	}

	// What cannot be asked leaves n8n running that was stopped for the question.
	j := b.inClear(t)
	if _, err := j.with(t, t.Context(), dead("commit 1")); err == nil {
		t.Fatal("nothing failed")
	}
	setBack(t, j, Applying)
	if err := os.WriteFile(j.path("running"), []byte("old"), 0o600); err != nil { // the host was started again
		t.Fatal(err)
	}
	j.Do = "resume"
	r, err := j.with(t, t.Context(), at("compare 1", func() error { return errors.New("no connection") }))
	says(t, "resume", err, problem.Unexpected, "no connection", "n8n was started by n8keep", "n8keep rotate rollback "+testID)
	if r.Journal.State != Applying || j.running(t) != "old" {
		t.Fatalf("%+v, n8n runs with %q", r.Journal, j.running(t))
	}
	j.Do = "rollback"
	if r, err := j.do(); err != nil || r.Journal.State != RolledBack {
		t.Fatalf("%+v, %v", r.Journal, err)
	}
}

// TestNewKeyInFilesBefore: what was under the new key before is counted where it is looked
// for later: not in files.
func TestNewKeyInFilesBefore(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	rotated, j := b.world(t), b.world(t)
	if _, err := rotated.do(); err != nil {
		t.Fatal(err)
	}
	for name, content := range files(t, rotated.path("storage")) {
		if err := os.WriteFile(j.path("storage", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := j.mustConfig(t)
	db, err := cfg.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan, err := MakePlan(t.Context(), PlanConfig{Instance: "prod", Database: "the database", DB: db, Receipt: n8ndbtest.Receipt(t), Old: cfg.Old, New: cfg.New, Storage: j.path("storage"), Choices: cfg.Choices})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	cfg.Plan = plan
	r, err := Run(t.Context(), cfg)
	if err != nil || plan.Already == 0 || r.Journal.FoundNew != 0 {
		t.Fatalf("%v, planned %d, %d found", err, plan.Already, r.Journal.FoundNew)
	}
}
