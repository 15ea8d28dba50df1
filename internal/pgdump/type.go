package pgdump

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

func (c *catalogue) readTypes() error {
	for _, read := range []func() error{c.readEnums, c.readComposites, c.readDomains, c.readRanges} {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

func (c *catalogue) readEnums() error {
	return c.each("enum types", `SELECT t.oid, n.nspname::text, t.typname::text,
		ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder)
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = ANY($1)`, []any{c.ids("enum type")}, func(row pgx.CollectableRow) error {
		var id uint32
		var schema, name string
		var labels []string
		if err := row.Scan(&id, &schema, &name, &labels); err != nil {
			return err
		}
		for i, l := range labels {
			labels[i] = "    " + literal(l)
		}
		full := qualified(schema, name)
		e := c.all[ref{"pg_type", id}]
		c.add(e, rankType, full, "CREATE TYPE "+full+" AS ENUM (\n"+strings.Join(labels, ",\n")+"\n)")
		c.targets[e.ref] = "TYPE " + full
		return nil
	})
}

func (c *catalogue) readComposites() error {
	return c.each("composite types", `SELECT t.oid, t.typrelid, n.nspname::text, t.typname::text, coalesce(a.attname::text, ''), coalesce(a.attnum, 0),
		coalesce(format_type(a.atttypid, a.atttypmod), ''), coalesce(cn.nspname::text, ''), coalesce(co.collname::text, '')
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
		LEFT JOIN pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN pg_type at ON at.oid = a.atttypid
		LEFT JOIN pg_collation co ON co.oid = a.attcollation AND a.attcollation <> at.typcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
		WHERE t.oid = ANY($1) ORDER BY t.oid, a.attnum`, []any{c.ids("composite type")}, func(row pgx.CollectableRow) error {
		var id, relation uint32
		var schema, name, column, typ, collSchema, collation string
		var number int
		if err := row.Scan(&id, &relation, &schema, &name, &column, &number, &typ, &collSchema, &collation); err != nil {
			return err
		}
		full := qualified(schema, name)
		e := c.all[ref{"pg_type", id}]
		o := c.objects[e.ref]
		if o == nil {
			o = c.add(e, rankType, full, "CREATE TYPE "+full+" AS (\n)")
			c.targets[e.ref] = "TYPE " + full
		}
		if column == "" {
			return nil
		}
		part := "    " + identifier(column) + " " + typ
		if collation != "" {
			part += " COLLATE " + qualified(collSchema, collation)
		}
		head := strings.TrimSuffix(o.sql[0], "\n)")
		if !strings.HasSuffix(head, "(") {
			head += ","
		}
		o.sql[0] = head + "\n" + part + "\n)"
		c.targets[columnRef(relation, number)] = "COLUMN " + full + "." + identifier(column)
		return nil
	})
}

func (c *catalogue) readDomains() error {
	err := c.each("domains", `SELECT t.oid, n.nspname::text, t.typname::text, format_type(t.typbasetype, t.typtypmod),
		coalesce(cn.nspname::text, ''), coalesce(co.collname::text, ''), coalesce(pg_get_expr(t.typdefaultbin, 'pg_type'::regclass), ''), t.typdefaultbin IS NOT NULL,
		t.typnotnull, coalesce((SELECT k.conname::text FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'n'), '')
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_type b ON b.oid = t.typbasetype
		LEFT JOIN pg_collation co ON co.oid = t.typcollation AND t.typcollation <> b.typcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
		WHERE t.oid = ANY($1)`, []any{c.ids("domain")}, func(row pgx.CollectableRow) error {
		var id uint32
		var schema, name, base, collSchema, collation, value, notNullName string
		var hasDefault, notNull bool
		if err := row.Scan(&id, &schema, &name, &base, &collSchema, &collation, &value, &hasDefault, &notNull, &notNullName); err != nil {
			return err
		}
		full := qualified(schema, name)
		sql := "CREATE DOMAIN " + full + " AS " + base
		if collation != "" {
			sql += " COLLATE " + qualified(collSchema, collation)
		}
		if hasDefault {
			sql += " DEFAULT " + value
		}
		if notNull {
			if notNullName != "" {
				sql += " CONSTRAINT " + identifier(notNullName)
			}
			sql += " NOT NULL"
		}
		e := c.all[ref{"pg_type", id}]
		c.add(e, rankType, full, sql)
		c.targets[e.ref] = "DOMAIN " + full
		return nil
	})
	if err != nil {
		return err
	}
	return c.each("constraints of domains", `SELECT k.oid, k.conname::text, n.nspname::text, t.typname::text, pg_get_constraintdef(k.oid), k.convalidated
		FROM pg_constraint k JOIN pg_type t ON t.oid = k.contypid JOIN pg_namespace n ON n.oid = t.typnamespace
		WHERE k.oid = ANY($1)`, []any{c.ids("check constraint")}, func(row pgx.CollectableRow) error {
		var id uint32
		var name, schema, domain, definition string
		var valid bool
		if err := row.Scan(&id, &name, &schema, &domain, &definition, &valid); err != nil {
			return err
		}
		full := qualified(schema, domain)
		e := c.all[ref{"pg_constraint", id}]
		r := rankCheck
		if !valid {
			r = rankLateCheck
		}
		c.add(e, r, full+" "+identifier(name), "ALTER DOMAIN "+full+" ADD CONSTRAINT "+identifier(name)+" "+definition)
		c.targets[e.ref] = "CONSTRAINT " + identifier(name) + " ON DOMAIN " + full
		return nil
	})
}

func (c *catalogue) readRanges() error {
	return c.each("range types", `SELECT t.oid, n.nspname::text, t.typname::text, format_type(r.rngsubtype, NULL),
		CASE WHEN oc.opcdefault THEN '' ELSE quote_ident(ocn.nspname) || '.' || quote_ident(oc.opcname) END,
		CASE WHEN r.rngcollation = s.typcollation OR r.rngcollation = 0 THEN '' ELSE quote_ident(cn.nspname) || '.' || quote_ident(co.collname) END,
		CASE WHEN r.rngsubdiff = 0 THEN '' ELSE r.rngsubdiff::regproc::text END, r.rngcanonical <> 0, quote_ident(mn.nspname) || '.' || quote_ident(m.typname)
		FROM pg_range r JOIN pg_type t ON t.oid = r.rngtypid JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_type s ON s.oid = r.rngsubtype
		JOIN pg_opclass oc ON oc.oid = r.rngsubopc JOIN pg_namespace ocn ON ocn.oid = oc.opcnamespace
		JOIN pg_type m ON m.oid = r.rngmultitypid JOIN pg_namespace mn ON mn.oid = m.typnamespace
		LEFT JOIN pg_collation co ON co.oid = r.rngcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
		WHERE t.oid = ANY($1)`, []any{c.ids("range type")}, func(row pgx.CollectableRow) error {
		var id uint32
		var schema, name, subtype, class, collation, diff, multirange string
		var canonical bool
		if err := row.Scan(&id, &schema, &name, &subtype, &class, &collation, &diff, &canonical, &multirange); err != nil {
			return err
		}
		e := c.all[ref{"pg_type", id}]
		if canonical {
			c.refuse("%s, which has a canonical function", e)
			return nil
		}
		options := []string{"subtype = " + subtype, "multirange_type_name = " + multirange}
		for _, o := range [][2]string{{"subtype_opclass", class}, {"collation", collation}, {"subtype_diff", diff}} {
			if o[1] != "" {
				options = append(options, o[0]+" = "+o[1])
			}
		}
		full := qualified(schema, name)
		c.add(e, rankType, full, "CREATE TYPE "+full+" AS RANGE (\n    "+strings.Join(options, ",\n    ")+"\n)")
		c.targets[e.ref] = "TYPE " + full
		return nil
	})
}
