package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
)

// upload streams one object into a store while it is written.
type upload struct {
	*io.PipeWriter
	store blob.Store
	name  string
	done  chan error
	over  bool
	err   error

	mu   sync.Mutex
	lost error // why the target is given up; nil while it takes part
}

func startUpload(ctx context.Context, store blob.Store, name string) *upload {
	r, w := io.Pipe()
	u := &upload{PipeWriter: w, store: store, name: name, done: make(chan error, 1)}
	go func() {
		_, err := store.Put(ctx, name, r)
		r.CloseWithError(err)
		u.done <- err
	}()
	return u
}

// lose gives the target up; the first reason stands.
func (u *upload) lose(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.lost == nil {
		u.lost = err
	}
}

// reason is why the target is given up, nil while it takes part.
func (u *upload) reason() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.lost
}

var errAborted = errors.New("the backup was given up")

func (u *upload) wait() error {
	if !u.over {
		u.over, u.err = true, <-u.done
	}
	return u.err
}

func (u *upload) finish() error {
	u.Close()
	if err := u.wait(); err != nil {
		return targetProblem(err, u.store, "writing the archive")
	}
	return nil
}

// fail ends an upload whose pipe is broken: the target's own reason, if it has one.
func (u *upload) fail() error {
	u.CloseWithError(errAborted)
	switch put := u.wait(); {
	case put == nil:
		return problem.New(problem.Unreachable, "storing %q: the target took only a part of it and reported success", u.name).
			WithHint("do not rely on this target; what it holds under that name is incomplete and not listed as a backup")
	case !errors.Is(put, errAborted):
		return targetProblem(put, u.store, "writing the archive")
	}
	return nil
}

// uploads sends one stream to several stores. A store that fails is given up, and
// the others go on. Write may still run in the archive writer's goroutine while
// explain is called.
type uploads struct {
	list []*upload
}

func startUploads(ctx context.Context, stores []blob.Store, name string) *uploads {
	u := &uploads{}
	for _, s := range stores {
		u.list = append(u.list, startUpload(ctx, s, name))
	}
	return u
}

// Write returns an error when no store is left.
func (u *uploads) Write(p []byte) (int, error) {
	if len(u.list) == 1 && u.list[0].reason() == nil {
		n, err := u.list[0].Write(p)
		u.list[0].lose(err)
		return n, err
	}
	var wg sync.WaitGroup
	for _, up := range u.list {
		if up.reason() != nil {
			continue
		}
		wg.Go(func() {
			_, err := up.Write(p)
			up.lose(err)
		})
	}
	wg.Wait()
	if err := u.verdict(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// finish ends the streams; the error is the first store's, when none has taken
// the archive.
func (u *uploads) finish() error {
	var wg sync.WaitGroup
	for _, up := range u.list {
		wg.Go(func() {
			if up.reason() == nil {
				up.lose(up.finish())
				return
			}
			if err := up.fail(); err != nil {
				up.mu.Lock()
				up.lost = err // says more than the broken pipe
				up.mu.Unlock()
			}
		})
	}
	wg.Wait()
	return u.verdict()
}

func (u *uploads) verdict() error {
	for _, up := range u.list {
		if up.reason() == nil {
			return nil
		}
	}
	return u.list[0].reason()
}

// commit puts the sidecar where the archive is.
func (u *uploads) commit(ctx context.Context, id archive.ID, sidecar []byte) error {
	for _, up := range u.list {
		if up.reason() != nil {
			continue
		}
		if _, err := up.store.Put(ctx, id.SidecarName(), bytes.NewReader(sidecar)); err != nil {
			up.lose(targetProblem(err, up.store, "writing the sidecar of %q", id).
				WithHint("the archive itself is stored but does not count without its sidecar; run the backup again"))
		}
	}
	return u.verdict()
}

func (u *uploads) abort() {
	for _, up := range u.list {
		up.CloseWithError(errAborted)
	}
	for _, up := range u.list {
		up.wait()
	}
}

// explain prefers the targets' own error over the broken pipe it caused.
func (u *uploads) explain(err error) error {
	for _, up := range u.list {
		up.lose(err) // before the pipe is closed, which a running Write would take for the reason
	}
	var reason error
	for _, up := range u.list {
		if e := up.fail(); e != nil && reason == nil {
			reason = e
		}
	}
	for _, up := range u.list {
		if errors.Is(up.err, errAborted) {
			return err // a target that still took part: the cause is elsewhere
		}
	}
	if reason != nil {
		return reason
	}
	return err
}

// stored says where the archive is, and what went wrong with the other targets.
func (u *uploads) stored() (targets []Stored) {
	for _, up := range u.list {
		targets = append(targets, Stored{Target: up.store.Properties().Location, Err: up.reason()})
	}
	return targets
}

// Stored is what became of the archive in one target.
type Stored struct {
	Target string // location, for people
	Err    error  // nil: archive and sidecar are there
}
