// Package state is n8keep's own memory, one SQLite file in the state folder:
// which archives were verified here and when, the sidecars that were read before,
// the time at which targets were last pruned, and which data keys of an n8n were
// found to be unused.
//
// Nothing in it is needed to restore, and all of it can be learnt again by reading
// the targets, or n8n's database, so a damaged file is no reason to stop: it is put aside as
// state.db.damaged-TIME with a warning, and an empty one is begun. Forgotten
// verifications make a prune more careful, not less. A file that a newer n8keep
// wrote is refused instead, because that one still needs it.
//
// Schema changes are the files in migrations, applied in order in one transaction
// each; a file of every earlier version is opened and brought up to date. Their
// number is SQLite's user_version.
//
// Trust boundary: whoever can write this file can make an archive count as
// verified. It is 0600 in a 0700 folder, as the signing key is. Sidecars taken
// from it are checked again by whoever uses them, signature included. It holds no
// secret: what it knows of a target is its location without credentials.
//
// A [DB] may be used by several goroutines and the file by several processes.
package state

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
)

// FileName is the name of the file in the state folder.
const FileName = "state.db"

//go:embed migrations/*.sql
var migrations embed.FS

// Config says where the file is.
type Config struct {
	Dir    string           // the state folder; made (0700) when missing. Required
	Now    func() time.Time // names a file that is put aside; nil: time.Now
	Logger *slog.Logger     // gets a warning about that; nil: none
}

// DB is the open file.
type DB struct {
	pool *sql.DB
	path string
}

// Open opens or makes the file.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	path := filepath.Join(cfg.Dir, FileName)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "making the state folder").WithHint("choose another with --state-dir")
	}
	db, err := open(ctx, path)
	if damaged(err) {
		cfg.Logger.Warn("the state database was damaged and begun anew; what was verified here before is forgotten", "error", err)
		if err = putAside(ctx, path, cfg.Now()); err == nil {
			db, err = open(ctx, path)
		}
	}
	if err != nil {
		var p *problem.Error
		if errors.As(err, &p) {
			return nil, err
		}
		return nil, problem.Wrap(problem.Unexpected, err, "opening the state database %q", path).
			WithHint("the state folder must be writable by this user; choose another with --state-dir")
	}
	return db, nil
}

func open(ctx context.Context, path string) (*DB, error) {
	// Made here and not by SQLite, so that it is never readable by others. Its log
	// and index get the mode that it has.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	parts := strings.Split(path, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	pool, err := sql.Open("sqlite", "file:"+strings.Join(parts, "/")+"?_txlock=immediate"+
		fmt.Sprintf("&_pragma=busy_timeout(%d)", patience.Milliseconds())+"&_pragma=journal_mode(wal)&_pragma=synchronous(full)&_pragma=foreign_keys(1)&_pragma=trusted_schema(0)&_pragma=temp_store(2)")
	if err != nil {
		return nil, err
	}
	// One connection: SQLite has one writer, and waiting for it in Go costs nothing.
	pool.SetMaxOpenConns(1)
	db := &DB{pool: pool, path: path}
	if err := db.begin(ctx); err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	return db, nil
}

// begin makes the first connection. SQLite does not wait, whatever busy_timeout
// says, while another process changes the journal mode of a new file or removes
// the log with its last connection.
func (db *DB) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := db.migrate(ctx)
		if !busy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait/2 + rand.N(wait)):
		}
	}
}

// patience is how long another process is waited for.
const patience = 10 * time.Second

// Close ends the use of the file.
func (db *DB) Close() error { return db.pool.Close() }

// Path is where the file is.
func (db *DB) Path() string { return db.path }

func (db *DB) migrate(ctx context.Context) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	// The write lock is taken first: two processes that begin at once would
	// otherwise both find an empty file.
	return db.change(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		if version > len(names) {
			return problem.New(problem.Usage, "the state database %q was written by a newer n8keep (schema %d, this one knows %d)", db.path, version, len(names)).
				WithHint("use that n8keep, or another folder with --state-dir")
		}
		for i, name := range names[version:] {
			text, err := migrations.ReadFile(name)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, string(text)); err != nil {
				return fmt.Errorf("applying %q: %w", filepath.Base(name), err)
			}
			if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version+i+1)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (db *DB) change(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := db.pool.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}

func damaged(err error) bool {
	code := codeOf(err)
	return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
}

func busy(err error) bool { return codeOf(err) == sqlite3.SQLITE_BUSY }

// codeOf is SQLite's primary result code, 0 when the error is none of its.
func codeOf(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.Code() & 0xff
}

// putAside renames the damaged file and what belongs to it. Of several processes
// that meet the damage at once one does it.
func putAside(ctx context.Context, path string, now time.Time) error {
	lock, err := durable.TryLock(path + ".lock")
	if errors.Is(err, durable.ErrLocked) {
		return problem.New(problem.Busy, "another n8keep repairs the state database %q", path).WithHint("run the command again")
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if db, err := open(ctx, path); !damaged(err) { // somebody was faster
		if err != nil {
			return err
		}
		return db.Close()
	}
	suffix := ".damaged-" + now.UTC().Format("20060102T150405.000Z")
	for _, side := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(path+side, path+suffix+side); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// wrap says what to do about an error of a query.
func (db *DB) wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	if damaged(err) {
		return problem.Wrap(problem.Damaged, err, "%s: the state database %q is damaged", doing, db.path).
			WithHint("move it away; nothing in it is needed to restore, and n8keep learns it again")
	}
	if errors.Is(err, context.Canceled) {
		return problem.Wrap(problem.Interrupted, err, "%s", doing)
	}
	return problem.Wrap(problem.Unexpected, err, "%s in the state database %q", doing, db.path).WithHint("check its disk and its owner, or choose another folder with --state-dir")
}
