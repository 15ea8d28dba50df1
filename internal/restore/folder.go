package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/n8ndb"
)

// folder is the target folder while a restore or a recovery works in it. Names
// are relative to it and slash-separated; none leads out of it, not even through
// a symbolic link (os.Root). Every change goes through do.
type folder struct {
	dir  string // absolute
	root *os.Root
	lock *os.File
	flt  faults
}

// faults let tests fail what cannot be made to fail otherwise. The zero value
// changes nothing.
type faults struct {
	// do runs a change to the target folder; it may fail it before or after.
	do func(op, name string, change func() error) error
	// integrity replaces n8ndb.CheckIntegrity.
	integrity func(ctx context.Context, database string) (n8ndb.Integrity, error)
}

var errInUse = errors.New("another restore is working in this folder")

// openFolder opens an existing folder and locks it against other restores; the
// lock ends with the process. Without exclusive locks (a few network file
// systems) it is opened all the same when unlocked is allowed.
func openFolder(dir string, unlocked bool, flt faults) (*folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	lock, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	f := &folder{dir: dir, root: root, lock: lock, flt: flt}
	switch err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
	case errors.Is(err, syscall.EWOULDBLOCK):
		f.close()
		return nil, errInUse
	case !unlocked:
		f.close()
		return nil, fmt.Errorf("locking the folder: %w", err)
	}
	return f, nil
}

func (f *folder) close() {
	// Closing alone is not enough: a child that this process starts at the same moment has a copy of the descriptor
	// until it runs its program, and the lock with it.
	_ = syscall.Flock(int(f.lock.Fd()), syscall.LOCK_UN)
	f.lock.Close()
	f.root.Close()
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, filepath.FromSlash(name)) }

// do makes one change and marks the moment after it, at which a kill is tested.
func (f *folder) do(op, name string, change func() error) error {
	var err error
	if f.flt.do != nil {
		err = f.flt.do(op, name, change)
	} else {
		err = change()
	}
	failpoint.Hit("restore." + op)
	return err
}

// stat does not follow a symbolic link; nil without an error means that nothing
// is there.
func (f *folder) stat(name string) (fs.FileInfo, error) {
	info, err := f.root.Lstat(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	return info, err
}

func (f *folder) mkdir(name string, mode fs.FileMode, owner *Owner) error {
	return f.do("mkdir", name, func() error {
		if err := f.root.Mkdir(name, mode); err != nil {
			return err
		}
		if err := f.root.Chmod(name, mode); err != nil {
			return err
		}
		return f.give(name, owner)
	})
}

// give changes the owner of a folder that we made; nil leaves it.
func (f *folder) give(name string, owner *Owner) error {
	if owner == nil {
		return nil
	}
	return f.root.Lchown(name, owner.UID, owner.GID)
}

func (f *folder) rename(from, to string) error {
	return f.do("rename", to, func() error { return f.root.Rename(from, to) })
}

func (f *folder) link(from, to string) error {
	return f.do("link", to, func() error { return f.root.Link(from, to) })
}

// remove takes a missing file for removed.
func (f *folder) remove(name string) error {
	return f.do("remove", name, func() error {
		if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// prune removes a folder if it is empty.
func (f *folder) prune(name string) error {
	return f.do("prune", name, func() error {
		err := f.root.Remove(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) {
			return nil
		}
		return err
	})
}

// sync makes the names in a folder durable.
func (f *folder) sync(name string) error {
	return f.do("sync", name, func() error { return durable.SyncDir(f.path(name)) })
}

// syncParents syncs the folders of the names, each once.
func (f *folder) syncParents(names []string) error {
	var dirs []string
	for _, name := range names {
		dirs = append(dirs, path.Dir(name))
	}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if err := f.sync(dir); err != nil {
			return err
		}
	}
	return nil
}

// noLinks reports whether a link failed because the file system has none.
func noLinks(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EOPNOTSUPP) ||
		errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.EACCES)
}

// keep gives what is at m.Path its second name. Without hard links it is copied,
// by way of the staging folder, so that no part of a copy is ever at m.Kept.
func (f *folder) keep(m move, stagingDir string) error {
	err := f.link(m.Path, m.Kept)
	if err == nil || !noLinks(err) {
		return err
	}
	copied := stagingDir + "/kept"
	err = f.do("copy", copied, func() error { return f.copyFile(m.Path, copied) })
	if err != nil {
		return err
	}
	return f.rename(copied, m.Kept)
}

func (f *folder) copyFile(from, to string) error {
	src, err := f.root.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := f.root.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	if err := dst.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := dst.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := dst.Sync(); err != nil {
		return err
	}
	return f.root.Chtimes(to, info.ModTime(), info.ModTime())
}

// place puts the staged file at its path. Where nothing was, nothing is
// replaced: what appeared there in the meantime is an error.
func (f *folder) place(m move) error {
	if m.Staged == "" {
		return f.remove(m.Path)
	}
	if m.Kept != "" {
		return f.rename(m.Staged, m.Path)
	}
	err := f.link(m.Staged, m.Path)
	if err == nil {
		return f.remove(m.Staged)
	}
	if !noLinks(err) {
		return err
	}
	if there, err := f.stat(m.Path); err != nil {
		return err
	} else if there != nil {
		return &fs.PathError{Op: "place", Path: m.Path, Err: fs.ErrExist}
	}
	return f.rename(m.Staged, m.Path)
}

// undo puts a move back, from wherever it got to. It may be repeated. The
// warning says what was left alone because it is not what the restore wrote.
func (f *folder) undo(m move) (warning string, err error) {
	at, err := f.stat(m.Path)
	if err != nil {
		return "", err
	}
	var kept, staged fs.FileInfo
	if m.Kept != "" {
		if kept, err = f.stat(m.Kept); err != nil {
			return "", err
		}
	}
	if m.Staged != "" {
		if staged, err = f.stat(m.Staged); err != nil {
			return "", err
		}
	}
	touched := m.Staged == "" || staged == nil // the original may not be at Path any more
	ours := at != nil && (staged != nil && os.SameFile(at, staged) ||
		staged == nil && m.Staged != "" && at.Size() == m.Size && at.ModTime().Equal(m.ModTime))
	switch {
	case m.Kept == "" && ours:
		return "", f.remove(m.Path)
	case m.Kept == "" && at != nil && touched:
		return fmt.Sprintf("%q was changed since, and left as it is", f.path(m.Path)), nil
	case kept == nil:
		return "", nil
	case at != nil && (os.SameFile(at, kept) || !touched):
		return "", f.remove(m.Kept)
	case at == nil || ours:
		return "", f.rename(m.Kept, m.Path)
	}
	return fmt.Sprintf("%q was changed since, and left as it is; the one from before the restore is %q", f.path(m.Path), f.path(m.Kept)), nil
}
