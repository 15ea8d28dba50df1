package n8ndb

import (
	"context"
	"encoding/json"
	"slices"
)

// filterTable is what the catalogs say of a table that decides on its filter.
type filterTable struct {
	name       string // full
	columns    []filterColumn
	references []filterReference
	checks     []filterCheck
}

type filterColumn struct {
	name, declared string
	required       bool // never NULL
	pinned         bool // a NULL more may break a unique index
	generated      bool
}

// filterReference is one foreign key.
type filterReference struct {
	parent   string
	from, to []string
	set      []string // the columns to set NULL
	nullable bool     // that may be done; else the row has to go
}

type filterCheck struct {
	sql     string // over columns without a table's name
	columns []string
}

func (t *filterTable) column(name string) *filterColumn {
	if i := slices.IndexFunc(t.columns, func(c filterColumn) bool { return c.name == name }); i >= 0 {
		return &t.columns[i]
	}
	return nil
}

func (t *filterTable) names() (names []string) {
	for _, c := range t.columns {
		if !c.generated {
			names = append(names, c.name)
		}
	}
	return names
}

// required reports whether none of the columns may be NULL.
func (t *filterTable) required(columns []string) bool {
	return !slices.ContainsFunc(columns, func(name string) bool { return !t.column(name).required })
}

// needs reports whether a row may have to go when what it refers to is left out.
func (t *filterTable) needs(ref filterReference) bool {
	return !ref.nullable || len(t.checksOf(ref.set)) > 0
}

func (t *filterTable) checksOf(columns []string) (sql []string) {
	for _, c := range t.checks {
		if slices.ContainsFunc(c.columns, func(name string) bool { return slices.Contains(columns, name) }) {
			sql = append(sql, c.sql)
		}
	}
	return sql
}

// read takes the tables of the schema from the catalogs. Expressions come out with
// the names of their schemas, so that they mean the same in every session.
func (p *filterPlan) read(ctx context.Context) error {
	p.tables = map[string]*filterTable{}
	if _, err := p.v.pg.Exec(ctx, "SET LOCAL search_path = pg_catalog"); err != nil {
		return p.v.postgresError(ctx, err)
	}
	for _, step := range []func(context.Context) error{p.readColumns, p.readReferences, p.readChecks} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

const filterTablesOf = ` n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND starts_with(c.relname, $2) `

// readColumns takes what is NOT NULL itself or by its type as required, and as
// pinned columns of which a unique index might see NULLs as equal.
func (p *filterPlan) readColumns(ctx context.Context) error {
	_, err := p.v.rows(ctx, `SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '',
			a.attnotnull OR t.typnotnull, EXISTS (
				SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND (
					to_jsonb(i)->>'indnullsnotdistinct' = 'true' AND a.attnum = ANY (i.indkey::int2[])
					OR (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND EXISTS (
						SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
							AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum)))
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		JOIN pg_type t ON t.oid = a.atttypid
		WHERE`+filterTablesOf+`ORDER BY c.relname, a.attnum`, []any{p.v.db.schema, p.v.db.prefix}, 6, 0, func(cols []any) error {
		name := textOf(cols[0])
		t := p.tables[name]
		if t == nil {
			t = &filterTable{name: name}
			p.tables[name] = t
		}
		t.columns = append(t.columns, filterColumn{name: textOf(cols[1]), declared: textOf(cols[2]), generated: textOf(cols[3]) == "t",
			required: textOf(cols[4]) == "t", pinned: textOf(cols[5]) == "t"})
		return nil
	})
	return err
}

// readReferences takes foreign keys within the schema; those of partitions repeat
// those of their table.
func (p *filterPlan) readReferences(ctx context.Context) error {
	names := func(table, numbers string) string {
		return `(SELECT json_agg(a.attname ORDER BY u.position) FROM unnest(` + numbers + `) WITH ORDINALITY AS u (number, position)
			JOIN pg_attribute a ON a.attrelid = ` + table + ` AND a.attnum = u.number)`
	}
	// ON DELETE SET NULL (column) is new in PostgreSQL 15.
	only := `ARRAY(SELECT j::int2 FROM jsonb_array_elements_text(nullif(to_jsonb(k)->'confdelsetcols', 'null'::jsonb)) AS j)`
	_, err := p.v.rows(ctx, `SELECT c.relname, r.relname, k.confdeltype = 'c', `+names("k.conrelid", "k.conkey")+`, `+names("k.confrelid", "k.confkey")+`, `+names("k.conrelid", only)+`
		FROM pg_constraint k
		JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_class r ON r.oid = k.confrelid AND r.relnamespace = n.oid
		WHERE k.contype = 'f' AND k.conparentid = 0 AND`+filterTablesOf+`ORDER BY c.relname, k.conname`, []any{p.v.db.schema, p.v.db.prefix}, 6, 0, func(cols []any) error {
		t := p.tables[textOf(cols[0])]
		ref := filterReference{parent: textOf(cols[1])}
		for i, into := range []*[]string{&ref.from, &ref.to, &ref.set} {
			if b := bytesOf(cols[3+i]); b != nil {
				if err := json.Unmarshal(b, into); err != nil {
					return err
				}
			}
		}
		if t == nil || p.tables[ref.parent] == nil {
			return nil
		}
		if len(ref.set) == 0 {
			ref.set = ref.from
		}
		ref.nullable = textOf(cols[2]) != "t" && !slices.ContainsFunc(ref.set, func(name string) bool {
			c := t.column(name)
			return c.required || c.pinned
		})
		t.references = append(t.references, ref)
		return nil
	})
	return err
}

func (p *filterPlan) readChecks(ctx context.Context) error {
	_, err := p.v.rows(ctx, `SELECT c.relname, pg_get_expr(k.conbin, k.conrelid), (SELECT json_agg(a.attname) FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey))
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE k.contype = 'c' AND k.conkey IS NOT NULL AND`+filterTablesOf+`ORDER BY c.relname, k.conname`, []any{p.v.db.schema, p.v.db.prefix}, 3, 0, func(cols []any) error {
		t := p.tables[textOf(cols[0])]
		check := filterCheck{sql: textOf(cols[1])}
		if err := json.Unmarshal(bytesOf(cols[2]), &check.columns); err != nil || t == nil {
			return err
		}
		t.checks = append(t.checks, check)
		return nil
	})
	return err
}
