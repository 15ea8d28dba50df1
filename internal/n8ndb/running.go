package n8ndb

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// RunningExecution is an execution that n8n works on, or has accepted and not begun.
type RunningExecution struct {
	ID         string
	WorkflowID string
	Status     string    // "new" or "running"; "" in versions without the column
	Started    time.Time // zero if it has not begun
}

// MostRunning bounds the list of Running: an n8n that was killed in queue mode can
// leave any number of executions behind that nobody works on.
const MostRunning = 1000

// Running returns the executions that are new or running, by id, the first
// [MostRunning] of them. Waiting ones are not among them: n8n resumes them after
// any restart. A database that was opened with a snapshot goes on showing those of
// that moment.
func (db *DB) Running(ctx context.Context) ([]RunningExecution, error) {
	var found []RunningExecution
	err := db.view(ctx, func(v *view) error {
		t := v.db.table("execution_entity")
		if t.Column("id") == nil {
			return nil
		}
		expr := func(column string) string {
			switch {
			case t.Column(column) == nil:
				return "NULL"
			case v.db.engine == Postgres && column == "startedAt":
				return `to_char(e."startedAt" AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')`
			}
			return `CAST(e.` + quote(column) + ` AS text)`
		}
		where := `e."status" IN ('new', 'running')`
		if t.Column("status") == nil {
			where = `e."stoppedAt" IS NULL`
			if t.Column("waitTill") != nil {
				where += ` AND e."waitTill" IS NULL`
			}
		}
		stmt := "SELECT " + strings.Join([]string{expr("id"), expr("workflowId"), expr("status"), expr("startedAt")}, ", ") +
			" FROM " + v.db.from(t) + " AS e WHERE " + where + fmt.Sprintf(` ORDER BY e."id" LIMIT %d`, MostRunning)
		_, err := v.rows(ctx, stmt, nil, 4, 0, func(cols []any) error {
			e := RunningExecution{ID: textOf(cols[0]), WorkflowID: textOf(cols[1]), Status: textOf(cols[2])}
			if at, err := time.Parse("2006-01-02 15:04:05", textOf(cols[3])); err == nil {
				e.Started = at
			}
			found = append(found, e)
			return nil
		})
		return err
	})
	return found, err
}
