package n8ndb

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	"github.com/jackc/pgx/v5"
)

// view is one consistent look at the database: a read-only transaction, or, where
// a transaction would hold up n8n's writes, single short reads.
type view struct {
	db *DB
	q  querier   // SQLite
	pg *pgx.Conn // PostgreSQL
}

func (db *DB) view(ctx context.Context, do func(*view) error) error {
	switch {
	case db.writing != nil:
		return do(db.writing)
	case db.engine == Postgres:
		return db.postgresView(ctx, db.snapshot, do)
	case db.yield:
		return do(&view{db: db, q: db.pool})
	}
	tx, err := db.pool.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("beginning to read: %w", db.explain(err))
	}
	defer tx.Rollback()
	return do(&view{db: db, q: tx})
}

func (db *DB) explain(err error) error {
	if err == nil {
		return nil
	}
	if db.engine == Postgres {
		return explainPostgres(err)
	}
	return explainSQLite("database", err)
}

// A page is what is read before others, or a writer's own updates, may pass.
const (
	pageRows  = 512
	pageBytes = 4 << 20
)

// query is a SELECT of the primary key and more columns of one table, in order of
// the primary key.
type query struct {
	table    *Table
	exprs    []string // SQL, after the key columns
	join     string   // after FROM table AS t
	where    string   // with placeholders for args
	args     []any
	anyOrder bool // as the database has them, where that is cheaper
}

// key returns the SQL of the key columns: as row id, and as order.
func (v *view) key(t *Table) (ids, order []string) {
	if len(t.PrimaryKey) == 0 {
		if v.db.engine == SQLite {
			return []string{`t.rowid`}, []string{`t.rowid`}
		}
		return nil, nil
	}
	for _, name := range t.PrimaryKey {
		c := "t." + quote(name)
		if v.db.engine == SQLite {
			ids, order = append(ids, c), append(order, c)
			continue
		}
		ids = append(ids, v.text(t.Column(name)))
		if t.Column(name).Kind == Text && !t.Column(name).uncollated {
			c += ` COLLATE "C"` // the same order on every server
		}
		order = append(order, c)
	}
	return ids, order
}

// text is the SQL that reads a column as text.
func (v *view) text(c *Column) string {
	s := "t." + quote(c.Name)
	// PostgreSQL sends everything as text; the cast takes away what fills up
	// character(n). Elsewhere it would only make the server compute what it sorts.
	if v.db.engine == Postgres && strings.HasPrefix(c.Type, "character(") {
		s += "::text"
	}
	return s
}

// each calls fn for every row, with its row id and the further columns, which fn
// must not keep. A column is nil, string, []byte, int64, float64, bool or time, with
// PostgreSQL always nil or []byte.
func (v *view) each(ctx context.Context, q query, fn func(row string, cols []any) error) error {
	if v.db.yield {
		return v.pages(ctx, q, func(page []pageRow) error {
			for _, r := range page {
				if err := fn(rowID(r.key), r.cols); err != nil {
					return err
				}
			}
			return nil
		})
	}
	ids, order := v.key(q.table)
	tail := ""
	if len(order) > 0 && !(q.anyOrder && v.pg != nil) {
		tail = " ORDER BY " + strings.Join(order, ", ")
	}
	_, err := v.rows(ctx, v.selects(q, ids)+tail, q.args, len(ids)+len(q.exprs), 0, func(cols []any) error {
		return fn(rowID(cols[:len(ids)]), cols[len(ids):])
	})
	return err
}

// selects is the query without its order.
func (v *view) selects(q query, ids []string) string {
	return "SELECT " + strings.Join(append(append([]string{}, ids...), q.exprs...), ", ") + " FROM " + v.db.from(q.table) + " AS t " + q.join +
		" WHERE (" + cmp.Or(q.where, "TRUE") + ")"
}

// pageRow is a row of a page: the columns of its key as the engine gave them, and the
// further ones. It lasts as long as the page.
type pageRow struct{ key, cols []any }

// pages calls fn for page after page, between which the connection is free. On SQLite
// only.
func (v *view) pages(ctx context.Context, q query, fn func([]pageRow) error) error {
	ids, order := v.key(q.table)
	sel := v.selects(q, ids)
	tail := " ORDER BY " + strings.Join(order, ", ") + fmt.Sprintf(" LIMIT %d", pageRows)
	holders := make([]string, len(ids))
	for i := range holders {
		holders[i] = v.db.arg(len(q.args) + i + 1)
	}
	after, args := "", q.args
	for {
		var page []pageRow
		full, err := v.rows(ctx, sel+after+tail, args, len(ids)+len(q.exprs), pageBytes, func(cols []any) error {
			cols = append([]any{}, cols...)
			page = append(page, pageRow{cols[:len(ids)], cols[len(ids):]})
			return nil
		})
		if err != nil {
			return err
		}
		if err := fn(page); err != nil {
			return err
		}
		if len(page) < pageRows && !full {
			return nil
		}
		after = " AND (" + strings.Join(order, ", ") + ") > (" + strings.Join(holders, ", ") + ")"
		args = append(append([]any{}, q.args...), page[len(page)-1].key...)
	}
}

// rows runs a statement and stops, with full set, when budget bytes were read.
func (v *view) rows(ctx context.Context, stmt string, args []any, width, budget int, fn func([]any) error) (full bool, err error) {
	if v.pg != nil {
		return false, v.postgresRows(ctx, stmt, args, width, fn)
	}
	rows, err := v.q.QueryContext(ctx, stmt, args...)
	if err != nil {
		return false, v.db.explain(err)
	}
	defer rows.Close()
	cols, dest := make([]any, width), make([]any, width)
	for i := range dest {
		dest[i] = &cols[i]
	}
	size := 0
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return false, v.db.explain(err)
		}
		if err := fn(cols); err != nil {
			return false, err
		}
		if budget > 0 {
			for _, c := range cols {
				size += len(bytesOf(c))
			}
			if size >= budget {
				return true, nil
			}
		}
	}
	return false, v.db.explain(rows.Err())
}

func (v *view) count(ctx context.Context, t *Table) (int64, error) {
	return v.countFrom(ctx, v.db.from(t))
}

func (v *view) countFrom(ctx context.Context, from string) (n int64, err error) {
	_, err = v.rows(ctx, "SELECT count(*) FROM "+from, nil, 1, 0, func(cols []any) error {
		n, err = strconv.ParseInt(textOf(cols[0]), 10, 64)
		return err
	})
	return n, err
}

// rowID joins the columns of a primary key.
func rowID(key []any) string {
	switch len(key) {
	case 0:
		return ""
	case 1:
		return textOf(key[0])
	}
	parts := make([]string, len(key))
	for i, k := range key {
		parts[i] = textOf(k)
	}
	return strings.Join(parts, "/")
}

func textOf(c any) string {
	switch c := c.(type) {
	case nil:
		return ""
	case string:
		return c
	case []byte:
		return string(c)
	}
	return fmt.Sprint(c)
}

// bytesOf is a column's text without copying it; nil for numbers and NULL. It must
// not be written to.
func bytesOf(c any) []byte {
	switch c := c.(type) {
	case string:
		return unsafe.Slice(unsafe.StringData(c), len(c))
	case []byte:
		return c
	}
	return nil
}
