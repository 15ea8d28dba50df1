package pgdump

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// firing are the words of ALTER TABLE for tgenabled and ev_enabled other than the usual O.
func firing(enabled string) string {
	return map[string]string{"D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}[enabled]
}

func (c *catalogue) readTriggers() error {
	return c.each("triggers", `SELECT t.oid, t.tgname::text, n.nspname::text, r.relname::text, pg_get_triggerdef(t.oid), t.tgenabled::text
		FROM pg_trigger t JOIN pg_class r ON r.oid = t.tgrelid JOIN pg_namespace n ON n.oid = r.relnamespace WHERE t.oid = ANY($1)`,
		[]any{c.ids("trigger")}, func(row pgx.CollectableRow) error {
			return c.addTrigger(row, "pg_trigger", rankTrigger, "TRIGGER")
		})
}

func (c *catalogue) readRules() error {
	return c.each("rules", `SELECT u.oid, u.rulename::text, n.nspname::text, r.relname::text, rtrim(pg_get_ruledef(u.oid), ';'), u.ev_enabled::text
		FROM pg_rewrite u JOIN pg_class r ON r.oid = u.ev_class JOIN pg_namespace n ON n.oid = r.relnamespace WHERE u.oid = ANY($1)`,
		[]any{c.ids("rule")}, func(row pgx.CollectableRow) error {
			return c.addTrigger(row, "pg_rewrite", rankRule, "RULE")
		})
}

func (c *catalogue) addTrigger(row pgx.CollectableRow, class string, r rank, word string) error {
	var id uint32
	var name, schema, relation, definition, enabled string
	if err := row.Scan(&id, &name, &schema, &relation, &definition, &enabled); err != nil {
		return err
	}
	full := qualified(schema, relation)
	e := c.all[ref{class, id}]
	o := c.add(e, r, full+" "+identifier(name), definition)
	if w := firing(enabled); w != "" {
		o.sql = append(o.sql, "ALTER TABLE "+full+" "+w+" "+word+" "+identifier(name))
	}
	c.targets[e.ref] = word + " " + identifier(name) + " ON " + full
	return nil
}

// readPolicies reads row security policies. One for roles that the restoring server lacks is left out with a warning:
// without it, row security lets fewer rows through, not more.
func (c *catalogue) readPolicies() error {
	return c.each("policies", `SELECT p.oid, p.polname::text, n.nspname::text, r.relname::text, p.polpermissive, p.polcmd::text,
		ARRAY(SELECT rolname::text FROM pg_roles WHERE oid = ANY(p.polroles) ORDER BY 1), 0 = ANY(p.polroles),
		coalesce(pg_get_expr(p.polqual, p.polrelid), ''), coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '')
		FROM pg_policy p JOIN pg_class r ON r.oid = p.polrelid JOIN pg_namespace n ON n.oid = r.relnamespace WHERE p.oid = ANY($1)`,
		[]any{c.ids("policy")}, func(row pgx.CollectableRow) error {
			var id uint32
			var name, schema, relation, command, using, check string
			var permissive, public bool
			var roles []string
			if err := row.Scan(&id, &name, &schema, &relation, &permissive, &command, &roles, &public, &using, &check); err != nil {
				return err
			}
			full := qualified(schema, relation)
			sql := "CREATE POLICY " + identifier(name) + " ON " + full
			if !permissive {
				sql += " AS RESTRICTIVE"
			}
			if w := map[string]string{"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE"}[command]; w != "" {
				sql += " FOR " + w
			}
			if !public {
				sql += " TO " + identifiers(roles)
			}
			if using != "" {
				sql += " USING (" + using + ")"
			}
			if check != "" {
				sql += " WITH CHECK (" + check + ")"
			}
			if !public {
				sql = ifRoles(roles, "policy "+identifier(name)+" on "+full, sql)
			}
			e := c.all[ref{"pg_policy", id}]
			c.add(e, rankPolicy, full+" "+identifier(name), sql)
			c.targets[e.ref] = "POLICY " + identifier(name) + " ON " + full
			return nil
		})
}

// ifRoles is a statement that runs only if all the roles exist and we may, and warns otherwise.
func ifRoles(roles []string, what string, statements ...string) string {
	var names []string
	for _, r := range roles {
		names = append(names, literal(r))
	}
	body := "BEGIN\n"
	if len(roles) > 0 {
		body += fmt.Sprintf("  IF (SELECT pg_catalog.count(*) FROM pg_catalog.pg_roles WHERE rolname IN (%s)) < %d THEN\n    RAISE WARNING '%%', %s;\n    RETURN;\n  END IF;\n",
			strings.Join(names, ", "), len(roles), literal(what+" left out: not all of its roles exist here: "+strings.Join(roles, ", ")))
	}
	for _, s := range statements {
		body += "  " + s + ";\n"
	}
	return doBlock(body + "EXCEPTION WHEN insufficient_privilege THEN\n  RAISE WARNING '%', " + literal(what+" left out: the restoring role may not do that") + ";\nEND")
}

func (c *catalogue) readStatistics() error {
	return c.each("statistics", `SELECT s.oid, quote_ident(n.nspname) || '.' || quote_ident(s.stxname), pg_get_statisticsobjdef(s.oid), coalesce(s.stxstattarget, -1)
		FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.oid = ANY($1)`, []any{c.ids("statistics")}, func(row pgx.CollectableRow) error {
		var id uint32
		var full, definition string
		var target int
		if err := row.Scan(&id, &full, &definition, &target); err != nil {
			return err
		}
		e := c.all[ref{"pg_statistic_ext", id}]
		o := c.add(e, rankStatistics, full, definition)
		if target >= 0 {
			o.sql = append(o.sql, fmt.Sprintf("ALTER STATISTICS %s SET STATISTICS %d", full, target))
		}
		c.targets[e.ref] = "STATISTICS " + full
		return nil
	})
}
