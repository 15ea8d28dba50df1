package n8ndb

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"
)

// Engine is the kind of database.
type Engine string

const (
	SQLite   Engine = "sqlite"
	Postgres Engine = "postgres"
)

// DB is an open n8n database. It is safe for concurrent use.
type DB struct {
	engine   Engine
	pool     *sql.DB
	schema   string // PostgreSQL only
	snapshot string // exported snapshot that every transaction imports; PostgreSQL only
	prefix   string
	tables   []Table
	counts   []RowCount // of a Scratch: of the database that was dumped
	yield    bool       // a reader would hold up n8n's writes, so reads are short
	writing  *view      // of a Writer: its transaction
	cleanup  func() error
}

// Engine is the kind of database.
func (db *DB) Engine() Engine { return db.engine }

// TablePrefix is DB_TABLE_PREFIX as given when opening.
func (db *DB) TablePrefix() string { return db.prefix }

// Schema is the PostgreSQL schema, "" for SQLite.
func (db *DB) Schema() string { return db.schema }

// Close ends the connections and removes what only reading had made.
func (db *DB) Close() error {
	err := db.pool.Close()
	if db.cleanup != nil {
		// A query that was cancelled gives its connection back a moment later, and
		// side files stay as long as one is open.
		for range 1000 {
			if db.pool.Stats().OpenConnections == 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if e := db.cleanup(); err == nil {
			err = e
		}
	}
	return err
}

// querier is what a view needs of SQLite: a transaction or a connection.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// from is the table as it stands in a FROM clause.
func (db *DB) from(t *Table) string {
	if db.schema != "" {
		return quote(db.schema) + "." + quote(db.prefix+t.Name)
	}
	return quote(db.prefix + t.Name)
}

// arg is the placeholder of the nth argument, counted from 1.
func (db *DB) arg(n int) string {
	if db.engine == Postgres {
		return "$" + strconv.Itoa(n)
	}
	return "?" + strconv.Itoa(n)
}

func (db *DB) table(name string) *Table {
	for i := range db.tables {
		if db.tables[i].Name == name {
			return &db.tables[i]
		}
	}
	return nil
}
