package pgserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// Swapped is what became of the database that stood there.
type Swapped struct {
	Kept string // the name it has now; "" when there was none, or it was empty
}

// DropLine is the statement that removes the old database for good.
func (s Swapped) DropLine() string {
	if s.Kept == "" {
		return ""
	}
	return "DROP DATABASE " + quote(s.Kept) + ";"
}

// Swap gives the new database the name and keeps the old one under a dated name.
// Both are closed, their sessions ended, and renamed and opened again in one
// transaction: whoever looks finds the old one or the new one. When sessions of
// others are in the old database they end only with endOthers; without it, Swap
// refuses (Busy). After an error the old database stands as it stood and is open.
func (t *Target) Swap(ctx context.Context, n *Temporary, id string, endOthers bool) (Swapped, error) {
	if err := t.revive(ctx); err != nil {
		return Swapped{}, err
	}
	refuse := func() error {
		if !n.dest.Exists || endOthers {
			return nil
		}
		others, err := t.sessions(ctx, t.name)
		if err == nil && len(others) > 0 {
			err = inUse(t.name, others)
		}
		return err
	}
	if err := refuse(); err != nil {
		return Swapped{}, err
	}
	kept := ""
	if n.dest.Exists {
		kept = affixed(t.name, infixKept+t.cfg.Now().UTC().Format("20060102")+"_"+n.suffix)
	}
	if err := t.closeBoth(ctx, n, id); err != nil {
		return t.settle(ctx, n, kept, err)
	}
	// Nobody can come any more; who came since the first look is not ended unasked.
	if err := refuse(); err != nil {
		return t.settle(ctx, n, kept, err)
	}
	err := t.endSessions(ctx, n.Name)
	if err == nil && n.dest.Exists {
		err = t.endSessions(ctx, t.name)
	}
	if err == nil {
		err = t.rename(ctx, n, kept, id)
	}
	if err != nil {
		return t.settle(ctx, n, kept, err)
	}
	t.cfg.Logger.Info("databases swapped", "database", t.name, "kept", kept, "archive", id)
	return Swapped{Kept: t.dropEmpty(ctx, n, kept)}, nil
}

// closeBoth lets nobody in any more. The comment comes with it: it is how the
// next run knows that the database was closed by us.
func (t *Target) closeBoth(ctx context.Context, n *Temporary, id string) error {
	err := pgx.BeginFunc(ctx, t.admin, func(tx pgx.Tx) error {
		statements := []string{
			fmt.Sprintf("COMMENT ON DATABASE %s IS %s", quote(n.Name), literal(t.comment(stageSwapping, id))),
			fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS false", quote(n.Name)),
		}
		if n.dest.Exists {
			statements = append(statements, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS false", quote(t.name)))
		}
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
	failpoint.Hit("pgserver.closed")
	return explain(ctx, err, "closing database %q", t.name)
}

// endSessions ends everybody in a closed database and waits until they are gone.
func (t *Target) endSessions(ctx context.Context, name string) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		var left int
		err := t.admin.QueryRow(ctx, `SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usesysid IS NOT NULL AND pid <> pg_backend_pid() OFFSET 0) AS ended`, name).Scan(&left)
		if err != nil {
			e := explain(ctx, err, "ending the sessions in database %q", name)
			var pg *pgconn.PgError
			if errors.As(err, &pg) && pg.Code == "42501" {
				return problem.Wrap(problem.Busy, err, "a session in database %q cannot be ended", name).WithHint("end it, or use an --admin-database login that may (pg_signal_backend)")
			}
			return e
		}
		if left == 0 {
			failpoint.Hit("pgserver.sessions-ended")
			return nil
		}
		if time.Now().After(deadline) {
			return problem.New(problem.Busy, "%d sessions in database %q do not end", left, name).WithHint("end them, then repeat the restore")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// rename is the moment that counts. The comments of the databases are part of it.
func (t *Target) rename(ctx context.Context, n *Temporary, kept, id string) error {
	err := pgx.BeginFunc(ctx, t.admin, func(tx pgx.Tx) error {
		var statements []string
		comment := "NULL"
		if n.dest.Exists {
			var old *string
			if err := tx.QueryRow(ctx, `SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1`, t.name).Scan(&old); err != nil {
				return err
			}
			if old != nil {
				comment = literal(*old)
			}
			statements = append(statements,
				fmt.Sprintf("ALTER DATABASE %s RENAME TO %s", quote(t.name), quote(kept)),
				fmt.Sprintf("COMMENT ON DATABASE %s IS %s", quote(kept), literal(fmt.Sprintf("n8keep: %q as it was before the restore of %s; drop it when n8n works", t.name, id))))
		}
		statements = append(statements,
			fmt.Sprintf("ALTER DATABASE %s RENAME TO %s", quote(n.Name), quote(t.name)),
			fmt.Sprintf("COMMENT ON DATABASE %s IS %s", quote(t.name), comment),
			fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS true", quote(t.name)))
		if n.dest.Exists {
			statements = append(statements, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS true", quote(kept)))
		}
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s); err != nil {
				return err
			}
			failpoint.Hit("pgserver.renaming")
		}
		return nil
	})
	failpoint.Hit("pgserver.renamed")
	return explain(ctx, err, "giving the restored database the name %q", t.name)
}

// settle finds out how a swap that failed ended: the answer to a COMMIT can be
// lost. It undoes what is left to undo, even when ctx is over.
func (t *Target) settle(ctx context.Context, n *Temporary, kept string, why error) (Swapped, error) {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := t.revive(after); err != nil {
		return Swapped{}, t.unsettled(why, err)
	}
	var name string
	err := t.admin.QueryRow(after, `SELECT datname::text FROM pg_database WHERE oid = $1`, n.oid).Scan(&name)
	if err != nil {
		return Swapped{}, t.unsettled(why, err)
	}
	if name == t.name {
		t.cfg.Logger.Warn("swapped, although the answer was lost", "error", why)
		return Swapped{Kept: kept}, nil
	}
	if err := t.reopen(after, n); err != nil {
		return Swapped{}, t.unsettled(why, err)
	}
	return Swapped{}, why
}

// revive connects and locks again when the session was lost, which hours of
// loading make likely. Whoever had the lock in between may have dropped what is
// ours, but nothing else.
func (t *Target) revive(ctx context.Context) error {
	if _, err := t.admin.Exec(ctx, `SELECT 1`); err == nil || !t.admin.IsClosed() || ctx.Err() != nil {
		return explain(ctx, err, "asking the server")
	}
	if err := t.connect(ctx); err != nil {
		return err
	}
	return t.lock(ctx)
}

func (t *Target) unsettled(why, err error) error {
	return problem.Wrap(problem.KindOf(why), why, "the swap of database %q failed, and whether it is open could not be seen", t.name).
		WithHint("%v", err).WithHint("repeat the command: it first puts in order what is left")
}

// reopen opens the old database after a swap that came to nothing.
func (t *Target) reopen(ctx context.Context, n *Temporary) error {
	if !n.dest.Exists {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_, err := t.admin.Exec(ctx, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS true", quote(t.name)))
	failpoint.Hit("pgserver.reopened")
	return explain(ctx, err, "opening database %q again", t.name)
}

// dropEmpty removes the old database when it was empty and still is, and returns
// the name of what is kept. Nobody is told of an error: an empty database is left.
func (t *Target) dropEmpty(ctx context.Context, n *Temporary, kept string) string {
	if kept == "" || !n.dest.Empty {
		return kept
	}
	conn, err := t.enterAsAdmin(ctx, kept)
	if err == nil {
		var found contents
		found, err = t.objects(ctx, conn)
		conn.Close(context.WithoutCancel(ctx))
		if err == nil && !found.any {
			if err = t.drop(ctx, kept); err == nil {
				return ""
			}
		}
	}
	t.cfg.Logger.Warn("the empty database that stood there was not removed", "database", kept, "error", err)
	return kept
}

// The stages that the comment of a temporary database names.
const (
	stageLoading  = "being loaded"
	stageSwapping = "taking its place"
)

// comment marks a temporary database. Its first part is what [Target.left] reads.
func (t *Target) comment(stage, id string) string {
	return t.commentHead() + fmt.Sprintf("%s; archive %s; n8keep removes it", stage, id)
}

func (t *Target) commentHead() string {
	if t.scratch != "" {
		return fmt.Sprintf("n8keep: temporary database of a verification connected to %q, ", t.scratch)
	}
	return fmt.Sprintf("n8keep: temporary database of a restore to %q, ", t.name)
}

// Left is what a killed restore of this database left.
type Left struct {
	Database string // a temporary database
	Closed   bool   // the database itself was closed for the swap, and is still
}

// left finds temporary databases of killed restores: ours by name, and by comment
// or by the mark that a database is created with.
func (t *Target) left(ctx context.Context) ([]Left, error) {
	stem := affixed(t.name, infixTemporary+"xxxxxx")
	stem = strings.TrimSuffix(stem, "xxxxxx")
	rows, err := t.admin.Query(ctx, `SELECT datname::text, coalesce(shobj_description(oid, 'pg_database'), ''), NOT datallowconn AND datconnlimit = $1 FROM pg_database
		WHERE starts_with(datname, $2) AND length(datname) = length($2) + 6 ORDER BY 1`, t.mark(), stem)
	if err != nil {
		return nil, explain(ctx, err, "looking for what killed restores left")
	}
	type row struct {
		Name, Comment string
		Unfinished    bool
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
	if err != nil {
		return nil, explain(ctx, err, "looking for what killed restores left")
	}
	var list []Left
	for _, r := range all {
		stage, ours := strings.CutPrefix(r.Comment, t.commentHead())
		if !ours && !(r.Unfinished && r.Comment == "") {
			continue
		}
		list = append(list, Left{Database: r.Name, Closed: strings.HasPrefix(stage, stageSwapping)})
	}
	return list, nil
}

// Recover removes what killed restores of this database left and opens the
// database if one of them had closed it. It returns what it did, in words.
func (t *Target) Recover(ctx context.Context) ([]string, error) {
	list, err := t.left(ctx)
	if err != nil {
		return nil, err
	}
	did := []string{}
	for _, l := range list {
		if l.Closed {
			tag, err := t.admin.Exec(ctx, `SELECT FROM pg_database WHERE datname = $1 AND NOT datallowconn`, t.name)
			if err != nil {
				return did, explain(ctx, err, "looking for database %q", t.name)
			}
			if tag.RowsAffected() > 0 {
				if _, err := t.admin.Exec(ctx, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS true", quote(t.name))); err != nil {
					return did, explain(ctx, err, "opening database %q again", t.name)
				}
				failpoint.Hit("pgserver.recover-opened")
				did = append(did, fmt.Sprintf("opened database %q again, which a killed restore had closed", t.name))
			}
		}
		if err := t.drop(ctx, l.Database); err != nil {
			return did, err
		}
		did = append(did, fmt.Sprintf("removed database %q, which a killed %s had left", l.Database, t.purpose()))
	}
	return did, nil
}
