// Package pgserver does with a PostgreSQL server what is neither reading n8n's
// tables nor dumping them: it holds the one moment that a backup shows, gives way
// to whoever waits for it, says what it saw of the server, and makes, swaps and
// drops the databases of a restore.
//
// [OpenSource] opens a read-only REPEATABLE READ transaction and exports its
// snapshot: every other session of the backup reads in it, so that what was
// proved is what was dumped. [Source.Watch] ends the backup when somebody waits
// for it, an upgrade of n8n above all, or when the session with the snapshot is
// lost. [InspectDest] looks at the database that a restore is to fill, and a
// [Dest] makes the new one under a name of its own beside it, and swaps the two
// in one transaction once the new one is proved.
//
// The package refuses: a standby server that was not asked for; a database that
// holds more than n8n; a server on which this login may not create databases; a
// database that others are working in.
//
// Promise about old data: a database that is replaced is renamed, never changed
// or dropped. Only databases that carry this package's mark and name are dropped,
// and only while no other restore of this target is at work. A restore that is
// killed at any moment leaves the old database or the new one under the name;
// the next run, [Dest.Recover], reopens and cleans.
//
// Trust boundary: the server is believed. Names come from it and are quoted; no
// text of a server becomes a statement. Passwords are in no error, no log and in
// no statement. Nothing here needs a superuser.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/n8keep/n8keep/internal/problem"
)

// Server is what a server says of itself.
type Server struct {
	Version  int    // server_version_num: 150018 is 15.18
	Text     string // server_version: "15.18 (Debian 15.18-0+deb12u1)"
	Replica  bool   // a standby: it replays another server's log
	Database string // the database of the session
	User     string // the role of the session
	Host     string // as in the DSN: a name, an address or a folder with a socket
	Bytes    int64  // size of the database; 0 when this role may not know
}

// Major is the first number of the version: 15.
func (s Server) Major() int { return s.Version / 10000 }

// parse reads a DSN. The parser's own error quotes the string it was given, and
// with it the password.
func parse(dsn string) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, problem.New(problem.Usage, "the PostgreSQL address cannot be read").
			WithHint("write it as postgres://USER@HOST:5432/DATABASE, with the password in PGPASSWORD or ~/.pgpass")
	}
	return c, nil
}

// connect opens a session and takes away the time limits that the role, the
// database or the server set for everybody. They are set after the login, not
// with it: poolers refuse logins that carry unknown settings.
func connect(ctx context.Context, c *pgx.ConnConfig, app string) (*pgx.Conn, error) {
	c = c.Copy()
	if app == "" {
		app = "n8keep"
	}
	c.RuntimeParams["application_name"] = app
	// A session may wait for hours while others load: what sits between must not
	// forget it.
	c.DialFunc = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	c.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	where := c.Database + " on " + c.Host
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, explainConnect(ctx, where, c.User, err)
	}
	if err := unlimit(ctx, conn); err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, explain(ctx, err, "opening a session in %s", where)
	}
	return conn, nil
}

func unlimit(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '10s' ELSE '0' END, false) FROM pg_settings
		WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')`)
	return err
}

func explainConnect(ctx context.Context, where, user string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var pg *pgconn.PgError
	switch {
	case !errors.As(err, &pg):
		return &problem.Error{Kind: problem.Unreachable, Msg: "cannot connect to " + where + ": " + lastCause(err), Err: err,
			Hint: "check host, port and that the server accepts connections from here"}
	case pg.Code == "28P01", pg.Code == "28000":
		return &problem.Error{Kind: problem.Unreachable, Msg: where + " refuses the login of " + user, Err: err,
			Hint: "check user and password"}
	case pg.Code == "3D000":
		return &problem.Error{Kind: problem.NotFound, Msg: "there is no database " + where, Err: err,
			Hint: "check the database name, DB_POSTGRESDB_DATABASE in n8n"}
	case pg.Code == "53300":
		return &problem.Error{Kind: problem.Unreachable, Msg: where + " has no connection left: " + pg.Message, Err: err,
			Hint: "raise max_connections or the role's limit, or lower DB_POSTGRESDB_POOL_SIZE in n8n"}
	}
	return &problem.Error{Kind: problem.Unreachable, Msg: where + " refuses: " + pg.Message, Err: err}
}

// lastCause is the innermost text: what is around it names the address again.
func lastCause(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			if many, ok := err.(interface{ Unwrap() []error }); ok && len(many.Unwrap()) > 0 {
				err = many.Unwrap()[0]
				continue
			}
			return strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		err = next
	}
}

// explain says in words what the server refused. ctx decides: after its end the
// error is the cause of that end.
func explain(ctx context.Context, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var known *problem.Error
	if errors.As(err, &known) {
		return err
	}
	doing := fmt.Sprintf(format, args...)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return &problem.Error{Kind: problem.Unreachable, Msg: doing + ": the connection to the server broke: " + lastCause(err), Err: err,
			Hint: "see the server's log; repeat the command when it answers"}
	}
	e := &problem.Error{Kind: problem.Unreachable, Msg: doing + ": " + pg.Message, Err: err}
	switch {
	case pg.Code == "42501":
		e.Kind, e.Hint = problem.Usage, "grant this role what is missing, or use another role"
	case pg.Code == "55P03":
		e.Kind, e.Hint = problem.Busy, "another session holds a lock: try again when n8n's upgrade or the other maintenance is done"
	case pg.Code == "55006":
		e.Kind, e.Hint = problem.Busy, "end the other sessions, then repeat the command"
	case pg.Code == "53100":
		e.Hint = "the server's disk is full"
	case strings.HasPrefix(pg.Code, "57P"), strings.HasPrefix(pg.Code, "08"):
		e.Hint = "the server ended the connection: see its log; repeat the command when it answers"
	case pg.Code == "40001":
		e.Hint = "a standby cancels what reads rows that its primary removed: set hot_standby_feedback = on there, or read from the primary"
	}
	if pg.Detail != "" && pg.Code != "23505" {
		e.Msg += " (" + pg.Detail + ")"
	}
	return e
}

// serverOf reads what the server says of itself.
func serverOf(ctx context.Context, conn *pgx.Conn) (Server, error) {
	s := Server{Host: conn.Config().Host}
	err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(), current_database(), current_user,
		CASE WHEN has_database_privilege(current_database(), 'CONNECT') THEN pg_database_size(current_database()) ELSE 0 END`).
		Scan(&s.Version, &s.Text, &s.Replica, &s.Database, &s.User, &s.Bytes)
	if err != nil {
		return s, explain(ctx, err, "asking the server for its version")
	}
	if s.Version < 120000 {
		return s, problem.New(problem.Usage, "PostgreSQL %s is too old: 12 or later is needed", s.Text).
			WithHint("n8n itself asks for 13 or later: upgrade the server")
	}
	return s, nil
}

// WithDatabase is dsn with another database name. dsn may be a URL or a string of
// key=value pairs; the result is of the same kind and holds the same password.
func WithDatabase(dsn, name string) (string, error) {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		u, err := url.Parse(dsn)
		if err != nil {
			_, err := parse("postgres://%") // the parser's error quotes the password
			return "", err
		}
		u.Path, u.RawPath = "/"+name, ""
		q := u.Query()
		if q.Has("dbname") || q.Has("database") {
			q.Del("dbname")
			q.Del("database")
			u.RawQuery = q.Encode()
		}
		return u.String(), nil
	}
	if _, err := parse(dsn); err != nil {
		return "", err
	}
	return dsn + " dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(name) + "'", nil
}

// withRole is dsn with a role that its sessions take on after the login.
func withRole(dsn, role string) (string, error) {
	option := "-c role=" + strings.NewReplacer(`\`, `\\`, " ", `\ `).Replace(role)
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		u, err := url.Parse(dsn)
		if err != nil {
			_, err := parse("postgres://%")
			return "", err
		}
		q := u.Query()
		if have := q.Get("options"); have != "" {
			option = have + " " + option
		}
		q.Set("options", option)
		// libpq does not read a plus sign as a space.
		u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
		return u.String(), nil
	}
	return dsn + " options='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(option) + "'", nil
}

func discard(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// quote makes an identifier of a name.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// literal makes a string constant of a text, whatever standard_conforming_strings is.
func literal(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.Contains(text, `\`) {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}
