package rotate

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestDatabaseLost: the error says what is left to do, since a restore is refused as long
// as the rotation has not ended.
func TestDatabaseLost(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for kind, lose := range map[problem.Kind]func(path string) error{
		problem.NotFound: os.Remove,
		problem.Damaged:  func(path string) error { return os.WriteFile(path, []byte("no database any more"), 0o600) },
	} {
		for _, run := range []func(context.Context, Config) (*Result, error){Resume, Rollback} {
			j := b.interrupted(t, "preimages-complete 1")
			if err := lose(j.path("home", "database.sqlite")); err != nil {
				t.Fatal(err)
			}
			had := preimages(t, j)
			j.Do = "resume"
			_, err := run(t.Context(), j.mustConfig(t))
			says(t, string(kind), err, kind, "nothing was removed; if that database is lost, move \""+j.path("state", folderName, testID)+"\" out of the state folder, and restore the backup \"b1\" in t",
				"it opens with the old key "+string(oldFP))
			if now := preimages(t, j); len(now) != len(had) {
				t.Errorf("%q, %q", had, now)
			}
		}
	}
}

// TestUnreadableWhileN8NRuns: a database that this user may not read is no reason to stop
// n8n; one that was left in the middle of a write is, and n8n runs again if that fails.
func TestUnreadableWhileN8NRuns(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	for name, run := range map[string]func(context.Context, Config) (*Result, error){"resume": Resume, "rollback": Rollback} {
		j := b.interrupted(t, "preimages-complete 1")
		if err := os.WriteFile(j.path("running"), []byte("old"), 0o600); err != nil { // the host was started again
			t.Fatal(err)
		}
		j.Do = name
		cfg := j.mustConfig(t)
		cfg.Read = func(context.Context) (*n8ndb.DB, error) {
			return nil, problem.New(problem.Usage, "permission denied for the database")
		}
		r, err := run(t.Context(), cfg)
		says(t, name, err, problem.Usage, "permission denied for the database")
		if r.Journal.State != Applying || j.running(t) != "old" {
			t.Errorf("%s: %+v, n8n runs with %q", name, r.Journal, j.running(t))
		}
		cfg.Read = func(context.Context) (*n8ndb.DB, error) {
			return nil, problem.Wrap(problem.Usage, n8ndb.ErrMidWrite, "the database")
		}
		write := cfg.Write
		cfg.Write = func(context.Context) (*n8ndb.Writer, error) { return nil, errors.New("no room to repair it") }
		r, err = run(t.Context(), cfg)
		says(t, name, err, problem.Unexpected, "no room to repair it", "n8n was started by n8keep")
		if r.Journal.State != Applying || j.running(t) != "old" {
			t.Errorf("%s: %+v, n8n runs with %q", name, r.Journal, j.running(t))
		}
		// What comes after the question undoes a stop for it, too.
		cfg.Write = write
		tries := 0
		cfg.Read = func(ctx context.Context) (*n8ndb.DB, error) {
			if tries++; tries > 1 {
				return j.mustConfig(t).Read(ctx)
			}
			return nil, problem.Wrap(problem.Usage, n8ndb.ErrMidWrite, "the database")
		}
		j.forgetStops(t)
		cfg.fault = at("stage-key 1", func() error { return errors.New("no room") })
		if r, err = run(t.Context(), cfg); r.Journal.State != Abandoned || (err == nil) != (name == "rollback") {
			t.Fatalf("%s: %+v, %v", name, r.Journal, err)
		}
		b.check(t, j, name)
	}
}

// forgetStops makes the journal one of a rotation that has not stopped n8n yet.
func (j job) forgetStops(t *testing.T) {
	t.Helper()
	journal, err := Open(j.path("state"), testID)
	if err != nil {
		t.Fatal(err)
	}
	journal.State = Preparing
	journal.Steps = slices.DeleteFunc(journal.Steps, func(s Step) bool { return s.Name != StepBackup && s.Name != StepStage })
	if err := journal.save(); err != nil {
		t.Fatal(err)
	}
}
