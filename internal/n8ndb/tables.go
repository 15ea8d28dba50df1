package n8ndb

import (
	"context"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
)

// Kind says how a column is read.
type Kind string

const (
	Text  Kind = "text"  // text, varchar, json: may hold secrets
	Blob  Kind = "blob"  // bytes
	Other Kind = "other" // numbers, dates, booleans, uuids: hold no secrets
)

// Column is one column of a table.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"` // as declared
	Kind Kind   `json:"kind"`

	uncollated bool // PostgreSQL: a type without collations
}

// Table is a table of n8n's, user data tables included. As JSON it describes a
// database that is not there any more, see [NewScratch].
type Table struct {
	Name       string   `json:"name"` // without prefix
	Columns    []Column `json:"columns"`
	PrimaryKey []string `json:"primaryKey"` // column names in key order

	unreadable bool // the server would refuse SELECT
}

// Column returns the named column, or nil.
func (t *Table) Column(name string) *Column {
	if t == nil {
		return nil
	}
	if i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name }); i >= 0 {
		return &t.Columns[i]
	}
	return nil
}

// RowCount is the exact number of rows of a table.
type RowCount struct {
	Table string // without prefix
	Rows  int64
}

// Tables returns n8n's tables by name, as they were when the database was opened.
func (db *DB) Tables(ctx context.Context) ([]Table, error) {
	return slices.Clone(db.tables), nil
}

// RowCounts counts the rows of every table, by table name.
func (db *DB) RowCounts(ctx context.Context) ([]RowCount, error) {
	if db.counts != nil {
		return slices.Clone(db.counts), nil
	}
	counts := make([]RowCount, 0, len(db.tables))
	err := db.view(ctx, func(v *view) error {
		for i := range db.tables {
			t := &db.tables[i]
			n, err := v.count(ctx, t)
			if err != nil {
				return err
			}
			counts = append(counts, RowCount{Table: t.Name, Rows: n})
		}
		return nil
	})
	return counts, err
}

// tableList gathers columns, which engines list by table and position.
type tableList struct {
	tables []Table
	keys   [][]string // by position in the primary key
}

func (l *tableList) last() *Table { return &l.tables[len(l.tables)-1] }

func (l *tableList) add(table string, c Column, pk int) {
	if len(l.tables) == 0 || l.last().Name != table {
		l.tables = append(l.tables, Table{Name: table})
		l.keys = append(l.keys, nil)
	}
	l.last().Columns = append(l.last().Columns, c)
	if pk > 0 {
		key := &l.keys[len(l.keys)-1]
		for len(*key) < pk {
			*key = append(*key, "")
		}
		(*key)[pk-1] = c.Name
	}
}

func (l *tableList) list() []Table {
	for i := range l.tables {
		l.tables[i].PrimaryKey = l.keys[i]
	}
	return l.tables
}

// inspect reads the structure and refuses what is not n8n's.
func (db *DB) inspect(ctx context.Context, where string) error {
	var all []Table
	var err error
	if db.engine == Postgres {
		err = db.view(ctx, func(v *view) error {
			all, err = v.postgresTables(ctx)
			return err
		})
	} else {
		q := querier(db.pool)
		if db.writing != nil {
			q = db.writing.q
		}
		if all, err = sqliteTables(ctx, q); err != nil {
			err = explainSQLite(where, err)
		}
	}
	if err != nil {
		return err
	}
	needed := map[string]bool{"migrations": true, "credentials_entity": true, "workflow_entity": true}
	for _, p := range Catalogue() {
		needed[p.Table] = true
	}
	for _, t := range all {
		name, ok := strings.CutPrefix(t.Name, db.prefix)
		if !ok {
			continue
		}
		t.Name = name
		if t.unreadable {
			if needed[name] {
				return problem.New(problem.Unreachable, "this user may not read the table %q", db.prefix+name).
					WithHint("grant it SELECT on all tables of the schema")
			}
			continue // not n8n's, and nothing of n8n's needs it
		}
		db.tables = append(db.tables, t)
	}
	slices.SortFunc(db.tables, func(a, b Table) int { return strings.Compare(a.Name, b.Name) })
	if db.table("migrations") == nil || db.table("credentials_entity").Column("data") == nil || db.table("workflow_entity") == nil {
		return notN8N(all, db, where)
	}
	return nil
}

func notN8N(all []Table, db *DB, where string) error {
	e := problem.New(problem.Usage, "%q is not an n8n database", where)
	for _, t := range all {
		if prefix, ok := strings.CutSuffix(t.Name, "credentials_entity"); ok && prefix != db.prefix {
			if prefix == "" {
				return e.WithHint("its tables have no prefix: leave --table-prefix out")
			}
			return e.WithHint("it has n8n's tables with a prefix: --table-prefix %s", prefix)
		}
	}
	switch {
	case len(all) == 0 && db.engine == Postgres:
		return e.WithHint("the schema %q has no tables: name n8n's with --schema (DB_POSTGRESDB_SCHEMA in n8n)", db.schema)
	case len(all) == 0:
		return e.WithHint("it has no tables: n8n was never started on it, or its -wal file is missing")
	}
	return e
}
