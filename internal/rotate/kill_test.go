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

// kinds are the kinds of points of all jobs of this process, and whether a job was killed
// at one, by engine.
var kinds = map[n8ndb.Engine]map[string]bool{n8ndb.SQLite: {}, n8ndb.Postgres: {}}

// met: some job was killed at a point of that kind.
func met(kind string) bool { return kinds[n8ndb.SQLite][kind] || kinds[n8ndb.Postgres][kind] }

// mustKill kills a job at a point of those that spread has returned.
func (b *base) mustKill(t *testing.T, j job, names []string, n int) {
	t.Helper()
	failtest.MustKill(t, j, n)
	kinds[b.f.Engine][names[n-1]] = true
}

// spread are the points, counted from 1, at which a job is killed: all of them in a
// soak, else always the last of the kinds that are named, and the last each of as many
// others, evenly over the job, of those at which no job was killed before. So each job
// and each engine take others.
func (b *base) spread(names []string, most int, always ...string) (at []int) {
	last := map[string]int{}
	for i, name := range names {
		last[name] = i + 1
		if !kinds[b.f.Engine][name] {
			kinds[b.f.Engine][name] = false
		}
		if soak() {
			at = append(at, i+1)
		}
	}
	if soak() {
		return at
	}
	for _, name := range always {
		at = append(at, last[name])
		delete(last, name)
	}
	fresh := slices.Sorted(maps.Values(last))
	if unmet := slices.DeleteFunc(slices.Clone(fresh), func(n int) bool { return met(names[n-1]) }); len(unmet) >= most {
		fresh = unmet
	}
	for i := range most {
		at = append(at, fresh[(2*i+1)*len(fresh)/(2*most)])
	}
	slices.Sort(at)
	return at
}

// some is how many kinds: on PostgreSQL each takes several times as long.
func (b *base) some(postgres, sqlite int) int {
	if b.f.Engine == n8ndb.Postgres {
		return postgres
	}
	return sqlite
}

// wantKinds wants that jobs were killed at many kinds of points once both engines had
// their turn, in a soak at all of each engine that any job has passed.
func wantKinds(t *testing.T) {
	t.Helper()
	done, never := map[string]bool{}, map[string]bool{}
	for engine, names := range kinds {
		for name, killed := range names {
			if soak() && !killed {
				t.Errorf("%s: no job was killed at %q", engine, name)
			}
			if met(name) {
				done[name] = true
			} else {
				never[name] = true
			}
		}
	}
	t.Logf("killed at %d kinds of points, and never at %v", len(done), slices.Sorted(maps.Keys(never)))
	if len(kinds[n8ndb.SQLite]) > 0 && len(kinds[n8ndb.Postgres]) > 0 && len(done) < 45 {
		t.Errorf("jobs were killed at %d kinds of points only", len(done))
	}
}

// TestKilled kills a rotation at a point and takes it on, or back; then kills that as
// well. Whatever was left, the database is old or new as a whole, and at the end the
// invariants hold. The short form takes some points, N8KEEP_SOAK=1 all.
func TestKilled(t *testing.T) {
	for _, name := range []string{"sqlite", "postgres"} {
		t.Run(name, func(t *testing.T) {
			b := newBase(t, engines()[name])
			all := failtest.Points(t, b.world(t))
			of := len(slices.Compact(slices.Sorted(slices.Values(all))))
			t.Logf("%d points of %d kinds", len(all), of)
			if least := map[string]int{"sqlite": 150, "postgres": 100}[name]; len(all) < least || of < 40 {
				t.Errorf("only %d points of %d kinds", len(all), of)
			}
			t.Run("once", func(t *testing.T) { b.killed(t, all) })
			t.Run("after a leak", func(t *testing.T) { b.killedLeak(t) })
			t.Run("resume killed", func(t *testing.T) { b.killedTwice(t, "resume", all) })
			if name == "sqlite" || soak() { // the database has no part in it
				t.Run("finalise killed", func(t *testing.T) { b.killedFinalising(t) })
			}
			t.Run("rollback killed", func(t *testing.T) { b.killedTwice(t, "rollback", all) })
		})
	}
	wantKinds(t)
}

// killed kills a run, and takes it on and back: both in a soak, else in turn.
func (b *base) killed(t *testing.T, all []string) {
	outcomes, at := map[string]int{}, b.spread(all, b.some(2, 10), "write.commit", "write.committed", "keyfile.renamed")
	for i, n := range at {
		for k, then := range []string{"resume", "rollback"} {
			if !soak() && i%2 != k {
				continue
			}
			j := b.world(t)
			b.mustKill(t, j, all, n)
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
	for i, n := range b.spread(all, b.some(2, 6)) {
		j := b.world(t)
		j.Leak = true
		b.mustKill(t, j, all, n)
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
	for _, n := range b.spread(back, b.some(1, 4)) {
		j := start()
		b.mustKill(t, j, back, n)
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
		for _, n := range b.spread(second, b.some(2, 5)) {
			j := start()
			b.mustKill(t, j, second, n)
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
	for _, n := range b.spread(all, 3) {
		j := start()
		b.mustKill(t, j, all, n)
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
