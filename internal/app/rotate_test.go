package app_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

const newKeyText = "9f1c7be2405ad3860e7b94c1d8f2a35067be91d4c8f3520a6d1e7b94f0c2a358"

// opens is how many values of the instance a key opens; -1 for none.
func (d *desk) opens(io app.InstanceOptions, keyFile string) int64 {
	d.t.Helper()
	io.KeyFile = keyFile
	doc, err := d.app().Census(d.t.Context(), "census", io, app.CensusOptions{NoSweep: true})
	if problem.KindOf(err) == problem.WrongKey {
		return -1
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return doc.Totals.Opened
}

func sure(*api.RotationPlan) error     { return nil }
func certain(*api.Rotation) error      { return nil }
func agreed(*api.Reencryption) error   { return nil }
func settled(*api.DataKeyChange) error { return nil }

// TestRotatePostgres: there, refused beside others, back, there again, finalised; and
// the archive of before into another database.
func TestRotatePostgres(t *testing.T) {
	v := newVault(t)
	ctx, old, to := t.Context(), filepath.Join(v.dir, "key"), v.write("new", newKeyText)
	target := filepath.Join(v.dir, "backups")
	io := v.instance
	values := v.opens(io, old)
	o := app.RotateOptions{NewKeyFile: to, Targets: []string{target}, Recipients: []string{v.identity.Recipient().String()}, Identities: []age.Identity{v.identity}, Confirm: sure}

	// Somebody comes while the backup is taken: it was, and nothing was changed.
	u := *v.source
	var guest *pgx.Conn
	var once sync.Once
	confirmed := false
	v.opts.Progress = func(string, int64, int64) {
		if !confirmed {
			return
		}
		once.Do(func() { // several at once show progress
			var err error
			if guest, err = pgx.Connect(ctx, u.String()); err != nil {
				t.Error(err)
			}
		})
	}
	come := o
	come.Confirm = func(*api.RotationPlan) error { confirmed = true; return nil }
	_, first, err := v.app().RotateInstance(ctx, io, come)
	wantProblem(t, err, problem.Busy, "rotate resume")
	if guest == nil {
		t.Fatal("no progress was shown")
	}
	guest.Close(ctx)
	v.opts.Progress = nil
	if first == nil || first.State == "verified" || v.opens(io, old) != values {
		t.Fatalf("%+v", first)
	}
	done, err := v.app().RotateResume(ctx, app.JournalOptions{ID: first.ID, Confirm: certain})
	if err != nil || done.State != "verified" || done.Values == 0 || done.Backup == nil || !done.Backup.Taken {
		t.Fatalf("%+v %v", done, err)
	}
	if v.opens(io, to) != values || v.opens(io, old) != -1 {
		t.Errorf("opened %d and %d, want %d and none", v.opens(io, to), v.opens(io, old), values)
	}
	arc := app.ArchiveOptions{Target: target, ID: done.Backup.ID, Identities: []age.Identity{v.identity}}

	// As long as there is a way back, nothing else changes the database.
	withNew := io
	withNew.KeyFile = to
	_, _, err = v.app().RotateInstance(ctx, withNew, o)
	wantProblem(t, err, problem.Busy, `rotation "`+done.ID+`" of this database is not finalised`)
	_, err = v.app().Restore(ctx, arc, io, app.RestoreOptions{To: v.at(v.name()), Overwrite: true})
	wantProblem(t, err, problem.Busy, "rotate rollback "+done.ID)
	_, err = v.app().Reencrypt(ctx, withNew, app.ReencryptOptions{To: "active", Flag: "on", Confirm: agreed})
	wantProblem(t, err, problem.Busy, "is not finalised")
	_, err = v.app().DataKeyRotate(ctx, withNew, app.DataKeyOptions{Confirm: settled})
	wantProblem(t, err, problem.Busy, "is not finalised")
	_, err = v.app().DataKeyRetire(ctx, withNew, app.DataKeyOptions{ID: "x", Confirm: settled})
	wantProblem(t, err, problem.Busy, "is not finalised")

	// Back, after n8n has saved something with the new key, and deleted something.
	v.run(v.name(), `DELETE FROM credentials_entity WHERE id = (SELECT min(id) FROM credentials_entity)`)
	back, err := v.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, Confirm: certain})
	if err != nil || back.State != "rolled-back" || back.Rollback == nil || back.Rollback.Gone != 1 || back.Rollback.Restored == 0 {
		t.Fatalf("%+v %v", back, err)
	}
	if got := v.opens(io, old); got != values-1 {
		t.Errorf("opened %d, want %d", got, values-1)
	}

	// There again, by n8n's own variables, and to the end.
	password, _ := u.User.Password()
	for name, value := range map[string]string{"DB_TYPE": "postgresdb", "DB_POSTGRESDB_HOST": u.Hostname(), "DB_POSTGRESDB_PORT": u.Port(), "DB_POSTGRESDB_DATABASE": u.Path[1:], "DB_POSTGRESDB_PASSWORD": password} {
		v.env[name] = value
	}
	fromEnv := app.InstanceOptions{Name: "prod", N8NDir: v.n8n}
	o.Finalise, o.BackupYoungerThan = true, time.Nanosecond
	_, done, err = v.app().RotateInstance(ctx, fromEnv, o)
	if err != nil || done.State != "finalised" || done.Fresh == nil || len(done.NeedOldKey) != 2 {
		t.Fatalf("%+v %v", done, err)
	}
	v.env["DB_POSTGRESDB_DATABASE"] = "postgres"
	if doc, err := v.app().RotationStatus(ctx, done.ID[:8]); problem.KindOf(err) != problem.Usage {
		t.Errorf("two rotations begin so: %+v %v", doc, err)
	}
	b, err := os.ReadFile(filepath.Join(v.dir, ".local/state/n8keep/keyring.json"))
	if err != nil || !bytes.Contains(b, []byte(done.OldKey.Fingerprint)) || bytes.Contains(b, []byte(newKeyText)) {
		t.Errorf("%s %v", b, err)
	}
	if _, err := v.app().Restore(ctx, arc, io, app.RestoreOptions{To: v.at("rotated_restored")}); err != nil {
		t.Fatal(err)
	}
	if got := v.opens(app.InstanceOptions{Name: "x", Database: v.at("rotated_restored")}, old); got != values {
		t.Errorf("opened %d, want %d", got, values)
	}
	if strings.Contains(v.log.String(), newKeyText) {
		t.Error("the new key was logged")
	}
}

// A journal leads back to its database, or nothing is touched.
func TestJournalOfAnotherDatabase(t *testing.T) {
	d := newDesk(t, "instances:\n  prod:\n    n8n_dir: DIR/n8n\n    key: file:key\n")
	d.write("key", deskKey)
	to := d.write("new", newKeyText)
	ctx := t.Context()
	plan, done, err := d.app().RotateInstance(ctx, app.InstanceOptions{}, app.RotateOptions{NewKeyFile: to, NoBackup: true, Confirm: sure})
	if err != nil || plan.Backup != "none: you accept the risk" || done.State != "verified" {
		t.Fatalf("%+v %v", done, err)
	}
	if todo := strings.Join(done.Do, "\n"); !strings.Contains(todo, "n8keep.yaml names the old key for prod (file:") {
		t.Errorf("to do: %q", todo)
	}
	moved := filepath.Join(d.dir, "moved")
	if err := os.Rename(d.n8n, moved); err != nil {
		t.Fatal(err)
	}
	_, err = d.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, Confirm: certain})
	wantProblem(t, err, problem.NotFound, "n8n")
	if err := os.Mkdir(d.n8n, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(moved, d.n8n+"/sub"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(d.n8n, "sub", "database.sqlite"), filepath.Join(d.n8n, "database.sqlite")); err != nil {
		t.Fatal(err)
	}
	_, err = d.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, Confirm: certain})
	wantProblem(t, err, problem.Usage, "what the journal leads to now is")
	wantProblem(t, err, problem.Usage, "nothing was touched; name the database with --database")
	_, err = d.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, KeyFile: filepath.Join(d.dir, "nosuch"), Confirm: certain})
	wantProblem(t, err, problem.Usage, "leads to now")
	if _, err := d.app().RotateRollback(ctx, app.JournalOptions{ID: "nosuch", Confirm: certain}); problem.KindOf(err) != problem.NotFound {
		t.Error(err)
	}
}

// TestRotationIsRecorded: what cannot be recorded is not done.
func TestRotationIsRecorded(t *testing.T) {
	d := newDesk(t, "")
	io := app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}
	to := d.write("new", newKeyText)
	state := filepath.Join(d.dir, ".local/state/n8keep")
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	d.write(".local/state/n8keep/audit.jsonl", "xxxxxxxxxxxx\n")
	before, err := os.ReadFile(filepath.Join(d.n8n, "database.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, do := range map[string]func() error{
		"rotate instance": func() error {
			_, _, err := d.app().RotateInstance(ctx, io, app.RotateOptions{NewKeyFile: to, NoBackup: true, Confirm: sure})
			return err
		},
		"reencrypt": func() error {
			_, err := d.app().Reencrypt(ctx, io, app.ReencryptOptions{To: "active", Flag: "on", Confirm: agreed})
			return err
		},
		"data-key rotate": func() error {
			_, err := d.app().DataKeyRotate(ctx, io, app.DataKeyOptions{Confirm: settled})
			return err
		},
		"data-key retire": func() error {
			_, err := d.app().DataKeyRetire(ctx, io, app.DataKeyOptions{ID: "x", Confirm: settled})
			return err
		},
	} {
		if err := do(); err == nil || !strings.Contains(fmt.Sprint(err), "audit") {
			t.Errorf("%s: done without a record: %v", name, err)
		}
	}
	if after, err := os.ReadFile(filepath.Join(d.n8n, "database.sqlite")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the database was changed: %v", err)
	}
	if _, err := os.Stat(filepath.Join(state, "rotations")); !os.IsNotExist(err) {
		t.Errorf("a rotation was begun: %v", err)
	}
	// What only reads goes on.
	if _, err := d.app().DataKeyList(ctx, io, app.DataKeyOptions{}); err != nil {
		t.Error(err)
	}
	if _, _, err := d.app().RotateInstance(ctx, io, app.RotateOptions{NewKeyFile: to, NoBackup: true, DryRun: true}); err != nil {
		t.Error(err)
	}
}

// What a person does not confirm is not done, and leaves no rotation.
func TestRotationNotConfirmed(t *testing.T) {
	d := newDesk(t, "")
	to := d.write("new", newKeyText)
	no := problem.New(problem.Usage, "not confirmed, nothing was done")
	_, done, err := d.app().RotateInstance(t.Context(), app.InstanceOptions{N8NDir: d.n8n}, app.RotateOptions{NewKeyFile: to, NoBackup: true, Confirm: func(*api.RotationPlan) error { return no }})
	wantProblem(t, err, problem.Usage, "not confirmed")
	all, lerr := d.app().Rotations(t.Context())
	if done != nil || lerr != nil || len(all.Rotations) != 0 {
		t.Errorf("%+v %+v %v", done, all, lerr)
	}
}
