package pgdump

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/n8keep/n8keep/internal/problem"
)

// oldest and newest are the major versions whose catalogs the package was tested with.
const oldest, newest = 15, 18

// settings make values and definitions read the same everywhere, and end no session for taking long. A server that lacks
// one of them (transaction_timeout before 17) is not asked for it.
func settings() [][2]string {
	return [][2]string{
		{"search_path", ""}, {"client_encoding", "UTF8"}, {"standard_conforming_strings", "on"}, {"bytea_output", "hex"},
		{"DateStyle", "ISO, YMD"}, {"IntervalStyle", "postgres"}, {"TimeZone", "UTC"}, {"extra_float_digits", "3"},
		{"lc_monetary", "C"}, {"xmloption", "content"}, {"quote_all_identifiers", "off"}, {"row_security", "off"},
		{"synchronize_seqscans", "off"}, {"statement_timeout", "0"}, {"lock_timeout", "0"}, {"transaction_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"}, {"idle_session_timeout", "0"}, {"check_function_bodies", "off"},
		{"default_tablespace", ""}, {"default_table_access_method", "heap"}, {"client_min_messages", "warning"},
	}
}

// connect opens a session with the package's settings.
func connect(ctx context.Context, dsn, app string, notice func(string)) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		// The cause may quote the address.
		return nil, problem.New(problem.Usage, "the address of the database is not understood")
	}
	cfg.RuntimeParams["application_name"] = cmp.Or(app, "n8keep")
	// The main session is silent while others read for hours; balancers of managed servers forget it after four minutes.
	cfg.DialFunc = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if notice != nil && n.Severity == "WARNING" {
			notice(n.Message)
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, problem.Wrap(problem.Unreachable, err, "connecting to the database")
	}
	var names, values []string
	for _, s := range settings() {
		names, values = append(names, s[0]), append(values, s[1])
	}
	_, err = conn.Exec(ctx, `SELECT pg_catalog.set_config(n, v, false) FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) s(n, v)
		WHERE pg_catalog.lower(n) IN (SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings)`, names, values)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preparing the session: %w", err), conn.Close(ctx))
	}
	return conn, nil
}

// reader is a session in a read-only transaction on one snapshot.
type reader struct {
	*pgx.Conn
	version int // server_version_num
}

func openReader(ctx context.Context, dsn, app, snapshot string, lockTimeout time.Duration) (*reader, error) {
	conn, err := connect(ctx, dsn, app, nil)
	if err != nil {
		return nil, err
	}
	r := &reader{Conn: conn}
	if err := r.begin(ctx, snapshot, lockTimeout); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *reader) begin(ctx context.Context, snapshot string, lockTimeout time.Duration) error {
	if err := r.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&r.version); err != nil {
		return fmt.Errorf("asking for the version of the server: %w", err)
	}
	if major := r.version / 10000; major < oldest || major > newest {
		return problem.New(problem.Usage, "PostgreSQL %d is not supported by the native engine, only %d to %d", major, oldest, newest).
			WithHint(`use "--engine pg_dump"`)
	}
	statements := []string{`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`}
	if snapshot != "" {
		statements = append(statements, `SET TRANSACTION SNAPSHOT `+literal(snapshot))
	}
	statements = append(statements, fmt.Sprintf(`SET lock_timeout = %d`, lockTimeout.Milliseconds()))
	for _, s := range statements {
		if _, err := r.Exec(ctx, s); err != nil {
			return fmt.Errorf("taking the snapshot: %w", err)
		}
	}
	return nil
}

func (r *reader) export(ctx context.Context) (string, error) {
	var id string
	if err := r.QueryRow(ctx, `SELECT pg_export_snapshot()`).Scan(&id); err != nil {
		return "", fmt.Errorf("exporting the snapshot: %w", err)
	}
	return id, nil
}

// close ends the session, also one whose context is cancelled.
func (r *reader) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// Nothing was written, so how the session ends does not matter.
	_ = r.Close(ctx)
}

// lock takes ACCESS SHARE locks, so that definitions stay as they are. With nowait, somebody who waits to change a
// table makes it fail instead of waiting behind them for our own main session.
func (r *reader) lock(ctx context.Context, nowait bool, tables ...*table) error {
	for some := range slices.Chunk(tables, 100) {
		var names []string
		for _, t := range some {
			names = append(names, qualified(t.schema, t.name))
		}
		statement := `LOCK TABLE ONLY ` + strings.Join(names, ", ONLY ") + ` IN ACCESS SHARE MODE`
		if nowait {
			statement += ` NOWAIT`
		}
		_, err := r.Exec(ctx, statement)
		if err := lockError(err); err != nil {
			return fmt.Errorf("locking tables against changes: %w", err)
		}
	}
	return nil
}

// columns are the names of a table's columns that COPY takes.
func (r *reader) columns(ctx context.Context, schema, name string) ([]string, error) {
	rows, err := r.Query(ctx, `SELECT a.attname::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum`, schema, name)
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %q: %w", name, err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %q: %w", name, err)
	}
	if len(columns) == 0 {
		return nil, problem.New(problem.NotFound, "no table %q in schema %q", name, schema)
	}
	return columns, nil
}

func identifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

func qualified(schema, name string) string { return identifier(schema) + "." + identifier(name) }

// literal quotes for standard_conforming_strings = on.
func literal(s string) string { return `'` + strings.ReplaceAll(s, `'`, `''`) + `'` }

func identifiers(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = identifier(n)
	}
	return strings.Join(quoted, ", ")
}
