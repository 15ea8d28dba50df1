//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/n8keep/n8keep/internal/labn8n"
)

// writer updates two credentials and runs a workflow, over and over, through n8n's own interfaces: number n goes into
// Writer A, then into Writer B, so every consistent snapshot holds equal numbers or A one ahead.
type writer struct {
	cancel      context.CancelFunc
	done        chan struct{}
	err         error
	begun, made *counter
}

func startWriter(t *testing.T, s *labn8n.Server, f *labn8n.Facts) *writer {
	t.Helper()
	return startWriterBy(t, s, f, (*labn8n.Client).UpdateCredential)
}

// startWriterBy is startWriter that saves credentials in that way.
func startWriterBy(t *testing.T, s *labn8n.Server, f *labn8n.Facts, save func(*labn8n.Client, context.Context, labn8n.Credential) error) *writer {
	t.Helper()
	c := s.Client(t, f.APIKey)
	if err := c.Login(t.Context(), f.Email, f.Password, f.MFASecret); err != nil {
		t.Fatal(err)
	}
	var a, b labn8n.Credential
	for _, cred := range f.Credentials {
		switch cred.Name {
		case "Writer A":
			a = cred
		case "Writer B":
			b = cred
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{cancel: cancel, done: make(chan struct{}), begun: newCounter(), made: newCounter()}
	t.Cleanup(w.abandon)
	go func() {
		defer close(w.done)
		for n := int64(1); ctx.Err() == nil; n++ {
			w.begun.set(n)
			for _, cred := range []labn8n.Credential{a, b} {
				cred.Data = map[string]any{"name": "X-Writer", "value": writerValue(n)}
				if err := save(c, ctx, cred); err != nil {
					w.err = err
					return
				}
			}
			w.made.set(n)
			if _, err := c.CallWebhook(ctx, f); err != nil {
				w.err = err
				return
			}
		}
	}()
	w.await(t, 3)
	return w
}

func writerValue(n int64) string { return fmt.Sprintf("writer-value-%06d", n) }

// await returns when n more numbers are written.
func (w *writer) await(t *testing.T, n int64) {
	t.Helper()
	start, _ := w.made.get()
	for {
		now, changed := w.made.get()
		if now >= start+n {
			return
		}
		select {
		case <-changed:
		case <-w.done:
			t.Fatalf("the writer ended: %v", w.err)
		}
	}
}

// stop ends the writer, which must have been well until now.
func (w *writer) stop(t *testing.T) {
	t.Helper()
	w.await(t, 1)
	w.abandon()
}

func (w *writer) abandon() {
	w.cancel()
	<-w.done
}

// counter is a number that can be waited for.
type counter struct {
	mu   sync.Mutex
	n    int64
	wake chan struct{}
}

func newCounter() *counter { return &counter{wake: make(chan struct{})} }

func (c *counter) set(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = n
	close(c.wake)
	c.wake = make(chan struct{})
}

// get returns the number and a channel that the next set closes.
func (c *counter) get() (int64, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n, c.wake
}
