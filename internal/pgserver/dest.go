package pgserver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/n8keep/n8keep/internal/problem"
)

// DestConfig names the database that a restore is to fill.
type DestConfig struct {
	// DSN names the database, which need not exist, and the role that n8n will
	// use, or one that may take on that role. Required.
	DSN string
	// AdminDSN is a role that may create databases, on the same server; its
	// database is any other one. Optional: the role of DSN in the database postgres.
	AdminDSN string
	// Schema and TablePrefix say which objects are n8n's. Optional: those of the
	// n8n that is there, else public and none.
	Schema, TablePrefix string
	// Tables are the archive's tables: n8n's by whatever name. Optional.
	Tables []string
	// AppName is the application_name of every session. Optional; n8keep-restore.
	AppName string
	// Now dates the name of the database that is kept. Optional; time.Now.
	Now func() time.Time
	// Logger is told what is created, swapped and dropped. Optional.
	Logger *slog.Logger
}

// Dest is what was found where a restore is to go.
type Dest struct {
	Name       string // of the database
	Exists     bool
	Closed     bool     // it exists, but lets nobody in: a killed restore can leave it so
	Empty      bool     // nothing in it that a person or program made
	HasN8N     bool     // n8n's tables are in it
	Foreign    []string // objects that are not n8n's, in words: `table "public.customers"`
	Server     Server   // as the admin session sees it; Bytes is that of the database
	CanCreate  bool     // the admin role may create databases
	Bytes      int64
	Owner      string      // of the database
	Role       string      // owns n8n's tables; "" when there are none
	Login      string      // the role of DSN
	Sessions   []Session   // who else is connected to it
	Left       []Left      // what killed restores left
	Extensions []string    // installed beyond what n8n uses: a new database will not have them
	obstacle   error       // why this login cannot replace the database
	uses       []extension // what the n8n there uses
}

// extension is one that is installed in a database.
type extension struct{ name, schema string }

// Session is somebody who is connected to a database.
type Session struct {
	PID         int32
	User        string
	Application string
	Client      string // address; "" for a local one, or when this role may not know
}

func (s Session) String() string {
	text := fmt.Sprintf("%d of user %q", s.PID, s.User)
	if s.Application != "" {
		text += " (" + s.Application + ")"
	}
	if s.Client != "" {
		text += " from " + s.Client
	}
	return text
}

// Target is a server with the database that a restore is to fill, locked against
// other restores of the same database until Close. It is used by one goroutine.
type Target struct {
	cfg   DestConfig
	dsn   *pgx.ConnConfig
	admin *pgx.Conn
	name  string
	find  bool // the schema is not given
	// scratch is the database of the session when this is about one that nothing
	// is replaced by; "" for a restore.
	scratch string
}

// InspectDest looks at the database and changes nothing.
func InspectDest(ctx context.Context, cfg DestConfig) (Dest, error) {
	t, err := newTarget(ctx, cfg)
	if err != nil {
		return Dest{}, err
	}
	defer t.Close()
	return t.Inspect(ctx)
}

// OpenTarget connects and locks: Busy while another restore of this database is
// at work.
func OpenTarget(ctx context.Context, cfg DestConfig) (*Target, error) {
	t, err := newTarget(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := t.lock(ctx); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func newTarget(ctx context.Context, cfg DestConfig) (*Target, error) {
	find := cfg.Schema == ""
	if find {
		cfg.Schema = "public"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.AppName = cmp.Or(cfg.AppName, "n8keep-restore")
	cfg.Logger = discard(cfg.Logger)
	c, err := parse(cfg.DSN)
	if err != nil {
		return nil, err
	}
	t := &Target{cfg: cfg, dsn: c, name: c.Database, find: find}
	if t.name == "" {
		t.name = c.User // what the server would take
	}
	switch t.name {
	case "postgres", "template0", "template1":
		return nil, problem.New(problem.Usage, "%q is a database of the server itself: a restore does not go there", t.name).
			WithHint("name a database of n8n's own: --to postgres://USER@HOST:5432/n8n")
	}
	return t, t.connect(ctx)
}

// connect opens the session that creates and renames. It must not be in the
// database itself.
func (t *Target) connect(ctx context.Context) error {
	c, try := t.dsn.Copy(), []string{"postgres", "template1"}
	if t.cfg.AdminDSN != "" {
		var err error
		if c, err = parse(t.cfg.AdminDSN); err != nil {
			return err
		}
		if c.Database != "" && c.Database != t.name {
			try = append([]string{c.Database}, try...)
		}
	}
	var first error
	for _, name := range try {
		c.Database = name
		conn, err := connect(ctx, c, t.cfg.AppName)
		if err == nil {
			t.admin = conn
			return nil
		}
		if first == nil {
			first = err
		}
		var pg *pgconn.PgError
		if ctx.Err() != nil || !errors.As(err, &pg) || pg.Code == "28P01" {
			break
		}
	}
	var known *problem.Error
	if errors.As(first, &known) && t.cfg.AdminDSN == "" && known.Kind == problem.NotFound {
		return problem.New(problem.Usage, "there is no database %q to create another one from: %s", try[0], known.Msg).
			WithHint("name one that this login may enter: --admin-database postgres://USER@HOST:5432/DATABASE")
	}
	return first
}

// Close ends the lock.
func (t *Target) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := t.admin.Close(ctx); err != nil {
		t.cfg.Logger.Debug("admin session not closed cleanly", "error", err)
	}
	return nil
}

// lock waits for a few seconds: the server notices only after its current
// statement that the process of a killed restore is gone.
func (t *Target) lock(ctx context.Context) error {
	_, err := t.admin.Exec(ctx, `SELECT pg_advisory_lock($1, $2)`, lockSpace, int32(t.hash()))
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "55P03" {
		if t.scratch != "" {
			return problem.New(problem.Busy, "another verification is at work on this server, connected to %q", t.scratch).WithHint("wait until it has finished, or name another database of the server")
		}
		return problem.New(problem.Busy, "another restore of database %q is at work", t.name).WithHint("wait until it has finished")
	}
	return explain(ctx, err, "locking database %q against other restores", t.name)
}

// lockSpace is the first key of the advisory lock: "n8kr" in ASCII.
const lockSpace = int32(0x6e386b72)

// hash is a number for the name of the database, and for what is done with it.
func (t *Target) hash() uint32 {
	key := t.name
	if t.scratch != "" {
		key = "verification\x00" + t.scratch
	}
	sum := sha256.Sum256([]byte(key))
	return binary.BigEndian.Uint32(sum[:])
}

// Inspect looks at the database as it is now.
func (t *Target) Inspect(ctx context.Context) (Dest, error) {
	d := Dest{Name: t.name, Login: t.dsn.User, Foreign: []string{}, Sessions: []Session{}}
	var err error
	if d.Server, err = serverOf(ctx, t.admin); err != nil {
		return d, err
	}
	if d.Server.Replica {
		return d, problem.New(problem.Usage, "the server %s is a standby, which cannot be written to", d.Server.Host).WithHint("restore to its primary")
	}
	if err := t.admin.QueryRow(ctx, `SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user`).Scan(&d.CanCreate); err != nil {
		return d, explain(ctx, err, "asking whether %q may create databases", d.Server.User)
	}
	var connectable bool
	err = t.admin.QueryRow(ctx, `SELECT pg_get_userbyid(datdba), datallowconn FROM pg_database WHERE datname = $1`, t.name).Scan(&d.Owner, &connectable)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return d, explain(ctx, err, "looking for database %q", t.name)
	default:
		d.Exists, d.Closed = true, !connectable
	}
	if d.Left, err = t.left(ctx); err != nil {
		return d, err
	}
	if d.Sessions, err = t.sessions(ctx, t.name); err != nil {
		return d, err
	}
	conn, err := t.login(ctx, d)
	if err != nil {
		return d, err
	}
	if conn != nil {
		defer conn.Close(context.WithoutCancel(ctx))
		if err := t.inside(ctx, conn, &d); err != nil {
			return d, err
		}
	}
	d.obstacle, err = t.rights(ctx, d)
	return d, err
}

// login enters the database with the login that n8n will use. Without a
// database it only sees that the server takes the login.
func (t *Target) login(ctx context.Context, d Dest) (*pgx.Conn, error) {
	c := t.dsn.Copy()
	c.Database = t.name
	conn, err := connect(ctx, c, t.cfg.AppName)
	var pg *pgconn.PgError
	if err != nil && errors.As(err, &pg) && (pg.Code == "3D000" && !d.Exists || pg.Code == "55000" && d.Closed) {
		return nil, nil
	}
	if err != nil || d.Exists {
		return conn, err
	}
	conn.Close(ctx)
	return nil, problem.New(problem.Usage, "the two addresses lead to different servers: database %q is on one of them only", t.name).
		WithHint("--admin-database must name the server of --to")
}

// inside looks at what is in the database.
func (t *Target) inside(ctx context.Context, conn *pgx.Conn, d *Dest) error {
	var same bool
	var here time.Time
	if err := t.admin.QueryRow(ctx, `SELECT pg_postmaster_start_time()`).Scan(&here); err != nil {
		return explain(ctx, err, "comparing the servers")
	}
	if err := conn.QueryRow(ctx, `SELECT pg_postmaster_start_time() = $1, pg_database_size(current_database())`, here).Scan(&same, &d.Bytes); err != nil {
		return explain(ctx, err, "comparing the servers")
	}
	if !same {
		return problem.New(problem.Usage, "the two addresses lead to different servers").WithHint("--admin-database must name the server of --to")
	}
	if t.find {
		if err := t.findN8N(ctx, conn); err != nil {
			return err
		}
	}
	found, err := t.objects(ctx, conn)
	if err != nil {
		return err
	}
	d.uses = found.uses
	d.HasN8N, d.Role, d.Foreign, d.Extensions = found.n8n, found.owner, found.foreign, found.extensions
	d.Empty = !found.any
	return nil
}

// rights finds out whether this login may do what a restore does.
func (t *Target) rights(ctx context.Context, d Dest) (error, error) {
	if !d.CanCreate {
		return problem.New(problem.Usage, "role %q may not create databases, and a restore makes a new one beside the old", d.Server.User).
			WithHint("allow it: ALTER ROLE %s CREATEDB", quote(d.Server.User)).
			WithHint("or name a login that may: --admin-database postgres://ADMIN@HOST:5432/postgres"), nil
	}
	owner := d.Owner
	if !d.Exists {
		owner = d.Login
	}
	kind := "MEMBER"
	if d.Server.Version >= 160000 {
		kind = "SET"
	}
	var become, rights, role bool
	err := t.admin.QueryRow(ctx, `SELECT pg_has_role(current_user, $1, $2), pg_has_role(current_user, $1, 'USAGE'), pg_has_role($3, $4, $2)`,
		owner, kind, d.Login, cmp.Or(d.Role, d.Login)).Scan(&become, &rights, &role)
	switch {
	case err != nil:
		return nil, explain(ctx, err, "asking what %q may do", d.Server.User)
	case !become || !rights:
		return problem.New(problem.Usage, "role %q may not make or rename a database of %q", d.Server.User, owner).
			WithHint("allow it: GRANT %s TO %s", quote(owner), quote(d.Server.User)).
			WithHint("or name a login that may: --admin-database postgres://ADMIN@HOST:5432/postgres"), nil
	case !role:
		return problem.New(problem.Usage, "n8n's tables in %q belong to %q, and role %q may not give it new ones", t.name, d.Role, d.Login).
			WithHint("restore with n8n's own login: --to postgres://%s@HOST:5432/%s", d.Role, t.name).
			WithHint("or allow it: GRANT %s TO %s", quote(d.Role), quote(d.Login)), nil
	}
	return nil, nil
}

// Refuse says why a restore must not go there; nil when it may. overwrite allows
// a database that holds an n8n, assumeStopped one that others are connected to.
func (d *Dest) Refuse(overwrite, assumeStopped bool) error {
	switch {
	case d.Closed && len(d.Left) > 0:
		return problem.New(problem.Busy, "database %q was closed by a restore that was killed: what is in it cannot be seen now", d.Name).
			WithHint("repeat the restore without --dry-run: it first opens the database again")
	case d.Closed:
		return problem.New(problem.Usage, "database %q lets nobody in", d.Name).WithHint("open it: ALTER DATABASE %s ALLOW_CONNECTIONS true", quote(d.Name))
	case len(d.Foreign) > 0:
		return problem.New(problem.Usage, "database %q holds more than n8n: %s", d.Name, some(d.Foreign)).
			WithHint("a restore replaces the whole database: name another one, which is made when it does not exist")
	case d.Exists && !d.Empty && !overwrite:
		what := "is not empty"
		if d.HasN8N {
			what = "holds an n8n"
		}
		return problem.New(problem.Usage, "database %q %s", d.Name, what).
			WithHint("replace it with --overwrite: it is kept under another name; or name a database that does not exist yet")
	case d.obstacle != nil:
		return d.obstacle
	case len(d.Sessions) > 0 && !assumeStopped:
		return inUse(d.Name, d.Sessions)
	}
	return nil
}

func inUse(name string, sessions []Session) error {
	list := make([]string, len(sessions))
	for i, s := range sessions {
		list[i] = "session " + s.String()
	}
	return problem.New(problem.Busy, "database %q is in use: %s", name, some(list)).
		WithHint("stop n8n, its workers and whatever else is connected, then repeat the restore").
		WithHint("if these may be cut off: --assume-stopped ends their sessions when the new database takes the place")
}

// some names the first few.
func some(list []string) string {
	const shown = 5
	if len(list) <= shown {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:shown], ", "), len(list)-shown)
}

// sessions are those of others in a database. Background workers have no user, and
// ours are told by their application. A server notices the end of a session a
// moment later, so whoever is there is looked at again for half a second.
func (t *Target) sessions(ctx context.Context, name string) ([]Session, error) {
	var list []Session
	for range 10 {
		rows, err := t.admin.Query(ctx, `SELECT pid, coalesce(usename::text, ''), coalesce(application_name, ''), coalesce(host(client_addr), '') FROM pg_stat_activity
			WHERE datname = $1 AND usesysid IS NOT NULL AND pid <> pg_backend_pid() AND application_name IS DISTINCT FROM $2 ORDER BY backend_start, pid`, name, t.cfg.AppName)
		if err == nil {
			list, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (s Session, err error) {
				err = r.Scan(&s.PID, &s.User, &s.Application, &s.Client)
				return s, err
			})
		}
		if err != nil {
			return nil, explain(ctx, err, "looking who uses database %q", name)
		}
		if len(list) == 0 {
			break
		}
		if _, err := t.admin.Exec(ctx, `SELECT pg_sleep(0.05)`); err != nil {
			return nil, explain(ctx, err, "looking who uses database %q", name)
		}
	}
	return list, nil
}
