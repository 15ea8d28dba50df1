package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgclient"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// runPostgres restores the fixture into the database if that is empty, and adds credentials and executions until it has the
// wanted size on disk. There the server compresses long values: a dump is about twice as large.
func runPostgres(ctx context.Context, from, dsn string, size int64, credentials int) (err error) {
	key, err := instanceKey(filepath.Join(from, "config"))
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	var empty bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('workflow_entity') IS NULL`).Scan(&empty); err != nil {
		return err
	}
	if empty {
		programs, err := pgclient.Find(ctx, pgclient.FindConfig{})
		if err != nil {
			return err
		}
		if _, err := pgclient.Restore(ctx, pgclient.RestoreConfig{Programs: programs, DSN: dsn, File: filepath.Join(from, "database.dump")}); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, `SET synchronous_commit = off`); err != nil {
		return err
	}
	g := newGenerator()
	if err := g.postgresCredentials(ctx, conn, key, credentials); err != nil {
		return err
	}
	for {
		if err := g.postgresExecutions(ctx, conn, 1000); err != nil {
			return err
		}
		var bytes int64
		if err := conn.QueryRow(ctx, `SELECT pg_database_size(current_database())`).Scan(&bytes); err != nil {
			return err
		}
		if bytes >= size {
			_, err := conn.Exec(ctx, `VACUUM ANALYZE`)
			return err
		}
	}
}

func (g *generator) postgresCredentials(ctx context.Context, conn *pgx.Conn, key n8ncrypt.InstanceKey, n int) error {
	_, err := conn.CopyFrom(ctx, pgx.Identifier{"credentials_entity"}, []string{"id", "name", "type", "data"}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		value, err := g.secret(key)
		return []any{g.hex(16), fmt.Sprintf("Bench %d", i), "httpHeaderAuth", value}, err
	}))
	return err
}

// postgresExecutions adds n finished ones of the fixture's first workflow.
func (g *generator) postgresExecutions(ctx context.Context, conn *pgx.Conn, n int) error {
	var workflow, snapshot string
	if err := conn.QueryRow(ctx, `SELECT id, json_build_object('id', id, 'name', name, 'nodes', nodes, 'connections', connections)::text
		FROM workflow_entity ORDER BY id LIMIT 1`).Scan(&workflow, &snapshot); err != nil {
		return err
	}
	rows, err := conn.Query(ctx, `SELECT nextval(pg_get_serial_sequence('execution_entity', 'id'))::int FROM generate_series(1, $1)`, n)
	if err != nil {
		return err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return err
	}
	var entities, data [][]any
	for _, id := range ids {
		d, err := g.execution()
		if err != nil {
			return err
		}
		entities = append(entities, []any{id, workflow, true, "webhook", g.now, g.now, g.now, "success"})
		data = append(data, []any{id, snapshot, d})
	}
	if _, err := conn.CopyFrom(ctx, pgx.Identifier{"execution_entity"}, []string{"id", "workflowId", "finished", "mode", "startedAt", "stoppedAt", "createdAt", "status"},
		pgx.CopyFromRows(entities)); err != nil {
		return err
	}
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"execution_data"}, []string{"executionId", "workflowData", "data"}, pgx.CopyFromRows(data))
	return err
}
