package n8ndb

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"

	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// snapHeaderModes is where a database's header has its two journal mode bytes:
// 1 for a rollback journal, 2 for a write-ahead log.
const snapHeaderModes = 18

// snapRebuild makes Dest a new database with the schema of the source and the
// rows that the History keeps, read in one transaction. Rows go from database to
// database inside SQLite, so every value stays what it is. Statistics of the
// query planner are not taken along.
func snapRebuild(ctx context.Context, cfg SnapshotConfig, src *snapSource) (dropped int64, err error) {
	head, err := src.settings(ctx)
	if err != nil {
		return 0, err
	}
	// No journal and no syncs, as in snapPages. What SQLite sorts stays in memory
	// (its temporary files would be in a folder that others can read), so nothing is
	// sorted whose size grows with the database: see createTables and attachScratch.
	pool, err := snapPool(snapURI(cfg.Dest, "mode=rw") + "&_pragma=journal_mode(off)&_pragma=synchronous(off)&_pragma=temp_store(2)&_pragma=cache_size(-8000)" +
		fmt.Sprintf("&_pragma=busy_timeout(%d)", snapBusy.Milliseconds()))
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	conn, err := pool.Conn(ctx)
	if err != nil {
		return 0, err
	}
	r := &snapRebuilder{conn: conn, cfg: cfg, total: src.size}
	defer conn.Close()
	if dropped, err = r.run(ctx, src.uri, head); err != nil {
		return 0, err
	}
	if err := conn.Close(); err != nil {
		return 0, err
	}
	if err := pool.Close(); err != nil {
		return 0, err
	}
	if src.wal {
		// Set where SQLite keeps it: the pragma would write through a log first.
		f, err := os.OpenFile(cfg.Dest, os.O_RDWR, 0)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{2, 2}, snapHeaderModes); err != nil {
			return 0, err
		}
	}
	failpoint.Hit("snapshot.rebuilt")
	return dropped, nil
}

// snapSettings is what a new database must have before its first table.
type snapSettings struct {
	pageSize, autoVacuum, userVersion, applicationID int64
	encoding                                         string
}

func (s *snapSource) settings(ctx context.Context) (set snapSettings, err error) {
	for pragma, into := range map[string]any{"page_size": &set.pageSize, "auto_vacuum": &set.autoVacuum,
		"user_version": &set.userVersion, "application_id": &set.applicationID, "encoding": &set.encoding} {
		if err := s.conn.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(into); err != nil {
			return set, err
		}
	}
	return set, nil
}

type snapRebuilder struct {
	conn   *sql.Conn
	cfg    SnapshotConfig
	total  int64
	schema []snapObject
	// thinned are the tables from which rows were left out or deleted.
	thinned map[string]bool
}

type snapObject struct{ kind, name, sql string }

func (r *snapRebuilder) run(ctx context.Context, source string, set snapSettings) (dropped int64, err error) {
	r.cfg.Progress(0, r.total)
	for _, stmt := range []string{
		fmt.Sprintf("PRAGMA main.page_size = %d", set.pageSize),
		fmt.Sprintf("PRAGMA main.encoding = '%s'", strings.ReplaceAll(set.encoding, "'", "''")),
		fmt.Sprintf("PRAGMA main.auto_vacuum = %d", set.autoVacuum),
		"PRAGMA foreign_keys = OFF",
		"PRAGMA ignore_check_constraints = ON",
		"PRAGMA trusted_schema = OFF",
	} {
		if err := r.exec(ctx, stmt); err != nil {
			return 0, err
		}
	}
	if err := r.exec(ctx, "ATTACH ? AS src", source); err != nil {
		return 0, err
	}
	remove, err := r.attachScratch(ctx)
	if remove != nil {
		defer remove()
	}
	if err != nil {
		return 0, err
	}
	if err := r.exec(ctx, "BEGIN"); err != nil {
		return 0, err
	}
	for _, step := range []func(context.Context) error{
		r.readSchema, r.createTables, r.keepExecutions, r.copyRows, r.mendReferences, r.copySequences, r.createRest,
	} {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := step(ctx); err != nil {
			return 0, err
		}
	}
	if dropped, err = r.dropped(ctx); err != nil {
		return 0, err
	}
	for _, stmt := range []string{
		fmt.Sprintf("PRAGMA main.user_version = %d", set.userVersion),
		fmt.Sprintf("PRAGMA main.application_id = %d", set.applicationID),
		"COMMIT",
		"DETACH n8keep_kept",
		"DETACH src",
	} {
		if err := r.exec(ctx, stmt); err != nil {
			return 0, err
		}
	}
	r.cfg.Progress(r.total, r.total)
	return dropped, nil
}

func (r *snapRebuilder) exec(ctx context.Context, stmt string, args ...any) error {
	_, err := r.conn.ExecContext(ctx, stmt, args...)
	return err
}

func (r *snapRebuilder) readSchema(ctx context.Context) error {
	err := snapRows(ctx, r.conn, func(rows *sql.Rows) error {
		var o snapObject
		if err := rows.Scan(&o.kind, &o.name, &o.sql); err != nil {
			return err
		}
		r.schema = append(r.schema, o)
		return nil
	}, `SELECT type, name, sql FROM src.sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY rowid`)
	if err != nil {
		return err
	}
	for _, o := range r.schema {
		if o.kind == "table" && strings.HasPrefix(strings.ToUpper(o.sql), "CREATE VIRTUAL") {
			return problem.New(problem.Usage, "table %q is a virtual table, which only a complete snapshot can take along", o.name).
				WithHint(`use "--history all"`)
		}
	}
	r.thinned = map[string]bool{}
	return nil
}

// createTables makes the indexes, too, while the tables are empty: an index over
// rows that are there is sorted in memory, as a whole. A table that is taken along
// entirely is then copied with its indexes, each in its order.
func (r *snapRebuilder) createTables(ctx context.Context) error {
	return r.create(ctx, "table", "index")
}

// createRest comes last: no trigger must fire on the way.
func (r *snapRebuilder) createRest(ctx context.Context) error {
	return r.create(ctx, "view", "trigger")
}

func (r *snapRebuilder) create(ctx context.Context, kinds ...string) error {
	for _, kind := range kinds {
		for _, o := range r.schema {
			if o.kind != kind {
				continue
			}
			if err := r.exec(ctx, o.sql); err != nil {
				return fmt.Errorf("creating %s %q: %w", kind, o.name, err)
			}
		}
	}
	return nil
}

// columns are the columns of a table of the source that hold data of their own.
func (r *snapRebuilder) columns(ctx context.Context, table string) (names []string, generated bool, err error) {
	err = snapRows(ctx, r.conn, func(rows *sql.Rows) error {
		var name string
		var hidden int
		if err := rows.Scan(&name, &hidden); err != nil {
			return err
		}
		if hidden == 0 {
			names = append(names, name)
		} else {
			generated = true
		}
		return nil
	}, "SELECT name, hidden FROM pragma_table_xinfo(?, 'src') ORDER BY cid", table)
	return names, generated, err
}

func (r *snapRebuilder) copyRows(ctx context.Context) error {
	for i, o := range r.schema {
		if o.kind != "table" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		stmt, err := r.copyStatement(ctx, o.name)
		if err != nil {
			return err
		}
		if stmt != "" {
			if err := r.exec(ctx, stmt); err != nil {
				return fmt.Errorf("copying table %q: %w", o.name, err)
			}
		}
		r.cfg.Progress(r.total*int64(i)/int64(len(r.schema)), r.total)
	}
	return nil
}

// copyStatement is empty for a table of which no row is kept.
func (r *snapRebuilder) copyStatement(ctx context.Context, table string) (string, error) {
	from := ""
	if historyIsChurn(table, r.cfg.TablePrefix) {
		r.thinned[table] = true
		if from = r.keptRows(table); from == "" {
			return "", nil
		}
	}
	columns, generated, err := r.columns(ctx, table)
	if err != nil {
		return "", err
	}
	if from == "" && !generated {
		// In this form SQLite moves whole records.
		return fmt.Sprintf("INSERT INTO main.%s SELECT * FROM src.%[1]s", quote(table)), nil
	}
	if from == "" {
		from = "FROM src." + quote(table) + " AS t"
	}
	into, values := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		into[i], values[i] = quote(c), "t."+quote(c)
	}
	return fmt.Sprintf("INSERT INTO main.%s (%s) SELECT %s %s", quote(table), strings.Join(into, ", "), strings.Join(values, ", "), from), nil
}

func (r *snapRebuilder) copySequences(ctx context.Context) error {
	var n int
	if err := r.conn.QueryRowContext(ctx, "SELECT count(*) FROM src.sqlite_schema WHERE name = 'sqlite_sequence'").Scan(&n); err != nil || n == 0 {
		return err
	}
	if err := r.conn.QueryRowContext(ctx, "SELECT count(*) FROM main.sqlite_schema WHERE name = 'sqlite_sequence'").Scan(&n); err != nil || n == 0 {
		return err
	}
	if err := r.exec(ctx, "DELETE FROM main.sqlite_sequence"); err != nil {
		return err
	}
	return r.exec(ctx, "INSERT INTO main.sqlite_sequence SELECT * FROM src.sqlite_sequence")
}
