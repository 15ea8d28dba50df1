package app_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestSameServerDatabase: a database is the same one under every address, while a
// rotation of it is open and while somebody is asked.
func TestSameServerDatabase(t *testing.T) {
	v := newVault(t)
	ctx, to := t.Context(), v.write("new", newKeyText)
	archive := v.archive(v.backup("", ""))
	host, socket := *v.source, *v.source
	host.Host = "localhost:" + v.source.Port()
	socket.Host, socket.RawQuery = "", "sslmode=disable&host="+url.QueryEscape(v.run(v.name(), "SHOW unix_socket_directories"))+"&port="+v.source.Port()
	others := []string{withoutPassword(&host), withoutPassword(&socket)}
	no := problem.New(problem.Usage, "not confirmed")
	asked := false
	_, _, err := v.app().RotateInstance(ctx, v.instance, app.RotateOptions{NewKeyFile: to, NoBackup: true, Confirm: func(*api.RotationPlan) error {
		asked = true
		for _, address := range others {
			io := v.instance
			io.Database = address
			for name, do := range changes(v.desk, io, to, func() error { t.Error("asked"); return no }) {
				t.Log(name, address)
				wantProblem(t, do(ctx), problem.Busy, "another n8keep is changing the database postgres://")
			}
			_, err := v.app().Restore(ctx, archive, v.key(), app.RestoreOptions{To: address, Overwrite: true})
			wantProblem(t, err, problem.Busy, "another n8keep is changing the database postgres://")
		}
		return no
	}})
	if wantProblem(t, err, problem.Usage, "not confirmed"); !asked {
		t.Fatal("not asked")
	}
	_, done, err := v.app().RotateInstance(ctx, v.instance, app.RotateOptions{NewKeyFile: to, NoBackup: true, Confirm: sure})
	if err != nil || done.State != "verified" {
		t.Fatalf("%+v %v", done, err)
	}
	const busy, same = "is not finalised", "it was begun as postgres://127.0.0.1:"
	for _, address := range others {
		io := v.instance
		io.Database, io.KeyFile = address, to
		for name, do := range changes(v.desk, io, filepath.Join(v.dir, "key"), func() error { t.Error("asked"); return no }) {
			t.Log(name, address)
			err := do(ctx)
			wantProblem(t, err, problem.Busy, busy)
			wantProblem(t, err, problem.Busy, same)
		}
		_, err := v.app().DataKeyRetire(ctx, io, app.DataKeyOptions{ID: "x", Confirm: settled})
		wantProblem(t, err, problem.Busy, same)
		for _, dry := range []bool{true, false} {
			_, err = v.app().Restore(ctx, archive, v.key(), app.RestoreOptions{To: address, Overwrite: true, DryRun: dry})
			wantProblem(t, err, problem.Busy, same)
		}
		doc, err := v.app().InstanceStatus(ctx, io, app.ArchiveOptions{Target: filepath.Join(v.dir, "archives")})
		if err != nil || !slices.ContainsFunc(doc.Problems, func(p string) bool { return strings.Contains(p, busy) }) {
			t.Errorf("%+v %v", doc, err)
		}
	}
	// It is gone on with under another address, too, by one process at a time.
	_, err = v.app().RotateFinalise(ctx, app.JournalOptions{ID: done.ID, Database: others[1], NoBackup: true, Confirm: func(*api.Rotation) error {
		io := v.instance
		io.Database = others[0]
		for name, do := range changes(v.desk, io, to, func() error { t.Error("asked"); return no }) {
			t.Log(name)
			wantProblem(t, do(ctx), problem.Busy, "another n8keep is changing the database")
		}
		return no
	}})
	wantProblem(t, err, problem.Usage, "not confirmed")
	if back, err := v.app().RotateRollback(ctx, app.JournalOptions{ID: done.ID, Database: others[0], Confirm: certain}); err != nil || back.State != "rolled-back" {
		t.Errorf("%+v %v", back, err)
	}
}

// TestServerThatDoesNotSay: where the server does not say which database it is, its
// address is all there is, and that is said.
func TestServerThatDoesNotSay(t *testing.T) {
	v := newVault(t)
	ctx, to := t.Context(), v.write("new", newKeyText)
	v.run(v.name(), "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
	v.run(v.name(), "CREATE ROLE plain LOGIN PASSWORD 'plain-secret'")
	defer v.run("postgres", "DROP ROLE plain")
	v.run(v.name(), "GRANT ALL ON ALL TABLES IN SCHEMA public TO plain; ")
	defer v.run(v.name(), "DROP OWNED BY plain")
	u := *v.source
	u.User = url.User("plain")
	v.env["PGPASSWORD"] = "plain-secret"
	io := v.instance
	io.Database = u.String()
	const doubt = "the server does not say which one it is (this user may not call pg_control_system"
	warned := func(warnings []string) {
		t.Helper()
		if !slices.ContainsFunc(warnings, func(w string) bool { return strings.Contains(w, doubt) }) {
			t.Errorf("%q", warnings)
		}
	}
	plan, _, err := v.app().RotateInstance(ctx, io, app.RotateOptions{NewKeyFile: to, NoBackup: true, DryRun: true})
	if plan == nil {
		t.Fatal(err)
	}
	warned(plan.Warnings)
	doc, err := v.app().DataKeyRotate(ctx, io, app.DataKeyOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	warned(doc.Warnings)
	moved, err := v.app().Reencrypt(ctx, io, app.ReencryptOptions{To: "active", Flag: "on", DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	warned(moved.Warnings)
}

// TestSameFile: a hard link and a folder elsewhere that holds it are the same database.
func TestSameFile(t *testing.T) {
	d := newDesk(t, "")
	ctx, to := t.Context(), d.write("new", newKeyText)
	link := filepath.Join(d.dir, "linked", "database.sqlite")
	if err := os.Mkdir(filepath.Dir(link), 0o700); err != nil {
		t.Fatal(err)
	}
	_, done, err := d.app().RotateInstance(ctx, app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}, app.RotateOptions{NewKeyFile: to, NoBackup: true, Confirm: sure})
	if err != nil || done.State != "verified" {
		t.Fatalf("%+v %v", done, err)
	}
	if err := os.Link(filepath.Join(d.n8n, "database.sqlite"), link); err != nil {
		t.Fatal(err)
	}
	io := app.InstanceOptions{Database: link, KeyFile: to, Name: "linked"}
	no := problem.New(problem.Usage, "not confirmed")
	all := changes(d, io, d.write("third", "Zq8vT3mK1xR7bN5wL9pD2sG6hJ4cF0aY"), func() error { t.Error("asked"); return no })
	all["data-key retire"] = func(ctx context.Context) error {
		_, err := d.app().DataKeyRetire(ctx, io, app.DataKeyOptions{ID: "x", Confirm: settled})
		return err
	}
	for name, do := range all {
		t.Log(name)
		wantProblem(t, do(ctx), problem.Busy, "is not finalised")
		wantProblem(t, do(ctx), problem.Busy, "it was begun as "+filepath.Join(d.n8n, "database.sqlite"))
	}
}
