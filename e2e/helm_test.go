//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"

	"github.com/n8keep/n8keep/internal/labn8n"
)

// helm stops and starts the n8n of a test when a command asks for it that n8keep runs: its commands are this test binary,
// which asks the test. It stands for a service manager.
type helm struct {
	http *httptest.Server

	mu           sync.Mutex
	in           labn8n.Instance
	main, worker *labn8n.Server // nil while stopped; worker also without queue mode
	queue        bool
	broken       bool     // a start fails
	stopped      []func() // called after the next stop, once
}

// takeHelm steers an instance that runs as main, and as worker where that is not nil.
func takeHelm(t *testing.T, main, worker *labn8n.Server) *helm {
	h := &helm{in: main.Instance, main: main, worker: worker, queue: worker != nil}
	mux := http.NewServeMux()
	for path, f := range map[string]func(*http.Request) error{"/stop": h.stop, "/start": h.start} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if err := f(r); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	h.http = httptest.NewServer(mux)
	t.Cleanup(func() {
		h.http.Close()
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, s := range []*labn8n.Server{h.main, h.worker} {
			if s != nil {
				s.Kill()
			}
		}
	})
	return h
}

// command is what n8keep is given to do what, "stop" or "start".
func (h *helm) command(t *testing.T, what string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("'%s' helm %s/%s", self, h.http.URL, what)
}

// steer is this binary as such a command.
func steer(url string) int {
	resp, err := http.Post(url, "text/plain", nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		io.Copy(os.Stderr, resp.Body)
		return 1
	}
	return 0
}

func (h *helm) stop(*http.Request) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range []**labn8n.Server{&h.worker, &h.main} {
		if *s == nil {
			continue
		}
		if err := (*s).Terminate(); err != nil {
			return err
		}
		*s = nil
	}
	for _, f := range h.stopped {
		f()
	}
	h.stopped = nil
	return nil
}

// then calls f after the next stop.
func (h *helm) then(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = append(h.stopped, f)
}

// breaks has every start fail, or not any more.
func (h *helm) breaks(broken bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.broken = broken
}

func (h *helm) start(r *http.Request) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken {
		return fmt.Errorf("this start fails on purpose")
	}
	if h.main == nil {
		if h.main, err = labn8n.Launch(r.Context(), h.in); err != nil {
			h.main = nil
			return err
		}
	}
	if h.worker == nil && h.queue {
		if h.worker, err = labn8n.LaunchWorker(r.Context(), h.in); err != nil {
			h.worker = nil
			return err
		}
	}
	return nil
}

// servers are what runs now; a nil main ends the test.
func (h *helm) servers(t *testing.T) (main, worker *labn8n.Server) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.main == nil {
		t.Fatal("n8n does not run")
	}
	return h.main, h.worker
}

// byUser stops or starts n8n without n8keep.
func (h *helm) byUser(t *testing.T, what string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "POST", h.http.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if what == "stop" {
		err = h.stop(r)
	} else {
		err = h.start(r)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// set adds to the environment of the next starts.
func (h *helm) set(env ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.in.Env = append(h.in.Env, env...)
}
