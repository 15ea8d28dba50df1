package n8ndb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// snapBusy is how long a reader waits for a writer that is committing.
const snapBusy = 30 * time.Second

// snapSource is the database being copied, open for reading.
type snapSource struct {
	pool *sql.DB
	conn *sql.Conn
	path string // without symbolic links, because SQLite puts -wal beside the real file
	uri  string // the one conn was opened with, for ATTACH
	wal  bool
	size int64

	before  snapFiles
	open    bool
	checked bool // read without locks: before has to hold at the end
	made    bool // -wal and -shm may be ours, see removeMade
	private string
}

// snapFiles is what lies at a database's path. The -shm file is only looked at,
// never opened: closing it would drop the locks that SQLite holds on it.
type snapFiles struct {
	db, wal, shm, journal snapFile
}

type snapFile struct {
	exists     bool
	size       int64
	dev, inode uint64
	modified   time.Time
}

// snapOpen chooses how to read.
//
//   - A write-ahead log with an index (-shm) beside it: an ordinary read-only
//     connection. n8n may be running.
//   - WAL mode without -wal: nobody has the database open, since every connection
//     has its -wal from its first read to its close. An ordinary connection would
//     make -wal and -shm, with our owner, in a folder that is not ours, so that an
//     n8n starting at this moment might not be able to open them. The file is
//     read immutable instead, that is without locks and side files, and afterwards
//     it must be the file it was, and still without -wal. A folder that cannot be
//     written is read the same way.
//   - A write-ahead log without index, or a hot rollback journal: something was
//     killed or copied by hand, and to read it SQLite would have to recover it in
//     place. That is done on a private copy, which counts if the files stayed as
//     they were while they were copied.
//   - A rollback journal mode: an ordinary read-only connection, which makes no
//     files.
func snapOpen(ctx context.Context, path, workDir string) (*snapSource, error) {
	if _, err := readHeader(path); err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return nil, err
	}
	before, err := snapLook(real)
	if err != nil {
		return nil, err
	}
	head, err := readHeader(real)
	if err != nil {
		return nil, err
	}
	s := &snapSource{path: real, before: before, size: before.db.size}
	s.wal = head.wal() || before.wal.exists
	switch {
	case s.wal && !before.wal.exists, s.wal && before.wal.size == 0 && !before.shm.exists:
		// A change in the same tick of the file system's clock would not show.
		if time.Since(before.db.modified) < time.Second && snapWritable(filepath.Dir(real)) {
			s.made = true
			return s, s.connect(ctx, "")
		}
		s.checked = true
		return s, s.connect(ctx, "&immutable=1")
	case s.wal && !before.shm.exists:
		return s, s.copyAside(ctx, workDir)
	}
	s.made = s.wal
	err = s.connect(ctx, "")
	if !s.wal && before.journal.exists && snapIsRefusal(err) {
		return s, s.copyAside(ctx, workDir)
	}
	if s.wal && snapIsRefusal(err) {
		return nil, problem.Wrap(problem.Usage, err, "the write-ahead log of %q cannot be read by this user", real).
			WithHint("run as the user that runs n8n, or as root")
	}
	return s, err
}

func (s *snapSource) journalMode() string {
	if s.wal {
		return "wal"
	}
	return "delete"
}

// connect opens the database and proves that it can be read. After an error
// nothing is left open.
func (s *snapSource) connect(ctx context.Context, options string) error {
	path := s.path
	if s.private != "" {
		path = filepath.Join(s.private, "database.sqlite")
	}
	s.uri = snapURI(path, "mode=ro"+options)
	pool, err := snapPool(s.uri + fmt.Sprintf("&_pragma=busy_timeout(%d)", snapBusy.Milliseconds()))
	if err != nil {
		return err
	}
	s.pool, s.open = pool, true
	var tables int
	if s.conn, err = pool.Conn(ctx); err == nil {
		err = s.conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables)
	}
	if err != nil {
		s.close()
	}
	return err
}

// copyAside copies the database with its log or journal into a private folder
// and lets SQLite recover it there.
func (s *snapSource) copyAside(ctx context.Context, workDir string) (err error) {
	s.private, err = os.MkdirTemp(workDir, durable.TempPrefix+"db-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	failpoint.Hit("snapshot.aside")
	for _, suffix := range []string{"", "-wal", "-journal"} {
		if err := snapCopyFile(ctx, s.path+suffix, filepath.Join(s.private, "database.sqlite"+suffix)); err != nil {
			return err
		}
	}
	after, err := snapLook(s.path)
	if err != nil {
		return err
	}
	if after != s.before {
		return errSnapChanged
	}
	recovered, err := snapPool(snapURI(filepath.Join(s.private, "database.sqlite"), "mode=rw&_pragma=synchronous(off)"))
	if err != nil {
		return err
	}
	var tables int
	err = recovered.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables)
	if err := errors.Join(err, recovered.Close()); err != nil {
		return err
	}
	return s.connect(ctx, "&immutable=1")
}

func snapCopyFile(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	for ctx.Err() == nil {
		if _, err := io.CopyN(out, in, 64<<20); err == io.EOF {
			return out.Close()
		} else if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// finish closes the source and says whether what was read counts.
func (s *snapSource) finish() error {
	if err := s.close(); err != nil {
		return err
	}
	if !s.checked {
		return nil
	}
	after, err := snapLook(s.path)
	if err != nil {
		return err
	}
	// An index without log beside it may come and go unnoticed; it holds nothing.
	after.shm = s.before.shm
	if after != s.before {
		return errSnapChanged
	}
	return nil
}

func (s *snapSource) close() error {
	if s.private != "" {
		defer os.RemoveAll(s.private)
	}
	if !s.open {
		return nil
	}
	s.open = false
	var err error
	if s.conn != nil {
		err = s.conn.Close()
	}
	err = errors.Join(err, s.pool.Close())
	if s.made {
		s.removeMade()
	}
	return err
}

// removeMade removes the -wal and -shm that reading has made: n8n, which had
// them, closed the database between our look and our opening, or there were none
// and the file was too new to be read immutable.
//
// Whether anybody else has opened the database since cannot be found out by
// looking, and a -wal taken away from an n8n loses what it commits. So the files
// are never unlinked here. A connection that may write is opened and closed:
// SQLite, when the last connection closes, takes the exclusive lock of the
// database, which fails while any other process has it open in WAL mode, and
// removes both files under it. One that comes later waits for that lock and makes
// new files. That connection would also move the content of a log into the
// database; this is harmless, but not ours to do, so a log with content is left
// alone, and so are files that were there before, known by their inode. What
// cannot be removed (no right to write the database) stays: empty, and good for
// the next who opens it.
func (s *snapSource) removeMade() {
	now, err := snapLook(s.path)
	if err != nil || !now.wal.exists || now.wal.size != 0 {
		return
	}
	if s.before.wal.exists && s.before.wal.inode == now.wal.inode && s.before.wal.dev == now.wal.dev {
		return
	}
	pool, err := snapPool(snapURI(s.path, "mode=rw"))
	if err != nil {
		return
	}
	defer pool.Close()
	var tables int
	pool.QueryRow("SELECT count(*) FROM sqlite_schema").Scan(&tables)
}

func snapLook(path string) (snapFiles, error) {
	var files snapFiles
	for suffix, file := range map[string]*snapFile{"": &files.db, "-wal": &files.wal, "-shm": &files.shm, "-journal": &files.journal} {
		info, err := os.Stat(path + suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			continue
		}
		if err != nil {
			return files, err
		}
		*file = snapFile{exists: true, size: info.Size(), modified: info.ModTime()}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			file.dev, file.inode = uint64(stat.Dev), stat.Ino
		}
		if suffix == "-shm" {
			file.modified = time.Time{} // readers write to it
		}
	}
	return files, nil
}

func snapWritable(dir string) bool { return syscall.Access(dir, 2) == nil }

// snapURI makes a URI of which no character of the path can be taken for an option.
func snapURI(path, options string) string {
	parts := strings.Split(filepath.ToSlash(path), "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return "file:" + strings.Join(parts, "/") + "?" + options
}

// snapPool opens a pool of one connection. Locks belong to the open file, not to
// the process, as far as the system has such locks: with the others, closing any
// file descriptor of a database drops every lock this process has on it.
func snapPool(uri string) (*sql.DB, error) {
	// Too late, or not to be had: then the older kind of lock is in use everywhere.
	_, _ = sqlite.OFDLocking(true)
	pool, err := sql.Open("sqlite", uri)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1)
	return pool, nil
}

func snapCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return -1
	}
	return e.Code() & 0xff
}

// snapIsRefusal reports that SQLite could not write where it had to.
func snapIsRefusal(err error) bool {
	switch snapCode(err) {
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return true
	}
	return false
}

// snapCause drops the path, which the message around it names already.
func snapCause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// snapProblem makes an error for a person. A problem stays what it is.
func snapProblem(ctx context.Context, err error, format string, args ...any) error {
	var p *problem.Error
	if errors.As(err, &p) {
		return err
	}
	if ctx.Err() != nil {
		return problem.Wrap(problem.Interrupted, ctx.Err(), format, args...)
	}
	wrapped := problem.Wrap(problem.Unexpected, err, format, args...)
	switch code := snapCode(err); {
	case errors.Is(err, errSnapChanged):
		wrapped.Kind = problem.Busy
		wrapped.WithHint("n8n was probably started at this moment; try again")
	case code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED:
		wrapped.Kind = problem.Busy
		wrapped.WithHint("another process has held the database locked for %v; try again", snapBusy)
	case code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB:
		wrapped.Kind = problem.Damaged
		wrapped.WithHint(`see what is wrong with "sqlite3 FILE 'PRAGMA integrity_check'" and restore an older backup`)
	case code == sqlite3.SQLITE_FULL || errors.Is(err, syscall.ENOSPC):
		wrapped.WithHint("free some space in the folder of the copy")
	case snapIsRefusal(err) || errors.Is(err, fs.ErrPermission):
		wrapped.WithHint("run as the user that runs n8n, or as root")
	}
	return wrapped
}
