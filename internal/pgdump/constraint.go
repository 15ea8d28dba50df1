package pgdump

import (
	"fmt"

	"github.com/jackc/pgx/v5"
)

// readConstraints reads the constraints of tables that have an object of their own; NOT NULL stands in CREATE TABLE.
func (c *catalogue) readConstraints() error {
	ids := c.ids("primary key", "unique constraint", "exclusion constraint", "check constraint", "foreign key")
	return c.each("constraints", `SELECT k.oid, k.contype::text, k.conname::text, n.nspname::text, r.relname::text, pg_get_constraintdef(k.oid), k.convalidated,
		k.conindid, i.reloptions
		FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
		LEFT JOIN pg_class i ON i.oid = k.conindid AND k.contype IN ('p', 'u', 'x')
		WHERE k.oid = ANY($1)`, []any{ids}, func(row pgx.CollectableRow) error {
		var id, index uint32
		var kind, name, schema, relation, definition string
		var valid bool
		var options []string
		if err := row.Scan(&id, &kind, &name, &schema, &relation, &definition, &valid, &index, &options); err != nil {
			return err
		}
		full := qualified(schema, relation)
		e := c.all[ref{"pg_constraint", id}]
		r := map[string]rank{"p": rankIndex, "u": rankIndex, "x": rankIndex, "c": rankCheck, "f": rankForeignKey}[kind]
		if kind == "c" && !valid {
			r = rankLateCheck
		}
		o := c.add(e, r, full+" "+identifier(name), "ALTER TABLE ONLY "+full+" ADD CONSTRAINT "+identifier(name)+" "+definition)
		c.targets[e.ref] = "CONSTRAINT " + identifier(name) + " ON " + full
		if r == rankIndex {
			o.table, o.sort = full, indexSort(full, index)
			o.sql = append(o.sql, indexOptions(qualified(schema, name), options)...)
			c.targets[ref{"pg_class", index}] = "INDEX " + qualified(schema, name)
		}
		return nil
	})
}

// indexSort keeps the order in which a table's indexes were made: where several fit, a foreign key uses the first.
func indexSort(table string, id uint32) string { return fmt.Sprintf("%s %010d", table, id) }

func indexOptions(full string, options []string) []string {
	var all []string
	for _, o := range storageOptions("", options) {
		all = append(all, "ALTER INDEX "+full+" SET ("+o+")")
	}
	return all
}

// readIndexes reads the indexes that no constraint makes, and for all what CREATE INDEX does not say.
func (c *catalogue) readIndexes() error {
	err := c.each("indexes", `SELECT i.indexrelid, i.indrelid, n.nspname::text, x.relname::text, r.relname::text, pg_get_indexdef(i.indexrelid),
		i.indisvalid AND i.indisready, i.indisclustered, i.indisreplident, r.relkind::text, coalesce(s.spcname::text, '')
		FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class r ON r.oid = i.indrelid JOIN pg_namespace n ON n.oid = r.relnamespace
		LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace
		WHERE i.indexrelid = ANY($1)`, []any{c.ids("index")}, func(row pgx.CollectableRow) error {
		var id, relation uint32
		var schema, name, on, definition, kind, tablespace string
		var valid, clustered, replica bool
		if err := row.Scan(&id, &relation, &schema, &name, &on, &definition, &valid, &clustered, &replica, &kind, &tablespace); err != nil {
			return err
		}
		full, table := qualified(schema, name), qualified(schema, on)
		e := c.all[ref{"pg_class", id}]
		o := c.objects[c.resolve(e.ref)]
		if o == nil {
			if !valid {
				c.notes = append(c.notes, fmt.Sprintf("index %q is not valid (left by an interrupted CREATE INDEX CONCURRENTLY?) and is not kept", schema+"."+name))
				return nil
			}
			o = c.add(e, rankIndex, table+" "+full, definition)
			o.table, o.sort = table, indexSort(table, id)
			o.needs = []ref{{"pg_class", relation}}
			c.targets[e.ref] = "INDEX " + full
		}
		if tablespace != "" {
			c.notes = append(c.notes, fmt.Sprintf("index %q was in tablespace %q, which is not kept", schema+"."+name, tablespace))
		}
		if clustered {
			alter := "ALTER TABLE "
			if kind == "m" {
				alter = "ALTER MATERIALIZED VIEW "
			}
			o.sql = append(o.sql, alter+table+" CLUSTER ON "+identifier(name))
		}
		if replica {
			o.sql = append(o.sql, "ALTER TABLE ONLY "+table+" REPLICA IDENTITY USING INDEX "+identifier(name))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.each("statistics targets of indexes", `SELECT a.attrelid, a.attnum, a.attstattarget, quote_ident(n.nspname) || '.' || quote_ident(x.relname)
		FROM pg_attribute a JOIN pg_class x ON x.oid = a.attrelid JOIN pg_namespace n ON n.oid = x.relnamespace
		WHERE a.attrelid = ANY($1) AND a.attstattarget >= 0 ORDER BY 1, 2`, []any{c.ids("index")}, func(row pgx.CollectableRow) error {
		var id uint32
		var number, target int
		var full string
		if err := row.Scan(&id, &number, &target, &full); err != nil {
			return err
		}
		if o := c.objects[c.resolve(ref{"pg_class", id})]; o != nil {
			o.sql = append(o.sql, fmt.Sprintf("ALTER INDEX %s ALTER COLUMN %d SET STATISTICS %d", full, number, target))
		}
		return nil
	})
}
