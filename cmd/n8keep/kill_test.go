package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
)

// TestKillBackup kills "backup create" at every point at which it leaves
// something behind, and checks after each that n8n's folder is untouched, that
// what is listed as good verifies, and that the next run works and cleans up.
func TestKillBackup(t *testing.T) {
	bin := buildWithFailpoints(t)
	first := newLab(t, bin, "2.41.1-sqlite")
	points := first.points(first.create()...)
	if len(points) < 10 {
		t.Fatalf("only %d points: %q", len(points), points)
	}
	t.Logf("%d points", len(points))
	var committed atomic.Bool
	t.Cleanup(func() {
		if !committed.Load() {
			t.Error("no kill came after the commit: the last points are missing")
		}
	})
	for _, i := range sample(points, 2) {
		_, label, _ := strings.Cut(points[i], " ")
		t.Run(fmt.Sprintf("%02d-%s", i+1, label), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, bin, "2.41.1-sqlite")
			before := treeHash(t, l.n8n)
			if r := l.run(fmt.Sprintf("kill:%d", i+1), l.create()...); r.code != -1 {
				t.Fatalf("not killed: exit %d\n%s", r.code, r.stderr)
			}
			if treeHash(t, l.n8n) != before {
				t.Error("n8n's folder changed")
			}
			l.onlyWhole()
			var made api.Backup
			l.must(&made, l.create()...)
			l.must(nil, "backup", "verify", made.ID, "--target", l.target, "--level", "secrets", "-i", l.identity, "--key-file", l.key)
			l.nothingLeft()
			if treeHash(t, l.n8n) != before {
				t.Error("n8n's folder changed by the next run")
			}
			var list []api.Archive
			l.must(&list, "backup", "list", "--target", l.target, "--json")
			good := 0
			for _, a := range list {
				if a.State == "good" {
					good++
				}
			}
			if good == 2 {
				committed.Store(true)
			}
		})
	}
}

// onlyWhole checks that every archive that is listed as good is.
func (l *lab) onlyWhole() {
	l.t.Helper()
	if _, err := os.Stat(l.target); err != nil {
		return
	}
	var list []api.Archive
	l.must(&list, "backup", "list", "--target", l.target, "--json")
	for _, a := range list {
		switch a.State {
		case "good":
			l.must(nil, "backup", "verify", a.ID, "--target", l.target, "--level", "secrets", "-i", l.identity, "--key-file", l.key)
		case "incomplete":
		default:
			l.t.Errorf("archive %s is %s: %s", a.ID, a.State, a.Problem)
		}
	}
}

// nothingLeft checks that no private copy and no temporary is left.
func (l *lab) nothingLeft() {
	l.t.Helper()
	work := filepath.Join(l.dir, "home", ".local", "state", "n8keep", "work")
	if entries, err := os.ReadDir(work); err != nil || len(entries) > 0 {
		l.t.Errorf("left in the work folder: %v %v", entries, err)
	}
	for _, dir := range []string{l.target, l.n8n} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			l.t.Error(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				l.t.Errorf("left in %s: %s", filepath.Base(dir), e.Name())
			}
		}
	}
}

// TestKillRestore kills "restore --overwrite" at every point. The target then
// holds the old database or the new one, whole, and the next run completes.
func TestKillRestore(t *testing.T) {
	bin := buildWithFailpoints(t)
	source := newLab(t, bin, "2.41.1-sqlite")
	var made api.Backup
	source.must(&made, source.create()...)

	// The n8n that is restored over differs from the archive in what a census counts.
	prepare := func(t *testing.T) (*lab, []string) {
		l := newLab(t, bin, "2.41.1-sqlite")
		execSQL(t, filepath.Join(l.n8n, "database.sqlite"), "DELETE FROM credentials_entity WHERE id <> 'WNfPLdpMdzcKhp7W'")
		l.env[0] = source.env[0] // the same signer
		return l, []string{"restore", made.ID, "--target", source.target, "-i", source.identity, "--key-file", l.key, "--to", l.n8n, "--overwrite", "--json"}
	}
	l, args := prepare(t)
	points := l.points(args...)
	if len(points) < 10 {
		t.Fatalf("only %d points: %q", len(points), points)
	}
	t.Logf("%d points", len(points))
	var oldSeen, newSeen atomic.Bool
	t.Cleanup(func() {
		if !oldSeen.Load() || !newSeen.Load() {
			t.Errorf("old database met: %v, new: %v; both should be", oldSeen.Load(), newSeen.Load())
		}
	})
	for _, i := range sample(points, 4) {
		_, label, _ := strings.Cut(points[i], " ")
		t.Run(fmt.Sprintf("%02d-%s", i+1, label), func(t *testing.T) {
			t.Parallel()
			l, args := prepare(t)
			if r := l.run(fmt.Sprintf("kill:%d", i+1), args...); r.code != -1 {
				t.Fatalf("not killed: exit %d\n%s", r.code, r.stderr)
			}
			n := l.credentials()
			if n != 1 && n != 15 {
				t.Errorf("%d credentials: neither the old database nor the new one", n)
			}
			oldSeen.CompareAndSwap(false, n == 1)
			newSeen.CompareAndSwap(false, n == 15)
			l.must(nil, args...)
			if n := l.credentials(); n != 15 {
				t.Errorf("%d credentials after the next run", n)
			}
			for _, e := range entries(t, l.n8n) {
				if strings.HasPrefix(e, ".n8keep") && !strings.HasPrefix(e, ".n8keep-before") || strings.HasSuffix(e, "-wal") || strings.HasSuffix(e, "-shm") {
					t.Errorf("left behind: %s", e)
				}
			}
		})
	}
}

func (l *lab) credentials() int64 {
	l.t.Helper()
	var doc api.Census
	l.must(&doc, "census", "--instance", "lab", "--n8n-dir", l.n8n, "--json")
	for _, p := range doc.Places {
		if p.Place == "credentials_entity.data" {
			return p.Opened
		}
	}
	return 0
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
