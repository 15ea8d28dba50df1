package n8nhome

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
)

// FilesConfig says what to take.
type FilesConfig struct {
	// Binary takes binaryData (n8n to 2.x) and storage (later 2.x) along: files
	// that executions have made, and execution data where n8n keeps that in files.
	Binary bool
}

// File is a file of n8n's folder.
type File struct {
	// Path is relative to the folder, with the system's separator.
	Path    string
	Size    int64
	Mode    fs.FileMode
	ModTime time.Time
	// Skipped, when not empty, says why the file does not belong into an archive
	// although somebody might miss it: "symbolic link to ...", "socket", ...
	Skipped string
}

// Files yields the regular files of n8n's folder that belong into an archive, in
// lexical order of their paths' parts: nodes, custom, ssh, git, and whatever else
// a user has put there. Left out without a word are config, which holds the
// instance key, SQLite databases with their logs at any name, which a snapshot
// copies, crash.journal, event logs, what n8keep itself has put there, and the links in
// node_modules/.bin. Other symbolic links, which are not followed, sockets and the
// like, and folders that cannot be read are yielded with Skipped set. An error
// ends the sequence: the folder itself cannot be read.
//
// Sizes may have changed when a file is read; n8n goes on writing.
func Files(dir string, cfg FilesConfig) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			yield(File{}, problem.Wrap(problem.Unexpected, cause(err), "reading n8n folder %q", dir).
				WithHint("run as the user that runs n8n, or as root"))
			return
		}
		w := &walker{dir: dir, yield: yield}
		databases := databaseFiles(dir, entries)
		for _, e := range entries {
			if leftOut(e.Name(), cfg) || slices.Contains(databases, e.Name()) {
				continue
			}
			if !w.entry(e.Name(), e) {
				return
			}
		}
	}
}

func leftOut(name string, cfg FilesConfig) bool {
	switch name {
	case configName, "crash.journal":
		return true
	case "binaryData", "storage":
		return !cfg.Binary
	}
	if strings.HasPrefix(name, "n8nEventLog") && strings.HasSuffix(name, ".log") {
		return true
	}
	return strings.HasPrefix(name, ".n8keep-") || strings.Contains(name, ".sqlite")
}

// databaseFiles are the SQLite databases, which may have any name
// (DB_SQLITE_DATABASE), and what SQLite has put beside them.
func databaseFiles(dir string, entries []fs.DirEntry) []string {
	var names []string
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		head := make([]byte, 16)
		_, err = io.ReadFull(f, head)
		f.Close()
		if err == nil && bytes.Equal(head, []byte("SQLite format 3\x00")) {
			names = append(names, e.Name(), e.Name()+"-wal", e.Name()+"-shm", e.Name()+"-journal")
		}
	}
	return names
}

type walker struct {
	dir   string
	yield func(File, error) bool
}

// entry yields a file or what is in a folder; false ends the walk.
func (w *walker) entry(path string, e fs.DirEntry) bool {
	if e.IsDir() {
		entries, err := os.ReadDir(filepath.Join(w.dir, path))
		if errors.Is(err, fs.ErrNotExist) {
			return true
		}
		if err != nil {
			return w.yield(File{Path: path, Mode: fs.ModeDir, Skipped: "folder cannot be read: " + cause(err).Error()}, nil)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), durable.TempPrefix) {
				continue
			}
			if !w.entry(filepath.Join(path, e.Name()), e) {
				return false
			}
		}
		return true
	}
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return w.yield(File{Path: path, Mode: e.Type(), Skipped: "cannot be read: " + cause(err).Error()}, nil)
	}
	f := File{Path: path, Size: info.Size(), Mode: info.Mode(), ModTime: info.ModTime()}
	switch mode := info.Mode(); {
	case mode.IsRegular():
	case mode&fs.ModeSymlink != 0:
		// npm makes these anew, and there is one for every tool of every package.
		if strings.HasSuffix(filepath.ToSlash(filepath.Dir(path)), "node_modules/.bin") {
			return true
		}
		target, err := os.Readlink(filepath.Join(w.dir, path))
		if err != nil {
			target = "an unknown place"
		}
		f.Size, f.Skipped = 0, "symbolic link to "+target
	case mode&fs.ModeSocket != 0:
		f.Size, f.Skipped = 0, "socket"
	case mode&fs.ModeNamedPipe != 0:
		f.Size, f.Skipped = 0, "named pipe"
	default:
		f.Size, f.Skipped = 0, "device"
	}
	return w.yield(f, nil)
}
