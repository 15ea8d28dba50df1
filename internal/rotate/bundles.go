package rotate

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// Records of files.age and undo.age: the kind is the first field.
const (
	bundleRecord = "bundle" // name below the storage folder, mode, uid, gid, content before, SHA-256 after
	keyRecord    = "key"    // path, content before
)

// executionsFolder is where n8n keeps executions in its storage folder. It never
// deletes this folder itself.
const executionsFolder = "workflows"

// bundle is one file of executions that is replaced.
type bundle struct {
	name     string // below the storage folder, slash-separated
	mode     fs.FileMode
	uid, gid int
	before   []byte
	after    [sha256.Size]byte
}

func (w *recordWriter) writeBundle(b bundle) error {
	return w.record(bundleRecord, b.name, strconv.FormatUint(uint64(b.mode), 8), strconv.Itoa(b.uid), strconv.Itoa(b.gid), string(b.before), string(b.after[:]))
}

func (e *engine) eachBundle(list string, attempt int, fn func(bundle) error) error {
	return e.eachRecord(list, attempt, func(f []string) error {
		if f[0] != bundleRecord {
			return nil
		}
		bad := problem.New(problem.Damaged, "%q of rotation %q has a record that is none", list, e.j.ID)
		if len(f) != 7 || len(f[6]) != sha256.Size || !filepath.IsLocal(filepath.FromSlash(f[1])) {
			return bad
		}
		mode, err1 := strconv.ParseUint(f[2], 8, 32)
		uid, err2 := strconv.Atoi(f[3])
		gid, err3 := strconv.Atoi(f[4])
		if errors.Join(err1, err2, err3) != nil {
			return bad
		}
		b := bundle{name: f[1], mode: fs.FileMode(mode), uid: uid, gid: gid, before: []byte(f[5])}
		copy(b.after[:], f[6])
		return fn(b)
	})
}

// suffix ends the names of this rotation's staged bundles, forward and back.
func (e *engine) suffix() string { return ".n8keep-" + e.j.ID }

// storage opens n8n's storage folder; nil when there is none. A folder that the
// rotation has met and that is not there any more, or is empty where its disk is not
// mounted, is an error: executions in it would keep the other key.
func (e *engine) storage() (*os.Root, error) {
	if e.j.Storage == "" {
		return nil, nil
	}
	away := func(what string) error {
		return problem.New(problem.NotFound, "the storage folder %q of rotation %q %s", e.j.Storage, e.j.ID, what).
			WithHint("mount it, or put it back, and go on")
	}
	root, err := os.OpenRoot(e.j.Storage)
	if errors.Is(err, fs.ErrNotExist) {
		if e.j.Folder != NoFolder {
			return nil, away("is not there any more")
		}
		return nil, nil
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "opening the storage folder %q", e.j.Storage)
	}
	_, err = root.Lstat(executionsFolder)
	switch {
	case err == nil:
		e.j.Folder = UsedFolder
	case !errors.Is(err, fs.ErrNotExist):
		return nil, errors.Join(problem.Wrap(problem.Unexpected, err, "reading the storage folder %q", e.j.Storage), root.Close())
	case e.j.Folder == UsedFolder:
		return nil, errors.Join(away(fmt.Sprintf("has no folder %q any more", executionsFolder)), root.Close())
	default:
		e.j.Folder = EmptyFolder
	}
	return root, nil
}

// needStorage is storage for those who do not read it themselves.
func (e *engine) needStorage() error {
	root, err := e.storage()
	if err != nil || root == nil {
		return err
	}
	return root.Close()
}

// readBundle reads a regular file; one that is not there is nil.
func readBundle(root *os.Root, name string) (*bundle, error) {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "reading an execution on disk")
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "reading an execution on disk")
	}
	defer f.Close()
	b := &bundle{name: name, mode: info.Mode().Perm(), uid: -1, gid: -1}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		b.uid, b.gid = int(st.Uid), int(st.Gid)
	}
	if b.before, err = io.ReadAll(f); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "reading an execution on disk")
	}
	return b, nil
}

// stageBundle writes the new content beside a file.
func (e *engine) stageBundle(root *os.Root, b *bundle, content []byte) error {
	b.after = sha256.Sum256(content)
	name := b.name + e.suffix()
	err := e.do("stage-bundle", b.name, func() error {
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, b.mode)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(content); err != nil {
			return err
		}
		if err := giveAway(f, b); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		return syncFolder(root, path.Dir(name))
	})
	return problemOf(err, "staging an execution on disk")
}

func problemOf(err error, what string) error {
	if err == nil {
		return nil
	}
	return problem.Wrap(problem.KindOf(err), err, "%s", what)
}

// giveAway makes mode and owner those of the file that is replaced.
func giveAway(f *os.File, b *bundle) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && b.uid >= 0 && (int(st.Uid) != b.uid || int(st.Gid) != b.gid) {
		if err := f.Chown(b.uid, b.gid); err != nil {
			return fmt.Errorf("%w: run as root, or as the user that runs n8n", err)
		}
	}
	return f.Chmod(b.mode)
}

func syncFolder(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// placeBundles renames what a list has staged, while n8n is stopped. It may be
// repeated. A file that was deleted stays deleted.
func (e *engine) placeBundles(list string, attempt int) error {
	root, err := e.storage()
	if err != nil {
		return err
	}
	if root != nil {
		defer root.Close()
	}
	return e.eachBundle(list, attempt, func(b bundle) error {
		if !hasFolder(root, b.name) {
			return problem.New(problem.NotFound, "the folder of the execution %q is not in the storage folder %q", n8ndb.BundleRow(b.name), e.j.Storage).
				WithHint("it was there when n8n was stopped: mount it, or put it back, and go on")
		}
		now, err := readBundle(root, b.name)
		if err != nil {
			return err
		}
		staged := b.name + e.suffix()
		if now == nil || sha256.Sum256(now.before) == b.after {
			return e.dropBundle(root, staged)
		}
		next, err := readBundle(root, staged)
		if err != nil {
			return err
		}
		if next == nil || sha256.Sum256(next.before) != b.after || list == filesName && string(now.before) != string(b.before) {
			return problem.New(problem.Damaged, "the execution %q on disk was changed by somebody while n8n was stopped", n8ndb.BundleRow(b.name))
		}
		return e.do("place-bundle", b.name, func() error {
			if err := root.Rename(staged, b.name); err != nil {
				return problem.Wrap(problem.Unexpected, err, "replacing an execution on disk")
			}
			return problemOf(syncFolder(root, path.Dir(b.name)), "replacing an execution on disk")
		})
	})
}

// hasFolder reports whether the folder of a file is there. n8n deletes an execution
// with its folder, but not while it is stopped.
func hasFolder(root *os.Root, name string) bool {
	if root == nil {
		return false
	}
	info, err := root.Lstat(path.Dir(name))
	return err == nil && info.IsDir()
}

func (e *engine) dropBundle(root *os.Root, staged string) error {
	if _, err := root.Lstat(staged); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return e.do("discard-bundle", staged, func() error {
		if err := root.Remove(staged); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return problem.Wrap(problem.Unexpected, err, "removing what was staged")
		}
		return nil
	})
}

// discardBundles removes every staged bundle of this rotation.
func (e *engine) discardBundles() error {
	if e.j.Attempt == 0 {
		return nil // nothing was staged yet
	}
	root, err := e.storage()
	if err != nil || root == nil {
		return err
	}
	defer root.Close()
	names, err := fs.Glob(root.FS(), "workflows/*/executions/*/execution_data/bundle.json"+e.suffix())
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "looking for what was staged")
	}
	for _, name := range names {
		if err := e.dropBundle(root, name); err != nil {
			return err
		}
	}
	return nil
}
