// Package durable writes files so that after a crash the old content or the new
// one is there, never a part of either, and so that what was reported as
// written is still there after the power went.
//
// A file is written under a temporary name in its own folder, synced, renamed
// over the target, and then the folder is synced. Temporary names start with
// ".n8keep-tmp-", which is how leftovers of a killed process are recognised.
// The package follows no promise on file systems that ignore fsync.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/n8keep/n8keep/internal/failpoint"
)

// TempPrefix begins the name of every temporary file of this package.
const TempPrefix = ".n8keep-tmp-"

// ErrNoExclusive says that a file system can neither make hard links nor rename
// without replacing.
var ErrNoExclusive = errors.New("the file system has neither hard links nor a rename that replaces nothing, so that a file might be overwritten: use a folder on another file system")

// WriteFile replaces path with data, mode exactly as given (the umask does not
// count). An existing file keeps its content until the new one is complete.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	f, err := Create(path, mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Commit()
}

// File is a file being written under a temporary name.
type File struct {
	*os.File
	path string
	done bool
}

// Create begins a file that will appear at path on Commit.
func Create(path string, mode fs.FileMode) (*File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), TempPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("creating %q: %w", path, unwrapPath(err))
	}
	if err := f.Chmod(mode); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, fmt.Errorf("setting the mode of %q: %w", path, unwrapPath(err))
	}
	failpoint.Hit("durable.created")
	return &File{File: f, path: path}, nil
}

// Commit syncs the file, renames it to its path, replacing what was there, and
// syncs the folder. After an error the old content is still at the path.
func (f *File) Commit() error { return f.commit(os.Rename) }

// CommitNew is Commit for a path that must not exist yet: an existing file is
// left alone and the error satisfies errors.Is(err, fs.ErrExist). The check and
// the write are one operation. Where the file system has none, the error satisfies
// errors.Is(err, [ErrNoExclusive]).
func (f *File) CommitNew() error { return f.commit(placeNew) }

// CheckNew finds out with an empty temporary file whether CommitNew can work in a
// folder. Its error satisfies errors.Is(err, ErrNoExclusive); whatever else goes
// wrong is left to the real file to run into.
func CheckNew(dir string) error {
	f, err := os.CreateTemp(dir, TempPrefix+"*")
	if err != nil {
		return nil
	}
	defer os.Remove(f.Name())
	f.Close()
	to := f.Name() + "-new"
	defer os.Remove(to)
	if err := placeNew(f.Name(), to); errors.Is(err, ErrNoExclusive) {
		return err
	}
	return nil
}

func (f *File) commit(place func(from, to string) error) error {
	if f.done {
		return fs.ErrClosed
	}
	if err := f.Sync(); err != nil {
		f.Abort()
		return fmt.Errorf("syncing %q: %w", f.path, unwrapPath(err))
	}
	failpoint.Hit("durable.synced")
	if err := f.File.Close(); err != nil {
		f.Abort()
		return fmt.Errorf("closing %q: %w", f.path, unwrapPath(err))
	}
	if err := place(f.Name(), f.path); err != nil {
		f.Abort()
		return fmt.Errorf("writing %q: %w", f.path, unwrapPath(err))
	}
	f.done = true
	failpoint.Hit("durable.renamed")
	return SyncDir(filepath.Dir(f.path))
}

// Abort removes the temporary file; after Commit it does nothing.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.File.Close()
	os.Remove(f.Name())
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing folder %q: %w", dir, unwrapPath(err))
	}
	failpoint.Hit("durable.dir-synced")
	return nil
}

func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}
