package pgdump

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/problem"
)

// ref names an object as pg_depend does: the catalog and the row in it.
type ref struct {
	class string // pg_class, pg_proc, ...
	id    uint32
}

// entry is an object of the database, known by name only.
type entry struct {
	ref
	kind         string // as inventory's queries say it
	schema, name string
	parent       ref // of constraints, indexes, triggers ...: the table or type
}

func (e *entry) String() string {
	switch {
	case e.parent.id != 0 || e.schema == "":
		return fmt.Sprintf("%s %q", e.kind, e.name)
	default:
		return fmt.Sprintf("%s %q", e.kind, e.schema+"."+e.name)
	}
}

// catalogue collects everything a dump says about a scope but its rows.
type catalogue struct {
	ctx context.Context
	*reader
	schema, prefix string
	whole          bool

	all      map[ref]*entry
	members  map[ref]uint32 // objects that belong to extensions
	edges    map[ref][]ref  // pg_depend, of user objects on user objects
	alias    map[ref]ref    // row types, array types, view rules ...: the object that makes them
	selected map[ref]*entry

	objects map[ref]*object
	targets map[ref]string // how COMMENT ON names an object
	tables  []*table
	notes   []string
	refused []string
}

// understood are the kinds that a dump can hold. Every other kind in scope is an error.
func understood(kind string) bool {
	return slices.Contains([]string{"table", "view", "materialized view", "sequence", "index", "composite type", "domain", "enum type",
		"range type", "function", "procedure", "window function", "primary key", "unique constraint", "exclusion constraint",
		"check constraint", "foreign key", "not null constraint", "constraint trigger", "default", "rule", "trigger", "policy",
		"statistics", "collation", "schema", "extension"}, kind)
}

const userSchemas = `n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`

// inventoryQuery lists catalog, oid, kind, schema, name, catalog and oid of the parent. Objects without a schema come
// last; they matter only to dumps of whole databases.
const inventoryQuery = `
SELECT 'pg_class', c.oid, CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
	WHEN 'i' THEN 'index' WHEN 'p' THEN 'partitioned table' WHEN 'I' THEN 'partitioned index' WHEN 'f' THEN 'foreign table' ELSE 'relation of kind ' || c.relkind::text END,
	n.nspname::text, c.relname::text, 'pg_class', coalesce(i.indrelid, 0)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid
	WHERE c.relkind NOT IN ('t', 'c') AND c.relpersistence <> 't' AND ` + userSchemas + `
UNION ALL
SELECT 'pg_type', t.oid, CASE t.typtype WHEN 'c' THEN 'composite type' WHEN 'd' THEN 'domain' WHEN 'e' THEN 'enum type' WHEN 'r' THEN 'range type' ELSE 'base type' END,
	n.nspname::text, t.typname::text, '', 0
	FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
	WHERE t.typtype <> 'm' AND (t.typtype <> 'c' OR (SELECT relkind FROM pg_class WHERE oid = t.typrelid) = 'c')
	AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid) AND ` + userSchemas + `
UNION ALL
SELECT 'pg_proc', p.oid, CASE p.prokind WHEN 'f' THEN 'function' WHEN 'p' THEN 'procedure' WHEN 'w' THEN 'window function' ELSE 'aggregate' END,
	n.nspname::text, p.proname::text, '', 0 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
	WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'i') AND ` + userSchemas + `
UNION ALL
SELECT 'pg_constraint', oid, CASE contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique constraint' WHEN 'x' THEN 'exclusion constraint' WHEN 'c' THEN 'check constraint'
	WHEN 'f' THEN 'foreign key' WHEN 'n' THEN 'not null constraint' WHEN 't' THEN 'constraint trigger' ELSE 'constraint of kind ' || contype::text END,
	'', conname::text, CASE WHEN conrelid <> 0 THEN 'pg_class' ELSE 'pg_type' END, CASE WHEN conrelid <> 0 THEN conrelid ELSE contypid END FROM pg_constraint
UNION ALL
SELECT 'pg_attrdef', oid, 'default', '', '', 'pg_class', adrelid FROM pg_attrdef
UNION ALL
SELECT 'pg_rewrite', oid, 'rule', '', rulename::text, 'pg_class', ev_class FROM pg_rewrite WHERE rulename <> '_RETURN'
UNION ALL
SELECT 'pg_trigger', oid, 'trigger', '', tgname::text, 'pg_class', tgrelid FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'pg_policy', oid, 'policy', '', polname::text, 'pg_class', polrelid FROM pg_policy
UNION ALL
SELECT 'pg_statistic_ext', oid, 'statistics', '', stxname::text, 'pg_class', stxrelid FROM pg_statistic_ext
UNION ALL
SELECT 'pg_collation', c.oid, 'collation', n.nspname::text, collname::text, '', 0 FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_operator', o.oid, 'operator', n.nspname::text, oprname::text, '', 0 FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_opclass', o.oid, 'operator class', n.nspname::text, opcname::text, '', 0 FROM pg_opclass o JOIN pg_namespace n ON n.oid = o.opcnamespace WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_opfamily', o.oid, 'operator family', n.nspname::text, opfname::text, '', 0 FROM pg_opfamily o JOIN pg_namespace n ON n.oid = o.opfnamespace WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_conversion', c.oid, 'conversion', n.nspname::text, conname::text, '', 0 FROM pg_conversion c JOIN pg_namespace n ON n.oid = c.connamespace WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_ts_config', t.oid, 'text search configuration', n.nspname::text, cfgname::text, '', 0 FROM pg_ts_config t JOIN pg_namespace n ON n.oid = t.cfgnamespace WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_ts_dict', t.oid, 'text search dictionary', n.nspname::text, dictname::text, '', 0 FROM pg_ts_dict t JOIN pg_namespace n ON n.oid = t.dictnamespace WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_ts_parser', t.oid, 'text search parser', n.nspname::text, prsname::text, '', 0 FROM pg_ts_parser t JOIN pg_namespace n ON n.oid = t.prsnamespace WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_ts_template', t.oid, 'text search template', n.nspname::text, tmplname::text, '', 0 FROM pg_ts_template t JOIN pg_namespace n ON n.oid = t.tmplnamespace WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_namespace', n.oid, 'schema', n.nspname::text, n.nspname::text, '', 0 FROM pg_namespace n WHERE ` + userSchemas + `
UNION ALL
SELECT 'pg_extension', oid, 'extension', '', extname::text, '', 0 FROM pg_extension WHERE oid >= 16384
UNION ALL
SELECT 'pg_cast', oid, 'cast', '', castsource::regtype::text || ' to ' || casttarget::regtype::text, '', 0 FROM pg_cast c WHERE oid >= 16384
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_cast'::regclass AND d.objid = c.oid AND d.deptype = 'i')
UNION ALL
SELECT 'pg_language', oid, 'language', '', lanname::text, '', 0 FROM pg_language WHERE oid >= 16384
UNION ALL
SELECT 'pg_transform', oid, 'transform', '', trftype::regtype::text, '', 0 FROM pg_transform WHERE oid >= 16384
UNION ALL
SELECT 'pg_am', oid, 'access method', '', amname::text, '', 0 FROM pg_am WHERE oid >= 16384
UNION ALL
SELECT 'pg_foreign_data_wrapper', oid, 'foreign data wrapper', '', fdwname::text, '', 0 FROM pg_foreign_data_wrapper WHERE oid >= 16384
UNION ALL
SELECT 'pg_foreign_server', oid, 'foreign server', '', srvname::text, '', 0 FROM pg_foreign_server WHERE oid >= 16384
UNION ALL
SELECT 'pg_event_trigger', oid, 'event trigger', '', evtname::text, '', 0 FROM pg_event_trigger
UNION ALL
SELECT 'pg_publication', oid, 'publication', '', pubname::text, '', 0 FROM pg_publication
UNION ALL
SELECT 'pg_subscription', oid, 'subscription', '', subname::text, '', 0 FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT 'pg_default_acl', oid, 'default privileges of role', '', defaclrole::regrole::text, '', 0 FROM pg_default_acl WHERE defaclnamespace = 0
UNION ALL
(SELECT 'pg_largeobject', oid, 'large object', '', oid::text, '', 0 FROM pg_largeobject_metadata LIMIT 3)`

// aliasQuery lists objects that come with another one: row types, array types, multiranges, constructors of ranges, the rule of a view, the
// index of a constraint, the sequence of an identity column and the relation of a composite type.
const aliasQuery = `
SELECT 'pg_type', t.oid, 'pg_class', t.typrelid FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid WHERE c.relkind <> 'c' AND c.oid >= 16384
UNION ALL SELECT 'pg_class', c.oid, 'pg_type', c.reltype FROM pg_class c WHERE c.relkind = 'c' AND c.oid >= 16384
UNION ALL SELECT 'pg_type', typarray, 'pg_type', oid FROM pg_type WHERE typarray >= 16384
UNION ALL SELECT 'pg_type', rngmultitypid, 'pg_type', rngtypid FROM pg_range WHERE rngmultitypid >= 16384
UNION ALL SELECT 'pg_proc', objid, 'pg_type', refobjid FROM pg_depend WHERE classid = 'pg_proc'::regclass AND refclassid = 'pg_type'::regclass AND deptype = 'i'
UNION ALL SELECT 'pg_rewrite', oid, 'pg_class', ev_class FROM pg_rewrite WHERE rulename = '_RETURN' AND oid >= 16384
UNION ALL SELECT 'pg_class', conindid, 'pg_constraint', oid FROM pg_constraint WHERE contype IN ('p', 'u', 'x') AND conindid >= 16384
UNION ALL SELECT 'pg_constraint', c.oid, 'pg_trigger', t.oid FROM pg_constraint c JOIN pg_trigger t ON t.tgconstraint = c.oid WHERE c.contype = 't'
UNION ALL SELECT 'pg_attrdef', d.oid, 'pg_class', d.adrelid FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attgenerated <> ''
UNION ALL SELECT 'pg_constraint', oid, CASE WHEN conrelid <> 0 THEN 'pg_class' ELSE 'pg_type' END, CASE WHEN conrelid <> 0 THEN conrelid ELSE contypid END FROM pg_constraint WHERE contype = 'n'`

// each runs a query and hands every row to scan.
func (c *catalogue) each(what, query string, args []any, scan func(row pgx.CollectableRow) error) error {
	rows, err := c.Query(c.ctx, query, args...)
	if err != nil {
		return fmt.Errorf("reading %s: %w", what, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("reading %s: %w", what, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", what, err)
	}
	return nil
}

// take lists everything that is there and decides what is in scope.
func (c *catalogue) take() error {
	c.all, c.members, c.edges, c.alias = map[ref]*entry{}, map[ref]uint32{}, map[ref][]ref{}, map[ref]ref{}
	err := c.each("the list of objects", inventoryQuery, nil, func(row pgx.CollectableRow) error {
		var e entry
		if err := row.Scan(&e.class, &e.id, &e.kind, &e.schema, &e.name, &e.parent.class, &e.parent.id); err != nil {
			return err
		}
		c.all[e.ref] = &e
		return nil
	})
	if err != nil {
		return err
	}
	err = c.each("implied objects", aliasQuery, nil, func(row pgx.CollectableRow) error {
		var from, to ref
		if err := row.Scan(&from.class, &from.id, &to.class, &to.id); err != nil {
			return err
		}
		c.alias[from] = to
		return nil
	})
	if err != nil {
		return err
	}
	marked := map[ref]string{}
	err = c.each("dependencies", `SELECT classid::regclass::text, objid, refclassid::regclass::text, refobjid, deptype::text FROM pg_depend
		WHERE objid >= 16384 AND refobjid >= 16384`, nil, func(row pgx.CollectableRow) error {
		var from, to ref
		var kind string
		if err := row.Scan(&from.class, &from.id, &to.class, &to.id, &kind); err != nil {
			return err
		}
		switch kind {
		case "e":
			c.members[from] = to.id
		case "x":
			marked[from] = c.all[to].name
		default:
			c.edges[from] = append(c.edges[from], to)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.choose(); err != nil {
		return err
	}
	for from, extension := range marked {
		if e := c.selected[c.resolve(from)]; e != nil {
			c.refuse("%s, which is marked to depend on extension %q", e, extension)
		}
	}
	return nil
}

// choose fills selected: what the scope names, and then what that needs.
func (c *catalogue) choose() error {
	c.selected = map[ref]*entry{}
	var open []ref
	add := func(r ref) {
		if e := c.all[r]; e != nil && c.selected[r] == nil && c.members[r] == 0 {
			c.selected[r] = e
			open = append(open, r)
		}
	}
	for r, e := range c.all {
		if e.parent.id == 0 && c.inScope(e) {
			add(r)
		}
	}
	// What n8n installs beside its tables counts as n8n's even if nothing uses it (any more). Other extensions there,
	// such as a provider's for monitoring, need a superuser and stay out unless used.
	err := c.each("extensions", `SELECT e.oid FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
		JOIN pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion
		WHERE v.trusted AND n.nspname = $1 AND e.oid >= 16384`, []any{c.schema}, func(row pgx.CollectableRow) error {
		r := ref{class: "pg_extension"}
		if err := row.Scan(&r.id); err != nil {
			return err
		}
		add(r)
		return nil
	})
	if err != nil {
		return err
	}
	children := map[ref][]ref{}
	for r, e := range c.all {
		if e.parent.id != 0 {
			children[e.parent] = append(children[e.parent], r)
		}
	}
	sources := map[ref][]ref{}
	for from := range c.edges {
		to := c.resolve(from)
		sources[to] = append(sources[to], from)
	}
	owned := map[ref][]ref{} // a serial's sequence comes with its table, whatever it is called
	for from, e := range c.all {
		if e.kind == "sequence" {
			for _, to := range c.edges[from] {
				owned[to] = append(owned[to], from)
			}
		}
	}
	for len(open) > 0 {
		r := open[len(open)-1]
		open = open[:len(open)-1]
		for _, child := range children[r] {
			add(child)
		}
		for _, from := range sources[r] {
			for _, to := range c.edges[from] {
				to = c.resolve(to)
				if extension := c.members[to]; extension != 0 {
					add(ref{"pg_extension", extension})
				} else if e := c.all[to]; e != nil && c.prefix != "" && e.schema == c.schema && (e.class != "pg_class" || e.kind == "sequence") {
					add(to) // n8n's routines and types have no prefix
				} else if e != nil && e.kind == "extension" {
					add(to)
				}
			}
		}
		for _, from := range owned[r] {
			add(from)
		}
	}
	return nil
}

// inScope says whether an object that stands on its own was asked for.
func (c *catalogue) inScope(e *entry) bool {
	switch {
	case c.whole:
		return true
	case e.kind == "schema":
		return e.name == c.schema
	case e.schema != c.schema:
		return false
	case c.prefix != "":
		return e.class == "pg_class" && strings.HasPrefix(e.name, c.prefix)
	}
	return true
}

// resolve follows aliases: the array type of a view's row type is the view.
func (c *catalogue) resolve(r ref) ref {
	for range 4 {
		to, ok := c.alias[r]
		if !ok {
			break
		}
		r = to
	}
	return r
}

func (c *catalogue) ids(kinds ...string) []uint32 {
	ids := []uint32{}
	for r, e := range c.selected {
		if slices.Contains(kinds, e.kind) {
			ids = append(ids, r.id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (c *catalogue) refuse(format string, args ...any) {
	c.refused = append(c.refused, fmt.Sprintf(format, args...))
}

// refusal is the error for what was refused so far, nil for nothing.
func (c *catalogue) refusal() error {
	if len(c.refused) == 0 {
		return nil
	}
	slices.Sort(c.refused)
	list := slices.Compact(c.refused)
	more := ""
	if len(list) > 10 {
		more, list = fmt.Sprintf(" and %d more", len(list)-10), list[:10]
	}
	return problem.New(problem.Usage, "the native engine cannot dump %s%s", strings.Join(list, ", "), more).
		WithHint(`use "--engine pg_dump", or drop what is not needed`)
}

// sorted are the selected entries in a fixed order.
func (c *catalogue) sorted() []*entry {
	return slices.SortedFunc(maps.Values(c.selected), func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.id, b.id))
	})
}
