package pgdump

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// acl is the difference between what everybody may do with a new object and with this one.
type acl struct {
	target string              // TABLE "public"."x"
	column string              // of the table; "": all of it
	revoke bool                // PUBLIC lost what it has by default
	lost   []string            // what the owner took from itself
	roles  []string            // whom something was granted, in order; "": PUBLIC
	grants map[string][]string // by role; privileges that may be passed on end in *
}

// aclQuery lists, for every object with privileges other than the usual: key, column, grantee ("" for PUBLIC), whether
// it is the owner, privilege, whether it may be granted on, whether it is a usual one that is missing, place in the list.
const aclQuery = `
WITH o(class, oid, sub, col, acl, owner, kind) AS (
	SELECT 'pg_class', oid, 0, '', relacl, relowner, CASE WHEN relkind = 'S' THEN 's' ELSE 'r' END FROM pg_class WHERE relacl IS NOT NULL
	UNION ALL SELECT 'pg_class', c.oid, a.attnum, a.attname::text, a.attacl, c.relowner, 'c' FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
	UNION ALL SELECT 'pg_proc', oid, 0, '', proacl, proowner, 'f' FROM pg_proc WHERE proacl IS NOT NULL
	UNION ALL SELECT 'pg_type', oid, 0, '', typacl, typowner, 'T' FROM pg_type WHERE typacl IS NOT NULL
	UNION ALL SELECT 'pg_namespace', oid, 0, '', nspacl, nspowner, 'n' FROM pg_namespace WHERE nspacl IS NOT NULL)
SELECT class, o.oid, sub, col, coalesce(r.rolname::text, ''), x.grantee = o.owner, x.privilege_type::text, x.is_grantable, false, x.ordinality
	FROM o CROSS JOIN LATERAL aclexplode(o.acl) WITH ORDINALITY x LEFT JOIN pg_roles r ON r.oid = x.grantee
UNION ALL
SELECT class, o.oid, sub, col, '', x.grantee = o.owner, x.privilege_type::text, false, true, 0
	FROM o CROSS JOIN LATERAL aclexplode(acldefault(o.kind::"char", o.owner)) x
	WHERE NOT EXISTS (SELECT FROM aclexplode(o.acl) y WHERE y.grantee = x.grantee AND y.privilege_type = x.privilege_type)
ORDER BY 1, 2, 3, 10`

// grantStatements says who may do what. They come last: nothing that is restored needs them.
func (c *catalogue) grantStatements() ([]*object, error) {
	type key struct {
		ref
		sub int
	}
	lists := map[key]*acl{}
	err := c.each("privileges", aclQuery, nil, func(row pgx.CollectableRow) error {
		var k key
		var column, role, privilege string
		var owner, grantable, missing bool
		var place int
		if err := row.Scan(&k.class, &k.id, &k.sub, &column, &role, &owner, &privilege, &grantable, &missing, &place); err != nil {
			return err
		}
		target := c.targets[k.ref]
		if c.selected[k.ref] == nil || c.objects[c.resolve(k.ref)] == nil || target == "" {
			return nil
		}
		a := lists[k]
		if a == nil {
			for _, view := range []string{"VIEW ", "MATERIALIZED VIEW "} {
				if rest, ok := strings.CutPrefix(target, view); ok {
					target = "TABLE " + rest
				}
			}
			a = &acl{target: target, column: column, grants: map[string][]string{}}
			lists[k] = a
		}
		switch {
		case missing && owner:
			a.lost = append(a.lost, privilege)
		case missing:
			a.revoke = true
		case owner:
		default:
			if grantable {
				privilege += "*"
			}
			if a.grants[role] == nil {
				a.roles = append(a.roles, role)
			}
			a.grants[role] = append(a.grants[role], privilege)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var made []*object
	for _, k := range slices.SortedFunc(maps.Keys(lists), func(a, b key) int {
		return strings.Compare(fmt.Sprintf("%s %09d", lists[a].target, a.sub), fmt.Sprintf("%s %09d", lists[b].target, b.sub))
	}) {
		made = append(made, lists[k].object(k.class == "pg_namespace"))
	}
	defaults, err := c.defaultPrivileges()
	return append(made, defaults...), err
}

func (a *acl) object(schema bool) *object {
	o := &object{label: "privileges of " + a.target}
	on := " ON " + a.target
	list := func(privileges []string, grantable bool) string {
		var some []string
		for _, p := range privileges {
			p, star := strings.CutSuffix(p, "*")
			if star != grantable {
				continue
			}
			if a.column != "" {
				p += " (" + identifier(a.column) + ")"
			}
			some = append(some, p)
		}
		return strings.Join(some, ", ")
	}
	add := func(roles []string, statement string) {
		o.sql = append(o.sql, ifRoles(roles, o.label, statement))
	}
	// A new schema "public" lets PUBLIC use it, any other lets nobody.
	if a.revoke || schema && a.target == `SCHEMA "public"` && !slices.Contains(a.grants[""], "USAGE") {
		add(nil, "REVOKE ALL"+on+" FROM PUBLIC")
	}
	if len(a.lost) > 0 && !schema {
		add(nil, "REVOKE "+list(a.lost, false)+on+" FROM CURRENT_USER")
	}
	for _, role := range a.roles {
		to, roles := " TO PUBLIC", []string(nil)
		if role != "" {
			to, roles = " TO "+identifier(role), []string{role}
		}
		if l := list(a.grants[role], false); l != "" {
			add(roles, "GRANT "+l+on+to)
		}
		if l := list(a.grants[role], true); l != "" {
			add(roles, "GRANT "+l+on+to+" WITH GRANT OPTION")
		}
	}
	return o
}

// defaultPrivileges reads what roles have decided about objects that are made later in the dumped schemas.
func (c *catalogue) defaultPrivileges() ([]*object, error) {
	var made []*object
	err := c.each("default privileges", `SELECT d.defaclrole::regrole::text, r.rolname::text, n.nspname::text, d.defaclobjtype::text, coalesce(g.rolname::text, ''),
		x.privilege_type::text, x.is_grantable
		FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace JOIN pg_roles r ON r.oid = d.defaclrole
		CROSS JOIN LATERAL aclexplode(d.defaclacl) x LEFT JOIN pg_roles g ON g.oid = x.grantee
		WHERE n.oid = ANY($1) ORDER BY 2, 3, 4, 5, 6`, []any{c.ids("schema")}, func(row pgx.CollectableRow) error {
		var quoted, role, schema, kind, grantee, privilege string
		var grantable bool
		if err := row.Scan(&quoted, &role, &schema, &kind, &grantee, &privilege, &grantable); err != nil {
			return err
		}
		on, ok := map[string]string{"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES"}[kind]
		if !ok {
			return fmt.Errorf("default privileges of the unknown kind %q", kind)
		}
		to, roles := "PUBLIC", []string{role}
		if grantee != "" {
			to, roles = identifier(grantee), append(roles, grantee)
		}
		slices.Sort(roles)
		s := "ALTER DEFAULT PRIVILEGES FOR ROLE " + quoted + " IN SCHEMA " + identifier(schema) + " GRANT " + privilege + " ON " + on + " TO " + to
		if grantable {
			s += " WITH GRANT OPTION"
		}
		label := "default privileges of schema " + identifier(schema)
		made = append(made, &object{label: label, sql: []string{ifRoles(slices.Compact(roles), label, s)}})
		return nil
	})
	return made, err
}
