package rotate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// with does a job in this process, with an operation that fails.
func (j job) with(t *testing.T, ctx context.Context, fault func(op, name string) error) (*Result, error) {
	t.Helper()
	cfg, err := j.config()
	if err != nil {
		t.Fatal(err)
	}
	cfg.fault = fault
	switch j.Do {
	case "rollback":
		return Rollback(ctx, cfg)
	case "resume":
		return Resume(ctx, cfg)
	}
	return Run(ctx, cfg)
}

// operations are the operations of a job, each named with how often it came before.
func (b *base) operations(t *testing.T, start func() job) (names []string) {
	t.Helper()
	count := map[string]int{}
	j := start()
	if _, err := j.with(t, t.Context(), func(op, _ string) error {
		count[op]++
		names = append(names, fmt.Sprintf("%s %d", op, count[op]))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

// at makes a fault that strikes at one operation of a list.
func at(target string, strike func() error) func(op, name string) error {
	count := map[string]int{}
	return func(op, _ string) error {
		count[op]++
		if fmt.Sprintf("%s %d", op, count[op]) == target {
			return strike()
		}
		return nil
	}
}

// TestFullDisk lets each operation of a rotation fail, as a full disk would, and each
// be the moment at which it is cancelled. The error says what is and what to do, and
// that works.
func TestFullDisk(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	all := b.operations(t, func() job { return b.world(t) })
	if len(all) < 25 {
		t.Fatalf("only %d operations: %v", len(all), all)
	}
	for i, target := range all {
		if !soak() && i%8 != 0 && !strings.HasPrefix(target, "commit") {
			continue
		}
		for k, kind := range []problem.Kind{problem.Unexpected, problem.Interrupted} {
			if !soak() && i/8%2 != k && !strings.HasPrefix(target, "commit") {
				continue
			}
			ctx, cancel := context.WithCancel(t.Context())
			strike := func() error { return fmt.Errorf("writing: %w", syscall.ENOSPC) }
			if kind == problem.Interrupted {
				strike = func() error { cancel(); return nil }
			}
			j := b.world(t)
			r, err := j.with(t, ctx, at(target, strike))
			cancel()
			where := fmt.Sprintf("%s at operation %q", kind, target)
			if err == nil { // cancelled when there was nothing more to do
				b.check(t, j, where)
				continue
			}
			if problem.KindOf(err) != kind {
				t.Fatalf("%s: %v", where, err)
			}
			if r == nil {
				continue // no journal, nothing begun
			}
			hint := problem.HintOf(err)
			if !r.Journal.State.Ended() && !strings.Contains(hint, testID) || !strings.Contains(hint, r.Journal.Situation()) {
				t.Errorf("%s: hint %q", where, hint)
			}
			if kind == problem.Unexpected && !strings.Contains(hint, "make room on that disk first") {
				t.Errorf("%s: hint %q", where, hint)
			}
			if r.Journal.State.Ended() {
				b.check(t, j, where)
				continue
			}
			b.finish(t, j, []string{"resume", "rollback"}[(i+k)%2], where)
			if t.Failed() {
				return
			}
		}
	}
}

// TestFullDiskGoingBack does the same to a rollback.
func TestFullDiskGoingBack(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	start := func() job {
		j := b.world(t)
		failtest.Do(t, j)
		j.Do = "rollback"
		return j
	}
	all := b.operations(t, start)
	for i, target := range all {
		if !soak() && i%8 != 0 {
			continue
		}
		j := start()
		_, err := j.with(t, t.Context(), at(target, func() error { return fmt.Errorf("writing: %w", syscall.ENOSPC) }))
		if err == nil {
			t.Fatalf("operation %q did not fail", target)
		}
		b.finish(t, j, []string{"resume", "rollback"}[i%2], "operation "+target)
		if t.Failed() {
			return
		}
	}
}

// TestLostConnection ends the session on the server while it works.
func TestLostConnection(t *testing.T) {
	b := newBase(t, "2.41.1-postgres")
	targets := []string{"commit 1"}
	if soak() {
		targets = []string{"preimages-complete 1", "journal 9", "commit 1"}
	}
	for _, target := range targets {
		j := b.world(t)
		r, err := j.with(t, t.Context(), at(target, func() error { return b.endSessions(j) }))
		want := "n8keep rotate resume " + testID
		if target == "preimages-complete 1" {
			want = "n8n runs again with the old key"
		}
		if problem.KindOf(err) != problem.Unreachable || !strings.Contains(problem.HintOf(err), want) {
			t.Errorf("%s: kind %q, %v, hint %q", target, problem.KindOf(err), err, problem.HintOf(err))
		}
		if r.Journal.State.Ended() {
			b.check(t, j, target)
			continue
		}
		b.finish(t, j, "resume", target)
	}
}

func (b *base) endSessions(j job) error {
	u, err := url.Parse(j.DSN)
	if err != nil {
		return err
	}
	name := u.Path[1:]
	u.Path = "/postgres"
	db, err := sql.Open("pgx", u.String())
	if err != nil {
		return err
	}
	defer db.Close()
	var n int
	err = db.QueryRow(`SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = $1`, name).Scan(&n)
	if err == nil && n == 0 {
		err = errors.New("there was no session")
	}
	return err
}
