package n8ndb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

func TestCheckIntegrity(t *testing.T) {
	dir, path := snapCopyFixture(t, "2.41.1-sqlite")
	before := snapListing(t, dir)
	found, err := CheckIntegrity(t.Context(), path)
	if err != nil || !found.OK || len(found.Problems)+len(found.ForeignKeys) != 0 {
		t.Errorf("%+v %v", found, err)
	}
	if after := snapListing(t, dir); !slices.Equal(before, after) {
		t.Errorf("changed: %q", after)
	}
}

func TestCheckIntegrityFindsDamage(t *testing.T) {
	good := snapMust(os.ReadFile(filepath.Join(snapFixtures, "2.41.1-sqlite", "database.sqlite")))
	damage := func(change func(b []byte) []byte) string {
		path := filepath.Join(t.TempDir(), "copy")
		if err := os.WriteFile(path, change(slices.Clone(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, path := range map[string]string{
		"flipped pages": damage(func(b []byte) []byte {
			for i := 20 * 4096; i < len(b); i += 3 * 4096 {
				b[i] ^= 0xff
			}
			return b
		}),
		"cut":            damage(func(b []byte) []byte { return b[:len(b)/2] }),
		"no database":    damage(func(b []byte) []byte { return []byte(strings.Repeat("text", 5000)) }),
		"broken header":  damage(func(b []byte) []byte { b[0]++; return b }),
		"schema is gone": damage(func(b []byte) []byte { clear(b[100:4096]); return b }),
	} {
		found, err := CheckIntegrity(t.Context(), path)
		if err != nil || found.OK || len(found.Problems) == 0 || len(found.Problems) > integrityLimit+1 {
			t.Errorf("%s: %d problems, %v", name, len(found.Problems), err)
		}
	}
}

func TestCheckIntegrityForeignKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy")
	stmts := []string{`CREATE TABLE p (id INTEGER PRIMARY KEY)`, `CREATE TABLE "c d" (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p (id))`,
		`CREATE TABLE w (k TEXT PRIMARY KEY, p INTEGER REFERENCES p (id)) WITHOUT ROWID`,
		`INSERT INTO p VALUES (1)`, `INSERT INTO "c d" VALUES (1, 1), (2, 7), (3, NULL)`, `INSERT INTO w VALUES ('x', 7)`}
	historyExec(t, path, stmts...)
	found := snapMust(CheckIntegrity(t.Context(), path))
	want := []string{`row 2 of "c d" refers to a missing row of "p"`, `a row of "w" refers to a missing row of "p"`}
	if slices.Sort(found.ForeignKeys); found.OK || len(found.Problems) != 0 || !slices.Equal(found.ForeignKeys, []string{want[1], want[0]}) {
		t.Errorf("%+v", found)
	}
	for i := range 200 {
		historyExec(t, path, fmt.Sprintf(`INSERT INTO "c d" (p) VALUES (%d)`, 100+i))
	}
	found = snapMust(CheckIntegrity(t.Context(), path))
	if n := len(found.ForeignKeys); n != integrityLimit+1 || found.ForeignKeys[n-1] != "more rows refer to missing ones; the rest is not listed" {
		t.Errorf("%d lines, last %q", n, found.ForeignKeys[n-1])
	}
}

func TestCheckIntegrityRefusals(t *testing.T) {
	if _, err := CheckIntegrity(t.Context(), "/nonexistent/copy"); problem.KindOf(err) != problem.NotFound ||
		err.Error() != `checking database "/nonexistent/copy": no such file or directory` {
		t.Error(err)
	}
	_, path := snapCopyFixture(t, "2.41.1-sqlite/raw-hot")
	_, err := CheckIntegrity(t.Context(), path)
	if problem.KindOf(err) != problem.Usage || err.Error() != fmt.Sprintf("checking database %q: it has a -wal file beside it", path) ||
		problem.HintOf(err) != "check a snapshot of it instead" {
		t.Errorf("%v, %q", err, problem.HintOf(err))
	}
	_, path = snapCopyFixture(t, "2.41.1-sqlite")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := CheckIntegrity(ctx, path); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
