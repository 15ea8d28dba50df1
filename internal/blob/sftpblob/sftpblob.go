// Package sftpblob is a [blob.Store] in a folder on an SFTP server: one file per
// object, mode 0600.
//
// An object is written under a temporary name, synced where the server offers
// fsync@openssh.com, and then linked to its name (hardlink@openssh.com) or renamed,
// which fails if the name is taken; the first Put tries out on two empty files that
// it really does. On servers whose rename replaces, a writer first makes a claim
// file that only one can make. So an object is there as a whole or not at all and is
// never replaced. When the connection breaks, writing goes on in the temporary file
// where it was; a stretch that the server had not synced is read back and compared.
//
// Temporary files are not listed. Their names say which process makes them: the next
// one on the same machine removes those of dead processes, on other machines those
// that were not touched for an hour.
//
// What it refuses: a server whose key is not in known_hosts, or is another one there;
// folders, links and files with other names, which it leaves alone. SFTP has neither
// locks nor put-only identities: who may write may also overwrite and delete, and the
// server's clock, disk and honesty are trusted as far as signatures do not reach.
// Whether a name survives a power failure of the server is up to its file system.
package sftpblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
	"golang.org/x/crypto/ssh"
)

// Store keeps objects in one folder of one server. It is safe for use from several
// goroutines; each operation under way has a connection of its own.
type Store struct {
	cfg    Config
	auth   []ssh.AuthMethod
	client ssh.ClientConfig // without auth and host key check

	mu   sync.Mutex
	idle []*conn

	manner atomic.Int32 // how objects get their names; 0 until the first Put
	swept  atomic.Bool
	heard  atomic.Bool // the server showed its key once

	silence time.Duration           // of a connection, for tests; 0 for the usual
	fault   func(step string) error // tests make steps fail
}

// New returns the store that cfg names. It reads keys and known_hosts, and connects
// to nobody.
func New(_ context.Context, cfg Config) (*Store, error) {
	if cfg.User == "" || cfg.Addr == "" || cfg.Env == nil {
		return nil, problem.New(problem.Usage, "opening an SFTP target: no user, no server or no environment given")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.ChunkSize == 0 {
		cfg.ChunkSize = 4 << 20
	}
	if cfg.Stale == 0 {
		cfg.Stale = time.Hour
	}
	s := &Store{cfg: cfg, fault: func(string) error { return nil }}
	s.cfg.Retry.Heard = s.heard.Load
	if err := s.prepare(); err != nil {
		var p *problem.Error
		if errors.As(err, &p) {
			return nil, p.WithOp("opening %q", cfg.location())
		}
		return nil, problem.Wrap(problem.Usage, err, "opening %q", cfg.location()).WithHint("%s", whereSecretsBelong)
	}
	return s, nil
}

// Properties implements [blob.Store]. That one of several writers wins is known once
// the first Put found the server to have hard links.
func (s *Store) Properties() blob.Properties {
	return blob.Properties{Location: s.cfg.location(), AtomicPut: manner(s.manner.Load()) == byLink}
}

// Put implements [blob.Store].
func (s *Store) Put(ctx context.Context, name string, r io.Reader) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	info, err := s.put(ctx, name, r)
	if err != nil {
		return blob.Info{}, s.fail(err, "storing %q in %q", name, s.cfg.location())
	}
	return info, nil
}

// Get implements [blob.Store].
func (s *Store) Get(ctx context.Context, name string) (io.ReadCloser, blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, blob.Info{}, err
	}
	info, err := s.stat(ctx, name)
	if err == nil {
		r := &remote.Reader{
			Size: info.Size, Retry: s.cfg.Retry,
			Open: func(ctx context.Context, offset int64) (io.ReadCloser, error) { return s.from(ctx, info, offset) },
			Fail: func(err error, offset int64) error {
				return s.fail(err, "reading %q from %q at byte %d", name, s.cfg.location(), offset)
			},
		}
		if err = r.Start(ctx); err == nil {
			return r, info, nil
		}
	}
	return nil, blob.Info{}, s.fail(err, "opening %q in %q", name, s.cfg.location())
}

// from reads ahead of its consumer: one request at a time would be slow on long lines.
func (s *Store) from(ctx context.Context, info blob.Info, offset int64) (io.ReadCloser, error) {
	c, err := s.take(ctx)
	if err != nil {
		return nil, err
	}
	f, err := c.sftp.Open(s.path(info.Name))
	if err != nil {
		return nil, c.release(err)
	}
	now, err := f.Stat()
	if err == nil && now.Size() < info.Size {
		err = fmt.Errorf("it was cut meanwhile to %d bytes", now.Size())
		f.Close()
		c.release(nil)
		return nil, err
	}
	if err == nil {
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		return nil, c.release(err)
	}
	pr, pw := io.Pipe()
	d := &download{PipeReader: pr, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		_, err := f.WriteTo(pw)
		if err == nil {
			err = f.Close()
		}
		if errors.Is(err, io.ErrClosedPipe) { // the consumer had enough
			err = f.Close()
		}
		pw.CloseWithError(c.release(err))
	}()
	return d, nil
}

// download is a file being read.
type download struct {
	*io.PipeReader
	done chan struct{}
}

func (d *download) Close() error {
	d.PipeReader.Close()
	<-d.done
	return nil
}

// Stat implements [blob.Store].
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	info, err := s.stat(ctx, name)
	if err != nil {
		return blob.Info{}, s.fail(err, "looking for %q in %q", name, s.cfg.location())
	}
	return info, nil
}

func (s *Store) stat(ctx context.Context, name string) (info blob.Info, err error) {
	err = s.do(ctx, func(c *conn, _ int) (err error) {
		info, err = s.look(c, name)
		return err
	})
	return info, err
}

func (s *Store) look(c *conn, name string) (blob.Info, error) {
	fi, err := c.sftp.Lstat(s.path(name))
	if err != nil {
		return blob.Info{}, s.explain(c, err)
	}
	if !fi.Mode().IsRegular() {
		return blob.Info{}, fmt.Errorf("%w: it is not a regular file", blob.ErrNotFound)
	}
	return infoOf(name, fi), nil
}

func infoOf(name string, fi fs.FileInfo) blob.Info {
	return blob.Info{Name: name, Size: fi.Size(), ModTime: fi.ModTime()}
}

// explain tells a missing object from a missing folder.
func (s *Store) explain(c *conn, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, dirErr := c.sftp.Lstat(s.dir()); dirErr != nil {
		if errors.Is(dirErr, fs.ErrNotExist) {
			return fmt.Errorf("the folder is not there: %w", fs.ErrNotExist)
		}
		return dirErr
	}
	return blob.ErrNotFound
}

// List implements [blob.Store].
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		var entries []fs.FileInfo
		err := s.do(ctx, func(c *conn, _ int) (err error) {
			entries, err = c.sftp.ReadDirContext(ctx, s.dir())
			return err
		})
		if err != nil {
			yield(blob.Info{}, s.fail(err, "listing %q", s.cfg.location()))
			return
		}
		slices.SortFunc(entries, func(a, b fs.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
		for _, e := range entries {
			if !e.Mode().IsRegular() || !strings.HasPrefix(e.Name(), prefix) || blob.CheckName(e.Name()) != nil {
				continue
			}
			if !yield(infoOf(e.Name(), e), nil) {
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
	err := s.do(ctx, func(c *conn, attempt int) error {
		_, err := s.look(c, name)
		if err == nil {
			err = s.explain(c, c.sftp.Remove(s.path(name)))
		}
		if attempt > 0 && errors.Is(err, blob.ErrNotFound) {
			return nil // the first attempt did it and was not heard
		}
		return err
	})
	if err != nil {
		return s.fail(err, "deleting %q from %q", name, s.cfg.location())
	}
	return nil
}

// Clock implements [blob.Clocked] by the time of an empty temporary file.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	var now time.Time
	err := s.do(ctx, func(c *conn, _ int) error {
		if err := s.makeDir(c); err != nil {
			return err
		}
		var l litter
		t, err := s.create(c, &l)
		if err != nil {
			return err
		}
		now = t.made
		t.file.Close()
		return l.remove(c, t.path)
	})
	if err != nil {
		return time.Time{}, s.fail(err, "asking %q for its time", s.cfg.location())
	}
	return now, nil
}

// dir is the folder as the server understands it.
func (s *Store) dir() string {
	if s.cfg.Dir == "" {
		return "."
	}
	return s.cfg.Dir
}

func (s *Store) path(name string) string { return path.Join(s.dir(), name) }

// fail says what was being done. Refusals get a hint, as far as there is one.
func (s *Store) fail(err error, format string, args ...any) error {
	doing := fmt.Sprintf(format, args...)
	var p *problem.Error
	var lost *lostError
	switch {
	case errors.Is(err, blob.ErrNotFound), errors.Is(err, blob.ErrExists), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case errors.As(err, &p):
		return problem.Wrap(p.Kind, err, "%s", doing).WithHint("%s", p.Hint)
	case errors.As(err, &lost) && !s.heard.Load():
		return problem.Wrap(problem.Unreachable, err, "%s", doing).WithHint("no SSH server was reached at %s: check the host and the port in the URL, the network and any firewall in between", s.cfg.Addr)
	case errors.As(err, &lost):
		return problem.Wrap(problem.Unreachable, err, "%s", doing).WithHint("it was tried for a while: check the network and the server, then run it again")
	case errors.Is(err, fs.ErrPermission):
		return problem.Wrap(problem.Unreachable, err, "%s", doing).WithHint("give the user %s the rights for it on the server", s.cfg.User)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
