package backup_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// host is what one backup run needs, on a fixture of a real n8n.
type host struct {
	t        testing.TB
	dir      string
	cfg      backup.Config
	identity *age.X25519Identity
	store    blob.Store
	trust    backup.Trust
}

func newHost(t testing.TB, fixture, key string) *host {
	t.Helper()
	dir := t.TempDir()
	n8n := filepath.Join(dir, "n8n")
	if err := os.Mkdir(n8n, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"config", "database.sqlite"} {
		b, err := os.ReadFile(filepath.Join("../../testdata/fixtures", fixture, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(n8n, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	log, err := audit.Open(audit.Config{Dir: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	receipt, err := log.Begin(context.Background(), "os:test", audit.Event{Command: "test"}, audit.FailClosed)
	if err != nil {
		t.Fatal(err)
	}
	instanceKey, err := n8ncrypt.NewInstanceKey(key)
	if err != nil {
		t.Fatal(err)
	}
	_, signing, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, identity: identity, store: blobtest.NewMemory(nil), trust: backup.Trust{Signers: []archive.Signer{archive.SignerOf(signing)}}}
	h.cfg = backup.Config{Instance: "lab", N8NDir: n8n, Database: filepath.Join(n8n, "database.sqlite"), Key: instanceKey,
		Recipients: []age.Recipient{identity.Recipient()}, Stores: []blob.Store{h.store}, SigningKey: signing, Receipt: receipt,
		WorkDir: filepath.Join(dir, "work"), LockDir: filepath.Join(dir, "locks"), Tool: "n8keep test"}
	return h
}

func (h *host) create() *backup.Result {
	h.t.Helper()
	res, err := backup.Create(h.t.Context(), h.cfg)
	if err != nil {
		h.t.Fatalf("%v\n%s", err, problem.HintOf(err))
	}
	h.clean()
	return res
}

// clean checks that no private copy is left.
func (h *host) clean() {
	h.t.Helper()
	left, err := os.ReadDir(h.cfg.WorkDir)
	if err != nil || len(left) > 0 {
		h.t.Errorf("left in the work folder: %v %v", left, err)
	}
}

func (h *host) verifyConfig(id archive.ID, level backup.Level) backup.VerifyConfig {
	return backup.VerifyConfig{Store: h.store, ID: id, Level: level, Trust: h.trust, Identities: []age.Identity{h.identity},
		Key: h.cfg.Key, Receipt: h.cfg.Receipt, WorkDir: h.cfg.WorkDir}
}

const key241 = "lab-key-2.41.1-0123456789abcdef"

func TestEveryFixture(t *testing.T) {
	for fixture, key := range map[string]string{
		"1.123.81-sqlite": "", "2.0.3-sqlite": "", "2.38.7-sqlite": "", "2.38.7-sqlite-keyrotation": "",
		"2.41.1-sqlite": "", "2.41.1-sqlite-extra": "", "2.41.1-sqlite-keyrotation": "",
	} {
		t.Run(fixture, func(t *testing.T) {
			t.Parallel()
			key = fixtureKey(t, fixture)
			h := newHost(t, fixture, key)
			res := h.create()
			if res.Sidecar.State != archive.StateGood || res.Sidecar.SecretsFailed != 0 || res.Sidecar.SecretsOpened < 15 || res.Sidecar.Workflows < 4 {
				t.Errorf("%+v\n%v", res.Sidecar, res.Findings)
			}
			v, err := backup.Verify(t.Context(), h.verifyConfig(res.Sidecar.ID, backup.Secrets))
			if err != nil {
				t.Fatalf("%v", err)
			}
			if v.Opened != res.Sidecar.SecretsOpened {
				t.Errorf("%d secrets verified, %d in the sidecar", v.Opened, res.Sidecar.SecretsOpened)
			}
			h.clean()
		})
	}
}

// TestTargetFaults goes through every fault of a target at every call of a
// backup: what is listed afterwards is whole or incomplete, never good and broken.
func TestTargetFaults(t *testing.T) {
	h := newHost(t, "2.0.3-sqlite", fixtureKey(t, "2.0.3-sqlite"))
	cases := 0
	for _, suffix := range []string{".tar.zst.age", ".json"} {
		for _, fault := range blobtest.Faults() {
			if fault == blobtest.DamagedRead || fault == blobtest.Slow {
				continue
			}
			cases++
			t.Run(strings.TrimPrefix(suffix, ".")+"/"+fault.String(), func(t *testing.T) {
				memory := blobtest.NewMemory(nil)
				h.store, h.t = memory, t
				h.cfg.Stores = []blob.Store{blobtest.NewFaulty(memory, blobtest.Rule{Op: blobtest.Put, Name: "*" + suffix, Fault: fault, After: 100})}
				res, err := backup.Create(t.Context(), h.cfg)
				if fault == blobtest.CutSilently && suffix == ".tar.zst.age" {
					if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "only a part") {
						t.Errorf("error %v", err)
					}
					return
				}
				if fault == blobtest.CutSilently {
					// The target lies: only a verification can tell.
					if err != nil {
						t.Fatal(err)
					}
					_, err := backup.Verify(t.Context(), h.verifyConfig(res.Sidecar.ID, backup.Quick))
					if k := problem.KindOf(err); k != problem.Damaged && k != problem.Untrusted {
						t.Errorf("verification of a cut object: %v", err)
					}
					return
				}
				if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "injected") || problem.HintOf(err) == "" {
					t.Errorf("error %v, hint %q", err, problem.HintOf(err))
				}
				h.clean()
				list, err := backup.List(t.Context(), memory, h.trust)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range list {
					if l.State == backup.StateIncomplete {
						continue
					}
					if _, err := backup.Verify(t.Context(), h.verifyConfig(l.ID, backup.Secrets)); err != nil {
						t.Errorf("listed as %s but: %v", l.State, err)
					}
				}
			})
		}
	}
	if cases < 8 {
		t.Fatalf("only %d cases", cases)
	}
}

func TestCancelled(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	for _, phase := range []string{"copying the database", "writing the archive", "looking through every column"} {
		ctx, cancel := context.WithCancel(t.Context())
		met := false
		h.cfg.Progress = func(p string, _, _ int64) {
			if p == phase {
				met = true
				cancel()
			}
		}
		_, err := backup.Create(ctx, h.cfg)
		cancel()
		if met && problem.KindOf(err) != problem.Interrupted {
			t.Errorf("cancelled while %s: %v", phase, err)
		}
		if phase == "writing the archive" && !met {
			t.Errorf("phase %q was never reported", phase)
		}
		h.clean()
	}
	list, err := backup.List(t.Context(), h.store, h.trust)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if l.State == string(archive.StateGood) {
			if _, err := backup.Verify(t.Context(), h.verifyConfig(l.ID, backup.Secrets)); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestSecondRunIsBusy(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	var second error
	h.cfg.Progress = func(p string, _, _ int64) {
		if p == "writing the archive" && second == nil {
			_, second = backup.Create(t.Context(), h.cfg)
		}
	}
	if _, err := backup.Create(t.Context(), h.cfg); err != nil {
		t.Fatal(err)
	}
	if problem.KindOf(second) != problem.Busy || !strings.Contains(second.Error(), `another n8keep works on instance "lab"`) {
		t.Errorf("second run: %v", second)
	}
}

func TestRecipientsRefused(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	h.cfg.Recipients = append(h.cfg.Recipients, hybrid.Recipient())
	if _, err := backup.Create(t.Context(), h.cfg); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "x25519") {
		t.Errorf("mixed recipients: %v", err)
	}
	h.cfg.Recipients = nil
	if _, err := backup.Create(t.Context(), h.cfg); problem.KindOf(err) != problem.Usage {
		t.Errorf("no recipients: %v", err)
	}
	h.cfg.Recipients = []age.Recipient{hybrid.Recipient()}
	if res := h.create(); res.Sidecar.RecipientKind != "mlkem768x25519" {
		t.Errorf("kind %q", res.Sidecar.RecipientKind)
	}
}

func TestFind(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	clock := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	h.cfg.Now = func() time.Time { clock = clock.Add(time.Hour); return clock }
	a := h.create().Sidecar.ID
	h.cfg.Instance = "other"
	b := h.create().Sidecar.ID
	for ref, want := range map[string]archive.ID{string(a): a, string(b): b, string(a)[:14]: a} {
		if got, err := backup.Find(t.Context(), h.store, h.trust, ref, ""); err != nil || got != want {
			t.Errorf("%q: %q, %v", ref, got, err)
		}
	}
	if got, err := backup.Find(t.Context(), h.store, h.trust, "latest", "lab"); err != nil || got != a {
		t.Errorf("latest of lab: %q, %v", got, err)
	}
	for ref, want := range map[string]string{"latest": "several instances", "2026": "is the beginning of 2 archives", "1999": `no archive "1999"`} {
		if _, err := backup.Find(t.Context(), h.store, h.trust, ref, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// TestLatestWithinOneSecond: ids cannot tell such archives apart, the target's clock can.
func TestLatestWithinOneSecond(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	clock := time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)
	h.cfg.Now = func() time.Time { return clock }
	tick := clock
	h.store = blobtest.NewMemory(func() time.Time { tick = tick.Add(time.Millisecond); return tick })
	h.cfg.Stores = []blob.Store{h.store}
	for range 4 {
		last := h.create().Sidecar.ID
		if got, err := backup.Find(t.Context(), h.store, h.trust, "latest", ""); err != nil || got != last {
			t.Fatalf("latest is %q, %v; the last one made is %q", got, err, last)
		}
		list, err := backup.List(t.Context(), h.store, h.trust)
		if err != nil || list[0].ID != last {
			t.Fatalf("first of the list is %q, %v; the last one made is %q", list[0].ID, err, last)
		}
	}
}

func TestFilesThatHoldTheKey(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	custom := filepath.Join(h.cfg.N8NDir, "custom")
	if err := os.Mkdir(custom, 0o755); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB: takes the way through the work folder
	for name, content := range map[string]string{"plain.js": "module.exports = {}", "leak.js": `const k = "` + key241 + `"`, "big.txt": big + "x", "bigleak.txt": big + key241} {
		if err := os.WriteFile(filepath.Join(custom, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	res := h.create()
	left := map[string]bool{}
	for _, f := range res.Findings {
		if f.Code == backup.FindingFileKey {
			left[filepath.Base(f.Place)] = true
		}
	}
	if len(left) != 2 || !left["leak.js"] || !left["bigleak.txt"] {
		t.Errorf("findings: %+v", res.Findings)
	}
	dir := t.TempDir()
	v, err := backup.Unpack(t.Context(), h.verifyConfig(res.Sidecar.ID, backup.Secrets), dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "files", "custom", "big.txt"))
	if err != nil || string(got) != big+"x" {
		t.Errorf("big.txt: %d bytes, %v", len(got), err)
	}
	for _, e := range v.Manifest.Entries {
		if strings.Contains(e.Name, "leak") || strings.HasSuffix(e.Name, "/config") {
			t.Errorf("in the archive: %s", e.Name)
		}
	}
}

func TestWorkFolderOfADeadRunIsRemoved(t *testing.T) {
	h := newHost(t, "2.41.1-sqlite", key241)
	dead := filepath.Join(h.cfg.WorkDir, "n8keep-work-abcdefghijkl")
	if err := os.MkdirAll(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{dead + ".lock", filepath.Join(dead, "database.sqlite")} {
		if err := os.WriteFile(f, []byte("plaintext"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.create()
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("dead run's folder: %v", err)
	}
}
