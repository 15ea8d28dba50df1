package fileblob

import (
	"errors"
	"os"
	"syscall"
)

// tryLock locks f, which must be open for writing, until it is closed.
func tryLock(f *os.File) lockResult {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return locked
		case errors.Is(err, syscall.EWOULDBLOCK):
			return heldByOther
		case !errors.Is(err, syscall.EINTR):
			return noLocks
		}
	}
}
