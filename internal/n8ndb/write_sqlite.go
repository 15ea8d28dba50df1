package n8ndb

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strings"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// WriteSQLite opens a database file for one transaction, with nobody attached: see
// [Hold], whose errors it returns. Until Close nobody else can open the database. A log
// that n8n left is read, and a transaction that a crash cut off is rolled back, as n8n
// would do it. The journal mode stays as it is.
//
// The lock stays the one that Hold took, from before SQLite opens the file until after
// it has closed it; SQLite itself is told that it is alone, and takes none.
func WriteSQLite(ctx context.Context, cfg SQLiteWriteConfig) (_ *Writer, err error) {
	held, err := Hold(ctx, cfg.Path, cfg.Hold)
	if err != nil {
		return nil, err
	}
	tx := &sqliteWrite{held: held}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.close())
		}
	}()
	if tx.pool, err = snapPool(snapURI(held.path, "mode=rw"+holdVFS)); err != nil {
		return nil, tx.explain(err)
	}
	if tx.conn, err = tx.pool.Conn(ctx); err != nil {
		return nil, tx.explain(err)
	}
	failpoint.Hit("write.begin")
	for _, stmt := range writeBegin() {
		if _, err := tx.conn.ExecContext(ctx, stmt); err != nil {
			return nil, tx.explain(err)
		}
	}
	failpoint.Hit("write.begun")
	db := &DB{engine: SQLite, prefix: cfg.TablePrefix}
	tx.db = db
	db.writing = &view{db: db, q: tx.conn}
	if err := db.inspect(ctx, held.path); err != nil {
		return nil, err
	}
	if err := tx.refuseTriggers(ctx); err != nil {
		return nil, err
	}
	return &Writer{DB: db, Unchecked: held.Unchecked, tx: tx}, nil
}

// writeBegin is what a Writer's connection does first. In exclusive locking mode, which
// must be set before anything is read, the index of the log is in memory and not in a
// file that others could map. EXTRA is FULL, and the folder is synchronised when a
// rollback journal has gone, so that a power cut cannot bring it back. The log is moved
// into the database once, at the end. Triggers of the database may not call functions
// with side effects.
func writeBegin() []string {
	return []string{
		"PRAGMA locking_mode = EXCLUSIVE",
		"PRAGMA synchronous = EXTRA",
		"PRAGMA wal_autocheckpoint = 0",
		"PRAGMA trusted_schema = OFF",
		"PRAGMA temp_store = MEMORY",
		"PRAGMA cache_size = -12000",
		"BEGIN EXCLUSIVE",
	}
}

// sqliteWrite is the transaction of a Writer on SQLite.
type sqliteWrite struct {
	held    *Held
	db      *DB
	pool    *sql.DB
	conn    *sql.Conn
	updates map[*Column]*sql.Stmt
}

func (tx *sqliteWrite) explain(err error) error {
	if err == nil {
		return nil
	}
	path := tx.held.path
	switch code := snapCode(err); code {
	case sqlite3.SQLITE_FULL:
		return problem.Wrap(problem.Unexpected, err, "there is no room left to write %q", path).
			WithHint("nothing was changed; the changes need as much room beside the database as the rows that change, and once more")
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return problem.Wrap(problem.Usage, err, "%q or its folder cannot be written", path).
			WithHint("run as the user that runs n8n, or as root")
	case -1:
		return err
	}
	return explainSQLite(path, err)
}

// triggerHead is what a trigger says before the table it is on.
var triggerHead = regexp.MustCompile(`(?is)\A(.*?)\sON\s`)

// refuseTriggers: a trigger would run with every row that is written, and change what
// nobody sees.
func (tx *sqliteWrite) refuseTriggers(ctx context.Context) error {
	rows, err := tx.conn.QueryContext(ctx, `SELECT name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'trigger' ORDER BY name`)
	if err != nil {
		return tx.explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, table, text string
		if err := rows.Scan(&name, &table, &text); err != nil {
			return tx.explain(err)
		}
		head := triggerHead.FindString(text)
		if without, ok := strings.CutPrefix(table, tx.db.prefix); ok && isCatalogued(without) && strings.Contains(strings.ToUpper(head), "UPDATE") {
			return errTrigger(name, table)
		}
	}
	return tx.explain(rows.Err())
}

func isCatalogued(table string) bool {
	for _, p := range Catalogue() {
		if p.Table == table {
			return true
		}
	}
	return false
}

func errTrigger(name, table string) error {
	return problem.New(problem.Usage, "the trigger %q would run with every row of %q that is written", name, table).
		WithHint("n8n has no such trigger: drop or disable it, and make it again afterwards")
}

// where is the condition on the primary key, whose first argument has number from.
func (tx *sqliteWrite) where(t *Table, from int) string {
	names := []string{"rowid"}
	if len(t.PrimaryKey) > 0 {
		names = nil
		for _, name := range t.PrimaryKey {
			names = append(names, quote(name))
		}
	}
	for i := range names {
		names[i] += fmt.Sprintf(" = ?%d", from+i)
	}
	return strings.Join(names, " AND ")
}

// statement sets a column; it is prepared once.
func (tx *sqliteWrite) statement(ctx context.Context, t *Table, c *Column) (*sql.Stmt, error) {
	if s := tx.updates[c]; s != nil {
		return s, nil
	}
	s, err := tx.conn.PrepareContext(ctx, "UPDATE "+tx.db.from(t)+" SET "+quote(c.Name)+" = ?1 WHERE "+tx.where(t, 2))
	if err != nil {
		return nil, tx.explain(err)
	}
	if tx.updates == nil {
		tx.updates = map[*Column]*sql.Stmt{}
	}
	tx.updates[c] = s
	return s, nil
}

func (tx *sqliteWrite) pages(ctx context.Context, q query, fn func([]pageRow) error) error {
	return tx.db.writing.pages(ctx, q, fn)
}

func (tx *sqliteWrite) update(ctx context.Context, t *Table, c *Column, rows []columnUpdate) (found int64, err error) {
	stmt, err := tx.statement(ctx, t, c)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	ctx = context.WithoutCancel(ctx) // for which the driver would begin a goroutine per row
	var args []any
	for _, row := range rows {
		args = append(args[:0], row.value)
		if row.bytes {
			args[0] = []byte(row.value)
		}
		n, err := tx.exec(ctx, stmt, append(args, row.key...))
		if err != nil {
			return found, err
		}
		found += n
	}
	return found, nil
}

func (tx *sqliteWrite) exec(ctx context.Context, stmt *sql.Stmt, args []any) (int64, error) {
	failpoint.Hit("write.update")
	result, err := stmt.ExecContext(ctx, args...)
	if err != nil {
		return 0, tx.explain(err)
	}
	failpoint.Hit("write.updated")
	return result.RowsAffected()
}

func (tx *sqliteWrite) restore(ctx context.Context, t *Table, c *Column, changes []Change) (sum Restored, err error) {
	stmt, err := tx.statement(ctx, t, c)
	if err != nil {
		return sum, err
	}
	found, err := tx.match(ctx, t, c, changes, func(change Change, key []any, now any) error {
		before := any(change.Before)
		if _, blob := now.([]byte); blob {
			before = []byte(change.Before)
		}
		n, err := tx.exec(ctx, stmt, append([]any{before}, key...))
		sum.Restored += n
		return err
	})
	sum.Same, sum.Changed, sum.Gone = found.Before, found.Other, found.Gone
	return sum, err
}

func (tx *sqliteWrite) compare(ctx context.Context, t *Table, c *Column, changes []Change) (Compared, error) {
	return tx.match(ctx, t, c, changes, func(Change, []any, any) error { return nil })
}

// match calls after for every change whose column holds what it has left.
func (tx *sqliteWrite) match(ctx context.Context, t *Table, c *Column, changes []Change, after func(change Change, key []any, now any) error) (sum Compared, err error) {
	read, err := tx.conn.PrepareContext(ctx, "SELECT "+quote(c.Name)+" FROM "+tx.db.from(t)+" WHERE "+tx.where(t, 1))
	if err != nil {
		return sum, tx.explain(err)
	}
	defer read.Close()
	for _, change := range changes {
		// Keys are compared as the column's type says, whatever they are given as.
		key := make([]any, len(change.Key))
		for i, k := range change.Key {
			key[i] = k
		}
		var now any
		switch err := read.QueryRowContext(ctx, key...).Scan(&now); {
		case errors.Is(err, sql.ErrNoRows):
			sum.Gone++
			continue
		case err != nil:
			return sum, tx.explain(err)
		}
		switch b := bytesOf(now); {
		case string(b) == change.Before:
			sum.Before++
		case sha256.Sum256(b) != change.AfterSum:
			sum.Other++
		default:
			sum.After++
			if err := after(change, key, now); err != nil {
				return sum, err
			}
		}
	}
	return sum, nil
}

// commit: an error while the log is synchronised leaves open what a power cut would
// leave of it. The log is moved into the database afterwards, which is no more than
// tidy: n8n leaves one, too.
func (tx *sqliteWrite) commit(ctx context.Context) (warnings []string, err error) {
	failpoint.Hit("write.commit")
	if _, err := tx.conn.ExecContext(ctx, "COMMIT"); err != nil {
		if code := snapCode(err); code == sqlite3.SQLITE_IOERR || code == -1 {
			return nil, errors.Join(ErrCommitUnknown, tx.explain(err))
		}
		return nil, errors.Join(tx.explain(err), tx.rollback())
	}
	failpoint.Hit("write.committed")
	var busy, frames, moved int
	err = tx.conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	if err == nil && busy != 0 {
		err = errors.New("somebody reads it")
	}
	failpoint.Hit("write.checkpointed")
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("the log could not be moved into the database, which n8n will do: %v", err))
	}
	return warnings, nil
}

func (tx *sqliteWrite) rollback() error {
	_, err := tx.conn.ExecContext(context.Background(), "ROLLBACK")
	if err != nil && strings.Contains(err.Error(), "no transaction is active") { // SQLite did it on its own, after an error
		return nil
	}
	return tx.explain(err)
}

// close ends the connection before the lock.
func (tx *sqliteWrite) close() (err error) {
	for _, s := range tx.updates {
		err = errors.Join(err, s.Close())
	}
	if tx.conn != nil {
		err = errors.Join(err, tx.conn.Close())
	}
	if tx.pool != nil {
		failpoint.Hit("write.close")
		err = errors.Join(err, tx.pool.Close())
		failpoint.Hit("write.closed")
	}
	return errors.Join(err, tx.held.Release())
}
