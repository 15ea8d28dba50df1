package rotate

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

// TestKeyPlaces: n8n is not started, and nothing is finalised, while a place that n8keep
// does not change is seen to hold the wrong key.
func TestKeyPlaces(t *testing.T) {
	b := newPlainBase(t, "2.41.1-sqlite")
	j := b.world(t)
	var asked []bool
	wrong := true
	places := func(_ context.Context, back bool) error {
		if asked = append(asked, back); wrong {
			return problem.New(problem.CheckFailed, "a variable holds another key")
		}
		return nil
	}
	call := func(do string, run func(context.Context, Config) (*Result, error), back bool, kind problem.Kind, state State) {
		t.Helper()
		j.Do, asked = do, nil
		cfg := j.mustConfig(t)
		cfg.KeyPlaces = places
		r, err := run(t.Context(), cfg)
		if problem.KindOf(err) != kind || r == nil || r.Journal.State != state || len(asked) == 0 || slices.Contains(asked, !back) {
			t.Fatalf("%s: %+v, %v, asked %v", do, r, err, asked)
		}
		if want := map[State]string{Verified: "new", RolledBack: "old"}[state]; j.running(t) != want {
			t.Errorf("%s: n8n runs with %q", do, j.running(t))
		}
	}
	finalise := func(ctx context.Context, cfg Config) (*Result, error) { return Finalise(ctx, cfg, FinaliseHooks{}) }
	call("run", Run, false, problem.CheckFailed, Applied)
	wrong = false
	call("resume", Resume, false, "", Verified)
	wrong = true
	call("finalise", finalise, false, problem.CheckFailed, Verified)
	call("rollback", Rollback, true, problem.CheckFailed, RollbackApplied)

	// Key files are looked at before every start, not only on the way back of a failure.
	wrong = false
	config := j.path("home", "config")
	had, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(`{"encryptionKey":"a-third-key-of-somebody-0123456789"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	j.Do = "rollback"
	r, err := Rollback(t.Context(), j.mustConfig(t))
	says(t, "third key", err, problem.CheckFailed, `config" holds another key than the database`)
	if r.Journal.State != RollbackApplied || j.running(t) != "" {
		t.Errorf("%+v, n8n runs with %q", r.Journal, j.running(t))
	}
	if err := os.WriteFile(config, had, 0o600); err != nil {
		t.Fatal(err)
	}
	call("rollback", Rollback, true, "", RolledBack)
	if r, _ := Open(j.path("state"), testID); r.LeftTotal != 0 {
		t.Errorf("%+v", r)
	}
}

// TestGivenUpChangedNothing: a rotation that has ended with nothing changed does not say
// that values were.
func TestGivenUpChangedNothing(t *testing.T) {
	b := newPlainBase(t, "2.41.1-sqlite")
	j := b.world(t)
	r, err := j.with(t, t.Context(), at("preimages-complete 1", func() error { return problem.New(problem.Unexpected, "no room") }))
	if problem.KindOf(err) != problem.Unexpected || r.Journal.State != Abandoned || r.Journal.Values != 0 || r.Journal.Columns != 0 || len(r.Journal.Places) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestFolderSetBack: the whole folder of a rotation as it was before the first attempt
// knows of no pre-images, and the database has the new values.
func TestFolderSetBack(t *testing.T) {
	b := newPlainBase(t, "2.41.1-sqlite")
	j := b.world(t)
	dir, copied := j.path("state", folderName), j.path("copied")
	if _, err := j.with(t, t.Context(), at("stop 1", func() error { return os.CopyFS(copied, os.DirFS(dir)) })); err != nil {
		t.Fatal(err)
	}
	after := b.rowsOf(t, j)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(copied)); err != nil {
		t.Fatal(err)
	}
	for do, run := range map[string]func(context.Context, Config) (*Result, error){"resume": Resume, "rollback": Rollback} {
		j.Do = do
		r, err := run(t.Context(), j.mustConfig(t))
		says(t, do, err, problem.Damaged, "the journal is older than the database")
		if r.Journal.State != Preparing || b.rowsOf(t, j) != after || j.running(t) != "new" {
			t.Errorf("%s: %+v, n8n runs with %q", do, r.Journal, j.running(t))
		}
	}
}
