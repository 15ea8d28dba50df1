//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/labn8n"
)

// life is an instance with everything that hangs on its key, and what must hold of it after each change of the key.
type life struct {
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

// works uses every secret that n8n keeps or derives as the people and services do that hold the other half of it: session,
// API key, MFA secret, signed link, resume address, OAuth2 tokens; then makes, edits and uses a credential. n8n's own export
// is the judge of all plaintexts.
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

	// The judge is asked before anything new is written.
	l.exports(t)

	made := l.live.CreateCredential(t, labn8n.Credential{Name: fmt.Sprintf("Made %d", n), Type: "httpHeaderAuth", Data: map[string]any{"name": "X-Lab-Auth", "value": fmt.Sprintf("made-value-%04d", n)}})
	made.Data = map[string]any{"name": "X-Lab-Auth", "value": fmt.Sprintf("edited-value-%04d", n)}
	if err := c.UpdateCredential(ctx, made); err != nil {
		t.Errorf("editing a new credential: %v", err)
	}
	hook := fmt.Sprintf("lab-made-%d", n)
	l.live.AddWebhook(t, hook, made, l.echo)
	for i := range n + 1 { // also those of the calls before
		labn8n.Found(t, "a webhook of a new credential", func() error {
			h, err := c.CallHook(ctx, fmt.Sprintf("lab-made-%d", i))
			if got, want := h.Get("X-Lab-Auth"), fmt.Sprintf("edited-value-%04d", i); err == nil && got != want {
				return fmt.Errorf("it sent %q, want %q", got, want)
			}
			return err
		})
	}
	old := l.facts.Credentials[1]
	if err := c.UpdateCredential(ctx, old); err != nil {
		t.Errorf("saving an old credential: %v", err)
	}
	for _, id := range []string{made.ID, old.ID} {
		if got, err := c.ReadCredential(ctx, id); err != nil || len(got) == 0 {
			t.Errorf("the editor shows credential %s as %v (%v)", id, got, err)
		}
	}
	l.credentials = l.in.ExportCredentials(t)
	if got := l.credentials[made.ID]["data"]; !cmp.Equal(got, any(made.Data)) {
		t.Errorf("the new credential is exported as %v", got)
	}
	for _, log := range []string{s.Log(), l.workerLog()} {
		for _, bad := range []string{"could not be decrypted", "bad decrypt", "Encryption key not found", "cannot be read with this instance encryption key"} {
			if strings.Contains(log, bad) {
				t.Errorf("n8n says %q:\n%s", bad, log)
			}
		}
	}
}

func (l *life) workerLog() string {
	if l.worker == nil {
		return ""
	}
	return l.worker.Log()
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
// has fetched since.
func (l *life) exports(t *testing.T) {
	t.Helper()
	now := l.in.ExportCredentials(t)
	if len(now) != len(l.credentials) {
		t.Errorf("n8n exports %d credentials, want %d", len(now), len(l.credentials))
	}
	for id, want := range l.credentials {
		got := now[id]
		if id == l.live.OAuth.ID && got != nil {
			tokens, _ := got["data"].(map[string]any)["oauthTokenData"].(map[string]any)
			if tokens["access_token"] != l.echo.AccessToken() {
				t.Errorf("the OAuth2 credential is exported with the token %v, want %s", tokens["access_token"], l.echo.AccessToken())
			}
			want, got = withoutTokens(want), withoutTokens(got)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("credential %s differs (-before +after):\n%s", id, diff)
		}
	}
}

func withoutTokens(cred map[string]any) map[string]any {
	out := without(cred, "updatedAt")
	out["data"] = without(cred["data"].(map[string]any), "oauthTokenData")
	return out
}

// TestLife restarts n8n without any change of the key: what works asks for holds for an untouched n8n.
func TestLife(t *testing.T) {
	for _, v := range versions() {
		t.Run(v, func(t *testing.T) {
			in := labn8n.NewInstance(v, t.TempDir())
			in.Port = labn8n.FreePort(t)
			s := labn8n.Start(t, in)
			l := born(t, s, 3)
			s.Stop(t)
			s = labn8n.Start(t, in)
			l.works(t, s)
			s.Stop(t)
		})
	}
}
