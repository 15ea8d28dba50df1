package pgserver

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/n8keep/n8keep/internal/failpoint"
)

// grant is one right of one role on one object.
type grant struct {
	Object  string // "TABLE s.t", quoted; "" where the caller knows
	Right   string // SELECT, CONNECT, ...
	Grantee string // "" is PUBLIC
	Option  bool   // may be granted on
}

func (g grant) on(object string) string {
	to, option := "PUBLIC", ""
	if g.Grantee != "" {
		to = quote(g.Grantee)
	}
	if g.Option {
		option = " WITH GRANT OPTION"
	}
	return fmt.Sprintf("GRANT %s ON %s TO %s%s", g.Right, object, to, option)
}

// rights are the ones that PostgreSQL 12 to 18 know: nothing else from a catalog
// becomes part of a statement unquoted.
var rights = map[string]bool{"SELECT": true, "INSERT": true, "UPDATE": true, "DELETE": true, "TRUNCATE": true, "REFERENCES": true, "TRIGGER": true, "MAINTAIN": true,
	"USAGE": true, "CREATE": true, "CONNECT": true, "TEMPORARY": true, "EXECUTE": true}

func collectGrants(rows pgx.Rows, err error) ([]grant, error) {
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[grant])
	kept := []grant{}
	for _, g := range all {
		if rights[g.Right] {
			kept = append(kept, g)
		}
	}
	return kept, err
}

// databaseGrants are those on the old database; nil when nobody ever changed them.
func (t *Target) databaseGrants(ctx context.Context) ([]grant, error) {
	var changed bool
	if err := t.admin.QueryRow(ctx, `SELECT datacl IS NOT NULL FROM pg_database WHERE datname = $1`, t.name).Scan(&changed); err != nil || !changed {
		return nil, explain(ctx, err, "reading the grants of database %q", t.name)
	}
	g, err := collectGrants(t.admin.Query(ctx, `SELECT '', a.privilege_type, coalesce(r.rolname::text, ''), a.is_grantable FROM pg_database d CROSS JOIN aclexplode(d.datacl) a
		LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE d.datname = $1 AND (a.grantee = 0 OR r.oid IS NOT NULL) ORDER BY 3, 2`, t.name))
	return g, explain(ctx, err, "reading the grants of database %q", t.name)
}

// schema gives n8n's schema in the new database the owner and the grants of the
// one in the old, and reads the grants on the tables for later. Without an old
// one a schema other than public is left to whoever loads.
func (t *Target) schema(ctx context.Context, n *Temporary) error {
	if !n.dest.Exists {
		return nil
	}
	old, err := t.enterAsAdmin(ctx, t.name)
	if err != nil {
		return err
	}
	defer old.Close(context.WithoutCancel(ctx))
	var owner string
	var acl *string
	err = old.QueryRow(ctx, `SELECT pg_get_userbyid(nspowner), nspacl::text FROM pg_namespace WHERE nspname = $1`, t.cfg.Schema).Scan(&owner, &acl)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return explain(ctx, err, "reading schema %q of database %q", t.cfg.Schema, t.name)
	}
	schema := quote(t.cfg.Schema)
	n.grants, err = collectGrants(old.Query(ctx, `SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || format('%I.%I', s.nspname, c.relname), a.privilege_type, coalesce(r.rolname::text, ''), a.is_grantable
		FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace CROSS JOIN aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
		WHERE s.nspname = $1 AND c.relkind IN ('r', 'p', 'S') AND a.grantee <> c.relowner AND (a.grantee = 0 OR r.oid IS NOT NULL) ORDER BY 1, 3, 2`, t.cfg.Schema))
	if err != nil {
		return explain(ctx, err, "reading the grants in database %q", t.name)
	}
	on, err := collectGrants(old.Query(ctx, `SELECT '', a.privilege_type, coalesce(r.rolname::text, ''), a.is_grantable FROM pg_namespace s CROSS JOIN aclexplode(s.nspacl) a
		LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE s.nspname = $1 AND (a.grantee = 0 OR r.oid IS NOT NULL) ORDER BY 3, 2`, t.cfg.Schema))
	if err != nil {
		return explain(ctx, err, "reading schema %q of database %q", t.cfg.Schema, t.name)
	}
	fresh, err := t.enterAsAdmin(ctx, n.Name)
	if err != nil {
		return err
	}
	defer fresh.Close(context.WithoutCancel(ctx))
	if t.cfg.Schema != "public" {
		if _, err := fresh.Exec(ctx, "CREATE SCHEMA "+schema); err != nil {
			return explain(ctx, err, "making schema %q in database %q", t.cfg.Schema, n.Name)
		}
	}
	// A new public schema is as the server makes it, and seldom anybody changed the old one.
	var nowOwner string
	var nowACL *string
	if err := fresh.QueryRow(ctx, `SELECT pg_get_userbyid(nspowner), nspacl::text FROM pg_namespace WHERE nspname = $1`, t.cfg.Schema).Scan(&nowOwner, &nowACL); err != nil {
		return explain(ctx, err, "making schema %q in database %q", t.cfg.Schema, n.Name)
	}
	var statements []string
	if nowOwner != owner {
		statements = append(statements, fmt.Sprintf("ALTER SCHEMA %s OWNER TO %s", schema, quote(owner)))
	}
	if acl != nil && (nowACL == nil || *nowACL != *acl) {
		statements = append(statements, fmt.Sprintf("REVOKE ALL ON SCHEMA %s FROM PUBLIC", schema))
		for _, g := range on {
			statements = append(statements, g.on("SCHEMA "+schema))
		}
	}
	for _, s := range statements {
		if _, err := fresh.Exec(ctx, s); err != nil {
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != "42501" {
				return explain(ctx, err, "making schema %q in database %q", t.cfg.Schema, n.Name)
			}
			n.Warnings = append(n.Warnings, fmt.Sprintf("a right on the schema could not be carried over (%s); afterwards run in %q: %s", pg.Message, t.name, s))
		}
	}
	failpoint.Hit("pgserver.schema")
	return nil
}

// enterAsAdmin opens a session of the admin role in a database.
func (t *Target) enterAsAdmin(ctx context.Context, name string) (*pgx.Conn, error) {
	c := t.admin.Config().Copy()
	c.Database = name
	return connect(ctx, c, t.cfg.AppName)
}

// Finish repeats the old tables' grants on the loaded ones, as far as they exist,
// and lets the planner know the new tables. It is called after loading.
func (t *Target) Finish(ctx context.Context, n *Temporary) error {
	c, err := parse(n.DSN)
	if err != nil {
		return err
	}
	conn, err := connect(ctx, c, t.cfg.AppName)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	missed := 0
	var why string
	for _, g := range n.grants {
		_, name, _ := strings.Cut(g.Object, " ")
		var exists bool
		if err := conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&exists); err != nil {
			return explain(ctx, err, "granting in database %q", n.Name)
		}
		if !exists {
			continue
		}
		if _, err := conn.Exec(ctx, g.on(g.Object)); err != nil {
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || ctx.Err() != nil {
				return explain(ctx, err, "granting in database %q", n.Name)
			}
			missed++
			why = pg.Message
		}
	}
	if missed > 0 {
		n.Warnings = append(n.Warnings, fmt.Sprintf("%d grants on tables could not be repeated: %s", missed, why))
	}
	if _, err := conn.Exec(ctx, `ANALYZE`); err != nil {
		return explain(ctx, err, "analyzing database %q", n.Name)
	}
	failpoint.Hit("pgserver.finish")
	return nil
}
