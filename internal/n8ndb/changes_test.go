package n8ndb_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestWriterAndSwapper: n8keep's own lock keeps them apart, whatever their sessions are
// called, and a Swapper that is open counts as somebody in the database.
func TestWriterAndSwapper(t *testing.T) {
	ctx := context.Background()
	f := n8ndbtest.Load(t, "2.41.1-postgres-keyrotation")
	dsn := f.Copy(t)
	s := openSwapper(t, f, dsn)
	cfg := passConfig(t, s, f, "")
	_, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn})
	if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "(n8keep test writes ") {
		t.Errorf("beside a Swapper: %v", err)
	}

	w, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn, AssumeStopped: true})
	if err != nil {
		t.Fatal(err)
	}
	const busy = "another n8keep is changing every secret of this database"
	if _, err := s.AddDataKey(ctx, n8ndbtest.Receipt(t), f.Key); problem.KindOf(err) != problem.Busy || err.Error() != busy || problem.HintOf(err) == "" {
		t.Errorf("a data key beside a Writer: %v", err)
	}
	if done, err := s.Pass(ctx, cfg); problem.KindOf(err) != problem.Busy || err.Error() != busy || done.Written != 0 {
		t.Errorf("a walk beside a Writer: %v, %+v", err, done)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	// The other way round: a transaction that has begun is waited for, and named.
	other := session(t, dsn, "n8keep test writes 1")
	run(t, other, "BEGIN", "SELECT pg_advisory_xact_lock_shared(28216, ('x' || substr(encode(sha256('public:'), 'hex'), 1, 8))::bit(32)::int)")
	_, err = n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn, AssumeStopped: true, LockTimeout: 50 * time.Millisecond})
	if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "held locked by session") || !strings.Contains(err.Error(), "(n8keep test writes 1,") {
		t.Errorf("beside a transaction: %v", err)
	}
	run(t, other, "ROLLBACK")
	if done, err := s.Pass(ctx, cfg); err != nil || done.Written == 0 {
		t.Errorf("%v, %+v", err, done)
	}
}

// TestPassNeedsTheSameKeys: what was opened with keys that are others by now is not
// written; a further data key is no reason.
func TestPassNeedsTheSameKeys(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite-keyrotation", "2.41.1-postgres-keyrotation"} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			s := openSwapper(t, f, location)
			cfg := passConfig(t, s, f, "")
			if _, err := s.AddDataKey(ctx, n8ndbtest.Receipt(t), f.Key); err != nil {
				t.Fatal(err)
			}
			cfg.BatchRows = 1
			changed := false
			cfg.Wait = func(context.Context, int, time.Duration) error {
				if !changed {
					changed = true
					f.Exec(t, location, `UPDATE deployment_key SET value = value || '=' WHERE id = $1`, activeID(f))
				}
				return nil
			}
			done, err := s.Pass(ctx, cfg)
			if problem.KindOf(err) != problem.Busy || err.Error() != "n8n's keys in the database were changed meanwhile" ||
				!strings.Contains(problem.HintOf(err), "run the command again") || done.Written != 1 {
				t.Errorf("%v, %+v", err, done)
			}
		})
	}
}

// TestDataKeyOfTheKeysInside: the instance key is tried on what the transaction sees.
func TestDataKeyOfTheKeysInside(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite-keyrotation", "2.41.1-postgres-keyrotation"} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			s := openSwapper(t, f, location)
			// Somebody is in the middle of changing the keys, and commits while it is waited for.
			tx, err := rawDB(t, f, location).Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback()
			if f.Engine == n8ndb.Postgres {
				if _, err := tx.Exec(`SELECT pg_advisory_xact_lock(1008)`); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := tx.Exec(`UPDATE deployment_key SET value = 'x' || value WHERE type = 'data_encryption'`); err != nil {
				t.Fatal(err)
			}
			receipt, ended := n8ndbtest.Receipt(t), make(chan error)
			go func() {
				_, err := s.AddDataKey(ctx, receipt, f.Key)
				ended <- err
			}()
			select {
			case err := <-ended:
				t.Fatalf("it did not wait: %v", err)
			case <-time.After(300 * time.Millisecond):
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; problem.KindOf(err) != problem.WrongKey {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestFlushBesideAReader: a reader keeps the log from being moved; it is on the disk
// all the same, and the version of the database stays.
func TestFlushBesideAReader(t *testing.T) {
	ctx := context.Background()
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	location := f.Copy(t)
	f.Exec(t, location, `PRAGMA journal_mode = wal`)
	f.Exec(t, location, `PRAGMA user_version = 7`)
	s := openSwapper(t, f, location)
	db := rawDB(t, f, location)
	rows, err := db.Query(`SELECT name FROM migrations`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	rows.Next()
	if done, err := s.Pass(ctx, passConfig(t, s, f, activeID(f))); err != nil || done.Written == 0 {
		t.Fatalf("%v, %+v", err, done)
	}
	frames := func() (n int) {
		var busy, moved int
		if err := rawDB(t, f, location).QueryRow(`PRAGMA wal_checkpoint(PASSIVE)`).Scan(&busy, &n, &moved); err != nil || moved >= n {
			t.Fatalf("%v: %d of %d frames moved", err, moved, n)
		}
		return n
	}
	before := frames()
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if after := frames(); after != before+1 {
		t.Errorf("%d frames, then %d: no commit that waits for the disk", before, after)
	}
	var version int
	if err := rawDB(t, f, location).QueryRow(`PRAGMA user_version`).Scan(&version); err != nil || version != 7 {
		t.Errorf("%v: version %d", err, version)
	}
}

// TestWriterInADeadlock: whoever waits for us while we wait for them is in the way, too.
func TestWriterInADeadlock(t *testing.T) {
	ctx := context.Background()
	f := n8ndbtest.Load(t, "2.41.1-postgres")
	dsn := f.Copy(t)
	other, watch := session(t, dsn, "n8n main"), session(t, dsn, "watch")
	run(t, other, "SET deadlock_timeout = '60s'", "BEGIN", "SELECT pg_advisory_xact_lock(1007)")
	ended := make(chan error)
	go func() {
		w, err := n8ndb.WritePostgres(ctx, n8ndb.PostgresWriteConfig{DSN: dsn, AssumeStopped: true, LockTimeout: time.Minute})
		if err == nil {
			w.Close()
		}
		ended <- err
	}()
	for waits := false; !waits; {
		if err := watch.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha256.Sum256([]byte("public:"))
	run(t, other, fmt.Sprintf("SELECT pg_advisory_xact_lock(1005, %d)", int32(binary.BigEndian.Uint32(sum[:4]))))
	if err := <-ended; problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "the database is held locked by session") || !strings.Contains(err.Error(), "(n8n main,") {
		t.Errorf("%v", err)
	}
}
