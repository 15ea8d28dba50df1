package pgserver

import (
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// n8nTables are the tables of n8n 1.0 to 2.41.1, without prefix, one in a line.
//
//go:embed n8ntables.txt
var n8nTables string

// n8nFamilies are beginnings of table names that n8n adds to in new versions. A
// database that a newer n8n has upgraded is replaced by an older backup often:
// that is what backups before an upgrade are for.
var n8nFamilies = regexp.MustCompile(`^(agents?_|chat_hub_|credential_|data_table_|dynamic_credential_|evaluation_|execution_|insights_|instance_ai_|mcp_|oauth_|promotion_|scheduled_|secrets_provider_|token_exchange_|trusted_key|type_availability_|workflows?_)`)

// contents is what a database holds.
type contents struct {
	any        bool
	n8n        bool
	owner      string // of n8n's tables
	foreign    []string
	uses       []extension // those that n8n uses
	extensions []string    // others
}

// object is something that somebody made in a database.
type object struct {
	kind, schema, name string
	owner              string
	n8n                bool // tied to a table: judged with it
}

// objects lists what is in the database and says what is not n8n's. What belongs
// to an extension is the extension's.
func (t *Target) objects(ctx context.Context, conn *pgx.Conn) (contents, error) {
	list, err := t.readObjects(ctx, conn)
	if err != nil {
		return contents{}, err
	}
	known := t.knownTables()
	var c contents
	found := map[string]bool{}
	for _, o := range list {
		c.any = true
		switch {
		case o.schema == t.cfg.Schema && o.kind == "table" && known(o.name):
			found[strings.TrimPrefix(o.name, t.cfg.TablePrefix)] = true
			if strings.TrimPrefix(o.name, t.cfg.TablePrefix) == "migrations" {
				c.owner = o.owner
			}
		case o.schema == t.cfg.Schema && o.n8n:
		default:
			c.foreign = append(c.foreign, o.String())
		}
	}
	c.n8n = found["migrations"] && found["credentials_entity"] && found["workflow_entity"]
	used, err := extensions(ctx, conn, t.cfg.Schema, t.cfg.TablePrefix)
	if err != nil {
		return c, err
	}
	rows, err := conn.Query(ctx, `SELECT e.extname::text, n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql' ORDER BY 1`)
	if err != nil {
		return c, explain(ctx, err, "listing extensions")
	}
	var x extension
	_, err = pgx.ForEachRow(rows, []any{&x.name, &x.schema}, func() error {
		if slices.Contains(used, x.name) {
			c.uses = append(c.uses, x)
		} else {
			c.extensions = append(c.extensions, x.name)
		}
		return nil
	})
	return c, explain(ctx, err, "listing extensions")
}

// findN8N takes schema and prefix of the n8n in the database, if there is one.
func (t *Target) findN8N(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `WITH rel AS (
			SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')
		), n8n AS (SELECT schema, left(name, -length('credentials_entity')) AS prefix FROM rel WHERE name LIKE '%credentials\_entity')
		SELECT schema, prefix FROM n8n WHERE starts_with(prefix, $1) AND EXISTS (SELECT FROM rel r WHERE r.schema = n8n.schema AND r.name = prefix || 'workflow_entity')
			AND EXISTS (SELECT FROM rel r WHERE r.schema = n8n.schema AND r.name = prefix || 'migrations')`, t.cfg.TablePrefix)
	if err != nil {
		return explain(ctx, err, "looking into database %q", t.name)
	}
	type place struct{ Schema, Prefix string }
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[place])
	if err == nil && len(found) == 1 {
		t.cfg.Schema, t.cfg.TablePrefix = found[0].Schema, found[0].Prefix
	}
	return explain(ctx, err, "looking into database %q", t.name)
}

// knownTables tells n8n's tables by their names. With a prefix all that carry it
// are n8n's.
func (t *Target) knownTables() func(string) bool {
	if p := t.cfg.TablePrefix; p != "" {
		return func(name string) bool { return strings.HasPrefix(name, p) || slices.Contains(t.cfg.Tables, name) }
	}
	names := map[string]bool{}
	for name := range strings.Lines(n8nTables) {
		names[strings.TrimSpace(name)] = true
	}
	for _, name := range t.cfg.Tables {
		names[name] = true
	}
	return func(name string) bool { return names[name] || n8nFamilies.MatchString(name) }
}

func (o object) String() string {
	if o.schema == "" {
		return fmt.Sprintf("%s %q", o.kind, o.name)
	}
	return fmt.Sprintf("%s %q", o.kind, o.schema+"."+o.name)
}

// readObjects reads catalogs only. A sequence is tied to a table when a column
// owns it or takes its default from it; a function, when it is the trigger of a
// table.
func (t *Target) readObjects(ctx context.Context, conn *pgx.Conn) ([]object, error) {
	rows, err := conn.Query(ctx, `WITH ns AS (
			SELECT oid, nspname::text AS name, pg_get_userbyid(nspowner) AS owner FROM pg_namespace
			WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_(toast|temp)'
		), member AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass)
		SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence' ELSE 'table' END,
			ns.name, c.relname::text, pg_get_userbyid(c.relowner),
			c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass
				UNION ALL SELECT FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.classid = 'pg_attrdef'::regclass)
		FROM pg_class c JOIN ns ON ns.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_class'::regclass AND objid = c.oid)
		UNION ALL
		SELECT 'function', ns.name, p.proname::text, pg_get_userbyid(p.proowner), EXISTS (SELECT FROM pg_trigger WHERE tgfoid = p.oid)
		FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_proc'::regclass AND objid = p.oid)
		UNION ALL
		SELECT 'type', ns.name, y.typname::text, pg_get_userbyid(y.typowner),
			EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.atttypid IN (y.oid, y.typarray) AND c.relkind IN ('r', 'p') AND NOT a.attisdropped)
		FROM pg_type y JOIN ns ON ns.oid = y.typnamespace LEFT JOIN pg_class c ON c.oid = y.typrelid
		WHERE (y.typtype IN ('e', 'd', 'r') OR y.typtype = 'c' AND c.relkind = 'c') AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_type'::regclass AND objid = y.oid)
		UNION ALL
		SELECT 'schema', '', name, owner, false FROM ns
		WHERE name NOT IN ('public', $1) AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_namespace'::regclass AND objid = ns.oid)
			AND NOT EXISTS (SELECT FROM pg_extension WHERE extnamespace = ns.oid)
		UNION ALL
		SELECT 'large object', '', m.oid::text, pg_get_userbyid(m.lomowner), false FROM pg_largeobject_metadata m
		UNION ALL
		SELECT 'event trigger', '', e.evtname::text, pg_get_userbyid(e.evtowner), false FROM pg_event_trigger e WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_event_trigger'::regclass AND objid = e.oid)
		UNION ALL
		SELECT 'publication', '', p.pubname::text, pg_get_userbyid(p.pubowner), false FROM pg_publication p
		UNION ALL
		SELECT 'subscription', '', u.subname::text, pg_get_userbyid(u.subowner), false FROM pg_subscription u WHERE u.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
		UNION ALL
		SELECT 'replication slot', '', r.slot_name::text, '', false FROM pg_replication_slots r WHERE r.database = current_database()
		UNION ALL
		SELECT 'foreign server', '', f.srvname::text, pg_get_userbyid(f.srvowner), false FROM pg_foreign_server f WHERE NOT EXISTS (SELECT FROM member WHERE classid = 'pg_foreign_server'::regclass AND objid = f.oid)
		ORDER BY 1, 2, 3`, t.cfg.Schema)
	if err != nil {
		return nil, explain(ctx, err, "looking into database %q", t.name)
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (o object, err error) {
		err = r.Scan(&o.kind, &o.schema, &o.name, &o.owner, &o.n8n)
		return o, err
	})
	return list, explain(ctx, err, "looking into database %q", t.name)
}
