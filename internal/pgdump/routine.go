package pgdump

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

func (c *catalogue) readRoutines() error {
	return c.each("functions", `SELECT p.oid, n.nspname::text, p.proname::text, p.prokind::text, pg_get_function_identity_arguments(p.oid), pg_get_functiondef(p.oid)
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = ANY($1)`,
		[]any{c.ids("function", "procedure", "window function")}, func(row pgx.CollectableRow) error {
			var id uint32
			var schema, name, kind, arguments, definition string
			if err := row.Scan(&id, &schema, &name, &kind, &arguments, &definition); err != nil {
				return err
			}
			signature := qualified(schema, name) + "(" + arguments + ")"
			e := c.all[ref{"pg_proc", id}]
			c.add(e, rankRoutine, signature, strings.TrimRight(definition, "\n"))
			word := "FUNCTION "
			if kind == "p" {
				word = "PROCEDURE "
			}
			c.targets[e.ref] = word + signature
			return nil
		})
}
