package restore

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// diesAfter makes a restore fail for good after the change, as a kill would.
func diesAfter(op, name string) faults {
	dead := false
	return faults{do: func(o, n string, change func() error) error {
		if dead {
			return errInjected
		}
		dead = o == op && n == name
		return change()
	}}
}

// dies leaves what a restore leaves that is killed after the change.
func dies(t *testing.T, dir, op, name string) {
	t.Helper()
	cfg := config(t, dir)
	cfg.Overwrite = true
	cfg.faults = diesAfter(op, name)
	if _, err := restoreWith(cfg); err != nil && !strings.Contains(err.Error(), errInjected.Error()) {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, stagingPrefix+"*"))
	if err != nil || len(left) != 1 {
		t.Fatalf("left behind: %q, %v", left, err)
	}
}

func recoverDir(t *testing.T, dir string) RecoveredRun {
	t.Helper()
	r, err := Recover(t.Context(), RecoverConfig{To: dir, AssumeStopped: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Runs) != 1 || r.Runs[0].ID != testID {
		t.Fatalf("recovered: %+v", r)
	}
	noStaging(t, dir)
	return r.Runs[0]
}

func TestRecoverNothing(t *testing.T) {
	for _, dir := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		r, err := Recover(t.Context(), RecoverConfig{To: dir})
		if err != nil || len(r.Runs) != 0 {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

func TestPlanSaysWhatItRecovered(t *testing.T) {
	dir := scenarios()[0].build(t)
	dies(t, dir, "link", "config")
	cfg := config(t, dir)
	cfg.DryRun = true
	before := tree(t, dir)
	p, err := NewPlan(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Recovery.Runs) != 1 || !strings.Contains(p.Steps[0].Do, "deal with a restore that was killed") {
		t.Errorf("plan: %+v", p)
	}
	if tree(t, dir) != before {
		t.Error("a dry run changed the folder")
	}
	report, err := restoreWith(config(t, dir)) // no Overwrite: what the killed run made is no data
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Recovery.Runs) != 1 || report.Recovery.Runs[0].Outcome != Undone {
		t.Errorf("report: %+v", report)
	}
	checkRestored(t, dir, rows(t, newFixture+"/database.sqlite"))
}

func TestRecoverPutsBackADatabaseThatIsDamagedInItsPlace(t *testing.T) {
	s := scenarios()[3]
	dir := s.build(t)
	old, before := rows(t, filepath.Join(dir, "database.sqlite")), s.tree(t, dir)
	dies(t, dir, "rename", "database.sqlite")
	r, err := Recover(t.Context(), RecoverConfig{To: dir, AssumeStopped: true, faults: faults{integrity: func(context.Context, string) (n8ndb.Integrity, error) {
		return n8ndb.Integrity{Problems: []string{"page 7 is never used"}}, nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Runs) != 1 || r.Runs[0].Outcome != Undone || !strings.Contains(strings.Join(r.Runs[0].Warnings, "\n"), "page 7") {
		t.Errorf("%+v", r)
	}
	noStaging(t, dir)
	if rows(t, filepath.Join(dir, "database.sqlite")) != old || s.tree(t, dir) != before {
		t.Error("not as it was before")
	}
}

// TestRecoverLeavesWhatIsInUse starts n8n, so to speak, between a kill and the
// next run: nothing that it works with is taken away.
func TestRecoverLeavesWhatIsInUse(t *testing.T) {
	t.Run("a database made beside the restored config", func(t *testing.T) {
		dir := scenarios()[0].build(t)
		dies(t, dir, "link", "config")
		if err := copyTree(oldFixture, dir, "database.sqlite"); err != nil {
			t.Fatal(err)
		}
		run := recoverDir(t, dir)
		if run.Outcome != Undone || !strings.Contains(strings.Join(run.Warnings, "\n"), "was used since, and stays") {
			t.Errorf("%+v", run)
		}
		if _, err := os.Stat(filepath.Join(dir, "config")); err != nil {
			t.Error(err)
		}
		if rows(t, filepath.Join(dir, "database.sqlite")) != rows(t, oldFixture+"/database.sqlite") {
			t.Error("the database was changed")
		}
	})
	t.Run("the restored database, half rolled back", func(t *testing.T) {
		dir := scenarios()[1].build(t)
		cfg := config(t, dir)
		cfg.Overwrite = true
		cfg.faults = diesAfter("rename", "database.sqlite")
		swapped := false
		whole := cfg.faults.do
		cfg.faults.do = func(op, name string, change func() error) error {
			if op == "journal" && swapped { // the journal learns of the roll back before the disk dies
				return change()
			}
			err := whole(op, name, change)
			swapped = swapped || op == "rename" && name == "database.sqlite"
			return err
		}
		_, err := restoreWith(cfg)
		checkProblem(t, err, problem.Unexpected, "not everything could be put back", "repeat the command")
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(filepath.Join(dir, "database.sqlite"), later, later); err != nil {
			t.Fatal(err)
		}
		run := recoverDir(t, dir)
		if text := strings.Join(run.Warnings, "\n"); !strings.Contains(text, "was used since, and stays") || !strings.Contains(text, "before-"+string(testID)) {
			t.Errorf("%+v", run)
		}
		if rows(t, filepath.Join(dir, "database.sqlite.before-"+string(testID))) != rows(t, oldFixture+"/database.sqlite") {
			t.Error("the safety copy is not the old database")
		}
	})
	t.Run("a file that was changed", func(t *testing.T) {
		dir := scenarios()[3].build(t)
		dies(t, dir, "rename", "nodes/package.json")
		write(t, filepath.Join(dir, "nodes/package.json"), "changed since")
		run := recoverDir(t, dir)
		if text := strings.Join(run.Warnings, "\n"); !strings.Contains(text, "was changed since, and left as it is; the one from before the restore is") {
			t.Errorf("%+v", run)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "nodes/package.json")); err != nil || string(b) != "changed since" {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestRecoverWaitsForN8N(t *testing.T) {
	dir := scenarios()[3].build(t)
	dies(t, dir, "rename", "nodes/package.json")
	j := newJob(t, dir)
	j.Do = "attach"
	cmd := j.command(t)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "attached\n" {
		t.Fatalf("the other process said %q, %v", line, err)
	}
	_, err = Recover(t.Context(), RecoverConfig{To: dir, AssumeStopped: true})
	checkProblem(t, err, problem.Busy, "was cut short", "stop n8n")
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if run := recoverDir(t, dir); run.Outcome != Undone {
		t.Errorf("%+v", run)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "nodes/package.json")); err != nil || string(b) != `{"old":true}` {
		t.Errorf("%q, %v", b, err)
	}
}

// TestWithoutHardLinks restores on a file system that has none, and fails every
// change there as well.
func TestWithoutHardLinks(t *testing.T) {
	s := scenarios()[3]
	fresh := rows(t, newFixture+"/database.sqlite")
	for at := 0; ; at++ {
		dir := s.build(t)
		old, before := rows(t, filepath.Join(dir, "database.sqlite")), s.tree(t, dir)
		f := &failing{from: at, to: 1 << 30}
		cfg := config(t, dir)
		cfg.Overwrite = true
		cfg.faults.do = func(op, name string, change func() error) error {
			if op == "link" {
				return &os.LinkError{Op: "link", Old: name, New: name, Err: syscall.EPERM}
			}
			return f.do(op, name, change)
		}
		_, err := restoreWith(cfg)
		if at > 0 && f.n < at {
			if at < 20 {
				t.Errorf("only %d changes", at)
			}
			return
		}
		if at == 0 && err != nil || at > 0 && err != nil && !errors.Is(err, errInjected) && !strings.Contains(err.Error(), errInjected.Error()) {
			t.Fatal(err)
		}
		if _, err := Recover(t.Context(), RecoverConfig{To: dir, AssumeStopped: true}); err != nil {
			t.Fatalf("%s failed, and then the recovery: %v", f.what, err)
		}
		noStaging(t, dir)
		if rows(t, filepath.Join(dir, "database.sqlite")) == fresh {
			checkRestored(t, dir, fresh)
			if rows(t, filepath.Join(dir, "database.sqlite.before-"+string(testID))) != old {
				t.Fatalf("%s failed: no safety copy", f.what)
			}
		} else if after := s.tree(t, dir); after != before || rows(t, filepath.Join(dir, "database.sqlite")) != old {
			t.Fatalf("%s failed: before\n%s\nafter\n%s", f.what, before, after)
		}
	}
}

func TestInterruptedBeforeTheDatabaseIsPlaced(t *testing.T) {
	s := scenarios()[3]
	dir := s.build(t)
	before := s.tree(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := config(t, dir)
	cfg.Overwrite = true
	cfg.Progress = func(step string) {
		if step == "putting files in place" {
			cancel()
		}
	}
	p, err := NewPlan(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Apply(ctx)
	checkProblem(t, err, problem.Interrupted, `restoring archive "`+string(testID)+`": context canceled`, "as it was")
	noStaging(t, dir)
	if after := s.tree(t, dir); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if _, err := p.Apply(t.Context()); err == nil {
		t.Error("a plan was applied twice")
	}
}
