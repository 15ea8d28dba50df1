package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

const (
	lockWait  = 10 * time.Second
	lockPause = 5 * time.Millisecond
)

// append writes one line as the only writer and returns when it is on the disk.
func (l *Log) append(ctx context.Context, r record) error {
	if err := l.appendLocked(ctx, r); err != nil {
		return l.explain(err)
	}
	return nil
}

func (l *Log) appendLocked(ctx context.Context, r record) error {
	f, err := l.lock(ctx)
	if err != nil {
		return err
	}
	defer f.Close() // gives up the lock too
	seq, prev, size, err := l.tail(f)
	if err != nil {
		return err
	}
	torn, err := l.putAside(f, seq+1)
	if err != nil {
		return err
	}
	if torn != nil {
		note := record{Phase: "note", Actor: r.Actor, Command: "audit", Detail: torn}
		if seq, prev, size, err = l.write(f, note, seq, prev, size); err != nil {
			return err
		}
		l.logger.Warn("cut-off audit line put aside", "files", torn["files"], "bytes", torn["bytes"])
	}
	_, _, _, err = l.write(f, r, seq, prev, size)
	return err
}

func (l *Log) write(f *os.File, r record, seq int64, prev string, size int64) (int64, string, int64, error) {
	r.V, r.Seq, r.Prev, r.SudoUser = 1, seq+1, prev, l.sudoUser
	r.Time = l.now().UTC().Format("2006-01-02T15:04:05.000Z")
	line, hash, err := r.seal()
	if err != nil {
		return 0, "", 0, err
	}
	failpoint.Hit("audit.write")
	n, err := f.Write(line)
	failpoint.Hit("audit.written")
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		if n > 0 {
			// Only a tidy-up: a part that stays is put aside by the next writer.
			f.Truncate(size)
			f.Sync()
		}
		return 0, "", 0, err
	}
	failpoint.Hit("audit.synced")
	return r.Seq, hash, size + int64(len(line)), nil
}

// openFile opens the record for appending, made 0600 when missing, and its folder
// too. A symbolic link is refused: the state folder may be writable by more users
// than it should.
func (l *Log) openFile() (*os.File, error) {
	const flags = os.O_RDWR | os.O_APPEND | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
	f, err := os.OpenFile(l.path, flags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(l.dir, 0o700); err != nil {
			return nil, err
		}
		if f, err = os.OpenFile(l.path, flags|os.O_CREATE, 0o600); err == nil {
			err = durable.SyncDir(l.dir)
		}
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock opens the record and waits to be its only writer. A record that was
// moved away while we waited is not the one to write to.
func (l *Log) lock(ctx context.Context) (*os.File, error) {
	for {
		f, err := l.openFile()
		if err != nil {
			return nil, err
		}
		if err := waitLock(ctx, f, syscall.LOCK_EX); err != nil {
			f.Close()
			return nil, err
		}
		failpoint.Hit("audit.locked")
		ours, err1 := f.Stat()
		named, err2 := os.Lstat(l.path)
		if err1 == nil && err2 == nil && os.SameFile(ours, named) {
			return f, nil
		}
		f.Close()
		if err1 != nil {
			return nil, err1
		}
		if err2 != nil && !errors.Is(err2, fs.ErrNotExist) {
			return nil, err2
		}
	}
}

func waitLock(ctx context.Context, f *os.File, how int) error {
	deadline := time.NewTimer(lockWait)
	defer deadline.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return errLocked
		case <-time.After(lockPause):
		}
	}
}

var errLocked = errors.New("another process has held its lock for 10 seconds")

// tail reads the last whole line: its number, its hash, and where it ends.
// What follows it is a cut-off line.
func (l *Log) tail(f *os.File) (seq int64, hash string, end int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, "", 0, err
	}
	from := max(0, info.Size()-2*maxLine)
	b := make([]byte, info.Size()-from)
	if _, err := f.ReadAt(b, from); err != nil && err != io.EOF {
		return 0, "", 0, err
	}
	whole := b[:bytes.LastIndexByte(b, '\n')+1]
	if len(whole) == 0 {
		if from > 0 {
			return 0, "", 0, &brokenError{reason: errNotALine}
		}
		return 0, noHash, 0, nil
	}
	line := whole[:len(whole)-1]
	start := bytes.LastIndexByte(line, '\n') + 1
	line = line[start:]
	r, hash, err := unseal(line)
	if err != nil {
		return 0, "", 0, &brokenError{reason: err}
	}
	return r.Seq, hash, from + int64(len(whole)), nil
}

// putAside copies what a power loss left of line seq into a file of its own,
// cuts it off, and returns the detail of the note to write; nil when there is
// nothing to say. A kill between the steps is made up for by the next call: the
// copy's name holds the number of the line that the note will be.
func (l *Log) putAside(f *os.File, seq int64) (map[string]any, error) {
	_, _, end, err := l.tail(f)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	prefix := fmt.Sprintf("%s.torn-%d-", FileName, seq)
	if info.Size() > end {
		part := make([]byte, info.Size()-end)
		if _, err := f.ReadAt(part, end); err != nil && err != io.EOF {
			return nil, err
		}
		sum := sha256.Sum256(part)
		aside, err := durable.Create(filepath.Join(l.dir, prefix+hex.EncodeToString(sum[:4])), 0o600)
		if err != nil {
			return nil, err
		}
		defer aside.Abort()
		if _, err := aside.Write(part); err != nil {
			return nil, err
		}
		if err := aside.CommitNew(); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		failpoint.Hit("audit.put-aside")
		if err := f.Truncate(end); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		failpoint.Hit("audit.cut")
	}
	names, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, err
	}
	var files []string
	var total int64
	for _, n := range names {
		if !strings.HasPrefix(n.Name(), prefix) {
			continue
		}
		info, err := n.Info()
		if err != nil {
			return nil, err
		}
		files = append(files, n.Name())
		total += info.Size()
	}
	if files == nil {
		return nil, nil
	}
	return map[string]any{"event": "cut-off line put aside", "files": files, "bytes": total}, nil
}

// brokenError is a last line that no power loss explains.
type brokenError struct{ reason error }

func (e *brokenError) Error() string { return "its last line is broken: " + e.reason.Error() }

// explain turns a failure into what a person needs to go on.
func (l *Log) explain(err error) error {
	var p *problem.Error
	if errors.As(err, &p) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var pathErr *fs.PathError
	cause := err
	if errors.As(err, &pathErr) {
		cause = pathErr.Err
	}
	say := func(k problem.Kind) *problem.Error {
		return &problem.Error{Kind: k, Msg: fmt.Sprintf("the audit log %q cannot be written: %v", l.path, cause), Err: err}
	}
	var broken *brokenError
	switch {
	case errors.As(err, &broken):
		return say(problem.Damaged).
			WithHint("somebody changed the file, or the disk damaged it; keep it as evidence and begin a new one:").
			WithHint("mv %s %s.broken", l.path, l.path)
	case errors.Is(err, errLocked):
		return say(problem.Busy).
			WithHint("find the process that holds it: fuser -v %s", l.path)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return say(problem.Unexpected).
			WithHint("free some space there (df -h %s), or choose another folder with --state-dir; then run the command again", l.dir)
	case errors.Is(err, fs.ErrPermission):
		return say(problem.Unexpected).
			WithHint("run n8keep as the user who owns that folder, or choose another one with --state-dir")
	case errors.Is(err, syscall.EROFS):
		return say(problem.Unexpected).
			WithHint("the file system is read-only; choose another folder with --state-dir")
	case errors.Is(err, syscall.ELOOP):
		return say(problem.Unexpected).
			WithHint("it is a symbolic link, which is refused; choose the folder it points to with --state-dir")
	}
	return say(problem.Unexpected).WithHint("choose another folder with --state-dir")
}
