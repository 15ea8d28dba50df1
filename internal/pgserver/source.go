package pgserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/n8keep/n8keep/internal/problem"
)

// SourceConfig names the database that a backup reads.
type SourceConfig struct {
	// DSN names the database; it may hold the password. Required.
	DSN string
	// AppName is the application_name of every session of this backup, at most 63
	// bytes: the watcher finds them by it. Required.
	AppName string
	// Schema and TablePrefix say which objects are n8n's. Optional; public, none.
	Schema, TablePrefix string
	// FromReplica allows a standby server.
	FromReplica bool
	// Now is the clock by which a version is out of support. Optional; time.Now.
	Now func() time.Time
	// Logger is told when a watcher lost and found its connection. Optional.
	Logger *slog.Logger
}

// Source is the transaction whose snapshot a backup reads. Its methods may be
// called from several goroutines.
type Source struct {
	cfg        SourceConfig
	pgx        *pgx.ConnConfig
	snapshot   string
	pid        uint32
	server     Server
	extensions []string
	notes      []string

	mu   sync.Mutex // the session is used by one goroutine at a time
	conn *pgx.Conn
}

// OpenSource begins a read-only REPEATABLE READ transaction and exports its
// snapshot, which holds until Close or until the session is lost. A standby
// without FromReplica is a Usage error; a server that cannot be reached, or
// refuses the login, Unreachable.
func OpenSource(ctx context.Context, cfg SourceConfig) (*Source, error) {
	if cfg.AppName == "" || len(cfg.AppName) > 63 {
		return nil, problem.New(problem.Unexpected, "opening the source: an application name of 1 to 63 bytes is needed")
	}
	if cfg.Schema == "" {
		cfg.Schema = "public"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Logger = discard(cfg.Logger)
	c, err := parse(cfg.DSN)
	if err != nil {
		return nil, err
	}
	conn, err := connect(ctx, c, cfg.AppName)
	if err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, pgx: c, conn: conn, pid: conn.PgConn().PID()}
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Source) begin(ctx context.Context) error {
	// In the transaction again: a pooler may have given the settings before it to
	// another server session.
	if _, err := s.conn.Exec(ctx, `BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY`); err != nil {
		return explain(ctx, err, "beginning the backup's transaction")
	}
	if err := unlimit(ctx, s.conn); err != nil {
		return explain(ctx, err, "beginning the backup's transaction")
	}
	if _, err := s.conn.Exec(ctx, `SELECT set_config('search_path', 'pg_catalog', true), set_config('application_name', $1, true)`, s.cfg.AppName); err != nil {
		return explain(ctx, err, "beginning the backup's transaction")
	}
	var err error
	if s.server, err = serverOf(ctx, s.conn); err != nil {
		return err
	}
	if s.server.Replica && !s.cfg.FromReplica {
		return problem.New(problem.Usage, "%s on %s is a standby: it may be behind, and it cancels what reads for long", s.server.Database, s.server.Host).
			WithHint("read from the primary, or allow a standby with --from-replica")
	}
	if err := s.conn.QueryRow(ctx, `SELECT pg_export_snapshot(), pg_backend_pid()`).Scan(&s.snapshot, &s.pid); err != nil {
		return explain(ctx, err, "exporting the snapshot")
	}
	if s.extensions, err = extensions(ctx, s.conn, s.cfg.Schema, s.cfg.TablePrefix); err != nil {
		return err
	}
	s.notes, err = s.look(ctx)
	return err
}

// Snapshot is the name for SET TRANSACTION SNAPSHOT and pg_dump --snapshot.
func (s *Source) Snapshot() string { return s.snapshot }

// Server is what the server said of itself when the source was opened.
func (s *Source) Server() Server { return s.server }

// Extensions are those that n8n's objects use, in order, without plpgsql, which
// every database has. uuid-ossp is among them wherever it is installed: n8n's own
// migrations install it, and call it where no catalog shows.
func (s *Source) Extensions() []string { return s.extensions }

// Notes are plain sentences on what may interest whoever relies on this server:
// archiving, a managed service, a replica's delay, a version without support.
func (s *Source) Notes() []string { return s.notes }

// Close ends the transaction; the snapshot cannot be imported any more.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.conn.Close(ctx); err != nil {
		s.cfg.Logger.Debug("source session not closed cleanly", "error", err)
	}
	return nil
}

// Intact fails (Busy) when a table was emptied, rewritten or dropped since the
// snapshot was taken: TRUNCATE and many forms of ALTER TABLE leave it no rows that
// the snapshot could show, and whoever reads later gets none and no error. Asked
// when everything was read, it says that nothing is missing for this reason. It looks
// at n8n's tables, with whole at all.
func (s *Source) Intact(ctx context.Context, whole bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The catalog is read in the snapshot, the function answers for now.
	rows, err := s.conn.Query(ctx, `SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
			AND ($1 OR n.nspname = $2 AND starts_with(c.relname, $3)) AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode
		ORDER BY 1`, whole, s.cfg.Schema, s.cfg.TablePrefix)
	if err != nil {
		return explain(ctx, err, "looking for tables that were changed meanwhile")
	}
	changed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return explain(ctx, err, "looking for tables that were changed meanwhile")
	}
	if len(changed) > 0 {
		return problem.New(problem.Busy, "during the backup somebody emptied or rewrote %s: its rows cannot be relied on", some(quoted(changed))).
			WithHint("n8n was probably being upgraded, or the database maintained: repeat the backup when that is done")
	}
	return nil
}

func quoted(names []string) []string {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = fmt.Sprintf("table %q", n)
	}
	return list
}

// alive asks the session with the snapshot for an answer.
func (s *Source) alive(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn.IsClosed() {
		return errors.New("the session was closed")
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_, err := s.conn.Exec(ctx, `SELECT 1`)
	return err
}

// lost is why a backup ends without its snapshot.
func (s *Source) lost(err error) error {
	e := &problem.Error{Kind: problem.Unreachable, Err: err, Msg: "the session that holds the backup's snapshot was lost: " + lastCause(err),
		Hint: "see the server's log; repeat the backup when the server answers"}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		e.Msg = "the server ended the session that holds the backup's snapshot: " + pg.Message
		switch pg.Code {
		case "57P01":
			e.Hint = "an administrator or a restart of the server did that: repeat the backup"
		case "40001", "25P02":
			e.Hint = "a standby ends what reads rows that its primary removed: set hot_standby_feedback = on there, raise max_standby_streaming_delay, or read from the primary"
		case "25P03", "57P05":
			e.Hint = "a time limit of the server or of a pooler ended it: connect to the server itself"
		}
	} else if errors.Is(err, context.DeadlineExceeded) {
		e.Msg = "the session that holds the backup's snapshot did not answer for " + answerWithin.String()
	}
	return e
}

// answerWithin is how long a session may take to answer at all.
const answerWithin = 30 * time.Second

// extensions lists what the n8n objects of a schema depend on.
func extensions(ctx context.Context, conn *pgx.Conn, schema, prefix string) ([]string, error) {
	rows, err := conn.Query(ctx, `WITH rel AS (
			SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND starts_with(c.relname, $2)
		), obj AS (
			SELECT 'pg_class'::regclass AS class, oid FROM rel
			UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM rel)
			UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM rel)
			UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid IN (SELECT oid FROM rel)
			UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM rel)
			UNION ALL SELECT 'pg_proc'::regclass, tgfoid FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM rel) AND NOT tgisinternal
			UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM rel)
		)
		SELECT DISTINCT e.extname::text FROM pg_extension e
		WHERE e.extname <> 'plpgsql' AND (e.extname = 'uuid-ossp' OR EXISTS (
			SELECT FROM obj JOIN pg_depend d ON d.classid = obj.class AND d.objid = obj.oid
			JOIN pg_depend m ON m.classid = d.refclassid AND m.objid = d.refobjid AND m.deptype = 'e' AND m.refclassid = 'pg_extension'::regclass
			WHERE m.refobjid = e.oid))
		ORDER BY 1`, schema, prefix)
	if err != nil {
		return nil, explain(ctx, err, "looking for the extensions that n8n uses")
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return list, explain(ctx, err, "looking for the extensions that n8n uses")
}
