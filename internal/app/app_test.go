package app_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// desk is a home folder with one n8n in it.
type desk struct {
	t    *testing.T
	dir  string
	n8n  string
	log  bytes.Buffer
	opts app.Options
}

const deskKey = "lab-key-2.41.1-0123456789abcdef"

func newDesk(t *testing.T, config string) *desk {
	t.Helper()
	d := &desk{t: t, dir: t.TempDir()}
	d.n8n = filepath.Join(d.dir, "n8n")
	if err := os.Mkdir(d.n8n, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config", "database.sqlite"} {
		b, err := os.ReadFile(filepath.Join("../../testdata/fixtures/2.41.1-sqlite", name))
		if err != nil {
			t.Fatal(err)
		}
		d.write(filepath.Join("n8n", name), string(b))
	}
	env := map[string]string{"HOME": d.dir}
	d.opts = app.Options{Version: "test", Env: func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		Logger: slog.New(slog.NewTextHandler(&d.log, nil)), ConfigFile: d.write("n8keep.yaml", strings.ReplaceAll(config, "DIR", d.dir))}
	return d
}

func (d *desk) write(name, content string) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

func (d *desk) app() *app.App {
	d.t.Helper()
	a, err := app.Open(d.opts)
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

func wantProblem(t *testing.T, err error, kind problem.Kind, text string) {
	t.Helper()
	if problem.KindOf(err) != kind || err == nil || !strings.Contains(err.Error()+"\n"+problem.HintOf(err), text) {
		t.Errorf("got %q %v (hint %q), want %q with %q", problem.KindOf(err), err, problem.HintOf(err), kind, text)
	}
}

func TestWhichInstance(t *testing.T) {
	const two = "instances:\n  prod:\n    n8n_dir: DIR/n8n\n  test:\n    n8n_dir: DIR/elsewhere\n"
	d := newDesk(t, two)
	for _, c := range []struct {
		opts app.InstanceOptions
		name string // of the census, or
		kind problem.Kind
		text string
	}{
		{opts: app.InstanceOptions{Name: "prod"}, name: "prod"},
		{opts: app.InstanceOptions{N8NDir: d.n8n}, name: "prod"}, // the folder says which one is meant
		{opts: app.InstanceOptions{N8NDir: d.n8n, Name: "mine"}, name: "mine"},
		{opts: app.InstanceOptions{}, kind: problem.Usage, text: "--instance"},
		{opts: app.InstanceOptions{Name: "other"}, kind: problem.NotFound, text: "other"},
		{opts: app.InstanceOptions{Name: "test"}, kind: problem.NotFound, text: "elsewhere"},
		{opts: app.InstanceOptions{Database: "postgres://u:hunter2@h/db"}, kind: problem.Usage, text: "password"},
	} {
		doc, err := d.app().Census(t.Context(), "census", c.opts, app.CensusOptions{})
		if c.name == "" {
			wantProblem(t, err, c.kind, c.text)
			if err != nil && strings.Contains(err.Error()+problem.HintOf(err), "hunter2") {
				t.Errorf("the password is in the error: %v", err)
			}
			continue
		}
		if err != nil || doc.Instance != c.name {
			t.Errorf("%+v: %v, %v", c.opts, doc, err)
		}
	}
}

func TestRecipients(t *testing.T) {
	d := newDesk(t, "")
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		keys, files []string
		text        string
		kind        problem.Kind
	}{
		{nil, nil, "no recipient", problem.Usage},
		{[]string{"age1nonsense"}, nil, "recipient number 1 is not an age public key", problem.Usage},
		{[]string{id.String()}, nil, "is an identity, which is secret", problem.Usage},
		{[]string{"# created: today\n" + id.String()}, nil, "is an identity, which is secret", problem.Usage},
		{[]string{" " + id.String()[:30]}, nil, "is an identity, which is secret", problem.Usage},
		{nil, []string{d.write("bad.txt", "what is this\n")}, "a line that is not an age public key", problem.Usage},
		{nil, []string{d.write("id.txt", id.String()+"\n")}, "a line that is not an age public key", problem.Usage},
		{nil, []string{filepath.Join(d.dir, "missing")}, "missing", problem.NotFound},
	} {
		_, err := d.app().BackupCreate(t.Context(), app.InstanceOptions{N8NDir: d.n8n}, app.BackupOptions{Targets: []string{filepath.Join(d.dir, "b")}, Recipients: c.keys, RecipientFiles: c.files})
		wantProblem(t, err, c.kind, c.text)
		if strings.Contains(fmt.Sprint(err, problem.HintOf(err)), id.String()[:30]) {
			t.Errorf("the identity is in the error: %v", err)
		}
	}
}

func TestIdentities(t *testing.T) {
	d := newDesk(t, "")
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	encrypt := func(armored bool) string {
		pass, err := age.NewScryptRecipient("correct horse")
		if err != nil {
			t.Fatal(err)
		}
		pass.SetWorkFactor(10)
		var b bytes.Buffer
		var out interface {
			Write([]byte) (int, error)
			Close() error
		} = nopCloser{&b}
		if armored {
			out = armor.NewWriter(&b)
		}
		w, err := age.Encrypt(out, pass)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(w, id)
		w.Close()
		out.Close()
		return b.String()
	}
	asked := 0
	ask := func(answer string) func(string) (secret.String, error) {
		return func(string) (secret.String, error) { asked++; return secret.NewString(answer), nil }
	}
	for _, c := range []struct {
		file, content, answer string
		kind                  problem.Kind
		text                  string
	}{
		{file: "plain", content: "# a comment\n" + id.String() + "\n"},
		{file: "locked", content: encrypt(false), answer: "correct horse"},
		{file: "armored", content: encrypt(true), answer: "correct horse"},
		{file: "wrong pass", content: encrypt(false), answer: "wrong", kind: problem.NoIdentity, text: "passphrase"},
		{file: "public", content: id.Recipient().String(), kind: problem.Usage, text: "holds no age identity"},
		{file: "empty", content: "", kind: problem.Usage, text: "holds no age identity"},
		{file: "damaged", content: id.String()[:40], kind: problem.Usage, text: "holds no age identity"},
	} {
		ids, err := app.Identities([]string{d.write(c.file, c.content)}, ask(c.answer))
		if c.text == "" {
			if err != nil || len(ids) != 1 {
				t.Errorf("%s: %v", c.file, err)
			}
			continue
		}
		wantProblem(t, err, c.kind, c.text)
		if c.content != "" && err != nil && strings.Contains(err.Error(), id.String()[:40]) {
			t.Errorf("%s: the identity is in the error", c.file)
		}
	}
	if asked != 3 {
		t.Errorf("asked for a passphrase %d times", asked)
	}
	_, err = app.Identities(nil, nil)
	wantProblem(t, err, problem.Usage, "--identity FILE")
	_, err = app.Identities([]string{filepath.Join(d.dir, "missing")}, nil)
	wantProblem(t, err, problem.NotFound, "missing")
}

type nopCloser struct{ *bytes.Buffer }

func (nopCloser) Close() error { return nil }

// TestAudit: what cannot be recorded is not restored; a backup goes on and warns.
func TestAudit(t *testing.T) {
	d := newDesk(t, "")
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	in := app.InstanceOptions{N8NDir: d.n8n, Name: "prod"}
	target := filepath.Join(d.dir, "backups")
	create := app.BackupOptions{Targets: []string{target}, Recipients: []string{id.Recipient().String()}}
	made, err := d.app().BackupCreate(t.Context(), in, create)
	if err != nil {
		t.Fatal(err)
	}
	arc := app.ArchiveOptions{Target: target, ID: made.ID, Identities: []age.Identity{id}}
	if _, err := d.app().BackupVerify(t.Context(), arc, in, backup.Secrets); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.dir, ".local", "state", "n8keep", "audit.jsonl")
	if lines, err := audit.Verify(path); err != nil || lines != 4 {
		t.Errorf("audit log: %d lines, %v", lines, err)
	}
	b, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(b, []byte(`"backup create"`)) || !bytes.Contains(b, []byte(`"prod"`)) || bytes.Contains(b, []byte(deskKey)) {
		t.Errorf("audit log: %s, %v", b, err)
	}

	// A broken log: somebody changed its last line.
	if err := os.WriteFile(path, append(b[:len(b)-20], "xxxxxxxxxxxxxxxxxxx\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(d.dir, "restored")
	if _, err := d.app().Restore(t.Context(), arc, in, app.RestoreOptions{To: to}); err == nil {
		t.Error("restored without a record")
	}
	if _, err := os.Stat(to); !os.IsNotExist(err) {
		t.Errorf("a restore that was not recorded wrote something: %v", err)
	}
	d.log.Reset()
	if _, err := d.app().BackupCreate(t.Context(), in, create); err != nil {
		t.Errorf("a backup that could not be recorded failed: %v", err)
	}
	if !strings.Contains(d.log.String(), "audit") {
		t.Errorf("no warning: %s", d.log.String())
	}
}
