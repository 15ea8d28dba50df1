package labn8n

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Echo is the outside service that seeded workflows call. It answers every request with its headers, so that a webhook's
// answer shows which secrets n8n sent, and notes the addresses on which waiting executions are continued. It is also the
// messenger through which n8n asks for approvals, and a service with OAuth2.
type Echo struct {
	*httptest.Server

	mu     sync.Mutex
	wake   chan struct{} // closed by the next change
	resume string
	links  map[string]string      // by execution: address that continues it
	calls  map[string]http.Header // by path: the last call
	oauth  oauth
}

// oauth is what the service remembers of the tokens it gave away; each is one of a counter's values.
type oauth struct {
	made            int
	access, refresh string // those that are valid
}

const (
	oauthClient = "lab-oauth-client"
	oauthSecret = "lab-oauth-client-secret"
	oauthCode   = "lab-oauth-code-0001"
	botToken    = "424242:lab-telegram-token"
)

// NewEcho starts one that lives until the test ends; workflows of every instance restored in the test call the same.
func NewEcho(t testing.TB) *Echo {
	e := &Echo{wake: make(chan struct{}), links: map[string]string{}, calls: map[string]http.Header{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /oauth/token", e.token)
	mux.HandleFunc("GET /oauth/call", e.protected)
	mux.HandleFunc("POST /bot"+botToken+"/sendMessage", e.message)
	mux.HandleFunc("/", e.echo)
	e.Server = httptest.NewServer(mux)
	t.Cleanup(e.Close)
	return e
}

func (e *Echo) echo(w http.ResponseWriter, r *http.Request) {
	e.change(func() {
		if u := r.Header.Get("X-Resume-Url"); u != "" {
			e.resume = u
			e.links[execution(u)] = u
		}
		e.calls[r.URL.Path] = r.Header
	})
	answer(w, http.StatusOK, map[string]any{"path": r.URL.Path, "headers": r.Header})
}

// message takes what n8n's Telegram node sends when it asks for an approval.
func (e *Echo) message(w http.ResponseWriter, r *http.Request) {
	var m struct {
		ReplyMarkup struct {
			Keyboard [][]struct{ URL string } `json:"inline_keyboard"`
		} `json:"reply_markup"`
	}
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil || len(m.ReplyMarkup.Keyboard) == 0 || len(m.ReplyMarkup.Keyboard[0]) == 0 {
		answer(w, http.StatusBadRequest, map[string]any{"ok": false, "description": "no keyboard in the message"})
		return
	}
	u := m.ReplyMarkup.Keyboard[0][0].URL
	e.change(func() { e.links[execution(u)] = u })
	answer(w, http.StatusOK, map[string]any{"ok": true, "result": map[string]any{"message_id": 1}})
}

// token gives away an access and a refresh token for the code or for the refresh token that is valid, to the one client.
func (e *Echo) token(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	ok := id == oauthClient && secret == oauthSecret
	var tokens map[string]any
	e.change(func() {
		switch r.PostFormValue("grant_type") {
		case "authorization_code":
			ok = ok && r.PostFormValue("code") == oauthCode
		case "refresh_token":
			ok = ok && r.PostFormValue("refresh_token") == e.oauth.refresh
		default:
			ok = false
		}
		if ok {
			e.oauth.made++
			e.oauth.access = fmt.Sprintf("lab-oauth-access-%06d", e.oauth.made)
			e.oauth.refresh = fmt.Sprintf("lab-oauth-refresh-%06d", e.oauth.made)
			tokens = map[string]any{"access_token": e.oauth.access, "refresh_token": e.oauth.refresh, "token_type": "Bearer", "expires_in": 3600}
		}
	})
	if !ok {
		answer(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
		return
	}
	answer(w, http.StatusOK, tokens)
}

func (e *Echo) protected(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	ok := e.oauth.access != "" && r.Header.Get("Authorization") == "Bearer "+e.oauth.access
	e.mu.Unlock()
	if !ok {
		answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_token"})
		return
	}
	answer(w, http.StatusOK, map[string]any{"headers": r.Header})
}

// ExpireToken makes the service refuse the access token that it gave away last. n8n gets another one with its refresh
// token, which it can do once, and writes both into its credential.
func (e *Echo) ExpireToken() { e.change(func() { e.oauth.access = "" }) }

// AccessToken is the one that the service gave away last.
func (e *Echo) AccessToken() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return fmt.Sprintf("lab-oauth-access-%06d", e.oauth.made)
}

// ResumeURL is the address that continues the last execution that waits for a call, empty before it was seen.
func (e *Echo) ResumeURL() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.resume
}

// link waits for the address that continues the execution.
func (e *Echo) link(ctx context.Context, execution string) (u string, err error) {
	err = e.await(ctx, "the address that continues execution "+execution, func() bool { u = e.links[execution]; return u != "" })
	return u, err
}

// call waits for a request of the path and returns its headers.
func (e *Echo) call(ctx context.Context, path string) (h http.Header, err error) {
	err = e.await(ctx, "a call of "+path, func() bool { h = e.calls[path]; return h != nil })
	return h, err
}

func (e *Echo) await(ctx context.Context, what string, seen func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("nothing came"))
	defer cancel()
	for {
		e.mu.Lock()
		ok, wake := seen(), e.wake
		e.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
}

func (e *Echo) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	close(e.wake)
	e.wake = make(chan struct{})
}

// execution is the id in the address that continues it: /webhook-waiting/ID or /webhook-waiting/ID/NODE.
func execution(at string) string {
	u, err := url.Parse(at)
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	id, _, _ := strings.Cut(rest, "/")
	return id
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}
