// Package pgdump dumps and restores a PostgreSQL database without PostgreSQL's own programs.
//
// A dump is a folder of SQL that plain psql restores ("psql -f restore.sql"): pre.sql makes schemas, extensions, types,
// routines, tables and views; data/NNNN.NNNNNN.sql hold the rows, each file one whole COPY of about 4 MiB; post.sql sets
// sequences and makes constraints, indexes, triggers, rules, policies, grants and fills materialised views; restore.sql
// includes them all in order. Definitions come from the server's own functions (pg_get_constraintdef and the like) and
// catalogs, on the same snapshot as the rows; several sessions read rows in parallel. PostgreSQL 15 to 18.
//
// An object that the package does not understand, or that needs something outside the dumped scope, is an error that
// names it, given before the first row is read: aggregates, operators, base types, text search objects, partitioned and
// inherited tables, foreign tables, and with WholeDatabase also casts, languages, event triggers, publications,
// subscriptions, foreign servers, large objects. What belongs to an extension comes back as the extension makes it.
//
// Left out on purpose, as pg_dump does with --no-owner and --no-tablespaces: owners (everything belongs to who restores),
// tablespaces and indexes that are not valid (Report.Notes names them), statistics. Grants to roles that the restoring
// server lacks are skipped with a warning.
//
// No superuser is needed, neither to dump (SELECT on the tables is) nor to restore (CREATE on the database is, and
// ownership of the schema if it is there already). Nobody is blocked but who wants to change tables; when such a one waits,
// the dump ends with problem.Busy rather than wait behind it.
//
// Memory: each session holds one chunk of at most 4 MiB, or one row that is longer, and that row's message from the server.
// COPY's text of a bytea is twice its size, so for values up to 8 MiB a session holds at most 56 MiB (measured: 48), for
// text half of that; above, 7 times the largest value. Loading holds 128 KiB per session, whatever the values.
//
// Trust: names and definitions in the database are data of somebody else. They reach a script only quoted, or as text
// that the server itself deparsed; no name can end a comment or a statement. A dump that is restored runs as SQL with the
// rights of who restores: restore only what is signed by somebody you trust.
package pgdump

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
)

// DumpConfig says what to dump. DSN and Emit are required.
type DumpConfig struct {
	DSN      string // postgres://...; may hold the password, which is in no error
	Snapshot string // of pg_export_snapshot; "": a snapshot of its own
	AppName  string // application_name of every session; "": n8keep

	Schema        string // "": public
	TablePrefix   string // only relations whose names begin with it, and what they need; "": everything in Schema
	WholeDatabase bool   // every schema; Schema then only decides the names in Filters and Report.Rows

	Workers     int               // sessions that read rows; 0: 2
	LockTimeout time.Duration     // how long to wait for a lock on a table; 0: for ever
	Filters     map[string]Filter // full table name (with its prefix) -> which rows; a table without one is dumped whole

	// Emit takes the files in order of their making; calls do not overlap and body is valid only during the call.
	Emit func(name string, body []byte) error

	Progress func(done, total int64) // bytes; total is an estimate. Optional, calls do not overlap
	Logger   *slog.Logger            // optional

	chunkBytes int   // for tests; 0: the constant of this name
	partBytes  int64 // for tests; 0: the constant of this name
}

// Filter is a choice of rows. Query is a SELECT that returns Columns in order and runs on the dump's snapshot with an
// empty search_path; "" chooses no row. Columns nil means every column but generated ones, as the table has them.
type Filter struct {
	Query   string
	Columns []string
}

// Report is what a dump held.
type Report struct {
	Tables int
	Rows   map[string]int64 // by table name in Schema; tables of other schemas as schema.name
	Bytes  int64            // of the data files
	Notes  []string         // what was left out, as sentences
}

// Dump writes the scope of cfg as files to cfg.Emit: pre.sql, the data files, post.sql, and last restore.sql.
// The error for objects that cannot be dumped is a problem.Usage; for a table that somebody waits to change, problem.Busy.
func Dump(ctx context.Context, cfg DumpConfig) (Report, error) {
	cfg.Schema = cmp.Or(cfg.Schema, "public")
	cfg.Workers = max(cmp.Or(cfg.Workers, 2), 1)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.chunkBytes = cmp.Or(cfg.chunkBytes, chunkBytes)
	cfg.partBytes = cmp.Or(cfg.partBytes, partBytes)
	main, err := openReader(ctx, cfg.DSN, cfg.AppName, cfg.Snapshot, cfg.LockTimeout)
	if err != nil {
		return Report{}, err
	}
	defer main.close()

	c := &catalogue{ctx: ctx, reader: main, schema: cfg.Schema, prefix: cfg.TablePrefix, whole: cfg.WholeDatabase}
	if err := c.read(); err != nil {
		return Report{}, err
	}
	for name := range cfg.Filters {
		if !c.hasTable(name) {
			return Report{}, problem.New(problem.Usage, "no table %q to filter", name)
		}
	}
	pre, post, err := c.scripts()
	if err != nil {
		return Report{}, err
	}
	d := &dump{cfg: cfg, folder: "data/", report: Report{Rows: map[string]int64{}, Notes: c.notes}}
	if err := d.emit("pre.sql", pre); err != nil {
		return Report{}, err
	}
	snapshot := cfg.Snapshot
	if snapshot == "" {
		if snapshot, err = main.export(ctx); err != nil {
			return Report{}, err
		}
	}
	if err := d.data(ctx, snapshot, c.tables); err != nil {
		return Report{}, err
	}
	if err := d.emit("post.sql", post); err != nil {
		return Report{}, err
	}
	if err := d.emit("restore.sql", d.master()); err != nil {
		return Report{}, err
	}
	return d.report, nil
}

// CopyConfig says which rows of one table to copy.
type CopyConfig struct {
	DSN, Snapshot, AppName string
	Schema, Table          string        // Schema "": public
	Filter                 Filter        // Query "": no rows
	First                  int           // number of the table in the names of the files; 0: 1
	LockTimeout            time.Duration // how long to wait for a lock on the table; 0: for ever
	Emit                   func(name string, body []byte) error
}

// CopyRows writes the chosen rows of one table as files NNNN.NNNNNN.sql, of the same form as the data files of a dump:
// the rows kept beside an archive of pg_dump that leaves out the table's data. It returns how many there were.
func CopyRows(ctx context.Context, cfg CopyConfig) (int64, error) {
	if cfg.Filter.Query == "" {
		return 0, nil
	}
	r, err := openReader(ctx, cfg.DSN, cfg.AppName, cfg.Snapshot, cfg.LockTimeout)
	if err != nil {
		return 0, err
	}
	defer r.close()
	t := table{schema: cmp.Or(cfg.Schema, "public"), name: cfg.Table, number: max(cfg.First, 1)}
	if t.columns = cfg.Filter.Columns; t.columns == nil {
		if t.columns, err = r.columns(ctx, t.schema, t.name); err != nil {
			return 0, err
		}
	}
	d := &dump{cfg: DumpConfig{Emit: cfg.Emit, chunkBytes: chunkBytes}, report: Report{Rows: map[string]int64{}}}
	w := &chunkWriter{d: d, t: &t}
	rows, err := w.copy(ctx, r, cfg.Filter.Query)
	if err != nil {
		return 0, fmt.Errorf("copying rows of %q: %w", t.name, err)
	}
	return rows, nil
}
