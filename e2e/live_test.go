//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/labn8n"
)

// life is an instance with everything that hangs on its key, and what must hold of it after each change of the key.
type life struct {
	place place
	db    database // of place.postgres
	in    labn8n.Instance
	facts *labn8n.Facts
	live  *labn8n.Live
	echo  *labn8n.Echo
	// credentials is what n8n's own export says, by id; it grows with those that works makes.
	credentials map[string]map[string]any
	// used counts the links that works has followed, and the credentials that it has made.
	used int
	// worker is what executes, nil when the main process does.
	worker *labn8n.Server
}

// born fills a running server with all that shall survive; links is how many times works can be called.
func born(t *testing.T, s *labn8n.Server, links int) *life {
	t.Helper()
	l := &life{in: s.Instance, echo: labn8n.NewEcho(t)}
	l.facts = labn8n.Seed(t, s, l.echo)
	l.live = labn8n.Enliven(t, s, l.facts, l.echo, links)
	l.credentials = l.in.ExportCredentials(t)
	if got, want := len(l.credentials), len(l.facts.Credentials); got != want {
		t.Fatalf("n8n exports %d credentials, seeded were %d", got, want)
	}
	return l
}

// works uses every secret that n8n keeps or derives, as the people and services do that hold the other half of it: session,
// API key, MFA secret, signed link, resume address, OAuth2 tokens; then it makes, edits, reads and uses a credential. n8n's
// own export is the judge of all plaintexts.
func (l *life) works(t *testing.T, s *labn8n.Server) {
	t.Helper()
	ctx, n, c := t.Context(), l.used, l.live.Session
	l.used++

	if who, err := c.SessionUser(ctx); err != nil || who != l.facts.Email {
		t.Errorf("the session is of %q (%v), want that of %q", who, err, l.facts.Email)
	}
	if err := s.Client(t, l.facts.APIKey).Do(ctx, "GET", "/api/v1/workflows", nil, nil); err != nil {
		t.Errorf("API key: %v", err)
	}
	var wrong *labn8n.StatusError
	if err := s.Client(t, "").Login(ctx, l.facts.Email, l.facts.Password, ""); !errors.As(err, &wrong) || wrong.Status != http.StatusUnauthorized {
		t.Errorf("login without MFA code: %v, want 401", err)
	}
	if err := s.Client(t, "").Login(ctx, l.facts.Email, l.facts.Password, l.facts.MFASecret); err != nil {
		t.Errorf("login with MFA code: %v", err)
	}

	want := l.facts.HeaderAuth.Data["value"]
	c.AwaitWebhook(t, l.facts)
	if got, err := c.CallWebhook(ctx, l.facts); err != nil || got != want {
		t.Errorf("the webhook sent %q (%v), want %q", got, err, want)
	}
	if got, err := c.Resume(ctx, l.live.Resumes[n]); err != nil || got != want {
		t.Errorf("the resumed execution sent %q (%v), want %q", got, err, want)
	}
	if got, err := c.Approve(ctx, l.live.Approvals[n], l.echo); err != nil || got != want {
		t.Errorf("the approved execution sent %q (%v), want %q", got, err, want)
	}
	if err := c.ApproveForged(ctx, l.live.Approvals[n+1]); !errors.As(err, &wrong) || wrong.Status != http.StatusUnauthorized {
		t.Errorf("an approval link with another signature: %v, want 401", err)
	}
	l.oauthWorks(t)

	made := l.live.CreateCredential(t, labn8n.Credential{Name: fmt.Sprintf("Made %d", n), Type: "httpHeaderAuth", Data: madeData(-1)})
	made.Data = madeData(n)
	if err := c.UpdateCredential(ctx, made); err != nil {
		t.Errorf("editing a new credential: %v", err)
	}
	l.live.AddWebhook(t, madeHook(n), made, l.echo)
	for i := range l.used { // also those of the calls before
		labn8n.Found(t, "a webhook of a new credential", func() error {
			h, err := c.CallHook(ctx, madeHook(i))
			if got, want := h.Get("X-Lab-Auth"), madeData(i)["value"]; err == nil && got != want {
				return fmt.Errorf("it sent %q, want %q", got, want)
			}
			return err
		})
	}
	for _, id := range []string{made.ID, l.facts.Credentials[1].ID} {
		if got, err := c.ReadCredential(ctx, id); err != nil || len(got) == 0 {
			t.Errorf("the editor shows credential %s as %v (%v)", id, got, err)
		}
	}
	added := []labn8n.Credential{made}
	if l.place.dataKeys { // what the server writes is under a data key: the command line writes under the instance key
		imported := labn8n.Credential{ID: fmt.Sprintf("labMade%09d", n), Name: fmt.Sprintf("Imported %d", n), Type: "httpHeaderAuth", Data: madeData(100 + n)}
		l.in.ImportCredentials(t, l.facts, imported)
		added = append(added, imported)
	}
	now := l.exports(t, len(added))
	for _, cred := range added {
		if got := now[cred.ID]["data"]; !cmp.Equal(got, any(cred.Data)) {
			t.Errorf("the new credential %s is exported as %v", cred.ID, got)
		}
	}
	// One of the old ones is saved again by n8n, for the next change of the key to meet.
	if err := c.UpdateCredential(ctx, l.facts.Credentials[2+n]); err != nil {
		t.Errorf("saving an old credential: %v", err)
	}
	now[l.facts.Credentials[2+n].ID]["updatedAt"] = nil
	l.credentials = now
	l.quiet(t, s)
}

func madeData(n int) map[string]any {
	return map[string]any{"name": "X-Lab-Auth", "value": fmt.Sprintf("made-value-%04d", n)}
}

func madeHook(n int) string { return fmt.Sprintf("lab-made-%d", n) }

// quiet reads the logs: n8n decrypted all that it wanted to, in queue mode the worker did.
func (l *life) quiet(t *testing.T, servers ...*labn8n.Server) {
	t.Helper()
	if l.worker != nil && !strings.Contains(l.worker.Log(), "Worker finished execution") {
		t.Errorf("the worker executed nothing:\n%s", l.worker.Log())
	}
	for _, s := range append(servers, l.worker) {
		if s == nil {
			continue
		}
		for _, bad := range []string{"could not be decrypted", "bad decrypt", "Encryption key not found", "cannot be read with this instance encryption key"} {
			if strings.Contains(s.Log(), bad) {
				t.Errorf("n8n says %q:\n%s", bad, s.Log())
			}
		}
	}
}

// oauthWorks has n8n use its access token, then lose it and get another with its refresh token.
func (l *life) oauthWorks(t *testing.T) {
	t.Helper()
	for _, expired := range []bool{false, true} {
		if expired {
			l.echo.ExpireToken()
		}
		labn8n.Found(t, "the webhook of OAuth2", func() error {
			got, err := l.live.Session.CallOAuth(t.Context())
			if want := l.echo.AccessToken(); err == nil && got != want {
				return fmt.Errorf("n8n sent the token %q, want %q", got, want)
			}
			return err
		})
	}
}

// exports compares n8n's export with the last one: every field of every credential is equal, but for the tokens that n8n
// has fetched since. more is how many there are beside those.
func (l *life) exports(t *testing.T, more int) map[string]map[string]any {
	t.Helper()
	now := l.in.ExportCredentials(t)
	if len(now) != len(l.credentials)+more {
		t.Errorf("n8n exports %d credentials, want %d and %d more", len(now), len(l.credentials), more)
	}
	for id, want := range l.credentials {
		got := now[id]
		if got == nil {
			t.Errorf("credential %s is not exported", id)
			continue
		}
		if id == l.live.OAuth.ID {
			tokens, _ := got["data"].(map[string]any)["oauthTokenData"].(map[string]any)
			if tokens["access_token"] != l.echo.AccessToken() {
				t.Errorf("the OAuth2 credential is exported with the token %v, want %s", tokens["access_token"], l.echo.AccessToken())
			}
			want, got = withoutTokens(want), withoutTokens(got)
		}
		if want["updatedAt"] == nil {
			want, got = without(want, "updatedAt"), without(got, "updatedAt")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("credential %s differs (-before +after):\n%s", id, diff)
		}
	}
	return now
}

func withoutTokens(cred map[string]any) map[string]any {
	out := without(cred, "updatedAt")
	out["data"] = without(cred["data"].(map[string]any), "oauthTokenData")
	return out
}

// TestLife restarts n8n without any change of the key, and in queue mode: what works asks for holds for an untouched n8n.
func TestLife(t *testing.T) {
	if os.Getenv("N8KEEP_SOAK") == "" {
		return // TestRotate asks for the same and more
	}
	for _, p := range places() {
		t.Run(p.name(), func(t *testing.T) {
			h, l := begin(t, p)
			h.byUser(t, "stop")
			h.byUser(t, "start")
			l.on(t, h)
		})
	}
}

// on is works for what the helm has started.
func (l *life) on(t *testing.T, h *helm) {
	t.Helper()
	var s *labn8n.Server
	s, l.worker = h.servers(t)
	l.works(t, s)
}
