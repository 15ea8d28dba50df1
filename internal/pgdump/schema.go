package pgdump

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// readSchemas reads the schemas of everything selected, and the extensions.
func (c *catalogue) readSchemas() error {
	used := map[string]bool{}
	for _, e := range c.selected {
		used[e.schema] = true
	}
	err := c.each("extensions", `SELECT e.oid, e.extname::text, n.nspname::text, coalesce(e.extconfig <> '{}', false)
		FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.oid = ANY($1)`, []any{c.ids("extension")}, func(row pgx.CollectableRow) error {
		var id uint32
		var name, schema string
		var config bool
		if err := row.Scan(&id, &name, &schema, &config); err != nil {
			return err
		}
		e := c.all[ref{"pg_extension", id}]
		if config {
			c.refuse("%s, whose own tables may hold data", e)
		}
		used[schema] = true
		o := c.add(e, rankExtension, identifier(name), `CREATE EXTENSION IF NOT EXISTS `+identifier(name)+` WITH SCHEMA `+identifier(schema))
		c.targets[e.ref] = "EXTENSION " + identifier(name)
		for r, s := range c.all {
			if s.kind == "schema" && s.name == schema {
				o.needs = append(o.needs, r)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for r, e := range c.all {
		if e.kind != "schema" || !used[e.name] && c.selected[r] == nil {
			continue
		}
		if c.selected[r] == nil && c.members[r] != 0 {
			continue
		}
		c.selected[r] = e
		// CREATE SCHEMA IF NOT EXISTS asks for the right to make schemas even when there is nothing to make.
		o := c.add(e, rankSchema, identifier(e.name), doBlock(fmt.Sprintf(
			"BEGIN\n  IF pg_catalog.to_regnamespace(%s) IS NULL THEN\n    CREATE SCHEMA %s;\n  END IF;\nEND", literal(identifier(e.name)), identifier(e.name))))
		o.label = "schema " + identifier(e.name)
		c.targets[r] = "SCHEMA " + identifier(e.name)
	}
	return nil
}

// doBlock is a DO statement with a body that may hold any text.
func doBlock(body string) string {
	tag := "$do$"
	for i := 0; strings.Contains(body, tag); i++ {
		tag = fmt.Sprintf("$do%d$", i)
	}
	return "DO " + tag + "\n" + body + "\n" + tag
}

func (c *catalogue) readCollations() error {
	locale, rules := "c.colliculocale", "NULL"
	if c.version >= 160000 {
		rules = "c.collicurules"
	}
	if c.version >= 170000 {
		locale = "c.colllocale"
	}
	return c.each("collations", `SELECT c.oid, n.nspname::text, c.collname::text, c.collprovider::text, c.collisdeterministic,
		coalesce(c.collcollate, ''), coalesce(c.collctype, ''), coalesce(`+locale+`, ''), coalesce(`+rules+`, '')
		FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE c.oid = ANY($1)`, []any{c.ids("collation")}, func(row pgx.CollectableRow) error {
		var id uint32
		var schema, name, provider, collate, ctype, locale, rules string
		var deterministic bool
		if err := row.Scan(&id, &schema, &name, &provider, &deterministic, &collate, &ctype, &locale, &rules); err != nil {
			return err
		}
		e := c.all[ref{"pg_collation", id}]
		var options []string
		switch provider {
		case "i":
			options = []string{"provider = icu", "locale = " + literal(locale)}
		case "b":
			options = []string{"provider = builtin", "locale = " + literal(locale)}
		case "c":
			options = []string{"provider = libc", "lc_collate = " + literal(collate), "lc_ctype = " + literal(ctype)}
		default:
			c.refuse("%s of provider %q", e, provider)
			return nil
		}
		if rules != "" {
			options = append(options, "rules = "+literal(rules))
		}
		if !deterministic {
			options = append(options, "deterministic = false")
		}
		full := qualified(schema, name)
		c.add(e, rankCollation, full, `CREATE COLLATION `+full+` (`+strings.Join(options, ", ")+`)`)
		c.targets[e.ref] = "COLLATION " + full
		return nil
	})
}
