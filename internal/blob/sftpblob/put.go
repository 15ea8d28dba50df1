package sftpblob

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/remote"
	"github.com/pkg/sftp"
)

// syncEvery is how many bytes may be written between two syncs. After a broken
// connection as many are read back at the most.
const syncEvery = 64 << 20

// temp is an open temporary file.
type temp struct {
	path string
	file *sftp.File
	made time.Time // by the server's clock
}

// put is one Put.
type put struct {
	s     *Store
	name  string
	c     *conn // nil when the connection is lost
	temp  *temp
	begun time.Time

	size    int64  // bytes confirmed by the server
	synced  int64  // bytes that it synced
	sum     uint32 // CRC-32C of those between
	resumed bool   // a connection broke, so what was not synced is in doubt

	litter  litter
	linking bool        // a request that gives the name was sent, and no answer heard
	last    fs.FileInfo // of the complete temporary file
}

func (s *Store) put(ctx context.Context, name string, r io.Reader) (blob.Info, error) {
	p := &put{s: s, name: name}
	defer p.abandon(ctx)
	if err := p.step(ctx, p.begin); err != nil {
		return blob.Info{}, err
	}
	if err := p.body(ctx, r); err != nil {
		return blob.Info{}, err
	}
	var info blob.Info
	err := p.step(ctx, func(ctx context.Context, c *conn) (err error) {
		info, err = p.finish(ctx, c)
		return err
	})
	return info, err
}

// step runs a part of the work on the put's connection, again on a new one if it breaks.
func (p *put) step(ctx context.Context, f func(ctx context.Context, c *conn) error) error {
	return p.s.cfg.Retry.Do(ctx, func(int) error {
		if p.c == nil {
			c, err := p.s.take(ctx)
			if err != nil {
				return err
			}
			p.c = c
			if err = p.resume(c); err != nil {
				return p.settle(err)
			}
		}
		return p.settle(f(ctx, p.c))
	})
}

// settle gives the connection up if it broke.
func (p *put) settle(err error) error {
	if !lost(err) && p.c.ctx.Err() == nil {
		return err
	}
	err = p.c.release(err)
	p.c, p.resumed = nil, true
	return err
}

// begin makes the temporary file, after everything that can be refused before the
// source is read.
func (p *put) begin(_ context.Context, c *conn) error {
	if err := p.s.makeDir(c); err != nil {
		return err
	}
	// Only to spare the reading: the end decides.
	if _, err := c.sftp.Lstat(p.s.path(p.name)); err == nil {
		return blob.ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := p.s.findManner(c, &p.litter); err != nil {
		return err
	}
	if p.temp != nil {
		return nil
	}
	t, err := p.s.create(c, &p.litter)
	if err != nil {
		return err
	}
	p.temp, p.begun = t, time.Now()
	p.s.sweep(c, t)
	return nil
}

// litter are the files that were asked for, heard of or not, and must go again.
type litter []string

// remove removes one of them; what does not exist is gone.
func (l *litter) remove(c *conn, path string) error {
	err := c.sftp.Remove(path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		*l = slices.DeleteFunc(*l, func(other string) bool { return other == path })
		return nil
	}
	return err
}

// create makes an empty temporary file.
func (s *Store) create(c *conn, l *litter) (*temp, error) {
	t := &temp{path: s.path(tempName())}
	*l = append(*l, t.path)
	var err error
	if t.file, err = c.sftp.OpenFile(t.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL); err != nil {
		return nil, s.explain(c, err)
	}
	// A server that refuses makes files by its own rules.
	_ = t.file.Chmod(0o600)
	fi, err := t.file.Stat()
	if err != nil {
		return nil, err
	}
	t.made = fi.ModTime()
	return t, nil
}

// resume opens the temporary file again after the connection broke, and makes sure
// that the server still has what it confirmed.
func (p *put) resume(c *conn) error {
	if p.temp == nil || p.last != nil {
		return nil
	}
	f, err := c.sftp.OpenFile(p.temp.path, os.O_WRONLY)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return &localError{errors.New("the connection broke, and the part that had arrived is gone")}
		}
		return err
	}
	p.temp.file = f
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < p.size {
		return &localError{fmt.Errorf("the connection broke, and of %d bytes that had arrived %d are left", p.size, fi.Size())}
	}
	return p.readBack(c)
}

// readBack compares what was written since the last sync: a server that crashed may
// have kept the size and lost the bytes. Without the right to read, size must do.
func (p *put) readBack(c *conn) error {
	if p.size == p.synced {
		return nil
	}
	f, err := c.sftp.Open(p.temp.path)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil
		}
		return err
	}
	defer f.Close()
	sum := crc32.New(castagnoli())
	if _, err := f.Seek(p.synced, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(sum, io.LimitReader(f, p.size-p.synced))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil
	case err != nil:
		return err
	case n != p.size-p.synced || sum.Sum32() != p.sum:
		return &localError{errors.New("the connection broke, and what had arrived is not what was sent")}
	}
	return nil
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// body writes what r yields.
func (p *put) body(ctx context.Context, r io.Reader) error {
	chunks := remote.NewChunks(ctx, r, p.s.cfg.ChunkSize)
	defer chunks.Close()
	for {
		c, err := p.next(ctx, chunks)
		if err != nil {
			return err
		}
		if err := p.step(ctx, func(_ context.Context, conn *conn) error { return p.write(conn, c.Data) }); err != nil {
			return err
		}
		// Not in write, which may be done twice.
		p.size += int64(len(c.Data))
		p.sum = crc32.Update(p.sum, castagnoli(), c.Data)
		if c.Last {
			return nil
		}
		if p.size-p.synced >= syncEvery {
			if err := p.step(ctx, p.sync); err != nil {
				return err
			}
		}
		chunks.Free(c)
	}
}

var errSlow = errors.New("the source takes its time")

// next waits for the source. As long as that takes, the temporary file is touched,
// so that nobody takes it for a leftover.
func (p *put) next(ctx context.Context, chunks *remote.Chunks) (remote.Chunk, error) {
	for {
		patience, cancel := context.WithTimeoutCause(ctx, p.s.cfg.Stale/4, errSlow)
		c := chunks.Next(patience)
		cancel()
		if c.Err == errSlow {
			if err := p.step(ctx, p.touch); err != nil {
				return c, err
			}
			continue
		}
		return c, c.Err
	}
}

func (p *put) touch(_ context.Context, c *conn) error {
	if err := p.s.fault("touch"); err != nil {
		return err
	}
	now := p.temp.made.Add(time.Since(p.begun))
	if err := c.sftp.Chtimes(p.temp.path, now, now); lost(err) {
		return err
	}
	return nil
}

func (p *put) write(_ *conn, data []byte) error {
	if err := p.s.fault("write"); err != nil {
		return err
	}
	if len(data) == 0 {
		return nil
	}
	n, err := p.temp.file.WriteAt(data, p.size)
	if err == nil && n != len(data) {
		err = fmt.Errorf("the server took %d of %d bytes", n, len(data))
	}
	return err
}

func (p *put) sync(_ context.Context, c *conn) error {
	if err := p.s.fault("sync"); err != nil {
		return err
	}
	if v, ok := c.sftp.HasExtension("fsync@openssh.com"); ok && v == "1" {
		if err := p.temp.file.Sync(); err != nil {
			return fmt.Errorf("syncing: %w", err)
		}
	}
	p.synced, p.sum = p.size, 0
	return nil
}

// finish makes the temporary file the object.
func (p *put) finish(ctx context.Context, c *conn) (blob.Info, error) {
	if p.last == nil {
		if err := p.sync(ctx, c); err != nil {
			return blob.Info{}, err
		}
		fi, err := p.temp.file.Stat()
		if err != nil {
			return blob.Info{}, err
		}
		if fi.Size() != p.size {
			return blob.Info{}, &localError{fmt.Errorf("the server has %d bytes of %d", fi.Size(), p.size)}
		}
		if err := p.temp.file.Close(); err != nil {
			return blob.Info{}, err
		}
		p.temp.file, p.last = nil, fi
	}
	if err := ctx.Err(); err != nil {
		return blob.Info{}, context.Cause(ctx)
	}
	if p.linking && p.arrived(c) {
		return infoOf(p.name, p.last), nil
	}
	if err := p.s.fault("commit"); err != nil {
		return blob.Info{}, err
	}
	again := p.linking
	p.linking = true
	err := p.s.place(c, p.temp, p.name, again, &p.litter)
	p.linking = lost(err)
	if err != nil {
		return blob.Info{}, err
	}
	if err := p.s.fault("committed"); err != nil {
		return blob.Info{}, err
	}
	return infoOf(p.name, p.last), nil
}

// arrived reports whether the request that gave the object its name was carried out
// though its answer was lost. Nobody else uses our names, and size and time agree.
func (p *put) arrived(c *conn) bool {
	fi, err := c.sftp.Lstat(p.s.path(p.name))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == p.last.Size() && fi.ModTime().Equal(p.last.ModTime())
}

// abandon removes what is left besides the object.
func (p *put) abandon(ctx context.Context) {
	// The context may have ended; a temporary file should not stay for that.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if p.c != nil && p.c.ctx.Err() != nil {
		p.c.release(nil)
		p.c = nil
	}
	for tries := 0; len(p.litter) > 0 && tries < 3; tries++ {
		if p.c == nil {
			c, err := p.s.take(ctx)
			if err != nil {
				break // the next Put sweeps
			}
			p.c = c
		} else if p.temp != nil && p.temp.file != nil {
			p.temp.file.Close()
		}
		for len(p.litter) > 0 && p.c != nil {
			if err := p.litter.remove(p.c, p.litter[0]); err != nil {
				if p.settle(err); p.c != nil {
					p.litter = p.litter[1:] // refused: it stays
				}
			}
		}
	}
	if p.c != nil {
		p.c.release(nil)
	}
}

// makeDir makes the folder and its parents as far as they are not there.
func (s *Store) makeDir(c *conn) error {
	var missing []string
	for dir := s.dir(); ; dir = path.Dir(dir) {
		fi, err := c.sftp.Stat(dir)
		if err == nil {
			if !fi.IsDir() {
				return &localError{fmt.Errorf("%q is not a folder", dir)}
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, dir)
		if dir == "/" || dir == "." {
			break
		}
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := c.sftp.Mkdir(missing[i]); err != nil {
			if fi, statErr := c.sftp.Stat(missing[i]); statErr == nil && fi.IsDir() {
				continue // somebody was faster
			}
			return fmt.Errorf("making folder %q: %w", missing[i], err)
		}
		_ = c.sftp.Chmod(missing[i], 0o700)
	}
	return nil
}
