package pgdump

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// readViews reads views and materialised views. The latter are made empty, get their indexes and are filled last.
func (c *catalogue) readViews() error {
	ids := c.ids("view", "materialized view")
	columns, err := c.readColumns(ids)
	if err != nil {
		return err
	}
	return c.each("views", `SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, pg_get_viewdef(c.oid), c.reloptions, c.relispopulated,
		coalesce((SELECT reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid), '{}')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY($1)`, []any{ids}, func(row pgx.CollectableRow) error {
		var id uint32
		var schema, name, kind, definition string
		var options, toastOptions []string
		var filled bool
		if err := row.Scan(&id, &schema, &name, &kind, &definition, &options, &filled, &toastOptions); err != nil {
			return err
		}
		full := qualified(schema, name)
		e := c.all[ref{"pg_class", id}]
		with := strings.Join(append(storageOptions("", options), storageOptions("toast.", toastOptions)...), ", ")
		if with != "" {
			with = " WITH (" + with + ")"
		}
		definition = strings.TrimSuffix(strings.TrimSpace(definition), ";")
		for _, col := range columns[id] {
			c.targets[columnRef(id, col.number)] = "COLUMN " + full + "." + identifier(col.name)
		}
		if kind == "v" {
			c.add(e, rankView, full, "CREATE VIEW "+full+with+" AS\n"+definition)
			c.targets[e.ref] = "VIEW " + full
			return nil
		}
		sql := []string{"CREATE MATERIALIZED VIEW " + full + with + " AS\n" + definition + "\nWITH NO DATA"}
		for _, col := range columns[id] {
			for _, s := range col.settings(full) {
				sql = append(sql, strings.Replace(s, "ALTER TABLE ONLY", "ALTER MATERIALIZED VIEW", 1))
			}
		}
		c.add(e, rankView, full, sql...)
		c.targets[e.ref] = "MATERIALIZED VIEW " + full
		if filled {
			c.objects[ref{"refresh", id}] = &object{ref: ref{"refresh", id}, rank: rankRefresh, sort: full,
				label: "rows of materialized view " + full, needs: c.refreshNeeds(e.ref), sql: []string{"REFRESH MATERIALIZED VIEW " + full}}
		}
		return nil
	})
}

// refreshNeeds lists what a materialised view reads, through views, so that other materialised views are filled first.
func (c *catalogue) refreshNeeds(view ref) []ref {
	needs := []ref{view}
	seen := map[ref]bool{view: true}
	sources := map[ref][]ref{}
	for from, targets := range c.edges {
		if from.class == "pg_rewrite" {
			to := c.resolve(from)
			sources[to] = append(sources[to], targets...)
		}
	}
	for i := 0; i < len(needs); i++ {
		if e := c.all[needs[i]]; e == nil || e.kind != "view" && e.kind != "materialized view" {
			continue
		}
		for _, to := range sources[needs[i]] {
			if to = c.resolve(to); !seen[to] {
				seen[to] = true
				needs = append(needs, to)
			}
		}
	}
	for _, n := range needs[1:] {
		if e := c.all[n]; e != nil && e.kind == "materialized view" {
			needs = append(needs, ref{"refresh", n.id})
		}
	}
	return needs
}
