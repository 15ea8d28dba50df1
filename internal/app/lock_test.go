package app_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

// changes are all commands that change the database of a desk, each with its question.
func changes(d *desk, io app.InstanceOptions, newKey string, ask func() error) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"rotate instance": func(ctx context.Context) error {
			_, _, err := d.app().RotateInstance(ctx, io, app.RotateOptions{NewKeyFile: newKey, NoBackup: true, Confirm: func(*api.RotationPlan) error { return ask() }})
			return err
		},
		"reencrypt": func(ctx context.Context) error {
			_, err := d.app().Reencrypt(ctx, io, app.ReencryptOptions{To: "active", Flag: "on", Confirm: func(*api.Reencryption) error { return ask() }})
			return err
		},
		"data-key rotate": func(ctx context.Context) error {
			_, err := d.app().DataKeyRotate(ctx, io, app.DataKeyOptions{Confirm: func(*api.DataKeyChange) error { return ask() }})
			return err
		},
	}
}

// TestOneChangeAtATime: while a command asks, no other one begins; what only reads does.
func TestOneChangeAtATime(t *testing.T) {
	d := newDesk(t, "")
	ctx, io, to := t.Context(), app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}, d.write("new", newKeyText)
	no := problem.New(problem.Usage, "not confirmed")
	const busy = "another n8keep is changing the database "
	inside := 0
	ask := func() error {
		inside++
		for name, do := range changes(d, io, to, func() error { t.Error("asked"); return no }) {
			t.Log(name)
			wantProblem(t, do(ctx), problem.Busy, busy)
			wantProblem(t, do(ctx), problem.Busy, "n8keep rotate status")
		}
		_, err := d.app().DataKeyRetire(ctx, io, app.DataKeyOptions{ID: "x", Confirm: settled})
		wantProblem(t, err, problem.Busy, busy)
		if _, _, err := d.app().RotateInstance(ctx, io, app.RotateOptions{NewKeyFile: to, NoBackup: true, DryRun: true}); err != nil {
			t.Error(err)
		}
		if _, err := d.app().DataKeyList(ctx, io, app.DataKeyOptions{}); err != nil {
			t.Error(err)
		}
		return no
	}
	for name, do := range changes(d, io, to, ask) {
		t.Log(name)
		wantProblem(t, do(ctx), problem.Usage, "not confirmed")
	}
	if inside != 3 {
		t.Fatalf("asked %d times", inside)
	}

	// So it is while somebody thinks about a rotation that has begun.
	_, done, err := d.app().RotateInstance(ctx, io, app.RotateOptions{NewKeyFile: to, NoBackup: true, Confirm: sure})
	if err != nil || done.State != "verified" {
		t.Fatalf("%+v %v", done, err)
	}
	_, err = d.app().RotateFinalise(ctx, app.JournalOptions{ID: done.ID, NoBackup: true, Confirm: func(*api.Rotation) error {
		for name, do := range map[string]func(context.Context, app.JournalOptions) (*api.Rotation, error){
			"resume": d.app().RotateResume, "rollback": d.app().RotateRollback, "finalise": d.app().RotateFinalise,
		} {
			t.Log(name)
			_, err := do(ctx, app.JournalOptions{ID: done.ID, NoBackup: true, Confirm: certain})
			wantProblem(t, err, problem.Busy, busy)
		}
		return no
	}})
	wantProblem(t, err, problem.Usage, "not confirmed")

	// A rotation that came to light while a person was asked, in this folder or from another one.
	rotations := filepath.Join(d.dir, ".local/state/n8keep/rotations")
	away := filepath.Join(d.dir, "away")
	third := d.write("third", "Zq8vT3mK1xR7bN5wL9pD2sG6hJ4cF0aY")
	for name, do := range changes(d, io, third, func() error { return os.Rename(away, rotations) }) {
		t.Log(name)
		if err := os.Rename(rotations, away); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, do(ctx), problem.Busy, "is not finalised")
	}
}

// TestRestoreBesideAChange: the lock of a restore is that of its target, whatever the
// schema.
func TestRestoreBesideAChange(t *testing.T) {
	v := newVault(t)
	ctx, to := t.Context(), v.write("new", newKeyText)
	archive := v.archive(v.backup("", ""))
	no := problem.New(problem.Usage, "not confirmed")
	_, _, err := v.app().RotateInstance(ctx, v.instance, app.RotateOptions{NewKeyFile: to, NoBackup: true, Confirm: func(*api.RotationPlan) error {
		_, err := v.app().Restore(ctx, archive, v.key(), app.RestoreOptions{To: v.at(v.name()), Overwrite: true})
		wantProblem(t, err, problem.Busy, "another n8keep is changing the database postgres://")
		return no
	}})
	wantProblem(t, err, problem.Usage, "not confirmed")
}

// TestForgottenN8N: without a service, an n8n that runs is noticed before a backup is
// taken and a journal begun.
func TestForgottenN8N(t *testing.T) {
	v := newVault(t)
	ctx, to := t.Context(), v.write("new", newKeyText)
	target := filepath.Join(v.dir, "nothing-here")
	guest, err := pgx.Connect(ctx, v.source.String())
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close(ctx)
	plan, done, err := v.app().RotateInstance(ctx, v.instance, app.RotateOptions{NewKeyFile: to, Targets: []string{target}, Recipients: []string{v.identity.Recipient().String()},
		Identities: []age.Identity{v.identity}, Confirm: sure})
	wantProblem(t, err, problem.Busy, "the database is in use by session")
	wantProblem(t, err, problem.Busy, "nothing was done; or let n8keep stop and start n8n: --systemd UNIT")
	all, lerr := v.app().Rotations(ctx)
	if _, serr := os.Stat(target); plan == nil || done != nil || lerr != nil || len(all.Rotations) != 0 || !os.IsNotExist(serr) {
		t.Errorf("%+v %+v %v %v", done, all, lerr, serr)
	}
}

// TestForgottenN8NOnSQLite is the same with a file, which stays as it is.
func TestForgottenN8NOnSQLite(t *testing.T) {
	d := newDesk(t, "")
	file := filepath.Join(d.n8n, "database.sqlite")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	newKey := d.write("new", newKeyText)
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	n8n := server.URL
	_, done, err := d.app().RotateInstance(t.Context(), app.InstanceOptions{N8NDir: d.n8n}, app.RotateOptions{NewKeyFile: newKey, NoBackup: true,
		Hooks: app.HookOptions{HealthURL: n8n}, Confirm: sure})
	wantProblem(t, err, problem.Busy, "n8n answers at "+n8n+"/healthz")
	after, rerr := os.ReadFile(file)
	if all, lerr := d.app().Rotations(t.Context()); done != nil || lerr != nil || len(all.Rotations) != 0 || rerr != nil || string(after) != string(before) {
		t.Errorf("%+v %v %v", done, lerr, rerr)
	}
}
