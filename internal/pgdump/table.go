package pgdump

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// table is a table whose rows are dumped.
type table struct {
	ref
	schema, name string
	columns      []string // those that COPY takes
	bytes        int64    // with TOAST, estimated
	pages        int64    // of the table alone
	number       int      // in the names of data files
	chunks       int      // files so far
}

// column is a column as CREATE TABLE says it.
type column struct {
	number                        int
	name, typ, collation          string
	notNull                       bool
	notNullName                   string // PostgreSQL 18: it is a constraint with a name
	notNullNoInherit, notNullLate bool
	identity, generated, value    string
	storage, compression          string
	statistics                    int
	options                       []string
}

// columnRef is the key of a column among comment targets.
func columnRef(relation uint32, number int) ref {
	return ref{"column " + strconv.Itoa(number), relation}
}

func (c *catalogue) hasTable(name string) bool {
	return slices.ContainsFunc(c.tables, func(t *table) bool { return c.fullName(t) == name })
}

// fullName is how Filters and Report.Rows call a table.
func (c *catalogue) fullName(t *table) string {
	if t.schema == c.schema {
		return t.name
	}
	return t.schema + "." + t.name
}

func (c *catalogue) readTables() error {
	blocks := `(pg_relation_size(c.oid) / current_setting('block_size')::int)`
	type shape struct {
		table
		persistence, identity string
		options, toastOptions []string
		secured, forced       bool
		tablespace            string
	}
	var shapes []shape
	ids := c.ids("table")
	err := c.each("tables", `SELECT c.oid, n.nspname::text, c.relname::text, c.relpersistence::text, c.relreplident::text, c.reloptions, t.reloptions,
		c.relrowsecurity, c.relforcerowsecurity, coalesce(s.spcname::text, ''), pg_table_size(c.oid), `+blocks+`
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_class t ON t.oid = c.reltoastrelid LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
		WHERE c.oid = ANY($1) ORDER BY n.nspname, c.relname`, []any{ids}, func(row pgx.CollectableRow) error {
		s := shape{table: table{ref: ref{class: "pg_class"}}}
		if err := row.Scan(&s.id, &s.schema, &s.name, &s.persistence, &s.identity, &s.options, &s.toastOptions,
			&s.secured, &s.forced, &s.tablespace, &s.bytes, &s.pages); err != nil {
			return err
		}
		shapes = append(shapes, s)
		return nil
	})
	if err != nil {
		return err
	}
	for i := range shapes {
		shapes[i].number = i + 1
		c.tables = append(c.tables, &shapes[i].table)
	}
	if err := c.lock(c.ctx, false, c.tables...); err != nil {
		return err
	}
	columns, err := c.readColumns(ids)
	if err != nil {
		return err
	}
	for i := range shapes {
		s := &shapes[i]
		full := qualified(s.schema, s.name)
		e := c.all[s.ref]
		sql := "CREATE TABLE "
		if s.persistence == "u" {
			sql = "CREATE UNLOGGED TABLE "
		}
		var lines, after []string
		for _, col := range columns[s.id] {
			lines = append(lines, "    "+col.definition())
			after = append(after, col.settings(full)...)
			if col.generated == "" {
				s.columns = append(s.columns, col.name)
			}
			c.targets[columnRef(s.id, col.number)] = "COLUMN " + full + "." + identifier(col.name)
			c.addLateNotNull(s.id, full, col)
		}
		sql += full + " (\n" + strings.Join(lines, ",\n") + "\n)"
		if with := append(storageOptions("", s.options), storageOptions("toast.", s.toastOptions)...); len(with) > 0 {
			sql += "\nWITH (" + strings.Join(with, ", ") + ")"
		}
		switch s.identity {
		case "n":
			after = append(after, "ALTER TABLE ONLY "+full+" REPLICA IDENTITY NOTHING")
		case "f":
			after = append(after, "ALTER TABLE ONLY "+full+" REPLICA IDENTITY FULL")
		}
		c.add(e, rankTable, full, append([]string{sql}, after...)...)
		c.targets[s.ref] = "TABLE " + full
		if s.tablespace != "" {
			c.notes = append(c.notes, fmt.Sprintf("table %q was in tablespace %q, which is not kept", s.schema+"."+s.name, s.tablespace))
		}
		c.addRowSecurity(s.id, full, s.secured, s.forced)
	}
	return nil
}

// addLateNotNull adds a NOT NULL that was never checked against the rows.
func (c *catalogue) addLateNotNull(id uint32, full string, col *column) {
	if !col.notNullLate {
		return
	}
	sql := "ALTER TABLE " + full + " ADD CONSTRAINT " + identifier(col.notNullName) + " NOT NULL " + identifier(col.name)
	if col.notNullNoInherit {
		sql += " NO INHERIT"
	}
	r := ref{"not null " + strconv.Itoa(col.number), id}
	c.objects[r] = &object{ref: r, rank: rankLateCheck, sort: full, label: "not null of " + full, needs: []ref{{"pg_class", id}}, sql: []string{sql + " NOT VALID"}}
}

// addRowSecurity adds an object of its own, because policies are the last thing that a table gets.
func (c *catalogue) addRowSecurity(id uint32, full string, secured, forced bool) {
	o := &object{ref: ref{"row security", id}, rank: rankPolicy, sort: full, label: "row security of " + full, needs: []ref{{"pg_class", id}}}
	if secured {
		o.sql = append(o.sql, "ALTER TABLE "+full+" ENABLE ROW LEVEL SECURITY")
	}
	if forced {
		o.sql = append(o.sql, "ALTER TABLE ONLY "+full+" FORCE ROW LEVEL SECURITY")
	}
	if len(o.sql) > 0 {
		c.objects[o.ref] = o
	}
}

func (c *catalogue) readColumns(ids []uint32) (map[uint32][]*column, error) {
	notNull, join := "''::text, false, false", ""
	if c.version >= 180000 {
		notNull = "coalesce(k.conname::text, ''), coalesce(k.connoinherit, false), NOT coalesce(k.convalidated, true)"
		join = "LEFT JOIN pg_constraint k ON k.conrelid = a.attrelid AND k.contype = 'n' AND k.conkey[1] = a.attnum"
	}
	columns := map[uint32][]*column{}
	err := c.each("columns", `SELECT a.attrelid, a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod),
		coalesce(quote_ident(cn.nspname) || '.' || quote_ident(co.collname), ''), a.attnotnull, `+notNull+`, a.attidentity::text, a.attgenerated::text,
		CASE WHEN a.attgenerated <> '' THEN coalesce(pg_get_expr(d.adbin, d.adrelid), '') ELSE '' END,
		CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage::text ELSE '' END, a.attcompression::text, coalesce(a.attstattarget, -1), a.attoptions
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		LEFT JOIN pg_collation co ON co.oid = a.attcollation AND a.attcollation <> t.typcollation LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
		`+join+` WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum`, []any{ids}, func(row pgx.CollectableRow) error {
		var id uint32
		var col column
		if err := row.Scan(&id, &col.number, &col.name, &col.typ, &col.collation, &col.notNull, &col.notNullName, &col.notNullNoInherit, &col.notNullLate,
			&col.identity, &col.generated, &col.value, &col.storage, &col.compression, &col.statistics, &col.options); err != nil {
			return err
		}
		columns[id] = append(columns[id], &col)
		return nil
	})
	return columns, err
}

func (col *column) definition() string {
	s := identifier(col.name) + " " + col.typ
	if col.collation != "" {
		s += " COLLATE " + col.collation
	}
	switch col.generated {
	case "s":
		s += " GENERATED ALWAYS AS (" + col.value + ") STORED"
	case "v":
		s += " GENERATED ALWAYS AS (" + col.value + ") VIRTUAL"
	}
	if !col.notNull || col.notNullLate {
		return s
	}
	if col.notNullName != "" {
		s += " CONSTRAINT " + identifier(col.notNullName)
	}
	s += " NOT NULL"
	if col.notNullNoInherit {
		s += " NO INHERIT"
	}
	return s
}

// settings are the statements for what CREATE TABLE cannot say about a column.
func (col *column) settings(full string) []string {
	alter := "ALTER TABLE ONLY " + full + " ALTER COLUMN " + identifier(col.name)
	var all []string
	if w, ok := map[string]string{"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}[col.storage]; ok {
		all = append(all, alter+" SET STORAGE "+w)
	}
	if w, ok := map[string]string{"p": "pglz", "l": "lz4"}[col.compression]; ok {
		all = append(all, alter+" SET COMPRESSION "+w)
	}
	if col.statistics >= 0 {
		all = append(all, fmt.Sprintf("%s SET STATISTICS %d", alter, col.statistics))
	}
	if len(col.options) > 0 {
		all = append(all, alter+" SET ("+strings.Join(storageOptions("", col.options), ", ")+")")
	}
	return all
}

// storageOptions turns reloptions ("fillfactor=70") into what WITH takes.
func storageOptions(prefix string, options []string) []string {
	var all []string
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		all = append(all, prefix+identifier(name)+"="+literal(value))
	}
	return all
}

// readDefaults reads the defaults of columns of tables and views; those of generated columns stand in CREATE TABLE.
func (c *catalogue) readDefaults() error {
	return c.each("defaults", `SELECT d.oid, d.adrelid, n.nspname::text, r.relname::text, a.attname::text, pg_get_expr(d.adbin, d.adrelid)
		FROM pg_attrdef d JOIN pg_class r ON r.oid = d.adrelid JOIN pg_namespace n ON n.oid = r.relnamespace
		JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.oid = ANY($1) AND a.attgenerated = ''`,
		[]any{c.ids("default")}, func(row pgx.CollectableRow) error {
			var id, relation uint32
			var schema, name, column, value string
			if err := row.Scan(&id, &relation, &schema, &name, &column, &value); err != nil {
				return err
			}
			full := qualified(schema, name)
			o := c.add(c.all[ref{"pg_attrdef", id}], rankDefault, full+"."+identifier(column),
				"ALTER TABLE ONLY "+full+" ALTER COLUMN "+identifier(column)+" SET DEFAULT "+value)
			o.needs = []ref{{"pg_class", relation}}
			return nil
		})
}
