package archive

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Entry is one file of an archive.
type Entry struct {
	Name    string      // slash-separated, see [CheckEntryName]
	Size    int64       // bytes
	SHA256  string      // lower hex of the content
	Mode    fs.FileMode // permission bits only
	ModTime time.Time   // UTC, whole seconds
}

// Names of the first and the last entry.
const (
	headerName   = "header.json"
	manifestName = "manifest.json"
)

// Limits of format 1. The Writer keeps them too, so what it writes it can read.
const (
	maxName     = 1024      // bytes of one name
	maxNames    = 64 << 20  // bytes of all names together
	maxEntries  = 500_000   // entries, header and manifest not counted
	maxFolders  = 1_000_000 // different folders in their names
	maxHeader   = 64 << 10  // bytes of header.json
	maxValue    = 1 << 20   // bytes of one JSON value of the manifest
	maxLists    = 16 << 20  // weight of findings, census and tables together
	maxManifest = 4 << 30   // bytes of manifest.json
	maxWindow   = 8 << 20   // bytes of zstd window
	pieceBytes  = 2 << 20   // bytes of one piece of a stream; the format allows 16 MiB

	maxTime = 1<<33 - 1 // seconds since 1970 that a tar header holds in eleven octal digits
)

// tarTime is t in whole seconds, moved to where no PAX record is needed for it.
// Files with times from nowhere are common enough.
func tarTime(t time.Time) time.Time {
	return time.Unix(min(max(t.Unix(), 0), maxTime), 0).UTC()
}

// CheckEntryName says whether an archive can hold a file of that name: relative,
// slash-separated, without empty, "." or ".." parts, backslashes and control
// characters, valid UTF-8, at most 1024 bytes. "header.json" and "manifest.json"
// are taken.
func CheckEntryName(name string) error {
	switch {
	case name == headerName || name == manifestName:
		return fmt.Errorf("entry name %q is reserved", name)
	case len(name) > maxName:
		return fmt.Errorf("entry name %.40q... has %d bytes, more than %d", name, len(name), maxName)
	case name == "." || !fs.ValidPath(name):
		return fmt.Errorf("entry name %q is not a plain relative path", name)
	case !utf8.ValidString(name):
		return fmt.Errorf("entry name %q is not UTF-8", name)
	case strings.ContainsRune(name, '\\') || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("entry name %q holds a backslash or a control character", name)
	}
	return nil
}

func checkMode(m fs.FileMode) error {
	if m&^fs.ModePerm != 0 {
		return fmt.Errorf("mode %v has more than permission bits", m)
	}
	return nil
}

// nameSet refuses what could not be extracted side by side: the same name
// twice, or a name that is both file and folder.
type nameSet struct {
	files map[string]struct{}
	dirs  map[string]struct{}
	bytes int
}

func newNameSet() *nameSet {
	return &nameSet{
		files: map[string]struct{}{headerName: {}, manifestName: {}},
		dirs:  map[string]struct{}{},
	}
}

func (s *nameSet) add(name string) error {
	if _, ok := s.files[name]; ok {
		return fmt.Errorf("entry name %q appears twice", name)
	}
	if _, ok := s.dirs[name]; ok {
		return fmt.Errorf("entry name %q is also a folder", name)
	}
	if s.bytes += len(name); s.bytes > maxNames || len(s.files) >= maxEntries+2 {
		return fmt.Errorf("more than %d entries, or their names exceed %d bytes", maxEntries, maxNames)
	}
	for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
		if _, ok := s.dirs[name[:i]]; ok {
			break
		}
		if _, ok := s.files[name[:i]]; ok {
			return fmt.Errorf("entry name %q has a file as its folder", name)
		}
		if len(s.dirs) >= maxFolders {
			return fmt.Errorf("more than %d folders", maxFolders)
		}
		s.dirs[name[:i]] = struct{}{}
	}
	s.files[name] = struct{}{}
	return nil
}

type entryJSON struct {
	Name   string    `json:"name"`
	Size   int64     `json:"size"`
	SHA256 string    `json:"sha256"`
	Mode   string    `json:"mode"`
	MTime  time.Time `json:"mtime"`
}

// MarshalJSON writes {"name":"...","size":1,"sha256":"...","mode":"0600","mtime":"..."}.
func (e Entry) MarshalJSON() ([]byte, error) {
	return json.Marshal(entryJSON{e.Name, e.Size, e.SHA256, fmt.Sprintf("%#o", uint32(e.Mode.Perm())), e.ModTime})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (e *Entry) UnmarshalJSON(b []byte) error {
	var j entryJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	mode, err := strconv.ParseUint(j.Mode, 8, 16)
	if err != nil || mode > uint64(fs.ModePerm) {
		return fmt.Errorf("mode %q is not octal permission bits", j.Mode)
	}
	if sum, err := hex.DecodeString(j.SHA256); err != nil || len(sum) != 32 {
		return errors.New("sha256 is not 64 hex digits")
	}
	*e = Entry{j.Name, j.Size, j.SHA256, fs.FileMode(mode), j.MTime}
	return nil
}
