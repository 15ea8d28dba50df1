package n8ndb

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/n8keep/n8keep/internal/problem"
)

// PostgresConfig names a database on a server.
type PostgresConfig struct {
	DSN         string // URL or key=value; its password is in no error
	Schema      string // DB_POSTGRESDB_SCHEMA; "" is public
	TablePrefix string // DB_TABLE_PREFIX
	// Snapshot is what pg_export_snapshot returned in a transaction that is still
	// open. Everything is then read in it, whatever is written meanwhile. "" lets
	// every reading see the database as it is at that moment.
	Snapshot string
	AppName  string // application_name of the sessions; "" is n8keep
}

// OpenPostgres connects for reading. Its sessions cannot write and give up after
// ten seconds behind somebody else's lock.
func OpenPostgres(ctx context.Context, cfg PostgresConfig) (*DB, error) {
	c, err := pgx.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, errAddress()
	}
	if cfg.Snapshot != "" && !snapshotID.MatchString(cfg.Snapshot) {
		return nil, problem.New(problem.Unexpected, "%q is no exported snapshot of PostgreSQL", cfg.Snapshot)
	}
	for name, value := range map[string]string{
		"application_name":                    cmp.Or(cfg.AppName, "n8keep"),
		"datestyle":                           "ISO",
		"timezone":                            "UTC",
		"default_transaction_read_only":       "on",
		"lock_timeout":                        "10s",
		"statement_timeout":                   "0",
		"idle_in_transaction_session_timeout": "0",
	} {
		c.RuntimeParams[name] = value
	}
	db := &DB{engine: Postgres, schema: cmp.Or(cfg.Schema, "public"), prefix: cfg.TablePrefix, snapshot: cfg.Snapshot, pool: stdlib.OpenDB(*c)}
	db.pool.SetMaxOpenConns(4)
	db.pool.SetMaxIdleConns(1)
	where := c.Database + " on " + c.Host
	if err := db.pool.PingContext(ctx); err != nil {
		return nil, errors.Join(explainConnect(where, c.User, err), db.Close())
	}
	if err := db.inspect(ctx, where); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// errAddress does not quote the parser, which quotes the string it was given.
func errAddress() error {
	return problem.New(problem.Usage, "the PostgreSQL address cannot be read").
		WithHint("write it as postgres://USER@HOST:5432/DATABASE, with the password in PGPASSWORD or ~/.pgpass")
}

func explainConnect(where, user string, err error) error {
	var pg *pgconn.PgError
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case !errors.As(err, &pg):
		msg := "the server did not answer"
		if errors.As(err, &network) {
			msg = network.Error()
		}
		if strings.Contains(err.Error(), "server refused TLS connection") {
			return &problem.Error{Kind: problem.Unreachable, Msg: "cannot connect to " + where + ": the server offers no TLS", Err: err,
				Hint: "turn TLS on at the server, or ask for less: sslmode=prefer"}
		}
		return &problem.Error{Kind: problem.Unreachable, Msg: "cannot connect to " + where + ": " + msg, Err: err,
			Hint: "check host, port and that the server accepts connections from here"}
	case pg.Code == "28P01", pg.Code == "28000":
		return &problem.Error{Kind: problem.Unreachable, Msg: where + " refuses the login of " + user, Err: err,
			Hint: "check user and password"}
	case pg.Code == "3D000":
		return &problem.Error{Kind: problem.NotFound, Msg: "there is no database " + where, Err: err,
			Hint: "check the database name, DB_POSTGRESDB_DATABASE in n8n"}
	}
	return &problem.Error{Kind: problem.Unreachable, Msg: where + " refuses: " + pg.Message, Err: err}
}

// explainPostgres says in words what PostgreSQL refused while reading.
func explainPostgres(err error) error {
	var pg *pgconn.PgError
	var network net.Error
	switch {
	case errors.As(err, &pg):
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.As(err, &network):
		return problem.Wrap(problem.Unreachable, err, "the connection to the server was lost").WithHint("try again when the server answers")
	default:
		return err
	}
	switch {
	case pg.Code == "42501":
		return problem.Wrap(problem.Unreachable, err, "reading the database").
			WithHint("grant this user SELECT on all tables of the schema")
	case pg.Code == "55P03":
		return problem.Wrap(problem.Busy, err, "another session holds a table locked").
			WithHint("try again when n8n's upgrade or the other maintenance is done")
	case pg.Code == "42P01", pg.Code == "42703":
		return problem.Wrap(problem.Busy, err, "the structure of the database was changed while it was read").
			WithHint("n8n is probably being upgraded: try again when it has started")
	case strings.HasPrefix(pg.Code, "57P"), strings.HasPrefix(pg.Code, "08"):
		return problem.Wrap(problem.Unreachable, err, "the server ended the connection")
	}
	return err
}

func (v *view) postgresTables(ctx context.Context) ([]Table, error) {
	var tables tableList
	// A table that was dropped since the snapshot has no privileges any more.
	_, err := v.rows(ctx, `SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), t.typcategory::text, t.typname::text,
			coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0), coalesce(has_table_privilege(c.oid, 'SELECT'), false), a.attcollation = 0
		FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		JOIN pg_type t ON t.oid = a.atttypid
		LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		ORDER BY c.relname COLLATE "C", a.attnum`, []any{v.db.schema}, 8, 0, func(cols []any) error {
		pk, err := strconv.Atoi(textOf(cols[5]))
		if err != nil {
			return err
		}
		kind := postgresKind(textOf(cols[3]), textOf(cols[4]))
		tables.add(textOf(cols[0]), Column{Name: textOf(cols[1]), Type: textOf(cols[2]), Kind: kind, uncollated: textOf(cols[7]) == "t"}, pk)
		tables.last().unreadable = textOf(cols[6]) != "t"
		return nil
	})
	return tables.list(), err
}

func postgresKind(category, name string) Kind {
	switch {
	case name == "bytea":
		return Blob
	case name == "uuid", strings.Contains("BDINT", category): // boolean, date, address, number, interval
		return Other
	}
	return Text
}
