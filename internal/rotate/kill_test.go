package rotate

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

func soak() bool { return os.Getenv("N8KEEP_SOAK") != "" }

// spread are the points, counted from 1, at which a job is killed: all of them in a
// soak, else the last of its kind each, evenly over the job, and always the kinds that
// are named. The engines take others.
func (b *base) spread(names []string, most int, always ...string) (at []int) {
	if soak() {
		for i := range names {
			at = append(at, i+1)
		}
		return at
	}
	last := map[string]int{}
	for i, name := range names {
		last[name] = i + 1
	}
	for _, name := range always {
		at = append(at, last[name])
	}
	kinds := slices.Sorted(maps.Values(last))
	kinds = slices.DeleteFunc(kinds, func(n int) bool { return slices.Contains(at, n) })
	shift := map[n8ndb.Engine]int{n8ndb.SQLite: 1, n8ndb.Postgres: 3}[b.f.Engine]
	for i := range most {
		at = append(at, kinds[(4*i+shift)*len(kinds)/(4*most)])
	}
	slices.Sort(at)
	return at
}

// TestKilled kills a rotation at a point and takes it on, or back; then kills that as
// well. Whatever was left, the database is old or new as a whole, and at the end the
// invariants hold. The short form takes some points, N8KEEP_SOAK=1 all.
func TestKilled(t *testing.T) {
	for name, fixture := range engines() {
		t.Run(name, func(t *testing.T) {
			b := newBase(t, fixture)
			all := failtest.Points(t, b.world(t))
			at := b.spread(all, 2, "write.commit", "write.committed", "keyfile.renamed")
			kinds := map[string]bool{}
			for _, name := range all {
				kinds[name] = true
			}
			t.Logf("%d points of %d kinds, of which %d are met", len(all), len(kinds), len(at))
			if least := map[string]int{"sqlite": 150, "postgres": 100}[name]; len(all) < least || len(kinds) < 40 {
				t.Errorf("only %d points of %d kinds", len(all), len(kinds))
			}
			t.Run("once", func(t *testing.T) { b.killed(t, all, at) })
			t.Run("after a leak", func(t *testing.T) { b.killedLeak(t) })
			t.Run("resume killed", func(t *testing.T) { b.killedTwice(t, "resume", all) })
			if name == "sqlite" || soak() { // the database has no part in it
				t.Run("finalise killed", func(t *testing.T) { b.killedFinalising(t) })
			}
			t.Run("rollback killed", func(t *testing.T) { b.killedTwice(t, "rollback", all) })
		})
	}
}

// killed kills a run at each of the points, and takes it on and back: both in a soak,
// else in turn.
func (b *base) killed(t *testing.T, all []string, at []int) {
	outcomes := map[string]int{}
	for i, n := range at {
		for k, then := range []string{"resume", "rollback"} {
			if !soak() && i%2 != k {
				continue
			}
			j := b.world(t)
			failtest.MustKill(t, j, n)
			where := fmt.Sprintf("killed at point %d of %d (%s), then %s", n, len(all), all[n-1], then)
			outcomes[string(b.whole(t, j, where))+", "+then]++
			b.finish(t, j, then, where)
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("killed at %d points; the database had its values: %v", len(at), outcomes)
	if len(outcomes) != 4 {
		t.Errorf("outcomes %v", outcomes)
	}
}

// finish takes a killed rotation to its end, and checks it.
func (b *base) finish(t *testing.T, j job, then, where string) {
	t.Helper()
	want := newWorld
	if then == "rollback" {
		want = oldWorld
	}
	j.Do = then
	left, err := Open(j.path("state"), testID)
	switch {
	case err == nil && slices.Contains([]State{RollingBack, RollbackCommitting, RollbackApplied}, left.State):
		want = oldWorld // a resume goes on with what was begun
	case problem.KindOf(err) == problem.NotFound: // it never began
		j.Do, want = "run", newWorld
	case err != nil:
		t.Fatalf("%s: %v", where, err)
	}
	_, err = j.do()
	if err != nil && !over(err) {
		t.Fatalf("%s: %v\n%s", where, err, problem.HintOf(err))
	}
	if got := b.check(t, j, where); got != want && err == nil {
		t.Errorf("%s: the world is %s", where, got)
	}
	if journal, err := Open(j.path("state"), testID); err == nil && journal.State == Verified && soak() {
		j.Do = "rollback"
		if _, err := j.do(); err != nil {
			t.Fatalf("%s, rolled back in the end: %v", where, err)
		}
		b.check(t, j, where+", rolled back in the end")
	}
}

// over: the killed command had come to the rotation's end.
func over(err error) bool {
	var p *problem.Error
	return errors.As(err, &p) && strings.Contains(p.Msg, "is over")
}

// whole looks at what a kill has left: all values are under the old key or all under
// the new one.
func (b *base) whole(t *testing.T, j job, where string) holds {
	t.Helper()
	at := j.DSN
	if at == "" {
		// In a copy, so that what SQLite repairs is still there to be repaired.
		at = filepath.Join(t.TempDir(), "copy.sqlite")
		for _, suffix := range []string{"", "-wal", "-journal"} {
			content, err := os.ReadFile(j.path("home", "database.sqlite"+suffix))
			if err != nil && suffix == "" {
				t.Fatal(err)
			}
			if err == nil {
				if err := os.WriteFile(at+suffix, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	db, err := b.open(at)
	if problem.KindOf(err) == problem.Usage && b.f.Engine == n8ndb.SQLite {
		// Left in the middle of a write: a program that may write repairs it.
		b.f.Exec(t, at, "PRAGMA user_version")
		db, err = b.open(at)
	}
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	defer db.Close()
	r := reading(t, db, mustKey(j.Old), []n8ndb.OtherKey{{Name: "new", Key: mustKey(newText)}}, "")
	refs := map[string]int{}
	for _, ref := range r.keys {
		refs[ref]++
	}
	if len(r.closed) > 0 || refs["new"] > 0 && refs[n8ndb.KeyInstance] > 0 {
		t.Fatalf("%s: neither old nor new: %v, %d do not open", where, refs, len(r.closed))
	}
	if refs["new"] > 0 {
		return newWorld
	}
	return oldWorld
}

// killedLeak does the same to a rotation that changes signing secrets and data keys.
func (b *base) killedLeak(t *testing.T) {
	j := b.world(t)
	j.Leak = true
	all := failtest.Points(t, j)
	for i, n := range b.spread(all, 2) {
		j := b.world(t)
		j.Leak = true
		failtest.MustKill(t, j, n)
		then := []string{"resume", "rollback"}[i%2]
		b.finish(t, j, then, fmt.Sprintf("killed at point %d of %d (%s), then %s", n, len(all), all[n-1], then))
		if t.Failed() {
			return
		}
	}
	start := func() job {
		j := b.world(t)
		j.Leak = true
		failtest.Do(t, j)
		j.Do = "rollback"
		return j
	}
	back := failtest.Points(t, start())
	for _, n := range b.spread(back, 1) {
		j := start()
		failtest.MustKill(t, j, n)
		b.finish(t, j, "rollback", fmt.Sprintf("rollback killed at point %d of %d (%s)", n, len(back), back[n-1]))
		if t.Failed() {
			return
		}
	}
}

// killedTwice kills the resume or the rollback of rotations that were killed before
// and after their commit, and of a verified one.
func (b *base) killedTwice(t *testing.T, then string, all []string) {
	killed := 0
	for _, kind := range []string{"rotate.preimages-complete-done", "rotate.commit", "rotate.commit-done", "rotate.place-bundle", "keyfile.renamed", "rotate.start-done", ""} {
		first := 0
		for i, name := range all {
			if name == kind {
				first = i + 1
			}
		}
		if first == 0 && kind != "" {
			t.Fatalf("there is no point %q", kind)
		}
		short := map[string][]string{"resume": {"rotate.place-bundle"}, "rollback": {""}}[then]
		if kind == "" && then == "resume" || !soak() && !slices.Contains(short, kind) {
			continue
		}
		start := func() job {
			j := b.world(t)
			if kind == "" {
				failtest.Do(t, j)
			} else {
				failtest.MustKill(t, j, first)
			}
			j.Do = then
			return j
		}
		second := failtest.Points(t, start())
		for _, n := range b.spread(second, 2) {
			j := start()
			failtest.MustKill(t, j, n)
			killed++
			where := fmt.Sprintf("killed at %q, its %s at point %d of %d (%s)", kind, then, n, len(second), second[n-1])
			b.whole(t, j, where)
			b.finish(t, j, then, where)
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d times", killed)
}

// killedFinalising kills the end of a rotation, which the next one completes.
func (b *base) killedFinalising(t *testing.T) {
	start := func() job {
		j := b.world(t)
		failtest.Do(t, j)
		j.Do = "finalise"
		return j
	}
	all := failtest.Points(t, start())
	for _, n := range b.spread(all, 2) {
		j := start()
		failtest.MustKill(t, j, n)
		where := fmt.Sprintf("finalise killed at point %d of %d (%s)", n, len(all), all[n-1])
		if _, err := j.do(); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		b.check(t, j, where)
		if journal, err := Open(j.path("state"), testID); err != nil || journal.State != Finalised {
			t.Fatalf("%s: %+v, %v", where, journal, err)
		}
		if _, err := os.Stat(j.path("keyring")); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
}
