// Package fileblob is a [blob.Store] in a local folder: one file per object,
// mode 0600, in a folder that is made with mode 0700 by the first Put.
//
// An object is written under a temporary name, synced, and then linked or renamed
// to its name, which fails if the name is taken; then the folder is synced. So an object
// is there as a whole or not at all, also after a crash, and is never replaced.
// Temporary files are not listed. A writer holds a lock on its temporary file;
// the next Put removes those whose lock is free, because their writer is dead.
//
// What it refuses: following symbolic links, and opening anything that is not a
// regular file. Folders, links and files with other names in the folder are left
// alone. The folder's file system must have hard links or a rename that replaces
// nothing, which the first Put tries out; fsync is believed.
package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
)

// Store keeps objects in one folder. It is safe for use from several goroutines
// and several processes.
type Store struct {
	dir string

	// probed is set once the file system was found to be able to do what Put does.
	probed atomic.Bool

	// fault is called at each step of a Put or Delete; tests make it fail.
	fault func(step string) error
}

// New returns the store in dir, which need not exist: the first Put makes it.
// Reading from a folder that does not exist is an error that satisfies
// errors.Is(err, fs.ErrNotExist) and is not [blob.ErrNotFound].
func New(dir string) (*Store, error) {
	if dir == "" {
		return nil, errors.New("opening a target folder: no folder given")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening target folder %q: %w", dir, err)
	}
	return &Store{dir: abs, fault: func(string) error { return nil }}, nil
}

// Properties implements [blob.Store].
func (s *Store) Properties() blob.Properties {
	return blob.Properties{Location: s.dir, AtomicPut: true}
}

// Put implements [blob.Store].
func (s *Store) Put(ctx context.Context, name string, r io.Reader) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	info, err := s.put(ctx, name, r)
	if err != nil {
		return blob.Info{}, fmt.Errorf("storing %q in %q: %w", name, s.dir, err)
	}
	return info, nil
}

func (s *Store) put(ctx context.Context, name string, r io.Reader) (blob.Info, error) {
	if err := ctx.Err(); err != nil {
		return blob.Info{}, err
	}
	if err := s.makeDir(); err != nil {
		return blob.Info{}, err
	}
	s.sweep()
	if err := s.probe(); err != nil {
		return blob.Info{}, err
	}
	path := filepath.Join(s.dir, name)
	// Only to spare the reading: CommitNew decides.
	if _, err := os.Lstat(path); err == nil {
		return blob.Info{}, blob.ErrExists
	}
	f, lock, err := createLocked(path)
	if err != nil {
		return blob.Info{}, err
	}
	defer lock.Close()
	defer f.Abort()
	if err := s.copy(ctx, f, r); err != nil {
		return blob.Info{}, err
	}
	failpoint.Hit("fileblob.copied")
	if err := errors.Join(s.fault("commit"), ctx.Err()); err != nil {
		return blob.Info{}, err
	}
	if err := f.CommitNew(); errors.Is(err, fs.ErrExist) {
		return blob.Info{}, blob.ErrExists
	} else if err != nil {
		return blob.Info{}, err
	}
	if err := s.fault("committed"); err != nil {
		return blob.Info{}, err
	}
	return s.stat(name)
}

// makeDir makes the folder and its parents, durably, as far as they are not there.
func (s *Store) makeDir() error {
	if info, err := os.Stat(s.dir); err == nil && info.IsDir() {
		return nil
	}
	var names []string // folders that get a new name in them, innermost first
	for dir := s.dir; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		names = append(names, filepath.Dir(dir))
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	failpoint.Hit("fileblob.folder-made")
	for _, dir := range names {
		if err := durable.SyncDir(dir); err != nil {
			return err
		}
		if err := s.fault("synced " + dir); err != nil {
			return err
		}
	}
	return nil
}

// probe says before the reading of a whole archive what CommitNew would say after it.
func (s *Store) probe() error {
	if s.probed.Load() {
		return nil
	}
	if err := errors.Join(s.fault("probe"), durable.CheckNew(s.dir)); err != nil {
		return err
	}
	s.probed.Store(true)
	return nil
}

func (s *Store) copy(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, 1<<20)
	for {
		n, readErr := fill(ctx, r, buf)
		if readErr != nil && readErr != io.EOF {
			return readErr
		}
		if n > 0 {
			if err := s.fault("write"); err != nil {
				return err
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return unwrapPath(err)
			}
			failpoint.Hit("fileblob.written")
		}
		if readErr == io.EOF {
			return nil
		}
	}
}

// fill is io.ReadFull that keeps the reader's own io.ErrUnexpectedEOF apart from
// an ordinary end, and looks at ctx.
func fill(ctx context.Context, r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// Get implements [blob.Store].
func (s *Store) Get(ctx context.Context, name string) (io.ReadCloser, blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, blob.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return nil, blob.Info{}, fmt.Errorf("opening %q in %q: %w", name, s.dir, err)
	}
	// Opening a pipe would block, so the kind is looked at first.
	if _, err := s.stat(name); err != nil {
		return nil, blob.Info{}, fmt.Errorf("opening %q in %q: %w", name, s.dir, err)
	}
	f, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return nil, blob.Info{}, fmt.Errorf("opening %q in %q: %w", name, s.dir, s.explain(err))
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, blob.Info{}, fmt.Errorf("opening %q in %q: %w", name, s.dir, err)
	}
	return &reader{ctx: ctx, f: f, name: name, left: info.Size()}, infoOf(info), nil
}

// Stat implements [blob.Store].
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	err := ctx.Err()
	if err == nil {
		var info blob.Info
		if info, err = s.stat(name); err == nil {
			return info, nil
		}
	}
	return blob.Info{}, fmt.Errorf("looking for %q in %q: %w", name, s.dir, err)
}

func (s *Store) stat(name string) (blob.Info, error) {
	info, err := os.Lstat(filepath.Join(s.dir, name))
	if err != nil {
		return blob.Info{}, s.explain(err)
	}
	if !info.Mode().IsRegular() {
		return blob.Info{}, fmt.Errorf("%w: it is not a regular file", blob.ErrNotFound)
	}
	return infoOf(info), nil
}

// explain tells a missing object from a missing folder.
func (s *Store) explain(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return unwrapPath(err)
	}
	if _, dirErr := os.Stat(s.dir); dirErr != nil {
		return unwrapPath(dirErr)
	}
	return blob.ErrNotFound
}

// List implements [blob.Store].
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		fail := func(err error) { yield(blob.Info{}, fmt.Errorf("listing %q: %w", s.dir, err)) }
		if err := ctx.Err(); err != nil {
			fail(err)
			return
		}
		entries, err := os.ReadDir(s.dir) // sorted by name
		if err != nil {
			fail(unwrapPath(err))
			return
		}
		for _, e := range entries {
			if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), prefix) || blob.CheckName(e.Name()) != nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				fail(err)
				return
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				fail(unwrapPath(err))
				return
			}
			if !yield(infoOf(info), nil) {
				return
			}
		}
	}
}

// Delete implements [blob.Store].
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	if err := s.remove(ctx, name); err != nil {
		return fmt.Errorf("deleting %q from %q: %w", name, s.dir, err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// os.Remove would take an empty folder too.
	if _, err := s.stat(name); err != nil {
		return err
	}
	if err := s.fault("remove"); err != nil {
		return err
	}
	failpoint.Hit("fileblob.remove")
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
		return s.explain(err)
	}
	failpoint.Hit("fileblob.removed")
	if err := s.fault("removed"); err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}

func infoOf(info fs.FileInfo) blob.Info {
	return blob.Info{Name: info.Name(), Size: info.Size(), ModTime: info.ModTime()}
}

func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// reader yields exactly the size that was announced.
type reader struct {
	ctx  context.Context
	f    *os.File
	name string
	left int64
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.f.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err == io.EOF && r.left > 0 {
		err = fmt.Errorf("reading %q: it was cut meanwhile: %w", r.name, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (r *reader) Close() error { return r.f.Close() }
