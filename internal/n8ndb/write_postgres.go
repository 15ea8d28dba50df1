package n8ndb

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// Keys of n8n's advisory locks: migrations (with a second key of schema and prefix),
// import of credentials, seeding of data keys.
const (
	lockMigrations = 1005
	lockImport     = 1007
	lockSeed       = 1008
)

// lockChanges is the first key of n8keep's own advisory lock, the second is that of
// n8n's migrations. A Writer has it alone, the short transactions of Swappers share it.
const lockChanges = 0x6e38

// lockKey is the second key of locks that are of one n8n in a database.
func (db *DB) lockKey() int32 {
	sum := sha256.Sum256([]byte(db.schema + ":" + db.prefix))
	return int32(binary.BigEndian.Uint32(sum[:4]))
}

// lockHolders is the condition on pg_locks AS l for an advisory lock of two keys.
func lockHolders(first int, second int32) string {
	return fmt.Sprintf("l.classid = %d AND l.objid::bigint = %d AND l.objsubid = 2", first, uint32(second))
}

// WritePostgres begins a transaction on a server in which nobody else changes n8n's
// secrets. It takes n8keep's own advisory lock, so that no [Swapper] writes, and n8n's,
// so that no n8n can migrate, and so start, import or seed, and then locks every table of the catalogue in mode SHARE ROW
// EXCLUSIVE, before anything is read of them: others can still read.
//
// Other sessions in the database are a Busy error that names them, unless
// AssumeStopped: then they are in Unchecked. So is a lock that somebody holds for
// longer than LockTimeout, always. Sessions of n8keep that only read do not count, nor
// those of other Writers, which wait for the lock. A user who may not write,
// a server that only reads, and triggers that would run are refused before any lock.
func WritePostgres(ctx context.Context, cfg PostgresWriteConfig) (_ *Writer, err error) {
	c, err := pgx.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, errAddress()
	}
	for name, value := range map[string]string{
		"application_name":                    cmp.Or(cfg.AppName, "n8keep"),
		"datestyle":                           "ISO",
		"timezone":                            "UTC",
		"default_transaction_read_only":       "off",
		"lock_timeout":                        fmt.Sprint(max(1, cmp.Or(cfg.LockTimeout, 10*time.Second).Milliseconds())),
		"statement_timeout":                   "0",
		"idle_in_transaction_session_timeout": "0",
	} {
		c.RuntimeParams[name] = value
	}
	db := &DB{engine: Postgres, schema: cmp.Or(cfg.Schema, "public"), prefix: cfg.TablePrefix}
	tx := &postgresWrite{db: db}
	where := c.Database + " on " + c.Host
	if tx.pg, err = pgx.ConnectConfig(ctx, c); err != nil {
		return nil, explainConnect(where, c.User, err)
	}
	w := &Writer{DB: db, tx: tx}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.close())
		}
	}()
	db.writing = &view{db: db, pg: tx.pg}
	if err := tx.writable(ctx, where); err != nil {
		return nil, err
	}
	if err := w.refuseSessions(ctx, cfg.AssumeStopped); err != nil {
		return nil, err
	}
	failpoint.Hit("write.begin")
	if err := tx.begin(ctx); err != nil {
		return nil, err
	}
	failpoint.Hit("write.begun")
	if err := tx.lockN8N(ctx); err != nil {
		return nil, err
	}
	if err := db.inspect(ctx, where); err != nil {
		return nil, err
	}
	if err := tx.refuseTables(ctx); err != nil {
		return nil, err
	}
	if err := tx.lockTables(ctx); err != nil {
		return nil, err
	}
	failpoint.Hit("write.locked")
	w.Unchecked = nil // somebody may have come, or gone, while locks were waited for
	if err := w.refuseSessions(ctx, cfg.AssumeStopped); err != nil {
		return nil, err
	}
	return w, nil
}

// postgresWrite is the transaction of a Writer on PostgreSQL.
type postgresWrite struct {
	db      *DB
	pg      *pgx.Conn
	cursors int
}

// explain is explainPostgres for a transaction that writes.
func (tx *postgresWrite) explain(ctx context.Context, err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case !errors.As(err, &pg):
	case pg.Code == "42501":
		return problem.Wrap(problem.Unreachable, err, "writing the database").
			WithHint("grant this user SELECT and UPDATE on all tables of the schema")
	case pg.Code == "25006":
		return errReadOnly("the server")
	case pg.Code == "53100":
		return problem.Wrap(problem.Unexpected, err, "the server has no room left").
			WithHint("nothing was changed; rewritten rows need as much room again")
	}
	return explainPostgres(err)
}

func errReadOnly(where string) error {
	return problem.New(problem.Unreachable, "%s only reads", where).
		WithHint("name the primary server, not a replica or a server that is being maintained")
}

func (tx *postgresWrite) rows(ctx context.Context, stmt string, args []any, width int, fn func([]any) error) error {
	_, err := tx.db.writing.rows(ctx, stmt, args, width, 0, fn)
	return err
}

// exec runs a statement without parameters.
func (tx *postgresWrite) exec(ctx context.Context, stmt string) error {
	_, err := tx.pg.Exec(ctx, stmt, pgx.QueryExecModeSimpleProtocol)
	return err
}

func (tx *postgresWrite) writable(ctx context.Context, where string) error {
	var only, newer bool
	err := tx.rows(ctx, `SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool, current_setting('server_version_num')::int >= 170000`, nil, 2, func(cols []any) error {
		only, newer = textOf(cols[0]) == "t", textOf(cols[1]) == "t"
		return nil
	})
	if err != nil {
		return err
	}
	if only {
		return errReadOnly(where)
	}
	if newer {
		return tx.explain(ctx, tx.exec(ctx, "SET transaction_timeout = 0"))
	}
	return nil
}

// begin starts a transaction of READ COMMITTED: what is locked does not change, and
// nothing was read before the locks that could be older than they are.
func (tx *postgresWrite) begin(ctx context.Context) error {
	if err := tx.exec(ctx, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"); err != nil {
		return tx.explain(ctx, err)
	}
	// Where a replica is to have applied a commit before it is answered, that stays.
	return tx.explain(ctx, tx.exec(ctx, `DO $$ BEGIN IF current_setting('synchronous_commit') <> 'remote_apply' THEN SET LOCAL synchronous_commit = on; END IF; END $$`))
}

// refuseSessions looks for others in the database. The server shows sessions for a
// moment after they have ended, also those of an n8keep of just before.
func (w *Writer) refuseSessions(ctx context.Context, assumeStopped bool) error {
	for range 20 {
		others, ours, err := w.sessions(ctx)
		if err != nil || len(others) == 0 {
			return err
		}
		if !ours {
			break
		}
		if err := Pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	others, _, err := w.sessions(ctx)
	if err != nil || len(others) == 0 {
		return err
	}
	if len(others) > 5 {
		others[5] = "and more"
	}
	who := strings.Join(others, ", ")
	if assumeStopped {
		w.Unchecked = append(w.Unchecked, "other sessions are in the database: "+who)
		return nil
	}
	return problem.New(problem.Busy, "the database is in use by %s", who).
		WithHint("stop n8n, its workers and every other program that uses the database; if these are no n8n, add --assume-stopped")
}

// sessions are the first others in the database; ours says that all of them are n8keep's.
func (w *Writer) sessions(ctx context.Context) (others []string, ours bool, err error) {
	v := w.writing
	ours = true
	// A user without pg_read_all_stats is shown no kind of other users' sessions; those without a user are the server's own.
	_, err = v.rows(ctx, `SELECT `+sessionName+`, coalesce(a.application_name, '') LIKE 'n8keep%' FROM pg_stat_activity AS a
		WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.usesysid IS NOT NULL
			AND coalesce(a.backend_type, 'client backend') = 'client backend'
			AND (coalesce(a.application_name, '') NOT LIKE 'n8keep%' OR a.application_name LIKE 'n8keep%`+swapperMark+`%' OR a.application_name LIKE 'n8keep-restore%')
		ORDER BY a.pid LIMIT 6`, nil, 2, 0, func(cols []any) error {
		others = append(others, textOf(cols[0]))
		ours = ours && textOf(cols[1]) == "t"
		return nil
	})
	return others, ours, err
}

// sessionName describes a row a of pg_stat_activity.
const sessionName = `format('session %s (%s, user %s%s)', a.pid, coalesce(nullif(a.application_name, ''), 'no name'), a.usename, coalesce(', from ' || host(a.client_addr), ''))`

// lockN8N takes n8keep's own lock, and those that n8n itself takes before it migrates,
// imports or seeds.
func (tx *postgresWrite) lockN8N(ctx context.Context) error {
	second := tx.db.lockKey()
	for _, lock := range []struct{ call, holders string }{
		{fmt.Sprintf("%d, %d", lockChanges, second), lockHolders(lockChanges, second)},
		{fmt.Sprintf("%d, %d", lockMigrations, second), lockHolders(lockMigrations, second)},
		{fmt.Sprint(lockImport), fmt.Sprintf("l.classid = 0 AND l.objid = %d AND l.objsubid = 1", lockImport)},
		{fmt.Sprint(lockSeed), fmt.Sprintf("l.classid = 0 AND l.objid = %d AND l.objsubid = 1", lockSeed)},
	} {
		failpoint.Hit("write.lock")
		if err := tx.exec(ctx, "SELECT pg_advisory_xact_lock("+lock.call+")"); err != nil {
			return tx.busy(ctx, err, "l.locktype = 'advisory' AND "+lock.holders)
		}
	}
	return nil
}

// lockTables keeps everybody else from writing the tables of the catalogue.
func (tx *postgresWrite) lockTables(ctx context.Context) error {
	var names, quoted []string
	for _, t := range tx.catalogued() {
		names = append(names, tx.db.from(t))
		quoted = append(quoted, "'"+strings.ReplaceAll(tx.db.from(t), "'", "''")+"'::regclass")
	}
	failpoint.Hit("write.lock")
	if err := tx.exec(ctx, "LOCK TABLE "+strings.Join(names, ", ")+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		return tx.busy(ctx, err, "l.locktype = 'relation' AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') AND l.relation IN ("+strings.Join(quoted, ", ")+")")
	}
	return nil
}

// catalogued are the tables of the catalogue that this database has.
func (tx *postgresWrite) catalogued() (tables []*Table) {
	for i := range tx.db.tables {
		if t := &tx.db.tables[i]; isCatalogued(t.Name) {
			tables = append(tables, t)
		}
	}
	return tables
}

// busy says who holds what could not be had in time. Holders are a condition on
// pg_locks AS l. The transaction is over afterwards.
func (tx *postgresWrite) busy(ctx context.Context, err error, holders string) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "55P03" && pg.Code != "40P01" { // not had in time, or somebody waits for us
		return tx.explain(ctx, err)
	}
	if e := tx.rollback(); e != nil {
		return errors.Join(tx.explain(ctx, err), e)
	}
	var who []string
	e := tx.rows(ctx, `SELECT DISTINCT `+sessionName+` FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
		WHERE l.granted AND l.pid <> pg_backend_pid() AND coalesce(l.database, 0) IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) AND `+holders+` ORDER BY 1 LIMIT 5`, nil, 1, func(cols []any) error {
		who = append(who, textOf(cols[0]))
		return nil
	})
	if e != nil {
		return errors.Join(tx.explain(ctx, err), e)
	}
	if len(who) == 0 {
		who = []string{"a session that has gone meanwhile"}
	}
	return problem.Wrap(problem.Busy, err, "the database is held locked by %s", strings.Join(who, ", ")).
		WithHint("stop n8n and its workers, and let maintenance such as an index being made end; then try again")
}

// refuseTables refuses what would fail, or do something else, in the middle of the
// work.
func (tx *postgresWrite) refuseTables(ctx context.Context) error {
	var names []string
	for _, t := range tx.catalogued() {
		names = append(names, tx.db.prefix+t.Name)
	}
	return tx.rows(ctx, `SELECT c.relname, has_table_privilege(c.oid, 'UPDATE'), row_security_active(c.oid),
			(SELECT min(g.tgname) FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D' AND g.tgtype & 16 <> 0)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind IN ('r', 'p') ORDER BY c.relname`, []any{tx.db.schema, names}, 4, func(cols []any) error {
		switch name := textOf(cols[0]); {
		case textOf(cols[1]) != "t":
			return problem.New(problem.Unreachable, "this user may not write the table %q", name).
				WithHint("grant it SELECT and UPDATE on all tables of the schema, or use n8n's own user")
		case textOf(cols[2]) == "t":
			return problem.New(problem.Unreachable, "row security hides rows of the table %q from this user", name).
				WithHint("use the owner of the tables, or a user with BYPASSRLS")
		case cols[3] != nil:
			return errTrigger(textOf(cols[3]), name)
		}
		return nil
	})
}

// largeValue is what a page does not hold: with pageRows of them it would be more than
// pageBytes. Such values are read one by one.
const largeValue = pageBytes / pageRows

// pages reads by a cursor, which sees the rows as they were when it was opened, in one
// order, whatever is updated meanwhile. The first further column may be large.
func (tx *postgresWrite) pages(ctx context.Context, q query, fn func([]pageRow) error) (err error) {
	v := tx.db.writing
	ids, order := v.key(q.table)
	value := q.exprs[0]
	single := fmt.Sprintf("SELECT %s FROM %s AS t WHERE %s", value, tx.db.from(q.table), tx.where(q.table, "t", func(i int) string { return fmt.Sprintf("$%d", i+1) }))
	q.exprs = append([]string{fmt.Sprintf("CASE WHEN octet_length(%s) <= %d THEN %s END", value, largeValue, value)}, q.exprs[1:]...)
	tx.cursors++
	cursor := fmt.Sprintf("n8keep_%d", tx.cursors)
	if _, err := tx.pg.Exec(ctx, "DECLARE "+cursor+" NO SCROLL CURSOR FOR "+v.selects(q, ids)+" ORDER BY "+strings.Join(order, ", "), q.args...); err != nil {
		return tx.explain(ctx, err)
	}
	defer func() {
		if err == nil {
			err = tx.explain(ctx, tx.exec(ctx, "CLOSE "+cursor))
		}
	}()
	fetch := fmt.Sprintf("FETCH FORWARD %d FROM %s", pageRows, cursor)
	for {
		page, err := tx.fetch(ctx, fetch, len(ids), len(q.exprs))
		if err != nil {
			return err
		}
		from := 0
		for i, row := range page {
			if row.cols[0] != nil {
				continue
			}
			// What comes before a large value goes first, so that there is one of them at a time.
			if err := fn(page[from:i]); err != nil {
				return err
			}
			from = i + 1
			large := pageRow{row.key, append([]any{""}, row.cols[1:]...)}
			err := tx.rows(ctx, single, row.key, 1, func(cols []any) error {
				large.cols[0] = textOf(cols[0])
				return nil
			})
			if err != nil {
				return err
			}
			if err := fn([]pageRow{large}); err != nil {
				return err
			}
		}
		if err := fn(page[from:]); err != nil {
			return err
		}
		if len(page) < pageRows {
			return nil
		}
	}
}

func (tx *postgresWrite) fetch(ctx context.Context, stmt string, keys, others int) (page []pageRow, err error) {
	rows, err := tx.pg.Query(ctx, stmt, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return nil, tx.explain(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		cols := make([]any, keys+others)
		for i, raw := range rows.RawValues() {
			if raw != nil {
				cols[i] = string(raw)
			}
		}
		page = append(page, pageRow{cols[:keys], cols[keys:]})
	}
	return page, tx.explain(ctx, rows.Err())
}

// where compares the primary key, by its own types, with the texts that arg names.
func (tx *postgresWrite) where(t *Table, alias string, arg func(i int) string) string {
	equal := make([]string, len(t.PrimaryKey))
	for i, name := range t.PrimaryKey {
		equal[i] = alias + "." + quote(name) + " = " + arg(i) + "::" + t.Column(name).Type
	}
	return strings.Join(equal, " AND ")
}

// values is a table v of rows in a FROM clause: the key columns k1, k2, ..., and
// others, all text, one array each.
func (tx *postgresWrite) values(t *Table, others ...string) string {
	var arrays, names []string
	for i := range t.PrimaryKey {
		names = append(names, fmt.Sprintf("k%d", i+1))
	}
	names = append(names, others...)
	for i := range names {
		arrays = append(arrays, fmt.Sprintf("$%d::text[]", i+1))
	}
	return "unnest(" + strings.Join(arrays, ", ") + ") AS v(" + strings.Join(names, ", ") + ")"
}

func keyOf(i int) string { return fmt.Sprintf("v.k%d", i+1) }

// assigned casts a text to the type of a column, where assigning it would not; a cast
// to character varying(n) would cut it short.
func assigned(c *Column, expr string) string {
	if c.Type == "text" || strings.HasPrefix(c.Type, "character") {
		return expr
	}
	return expr + "::" + c.Type
}

func (tx *postgresWrite) update(ctx context.Context, t *Table, c *Column, rows []columnUpdate) (int64, error) {
	args := make([]any, len(t.PrimaryKey)+1)
	for i := range t.PrimaryKey {
		keys := make([]string, len(rows))
		for j, row := range rows {
			keys[j] = textOf(row.key[i])
		}
		args[i] = keys
	}
	texts := make([]string, len(rows))
	for j, row := range rows {
		texts[j] = row.value
	}
	args[len(args)-1] = texts
	failpoint.Hit("write.update")
	tag, err := tx.pg.Exec(ctx, "UPDATE "+tx.db.from(t)+" AS t SET "+quote(c.Name)+" = "+assigned(c, "v.n")+" FROM "+tx.values(t, "n")+" WHERE "+tx.where(t, "t", keyOf), args...)
	if err != nil {
		return 0, tx.explain(ctx, err)
	}
	failpoint.Hit("write.updated")
	return tag.RowsAffected(), nil
}

// changeArgs are the arguments of values(t, "b", "s").
func changeArgs(t *Table, changes []Change) []any {
	args := make([]any, len(t.PrimaryKey)+2)
	for i := range t.PrimaryKey {
		keys := make([]string, len(changes))
		for j, change := range changes {
			keys[j] = change.Key[i]
		}
		args[i] = keys
	}
	before, sums := make([]string, len(changes)), make([]string, len(changes))
	for j, change := range changes {
		before[j], sums[j] = change.Before, hex.EncodeToString(change.AfterSum[:])
	}
	args[len(args)-2], args[len(args)-1] = before, sums
	return args
}

func (tx *postgresWrite) compare(ctx context.Context, t *Table, c *Column, changes []Change) (sum Compared, err error) {
	now := "t." + quote(c.Name) + "::text"
	err = tx.rows(ctx, `WITH v AS MATERIALIZED (SELECT * FROM `+tx.values(t, "b", "s")+`)
		SELECT count(*), count(*) FILTER (WHERE `+now+` = v.b), count(*) FILTER (WHERE `+now+` <> v.b AND encode(sha256(convert_to(`+now+`, 'UTF8')), 'hex') = v.s)
		FROM v JOIN `+tx.db.from(t)+` AS t ON `+tx.where(t, "t", keyOf), changeArgs(t, changes), 3, func(cols []any) error {
		var found int64
		if _, err := fmt.Sscan(textOf(cols[0])+" "+textOf(cols[1])+" "+textOf(cols[2]), &found, &sum.Before, &sum.After); err != nil {
			return err
		}
		sum.Gone = int64(len(changes)) - found
		sum.Other = found - sum.Before - sum.After
		return nil
	})
	if err != nil {
		return Compared{}, tx.explain(ctx, err)
	}
	return sum, nil
}

func (tx *postgresWrite) restore(ctx context.Context, t *Table, c *Column, changes []Change) (sum Restored, err error) {
	now := "t." + quote(c.Name) + "::text"
	failpoint.Hit("write.update")
	err = tx.rows(ctx, `WITH v AS MATERIALIZED (SELECT * FROM `+tx.values(t, "b", "s")+`),
		done AS (UPDATE `+tx.db.from(t)+` AS t SET `+quote(c.Name)+` = `+assigned(c, "v.b")+` FROM v WHERE `+tx.where(t, "t", keyOf)+`
			AND encode(sha256(convert_to(`+now+`, 'UTF8')), 'hex') = v.s AND `+now+` <> v.b RETURNING 1)
		SELECT (SELECT count(*) FROM done), count(*), count(*) FILTER (WHERE `+now+` = v.b) FROM v JOIN `+tx.db.from(t)+` AS t ON `+tx.where(t, "t", keyOf), changeArgs(t, changes), 3, func(cols []any) error {
		var found int64
		if _, err := fmt.Sscan(textOf(cols[0])+" "+textOf(cols[1])+" "+textOf(cols[2]), &sum.Restored, &found, &sum.Same); err != nil {
			return err
		}
		sum.Gone = int64(len(changes)) - found
		sum.Changed = found - sum.Restored - sum.Same
		return nil
	})
	if err != nil {
		return Restored{}, tx.explain(ctx, err)
	}
	failpoint.Hit("write.updated")
	return sum, nil
}

// commit: without an answer nobody knows. The driver's own word whether a statement was
// sent is not to be relied on: it has called a COMMIT unsent that the server did.
func (tx *postgresWrite) commit(ctx context.Context) ([]string, error) {
	if tx.pg.IsClosed() {
		return nil, problem.New(problem.Unreachable, "the connection to the server was lost").WithHint("try again when the server answers")
	}
	failpoint.Hit("write.commit")
	tag, err := tx.pg.Exec(ctx, "COMMIT", pgx.QueryExecModeSimpleProtocol)
	failpoint.Hit("write.committed")
	var pg *pgconn.PgError
	switch {
	case err == nil && tag.String() != "COMMIT":
		return nil, problem.New(problem.Unexpected, "the server rolled the changes back")
	case err == nil:
		return nil, nil
	case !errors.As(err, &pg):
		return nil, errors.Join(ErrCommitUnknown, problem.Wrap(problem.Unreachable, err, "the connection to the server was lost"))
	case strings.HasPrefix(pg.Code, "57P"), strings.HasPrefix(pg.Code, "08"), pg.Code == "40003":
		return nil, errors.Join(ErrCommitUnknown, explainPostgres(err))
	}
	return nil, explainPostgres(err)
}

func (tx *postgresWrite) rollback() error {
	if tx.pg.IsClosed() {
		return nil // the server does it
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := tx.exec(ctx, "ROLLBACK")
	if err != nil && tx.pg.IsClosed() {
		return nil
	}
	return err
}

func (tx *postgresWrite) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := tx.pg.Close(ctx); err != nil && !tx.pg.IsClosed() {
		return err
	}
	return nil
}
