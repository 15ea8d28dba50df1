package n8ndb

import (
	"context"

	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// InsertDataKey adds an active data key within the transaction, stored as given, after
// every active one has become inactive: n8n's index allows one (n8n >= 2.39). It
// returns the ids of those.
func (w *Writer) InsertDataKey(ctx context.Context, id, stored string) (previous []string, err error) {
	if w.done {
		return nil, errWriterDone()
	}
	if !n8ncrypt.ValidKeyID(id) || n8ncrypt.Detect(stored) != n8ncrypt.GCM {
		return nil, problem.New(problem.Unexpected, "a data key has to be wrapped, under an id that n8n reads")
	}
	failpoint.Hit("write.datakey")
	if previous, err = w.setStatus(ctx, "inactive", `"status" = 'active'`); err != nil {
		return nil, err
	}
	table := w.from(w.table(keysTable))
	stmt := `INSERT INTO ` + table + ` ("id", "type", "value", "algorithm", "status") VALUES (` +
		w.arg(1) + ", " + w.arg(2) + ", " + w.arg(3) + ", " + w.arg(4) + `, 'active') RETURNING "id"`
	n := 0
	_, err = w.writing.rows(ctx, stmt, []any{id, dataEncryption, stored, string(n8ncrypt.AlgorithmGCM)}, 1, 0, func([]any) error {
		n++
		return nil
	})
	if err == nil && n != 1 {
		err = problem.New(problem.Unexpected, "the new data key was not written")
	}
	failpoint.Hit("write.datakey-inserted")
	return previous, err
}

// ReactivateDataKey undoes InsertDataKey's change of what is active. The key that it
// has inserted stays, because n8n may have written under it. If another one is active
// by now, that one stays it.
func (w *Writer) ReactivateDataKey(ctx context.Context, inserted string, previous []string) error {
	if w.done {
		return errWriterDone()
	}
	if len(previous) == 0 {
		return nil
	}
	failpoint.Hit("write.datakey")
	gone, err := w.setStatus(ctx, "inactive", `"status" = 'active' AND "id" = `+w.arg(2), inserted)
	if err != nil || len(gone) == 0 {
		return err
	}
	_, err = w.setStatus(ctx, "active", `"id" = `+w.arg(2), previous[0])
	failpoint.Hit("write.datakey-activated")
	return err
}

// setStatus changes the status of data keys, and says of which.
func (w *Writer) setStatus(ctx context.Context, status, where string, args ...any) (ids []string, err error) {
	t := w.table(keysTable)
	if t.Column("status") == nil || t.Column("algorithm") == nil {
		return nil, problem.New(problem.Unexpected, "this n8n has no data keys")
	}
	now := `strftime('%Y-%m-%d %H:%M:%S', 'now')`
	if w.engine == Postgres {
		now = "CURRENT_TIMESTAMP(3)"
	}
	stmt := `UPDATE ` + w.from(t) + ` SET "status" = '` + status + `', "updatedAt" = ` + now +
		` WHERE "type" = ` + w.arg(1) + ` AND ` + where + ` RETURNING "id"`
	_, err = w.writing.rows(ctx, stmt, append([]any{dataEncryption}, args...), 1, 0, func(cols []any) error {
		ids = append(ids, textOf(cols[0]))
		return nil
	})
	return ids, err
}
