package n8nhome

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// StagedFile is a key file with its new content ready. It is what a rotation's
// journal records; nothing secret is in what is marshalled of it.
//
// All methods can be repeated, and finish what a killed one began. Nothing but the
// key changes: other bytes, mode, owner and extended attributes stay, and what n8n
// has written into the file between Stage and Apply, or between Apply and Undo,
// stays, too.
//
// A file that can be replaced is: the new content is complete and on the disk beside
// it, and one rename puts it in its place. A file that cannot, because it is a mount
// point of its own, or because owner or attributes would be lost, is written in place;
// what a kill or a power failure leaves in the middle of that is recognised and
// finished or undone, for which KeyChange.Before is needed. So: Before goes into the
// journal before Apply is called.
//
// The folder may be somebody's who is not to be trusted with what n8keep may do, since it
// often runs as root. So Path, whose links were followed once, is never followed again: a
// link there, or another file than the one that was read, is refused, and what is read
// and written goes through one descriptor.
type StagedFile struct {
	Form    KeyForm     `json:"form"`
	Path    string      `json:"path"`               // absolute, links followed
	Staged  string      `json:"staged,omitempty"`   // the new content; "" when InPlace
	InPlace string      `json:"in_place,omitempty"` // why it cannot be replaced
	Frame   string      `json:"frame"`              // SHA-256 of all but the key, hexadecimal; the same before and after
	Mode    fs.FileMode `json:"mode"`
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`

	before secret.Bytes
	seen   fs.FileInfo // the file as it was read last; nil when it was not there
}

// Before is the content at the time of Stage. It is not marshalled.
func (s StagedFile) Before() secret.Bytes { return s.before }

// Stage writes the new content beside the file, on the disk when it returns, or
// finds out that the file has to be written in place, and that this is possible. The file itself is not touched.
// It must hold the old key, or the new one already: that of a rotation whose Apply went through. Another key
// is WrongKey; a file that the user cannot change is Usage.
func (f KeyFile) Stage(c KeyChange) (StagedFile, error) {
	path, err := filepath.EvalSymlinks(f.Name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		e := problem.New(problem.NotFound, "%s does not exist", f)
		e.Err = err
		return StagedFile{}, e
	}
	if err != nil {
		return StagedFile{}, problem.Wrap(problem.Usage, cause(err), "%s cannot be read", f).WithHint("%s", readHint(err))
	}
	s := StagedFile{Form: f.Form, Path: path}
	b, info, err := s.read()
	if err != nil {
		return StagedFile{}, err
	}
	t, err := s.file().parse(b)
	if err != nil {
		return StagedFile{}, err
	}
	if !t.key.Equal(c.Old) && !t.key.Equal(c.New) {
		return StagedFile{}, problem.New(problem.WrongKey, "%s holds another key than the one to be replaced", f).
			WithHint("n8n takes one of the two: find out which opens its data, and correct or remove the other")
	}
	content, err := s.file().edit(t, c.New)
	if err != nil {
		return StagedFile{}, err
	}
	s.before = secret.NewBytes(b)
	s.Frame = t.frame()
	s.saw(info)
	if err := s.stage(content); err != nil {
		return StagedFile{}, err
	}
	return s, nil
}

// saw remembers what the file is that was read.
func (s *StagedFile) saw(info fs.FileInfo) {
	s.seen, s.Mode = info, info.Mode()
	s.UID, s.GID = ownerOf(info)
}

// errReplaced: the file is not the one that was read.
var errReplaced = errors.New("it was replaced by another file in this moment")

// open opens the file, and no other.
func (s *StagedFile) open(flag int) (*os.File, error) {
	f, info, err := openRegular(s.Path, flag)
	if err != nil {
		return nil, err
	}
	if s.seen != nil && !os.SameFile(s.seen, info) {
		f.Close()
		return nil, errReplaced
	}
	return f, nil
}

// stagedName begins with what n8keep's own backups leave out.
func stagedName(path string) string {
	return filepath.Join(filepath.Dir(path), durable.TempPrefix+"rotated-"+filepath.Base(path))
}

// stage puts content beside the file, or sets InPlace.
func (s *StagedFile) stage(content []byte) error {
	s.Staged, s.InPlace = "", ""
	if err := s.mutable(); err != nil {
		return err
	}
	if s.InPlace = inPlace(s.Path); s.InPlace != "" {
		return s.writable()
	}
	name := stagedName(s.Path)
	why, err := s.writeBeside(name, content)
	if err == nil && why == "" {
		s.Staged = name
		return nil
	}
	os.Remove(name)
	switch {
	case err == nil:
		s.InPlace = why
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		s.InPlace = "nothing can be written to its folder"
	case errors.Is(err, errReplaced) || errors.Is(err, errLink) || errors.Is(err, errSpecial):
		return s.replaced(err)
	default:
		return problem.Wrap(problem.Unexpected, cause(err), "writing beside %q", s.Path).WithHint("%s", writeHint)
	}
	return s.writable()
}

// replaced is the error about a path at which the file is not any more that was read.
func (s *StagedFile) replaced(err error) error {
	return problem.Wrap(problem.Unexpected, cause(err), "%s was not changed", s.file()).
		WithHint("look who writes to its folder; put the file back with what was in it, and try again")
}

// mutable refuses a file that not even root can write or replace.
func (s *StagedFile) mutable() error {
	if !immutable(s.Path) {
		return nil
	}
	return problem.New(problem.Usage, "%s cannot be changed: it is immutable", s.file()).
		WithHint("allow it with \"chattr -ia %s\", and try again", s.Path)
}

// Changeable finds out, without changing the file, whether Apply or Undo will be able to
// change the file: it holds one of the two keys, and a new file can be made beside it, or
// it can be written in place. A third key is WrongKey; what the user cannot change is
// Usage. What Stage has left beside it is removed: Apply and Undo make it anew.
func (s StagedFile) Changeable(c KeyChange) error {
	state, _, info, err := s.state(c)
	if err != nil {
		return err
	}
	if state == Missing {
		if s.tryBeside() != nil {
			return problem.New(problem.Usage, "%s has been removed, and nothing can be written to its folder", s.file()).
				WithHint("run as the user that owns the folder, or as root")
		}
		return nil
	}
	s.saw(info)
	if err := s.mutable(); err != nil {
		return err
	}
	if s.InPlace = inPlace(s.Path); s.InPlace == "" && state != Torn {
		err := s.tryBeside()
		if err == nil {
			return nil
		}
		s.InPlace = "nothing can be written to its folder"
	}
	return s.writable()
}

// tryBeside makes an empty file where the new content is staged, and removes it.
func (s *StagedFile) tryBeside() error {
	name := stagedName(s.Path)
	failpoint.Hit("keyfile.try")
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	failpoint.Hit("keyfile.tried")
	return errors.Join(f.Close(), os.Remove(name))
}

// inPlace says why a file cannot be replaced by a rename; "" if it can.
func inPlace(path string) string {
	if mountPoint(path) {
		return "it is a mount point"
	}
	if !folderWritable(filepath.Dir(path)) {
		return "nothing can be written to its folder"
	}
	info, err := os.Stat(path)
	if err != nil || os.Geteuid() == 0 {
		return ""
	}
	uid, gid := ownerOf(info)
	groups, _ := os.Getgroups()
	if uid != os.Geteuid() || gid != os.Getegid() && !slices.Contains(groups, gid) {
		return fmt.Sprintf("only root can make a file of user %d and group %d", uid, gid)
	}
	return ""
}

// writeBeside makes the file name, with the mode, the owner and the attributes of
// the one that it will replace. why is set when these cannot be had.
func (s *StagedFile) writeBeside(name string, content []byte) (why string, err error) {
	// A file of that name is a killed run's. O_EXCL follows no link.
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	failpoint.Hit("keyfile.stage")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	failpoint.Hit("keyfile.stage-created")
	from, err := s.open(os.O_RDONLY)
	if err == nil {
		defer from.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if uid, gid := ownerOf(info); uid != s.UID || gid != s.GID {
		if err := f.Chown(s.UID, s.GID); errors.Is(err, fs.ErrPermission) {
			return fmt.Sprintf("only root can make a file of user %d and group %d", s.UID, s.GID), nil
		} else if err != nil {
			return "", err
		}
	}
	if from != nil {
		if err := copyAttributes(from, f); err != nil {
			return "its extended attributes cannot be copied: " + cause(err).Error(), nil
		}
	}
	if _, err := f.Write(content); err != nil {
		return "", err
	}
	// Last, since chown and writing take set-user-ID bits away.
	if err := f.Chmod(s.Mode); err != nil {
		return "", err
	}
	failpoint.Hit("keyfile.stage-written")
	if err := f.Sync(); err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	failpoint.Hit("keyfile.staged")
	return "", durable.SyncDir(filepath.Dir(name))
}

// writable finds out whether the file can be written in place.
func (s *StagedFile) writable() error {
	f, err := s.open(os.O_WRONLY)
	if err == nil {
		return f.Close()
	}
	return problem.Wrap(problem.Usage, cause(err), "%s cannot be changed: %s, and it cannot be written in place", s.file(), s.InPlace).
		WithHint("run as the user that owns it, or as root; or change it yourself between stop and start: --i-will-set-the-key")
}

// Apply makes the file hold the new key. It is done when it holds it already.
func (s StagedFile) Apply(c KeyChange) error {
	state, t, info, err := s.state(c)
	if err != nil {
		return err
	}
	var content []byte
	switch state {
	case HoldsNew:
		return s.settle()
	case HoldsOld:
		content, err = s.file().edit(t, c.New)
	default:
		content, err = s.after(c)
	}
	if err != nil {
		return s.without(state, c, err)
	}
	return s.put(state, content, info)
}

// Undo makes the file hold the old key. exact says that it is byte for byte what it
// was at the time of Stage; where n8n has written to it since, only the key is put
// back.
func (s StagedFile) Undo(c KeyChange) (exact bool, err error) {
	state, t, info, err := s.state(c)
	if err != nil {
		return false, err
	}
	before := c.Before.Reveal()
	content := before
	switch state {
	case HoldsOld:
		now := bytes.Join([][]byte{t.head, t.token, t.tail}, nil)
		return bytes.Equal(now, before), s.settle()
	case HoldsNew:
		was, err := s.file().parse(before)
		switch {
		case err == nil && was.key.Equal(c.Old):
			// As it was written, escapes included.
			content, err = s.file().editToken(t, c.Old, was.token)
		default:
			content, err = s.file().edit(t, c.Old)
		}
		if err != nil {
			return false, err
		}
	default:
		if was, err := s.file().parse(before); err != nil || !was.key.Equal(c.Old) {
			return false, s.without(state, c, err)
		}
	}
	if err := s.put(state, content, info); err != nil {
		return false, err
	}
	return bytes.Equal(content, before), nil
}

// without is the error about a file whose content before is needed and not known.
func (s StagedFile) without(state KeyState, c KeyChange, err error) error {
	if len(c.Before.Reveal()) > 0 && err != nil {
		return err
	}
	if state == Missing {
		return problem.New(problem.NotFound, "%s has been removed since the rotation began", s.file()).
			WithHint("put it back, with the old key or the new one, and go on with the rotation")
	}
	return problem.New(problem.Damaged, "%s was written in part, and what was in it is not in the journal", s.file()).
		WithHint("put it back by hand, with the old key or the new one, and go on with the rotation")
}

// settle makes durable what a killed run may not have, and removes what it left.
func (s StagedFile) settle() error {
	if f, err := s.open(os.O_RDONLY); err == nil {
		err = f.Sync()
		f.Close()
		if err != nil {
			return problem.Wrap(problem.Unexpected, cause(err), "syncing %q", s.Path).WithHint("%s", writeHint)
		}
	}
	if err := durable.SyncDir(filepath.Dir(s.Path)); err != nil {
		return problem.Wrap(problem.Unexpected, cause(err), "syncing the folder of %q", s.Path)
	}
	return s.Discard()
}

// Discard removes the staged content.
func (s StagedFile) Discard() error {
	name := stagedName(s.Path)
	failpoint.Hit("keyfile.discard")
	err := os.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil && s.InPlace != "" {
		return nil // in that folder nothing could be made either
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, cause(err), "removing %q, which holds the new key", name).WithHint("remove it by hand")
	}
	failpoint.Hit("keyfile.discarded")
	return durable.SyncDir(filepath.Dir(name))
}

// put makes content the file's. info is the file as it is, nil when it is gone.
func (s StagedFile) put(state KeyState, content []byte, info fs.FileInfo) error {
	if info != nil {
		s.saw(info)
	}
	if state == Torn {
		return s.writeInPlace(content)
	}
	if !s.ready(content) {
		if err := s.stage(content); err != nil {
			return err
		}
	}
	if s.InPlace == "" {
		failpoint.Hit("keyfile.rename")
		err := os.Rename(s.Staged, s.Path)
		if err == nil {
			failpoint.Hit("keyfile.renamed")
			return durable.SyncDir(filepath.Dir(s.Path))
		}
		if !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.EXDEV) {
			return problem.Wrap(problem.Unexpected, cause(err), "replacing %q", s.Path).WithHint("%s", writeHint)
		}
		// A mount point that could not be told from a file.
		defer os.Remove(s.Staged)
	}
	return s.writeInPlace(content)
}

// ready reports whether what Stage has left is exactly what is to be put there now.
func (s StagedFile) ready(content []byte) bool {
	if s.InPlace != "" {
		return true
	}
	b, info, err := readRegular(s.Staged, configLimit)
	if err != nil || s.Staged != stagedName(s.Path) || !bytes.Equal(b, content) {
		return false
	}
	uid, gid := ownerOf(info)
	return info.Mode() == s.Mode && uid == s.UID && gid == s.GID
}

// writeInPlace overwrites the file. Before it fails it tries to put back what was there.
func (s StagedFile) writeInPlace(content []byte) error {
	failpoint.Hit("keyfile.in-place")
	f, err := s.open(os.O_RDWR)
	if errors.Is(err, errReplaced) || errors.Is(err, errLink) || errors.Is(err, errSpecial) {
		return s.replaced(err)
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, cause(err), "writing %q", s.Path).WithHint("%s", writeHint)
	}
	defer f.Close()
	old, err := io.ReadAll(io.LimitReader(f, configLimit+1))
	if err == nil && len(old) > configLimit {
		err = errSize
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, cause(err), "reading %q", s.Path)
	}
	if err := overwrite(f, content); err != nil {
		back := overwrite(f, old)
		e := problem.Wrap(problem.Unexpected, cause(err), "writing %q in place", s.Path).WithHint("%s", writeHint)
		if back != nil {
			e.Msg += "; what was there could not be put back: " + cause(back).Error()
		}
		return e
	}
	failpoint.Hit("keyfile.in-place-synced")
	return nil
}

// overwrite never makes the file shorter before all of the content is in it.
func overwrite(f *os.File, content []byte) error {
	half := len(content) / 2
	for _, part := range [][2]int{{0, half}, {half, len(content)}} {
		if _, err := f.WriteAt(content[part[0]:part[1]], int64(part[0])); err != nil {
			return err
		}
		failpoint.Hit("keyfile.in-place-written")
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		return err
	}
	failpoint.Hit("keyfile.in-place-cut")
	return f.Sync()
}

func ownerOf(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return -1, -1
}
