package pgserver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// ended waits for the watched context; the test's own time limit is the last resort.
func ended(t *testing.T, ctx context.Context) error {
	t.Helper()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(30 * time.Second):
		t.Fatal("the watched context did not end")
		return nil
	}
}

// TestGivesWay: an upgrade that has to change a table of ours.
func TestGivesWay(t *testing.T) {
	dsn := pgtest.New(t)
	admin := session(t, dsn)
	run(t, admin, `CREATE TABLE "execution_entity" (n int)`)
	name := role(t, dsn, "")
	run(t, admin, `ALTER TABLE execution_entity OWNER TO `+quote(name))
	s := open(t, SourceConfig{DSN: dsn})
	ctx, stop := s.Watch(t.Context(), 300*time.Millisecond)
	defer stop()

	dump := session(t, dsn)
	run(t, dump, `SET application_name = '`+app+`'`, `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`, `SET TRANSACTION SNAPSHOT '`+s.Snapshot()+`'`, `SELECT * FROM execution_entity`)
	upgrade := session(t, as(t, dsn, name, "p"))
	run(t, upgrade, `SET application_name = 'n8n'`)
	done := make(chan error, 1)
	go func() {
		_, err := upgrade.Exec(context.Background(), `ALTER TABLE execution_entity ADD COLUMN m int`)
		done <- err
	}()
	began := time.Now()
	err := ended(t, ctx)
	if problem.KindOf(err) != problem.Busy {
		t.Fatal(err)
	}
	for _, want := range []string{`of user "` + name + `" (n8n)`, `wants AccessExclusiveLock on table "execution_entity"`, "has waited", "the backup gave way"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, which does not say %q", err, want)
		}
	}
	if !strings.Contains(problem.HintOf(err), "--yield-after") {
		t.Errorf("hint %q", problem.HintOf(err))
	}
	if waited := time.Since(began); waited < 300*time.Millisecond {
		t.Errorf("gave way after %s already", waited)
	}
	if ctx.Err() == nil || context.Cause(ctx) != err {
		t.Error("the cause is not the context's")
	}
	run(t, dump, `ROLLBACK`)
	if err := <-done; err != nil {
		t.Errorf("the upgrade: %v", err)
	}
}

// TestGivesWayToIndexes: CREATE INDEX CONCURRENTLY waits for transactions, not for a table.
func TestGivesWayToTransactions(t *testing.T) {
	dsn := pgtest.New(t)
	admin := session(t, dsn)
	run(t, admin, `CREATE TABLE w (n int)`)
	s := open(t, SourceConfig{DSN: dsn})
	ctx, stop := s.Watch(t.Context(), 100*time.Millisecond)
	defer stop()
	done := make(chan error, 1)
	go func() {
		_, err := admin.Exec(context.Background(), `CREATE INDEX CONCURRENTLY ON w (n)`)
		done <- err
	}()
	if err := ended(t, ctx); problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "waits for our transaction to end") {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestPatient: somebody waits, but not for us, or not for long enough, or may wait.
func TestPatient(t *testing.T) {
	dsn := pgtest.New(t)
	admin := session(t, dsn)
	run(t, admin, `CREATE TABLE a (n int)`, `CREATE TABLE b (n int)`)
	s := open(t, SourceConfig{DSN: dsn})
	never, stopNever := s.Watch(t.Context(), 0)
	defer stopNever()
	ctx, stop := s.Watch(t.Context(), 80*time.Millisecond)
	defer stop()

	holder, waits := session(t, dsn), session(t, dsn)
	run(t, holder, `BEGIN`, `LOCK TABLE a`)
	run(t, waits, `SET lock_timeout = '600ms'`)
	if _, err := waits.Exec(t.Context(), `LOCK TABLE a`); err == nil {
		t.Fatal("locked twice")
	}
	if ctx.Err() != nil {
		t.Errorf("gave way to somebody who waited for others: %v", context.Cause(ctx))
	}
	dump := session(t, dsn)
	run(t, dump, `SET application_name = '`+app+`'`, `BEGIN`, `SELECT * FROM b`)
	if _, err := waits.Exec(t.Context(), `ALTER TABLE b ADD m int`); err == nil {
		t.Fatal("altered a table that is read")
	}
	if err := ended(t, ctx); problem.KindOf(err) != problem.Busy {
		t.Error(err)
	}
	if never.Err() != nil {
		t.Errorf("without yielding: %v", context.Cause(never))
	}
	stopNever()
	if context.Cause(never) != context.Canceled {
		t.Errorf("after its end: %v", context.Cause(never))
	}
}

func TestSessionTerminated(t *testing.T) {
	dsn := pgtest.New(t)
	s := open(t, SourceConfig{DSN: dsn})
	ctx, stop := s.Watch(t.Context(), time.Minute)
	defer stop()
	run(t, session(t, dsn), fmt.Sprintf(`SELECT pg_terminate_backend(%d)`, s.pid))
	err := ended(t, ctx)
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "the server ended the session that holds the backup's snapshot: terminating connection due to administrator command") ||
		!strings.Contains(problem.HintOf(err), "repeat the backup") {
		t.Errorf("%v\n%v", err, problem.HintOf(err))
	}
}

// TestWatcherTerminated: the watcher comes back; the backup goes on.
func TestWatcherTerminated(t *testing.T) {
	dsn := pgtest.New(t)
	admin := session(t, dsn)
	run(t, admin, `CREATE TABLE b (n int)`)
	s := open(t, SourceConfig{DSN: dsn})
	ctx, stop := s.Watch(t.Context(), 200*time.Millisecond)
	defer stop()
	for killed := false; !killed; {
		killed = value[int](t, admin, `SELECT count(*) FROM pg_stat_activity WHERE CASE WHEN application_name = $1 AND pid <> $2::int THEN pg_terminate_backend(pid) END`, app, int(s.pid)) > 0
	}
	dump := session(t, dsn)
	run(t, dump, `SET application_name = '`+app+`'`, `BEGIN`, `SELECT * FROM b`)
	waits := session(t, dsn)
	done := make(chan error, 1)
	go func() {
		_, err := waits.Exec(context.Background(), `DROP TABLE b`)
		done <- err
	}()
	if err := ended(t, ctx); problem.KindOf(err) != problem.Busy {
		t.Error(err)
	}
	run(t, dump, `ROLLBACK`)
	<-done
}

// TestNobodyWatches: a role without a second connection cannot be watched.
func TestNobodyWatches(t *testing.T) {
	dsn := pgtest.New(t)
	name := role(t, dsn, "CONNECTION LIMIT 1")
	s := open(t, SourceConfig{DSN: as(t, dsn, name, "p")})
	w := &watcher{source: s, yieldAfter: 20 * time.Millisecond, patience: 100 * time.Millisecond}
	err := w.run(t.Context())
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "could not be seen any more whether the backup holds up others") || !strings.Contains(err.Error(), "no connection left") {
		t.Error(err)
	}
}

func TestStopsWithItsContext(t *testing.T) {
	dsn := pgtest.New(t)
	s := open(t, SourceConfig{DSN: dsn})
	outer, cancel := context.WithCancelCause(t.Context())
	ctx, stop := s.Watch(outer, time.Minute)
	cancel(errNone)
	if err := ended(t, ctx); err != errNone {
		t.Error(err)
	}
	stop()
	if n := value[int](t, session(t, dsn), `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, app); n > 2 {
		t.Errorf("%d sessions are left", n)
	}
}
