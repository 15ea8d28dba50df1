package pgdump

import (
	"fmt"

	"github.com/jackc/pgx/v5"
)

// refuseDetails looks for properties of known objects that a dump cannot hold.
func (c *catalogue) refuseDetails() error {
	tables := c.ids("table", "materialized view", "view", "sequence", "index")
	for _, q := range []struct{ why, query string }{
		{"%s, which inherits or is inherited from", `SELECT inhrelid FROM pg_inherits WHERE inhrelid = ANY($1) UNION SELECT inhparent FROM pg_inherits WHERE inhparent = ANY($1)`},
		{"%s, which is a table of a type", `SELECT oid FROM pg_class WHERE oid = ANY($1) AND reloftype <> 0`},
		{"%s, which has another access method than heap", `SELECT c.oid FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = ANY($1) AND c.relkind IN ('r', 'm') AND a.amname <> 'heap'`},
		{"%s, which has a security label", `SELECT objoid FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = ANY($1)`},
	} {
		if err := c.refuseAll("pg_class", q.why, q.query, tables); err != nil {
			return err
		}
	}
	routines := c.ids("function", "procedure", "window function")
	if err := c.refuseAll("pg_proc", "%s, which has a security label", `SELECT objoid FROM pg_seclabel WHERE classoid = 'pg_proc'::regclass AND objoid = ANY($1)`, routines); err != nil {
		return err
	}
	if err := c.refuseAll("pg_type", "%s, which has a security label", `SELECT objoid FROM pg_seclabel WHERE classoid = 'pg_type'::regclass AND objoid = ANY($1)`,
		c.ids("enum type", "composite type", "domain", "range type")); err != nil {
		return err
	}
	return nil
}

func (c *catalogue) refuseAll(class, why, query string, ids []uint32) error {
	return c.each("what cannot be dumped", query, []any{ids}, func(row pgx.CollectableRow) error {
		var id uint32
		if err := row.Scan(&id); err != nil {
			return err
		}
		c.refuse("%s", fmt.Sprintf(why, c.all[ref{class, id}]))
		return nil
	})
}
