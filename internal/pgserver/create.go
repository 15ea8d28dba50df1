package pgserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// Temporary is a new database that will take the place of another one.
type Temporary struct {
	Name string
	// DSN leads into it with the login of DestConfig.DSN, and takes on the role
	// that owns n8n's tables, so that new ones belong to it, too. It may hold the
	// password.
	DSN string
	// Warnings are settings and grants that could not be carried over.
	Warnings []string

	oid    uint32
	suffix string
	dest   Dest
	grants []grant // to be repeated on the new tables
}

const (
	infixTemporary = "_n8keep_"
	infixKept      = "_before_"
	maxName        = 63
)

// Create makes an empty database under a name of its own. When d exists the new
// one has its owner, encoding, locale, tablespace, limit, grants and settings,
// and the owner and grants of its schema; else it is n8n's login's, in UTF-8. id
// is the archive's, for whoever meets the database.
func (t *Target) Create(ctx context.Context, d Dest, id string) (*Temporary, error) {
	if d.obstacle != nil {
		return nil, d.obstacle
	}
	suffix := strings.ToLower(rand.Text()[:6])
	n := &Temporary{Name: affixed(t.name, infixTemporary+suffix), suffix: suffix, dest: d}
	if err := t.create(ctx, n); err != nil {
		return nil, err
	}
	t.cfg.Logger.Info("database created", "database", n.Name, "archive", id)
	err := t.furnish(ctx, n, id)
	if err == nil {
		err = t.enter(ctx, n)
	}
	if err != nil {
		return nil, errors.Join(err, t.Drop(context.WithoutCancel(ctx), n))
	}
	return n, nil
}

// affixed shortens a name so that the affix fits.
func affixed(name, affix string) string {
	for len(name)+len(affix) > maxName {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name + affix
}

// mark is a connection limit that no person sets. A database is created closed
// and with it, so that one whose creation was all that happened is known as ours.
func (t *Target) mark() int32 { return 1_000_000_000 + int32(t.hash()%1_000_000_000) }

// create makes the database, closed, of the same kind as the old one.
func (t *Target) create(ctx context.Context, n *Temporary) error {
	statement := fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 ALLOW_CONNECTIONS false CONNECTION LIMIT %d OWNER ", quote(n.Name), t.mark())
	var tries []string
	if n.dest.Exists {
		kind, err := t.kind(ctx)
		if err != nil {
			return err
		}
		tries = []string{statement + quote(n.dest.Owner) + kind}
	} else {
		// A server made without UTF-8 has no locale that fits but C.
		statement += quote(n.dest.Login) + " ENCODING 'UTF8'"
		tries = []string{statement, statement + " LC_COLLATE 'C' LC_CTYPE 'C'"}
	}
	var err error
	for _, try := range tries {
		_, err = t.admin.Exec(ctx, try)
		var pg *pgconn.PgError
		if err == nil || !errors.As(err, &pg) || pg.Code != "22023" && pg.Code != "42P17" {
			break
		}
	}
	failpoint.Hit("pgserver.create")
	if err != nil {
		return explain(ctx, err, "creating database %q", n.Name)
	}
	err = t.admin.QueryRow(ctx, `SELECT oid FROM pg_database WHERE datname = $1`, n.Name).Scan(&n.oid)
	return explain(ctx, err, "creating database %q", n.Name)
}

// kind are the options of CREATE DATABASE that make a database like the old one.
func (t *Target) kind(ctx context.Context) (string, error) {
	// ICU and its rules came in 15 and 16, the builtin provider in 17.
	rows, err := t.admin.Query(ctx, `SELECT pg_encoding_to_char(d.encoding), d.datcollate::text, d.datctype::text,
			CASE WHEN d.dattablespace <> (SELECT dattablespace FROM pg_database WHERE datname = 'template0') THEN s.spcname::text END, to_jsonb(d)->>'datlocprovider',
			coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale'), to_jsonb(d)->>'daticurules'
		FROM pg_database d JOIN pg_tablespace s ON s.oid = d.dattablespace WHERE d.datname = $1`, t.name)
	if err != nil {
		return "", explain(ctx, err, "reading how database %q was made", t.name)
	}
	type like struct{ Encoding, Collate, Ctype, Tablespace, Provider, Locale, Rules *string }
	l, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[like])
	if err != nil {
		return "", explain(ctx, err, "reading how database %q was made", t.name)
	}
	var b strings.Builder
	option := func(name string, value *string) {
		if value != nil && *value != "" {
			b.WriteString(" " + name + " " + literal(*value))
		}
	}
	option("ENCODING", l.Encoding)
	option("LC_COLLATE", l.Collate)
	option("LC_CTYPE", l.Ctype)
	if l.Provider != nil {
		switch *l.Provider {
		case "c":
			b.WriteString(" LOCALE_PROVIDER libc")
		case "i":
			b.WriteString(" LOCALE_PROVIDER icu")
			option("ICU_LOCALE", l.Locale)
			option("ICU_RULES", l.Rules)
		case "b":
			b.WriteString(" LOCALE_PROVIDER builtin")
			option("BUILTIN_LOCALE", l.Locale)
		}
	}
	if l.Tablespace != nil {
		b.WriteString(" TABLESPACE " + quote(*l.Tablespace))
	}
	return b.String(), nil
}

// furnish gives the database its mark in words, grants and settings, and opens it.
func (t *Target) furnish(ctx context.Context, n *Temporary, id string) error {
	limit := int32(-1)
	var grants []grant
	if n.dest.Exists {
		var err error
		if err = t.admin.QueryRow(ctx, `SELECT datconnlimit FROM pg_database WHERE datname = $1`, t.name).Scan(&limit); err != nil {
			return explain(ctx, err, "reading the limits of database %q", t.name)
		}
		if grants, err = t.databaseGrants(ctx); err != nil {
			return err
		}
	}
	name := quote(n.Name)
	err := pgx.BeginFunc(ctx, t.admin, func(tx pgx.Tx) error {
		statements := []string{fmt.Sprintf("COMMENT ON DATABASE %s IS %s", name, literal(t.comment(stageLoading, id)))}
		if grants != nil {
			statements = append(statements, fmt.Sprintf("REVOKE ALL ON DATABASE %s FROM PUBLIC", name))
		}
		for _, g := range grants {
			statements = append(statements, g.on("DATABASE "+name))
		}
		statements = append(statements, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS true CONNECTION LIMIT %d", name, limit))
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
	failpoint.Hit("pgserver.furnish")
	if err != nil {
		return explain(ctx, err, "preparing database %q", n.Name)
	}
	return t.settings(ctx, n)
}

// settings repeats ALTER DATABASE ... SET and ALTER ROLE ... IN DATABASE ... SET.
// What only a superuser may set becomes a warning with the statement.
func (t *Target) settings(ctx context.Context, n *Temporary) error {
	if !n.dest.Exists {
		return nil
	}
	rows, err := t.admin.Query(ctx, `SELECT coalesce(r.rolname::text, ''), c.setting FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
		LEFT JOIN pg_roles r ON r.oid = s.setrole CROSS JOIN unnest(s.setconfig) AS c(setting) WHERE d.datname = $1 ORDER BY 1, 2`, t.name)
	if err != nil {
		return explain(ctx, err, "reading the settings of database %q", t.name)
	}
	type setting struct{ Role, Setting string }
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[setting])
	if err != nil {
		return explain(ctx, err, "reading the settings of database %q", t.name)
	}
	for _, s := range list {
		name, value, _ := strings.Cut(s.Setting, "=")
		who := "DATABASE " + quote(n.Name)
		later := "DATABASE " + quote(t.name)
		if s.Role != "" {
			who = fmt.Sprintf("ROLE %s IN %s", quote(s.Role), who)
			later = fmt.Sprintf("ROLE %s IN %s", quote(s.Role), later)
		}
		set := fmt.Sprintf(" SET %s TO %s", settingName(name), settingValue(name, value))
		if _, err := t.admin.Exec(ctx, "ALTER "+who+set); err != nil {
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || ctx.Err() != nil {
				return explain(ctx, err, "setting %s of database %q", name, n.Name)
			}
			n.Warnings = append(n.Warnings, fmt.Sprintf("a setting of the database could not be carried over (%s); afterwards run: ALTER %s%s", pg.Message, later, set))
		}
	}
	failpoint.Hit("pgserver.settings")
	return nil
}

// settingName quotes each part of a name like "pgaudit.log".
func settingName(name string) string {
	parts := strings.Split(name, ".")
	for i := range parts {
		parts[i] = quote(parts[i])
	}
	return strings.Join(parts, ".")
}

// settingValue writes a value as SET reads it. A list of names is stored with
// its quotes, and would be one name if it were quoted as a whole.
func settingValue(name, value string) string {
	lists := []string{"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories"}
	if !slices.Contains(lists, strings.ToLower(name)) {
		return literal(value)
	}
	var items []string
	for item := range splitList(value) {
		items = append(items, literal(item))
	}
	if len(items) == 0 {
		return "''"
	}
	return strings.Join(items, ", ")
}

// splitList yields the names of a list like `"$user", public`.
func splitList(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for s = strings.TrimSpace(s); s != ""; {
			var item string
			if s[0] == '"' {
				end := 1
				for end < len(s) && (s[end] != '"' || end+1 < len(s) && s[end+1] == '"') {
					if s[end] == '"' {
						end++
					}
					end++
				}
				item = strings.ReplaceAll(s[1:min(end, len(s))], `""`, `"`)
				s = s[min(end+1, len(s)):]
			} else {
				item, _, _ = strings.Cut(s, ",")
				s = s[len(item):]
				item = strings.TrimSpace(item)
			}
			if !yield(item) {
				return
			}
			s = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(s), ","))
		}
	}
}

// enter makes n8n's schema ready and finds the DSN that loads into it.
func (t *Target) enter(ctx context.Context, n *Temporary) error {
	var err error
	if n.DSN, err = WithDatabase(t.cfg.DSN, n.Name); err != nil {
		return err
	}
	if n.dest.Role != "" && n.dest.Role != n.dest.Login {
		if n.DSN, err = withRole(n.DSN, n.dest.Role); err != nil {
			return err
		}
	}
	if err := t.schema(ctx, n); err != nil {
		return err
	}
	c, err := parse(n.DSN)
	if err != nil {
		return err
	}
	conn, err := connect(ctx, c, t.cfg.AppName)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var may, exists bool
	var role string
	err = conn.QueryRow(ctx, `SELECT current_user::text, EXISTS (SELECT FROM pg_namespace WHERE nspname = $1),
		coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1), has_database_privilege(current_database(), 'CREATE'))`, t.cfg.Schema).Scan(&role, &exists, &may)
	if err != nil {
		return explain(ctx, err, "entering database %q", n.Name)
	}
	if !may {
		return problem.New(problem.Usage, "role %q may not create tables in schema %q of the new database", role, t.cfg.Schema).
			WithHint("make it the owner of the old one: ALTER DATABASE %s OWNER TO %s", quote(t.name), quote(role)).
			WithHint("or in the old one: GRANT CREATE ON SCHEMA %s TO %s", quote(t.cfg.Schema), quote(role))
	}
	if !exists {
		if _, err := conn.Exec(ctx, "CREATE SCHEMA "+quote(t.cfg.Schema)); err != nil {
			return explain(ctx, err, "making schema %q in database %q", t.cfg.Schema, n.Name)
		}
	}
	return t.extend(ctx, conn, n)
}

// extend installs the extensions that the old database's n8n uses, where they are
// there: an archive names them too, but n8n's role may not be allowed to make them.
// Its own role comes first, so that they are its own, then the admin role.
func (t *Target) extend(ctx context.Context, conn *pgx.Conn, n *Temporary) error {
	var admin *pgx.Conn
	for _, x := range n.dest.uses {
		exec := func(c *pgx.Conn) error {
			if _, err := c.Exec(ctx, "DO "+literal(fmt.Sprintf("BEGIN IF to_regnamespace(%[1]s) IS NULL THEN CREATE SCHEMA %[2]s; END IF; END", literal(quote(x.schema)), quote(x.schema)))); err != nil {
				return err
			}
			_, err := c.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS "+quote(x.name)+" SCHEMA "+quote(x.schema))
			return err
		}
		err := exec(conn)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "42501" {
			if admin == nil {
				if admin, err = t.enterAsAdmin(ctx, n.Name); err != nil {
					return err
				}
				defer admin.Close(context.WithoutCancel(ctx))
			}
			err = exec(admin)
		}
		if errors.As(err, &pg) && pg.Code == "42501" {
			return problem.New(problem.Usage, "neither %q nor %q may install the extension %q, which n8n uses: %s", cmp.Or(n.dest.Role, n.dest.Login), n.dest.Server.User, x.name, pg.Message).
				WithHint("name a login that may: --admin-database postgres://ADMIN@HOST:5432/postgres")
		}
		if err != nil {
			return explain(ctx, err, "installing extension %q", x.name)
		}
	}
	failpoint.Hit("pgserver.extensions")
	return nil
}

// Drop removes a temporary database and ends whatever is connected to it. It
// does not mind one that is gone, and does not touch one that has taken the place.
func (t *Target) Drop(ctx context.Context, n *Temporary) error {
	if err := t.revive(ctx); err != nil {
		return err
	}
	var name string
	err := t.admin.QueryRow(ctx, `SELECT datname::text FROM pg_database WHERE oid = $1`, n.oid).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && name != n.Name {
		return nil
	}
	if err != nil {
		return explain(ctx, err, "removing database %q", n.Name)
	}
	return t.drop(ctx, name)
}

func (t *Target) drop(ctx context.Context, name string) error {
	if _, err := t.admin.Exec(ctx, "ALTER DATABASE "+quote(name)+" ALLOW_CONNECTIONS false"); err != nil {
		return explain(ctx, err, "removing database %q", name)
	}
	if err := t.endSessions(ctx, name); err != nil {
		return err
	}
	failpoint.Hit("pgserver.closed-for-drop")
	_, err := t.admin.Exec(ctx, "DROP DATABASE "+quote(name))
	failpoint.Hit("pgserver.drop")
	if err != nil {
		return explain(ctx, err, "removing database %q", name)
	}
	t.cfg.Logger.Info("database dropped", "database", name)
	return nil
}
