package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestKeyInTheComposeFile: a compose file has the new key, as it must before the rotation.
// When that fails, n8n is not started by it; and no command starts n8n with the key that
// it is not to have then.
func TestKeyInTheComposeFile(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // docker does not work
	d := newDesk(t, "")
	ctx := t.Context()
	compose := func(key string) string {
		return d.write("compose.yaml", fmt.Sprintf("services:\n  n8n:\n    image: n8nio/n8n\n    environment:\n      N8N_ENCRYPTION_KEY: %s\n", key))
	}
	file := compose(newKeyText)
	o := app.RotateOptions{NewKeyFile: d.write("new", newKeyText), NoBackup: true, Hooks: app.HookOptions{ComposeFile: file}, Confirm: sure}
	_, done, err := d.app().RotateInstance(ctx, app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}, o)
	wantProblem(t, err, problem.Usage, "on the way back: N8N_ENCRYPTION_KEY in line 5 of docker compose file "+fmt.Sprintf("%q", file)+" is not the key ")
	wantProblem(t, err, problem.Usage, "go back with")
	if done == nil || done.State != "preparing" {
		t.Fatalf("%+v", done)
	}
	back := app.JournalOptions{ID: done.ID, Confirm: func(doc *api.Rotation) error {
		if !slices.ContainsFunc(doc.Warnings, func(w string) bool {
			return strings.Contains(w, "n8n's key is also set in N8N_ENCRYPTION_KEY in the docker compose file")
		}) {
			t.Errorf("%q", doc.Warnings)
		}
		return nil
	}}
	refuse := func(err error, key string) {
		t.Helper()
		wantProblem(t, err, problem.CheckFailed, "N8N_ENCRYPTION_KEY in line 5 of docker compose file "+fmt.Sprintf("%q", file)+" is not the key "+key+", which n8n has to start with")
		wantProblem(t, err, problem.CheckFailed, "put the key there, do not restart n8n yourself")
	}
	oldFP, newFP := done.OldKey.Fingerprint, done.NewKey.Fingerprint
	_, err = d.app().RotateRollback(ctx, back)
	refuse(err, oldFP)
	compose("a-third-key-that-is-of-no-use-here")
	_, err = d.app().RotateRollback(ctx, back)
	refuse(err, oldFP)
	compose(deskKey)
	_, err = d.app().RotateResume(ctx, app.JournalOptions{ID: done.ID, Confirm: certain})
	refuse(err, newFP)

	// With the old key there it goes back.
	marker := filepath.Join(d.dir, "started")
	back.Hooks = app.HookOptions{StopCommand: "true", StartCommand: fmt.Sprintf(": >%q", marker)}
	if done, err = d.app().RotateRollback(ctx, back); err != nil || done.State != "abandoned" {
		t.Fatalf("%+v %v", done, err)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Error(err)
	}
}

// TestStartCommandIsReliedOn: a command that starts n8n with the new key, wherever it has
// that from, does not start it when the rotation has failed.
func TestStartCommandIsReliedOn(t *testing.T) {
	d := newDesk(t, "instances:\n  prod:\n    n8n_dir: DIR/n8n\n    deployment_files: [DIR/n8n.env]\n")
	ctx := t.Context()
	env := d.write("n8n.env", "N8N_ENCRYPTION_KEY="+deskKey+"\n")
	marker := filepath.Join(d.dir, "started")
	o := app.RotateOptions{NewKeyFile: d.write("new", newKeyText), NoBackup: true, Hooks: app.HookOptions{StopCommand: "false", StartCommand: fmt.Sprintf(": >%q", marker)}, Confirm: sure}
	_, done, err := d.app().RotateInstance(ctx, app.InstanceOptions{Name: "prod"}, o)
	wantProblem(t, err, problem.Unexpected, "n8n was not started again: its key is set in N8N_ENCRYPTION_KEY in the env-file ("+env+":1)")
	if _, err := os.Stat(marker); err == nil || done == nil || done.State != "preparing" {
		t.Fatalf("%+v, started: %v", done, err)
	}
	d.write("n8n.env", "N8N_ENCRYPTION_KEY="+newKeyText+"\n")
	back := app.JournalOptions{ID: done.ID, Hooks: app.HookOptions{StopCommand: "true", StartCommand: o.Hooks.StartCommand}, Confirm: certain}
	_, err = d.app().RotateRollback(ctx, back)
	wantProblem(t, err, problem.CheckFailed, "is not the key "+done.OldKey.Fingerprint)
	d.write("n8n.env", "N8N_ENCRYPTION_KEY="+deskKey+"\n")
	if done, err = d.app().RotateRollback(ctx, back); err != nil || done.State != "abandoned" {
		t.Fatalf("%+v %v", done, err)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Error(err)
	}
}
