package n8ndb

import (
	"context"
	"fmt"
	"strconv"
	"sync"
)

// sweepers is how many connections a sweep of PostgreSQL uses. Each costs the
// server a process that reads; more would be felt by n8n.
const sweepers = 2

// pieceBlocks is how many blocks of 8 KiB of a table are read in one go.
const pieceBlocks = 4096

// sweepTask is a table, or a piece of one.
type sweepTask struct {
	table *Table
	piece string // condition on t, "" for all
}

// sweep reads all tables. On PostgreSQL several connections share the work, in one
// snapshot; findings do not depend on the order.
func (c *counter) sweep(ctx context.Context, v *view) error {
	tasks, big, err := c.sweepTasks(ctx, v)
	if err != nil {
		return err
	}
	run := func(ctx context.Context, v *view, t sweepTask) error {
		if t.table.Name == "execution_data" {
			return c.executions(ctx, v, nil, t.piece)
		}
		return c.sweeper.table(ctx, v, t.table, t.piece)
	}
	if !big || v.db.writing != nil { // others would not see the changes of a transaction
		for _, t := range tasks {
			if err := run(ctx, v, t); err != nil {
				return err
			}
		}
		return nil
	}
	snapshot := v.db.snapshot
	if snapshot == "" {
		if snapshot, err = v.export(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan sweepTask, len(tasks))
	for _, t := range tasks {
		queue <- t
	}
	close(queue)
	work := func(v *view) error {
		for t := range queue {
			if err := run(ctx, v, t); err != nil {
				return err
			}
		}
		return nil
	}
	var joined sync.WaitGroup
	for range sweepers - 1 {
		joined.Go(func() {
			begun := false
			err := v.db.postgresView(ctx, snapshot, func(v *view) error {
				begun = true
				return work(v)
			})
			if err != nil && begun { // else the server has no connection to spare
				cancel(err)
			}
		})
	}
	if err := work(v); err != nil {
		cancel(err)
	}
	joined.Wait()
	return context.Cause(ctx)
}

// sweepTasks are the tables, big ones first and in pieces, without what was read
// for the catalogue.
func (c *counter) sweepTasks(ctx context.Context, v *view) (tasks []sweepTask, big bool, err error) {
	var small []sweepTask
	for i := range v.db.tables {
		t := &v.db.tables[i]
		pieces := []string{""}
		if t.Name == "execution_data" {
			switch {
			case !c.cfg.SkipPlaces || v.pg == nil || c.cfg.Executions == NoExecutions:
				continue // read already, in the scope asked for, or not to be read
			case c.cfg.Executions == AllExecutions:
				if pieces, err = v.pieces(ctx, t); err != nil {
					return nil, false, err
				}
			}
		} else if v.pg != nil {
			if pieces, err = v.pieces(ctx, t); err != nil {
				return nil, false, err
			}
		}
		for _, p := range pieces {
			if p == "" {
				small = append(small, sweepTask{t, p})
			} else {
				tasks = append(tasks, sweepTask{t, p})
			}
		}
	}
	return append(tasks, small...), len(tasks) > 0, nil
}

// pieces cuts a big table into ranges of its blocks. From PostgreSQL 14 only the
// blocks of a range are read for it.
func (v *view) pieces(ctx context.Context, t *Table) (pieces []string, err error) {
	var blocks, whole int64
	_, err = v.rows(ctx, `SELECT pg_relation_size(c.oid) / current_setting('block_size')::int, pg_table_size(c.oid) / current_setting('block_size')::int
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r' AND current_setting('server_version_num')::int >= 140000`,
		[]any{v.db.schema, v.db.prefix + t.Name}, 2, 0, func(cols []any) error {
			var err error
			if blocks, err = strconv.ParseInt(textOf(cols[0]), 10, 64); err != nil {
				return err
			}
			whole, err = strconv.ParseInt(textOf(cols[1]), 10, 64)
			return err
		})
	count := min(blocks, whole/pieceBlocks)
	if err != nil || count < 2 {
		return []string{""}, err
	}
	for i := range count {
		piece := fmt.Sprintf("t.ctid >= '(%d,0)'", blocks*i/count)
		if i < count-1 { // the last one takes what was added since
			piece += fmt.Sprintf(" AND t.ctid < '(%d,0)'", blocks*(i+1)/count)
		}
		pieces = append(pieces, "("+piece+")")
	}
	return pieces, nil
}

// export makes the view's snapshot known to others for as long as the view lasts.
func (v *view) export(ctx context.Context) (id string, err error) {
	_, err = v.rows(ctx, "SELECT pg_export_snapshot()", nil, 1, 0, func(cols []any) error {
		id = textOf(cols[0])
		return nil
	})
	return id, err
}
