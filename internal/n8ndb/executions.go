package n8ndb

import (
	"cmp"
	"context"
	"slices"
	"strings"
)

// unfinishedExecution is when n8n may still go on with an execution: SQL conditions
// on execution_entity AS e, with the columns it has, of which one has to hold.
func unfinishedExecution(has func(column string) bool) []string {
	var conditions []string
	if !has("status") {
		// These versions leave only the time of the end.
		conditions = append(conditions, `e."stoppedAt" IS NULL`)
	} else {
		conditions = append(conditions, `e."status" IN ('new', 'running', 'waiting')`)
		if has("stoppedAt") {
			// status is NULL in rows that are older than the column.
			conditions = append(conditions, `(e."status" IS NULL AND e."stoppedAt" IS NULL)`)
		}
	}
	if has("waitTill") {
		conditions = append(conditions, `e."waitTill" IS NOT NULL`)
	}
	return conditions
}

// unfinished is unfinishedExecution as one condition.
func (v *view) unfinished() string {
	t := v.db.table("execution_entity")
	return "(" + strings.Join(unfinishedExecution(func(c string) bool { return t.Column(c) != nil }), " OR ") + ")"
}

// executionsQuery reads the data of executions in scope; ok is false when there is
// nothing to read.
func (v *view) executionsQuery(scope ExecutionScope) (q query, ok bool) {
	t := v.db.table("execution_data")
	data := t.Column("data")
	if data == nil || scope == NoExecutions {
		return q, false
	}
	q = query{table: t, exprs: []string{v.text(data)}}
	if entity := v.db.table("execution_entity"); entity != nil && scope != AllExecutions {
		q.join = `JOIN ` + v.db.from(entity) + ` AS e ON e."id" = t."executionId"`
		q.where = v.unfinished()
	}
	return q, true
}

// executions reads the data of executions in scope once: for the places in flatted
// JSON, and for the sweep.
// The piece, a condition on t, is for a sweep alone.
func (c *counter) executions(ctx context.Context, v *view, places []Place, piece string) error {
	q, ok := v.executionsQuery(c.cfg.Executions)
	if !ok {
		return nil
	}
	t, data := q.table, q.table.Column("data")
	q.anyOrder = c.cfg.SkipPlaces
	if piece != "" {
		q.where = piece + " AND " + cmp.Or(q.where, "TRUE")
	}
	var others []*Column
	if c.sweeper.active() {
		for i := range t.Columns {
			if o := &t.Columns[i]; o.Kind == Text && o.Name != data.Name && !slices.Contains(t.PrimaryKey, o.Name) {
				others, q.exprs = append(others, o), append(q.exprs, v.text(o))
			}
		}
	}
	var n int64
	return v.each(ctx, q, func(row string, cols []any) error {
		if n++; n%100 == 0 {
			c.progress(t.Name, n)
		}
		b := bytesOf(cols[0])
		var known []string
		if c.cfg.SkipPlaces {
			known = c.sweeper.knownFlatted(b)
		} else {
			var err error
			if known, err = c.flatted(b, row, places); err != nil {
				return err
			}
		}
		if !c.sweeper.active() {
			return nil
		}
		if err := c.sweeper.value(t.Name, data.Name, row, b, known, false); err != nil {
			return err
		}
		for i, o := range others {
			if err := c.sweeper.value(t.Name, o.Name, row, bytesOf(cols[i+1]), nil, false); err != nil {
				return err
			}
		}
		return nil
	})
}

// knownFlatted are the ciphertexts in one execution's data that the catalogue
// accounts for. Parsing is dear, and of use only where there is ciphertext.
func (s *sweeper) knownFlatted(data []byte) (known []string) {
	if !s.cfg.Sweep || !holdsCiphertext(data) {
		return nil
	}
	for _, f := range scanFlatted(data) {
		if value := f.text(data); f.counts(value) {
			known = append(known, value)
		}
	}
	return known
}

// flatted counts the values in one execution's data and returns their ciphertexts.
func (c *counter) flatted(data []byte, row string, places []Place) (known []string, err error) {
	err = eachFlatted(places, data, func(p *Place, v ColumnValue) error {
		known = append(known, v.Text)
		return c.count(p, placeRow{id: row}.of(v))
	})
	return known, err
}
