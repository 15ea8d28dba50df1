package pgserver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/problem"
)

// Watch returns a context for everything that reads in the snapshot. It ends,
// with a cause for people ([context.Cause]),
//
//   - Busy, when another session has waited for longer than yieldAfter for a lock
//     that a session with our AppName holds: a backup does not hold up an upgrade.
//     A yieldAfter of 0 or less never gives way;
//   - Unreachable, when the session with the snapshot is lost, or when nobody
//     could watch for some time.
//
// The function ends the watch and waits for it; it must be called.
func (s *Source) Watch(ctx context.Context, yieldAfter time.Duration) (context.Context, func()) {
	watched, cancel := context.WithCancelCause(ctx)
	w := &watcher{source: s, yieldAfter: yieldAfter, waiting: map[uint32]time.Time{}, patience: max(20*time.Second, yieldAfter)}
	var done sync.WaitGroup
	done.Go(func() {
		if err := w.run(watched); err != nil {
			cancel(err)
		}
	})
	return watched, func() {
		cancel(context.Canceled)
		done.Wait()
	}
}

// watcher has a connection of its own: the one with the snapshot has nothing to
// say about others, because what it reads stands still.
type watcher struct {
	source     *Source
	yieldAfter time.Duration
	patience   time.Duration
	conn       *pgx.Conn
	blind      time.Time            // since when it has no connection
	waiting    map[uint32]time.Time // sessions that wait for us, and since when
}

func (w *watcher) interval() time.Duration {
	if w.yieldAfter <= 0 {
		return time.Second
	}
	return min(max(w.yieldAfter/4, 20*time.Millisecond), time.Second)
}

// run returns why the backup has to end; nil when ctx ended.
func (w *watcher) run(ctx context.Context) error {
	defer func() {
		if w.conn != nil {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			w.conn.Close(closing)
		}
	}()
	tick := time.NewTicker(w.interval())
	defer tick.Stop()
	for {
		if err := w.source.alive(ctx); err != nil && ctx.Err() == nil {
			return w.source.lost(err)
		}
		err := w.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look sees who waits. It returns an error only when the backup has to end.
func (w *watcher) look(ctx context.Context) error {
	if w.yieldAfter <= 0 {
		return nil
	}
	if w.conn == nil {
		conn, err := connect(ctx, w.source.pgx, w.source.cfg.AppName)
		if err != nil {
			return w.unseen(err)
		}
		w.conn = conn
	}
	found, err := w.waiters(ctx)
	if err != nil {
		w.conn.Close(ctx)
		w.conn = nil
		return w.unseen(err)
	}
	if !w.blind.IsZero() {
		w.source.cfg.Logger.Info("watcher connected again")
		w.blind = time.Time{}
	}
	now := time.Now()
	still := make(map[uint32]time.Time, len(found))
	for _, x := range found {
		since, ok := w.waiting[x.pid]
		if !ok {
			since = now
		}
		still[x.pid] = since
		if waited := now.Sub(since); waited >= w.yieldAfter {
			return problem.New(problem.Busy, "%s has waited %s for this backup: the backup gave way", x, waited.Round(100*time.Millisecond)).
				WithHint("repeat it when the upgrade or the maintenance is done, or let others wait for longer with --yield-after")
		}
	}
	w.waiting = still
	return nil
}

// unseen remembers since when nobody watches; for too long a backup must not go
// on like that.
func (w *watcher) unseen(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil // the backup is over
	}
	now := time.Now()
	if w.blind.IsZero() {
		w.blind = now
		w.source.cfg.Logger.Warn("watcher has no connection", "error", err)
	}
	if now.Sub(w.blind) < w.patience {
		return nil
	}
	var known *problem.Error
	text := lastCause(err)
	if errors.As(err, &known) {
		text = known.Error()
	}
	return &problem.Error{Kind: problem.Unreachable, Err: err, Msg: "it could not be seen any more whether the backup holds up others: " + text,
		Hint: "the backup needs one connection to watch: repeat it when the server has one to give"}
}

// waiter is a session that waits for one of ours.
type waiter struct {
	pid                           uint32
	user, application, mode, what string
}

func (x waiter) String() string {
	s := fmt.Sprintf("session %d", x.pid)
	if x.user != "" {
		s += fmt.Sprintf(" of user %q", x.user)
	}
	if x.application != "" {
		s += fmt.Sprintf(" (%s)", x.application)
	}
	if x.what == "" {
		return s + ", which waits for our transaction to end,"
	}
	return s + fmt.Sprintf(", which wants %s on table %q,", x.mode, x.what)
}

// waiters reads only what every role may read. pg_blocking_pids stops the lock
// table for a moment, so it is asked only about sessions that wait.
func (w *watcher) waiters(ctx context.Context) ([]waiter, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	rows, err := w.conn.Query(ctx, `WITH waits AS MATERIALIZED (SELECT pid, mode, database, relation FROM pg_catalog.pg_locks WHERE NOT granted)
		SELECT DISTINCT ON (l.pid) l.pid, coalesce(a.usename::text, ''), coalesce(a.application_name, ''), l.mode,
			coalesce(c.relname::text, '')
		FROM waits l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
			LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
		WHERE a.application_name IS DISTINCT FROM $1 AND pg_catalog.pg_blocking_pids(l.pid) && ARRAY(SELECT pid FROM pg_catalog.pg_stat_activity WHERE application_name = $1)
		ORDER BY l.pid, l.relation NULLS LAST`, w.source.cfg.AppName)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (waiter, error) {
		var x waiter
		var pid int32
		err := r.Scan(&pid, &x.user, &x.application, &x.mode, &x.what)
		x.pid = uint32(pid)
		return x, err
	})
}
