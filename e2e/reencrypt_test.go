//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/labn8n"
)

// TestReencrypt makes, uses and retires data keys of a running n8n, takes everything under the newest beside a writer, and
// all the way back.
func TestReencrypt(t *testing.T) {
	if !every() {
		return // the tests of internal/reencrypt have it, without an n8n
	}
	for _, v := range versions() {
		for _, p := range []place{{version: v, dataKeys: true}, {version: v, dataKeys: true, postgres: true}, {version: v, dataKeys: true, postgres: true, queue: true}} {
			if p.cliReads() {
				t.Run(p.name(), func(t *testing.T) { reencryptStory(t, p) })
			}
		}
	}
}

func reencryptStory(t *testing.T, p place) {
	step := stepsOf(t)
	h, l := begin(t, p)
	r := newRotator(t, h, l)
	main, _ := h.servers(t)
	ctx, c := t.Context(), l.live.Session
	session := filepath.Join(r.home, "session")
	writeKey(t, session, c.Cookie(t))
	r.secrets = append(r.secrets, strings.Fields(c.Cookie(t))[1])

	before := r.dataKeys(t)
	legacyRow, first := "", ""
	for id, k := range before.byID {
		switch {
		case k.Status == "active":
			first = id
		case k.Legacy:
			legacyRow = id
		}
	}
	if first == "" || legacyRow == "" || before.Legacy == 0 || before.byID[first].Values == 0 {
		t.Fatalf("data keys of a fresh n8n: %+v", before)
	}

	var second, third string
	step("rotate in the database", func(t *testing.T) {
		var made api.DataKeyChange
		decode(t, r.run(t, 0, slices.Concat([]string{"data-key", "rotate"}, r.source, []string{"--dry-run", "--json"})...), &made)
		if made.ID != "" || made.Previous != first {
			t.Errorf("dry run: %+v", made)
		}
		decode(t, r.run(t, 0, slices.Concat([]string{"data-key", "rotate"}, r.source, []string{"--yes", "--json"})...), &made)
		second = made.ID
		if made.Through != "database" || made.Previous != first {
			t.Errorf("rotated: %+v", made)
		}
		r.active(t, second)
		r.newValuesUnder(t, second)
	})
	step("rotate through n8n", func(t *testing.T) {
		var made api.DataKeyChange
		decode(t, r.run(t, 0, slices.Concat([]string{"data-key", "rotate"}, r.source, []string{"--n8n-url", main.URL, "--session-file", session, "--yes", "--json"})...), &made)
		third = made.ID
		if made.Through != "n8n" || made.Previous != second {
			t.Errorf("rotated: %+v", made)
		}
		r.active(t, third)
		r.newValuesUnder(t, third)
	})
	step("a key in use is not retired", func(t *testing.T) {
		var not api.DataKeyChange
		decode(t, r.run(t, 4, slices.Concat([]string{"data-key", "retire", first}, r.source, []string{"--yes", "--json"})...), &not)
		if not.Values == 0 {
			t.Errorf("refused: %+v", not)
		}
		r.run(t, 2, slices.Concat([]string{"data-key", "retire", third}, r.source, []string{"--yes", "--json"})...)
	})

	step("everything to the active key, beside a writer", func(t *testing.T) {
		done := r.reencrypted(t, main, "active")
		if done.To != third {
			t.Errorf("encrypted to %q, active is %q", done.To, third)
		}
		now := r.dataKeys(t)
		if now.Legacy != 0 || now.byID[first].Values != 0 || now.byID[second].Values != 0 {
			t.Errorf("data keys afterwards: %+v", now)
		}
		r.loggedOut(t, done)
		l.on(t, h)
	})
	step("keys that nothing uses are retired", func(t *testing.T) {
		for _, id := range []string{first, second} {
			r.run(t, 0, slices.Concat([]string{"data-key", "retire", id}, r.source, []string{"--yes", "--json"})...)
		}
		now := r.dataKeys(t)
		if now.byID[first].Retired == nil || now.byID[second].Retired == nil || now.byID[third].Retired != nil {
			t.Errorf("data keys afterwards: %+v", now)
		}
		keys, err := c.DataKeys(ctx)
		if err != nil || len(keys) != len(now.byID) || keys[first].Status != "inactive" {
			t.Errorf("n8n lists %v (%v)", keys, err)
		}
	})
	step("the way back is refused while n8n writes with data keys", func(t *testing.T) {
		var not api.Reencryption
		decode(t, r.run(t, 4, slices.Concat([]string{"reencrypt"}, r.source, []string{"--to", "legacy", "--yes", "--json"})...), &not)
		if len(not.Refusals) != 1 || !slices.ContainsFunc(not.Allowed, func(a api.Combination) bool { return a.Here }) {
			t.Errorf("refused: %+v", not)
		}
	})
	step("everything back under the instance key, beside a writer", func(t *testing.T) {
		h.byUser(t, "stop")
		h.set(dataKeysOff)
		r.env = []string{dataKeysOff}
		h.byUser(t, "start")
		main, _ = h.servers(t)
		done := r.reencrypted(t, main, "legacy")
		now := r.dataKeys(t)
		if now.byID[third].Values != 0 || now.Legacy == 0 {
			t.Errorf("data keys afterwards: %+v", now)
		}
		r.loggedOut(t, done)
		l.on(t, h)
	})
}

// keys is "data-key list".
type keys struct {
	api.DataKeys
	byID map[string]api.DataKey
}

func (r *rotator) dataKeys(t *testing.T) keys {
	t.Helper()
	k := keys{byID: map[string]api.DataKey{}}
	decode(t, r.run(t, 0, slices.Concat([]string{"data-key", "list"}, r.source, []string{"--all-executions", "--json"})...), &k.DataKeys)
	for _, key := range k.Keys {
		if key.ID == "" || key.Created == nil || key.AgeSeconds < 0 || !key.Opens {
			t.Errorf("listed with a gap: %+v", key)
		}
		k.byID[key.ID] = key
	}
	return k
}

// active checks that n8n agrees on which key is the active one.
func (r *rotator) active(t *testing.T, id string) {
	t.Helper()
	keys, err := r.l.live.Session.DataKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if (k.Status == "active") != (k.ID == id) {
			t.Errorf("n8n lists %+v, active should be %s alone", k, id)
		}
	}
	if _, ok := keys[id]; !ok {
		t.Errorf("n8n does not list %s", id)
	}
}

// newValuesUnder saves credentials until n8n writes with the key: it keeps the last one in memory for some seconds.
func (r *rotator) newValuesUnder(t *testing.T, id string) {
	t.Helper()
	labn8n.Eventually(t, "a value under data key "+id, func() (bool, error) {
		if err := r.l.live.Session.UpdateCredential(t.Context(), r.facts.Credentials[0]); err != nil {
			t.Fatal(err)
		}
		now := r.dataKeys(t)
		return now.byID[id].Values > 0, fmt.Errorf("data keys are %+v", now)
	})
	// Saved again: n8n's export has another time for it.
	r.l.credentials[r.facts.Credentials[0].ID]["updatedAt"] = nil
}

// reencrypted takes everything to the key while a writer saves credentials through n8n: what n8n acknowledged last is what
// n8n exports afterwards.
func (r *rotator) reencrypted(t *testing.T, main *labn8n.Server, to string) api.Reencryption {
	t.Helper()
	w := startWriterBy(t, main, r.facts, (*labn8n.Client).PatchCredential) // a session of somebody with a second factor may end
	rounds := 1
	if os.Getenv("N8KEEP_SOAK") != "" {
		rounds = 20
	}
	var done api.Reencryption
	for range rounds {
		decode(t, r.run(t, 0, slices.Concat([]string{"reencrypt"}, r.source, []string{"--to", to, "--executions", "all", "--yes", "--json"})...), &done)
		if done.Left != 0 || done.Unopened != 0 || len(done.Passes) == 0 || done.Error != nil {
			t.Errorf("encrypted anew: %+v", done)
		}
		w.await(t, 2)
	}
	w.stop(t)
	last, _ := w.made.get()
	t.Logf("%d values, %d saved by n8n first, %d passes; the writer made %d rounds", done.Changed, done.Lost, len(done.Passes), last)
	now := r.l.in.ExportCredentials(t)
	for id, cred := range now {
		name, _ := cred["name"].(string)
		if !strings.HasPrefix(name, "Writer ") {
			continue
		}
		r.l.credentials[id] = cred
		r.l.credentials[id]["updatedAt"] = nil
		value, _ := cred["data"].(map[string]any)["value"].(string)
		if want := writerValue(last); value != want && value != writerValue(last+1) {
			t.Errorf("credential %q is %q, n8n acknowledged %q last", name, value, want)
		}
	}
	return done
}

// loggedOut opens a new session where the old one had to end: n8n binds it to the first characters of the ciphertext of the
// second factor.
func (r *rotator) loggedOut(t *testing.T, done api.Reencryption) {
	t.Helper()
	c := r.l.live.Session
	_, err := c.SessionUser(t.Context())
	if ended := err != nil; ended != (done.MFA == 1) {
		t.Errorf("%d sessions were to end; the session: %v", done.MFA, err)
	}
	if err := c.Login(t.Context(), r.facts.Email, r.facts.Password, r.facts.MFASecret); err != nil {
		t.Fatalf("login with MFA: %v", err)
	}
}
