package labn8n

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Echo is the outside service that seeded workflows call. It answers every request with its headers, so that a webhook's
// answer shows which secrets n8n sent, and notes the resume address of a waiting execution.
type Echo struct {
	*httptest.Server

	mu     sync.Mutex
	resume string
}

// NewEcho starts one that lives until the test ends; workflows of every instance restored in the test call the same.
func NewEcho(t testing.TB) *Echo {
	e := &Echo{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u := r.Header.Get("X-Resume-Url"); u != "" {
			e.mu.Lock()
			e.resume = u
			e.mu.Unlock()
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]any{"path": r.URL.Path, "headers": r.Header})
	}))
	t.Cleanup(e.Close)
	return e
}

// ResumeURL is the address that continues the waiting execution, empty before it was seen.
func (e *Echo) ResumeURL() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.resume
}
