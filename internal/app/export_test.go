package app_test

import (
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
)

func TestExportsIntoOneFolder(t *testing.T) {
	d := newDesk(t, "")
	d.opts.StateDir = filepath.Join(d.dir, "state")
	flows := app.ExportOptions{Workflows: filepath.Join(d.dir, "flows")}
	io := app.InstanceOptions{N8NDir: d.n8n}
	if _, err := d.app().Export(t.Context(), io, flows); err != nil {
		t.Fatal(err)
	}
	locks, err := filepath.Glob(filepath.Join(d.opts.StateDir, "locks", "export-*.lock"))
	if err != nil || len(locks) != 1 {
		t.Fatalf("locks %q, %v", locks, err)
	}
	lock, err := durable.TryLock(locks[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.app().Export(t.Context(), io, flows)
	wantProblem(t, err, problem.Busy, `another export into "`+flows.Workflows+`" is under way`)
	// The same folder by another name, and another folder.
	if err := os.Symlink(flows.Workflows, filepath.Join(d.dir, "link")); err != nil {
		t.Fatal(err)
	}
	_, err = d.app().Export(t.Context(), io, app.ExportOptions{Workflows: filepath.Join(d.dir, "link")})
	wantProblem(t, err, problem.Busy, "wait for it, then run this again")
	if _, err := d.app().Export(t.Context(), io, app.ExportOptions{Workflows: filepath.Join(d.dir, "other")}); err != nil {
		t.Error(err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}

	d.opts.StateDir = d.write("a-file", "")
	_, err = d.app().Export(t.Context(), io, flows)
	wantProblem(t, err, problem.Unexpected, "choose another state folder with --state-dir")
}

// TestExportOfBoth: what went well is told beside what did not.
func TestExportOfBoth(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(t, "recipients: ["+id.Recipient().String()+"]\n")
	d.opts.StateDir = filepath.Join(d.dir, "state")
	both := app.ExportOptions{Workflows: filepath.Join(d.dir, "flows"), Credentials: true, Out: filepath.Join(d.dir, "c.age")}
	doc, err := d.app().Export(t.Context(), app.InstanceOptions{N8NDir: d.n8n}, both)
	if err != nil || doc.Workflows.New != 5 || doc.Credentials.Credentials != 15 || doc.Credentials.RecipientKind != "x25519" {
		t.Fatalf("%+v %v", doc, err)
	}
	both.Out = filepath.Join(d.dir, "wrong.age")
	doc, err = d.app().Export(t.Context(), app.InstanceOptions{N8NDir: d.n8n, KeyFile: d.write("key", "another key of 32 characters....")}, both)
	wantProblem(t, err, problem.WrongKey, "the instance key opens none of 15 credentials")
	wantProblem(t, err, problem.WrongKey, "the key came from --key-file")
	if doc == nil || doc.Workflows == nil || doc.Workflows.Unchanged != 5 || doc.Credentials != nil {
		t.Errorf("%+v", doc)
	}
	both.Out = filepath.Join(d.dir, "c.age")
	doc, err = d.app().Export(t.Context(), app.InstanceOptions{N8NDir: d.n8n}, app.ExportOptions{Credentials: true, Out: both.Out})
	wantProblem(t, err, problem.Usage, "exists already")
	if doc != nil {
		t.Errorf("%+v", doc)
	}
}
