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
// waiting. The file stays after Unlock: removing it would let two processes hold
// locks of different files under one name.
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
	return &Lock{f}, nil
}

// Unlock releases the lock. Closing alone is not enough: a child that this
// process starts at the same moment has a copy of the descriptor until it runs
// its program, and the lock with it.
func (l *Lock) Unlock() error {
	return errors.Join(syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN), l.f.Close())
}
