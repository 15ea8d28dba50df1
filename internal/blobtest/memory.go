package blobtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
)

// Memory is a store in memory. The zero value is not usable.
type Memory struct {
	now func() time.Time

	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	content []byte
	time    time.Time
}

// NewMemory returns an empty store; now is its clock, nil for time.Now.
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{now: now, objects: map[string]object{}}
}

// Tamper replaces the content of an object by what change returns, as somebody
// with access to the medium could. It reports whether there is such an object.
func (m *Memory) Tamper(name string, change func([]byte) []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[name]
	if ok {
		o.content = change(bytes.Clone(o.content))
		m.objects[name] = o
	}
	return ok
}

// Properties implements [blob.Store].
func (m *Memory) Properties() blob.Properties {
	return blob.Properties{Location: "memory", AtomicPut: true}
}

// Put implements [blob.Store].
func (m *Memory) Put(ctx context.Context, name string, r io.Reader) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	if _, err := m.Stat(ctx, name); err == nil {
		return blob.Info{}, fmt.Errorf("storing %q: %w", name, blob.ErrExists)
	}
	var content bytes.Buffer
	if _, err := io.Copy(&content, contextReader{ctx, r}); err != nil {
		return blob.Info{}, fmt.Errorf("storing %q: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[name]; ok {
		return blob.Info{}, fmt.Errorf("storing %q: %w", name, blob.ErrExists)
	}
	m.objects[name] = object{content.Bytes(), m.now()}
	return m.infoLocked(name), nil
}

func (m *Memory) infoLocked(name string) blob.Info {
	o := m.objects[name]
	return blob.Info{Name: name, Size: int64(len(o.content)), ModTime: o.time}
}

// Get implements [blob.Store].
func (m *Memory) Get(ctx context.Context, name string) (io.ReadCloser, blob.Info, error) {
	info, err := m.Stat(ctx, name)
	if err != nil {
		return nil, blob.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return io.NopCloser(contextReader{ctx, bytes.NewReader(m.objects[name].content)}), info, nil
}

// Stat implements [blob.Store].
func (m *Memory) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return blob.Info{}, fmt.Errorf("looking for %q: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[name]; !ok {
		return blob.Info{}, fmt.Errorf("looking for %q: %w", name, blob.ErrNotFound)
	}
	return m.infoLocked(name), nil
}

// List implements [blob.Store].
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		var infos []blob.Info
		m.mu.Lock()
		for name := range m.objects {
			if strings.HasPrefix(name, prefix) {
				infos = append(infos, m.infoLocked(name))
			}
		}
		m.mu.Unlock()
		slices.SortFunc(infos, func(a, b blob.Info) int { return strings.Compare(a.Name, b.Name) })
		if err := ctx.Err(); err != nil {
			yield(blob.Info{}, fmt.Errorf("listing: %w", err))
			return
		}
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Delete implements [blob.Store].
func (m *Memory) Delete(ctx context.Context, name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("deleting %q: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[name]; !ok {
		return fmt.Errorf("deleting %q: %w", name, blob.ErrNotFound)
	}
	delete(m.objects, name)
	return nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
