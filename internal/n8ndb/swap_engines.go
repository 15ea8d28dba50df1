package n8ndb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/n8keep/n8keep/internal/problem"
)

func (s *Swapper) limit(n int) string { return fmt.Sprintf(" LIMIT %d", n) }

// castKey gives the nth column of a key, which PostgreSQL gets as text, its type.
func (db *DB) castKey(t *Table, n int) string {
	if db.engine != Postgres {
		return ""
	}
	return "::" + t.Column(t.PrimaryKey[n]).Type
}

// swap writes what still is as it was read, and reads it back. written and stored
// stand beside batch.
func (x *swapTx) swap(ctx context.Context, c swapColumn, batch []swapChange) (written []bool, stored []string, err error) {
	written, stored = make([]bool, len(batch)), make([]string, len(batch))
	if x.s.engine == Postgres {
		return written, stored, x.swapPostgres(ctx, c, batch, written, stored)
	}
	return written, stored, x.swapSQLite(ctx, c, batch, written, stored)
}

func (x *swapTx) swapSQLite(ctx context.Context, c swapColumn, batch []swapChange, written []bool, stored []string) error {
	column := quote(c.column.Name)
	var key []string
	for _, name := range c.table.PrimaryKey {
		key = append(key, quote(name)+" = ?")
	}
	where := " WHERE " + strings.Join(key, " AND ")
	update, err := x.tx.PrepareContext(ctx, "UPDATE "+x.s.from(c.table)+" SET "+column+" = ?"+where+" AND "+column+" = ?")
	if err != nil {
		return err
	}
	defer update.Close()
	read, err := x.tx.PrepareContext(ctx, "SELECT "+column+" FROM "+x.s.from(c.table)+where)
	if err != nil {
		return err
	}
	defer read.Close()
	for i, change := range batch {
		args := append(append([]any{change.row.stored(change.after)}, change.row.key...), change.row.stored(change.row.text))
		result, err := update.ExecContext(ctx, args...)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return err
		}
		if n == 0 {
			continue
		}
		if n > 1 {
			return fmt.Errorf("%d rows of %q have one primary key", n, c.table.Name)
		}
		written[i] = true
		if err := read.QueryRowContext(ctx, change.row.key...).Scan(&stored[i]); err != nil {
			return err
		}
	}
	return nil
}

// swapPostgres takes the rows first that nobody else holds and that are as they were
// read: it never waits for a row, so that it can have no part in a deadlock.
func (x *swapTx) swapPostgres(ctx context.Context, c swapColumn, batch []swapChange, written []bool, stored []string) error {
	column := "t." + quote(c.column.Name)
	var names, on []string // of the key in the list v, and how it fits t
	for i, name := range c.table.PrimaryKey {
		names = append(names, fmt.Sprintf("k%d", i))
		on = append(on, fmt.Sprintf("t.%s = v.k%d%s", quote(name), i, x.s.castKey(c.table, i)))
	}
	list := func(further ...string) string {
		holders := make([]string, 1+len(names)+len(further))
		for i := range holders {
			holders[i] = fmt.Sprintf("$%d::text[]", i+1)
		}
		holders[0] = "$1::int[]"
		return "unnest(" + strings.Join(holders, ", ") + ") AS v(n, " + strings.Join(append(append([]string{}, names...), further...), ", ") + ")"
	}
	pick := func(rows []int, further ...func(swapChange) string) []any {
		columns := make([][]string, len(names)+len(further))
		numbers := make([]int32, len(rows))
		for at, i := range rows {
			numbers[at] = int32(i)
			for k := range names {
				columns[k] = append(columns[k], textOf(batch[i].row.key[k]))
			}
			for k, f := range further {
				columns[len(names)+k] = append(columns[len(names)+k], f(batch[i]))
			}
		}
		args := []any{numbers}
		for _, c := range columns {
			args = append(args, c)
		}
		return args
	}
	before := func(c swapChange) string { return c.row.text }
	after := func(c swapChange) string { return c.after }
	match := strings.Join(on, " AND ")
	all := make([]int, len(batch))
	for i := range all {
		all[i] = i
	}

	locked, err := x.numbers(ctx, nil, "SELECT v.n, '' FROM "+x.s.from(c.table)+" AS t JOIN "+list("b")+" ON "+match+
		" WHERE "+column+" = v.b FOR UPDATE OF t SKIP LOCKED", pick(all, before))
	if err != nil || len(locked) == 0 {
		return err
	}
	swapped, err := x.numbers(ctx, nil, "UPDATE "+x.s.from(c.table)+" AS t SET "+quote(c.column.Name)+" = v.a FROM "+list("b", "a")+
		" WHERE "+match+" AND "+column+" = v.b RETURNING v.n, ''", pick(locked, before, after))
	if err != nil || len(swapped) == 0 {
		return err
	}
	again, err := x.numbers(ctx, stored, "SELECT v.n, "+column+" FROM "+x.s.from(c.table)+" AS t JOIN "+list()+" ON "+match, pick(swapped))
	if err != nil {
		return err
	}
	if len(again) != len(swapped) {
		return fmt.Errorf("%d rows of %q were written and %d read back", len(swapped), c.table.Name, len(again))
	}
	for _, i := range swapped {
		written[i] = true
	}
	return nil
}

// numbers returns the first column of a statement's rows; the second goes to texts.
func (x *swapTx) numbers(ctx context.Context, texts []string, stmt string, args []any) ([]int, error) {
	rows, err := x.tx.QueryContext(ctx, stmt, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []int
	for rows.Next() {
		var n int
		var text string
		if err := rows.Scan(&n, &text); err != nil {
			return nil, err
		}
		list = append(list, n)
		if texts != nil {
			texts[n] = text
		}
	}
	return list, rows.Err()
}

func sqliteBusy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_LOCKED)
}

// explainWrite says in words why a change was refused.
func (s *Swapper) explainWrite(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var p *problem.Error
	var lite *sqlite.Error
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &p):
		return err
	case errors.As(err, &lite) && lite.Code()&0xff == sqlite3.SQLITE_FULL:
		return problem.Wrap(problem.Unexpected, err, "writing to %q: the disk is full", s.path).WithHint("make room, and run the command again: it goes on where it was")
	case errors.As(err, &lite) && lite.Code()&0xff == sqlite3.SQLITE_READONLY:
		return problem.Wrap(problem.Usage, err, "%q cannot be written", s.path).WithHint("run as the user that runs n8n, or as root")
	case errors.As(err, &lite):
		return explainSQLite(s.path, err)
	case errors.As(err, &pg) && pg.Code == "42501":
		return problem.Wrap(problem.Unreachable, err, "writing to the database").WithHint("grant this user UPDATE on n8n's tables, or use n8n's own user")
	case errors.As(err, &pg) && pg.Code == "25006":
		return problem.Wrap(problem.Usage, err, "the server takes no changes").WithHint("it is a standby: name the primary server")
	}
	return explainPostgres(err)
}
