package n8ndb

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/n8keep/n8keep/internal/problem"
)

// SwapSQLiteConfig names a database file that n8n may be using.
type SwapSQLiteConfig struct {
	Path        string
	TablePrefix string // DB_TABLE_PREFIX
	// Patience is how long a writer is waited for; 0 is 30 seconds.
	Patience time.Duration
}

// SwapPostgresConfig names a database on a server that n8n may be using.
type SwapPostgresConfig struct {
	DSN         string // URL or key=value; its password is in no error
	Schema      string // DB_POSTGRESDB_SCHEMA; "" is public
	TablePrefix string // DB_TABLE_PREFIX
	AppName     string // begins the application_name of the sessions; "" is n8keep
	// LockTimeout is how long somebody who has locked a whole table is waited for; 0 is 10 seconds.
	LockTimeout time.Duration
}

// Swapper changes columns of a database that n8n may be using, by compare and swap:
// a column is written only if it still holds what was read. Whatever n8n writes at the
// same time wins, and no row is waited for. What it reads, it reads as a [DB].
//
// On PostgreSQL its transactions are Busy while a [Writer] is at the database, which
// waits for those that have begun; on SQLite the engine's own lock does that.
//
// A Swapper is for one goroutine; its DB is not.
type Swapper struct {
	*DB
	write    *sql.DB // one connection
	path     string  // SQLite, without symbolic links
	app      string  // PostgreSQL: application_name of all our sessions
	patience time.Duration
}

// SwapSQLite opens a database file for changes beside a running n8n.
func SwapSQLite(ctx context.Context, cfg SwapSQLiteConfig) (*Swapper, error) {
	db, err := OpenSQLite(ctx, SQLiteConfig{Path: cfg.Path, TablePrefix: cfg.TablePrefix})
	if err != nil {
		return nil, err
	}
	s := &Swapper{DB: db, patience: cmp.Or(cfg.Patience, 30*time.Second)}
	if s.path, err = filepath.EvalSymlinks(cfg.Path); err == nil {
		s.path, err = filepath.Abs(s.path)
	}
	if err != nil {
		return nil, errors.Join(problem.Wrap(problem.Unexpected, err, "opening %q", cfg.Path), db.Close())
	}
	// Waiting is done in Go, where it can be cancelled.
	options := strings.NewReplacer("mode=ro", "mode=rw", "_pragma=query_only(1)", "_txlock=immediate",
		"busy_timeout(5000)", "busy_timeout(200)").Replace(dsn(s.path, ""))
	if head, err := readHeader(s.path); err == nil && head.wal() {
		// Others wait while a commit waits for the disk. Without that a power loss takes back
		// the last commits, in order, and with them what n8n has written since; see Flush.
		options += "&_pragma=synchronous(1)"
	}
	if s.write, err = sql.Open("sqlite", options); err != nil {
		return nil, errors.Join(explainSQLite(s.path, err), db.Close())
	}
	s.write.SetMaxOpenConns(1)
	if err := s.inWrite(ctx, func(*swapTx) error { return nil }); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// swapperMark is in the application_name of Swappers: they write.
const swapperMark = " writes"

// SwapPostgres connects to a database for changes beside a running n8n.
func SwapPostgres(ctx context.Context, cfg SwapPostgresConfig) (*Swapper, error) {
	app := fmt.Sprintf("%s%s %d", cmp.Or(cfg.AppName, "n8keep"), swapperMark, time.Now().UnixNano())
	db, err := OpenPostgres(ctx, PostgresConfig{DSN: cfg.DSN, Schema: cfg.Schema, TablePrefix: cfg.TablePrefix, AppName: app})
	if err != nil {
		return nil, err
	}
	s := &Swapper{DB: db, app: app}
	c, err := pgx.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, errors.Join(problem.New(problem.Unexpected, "the PostgreSQL address cannot be read"), db.Close())
	}
	for name, value := range map[string]string{
		"application_name":                    app,
		"datestyle":                           "ISO",
		"timezone":                            "UTC",
		"default_transaction_read_only":       "off",
		"default_transaction_isolation":       "read committed",
		"lock_timeout":                        fmt.Sprint(cmp.Or(cfg.LockTimeout, 10*time.Second).Milliseconds()),
		"statement_timeout":                   "0",
		"idle_in_transaction_session_timeout": "60000",
	} {
		c.RuntimeParams[name] = value
	}
	s.write = stdlib.OpenDB(*c)
	s.write.SetMaxOpenConns(1)
	return s, nil
}

// Flush waits until what was committed is on the disk. PostgreSQL has waited before.
func (s *Swapper) Flush(ctx context.Context) error {
	if s.engine == Postgres {
		return nil
	}
	var busy, log, moved int
	err := s.write.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &log, &moved)
	if err == nil && (busy != 0 || moved < log) {
		// Somebody else moves the log, or reads what is older than it: it may not be on the disk.
		err = s.syncLog(ctx)
	}
	return s.explainWrite(ctx, err)
}

// syncLog makes a commit that changes nothing and waits for the disk, and with it for
// all of the log before it. A transaction that writes no page would not.
func (s *Swapper) syncLog(ctx context.Context) (err error) {
	if _, err := s.write.ExecContext(ctx, "PRAGMA synchronous = FULL"); err != nil {
		return err
	}
	defer func() {
		_, e := s.write.ExecContext(context.WithoutCancel(ctx), "PRAGMA synchronous = NORMAL")
		err = errors.Join(err, e)
	}()
	return s.inWrite(ctx, func(x *swapTx) error {
		var version int
		if err := x.tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		_, err := x.tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
		return err
	})
}

// Close ends the connections. Where nobody else has the file open, SQLite moves its
// log into it.
func (s *Swapper) Close() error {
	err := s.DB.Close()
	if s.write != nil {
		err = errors.Join(err, s.write.Close())
	}
	return err
}

// Attached says who else has the database open.
type Attached struct {
	By        []string // processes or sessions, in words; empty when nobody was found
	Unchecked []string // what could not be checked, in plain sentences
}

// Attached looks who uses the database beside this Swapper, which must not be in the
// middle of a Pass. SQLite's file is held for a moment, if nobody has it open.
func (s *Swapper) Attached(ctx context.Context, cfg HoldConfig) (Attached, error) {
	if s.engine == Postgres {
		if cfg.AssumeStopped { // every session counts as n8n's, which only a person can contradict
			return Attached{}, nil
		}
		if cfg.HTTP == nil {
			cfg.HTTP = &http.Client{Timeout: 2 * time.Second}
		}
		// An idle n8n may have no session for a while: its health URL tells more.
		h := Held{cfg: cfg}
		unchecked, err := h.askHealth(ctx)
		switch {
		case problem.KindOf(err) == problem.Busy:
			return Attached{By: []string{err.Error()}}, nil
		case err != nil:
			return Attached{}, err
		}
		a, err := s.attachedPostgres(ctx)
		a.Unchecked = unchecked
		return a, err
	}
	// Our own connections hold locks, too.
	s.pool.SetMaxIdleConns(0)
	s.write.SetMaxIdleConns(0)
	defer s.pool.SetMaxIdleConns(1)
	defer s.write.SetMaxIdleConns(1)
	h, err := Hold(ctx, s.path, cfg)
	switch {
	case problem.KindOf(err) == problem.Busy:
		return Attached{By: []string{err.Error()}}, nil
	case err != nil && strings.Contains(problem.HintOf(err), "--assume-stopped"):
		return Attached{Unchecked: []string{err.Error()}}, nil
	case err != nil:
		return Attached{}, err
	}
	return Attached{}, h.Release()
}

func (s *Swapper) attachedPostgres(ctx context.Context) (a Attached, err error) {
	err = s.view(ctx, func(v *view) error {
		_, err := v.rows(ctx, `SELECT pid, coalesce(nullif(application_name, ''), 'no name'), coalesce(host(client_addr), 'a socket'), usename
			FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> $1
			ORDER BY pid LIMIT 20`, []any{s.app}, 4, 0, func(cols []any) error {
			a.By = append(a.By, fmt.Sprintf("session %s (%s, user %s, from %s)", textOf(cols[0]), textOf(cols[1]), textOf(cols[3]), textOf(cols[2])))
			return nil
		})
		return err
	})
	return a, err
}

// swapTx is a short transaction that writes.
type swapTx struct {
	s    *Swapper
	conn *sql.Conn // that tx is on
	tx   *sql.Tx
}

// lockShared takes n8keep's own lock beside other Swappers. A Writer has it alone.
func (x *swapTx) lockShared(ctx context.Context) error {
	if x.s.engine != Postgres {
		return nil
	}
	var free bool
	if err := x.tx.QueryRowContext(ctx, fmt.Sprintf("SELECT pg_try_advisory_xact_lock_shared(%d, %d)", lockChanges, x.s.lockKey())).Scan(&free); err != nil {
		return err
	}
	if !free {
		return problem.New(problem.Busy, "another n8keep is changing every secret of this database").
			WithHint("let it end (\"n8keep rotate status\", where it was started, shows a rotation), and run this again with the key that is n8n's then")
	}
	return nil
}

// inside calls do with a DB that reads within the transaction. Until do returns, the
// transaction must not be used otherwise.
func (x *swapTx) inside(do func(*DB) error) error {
	db := &DB{engine: x.s.engine, schema: x.s.schema, prefix: x.s.prefix, tables: x.s.tables}
	if db.engine == SQLite {
		db.writing = &view{db: db, q: x.tx}
		return do(db)
	}
	return x.conn.Raw(func(driver any) error {
		c, ok := driver.(*stdlib.Conn)
		if !ok {
			return errors.New("the PostgreSQL driver hides its connection")
		}
		db.writing = &view{db: db, pg: c.Conn()}
		return do(db)
	})
}

// sameKeys refuses to write with a key set whose rows were changed since: a rotation
// would have to be undone.
func (x *swapTx) sameKeys(ctx context.Context, k *Keyset) error {
	now := map[string][sha256.Size]byte{}
	err := x.inside(func(db *DB) (err error) {
		now, err = db.writing.storedKeys(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for id, sum := range k.stored {
		if now[id] != sum {
			return problem.New(problem.Busy, "n8n's keys in the database were changed meanwhile").
				WithHint("what was written before is readable, and nothing was written since; run the command again, with the key that is n8n's now")
		}
	}
	return nil
}

// inWrite runs do in a transaction and commits it. On SQLite it holds the write lock
// from its beginning; somebody who holds another lock is waited for, in steps, and do is
// run again.
func (s *Swapper) inWrite(ctx context.Context, do func(*swapTx) error) error {
	until := time.Now().Add(s.patience)
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := s.tryWrite(ctx, do)
		if s.engine != SQLite || !sqliteBusy(err) || ctx.Err() != nil || time.Now().After(until) {
			return s.explainWrite(ctx, err)
		}
		if err := Pause(ctx, wait); err != nil {
			return err
		}
	}
}

func (s *Swapper) tryWrite(ctx context.Context, do func(*swapTx) error) error {
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	x := &swapTx{s, conn, tx}
	if err = x.lockShared(ctx); err == nil {
		err = do(x)
	}
	if err != nil {
		return errors.Join(err, rollback(tx))
	}
	err = tx.Commit()
	if err != nil && s.engine == SQLite { // a commit that was refused leaves its transaction open
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	}
	return err
}

func rollback(tx *sql.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// Pause waits, or ends early with ctx's error.
func Pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
