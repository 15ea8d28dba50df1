package n8ndb

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

// TestNameless: a file that cannot be looked at has no name, and opening it says why. A
// disk that fails is said at once.
func TestNameless(t *testing.T) {
	for code, want := range map[syscall.Errno]bool{syscall.ENOENT: true, syscall.EACCES: true, syscall.EPERM: true, syscall.ENOTDIR: true, syscall.EIO: false} {
		err := &fs.PathError{Op: "stat", Path: "/p", Err: code}
		if got := nameless(err); got != want {
			t.Errorf("%v: %v", code, got)
		}
	}
	if _, err := NameFile("/a\x00b"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
