//go:build e2e

// Package e2e proves n8keep against real n8n releases: an n8n is started, filled through its own interfaces and backed up
// while it runs and while a writer changes credentials; the archives are restored, the same n8n is started on them, and
// n8n's own exports from before and after are compared field by field. n8keep is driven as a user drives it: the built
// program, its documented flags, its JSON and its exit codes.
//
// N8KEEP_E2E_VERSIONS lists the releases (default "2.41.1 1.123.81"; each must be installed, see scripts/install-n8n),
// N8KEEP_BIN is the program under test (default: built from this checkout).
package e2e

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/labn8n"
)

func versions() []string {
	if list := strings.Fields(os.Getenv("N8KEEP_E2E_VERSIONS")); len(list) > 0 {
		return list
	}
	return []string{"2.41.1", "1.123.81"}
}

func TestSQLite(t *testing.T) {
	for _, v := range versions() {
		t.Run(v, func(t *testing.T) { story(t, v) })
	}
}

// taken is an archive with what the writer had done around it.
type taken struct {
	id     string
	lo, hi int64 // numbers of the writer acknowledged before, and begun after, the backup
}

// stepsOf are the steps of a story, each of which needs those before it.
func stepsOf(t *testing.T) func(name string, f func(t *testing.T)) {
	return func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, f) {
			t.FailNow()
		}
	}
}

// story is one instance's life. Each step needs the ones before it.
func story(t *testing.T, version string) {
	step := stepsOf(t)
	echo := labn8n.NewEcho(t)
	in := labn8n.NewInstance(version, t.TempDir())
	server := labn8n.Start(t, in)
	facts := labn8n.Seed(t, server, echo)
	k := newKeeper(t, in, facts)

	before := look(t, in, server.Client(t, facts.APIKey), facts)
	if got, want := len(before.credentials), len(facts.Credentials); got != want {
		t.Fatalf("n8n exports %d credentials, seeded were %d", got, want)
	}

	step("census of a live instance", func(t *testing.T) {
		changesNothing(t, in.Dir(), func() { k.census(t, in) })
	})

	step("wrong key", func(t *testing.T) {
		k.run(t, 12, "census", "--n8n-dir", in.Dir(), "--key-file", k.wrongKey, "--json")
		k.run(t, 12, "backup", "create", "--n8n-dir", in.Dir(), "--key-file", k.wrongKey, "--recipient", k.recipient, "--target", k.target, "--json")
		if n := len(k.list(t)); n != 0 {
			t.Errorf("a backup with a wrong key left %d archives", n)
		}
	})

	var full, none, recent taken
	step("backups beside a writer", func(t *testing.T) {
		w := startWriter(t, server, facts)
		full = k.backup(t, in, w)
		none = k.backup(t, in, w, "--history", "none")
		recent = k.backup(t, in, w, "--history", "24h")
		w.stop(t)
		k.listed(t, recent, none, full)
		if recent.hi == full.lo {
			t.Error("the writer wrote nothing while the backups were taken")
		}
	})

	step("many backups beside a writer", func(t *testing.T) {
		many := 2
		if os.Getenv("N8KEEP_SOAK") != "" {
			many = 200
		}
		target := k.target
		defer func() { k.target = target }()
		k.target = t.TempDir()
		w := startWriter(t, server, facts)
		for range many {
			k.verify(t, k.backup(t, in, w), "secrets")
		}
		w.stop(t)
	})

	step("verify", func(t *testing.T) {
		k.verify(t, full, "quick")
		k.verify(t, full, "full")
		for _, b := range []taken{full, none, recent} {
			k.verify(t, b, "secrets")
		}
		k.run(t, 12, "backup", "verify", full.id, "--target", k.target, "--level", "secrets", "--identity", k.identity, "--key-file", k.wrongKey, "--json")
	})

	step("restore is refused while n8n is attached", func(t *testing.T) {
		k.run(t, 11, k.restoreArgs(full, in.Dir(), "--overwrite")...)
		if found := safetyCopies(t, in.Dir()); len(found) != 0 {
			t.Errorf("the refusal left %q", found)
		}
		if _, err := server.Client(t, "").CallWebhook(t.Context(), facts); err != nil {
			t.Errorf("n8n after the refusal: %v", err)
		}
	})

	step("restore with a wrong key writes nothing", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), ".n8n")
		k.run(t, 12, "restore", full.id, "--target", k.target, "--identity", k.identity, "--key-file", k.wrongKey, "--to", to, "--json")
		if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s after the refusal: %v, want that it does not exist", to, err)
		}
	})

	server.Stop(t)

	step("backup of a stopped instance", func(t *testing.T) {
		var b taken
		changesNothing(t, in.Dir(), func() { b = k.backup(t, in, nil) })
		k.verify(t, b, "secrets")
	})

	step("restore into an empty directory", func(t *testing.T) {
		k.restored(t, full, before, echo, "all", func(t *testing.T, dir string) {
			k.run(t, 0, k.restoreArgs(full, dir, "--dry-run")...)
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s after a dry run: %v, want that it does not exist", dir, err)
			}
			k.run(t, 0, k.restoreArgs(full, dir)...)
		})
	})
	step("restore without history", func(t *testing.T) {
		k.restored(t, none, before, echo, "none", func(t *testing.T, dir string) { k.run(t, 0, k.restoreArgs(none, dir)...) })
	})
	step("restore of recent history", func(t *testing.T) {
		k.restored(t, recent, before, echo, "all", func(t *testing.T, dir string) { k.run(t, 0, k.restoreArgs(recent, dir)...) })
	})

	step("restore over an instance", func(t *testing.T) {
		changesNothing(t, in.Dir(), func() { k.run(t, 2, k.restoreArgs(full, in.Dir())...) })
		k.run(t, 0, k.restoreArgs(full, in.Dir(), "--overwrite")...)
		if found := safetyCopies(t, in.Dir()); len(found) != 1 {
			t.Errorf("safety copies of the database are %q, want one", found)
		}
		server = labn8n.Start(t, in)
		k.works(t, server, full, before, echo, "all")
	})

	step("backup of a crashed instance", func(t *testing.T) {
		server = labn8n.Start(t, in)
		w := startWriter(t, server, facts)
		w.await(t, 20)
		server.Kill()
		w.abandon()
		b := k.backup(t, in, nil)
		k.verify(t, b, "secrets")
	})
	step("one credential of another key", func(t *testing.T) {
		imported := in.ImportForeignCredential(t, facts)
		var seen api.Census
		decode(t, k.run(t, 4, "census", "--n8n-dir", in.Dir(), "--json"), &seen)
		if seen.Totals.Failed != 1 || len(seen.Failures) != 1 || seen.Failures[0].Row != imported {
			t.Errorf("census of %d failures: %+v", seen.Totals.Failed, seen.Failures)
		}
		var made api.Backup
		decode(t, k.run(t, 3, "backup", "create", "--n8n-dir", in.Dir(), "--recipient", k.recipient, "--target", k.target, "--json"), &made)
		if made.State != "degraded" || len(made.Failures) != 1 || made.Failures[0].Row != imported {
			t.Errorf("a backup with one unopenable secret is %q, failures %+v", made.State, made.Failures)
		}
		k.run(t, 4, "backup", "verify", made.ID, "--target", k.target, "--level", "secrets", "--identity", k.identity, "--key-file", k.keyFile, "--json")
	})
}

// restored runs restore for a new .n8n folder, starts n8n on it, and checks it.
func (k *keeper) restored(t *testing.T, b taken, before state, echo *labn8n.Echo, history string, restore func(*testing.T, string)) {
	t.Helper()
	in := labn8n.NewInstance(k.version, t.TempDir())
	restore(t, in.Dir())
	if got := in.Key(t); got != k.key {
		t.Error("the restored config has another key")
	}
	k.works(t, labn8n.Start(t, in), b, before, echo, history)
}

// works checks a server on restored data through every secret that n8n itself uses, and compares its exports with those
// of the original. It stops the server.
func (k *keeper) works(t *testing.T, s *labn8n.Server, b taken, before state, echo *labn8n.Echo, history string) {
	t.Helper()
	c := s.Client(t, k.facts.APIKey)
	after := look(t, s.Instance, c, k.facts)
	compareCredentials(t, before, after, b)
	compareWorkflows(t, before, after)
	compareExecutions(t, before, after, history, k.facts.Waiting)

	var wrong *labn8n.StatusError
	if err := s.Client(t, "").Login(t.Context(), k.facts.Email, k.facts.Password, ""); !errors.As(err, &wrong) || wrong.Status != http.StatusUnauthorized {
		t.Errorf("login without MFA code: %v, want 401", err)
	}
	if err := c.Do(t.Context(), "GET", "/api/v1/workflows", nil, nil); err != nil {
		t.Errorf("API key: %v", err)
	}
	want := k.facts.HeaderAuth.Data["value"]
	c.AwaitWebhook(t, k.facts)
	if got, err := c.CallWebhook(t.Context(), k.facts); err != nil || got != want {
		t.Errorf("the webhook sent %q (%v), want %q", got, err, want)
	}
	if got, err := c.Resume(t.Context(), echo.ResumeURL()); err != nil || got != want {
		t.Errorf("the resumed execution sent %q (%v), want %q", got, err, want)
	}
	if strings.Contains(s.Log(), "could not be decrypted") || strings.Contains(s.Log(), "bad decrypt") {
		t.Errorf("n8n could not decrypt something:\n%s", s.Log())
	}
	s.Stop(t)
}
