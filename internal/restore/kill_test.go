package restore

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
)

// TestKilledAnywhere kills a restore at every point. Whatever was left, SQLite
// reads the old rows or the new ones; the recovery puts the folder back as it
// was or completes it, leaves nothing of the archive behind, and the next
// restore works.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	fresh := rows(t, newFixture+"/database.sqlite")
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			start := func() (string, job) {
				dir := s.build(t)
				j := newJob(t, dir)
				j.Overwrite = s.make != nil
				return dir, j
			}
			dir, j := start()
			old := rows(t, filepath.Join(dir, "database.sqlite"))
			n := len(failtest.Points(t, j))
			if n < 20 {
				t.Fatalf("only %d points", n)
			}
			seen := map[Outcome]int{}
			for at := 1; at <= n; at++ {
				dir, j := start()
				before := s.tree(t, dir)
				failtest.MustKill(t, j, at)
				where := fmt.Sprintf("killed at point %d of %d", at, n)
				if now := rows(t, filepath.Join(dir, "database.sqlite")); now != old && now != fresh {
					t.Fatalf("%s: neither the old nor the new rows", where)
				}
				recovery, err := Recover(t.Context(), RecoverConfig{To: dir, AssumeStopped: true})
				if err != nil {
					t.Fatalf("%s: %v", where, err)
				}
				for _, run := range recovery.Runs {
					seen[run.Outcome]++
					if len(run.Warnings) > 0 || len(run.Did) == 0 {
						t.Errorf("%s: %+v", where, run)
					}
				}
				noStaging(t, dir)
				switch now := rows(t, filepath.Join(dir, "database.sqlite")); now {
				case fresh:
					checkRestored(t, dir, fresh)
					kept := filepath.Join(dir, "database.sqlite.before-"+string(testID))
					if rows(t, kept) != old {
						t.Fatalf("%s: the safety copy does not have the old rows", where)
					}
				case old:
					if after := s.tree(t, dir); after != before && !emptied(before, after) {
						t.Fatalf("%s: before\n%s\nafter the recovery\n%s", where, before, after)
					}
				default:
					t.Fatalf("%s: after the recovery neither the old nor the new rows", where)
				}
				if at%4 != 0 && at != n {
					continue // the folder is one of two that were tried
				}
				cfg := config(t, dir)
				cfg.Overwrite = s.make != nil || rows(t, filepath.Join(dir, "database.sqlite")) == fresh
				if _, err := restoreWith(cfg); err != nil {
					t.Fatalf("%s: the next restore: %v", where, err)
				}
				checkRestored(t, dir, fresh)
			}
			if seen[Undone] == 0 || seen[Completed] == 0 {
				t.Errorf("outcomes: %v", seen)
			}
			t.Logf("%d points, outcomes %v", n, seen)
		})
	}
}

// tree is the folder without what a recovery may change: the bytes of a database
// with a log, whose rows are compared.
func (s scenario) tree(t *testing.T, dir string) string {
	t.Helper()
	if s.hot {
		return tree(t, dir, "database.sqlite", "database.sqlite-wal", "database.sqlite-shm")
	}
	return tree(t, dir)
}

// emptied allows the target folder itself to be left, empty, by a killed restore
// that had made it.
func emptied(before, after string) bool {
	return before == "" && strings.Count(after, "\n") == 1
}

// TestKilledWhileRollingBack does the same to a restore whose database does not
// prove itself: whenever it is killed, the rows are whole, and once the recovery
// is done nothing is left.
func TestKilledWhileRollingBack(t *testing.T) {
	t.Parallel()
	fresh := rows(t, newFixture+"/database.sqlite")
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			start := func() (string, job) {
				dir := s.build(t)
				j := newJob(t, dir)
				j.Overwrite, j.FailProve = s.make != nil, true
				return dir, j
			}
			dir, j := start()
			old := rows(t, filepath.Join(dir, "database.sqlite"))
			n := len(failtest.Points(t, j))
			swapped := false
			for at := n; at >= 1; at-- {
				dir, j := start()
				before := s.tree(t, dir)
				failtest.MustKill(t, j, at)
				now := rows(t, filepath.Join(dir, "database.sqlite"))
				if now == fresh {
					swapped = true
				} else if swapped {
					break // the kills from here on are those of TestKilledAnywhere
				}
				if _, err := Recover(t.Context(), RecoverConfig{To: dir, AssumeStopped: true}); err != nil {
					t.Fatalf("killed at point %d of %d: %v", at, n, err)
				}
				noStaging(t, dir)
				switch now := rows(t, filepath.Join(dir, "database.sqlite")); now {
				case fresh: // killed before the proof failed
					checkRestored(t, dir, fresh)
				case old:
					if after := s.tree(t, dir); after != before && !emptied(before, after) {
						t.Fatalf("killed at point %d of %d: before\n%s\nafter the recovery\n%s", at, n, before, after)
					}
				default:
					t.Fatalf("killed at point %d of %d: neither the old nor the new rows", at, n)
				}
			}
			if !swapped {
				t.Error("no kill met the new database in its place")
			}
		})
	}
}

// TestKilledWhileRecovering kills the recovery as well, and then recovers.
func TestKilledWhileRecovering(t *testing.T) {
	t.Parallel()
	fresh := rows(t, newFixture+"/database.sqlite")
	s := scenarios()[3]
	j := newJob(t, s.build(t))
	j.Overwrite = true
	n := len(failtest.Points(t, j))
	killed := 0
	for at := 6; at <= n; at += 9 {
		for second := 1; ; second++ {
			dir := s.build(t)
			old, before := rows(t, filepath.Join(dir, "database.sqlite")), s.tree(t, dir)
			j := newJob(t, dir)
			j.Overwrite = true
			failtest.MustKill(t, j, at)
			j.Do = "recover"
			if !failtest.Kill(t, j, second) {
				break
			}
			killed++
			where := fmt.Sprintf("killed at point %d of %d, its recovery at point %d", at, n, second)
			if now := rows(t, filepath.Join(dir, "database.sqlite")); now != old && now != fresh {
				t.Fatalf("%s: neither the old nor the new rows", where)
			}
			if _, err := Recover(t.Context(), RecoverConfig{To: dir, AssumeStopped: true}); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			noStaging(t, dir)
			if rows(t, filepath.Join(dir, "database.sqlite")) == fresh {
				checkRestored(t, dir, fresh)
			} else if after := s.tree(t, dir); after != before {
				t.Fatalf("%s: before\n%s\nafter\n%s", where, before, after)
			}
		}
	}
	if killed < 10 {
		t.Errorf("only %d recoveries were killed", killed)
	}
}
