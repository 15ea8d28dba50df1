package durable

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrLocked is returned by TryLock when another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// Lock is an advisory lock on a file (flock). The kernel releases it when the
// process ends, a kill included, so it never has to be cleaned up.
type Lock struct{ f *os.File }

// TryLock takes the lock of the file, which is made (0600) when missing, without
// waiting. The file stays after Unlock; who removes it must hold its lock.
func TryLock(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock %q: %w", path, unwrapPath(err))
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	// Whoever removes stale lock files may have unlinked this one in between; a
	// lock on a file without name keeps nobody out.
	held, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %q: %w", path, unwrapPath(err))
	}
	if named, err := os.Stat(path); err != nil || !os.SameFile(held, named) {
		f.Close()
		return nil, ErrLocked
	}
	return &Lock{f}, nil
}

// Unlock releases the lock. Closing alone is not enough: a child that this
// process starts at the same moment has a copy of the descriptor until it runs
// its program, and the lock with it.
func (l *Lock) Unlock() error {
	return errors.Join(syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN), l.f.Close())
}
