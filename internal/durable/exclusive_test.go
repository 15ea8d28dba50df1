package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestPlaceNewWithoutHardLinks(t *testing.T) {
	fails := func(errno syscall.Errno) func(from, to string) error {
		return func(from, to string) error { return &os.LinkError{Op: "link", Old: from, New: to, Err: errno} }
	}
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(from, "x")
	if err := placeNewBy(fails(syscall.EPERM), renameNew, from, to); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(from); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary name stayed: %v", err)
	}
	write(from, "y")
	if err := placeNewBy(fails(syscall.EPERM), renameNew, from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	os.Remove(to)
	err := placeNewBy(fails(syscall.EPERM), fails(syscall.EINVAL), from, to)
	if !errors.Is(err, ErrNoExclusive) || !strings.HasSuffix(err.Error(), "use a folder on another file system (link: operation not permitted; rename: invalid argument)") {
		t.Errorf("got %v", err)
	}
	if err := placeNewBy(fails(syscall.EIO), renameNew, from, to); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	if err := placeNewBy(fails(syscall.ENOTSUP), fails(syscall.ENOSPC), from, to); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrNoExclusive) {
		t.Errorf("got %v", err)
	}
}

// The file is visible: that its temporary name cannot be removed is no failure.
func TestPlaceNewKeepsTemporaryName(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	link := func(_, to string) error { return os.WriteFile(to, []byte("x"), 0o600) }
	if err := placeNewBy(link, renameNew, from, to); err != nil { // from is not there to be removed
		t.Error(err)
	}
}

func TestCheckNew(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "missing")} {
		if err := CheckNew(d); err != nil {
			t.Error(err)
		}
	}
	noTemps(t, dir)
}
