package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestStateFolderRemoved: a command that removes the state folder is told from all that
// fails because of it, before and after the commit.
func TestStateFolderRemoved(t *testing.T) {
	for name, hooks := range map[string]func(remove string) (app.HookOptions, string){
		"stop": func(rm string) (app.HookOptions, string) {
			return app.HookOptions{StopCommand: rm, StartCommand: "true"}, "nothing"
		},
		"start": func(rm string) (app.HookOptions, string) {
			return app.HookOptions{StopCommand: "true", StartCommand: rm}, "database and files have the new key"
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, "")
			state := filepath.Join(d.dir, ".local/state/n8keep")
			o, situation := hooks(fmt.Sprintf("rm -rf %q", state))
			_, done, err := d.app().RotateInstance(t.Context(), app.InstanceOptions{N8NDir: d.n8n, Name: "prod"},
				app.RotateOptions{NewKeyFile: d.write("new", newKeyText), NoBackup: true, Hooks: o, Confirm: sure})
			wantProblem(t, err, problem.Damaged, "was removed while it was under way")
			wantProblem(t, err, problem.Damaged, situation)
			wantProblem(t, err, problem.Damaged, "keep both keys")
			if done == nil || len(done.Next) != 0 || strings.Contains(err.Error(), "no such file") {
				t.Errorf("%+v %v", done, err)
			}
		})
	}
}

// TestNoStateFolder: a state folder that an option names has to be there; the default
// one need not.
func TestNoStateFolder(t *testing.T) {
	d := newDesk(t, "")
	if all, err := d.app().Rotations(t.Context()); err != nil || len(all.Rotations) != 0 {
		t.Errorf("%+v %v", all, err)
	}
	d.opts.StateDir = filepath.Join(d.dir, "nosuch")
	_, err := d.app().Rotations(t.Context())
	wantProblem(t, err, problem.Usage, "there is no state folder "+fmt.Sprintf("%q", d.opts.StateDir))
	wantProblem(t, err, problem.Usage, "--state-dir")
}

// TestOptionOfTheKey: what is wrong with a key file is said of the option that named it.
func TestOptionOfTheKey(t *testing.T) {
	d := newDesk(t, "")
	ctx, empty := t.Context(), d.write("empty", "")
	_, _, err := d.app().RotateInstance(ctx, app.InstanceOptions{N8NDir: d.n8n}, app.RotateOptions{NewKeyFile: empty, NoBackup: true, Confirm: sure})
	wantProblem(t, err, problem.Usage, "the key file of --new-key-file ")
	wantProblem(t, err, problem.Usage, "with --new-key-file FILE")
	_, done, err := d.app().RotateInstance(ctx, app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}, app.RotateOptions{NewKeyFile: d.write("new", newKeyText), NoBackup: true, Confirm: sure})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, NewKeyFile: filepath.Join(d.dir, "nosuch"), Confirm: certain})
	wantProblem(t, err, problem.NotFound, "the key file of --new-key-file ")
	_, err = d.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, KeyFile: empty, Confirm: certain})
	wantProblem(t, err, problem.Usage, "the key file of --key-file ")
}

// TestEndedIsRecorded: a command on a rotation that has ended, or that nobody confirms,
// is in the audit log, as failed.
func TestEndedIsRecorded(t *testing.T) {
	d := newDesk(t, "")
	ctx := t.Context()
	_, done, err := d.app().RotateInstance(ctx, app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}, app.RotateOptions{NewKeyFile: d.write("new", newKeyText), NoBackup: true, Confirm: sure})
	if err != nil {
		t.Fatal(err)
	}
	no := problem.New(problem.Usage, "not confirmed")
	_, err = d.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, Confirm: func(*api.Rotation) error { return no }})
	wantProblem(t, err, problem.Usage, "not confirmed")
	if _, err := d.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, Confirm: certain}); err != nil {
		t.Fatal(err)
	}
	for command, do := range map[string]func() error{
		"rotate resume": func() error {
			_, err := d.app().RotateResume(ctx, app.JournalOptions{ID: done.ID, Confirm: certain})
			return err
		},
		"rotate rollback": func() error {
			_, err := d.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, Confirm: certain})
			return err
		},
		"rotate finalise": func() error {
			_, err := d.app().RotateFinalise(ctx, app.JournalOptions{ID: done.ID, Confirm: certain})
			return err
		},
	} {
		err := do()
		wantProblem(t, err, problem.Usage, "is over: it is rolled-back")
		if n := strings.Count(fmt.Sprint(err), done.ID); n != 1 {
			t.Errorf("%s names the rotation %d times: %v", command, n, err)
		}
		b, rerr := os.ReadFile(filepath.Join(d.dir, ".local/state/n8keep/audit.jsonl"))
		if rerr != nil {
			t.Fatal(rerr)
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		begin, end := lines[len(lines)-2], lines[len(lines)-1]
		if !strings.Contains(begin, `"command":"`+command+`"`) || !strings.Contains(begin, done.ID) || !strings.Contains(end, `"phase":"end"`) || !strings.Contains(end, "usage") {
			t.Errorf("%s is recorded as\n%s\n%s", command, begin, end)
		}
	}
}

// TestBackupMissedATarget: the plan names all targets, the result and the status the one
// that the backup is not in.
func TestBackupMissedATarget(t *testing.T) {
	d := newDesk(t, "")
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	ctx, good, gone := t.Context(), filepath.Join(d.dir, "good"), filepath.Join(d.dir, "gone")
	o := app.RotateOptions{NewKeyFile: d.write("new", newKeyText), Targets: []string{gone, good}, Recipients: []string{id.Recipient().String()}, Identities: []age.Identity{id},
		Confirm: func(plan *api.RotationPlan) error {
			if !strings.Contains(plan.Backup, good) || !strings.Contains(plan.Backup, gone) || !strings.Contains(plan.Backup, "one that misses it is a warning") {
				t.Errorf("backup %q", plan.Backup)
			}
			return nil
		}}
	// A target that was there when the plan was made, and takes nothing then.
	taken := false
	d.opts.Progress = func(string, int64, int64) {
		if info, err := os.Stat(gone); err == nil && info.IsDir() && !taken {
			taken = true
			if err := os.RemoveAll(gone); err != nil {
				t.Error(err)
			}
			d.write("gone", "a file")
		}
	}
	_, done, err := d.app().RotateInstance(ctx, app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}, o)
	if err != nil || done.Backup == nil || !taken {
		t.Fatalf("%+v %v %v", done, taken, err)
	}
	if len(done.Backup.Missed) != 1 || !strings.HasPrefix(done.Backup.Missed[0], gone+": ") || done.Backup.Target != good {
		t.Errorf("%+v", done.Backup)
	}
	status, err := d.app().RotationStatus(ctx, done.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range []*api.Rotation{done, status} {
		if !slices.ContainsFunc(doc.Warnings, func(w string) bool { return strings.Contains(w, "is in "+good+", and not in "+gone+": ") }) {
			t.Errorf("%q", doc.Warnings)
		}
	}
}
