//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/labn8n"
)

// TestReencryptMany takes 20,000 credentials under the active data key while many writers save credentials through n8n as
// fast as it goes, and back again.
func TestReencryptMany(t *testing.T) {
	if os.Getenv("N8KEEP_SOAK") == "" {
		return // TestReencrypt has few credentials and one writer
	}
	for _, v := range versions() {
		for _, p := range []place{{version: v, dataKeys: true}, {version: v, dataKeys: true, postgres: true}} {
			if p.cliReads() {
				t.Run(p.name(), func(t *testing.T) { manyStory(t, p) })
			}
		}
	}
}

func manyStory(t *testing.T, p place) {
	const many, writers = 20_000, 16
	h, l := begin(t, p)
	r := newRotator(t, h, l)
	var creds []labn8n.Credential
	for i := range many {
		creds = append(creds, labn8n.Credential{ID: fmt.Sprintf("labMany%09d", i), Name: fmt.Sprintf("Many %d", i), Type: "httpHeaderAuth",
			Data: map[string]any{"name": "X-Many", "value": fmt.Sprintf("many-value-%09d", i)}})
	}
	l.in.ImportCredentials(t, l.facts, creds...)

	acknowledged := map[string]int64{} // by credential, over both directions
	for _, to := range []string{"active", "legacy"} {
		if to == "legacy" {
			h.byUser(t, "stop")
			h.set(dataKeysOff)
			r.env = []string{dataKeysOff}
			h.byUser(t, "start")
		}
		main, _ := h.servers(t)
		s := startSwarm(t, main, l.facts, creds, writers, acknowledged)
		var done api.Reencryption
		decode(t, r.run(t, 0, slices.Concat([]string{"reencrypt"}, r.source, []string{"--to", to, "--yes", "--json"})...), &done)
		rate := s.stop(t)
		if done.Changed < many || done.Left != 0 || done.Unopened != 0 {
			t.Errorf("encrypted to %s: %+v", to, done)
		}
		t.Logf("to %s: %d values in %.1f s, %d saved by n8n first, %d passes; the writers saved %.0f a second", to, done.Changed, done.Seconds, done.Lost, len(done.Passes), rate)
	}

	now := l.in.ExportCredentials(t)
	for i, cred := range creds {
		want := cred.Data
		if n, ok := acknowledged[cred.ID]; ok {
			want = swarmData(i, n)
		}
		if diff := cmp.Diff(any(want), now[cred.ID]["data"]); diff != "" {
			t.Errorf("credential %s differs (-acknowledged +exported):\n%s", cred.ID, diff)
		}
	}
}

// swarm saves credentials of its own, each writer one after the other, with rising numbers.
type swarm struct {
	finish chan struct{}
	all    sync.WaitGroup
	saves  atomic.Int64
	began  time.Time

	mu           sync.Mutex
	acknowledged map[string]int64
	err          error
}

func swarmData(i int, n int64) map[string]any {
	return map[string]any{"name": "X-Many", "value": fmt.Sprintf("swarm-value-%05d-%09d", i, n)}
}

func startSwarm(t *testing.T, s *labn8n.Server, f *labn8n.Facts, creds []labn8n.Credential, writers int, acknowledged map[string]int64) *swarm {
	t.Helper()
	w := &swarm{finish: make(chan struct{}), began: time.Now(), acknowledged: acknowledged}
	for k := range writers {
		c := s.Client(t, f.APIKey)
		w.all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-w.finish:
					return
				default:
				}
				i := (n*writers + k) % (len(creds) - len(creds)%writers) // no two writers have the same
				if err := w.save(t.Context(), c, creds[i], i); err != nil {
					w.mu.Lock()
					w.err = err
					w.mu.Unlock()
					return
				}
			}
		})
	}
	return w
}

// save writes the number after the last one that n8n acknowledged.
func (w *swarm) save(ctx context.Context, c *labn8n.Client, cred labn8n.Credential, i int) error {
	w.mu.Lock()
	n := w.acknowledged[cred.ID] + 1
	w.mu.Unlock()
	cred.Data = swarmData(i, n)
	if err := c.PatchCredential(ctx, cred); err != nil {
		return err
	}
	w.saves.Add(1)
	w.mu.Lock()
	w.acknowledged[cred.ID] = n
	w.mu.Unlock()
	return nil
}

// stop lets every writer finish what it has begun, and says how many saves a second there were.
func (w *swarm) stop(t *testing.T) float64 {
	t.Helper()
	close(w.finish)
	w.all.Wait()
	if w.err != nil {
		t.Errorf("a writer ended: %v", w.err)
	}
	return float64(w.saves.Load()) / time.Since(w.began).Seconds()
}
