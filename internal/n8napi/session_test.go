package n8napi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

const testToken = "eyJhbGciOiJIUzI1NiJ9.eyJpZCI6IjEifQ.c2lnbmF0dXJl"

// keyServer answers as n8n 2.41.1 does with its key rotation on; see the fixtures'
// rotation-requests.jsonl.
type keyServer struct {
	keys    []map[string]any
	browser string
}

func (k *keyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(code int, doc any) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(doc)
	}
	cookie, _ := r.Cookie("n8n-auth")
	switch {
	case cookie == nil || cookie.Value != testToken || r.Header.Get("browser-id") != k.browser:
		answer(401, map[string]any{"status": "error", "message": "Unauthorized"})
	case r.URL.Path != "/rest/encryption/keys":
		answer(404, map[string]any{"code": 404, "message": "not found"})
	case r.Method == http.MethodGet && r.URL.Query().Get("type") == "data_encryption":
		answer(200, map[string]any{"data": map[string]any{"count": len(k.keys), "items": k.keys}})
	case r.Method == http.MethodPost:
		b, _ := io.ReadAll(r.Body)
		if string(b) != `{"type":"data_encryption"}` || r.Header.Get("Content-Type") != "application/json" {
			answer(400, map[string]any{"code": "invalid_literal", "expected": "data_encryption"})
			return
		}
		for _, old := range k.keys {
			old["status"] = "inactive"
		}
		made := map[string]any{"id": "I0jtCr97A1U8nvZN", "type": "data_encryption", "algorithm": "aes-256-gcm", "status": "active",
			"createdAt": "2026-11-21T00:26:14.805Z", "updatedAt": "2026-11-21T00:26:14.805Z"}
		k.keys = append(k.keys, made)
		answer(200, map[string]any{"data": made})
	default:
		answer(400, nil)
	}
}

func session(t *testing.T, h http.Handler, cookie string) *Session {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := NewSession(SessionConfig{URL: s.URL, Cookie: secret.NewString(cookie)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSession(t *testing.T) {
	k := &keyServer{browser: "browser-1", keys: []map[string]any{{"id": "cPD8Ac4S60ct9ly5", "type": "data_encryption", "algorithm": "aes-256-gcm", "status": "active",
		"createdAt": "2026-11-21T00:16:49.406Z", "updatedAt": "2026-11-21T00:16:49.406Z"}}}
	s := session(t, k, "Cookie: other=1; n8n-auth="+testToken+"; Path=/\nbrowser-id: browser-1\n")
	ctx := context.Background()
	made, err := s.RotateDataKey(ctx)
	want := DataKey{"I0jtCr97A1U8nvZN", "data_encryption", "aes-256-gcm", "active", time.Date(2026, 11, 21, 0, 26, 14, 805e6, time.UTC), time.Date(2026, 11, 21, 0, 26, 14, 805e6, time.UTC)}
	if err != nil || made != want {
		t.Errorf("%v: %+v", err, made)
	}
	list, err := s.DataKeys(ctx)
	if err != nil || len(list) != 2 || list[0].Status != "inactive" || list[1] != want {
		t.Errorf("%v: %+v", err, list)
	}
}

func TestParseCookie(t *testing.T) {
	for _, c := range []struct{ text, token, browser string }{
		{testToken, testToken, ""},
		{testToken + "\n", testToken, ""},
		{"n8n-auth=" + testToken, testToken, ""},
		{"Cookie: n8n-auth=" + testToken + "; x=y", testToken, ""},
		{"set-cookie: n8n-auth=" + testToken + "; Max-Age=604800; Path=/; HttpOnly", testToken, ""},
		{"browser-id: abc\ncookie: n8n-auth=" + testToken, testToken, "abc"},
		{"", "", ""},
		{"not a token", "", ""},
		{"n8n-auth=a\x01b", "", ""},
		{"n8n-auth=a\"b", "", ""},
	} {
		if token, browser := parseCookie(c.text); token != c.token || browser != c.browser {
			t.Errorf("%q: %q %q", c.text, token, browser)
		}
	}
}

func TestSessionErrors(t *testing.T) {
	status := func(code int, header ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			io.WriteString(w, `{"message":"`+testToken+`"}`)
		})
	}
	text := func(s string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, s) })
	}
	for _, c := range []struct {
		name    string
		handler http.Handler
		cookie  string
		want    string
		hint    string
	}{
		{"ended", status(401), testToken + "\nbrowser-id: x", "answered 401 Unauthorized", "log in again"},
		{"no browser", status(401), testToken, "answered 401 Unauthorized", "browser-id"},
		{"no right", status(403), testToken, "answered 403 Forbidden", "encryptionKey:manage"},
		{"flag off", status(404), testToken, "answered 404 Not Found", "with its key rotation flag on"},
		{"elsewhere", status(302, "Location", "https://example.com/"), testToken, "answered 302 Found", "it sends to another address"},
		{"broken", status(500), testToken, "answered 500 Internal Server Error", ""},
		{"a page", text("<html>"), testToken, "is not n8n's list of keys", "a page of a proxy"},
		{"no key", text(`{"data":{}}`), testToken, "is not n8n's list of keys", "a page of a proxy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := session(t, c.handler, c.cookie).RotateDataKey(context.Background())
			if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), c.want) || !strings.Contains(problem.HintOf(err), c.hint) {
				t.Errorf("%v; hint %q", err, problem.HintOf(err))
			}
			if strings.Contains(err.Error()+problem.HintOf(err), testToken) {
				t.Error("the session is in the error")
			}
		})
	}
	_, err := NewSession(SessionConfig{URL: "http://n8n.example.com", Cookie: secret.NewString("x")})
	if problem.KindOf(err) != problem.Usage || err.Error() != "no session of n8n was given" || !strings.Contains(problem.HintOf(err), "n8n-auth") {
		t.Errorf("%v", err)
	}
	if _, err := NewSession(SessionConfig{URL: "ftp://n8n", Cookie: secret.NewString(testToken)}); problem.KindOf(err) != problem.Usage {
		t.Errorf("%v", err)
	}
	gone := httptest.NewServer(status(200))
	gone.Close()
	s, err := NewSession(SessionConfig{URL: gone.URL, Cookie: secret.NewString(testToken)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.DataKeys(context.Background()); problem.KindOf(err) != problem.Unreachable || strings.Contains(err.Error(), testToken) {
		t.Errorf("%v", err)
	}
}
