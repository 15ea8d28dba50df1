package n8napi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

const testKey = "n8n_api_0123456789abcdef-secret"

// contract answers as n8n's own handler and its OpenAPI check do.
type contract struct {
	statuses []string // that the version knows
	running  int
	queued   int
	numeric  bool // ids as numbers
}

func (c contract) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(code int, doc any) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(doc)
	}
	message := func(code int, text string) { answer(code, map[string]string{"message": text}) }
	q := r.URL.Query()
	switch {
	case r.URL.Path != "/api/v1/executions":
		message(404, "not found")
	case r.Method != http.MethodGet:
		message(405, "GET method only")
	case r.Header.Get("X-N8N-API-KEY") == "":
		message(401, "'X-N8N-API-KEY' header required")
	case r.Header.Get("X-N8N-API-KEY") != testKey:
		message(401, "unauthorized")
	case !slices.Contains(c.statuses, q.Get("status")):
		message(400, "request/query/status must be equal to one of the allowed values: "+strings.Join(c.statuses, ", "))
	default:
		n := c.running
		if q.Get("status") == "new" {
			n = c.queued
		}
		at, limit := 0, 100
		fmt.Sscan(q.Get("cursor"), &at)
		fmt.Sscan(q.Get("limit"), &limit)
		if limit > 250 {
			message(400, "request/query/limit must be <= 250")
			return
		}
		var data []map[string]any
		for i := at; i < min(n, at+limit); i++ {
			e := map[string]any{"id": fmt.Sprint(i + 1), "workflowId": "wf1", "status": q.Get("status"), "finished": false, "mode": "manual",
				"startedAt": "2026-08-01T02:00:00.250Z", "stoppedAt": nil, "waitTill": nil, "retryOf": nil}
			if c.numeric {
				e["id"] = i + 1
			}
			if q.Get("status") == "new" {
				e["startedAt"] = nil
			}
			data = append(data, e)
		}
		doc := map[string]any{"data": append([]map[string]any{}, data...), "nextCursor": nil}
		if at+limit < n {
			doc["nextCursor"] = fmt.Sprint(at + limit)
		}
		answer(200, doc)
	}
}

func client(t *testing.T, h http.Handler, key string) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(Config{URL: s.URL, Key: secret.NewString(key)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func versions() map[string][]string {
	return map[string][]string{
		"1.0":     {"error", "success", "waiting"},
		"1.113.3": {"canceled", "error", "running", "success", "waiting"},
		"2.13.4":  {"canceled", "crashed", "error", "new", "running", "success", "unknown", "waiting"},
	}
}

func TestRunning(t *testing.T) {
	at := time.Date(2026, 8, 1, 2, 0, 0, 250e6, time.UTC)
	running := []Execution{{"1", "wf1", "running", at}, {"2", "wf1", "running", at}}
	for version, want := range map[string][]Execution{
		"1.0":     nil,
		"1.113.3": running,
		"2.13.4":  append(slices.Clone(running), Execution{"1", "wf1", "new", time.Time{}}),
	} {
		for _, numeric := range []bool{false, true} {
			c := client(t, contract{statuses: versions()[version], running: 2, queued: 1, numeric: numeric}, testKey)
			got, supported, err := c.Running(t.Context())
			if err != nil || supported != (want != nil) {
				t.Fatalf("%s: %v %v", version, supported, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", version, diff)
			}
		}
	}
}

func TestPages(t *testing.T) {
	for _, n := range []int{0, 1, 250, 251, 999} {
		c := client(t, contract{statuses: versions()["2.13.4"], running: n}, testKey)
		got, supported, err := c.Running(t.Context())
		if err != nil || !supported || len(got) != n {
			t.Errorf("%d: %d %v %v", n, len(got), supported, err)
		}
	}
	c := client(t, contract{statuses: versions()["2.13.4"], running: 5000, queued: 5000}, testKey)
	if got, _, err := c.Running(t.Context()); err != nil || len(got) != MostExecutions {
		t.Errorf("%d %v", len(got), err)
	}
}

func TestPathBeforeAPI(t *testing.T) {
	h := contract{statuses: versions()["2.13.4"], running: 1}
	s := httptest.NewServer(http.StripPrefix("/automation/n8n", h))
	defer s.Close()
	for _, suffix := range []string{"/automation/n8n", "/automation/n8n/", "/automation/n8n?x=y#z"} {
		c, err := New(Config{URL: s.URL + suffix, Key: secret.NewString(testKey)})
		if err != nil {
			t.Fatal(err)
		}
		if got, supported, err := c.Running(t.Context()); err != nil || !supported || len(got) != 1 {
			t.Errorf("%s: %v %v %v", suffix, got, supported, err)
		}
	}
}

func respond(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if code/100 == 3 {
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere?"+testKey)
		}
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		handler    http.Handler
		key        string
		text, hint string
	}{
		"wrong key":  {contract{}, "wrong-" + testKey, "n8n at HOST answered 401 Unauthorized", "the API key is not valid any more: make a new one in n8n under Settings, n8n API"},
		"no scope":   {respond(403, `{"message":"Forbidden"}`), testKey, "n8n at HOST answered 403 Forbidden", `the API key needs the scope "execution:list"`},
		"redirected": {respond(302, ""), testKey, "n8n at HOST answered 302 Found", "it sends to another address: name that one, so that the key goes nowhere else"},
		"broken":     {respond(500, testKey), testKey, "n8n at HOST answered 500 Internal Server Error", ""},
		"other 400":  {respond(400, `{"message":"request/query/limit must be <= 250"}`), testKey, "n8n at HOST answered 400 Bad Request", ""},
		"login page": {respond(200, "<html>"+testKey), testKey, "what answers at HOST is not n8n's API", "the address must be the one of n8n itself; a page of a proxy or a login answered"},
		"too long":   {respond(200, strings.Repeat(" ", mostAnswer+1)), testKey, "the answer of HOST is longer than n8n's would be", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t, tt.handler, tt.key)
			_, _, err := c.Running(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			text := strings.ReplaceAll(err.Error(), c.base.Host, "HOST")
			if problem.KindOf(err) != problem.Unreachable || text != tt.text || problem.HintOf(err) != tt.hint {
				t.Errorf("got %s: %s\n%s", problem.KindOf(err), text, problem.HintOf(err))
			}
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), testKey) {
				t.Error("the key is in the error")
			}
		})
	}
	if _, supported, err := client(t, respond(404, `{"message":"not found"}`), testKey).Running(t.Context()); supported || err != nil {
		t.Errorf("switched off: %v %v", supported, err)
	}
}

func TestUnreachable(t *testing.T) {
	s := httptest.NewServer(contract{})
	c, err := New(Config{URL: s.URL, Key: secret.NewString(testKey)})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	_, _, err = c.Running(t.Context())
	if problem.KindOf(err) != problem.Unreachable || !strings.HasPrefix(err.Error(), "asking n8n at "+c.base.Host+": dial tcp") ||
		problem.HintOf(err) != "check the address of n8n, and that this host reaches it" {
		t.Errorf("got %v, %q", err, problem.HintOf(err))
	}
	hung := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hung }))
	defer slow.Close()
	defer close(hung)
	c, err = New(Config{URL: slow.URL, Key: secret.NewString(testKey), Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = c.Running(t.Context()); problem.KindOf(err) != problem.Unreachable {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err = c.Running(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestNew(t *testing.T) {
	for _, tt := range []struct{ url, key, text string }{
		{"https://user:hunter2@n8n.example.com", "k", "the address of n8n has a user or password in it"},
		{"http://hun\x7fter2", "k", "the address of n8n cannot be read"},
		{"n8n.example.com", "k", `"n8n.example.com" is no address of n8n`},
		{"ftp://n8n.example.com", "k", `"ftp://n8n.example.com" is no address of n8n`},
		{"https://", "k", `"https://" is no address of n8n`},
		{"https://n8n.example.com", "", "no API key for n8n was given"},
	} {
		_, err := New(Config{URL: tt.url, Key: secret.NewString(tt.key)})
		if problem.KindOf(err) != problem.Usage || err.Error() != tt.text || problem.HintOf(err) == "" {
			t.Errorf("%q: %v", tt.url, err)
		}
	}
}
