package service

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
)

// answering is an n8n whose health endpoints answer with what it is told to.
type answering struct {
	*httptest.Server
	alive, ready atomic.Int64
	asked        atomic.Int64

	mu   sync.Mutex
	at   int64 // the request before which do is called
	then func()
}

func answers(t *testing.T, alive, ready int64) *answering {
	a := &answering{}
	a.alive.Store(alive)
	a.ready.Store(ready)
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		if a.asked.Add(1) == a.at {
			a.then()
		}
		a.mu.Unlock()
		switch r.URL.Path {
		case "/healthz":
			w.WriteHeader(int(a.alive.Load()))
		case "/healthz/readiness":
			w.WriteHeader(int(a.ready.Load()))
		default:
			t.Errorf("asked for %q", r.URL.Path)
		}
	}))
	t.Cleanup(a.Close)
	return a
}

// after lets something happen when the server is asked for the n-th time from now.
func (a *answering) after(n int64, do func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at, a.then = a.asked.Load()+n, do
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", "/", "/healthz", "/healthz/"} {
		n8n := answers(t, 200, 503)
		cfg := quick()
		cfg.HealthURL = n8n.URL + path
		s := open(t, &Command{StartLine: "true"}, cfg)
		n8n.after(6, func() { n8n.ready.Store(200) })
		if err := s.Healthy(t.Context()); err != nil {
			t.Errorf("%q: %v", path, err)
		}
		if n8n.asked.Load() < 6 {
			t.Errorf("%q: asked only %d times", path, n8n.asked.Load())
		}
		n8n.ready.Store(404) // n8n 1.0 has no readiness
		if err := s.Healthy(t.Context()); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestNotHealthy(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, tt := range []struct {
		name         string
		alive, ready int64
		want         string
	}{
		{"no database", 200, 503, "/healthz/readiness answers with status 503"},
		{"a proxy", 502, 502, "/healthz answers with status 502"},
		{"silence", 0, 0, "/healthz: connection refused"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := short()
			cfg.HealthURL = closed.URL
			if tt.alive != 0 {
				cfg.HealthURL = answers(t, tt.alive, tt.ready).URL
			}
			s := open(t, &Command{StartLine: "true"}, cfg)
			fails(t, s.Healthy(t.Context()), problem.Unreachable, "n8n is not healthy after 300ms: "+cfg.HealthURL+tt.want, "Mismatching encryption keys")
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			fails(t, s.Healthy(ctx), problem.Interrupted, "waiting for n8n: context canceled")
		})
	}
}

// A unit that runs is not enough, and neither is an answer while the unit does not run.
func TestBothAreAsked(t *testing.T) {
	t.Parallel()
	n8n := answers(t, 200, 200)
	o, _ := systemd(t, one(unit{States: []string{"activating/auto-restart//a"}}))
	cfg := short()
	cfg.HealthURL = n8n.URL
	fails(t, open(t, o, cfg).Healthy(t.Context()), problem.Unreachable, `unit "n8n.service" is activating (auto-restart)`)
	n8n.ready.Store(503)
	o, _ = systemd(t, one(unit{}))
	fails(t, open(t, o, cfg).Healthy(t.Context()), problem.Unreachable, "/healthz/readiness answers with status 503")
}

// A command may say that it has stopped n8n, and n8n says otherwise.
func TestStopIsChecked(t *testing.T) {
	t.Parallel()
	n8n := answers(t, 200, 200)
	cfg := short()
	cfg.HealthURL = n8n.URL
	fails(t, open(t, &Command{StopLine: "true", StartLine: "true"}, cfg).Stop(t.Context()), problem.Busy,
		"stopping n8n by stop and start commands: it still runs after 300ms: "+n8n.URL+"/healthz answers with status 200", "--health-url")
	// The user has stopped it, and there is a start command.
	fails(t, open(t, &Command{StartLine: "true"}, cfg).Stop(t.Context()), problem.Busy, "stopping n8n by the user and a start command: it still runs")
	ctx, cancel := context.WithCancel(t.Context())
	n8n.after(3, cancel)
	cfg = quick()
	cfg.HealthURL = n8n.URL
	fails(t, open(t, &Command{StartLine: "true"}, cfg).Stop(ctx), problem.Interrupted)

	cfg = quick()
	cfg.HealthURL = n8n.URL
	s := open(t, &Command{StartLine: "true"}, cfg)
	n8n.after(3, func() { n8n.alive.Store(502) }) // a proxy that is left
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	n8n.Close()
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// A process that listens and does not answer, as one does that is about to end, runs.
func TestListeningIsRunning(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := short()
	cfg.HealthURL = "http://" + l.Addr().String()
	cfg.HTTP = &http.Client{Timeout: 50 * time.Millisecond}
	fails(t, open(t, &Command{StartLine: "true"}, cfg).Stop(t.Context()), problem.Busy, "accepts connections and does not answer")
}

func TestHealthAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"http://h:5678":            "http://h:5678/healthz",
		"https://h/n8n/":           "https://h/n8n/healthz",
		"https://h/n8n/healthz#x":  "https://h/n8n/healthz",
		"http://h:5678/health-n8n": "http://h:5678/health-n8n",
	} {
		h, err := newHealth(address, nil)
		if err != nil {
			t.Fatal(err)
		}
		if h.alive != want || h.readiness != want+"/readiness" {
			t.Errorf("%q: %q %q", address, h.alive, h.readiness)
		}
	}
	for _, address := range []string{"h:5678", "ftp://h", "http://", "http://%zz", "/healthz"} {
		_, err := New(&Command{}, Config{HealthURL: address})
		fails(t, err, problem.Usage, "health URL is not an http or https address", "--health-url http://127.0.0.1:5678/healthz")
	}
	for _, address := range []string{"http://u:s3cret@h", "http://h/?token=s3cret"} {
		_, err := New(&Command{}, Config{HealthURL: address})
		fails(t, err, problem.Usage, `health URL of "h" has a user, a password or a query`)
		if strings.Contains(fmt.Sprint(err), "s3cret") {
			t.Error(err)
		}
	}
}

// What a proxy says of a server that it does not reach is silence; whoever fails in the
// TLS handshake listens.
func TestWhoListens(t *testing.T) {
	t.Parallel()
	for _, status := range []int64{502, 503, 504} {
		cfg := quick()
		cfg.HealthURL = answers(t, status, status).URL
		if err := open(t, &Command{StartLine: "true"}, cfg).Stop(t.Context()); err != nil {
			t.Errorf("%d: %v", status, err)
		}
	}
	n8n := httptest.NewUnstartedServer(http.NotFoundHandler())
	n8n.Config.ErrorLog = log.New(io.Discard, "", 0)
	n8n.StartTLS()
	defer n8n.Close()
	cfg := short()
	cfg.HealthURL = n8n.URL
	fails(t, open(t, &Command{StartLine: "true"}, cfg).Stop(t.Context()), problem.Busy, "it still runs after 300ms: "+n8n.URL+"/healthz: tls: failed to verify certificate")
}
