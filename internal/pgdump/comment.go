package pgdump

import (
	"fmt"

	"github.com/jackc/pgx/v5"
)

// readComments gives objects their comments. The comment of an extension or schema is set only if it differs from the
// usual one, and may fail, because the restoring role may not own what was there before.
func (c *catalogue) readComments() error {
	usual := map[string]string{`SCHEMA "public"`: "standard public schema"}
	err := c.each("comments of extensions", `SELECT name::text, coalesce(comment, '') FROM pg_available_extensions WHERE installed_version IS NOT NULL`, nil, func(row pgx.CollectableRow) error {
		var name, comment string
		if err := row.Scan(&name, &comment); err != nil {
			return err
		}
		usual["EXTENSION "+identifier(name)] = comment
		return nil
	})
	if err != nil {
		return err
	}
	return c.each("comments", `SELECT classoid::regclass::text, objoid, objsubid, description FROM pg_description WHERE objoid >= 16384 OR classoid = 'pg_namespace'::regclass
		ORDER BY 1, 2, 3`, nil, func(row pgx.CollectableRow) error {
		var of ref
		var sub int
		var text string
		if err := row.Scan(&of.class, &of.id, &sub, &text); err != nil {
			return err
		}
		e := c.selected[of]
		o := c.objects[c.resolve(of)]
		if o == nil || c.members[of] != 0 {
			return nil
		}
		key := of
		if sub > 0 {
			key = columnRef(of.id, sub)
		}
		target := c.targets[key]
		switch {
		case target == "" && e != nil && e.kind == "not null constraint":
			on := c.targets[e.parent]
			if e.parent.class == "pg_class" {
				on = on[len("TABLE "):]
			}
			target = "CONSTRAINT " + identifier(e.name) + " ON " + on
		case target == "":
			return fmt.Errorf("nobody said how to comment on %s", o.label)
		}
		statement := "COMMENT ON " + target + " IS " + literal(text)
		if of.class == "pg_extension" || of.class == "pg_namespace" {
			if usual[target] == text {
				return nil
			}
			statement = ifRoles(nil, "comment on "+target, statement)
		}
		o.sql = append(o.sql, statement)
		return nil
	})
}
