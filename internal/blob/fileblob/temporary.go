package fileblob

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
)

type lockResult int

const (
	locked lockResult = iota
	heldByOther
	noLocks // the file system has none: leftovers are then nobody's to remove
)

// createLocked begins the file at path and locks it. The lock is on a second
// descriptor, so that it outlives the closing inside of Commit and covers the
// moment of the rename.
func createLocked(path string) (*durable.File, *os.File, error) {
	for range 100 {
		f, err := durable.Create(path, 0o600)
		if err != nil {
			return nil, nil, err
		}
		lock, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
		if err == nil {
			if tryLock(lock) != heldByOther && stillThere(lock) {
				return f, lock, nil
			}
			lock.Close()
		}
		// Somebody's sweep was faster than our lock. It happens once in a blue
		// moon, a hundred times in a row never.
		f.Abort()
	}
	return nil, nil, errors.New("its temporary file cannot be locked")
}

func stillThere(f *os.File) bool {
	named, err := os.Lstat(f.Name())
	if err != nil {
		return false
	}
	opened, err := f.Stat()
	return err == nil && os.SameFile(named, opened)
}

// sweep removes temporary files whose writer is dead. It is best effort: what it
// cannot remove, the next one will.
func (s *Store) sweep() {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), durable.TempPrefix) {
			continue
		}
		f, err := os.OpenFile(filepath.Join(s.dir, e.Name()), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if tryLock(f) == locked && stillThere(f) {
			failpoint.Hit("fileblob.sweep")
			os.Remove(f.Name())
		}
		f.Close()
	}
}
