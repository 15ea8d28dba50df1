package n8ndb

import (
	"bytes"
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

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/n8keep/n8keep/internal/problem"
)

// SQLiteConfig names a database file.
type SQLiteConfig struct {
	Path        string
	TablePrefix string // DB_TABLE_PREFIX
	// Immutable is for a private copy that nobody else opens: no locks are taken and
	// nothing is written beside it. Its -wal is not read.
	Immutable bool
}

// ErrMidWrite is the cause of an error about a database file that a program has left in
// the middle of a write: only who may write it can read it, and nobody has it open.
var ErrMidWrite = errors.New("left in the middle of a write")

// OpenSQLite opens a database file for reading, with its write-ahead log. n8n may
// be running. Where the folder cannot be written, a log that needs recovery cannot
// be read, and the error says so; without a log the file is read as it is.
func OpenSQLite(ctx context.Context, cfg SQLiteConfig) (*DB, error) {
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "opening %q", cfg.Path)
	}
	head, err := readHeader(path)
	if err != nil {
		return nil, err
	}
	// SQLite puts -wal and -shm beside the real file.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "opening %q", cfg.Path)
	}
	side := sideFiles(path)
	db := &DB{engine: SQLite, prefix: cfg.TablePrefix}
	if cfg.Immutable {
		db.pool, err = openSQLitePool(ctx, path, "&immutable=1")
	} else {
		db.pool, err = openSQLitePool(ctx, path, "")
		switch {
		case err == nil && head.wal():
			db.cleanup = func() error { return removeOwnSideFiles(path, side) }
		case err == nil:
			db.yield = true
		case !head.wal() && folderRefused(err) && exists(path+"-journal"):
			p := &problem.Error{Kind: problem.Usage, Err: ErrMidWrite, Msg: fmt.Sprintf("%q was left in the middle of a write, and only a program that may write it can repair it", path)}
			return nil, p.WithHint("start n8n on it once, or take a backup, which repairs a copy")
		case head.wal() && folderRefused(err) && !side.log:
			// Nobody has it open, or there would be a log; should somebody come, Close finds the log.
			if db.pool, err = openSQLitePool(ctx, path, "&immutable=1"); err == nil {
				db.cleanup = func() error { return stillUnopened(path) }
			}
		case head.wal() && folderRefused(err):
			return nil, problem.New(problem.Usage, "%q has a write-ahead log that cannot be read, because its folder cannot be written", path).
				WithHint("make the folder writable for this user, or copy the file together with its -wal to a folder that is")
		}
	}
	if err != nil {
		return nil, explainSQLite(path, err)
	}
	if err := db.inspect(ctx, path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

type header []byte

func (h header) wal() bool { return h[18] == 2 || h[19] == 2 }

// readHeader tells a database from everything else that may lie at a path, which
// SQLite would create, or call "not a database".
func readHeader(path string) (header, error) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return nil, problem.New(problem.Usage, "%q is a folder, not a database file", path).
			WithHint("n8n's database is usually %q", filepath.Join(path, "database.sqlite"))
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, problem.New(problem.NotFound, "there is no database at %q", path).
			WithHint("name the folder that holds database.sqlite with --n8n-dir, or the file itself with --database")
	case errors.Is(err, fs.ErrPermission):
		return nil, problem.New(problem.Usage, "permission denied for %q", path).
			WithHint("run as the user that runs n8n, or as root")
	case err != nil:
		return nil, problem.Wrap(problem.Unexpected, err, "opening %q", path)
	}
	defer f.Close()
	h := make(header, 100)
	n, err := io.ReadFull(f, h)
	switch {
	case n == 0:
		return nil, problem.New(problem.Damaged, "%q is empty", path)
	case err != nil && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, problem.Wrap(problem.Unexpected, err, "reading %q", path)
	case err != nil || !bytes.HasPrefix(h, []byte("SQLite format 3\x00")):
		return nil, problem.New(problem.Damaged, "%q is not an SQLite database, or it is encrypted", path)
	}
	return h, nil
}

// dsn makes a URI of which no character of the path can be taken for an option.
func dsn(path, options string) string {
	parts := strings.Split(path, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	// The database is not trusted: its schema may not call functions with side effects, and sorting
	// never writes to temporary files.
	return "file:" + strings.Join(parts, "/") + "?mode=ro&_pragma=busy_timeout(5000)&_pragma=query_only(1)" +
		"&_pragma=trusted_schema(0)&_pragma=temp_store(2)&_pragma=cache_size(-4000)" + options
}

func openSQLitePool(ctx context.Context, path, options string) (*sql.DB, error) {
	// Else closing any other descriptor of the file would drop the locks of this one.
	_, _ = sqlite.OFDLocking(true)
	pool, err := sql.Open("sqlite", dsn(path, options))
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(4)
	pool.SetMaxIdleConns(1)
	var n int
	if err := pool.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema`).Scan(&n); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return pool, nil
}

func folderRefused(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	primary := e.Code() & 0xff
	return primary == sqlite3.SQLITE_CANTOPEN || primary == sqlite3.SQLITE_READONLY
}

func explainSQLite(path string, err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return problem.Wrap(problem.KindOf(err), err, "reading %q", path)
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return problem.Wrap(problem.Busy, err, "another process holds %q locked", path).
			WithHint("try again in a moment, or stop n8n")
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return problem.Wrap(problem.Damaged, err, "%q is damaged", path)
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM:
		return problem.Wrap(problem.Usage, err, "permission denied for %q or its folder", path).
			WithHint("run as the user that runs n8n, or as root")
	}
	return problem.Wrap(problem.Unexpected, err, "reading %q", path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// side says which of SQLite's files lay beside a database before it was opened.
type side struct{ log, shm bool }

func sideFiles(path string) side {
	info, err := os.Stat(path + "-wal")
	_, shm := os.Stat(path + "-shm")
	return side{log: err == nil && info.Size() > 0, shm: shm == nil}
}

func stillUnopened(path string) error {
	if sideFiles(path).log {
		return problem.New(problem.Busy, "n8n was started on %q while it was read without locks", path).
			WithHint("what was read may be mixed: repeat it with a folder that can be written")
	}
	return nil
}

// removeOwnSideFiles removes the empty -wal and the -shm that reading has made.
// SQLite does it itself when the last connection that may write is closed, and it
// alone can tell, under its locks, that nobody else has come meanwhile.
func removeOwnSideFiles(path string, before side) error {
	if before.log || before.shm || sideFiles(path).log {
		return nil
	}
	if _, err := os.Stat(path + "-shm"); err != nil {
		return nil
	}
	pool, err := sql.Open("sqlite", strings.Replace(dsn(path, ""), "mode=ro", "mode=rw", 1))
	if err != nil {
		return nil
	}
	var n int
	err = pool.QueryRow(`SELECT count(*) FROM sqlite_schema`).Scan(&n)
	if err = errors.Join(err, pool.Close()); err != nil {
		return fmt.Errorf("removing what reading has left beside %q: %w", path, err)
	}
	return nil
}

func sqliteTables(ctx context.Context, q querier) ([]Table, error) {
	rows, err := q.QueryContext(ctx, `SELECT m.name, c.name, c.type, c.pk
		FROM sqlite_schema m, pragma_table_xinfo(m.name) c
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\' AND m.sql NOT LIKE 'CREATE VIRTUAL%' AND c.hidden = 0
		ORDER BY m.name, c.cid`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tables tableList
	for rows.Next() {
		var table, column, declared string
		var pk int
		if err := rows.Scan(&table, &column, &declared, &pk); err != nil {
			return nil, err
		}
		tables.add(table, Column{Name: column, Type: declared, Kind: sqliteKind(declared)}, pk)
	}
	return tables.list(), rows.Err()
}

// sqliteKind goes by the declared type as SQLite's own affinity does; an unknown
// type counts as text, so that nothing is left unread.
func sqliteKind(declared string) Kind {
	d := strings.ToUpper(declared)
	if strings.Contains(d, "BLOB") {
		return Blob
	}
	for _, word := range []string{"INT", "BOOL", "REAL", "FLOA", "DOUB", "DATE", "TIME", "NUMERIC", "DECIMAL"} {
		if strings.Contains(d, word) {
			return Other
		}
	}
	return Text
}
