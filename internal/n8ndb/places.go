package n8ndb

import (
	"context"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	settingsTable  = "settings"
	keysTable      = "deployment_key"
	dataEncryption = "data_encryption"
)

// takes reports whether n8n ever wrote the format to the place and reads it there.
func (p *Place) takes(f n8ncrypt.Format) bool {
	switch f {
	case n8ncrypt.CBC:
		return true
	case n8ncrypt.Prefixed:
		return p.Encoding == V2
	case n8ncrypt.GCM:
		return p.Encoding != V2
	}
	return false
}

// selects reports whether a row belongs to the place: key is settings.key or
// deployment_key.type.
func (p *Place) selects(key, algorithm string) bool {
	return (p.Key == "" || p.Key == key) && (p.Algorithm == "" || p.Algorithm == algorithm)
}

// placeRow is one value of a place.
type placeRow struct {
	id           string
	value        string
	hasAlgorithm bool // of deployment_key: the column is not NULL
	problem      Problem
}

// place calls fn for every value of a place in a column of its own, in primary key
// order. Flatted places are read by executions. A table or column that this
// database does not have has no values.
func (v *view) place(ctx context.Context, p Place, fn func(placeRow) error) error {
	q, ok := v.placeQuery(&p)
	if !ok {
		return nil
	}
	return v.ahead(ctx, q, func(id string, cols []any) error {
		for _, r := range p.values(p.row(id, cols)) {
			if err := fn(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// placeQuery reads the column of a place that is no flatted JSON, and with
// deployment_key the algorithm; ok is false where this database has no such column.
func (v *view) placeQuery(p *Place) (q query, ok bool) {
	t := v.db.table(p.Table)
	c := t.Column(p.Column)
	if c == nil {
		return q, false
	}
	q = query{table: t, exprs: []string{v.text(c)}, where: "t." + quote(c.Name) + " IS NOT NULL"}
	switch p.Table {
	case settingsTable:
		q.where += ` AND t."key" = ` + v.db.arg(1)
		q.args = []any{p.Key}
	case keysTable:
		if t.Column("algorithm") == nil || t.Column("type") == nil {
			return q, false
		}
		q.exprs = append(q.exprs, `t."algorithm"`)
		q.where += ` AND t."type" = ` + v.db.arg(1)
		q.args = []any{p.Key}
		if p.Algorithm != "" {
			q.where += ` AND t."algorithm" = ` + v.db.arg(2)
			q.args = append(q.args, p.Algorithm)
		}
	}
	return q, true
}

// row is a row that placeQuery read.
func (p *Place) row(id string, cols []any) placeRow {
	return placeRow{id: id, value: textOf(cols[0]), hasAlgorithm: len(cols) > 1 && cols[1] != nil}
}

// values takes a column apart. Empty values are none.
func (p *Place) values(row placeRow) []placeRow {
	var list []placeRow
	for _, v := range p.columnValues(row.value) {
		list = append(list, row.of(v))
	}
	return list
}

// of is the row as one of the values in it.
func (r placeRow) of(v ColumnValue) placeRow {
	r.id += v.Suffix
	r.value, r.problem = v.Text, v.Problem
	return r
}
