package app_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestVerifyScratch: both engines, beside the database that is there; nothing is left.
func TestVerifyScratch(t *testing.T) {
	v := newVault(t)
	id := ""
	for engine, history := range map[string]string{"pg_dump": "30d", "native": "none"} {
		id = v.backup(engine, history)
		doc, err := v.app().BackupVerifyScratch(t.Context(), v.archive(id), v.key(), v.at(v.name()))
		if err != nil {
			t.Fatalf("%s: %v\n%s", engine, err, problem.HintOf(err))
		}
		plain, err := v.app().BackupVerify(t.Context(), v.archive(id), v.key(), backup.Secrets)
		if err != nil || plain.SecretsOpened != doc.SecretsOpened || doc.SecretsOpened < 15 || plain.Entries != doc.Entries || plain.Scratch != "" {
			t.Errorf("%s: %+v, and without a server %+v, %v", engine, doc, plain, err)
		}
		if doc.Scratch != "postgres://postgres@"+v.source.Host || len(doc.Warnings) > 0 {
			t.Errorf("%s: scratch %q, %q", engine, doc.Scratch, doc.Warnings)
		}
		if got := v.databases(); len(got) != 1 {
			t.Errorf("%s left %q", engine, got)
		}
	}
	// Interrupted as soon as the database is there.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	v.opts.Logger = slog.New(slog.NewTextHandler(cancelOn{"database created", cancel, &v.log}, nil))
	v.log.Reset()
	if _, err := v.app().BackupVerifyScratch(ctx, v.archive(id), v.key(), v.at(v.name())); !errors.Is(err, context.Canceled) || !strings.Contains(v.log.String(), "database dropped") {
		t.Errorf("%v\n%s", err, v.log.String())
	}
	if got := v.databases(); len(got) != 1 {
		t.Errorf("left %q", got)
	}
	left, err := os.ReadDir(filepath.Join(v.dir, ".local/state/n8keep/work"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the work folder: %v, %v", left, err)
	}
}

// cancelOn is a log that cancels at a message.
type cancelOn struct {
	message string
	cancel  context.CancelFunc
	io.Writer
}

func (c cancelOn) Write(p []byte) (int, error) {
	if strings.Contains(string(p), c.message) {
		c.cancel()
	}
	return c.Writer.Write(p)
}

func TestVerifyScratchRefused(t *testing.T) {
	v := newVault(t)
	id := v.backup("native", "none")
	for name, c := range map[string]struct {
		address string
		io      app.InstanceOptions
		kind    problem.Kind
		text    string
	}{
		"a folder":   {v.n8n, v.key(), problem.Usage, "--scratch postgres://USER@HOST:5432/DATABASE"},
		"a password": {"postgres://u:hunter2secret@h/db", v.key(), problem.Usage, "the address holds a password"},
		"nobody":     {"postgres://u@127.0.0.1:1/db", v.key(), problem.Unreachable, "cannot connect"},
		"wrong key":  {v.at("postgres"), app.InstanceOptions{KeyFile: v.write("other", "another-key-0123456789")}, problem.WrongKey, "wrong instance key"},
	} {
		_, err := v.app().BackupVerifyScratch(t.Context(), v.archive(id), c.io, c.address)
		wantProblem(t, err, c.kind, c.text)
		if err != nil && strings.Contains(err.Error()+problem.HintOf(err), "hunter2") {
			t.Errorf("%s: the password is in %v", name, err)
		}
	}
	if got := v.databases(); len(got) != 1 {
		t.Errorf("made %q", got)
	}
	// SQLite needs no server.
	lite := newDesk(t, "")
	in := app.InstanceOptions{Name: "lite", N8NDir: lite.n8n}
	targets := filepath.Join(lite.dir, "archives")
	for part, text := range map[string]string{"": "holds an SQLite database, and --scratch is for PostgreSQL", "workflows": "holds no database"} {
		made, err := lite.app().BackupCreate(t.Context(), in, app.BackupOptions{Targets: []string{targets}, Recipients: []string{v.identity.Recipient().String()}, Only: part})
		if err != nil {
			t.Fatal(err)
		}
		_, err = lite.app().BackupVerifyScratch(t.Context(), app.ArchiveOptions{Target: targets, ID: made.ID, Identities: []age.Identity{v.identity}}, in, "postgres://u@127.0.0.1:1/db")
		wantProblem(t, err, problem.Usage, text)
	}
}
