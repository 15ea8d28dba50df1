package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
)

// prepare checks what was unpacked, gives every staged file its final mode, time
// and owner, and makes it durable. What it refuses is refused before anything of
// the target was touched.
func (a *apply) prepare() error {
	a.journal.Moves = make([]move, 0, len(a.unpacked.Files)+2) // config and database
	slices.SortFunc(a.unpacked.Files, func(x, y File) int { return strings.Compare(x.Path, y.Path) })
	all := len(a.unpacked.Files)
	a.unpacked.Files = slices.DeleteFunc(a.unpacked.Files, func(f File) bool { return strings.HasPrefix(f.Path, ".n8keep-") })
	if left := all - len(a.unpacked.Files); left > 0 {
		a.warn("%d files are left out: an earlier restore had put them aside before the backup was taken", left)
	}
	for i, file := range a.unpacked.Files {
		if err := a.checkFile(file); err != nil {
			return err
		}
		if i > 0 && (file.Path == a.unpacked.Files[i-1].Path || strings.HasPrefix(file.Path, a.unpacked.Files[i-1].Path+"/")) {
			return a.misfit("it has %q twice", file.Path)
		}
		m, err := a.stageFile(file.Path, file.Staged, file.Mode.Perm(), file.ModTime)
		if err != nil {
			return err
		}
		if m.Size != file.Size {
			return a.misfit("%q has %d bytes unpacked and %d in the manifest", file.Path, m.Size, file.Size)
		}
		a.journal.Moves = append(a.journal.Moves, m)
	}
	if !a.config && !a.NoConfig {
		home := stagingPrefix + string(a.Sidecar.ID) + "/" + homeName
		if err := a.do("config", home, func() error { return n8nhome.WriteConfig(a.path(home), a.Key, nil) }); err != nil {
			return a.failed(err, "writing the config")
		}
		m, err := a.stageFile("config", a.path(home+"/config"), 0o600, time.Time{})
		if err != nil {
			return err
		}
		a.journal.Moves = append(a.journal.Moves, m)
	}
	for _, suffix := range []string{"-wal", "-journal"} {
		if info, err := os.Lstat(a.unpacked.Database + suffix); err == nil && info.Size() > 0 {
			return a.misfit("its database was unpacked with a %s file beside it", suffix)
		}
	}
	m, err := a.stageFile(a.database, a.unpacked.Database, 0o600, time.Time{})
	if err != nil {
		return err
	}
	a.journal.Moves = append(a.journal.Moves, m)
	a.unpacked.Files = nil // the moves have what is still needed
	return a.syncStaged()
}

// syncStaged makes the names of the staged files durable, as stageFile does with
// their contents. It comes before the journal says that moves are under way: from
// then on a staged file that is gone has been moved.
func (a *apply) syncStaged() error {
	dirs := map[string]bool{}
	for i := range a.journal.Moves {
		for dir := path.Dir(a.journal.Moves[i].Staged); dir != "." && !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if err := a.sync(dir); err != nil {
			return a.failed(err, "unpacking beside %q", a.folder.dir)
		}
	}
	return nil
}

// checkFile refuses names that an archive has no business with, and places that
// a file cannot be renamed into.
func (a *apply) checkFile(file File) error {
	switch {
	case !localName(file.Path):
		return a.misfit("it has a file %q, which leads out of the folder", file.Path)
	case file.Path == "config" || file.Path == a.database || slices.Contains(prefixAll(a.database, journalSuffixes()), file.Path):
		return a.misfit("it has a file %q, a name that is not restored from an archive", file.Path)
	}
	for _, mount := range a.mounts {
		if file.Path == mount || strings.HasPrefix(file.Path, mount+"/") {
			return problem.New(problem.Usage, "%q is a mount point of its own: files of the archive cannot be swapped in there", a.path(mount)).
				WithHint("unmount it for the restore, or restore into another folder and copy the files; nothing was changed")
		}
	}
	for i, c := range file.Path {
		if c != '/' {
			continue
		}
		dir := file.Path[:i]
		info, err := a.stat(dir)
		if err != nil {
			return a.failed(err, "looking at %q", a.path(dir))
		}
		if info == nil {
			break
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return problem.New(problem.Usage, "%q is a symbolic link: files of the archive would be written where it leads", a.path(dir)).
				WithHint("put a folder in its place, or restore into another folder; nothing was changed")
		}
		if !info.IsDir() {
			return problem.New(problem.Usage, "%q is a file, the archive has a folder of that name", a.path(dir)).
				WithHint("move it away, or restore into another folder; nothing was changed")
		}
	}
	info, err := a.stat(file.Path)
	if err != nil {
		return a.failed(err, "looking at %q", a.path(file.Path))
	}
	if info != nil && info.IsDir() {
		return problem.New(problem.Usage, "%q is a folder, the archive has a file of that name", a.path(file.Path)).
			WithHint("move it away, or restore into another folder; nothing was changed")
	}
	return nil
}

func (a *apply) misfit(format string, args ...any) error {
	return problem.New(problem.Damaged, "archive %q cannot be restored: %s", a.Sidecar.ID, fmt.Sprintf(format, args...)).
		WithHint("nothing was written; take another archive")
}

// stageFile makes a staged file ready to be renamed into its place. A zero time
// leaves the file's.
func (a *apply) stageFile(name, staged string, mode fs.FileMode, modTime time.Time) (move, error) {
	base := a.path(stagingPrefix + string(a.Sidecar.ID))
	rel, err := filepath.Rel(base, staged)
	if err != nil || !filepath.IsLocal(rel) {
		return move{}, problem.New(problem.Unexpected, "unpacking archive %q: %q is not in the staging folder", a.Sidecar.ID, staged)
	}
	m := move{Path: name, Staged: stagingPrefix + string(a.Sidecar.ID) + "/" + filepath.ToSlash(rel)}
	info, err := a.stat(m.Staged)
	if err != nil {
		return m, a.failed(err, "looking at the unpacked %q", name)
	}
	if info == nil || !info.Mode().IsRegular() {
		return m, a.misfit("%q was not unpacked as a file", name)
	}
	err = a.do("stage", m.Staged, func() error {
		f, err := a.root.OpenFile(m.Staged, os.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Chmod(mode); err != nil {
			return err
		}
		if !modTime.IsZero() {
			if err := a.root.Chtimes(m.Staged, modTime, modTime); err != nil {
				return err
			}
		}
		if a.owner != nil {
			if err := f.Chown(a.owner.UID, a.owner.GID); err != nil {
				return err
			}
		}
		if err := f.Sync(); err != nil {
			return err
		}
		info, err = f.Stat()
		return err
	})
	if err != nil {
		return m, a.failed(err, "preparing the unpacked %q", name)
	}
	m.Size, m.ModTime = info.Size(), info.ModTime()
	return m, nil
}

// planMoves says for every move what happens to what is at its place, and which
// folders are missing.
func (a *apply) planMoves(h *holding) error {
	j := a.journal
	folders := map[string]bool{}
	keptFolder := ""
	for i := range j.Moves {
		m := &j.Moves[i]
		for dir := path.Dir(m.Path); dir != "." && !folders[dir]; dir = path.Dir(dir) {
			info, err := a.stat(dir)
			if err != nil {
				return a.failed(err, "looking at %q", a.path(dir))
			}
			if info == nil {
				folders[dir] = true
			}
		}
		info, err := a.stat(m.Path)
		if err != nil {
			return a.failed(err, "looking at %q", a.path(m.Path))
		}
		switch {
		case info == nil:
		case i == len(j.Moves)-1:
			m.Kept = freeName(a.folder.dir, a.database+keptInfix+string(j.ID))
		default:
			if keptFolder == "" {
				keptFolder = freeName(a.folder.dir, keptPrefix+string(j.ID))
			}
			m.Kept = keptFolder + "/" + m.Path
			for dir := path.Dir(m.Kept); dir != "."; dir = path.Dir(dir) {
				folders[dir] = true
			}
		}
	}
	j.Moves = slices.Insert(j.Moves, 0, a.putAside(h)...)
	a.keptFolder = keptFolder
	j.Folders = slices.Sorted(maps.Keys(folders)) // a folder sorts before what is in it
	return nil
}

// putAside keeps the logs of a database that cannot be opened, or is gone, under
// names that fit the safety copy. A readable database has no logs any more.
func (a *apply) putAside(h *holding) []move {
	if a.size >= 0 && h.damaged == nil {
		return nil
	}
	var moves []move
	kept := freeName(a.folder.dir, a.database+keptInfix+string(a.journal.ID))
	for _, name := range prefixAll(a.database, journalSuffixes()) {
		if info, err := a.stat(name); err == nil && info != nil {
			moves = append(moves, move{Path: name, Kept: kept + strings.TrimPrefix(name, a.database)})
		}
	}
	return moves
}

// freeName adds a number to a name that an earlier restore of the same archive
// left, so that no safety copy is ever replaced.
func freeName(dir, name string) string {
	for i := 2; ; i++ {
		try := name
		if i > 2 {
			try = fmt.Sprintf("%s-%d", name, i-1)
		}
		free := true
		for _, suffix := range append(journalSuffixes(), "") {
			_, err := os.Lstat(filepath.Join(dir, try+suffix))
			free = free && errors.Is(err, fs.ErrNotExist)
		}
		if free {
			return try
		}
	}
}
