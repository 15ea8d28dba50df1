package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/state"
)

// withArchives is a desk with archives of one instance in DIR/backups.
func withArchives(t *testing.T, n int, config string) (d *desk, ids []string) {
	t.Helper()
	d = newDesk(t, "targets:\n  local:\n    path: DIR/backups\n"+config)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		a := d.app()
		doc, err := a.BackupCreate(t.Context(), app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}, app.BackupOptions{Recipients: []string{id.Recipient().String()}})
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		ids = append(ids, doc.ID)
	}
	return d, ids
}

func yes(*api.Prune) error { return nil }

// TestStateThatCannotBeOpened: what only reads goes on and says so; a prune, which
// relies on what is remembered, does not.
func TestStateThatCannotBeOpened(t *testing.T) {
	d, ids := withArchives(t, 2, "")
	path := filepath.Join(d.app().StateDir, state.FileName)
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	docs, err := d.app().BackupList(t.Context(), app.ArchiveOptions{}, nil)
	if err != nil || len(docs) != 2 || !strings.Contains(d.log.String(), "nothing is remembered of this target") {
		t.Errorf("%v %v %s", docs, err, &d.log)
	}
	if _, err := d.app().BackupVerify(t.Context(), app.ArchiveOptions{ID: ids[0]}, app.InstanceOptions{}, backup.Quick); err != nil || !strings.Contains(d.log.String(), "the verification is not remembered") {
		t.Errorf("%v %s", err, &d.log)
	}
	_, err = d.app().BackupPrune(t.Context(), app.ArchiveOptions{}, app.PruneOptions{Confirm: yes})
	wantProblem(t, err, problem.Unexpected, "opening the state database")
	_, err = d.app().BackupSample(t.Context(), app.ArchiveOptions{}, app.InstanceOptions{}, "1", backup.Quick)
	wantProblem(t, err, problem.Unexpected, "opening the state database")
}

func TestPruneRefusals(t *testing.T) {
	d, _ := withArchives(t, 2, "retention:\n  archives:\n    last: 1\n")
	a := d.app()
	defer a.Close()
	there := func() int {
		t.Helper()
		docs, err := a.BackupList(t.Context(), app.ArchiveOptions{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return len(docs)
	}

	// Somebody says no.
	no := problem.New(problem.Usage, "not confirmed")
	if _, err := a.BackupPrune(t.Context(), app.ArchiveOptions{}, app.PruneOptions{Confirm: func(*api.Prune) error { return no }}); err != no {
		t.Errorf("got %v", err)
	}
	// Another prune is under way.
	if err := os.MkdirAll(filepath.Join(a.StateDir, "locks"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := durable.TryLock(filepath.Join(a.StateDir, "locks", "_prune.lock"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.BackupPrune(t.Context(), app.ArchiveOptions{}, app.PruneOptions{Confirm: yes})
	wantProblem(t, err, problem.Busy, "another prune is under way on this host")
	lock.Unlock()
	// A year ahead.
	d.opts.Now = func() time.Time { return time.Now().AddDate(1, 0, 0) }
	ahead := d.app()
	defer ahead.Close()
	_, err = ahead.BackupPrune(t.Context(), app.ArchiveOptions{}, app.PruneOptions{Confirm: yes})
	wantProblem(t, err, problem.Usage, "--accept-clock")
	// It cannot be recorded.
	d.opts.Now = nil
	log := filepath.Join(a.StateDir, "audit.jsonl")
	if err := os.Rename(log, log+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(log, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err = d.app().BackupPrune(t.Context(), app.ArchiveOptions{}, app.PruneOptions{Confirm: yes}); err == nil {
		t.Error("pruned without a record")
	}
	if n := there(); n != 2 {
		t.Fatalf("%d archives are left", n)
	}

	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(log+".kept", log); err != nil {
		t.Fatal(err)
	}
	doc, err := a.BackupPrune(t.Context(), app.ArchiveOptions{}, app.PruneOptions{Confirm: yes})
	if err != nil || doc.Removed != 1 || doc.Policy["archives"].Last != 1 || doc.Policy["workflows"].Daily != 30 || there() != 1 {
		t.Errorf("%+v %v", doc, err)
	}
}
