package n8ndb

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/n8keep/n8keep/internal/problem"
)

// snapshotID is what pg_export_snapshot returns: "00000003-0000001B-1".
var snapshotID = regexp.MustCompile(`^[0-9A-Fa-f]{1,16}(-[0-9A-Fa-f]{1,16}){1,3}$`)

// postgresView runs do in one read-only REPEATABLE READ transaction on a connection
// of its own, in an exported snapshot unless that is "".
func (db *DB) postgresView(ctx context.Context, snapshot string, do func(*view) error) error {
	conn, err := db.pool.Conn(ctx)
	if err != nil {
		return fmt.Errorf("beginning to read: %w", db.explain(err))
	}
	defer conn.Close()
	return conn.Raw(func(driver any) error {
		c, ok := driver.(*stdlib.Conn)
		if !ok {
			return errors.New("the PostgreSQL driver hides its connection")
		}
		pg := c.Conn()
		tx, err := pg.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return fmt.Errorf("beginning to read: %w", db.explain(err))
		}
		defer tx.Rollback(context.WithoutCancel(ctx))
		if snapshot != "" {
			if _, err := pg.Exec(ctx, "SET TRANSACTION SNAPSHOT '"+snapshot+"'", pgx.QueryExecModeSimpleProtocol); err != nil {
				return explainSnapshot(ctx, snapshot, err)
			}
		}
		return do(&view{db: db, pg: pg})
	})
}

// explainSnapshot: an exported snapshot lives as long as the transaction that exported it.
func explainSnapshot(ctx context.Context, id string, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || strings.HasPrefix(pg.Code, "57P") || strings.HasPrefix(pg.Code, "08") {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return explainPostgres(err)
	}
	return problem.Wrap(problem.Unreachable, err, "the snapshot %q of the database is gone", id).
		WithHint("the session that held it has ended: look for its end in the server's log (idle_in_transaction_session_timeout, a restart, a connection pooler), and try again")
}

// postgresRows is rows without database/sql between: a column is a []byte that lasts
// until the next row, text as PostgreSQL prints it and bytea as bytes, or nil.
func (v *view) postgresRows(ctx context.Context, stmt string, args []any, width int, fn func([]any) error) error {
	rows, err := v.pg.Query(ctx, stmt, append([]any{pgx.QueryResultFormatsByOID{pgtype.ByteaOID: pgx.BinaryFormatCode}}, args...)...)
	if err != nil {
		return v.postgresError(ctx, err)
	}
	defer rows.Close()
	cols := make([]any, width)
	for rows.Next() {
		for i, raw := range rows.RawValues() {
			if cols[i] = nil; raw != nil {
				cols[i] = raw
			}
		}
		if err := fn(cols); err != nil {
			return err
		}
	}
	return v.postgresError(ctx, rows.Err())
}

func (v *view) postgresError(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return v.db.explain(err)
}
