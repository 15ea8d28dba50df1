package n8ndb

import (
	"context"
	"io"
	"iter"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// SQLiteConfig names a database file.
type SQLiteConfig struct {
	Path        string
	TablePrefix string // DB_TABLE_PREFIX
	// Immutable is for a private copy that nobody else opens: no locks, nothing written beside it.
	Immutable bool
}

// PostgresConfig names a database on a server.
type PostgresConfig struct {
	DSN         string // URL or key=value; never shown in errors
	Schema      string // DB_POSTGRESDB_SCHEMA; "" is public
	TablePrefix string // DB_TABLE_PREFIX
}

func OpenSQLite(ctx context.Context, cfg SQLiteConfig) (*DB, error)     { panic("not written yet") }
func OpenPostgres(ctx context.Context, cfg PostgresConfig) (*DB, error) { panic("not written yet") }

// Version is what is known of the n8n that used the database last.
type Version struct {
	N8N           string // "2.41.1", "2.38.x" when only bounded, "" unknown
	Source        string // "instance_version_history" or "migrations"
	LastMigration string
	Migrations    int64
	Warning       string // names a migration that is newer than anything known
}

func (db *DB) Version(ctx context.Context) (Version, error)      { panic("not written yet") }
func (db *DB) RowCounts(ctx context.Context) ([]RowCount, error) { panic("not written yet") }

func (db *DB) Census(ctx context.Context, cfg CensusConfig) (*Census, error) {
	panic("not written yet")
}

// Workflow is a workflow in n8n's import format.
type Workflow struct {
	ID, Name string
	JSON     []byte
}

func (db *DB) Workflows(ctx context.Context) iter.Seq2[Workflow, error] { panic("not written yet") }

// Needle finds an instance key in bytes.
type Needle struct{}

func NewNeedle(key n8ncrypt.InstanceKey) *Needle   { panic("not written yet") }
func (n *Needle) Weak() bool                       { panic("not written yet") }
func (n *Needle) Find(b []byte) bool               { panic("not written yet") }
func (n *Needle) Reader(r io.Reader) *NeedleReader { panic("not written yet") }

// NeedleReader passes bytes through and watches for the key.
type NeedleReader struct{}

func (r *NeedleReader) Read(p []byte) (int, error) { panic("not written yet") }

// Found reports whether the key was in what has been read so far.
func (r *NeedleReader) Found() bool { panic("not written yet") }
