package backup_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"testing"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/retention"
	"github.com/n8keep/n8keep/internal/state"
)

// shelf is a target with archives that are signed as ours are, and hold bytes that
// nobody here opens.
type shelf struct {
	t      testing.TB
	memory *blobtest.Memory
	store  blob.Store // memory, or what is put before it
	clock  time.Time  // the target's and this host's
	key    ed25519.PrivateKey
	trust  backup.Trust
	state  *state.DB
	n      int
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func newShelf(t testing.TB) *shelf {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{t: t, clock: noon, key: key, trust: backup.Trust{Signers: []archive.Signer{archive.SignerOf(key)}}}
	s.memory = blobtest.NewMemory(func() time.Time { return s.clock })
	s.store = s.memory
	s.state, err = state.Open(t.Context(), state.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.state.Close() })
	return s
}

// sign makes the two objects of an archive.
func (s *shelf) sign(created time.Time, key ed25519.PrivateKey, change ...func(*archive.Sidecar)) (id archive.ID, content, sidecar []byte) {
	s.t.Helper()
	s.n++
	// Ids that sort as they were made, so that tests can be read.
	id = archive.ID(fmt.Sprintf("%s-prod-aa%c%c%c%c", created.UTC().Format("20060102T150405Z"), 'a'+s.n/17576%26, 'a'+s.n/676%26, 'a'+s.n/26%26, 'a'+s.n%26))
	content = bytes.Repeat([]byte(id), 10)
	sum := sha256.Sum256(content)
	doc := archive.Sidecar{ID: id, Instance: "prod", Created: created, State: archive.StateGood, Engine: "sqlite", N8NVersion: "2.41.1", KeyFingerprint: "n8k1-aaaaaaaaaaaaaaaa",
		RecipientKind: "x25519", History: "all", Size: int64(len(content)), PlainSize: 10, SHA256: hex.EncodeToString(sum[:])}
	for _, c := range change {
		c(&doc)
	}
	sidecar, err := archive.SignSidecar(doc, key)
	if err != nil {
		s.t.Fatal(err)
	}
	return id, content, sidecar
}

func (s *shelf) put(name string, content []byte) {
	s.t.Helper()
	if _, err := s.store.Put(s.t.Context(), name, bytes.NewReader(content)); err != nil {
		s.t.Fatal(err)
	}
}

// add stores an archive that was made and stored that long before noon.
func (s *shelf) add(age time.Duration, change ...func(*archive.Sidecar)) archive.ID {
	s.t.Helper()
	return s.addOf(noon.Add(-age), noon.Add(-age), s.key, change...)
}

func (s *shelf) addOf(created, stored time.Time, key ed25519.PrivateKey, change ...func(*archive.Sidecar)) archive.ID {
	s.t.Helper()
	id, content, sidecar := s.sign(created, key, change...)
	now := s.clock
	s.clock = stored
	s.put(id.ArchiveName(), content)
	s.put(id.SidecarName(), sidecar)
	s.clock = now
	return id
}

func (s *shelf) pruneConfig(p retention.Policy) backup.PruneConfig {
	return backup.PruneConfig{ListConfig: backup.ListConfig{Store: s.store, Trust: s.trust}, State: s.state, Now: func() time.Time { return s.clock },
		Policies: map[retention.Kind]retention.Policy{retention.Archives: p, retention.Workflows: p}}
}

func (s *shelf) plan(p retention.Policy) *backup.Prune {
	s.t.Helper()
	plan, err := backup.PlanPrune(s.t.Context(), s.pruneConfig(p))
	if err != nil {
		s.t.Fatalf("%v (hint %q)", err, problem.HintOf(err))
	}
	return plan
}

func (s *shelf) names() []string {
	s.t.Helper()
	return blobtest.Names(s.t, s.memory, "")
}

// remember records a verification of an archive.
func (s *shelf) remember(id archive.ID, level backup.Level, at time.Time, outcome error) {
	s.t.Helper()
	signed, err := backup.ReadSidecar(s.t.Context(), s.memory, id, s.trust)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := backup.Remember(s.t.Context(), s.state, s.memory.Properties().Location, signed.Sidecar, level, at, outcome); err != nil {
		s.t.Fatal(err)
	}
}

// marked is a store that says of objects what a real one with versions and locks
// says.
type marked struct {
	blob.Store
	locked   map[string]time.Time
	altered  map[string]string
	inList   bool // List tells of locks, too
	clock    time.Time
	clockErr error
}

func (m *marked) mark(i blob.Info, locks bool) blob.Info {
	i.Altered = m.altered[i.Name]
	if locks {
		i.LockedUntil = m.locked[i.Name]
	}
	return i
}

func (m *marked) Stat(ctx context.Context, name string) (blob.Info, error) {
	i, err := m.Store.Stat(ctx, name)
	return m.mark(i, true), err
}

func (m *marked) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		for i, err := range m.Store.List(ctx, prefix) {
			if !yield(m.mark(i, m.inList), err) {
				return
			}
		}
	}
}

func (m *marked) Get(ctx context.Context, name string) (io.ReadCloser, blob.Info, error) {
	r, i, err := m.Store.Get(ctx, name)
	return r, m.mark(i, true), err
}

func (m *marked) Delete(ctx context.Context, name string) error {
	if _, ok := m.locked[name]; ok {
		return fmt.Errorf("deleting %q: %w", name, blob.ErrLocked)
	}
	return m.Store.Delete(ctx, name)
}

func (m *marked) Clock(context.Context) (time.Time, error) { return m.clock, m.clockErr }
