package app_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/n8nhome"
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
	ended, err := d.app().RotateFinalise(ctx, app.JournalOptions{ID: done.ID, NoBackup: true, Confirm: certain})
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range []*api.Rotation{done, status, ended} {
		said := slices.DeleteFunc(slices.Clone(doc.Warnings), func(w string) bool { return !strings.Contains(w, "is in "+good+", and not in "+gone+": ") })
		if len(said) != 1 {
			t.Errorf("%s: %q", doc.State, doc.Warnings)
		}
	}
}

// TestAfterLeakSaysAgain: what stays under the old key, and the checklist after a leak,
// are said by the later commands, too; and in which order a data key is replaced that
// stays active.
func TestAfterLeakSaysAgain(t *testing.T) {
	d := newDesk(t, "")
	for _, name := range []string{"config", "database.sqlite"} {
		b, err := os.ReadFile(filepath.Join("../../testdata/fixtures/2.38.7-sqlite-keyrotation", name))
		if err != nil {
			t.Fatal(err)
		}
		d.write(filepath.Join("n8n", name), string(b))
	}
	home, err := n8nhome.ReadConfig(d.n8n)
	if err != nil {
		t.Fatal(err)
	}
	left, err := home.Key.EncryptCBC([]byte(`{"version":1}`))
	if err != nil {
		t.Fatal(err)
	}
	d.sql(`UPDATE execution_entity SET status = 'success', finished = true, "waitTill" = NULL`)
	d.sql(`UPDATE execution_data SET data = $1 WHERE "executionId" = (SELECT min("executionId") FROM execution_data)`, string(n8ndbtest.ExecutionData(left.String(), left.String(), left.String())))
	d.sql(`UPDATE execution_entity SET "storedAt" = 'az' WHERE id = (SELECT max(id) FROM execution_entity)`)
	ctx := t.Context()
	d.opts.Env = with(d.opts.Env, map[string]string{"N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION": "true"})
	plan, done, err := d.app().RotateInstance(ctx, app.InstanceOptions{N8NDir: d.n8n, Name: "prod"},
		app.RotateOptions{NewKeyFile: d.write("new", newKeyText), NoBackup: true, AfterLeak: true, Confirm: sure})
	if err != nil || len(plan.Exposed) == 0 || plan.LeftBehind != 1 || plan.LeftValues != 3 || plan.LeftUnseen != 1 {
		t.Fatalf("%v, left behind: %d with %d, %d", err, plan.LeftBehind, plan.LeftValues, plan.LeftUnseen)
	}
	mentions := func(lines []string, text string) bool {
		return slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, text) })
	}
	order := "in this order: \"n8keep rotate finalise " + done.ID + "\", then \"n8keep data-key rotate\""
	check := func(what string, got *api.Rotation, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got.LeftBehind != plan.LeftBehind || got.LeftValues != plan.LeftValues || got.LeftKeyed != plan.LeftKeyed || got.LeftUnseen != 1 || got.ExposedTotal != len(plan.Exposed) {
			t.Errorf("%s: %+v", what, got)
		}
		if what == "status" {
			return
		}
		if d := cmp.Diff(plan.Exposed, got.Exposed); d != "" {
			t.Errorf("%s: %s", what, d)
		}
		if d := cmp.Diff(plan.ExposedAdvice, got.ExposedAdvice); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
	check("rotate", done, nil)
	status, err := d.app().RotationStatus(ctx, done.ID)
	check("status", status, err)
	again, err := d.app().RotateResume(ctx, app.JournalOptions{ID: done.ID, Confirm: certain})
	check("resume", again, err)
	if !mentions(done.Do, order) || !mentions(again.Do, order) {
		t.Errorf("to do: %q and %q", done.Do, again.Do)
	}
	_, err = d.app().DataKeyRotate(ctx, app.InstanceOptions{N8NDir: d.n8n}, app.DataKeyOptions{Confirm: settled})
	wantProblem(t, err, problem.Busy, "rotate finalise "+done.ID)
	ended, err := d.app().RotateFinalise(ctx, app.JournalOptions{ID: done.ID, NoBackup: true, Confirm: certain})
	check("finalise", ended, err)
	if !mentions(ended.Do, "make a new data key now: \"n8keep data-key rotate\"") {
		t.Errorf("to do: %q", ended.Do)
	}
	if _, err := d.app().DataKeyRotate(ctx, app.InstanceOptions{N8NDir: d.n8n}, app.DataKeyOptions{Confirm: settled}); err != nil {
		t.Error(err)
	}

	// One that is finalised at once has no first and then.
	o := app.RotateOptions{NewKeyFile: d.write("newer", "9f3b7c1e5a2d8f604b7e1c93d5a8f26071be4c9d3f8a6e52"), NoBackup: true, AfterLeak: true, Finalise: true, Confirm: sure}
	_, done, err = d.app().RotateInstance(ctx, app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}, o)
	if err != nil || done.State != "finalised" || !mentions(done.Do, "make a new data key now: ") || mentions(done.Do, "in this order: ") {
		t.Errorf("%+v, %v", done, err)
	}
}

// sql changes the database of the desk.
func (d *desk) sql(stmt string, args ...any) {
	d.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(d.n8n, "database.sqlite"))
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = db.Exec(stmt, args...)
	if err := errors.Join(err, db.Close()); err != nil {
		d.t.Fatal(err)
	}
}

func with(env func(string) (string, bool), more map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		if v, ok := more[name]; ok {
			return v, true
		}
		return env(name)
	}
}

// TestWhatAServiceCannotSee: the plan says it.
func TestWhatAServiceCannotSee(t *testing.T) {
	d := newDesk(t, "")
	plan, _, err := d.app().RotateInstance(t.Context(), app.InstanceOptions{N8NDir: d.n8n},
		app.RotateOptions{NewKeyFile: d.write("new", newKeyText), NoBackup: true, DryRun: true, Hooks: app.HookOptions{StopCommand: "true", StartCommand: "true"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"n8keep cannot see whether the ", "n8keep cannot see whether n8n itself says that it runs: give its address with --health-url"} {
		if !slices.ContainsFunc(plan.Warnings, func(w string) bool { return strings.HasPrefix(w, text) }) {
			t.Errorf("no %q in %q", text, plan.Warnings)
		}
	}
}

// TestStorageFolderMissing: with executions in files and no folder of them the plan is
// refused; one that has no executions in files remembers which folder it would be.
func TestStorageFolderMissing(t *testing.T) {
	d := newDesk(t, "")
	ctx, io := t.Context(), app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}
	o := app.RotateOptions{NewKeyFile: d.write("new", newKeyText), NoBackup: true, Confirm: sure}
	_, done, err := d.app().RotateInstance(ctx, io, o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(d.dir, ".local/state/n8keep/rotations", done.ID, "journal.json"))
	if err != nil || !strings.Contains(string(b), fmt.Sprintf(`"storage": %q`, filepath.Join(d.n8n, "storage"))) {
		t.Errorf("%s %v", b, err)
	}
	if _, err := d.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, Confirm: certain}); err != nil {
		t.Fatal(err)
	}
	d.sql(`UPDATE execution_entity SET "storedAt" = 'fs', status = 'waiting' WHERE id = (SELECT min(id) FROM execution_entity)`)
	plan, done, err := d.app().RotateInstance(ctx, io, o)
	if err == nil || done != nil || !slices.ContainsFunc(plan.Refusals, func(r api.Refusal) bool { return strings.Contains(r.Message, filepath.Join(d.n8n, "storage")) }) {
		t.Errorf("%+v %v", plan, err)
	}
}
