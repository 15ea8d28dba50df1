//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/labn8n"
	"github.com/n8keep/n8keep/internal/pgtest"
)

// program is the n8keep under test.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if len(os.Args) == 3 && os.Args[1] == "helm" {
		return steer(os.Args[2])
	}
	program = os.Getenv("N8KEEP_BIN")
	if program == "" {
		dir, err := os.MkdirTemp("", "n8keep-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "n8keep")
		cmd := exec.Command("go", "build", "-trimpath", "-o", program, "../cmd/n8keep")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building n8keep: %v\n%s", err, out)
			return 1
		}
	}
	return pgtest.Main(m)
}

// keeper runs n8keep as one user with one target, one identity and one instance, and looks for leaks in all it says.
type keeper struct {
	home, target                           string
	identity, recipient, keyFile, wrongKey string
	key, version                           string
	facts                                  *labn8n.Facts
	secrets                                []string
	env                                    []string // what n8keep sees of n8n's environment
}

func newKeeper(t *testing.T, in labn8n.Instance, facts *labn8n.Facts) *keeper {
	t.Helper()
	home := t.TempDir()
	k := &keeper{
		home: home, target: filepath.Join(home, "backups"),
		identity: filepath.Join(home, "identity.txt"), keyFile: filepath.Join(home, "key"), wrongKey: filepath.Join(home, "wrong-key"),
		key: in.Key(t), version: in.Version, facts: facts,
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	k.recipient = id.Recipient().String()
	k.secrets = append(facts.Secrets(), k.key, id.String())
	write := func(file, content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(k.identity, id.String()+"\n")
	write(k.keyFile, k.key+"\n")
	if err := os.Mkdir(k.target, 0o700); err != nil {
		t.Fatal(err)
	}
	k.run(t, 0, "key", "generate", "--out", k.wrongKey)
	return k
}

// run is one call of n8keep that must end with the code; it returns the JSON document on stdout.
func (k *keeper) run(t *testing.T, code int, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = k.home
	cmd.Env = slices.Concat([]string{"PATH=/usr/bin:/bin", "HOME=" + k.home, "XDG_CONFIG_HOME=" + k.home + "/config", "XDG_STATE_HOME=" + k.home + "/state", "TMPDIR=" + t.TempDir()}, k.env)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("n8keep %q: %v", args, err)
	}
	said := fmt.Sprintf("n8keep %q\nstdout: %sstderr: %s", args, &stdout, &stderr)
	for _, s := range k.secrets {
		if bytes.Contains(stdout.Bytes(), []byte(s)) || bytes.Contains(stderr.Bytes(), []byte(s)) {
			t.Errorf("a secret is in the output: %s", said)
		}
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("exit %d, want %d: %s", got, code, said)
	}
	if slices.Contains(args, "--json") && !json.Valid(stdout.Bytes()) {
		t.Fatalf("stdout is not one JSON document: %s", said)
	}
	if code >= 10 && slices.Contains(args, "--json") {
		var doc struct {
			Error struct {
				Kind, Message, Hint string
				Exit                int
			}
		}
		if err := json.Unmarshal(stdout.Bytes(), &doc); err != nil || doc.Error.Exit != code || doc.Error.Message == "" || doc.Error.Kind == "" {
			t.Errorf("no error document for exit %d: %s", code, said)
		}
	}
	return stdout.Bytes()
}

// backup makes one while w, if any, writes.
func (k *keeper) backup(t *testing.T, in labn8n.Instance, w *writer, flags ...string) taken {
	t.Helper()
	var b taken
	if w != nil {
		b.lo, _ = w.made.get()
	}
	args := append([]string{"backup", "create", "--n8n-dir", in.Dir(), "--recipient", k.recipient, "--target", k.target, "--json"}, flags...)
	var doc struct{ ID, State string }
	decode(t, k.run(t, 0, args...), &doc)
	if w != nil {
		b.hi, _ = w.begun.get()
	}
	if doc.ID == "" {
		t.Fatalf("backup create names no id: %+v", doc)
	}
	b.id = doc.ID
	return b
}

// listing is one element of "backup list --json".
type listing struct {
	ID             string
	Instance       string
	Time           time.Time
	State          string
	Size           int64
	N8NVersion     string `json:"n8n_version"`
	KeyFingerprint string `json:"key_fingerprint"`
}

func (k *keeper) list(t *testing.T) []listing {
	t.Helper()
	var all []listing
	decode(t, k.run(t, 0, "backup", "list", "--target", k.target, "--json"), &all)
	return all
}

// listed checks that the target lists exactly these, newest first. Times have whole seconds, so the order within one is open.
func (k *keeper) listed(t *testing.T, want ...taken) {
	t.Helper()
	all := k.list(t)
	got, made := map[string]bool{}, map[string]bool{}
	for i, l := range all {
		got[l.ID] = true
		if l.Instance == "" || l.Time.IsZero() || l.State != "good" || l.Size <= 0 || l.N8NVersion == "" || !strings.HasPrefix(l.KeyFingerprint, "n8k1-") {
			t.Errorf("listed with a gap: %+v", l)
		}
		if i > 0 && l.Time.After(all[i-1].Time) {
			t.Errorf("%s is listed after the older %s", l.ID, all[i-1].ID)
		}
	}
	for _, b := range want {
		made[b.id] = true
	}
	if diff := cmp.Diff(made, got); diff != "" {
		t.Errorf("archives (-made +listed):\n%s", diff)
	}
}

func (k *keeper) verify(t *testing.T, b taken, level string) {
	t.Helper()
	k.run(t, 0, "backup", "verify", b.id, "--target", k.target, "--level", level, "--identity", k.identity, "--key-file", k.keyFile, "--json")
}

func (k *keeper) restoreArgs(b taken, to string, flags ...string) []string {
	return append([]string{"restore", b.id, "--target", k.target, "--identity", k.identity, "--key-file", k.keyFile, "--to", to, "--json"}, flags...)
}

func safetyCopies(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "database.sqlite.before-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func decode(t *testing.T, doc []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(doc, into); err != nil {
		t.Fatalf("decoding %s: %v", doc, err)
	}
}

// census checks that n8keep finds the secrets that were seeded where n8n keeps them, all of them open.
func (k *keeper) census(t *testing.T, in labn8n.Instance) {
	t.Helper()
	var doc api.Census
	decode(t, k.run(t, 0, "census", "--n8n-dir", in.Dir(), "--json"), &doc)
	if doc.Totals.Failed != 0 || len(doc.Failures) != 0 || len(doc.Unlisted) != 0 {
		t.Errorf("census: %+v", doc)
	}
	if doc.N8NVersion == "" || doc.LastMigration == "" || !strings.HasPrefix(doc.KeyFingerprint, "n8k1-") {
		t.Errorf("census with a gap: %+v", doc)
	}
	opened := map[string]int64{}
	for _, p := range doc.Places {
		opened[p.Place] = p.Opened
	}
	for place, want := range map[string]int{
		"credentials_entity.data":        len(k.facts.Credentials),
		"user.mfaSecret":                 1,
		"user.mfaRecoveryCodes":          len(k.facts.RecoveryCodes),
		"settings[credentialsOverwrite]": 1,
	} {
		if opened[place] != int64(want) {
			t.Errorf("census opened %d values of %s, want %d; all: %v", opened[place], place, want, opened)
		}
	}
}
