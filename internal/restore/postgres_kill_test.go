package restore

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/pgserver"
)

// TestPostgresKilled kills a restore to a server. Whenever that happens, there is
// a database of that name with the old rows or the new ones; the next plan opens
// it, drops what is left, and the files are as before or new; and the next restore
// works. The short form takes one of each kind that differs,
// N8KEEP_SOAK=1 all.
func TestPostgresKilled(t *testing.T) {
	s := newServer(t)
	start := func() (string, job) {
		dir := t.TempDir()
		for name, text := range map[string]string{"nodes/package.json": "old nodes", "mine": "mine"} {
			path := filepath.Join(dir, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range s.databases() {
			if name != s.name {
				s.admin(`DROP DATABASE "` + name + `"`)
			}
		}
		s.exec(s.dsn, `DROP SCHEMA public CASCADE`, `CREATE SCHEMA public`)
		s.old()
		return dir, job{Do: "postgres", To: dir, State: t.TempDir(), Overwrite: true, DSN: s.dsn}
	}
	_, j := start()
	chosen, n := chosenPoints(t, j)
	seen := map[string]int{}
	for i, at := range chosen {
		dir, j := start()
		before := filesIn(t, dir)
		failtest.MustKill(t, j, at)
		where := fmt.Sprintf("killed at point %d of %d", at, n)
		there, err := s.query(s.in("postgres"), fmt.Sprintf(`SELECT count(*)::text FROM pg_database WHERE datname = '%s'`, s.name))
		if err != nil || there != "1" {
			t.Fatalf("%s: %s databases of the name, %v", where, there, err)
		}
		// What the next run does first.
		cfg := postgresConfig(s.dsn, t.TempDir(), dir, receiptFor(t))
		cfg.Overwrite = true
		p, err := NewPostgresPlan(t.Context(), cfg)
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		rows := s.holds(s.name)
		kept := 0
		for _, name := range s.databases() {
			switch {
			case name == s.name:
			case strings.Contains(name, "_before_") && s.holds(name) == "old":
				kept++
			default:
				t.Errorf("%s: database %q is left", where, name)
			}
		}
		if rows != "old" && rows != "new" || kept == 1 != (rows == "new") {
			t.Fatalf("%s: %s, %d kept", where, rows, kept)
		}
		after := filesIn(t, dir)
		undone := maps.Equal(after, before)
		done := after["nodes/package.json"] == "new nodes" && after["binaryData/a/b"] == "new bytes" && after["mine"] == "mine" && strings.Contains(after["config"], testKey)
		if !undone && (!done || rows != "new") {
			t.Fatalf("%s: %s rows, files %q", where, rows, after)
		}
		seen[fmt.Sprintf("%s rows, files undone %v, recovered %v", rows, undone, len(p.Recovered) > 0)]++
		if i%4 != 0 && os.Getenv("N8KEEP_SOAK") == "" {
			continue
		}
		if _, err := p.Apply(t.Context()); err != nil {
			t.Fatalf("%s: the next restore: %v", where, err)
		}
		if s.holds(s.name) != "new" {
			t.Fatalf("%s: after the next restore %s", where, s.holds(s.name))
		}
		noStaging(t, dir)
	}
	d, err := pgserver.InspectDest(t.Context(), pgserver.DestConfig{DSN: s.dsn})
	if err != nil || len(d.Left) > 0 || len(d.Sessions) > 0 {
		t.Errorf("%+v, %v", d, err)
	}
	t.Logf("%d points: %v", n, seen)
	if len(seen) < 3 {
		t.Errorf("outcomes: %v", seen)
	}
}

// chosenPoints are the points at which the job is killed, and how many it has.
func chosenPoints(t *testing.T, j job) (chosen []int, n int) {
	t.Helper()
	points := failtest.Points(t, j)
	last := map[string]int{}
	for i, name := range points {
		last[name] = i + 1
		if os.Getenv("N8KEEP_SOAK") != "" {
			chosen = append(chosen, i+1)
		}
	}
	if len(last) < 15 {
		t.Fatalf("only %d kinds of points", len(last))
	}
	if len(chosen) == 0 {
		for _, name := range []string{"pgserver.create", "pgserver.furnish", "pgserver.schema", "restore.loaded", "restore.link", "restore.files-placed", "pgserver.closed",
			"pgserver.renaming", "pgserver.renamed", "restore.clean"} {
			if last[name] == 0 {
				t.Fatalf("no point %q", name)
			}
			chosen = append(chosen, last[name])
		}
		slices.Sort(chosen)
	}
	t.Logf("%d of %d points, kinds: %v", len(chosen), len(points), slices.Sorted(maps.Keys(last)))
	return chosen, len(points)
}
