package n8ndb

import (
	"context"
	"slices"
)

// Kind says how a column is read.
type Kind string

const (
	Text  Kind = "text"  // text, varchar, json: may hold secrets
	Blob  Kind = "blob"  // bytes
	Other Kind = "other" // numbers, dates, booleans, uuids: never hold secrets
)

// Column is one column of a table.
type Column struct {
	Name string
	Type string // as declared
	Kind Kind
}

// Table is a table of n8n's, user data tables included.
type Table struct {
	Name       string // without prefix
	Columns    []Column
	PrimaryKey []string // column names in key order
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
