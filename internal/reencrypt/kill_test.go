package reencrypt

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

func TestMain(m *testing.M) {
	os.Exit(failtest.Main(func() int { return pgtest.Main(m) }, job.do))
}

// job moves everything to the active key, in small transactions, in a process that is
// killed.
type job struct{ Location, Key, Storage, State string }

func (j job) do() error {
	ctx := context.Background()
	key, err := n8ncrypt.NewInstanceKey(j.Key)
	if err != nil {
		return err
	}
	log, err := audit.Open(audit.Config{Dir: j.State})
	if err != nil {
		return err
	}
	receipt, err := log.Begin(ctx, "os:test", audit.Event{Command: "reencrypt"}, audit.FailClosed)
	if err != nil {
		return err
	}
	var db *n8ndb.Swapper
	if strings.HasPrefix(j.Location, "postgres") {
		db, err = n8ndb.SwapPostgres(ctx, n8ndb.SwapPostgresConfig{DSN: j.Location})
	} else {
		db, err = n8ndb.SwapSQLite(ctx, n8ndb.SwapSQLiteConfig{Path: j.Location})
	}
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = Run(ctx, Config{DB: db, Key: key, Receipt: receipt, To: Target{word: "active"}, Flag: FlagOn, Storage: j.Storage, BatchRows: 8,
		Attached: func(context.Context) (n8ndb.Attached, error) { return n8ndb.Attached{}, nil }}, nil)
	return err
}

func (p *place) job(t *testing.T) job {
	return job{p.location, p.Key.Reveal(), p.storage, t.TempDir()}
}

// TestKilledAnywhere kills a run at a point of each kind, with N8KEEP_SOAK=1 at all
// points. Every value opens afterwards to what it was, and a second run ends what the
// first has begun.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			fresh := once(t, name)
			points := failtest.Points(t, fresh().job(t))
			want := []string{"n8ndb.swap.begin", "n8ndb.swap.written", "n8ndb.swap.committed", "reencrypt.bundle.written"}
			if isPostgres(name) {
				want = want[:3] // its fixture has no files
			}
			var at []int
			for k, kind := range want {
				var of []int
				for i, name := range points {
					if name == kind {
						of = append(of, i)
					}
				}
				if len(of) == 0 {
					t.Fatalf("point %q is never passed", kind)
				}
				at = append(at, of[(k+1)*len(of)/(len(want)+1)]) // early, and late
			}
			if os.Getenv("N8KEEP_SOAK") == "1" {
				at = at[:0]
				for i := range points {
					at = append(at, i)
				}
			}
			for _, i := range at {
				p := fresh()
				before := p.contents(t, n8ndb.Unfinished)
				failtest.MustKill(t, p.job(t), i+1)
				same(t, before, p.contents(t, n8ndb.Unfinished))
				r := mustRun(t, p.config(t, "active", FlagOn, Stopped))
				after := p.contents(t, n8ndb.Unfinished)
				same(t, before, after)
				if len(after.keys) != 1 || after.keys[r.KeyID] == 0 {
					t.Errorf("%s: keys %v", points[i], after.keys)
				}
			}
			t.Logf("%s: killed at %d of %d points", name, len(at), len(points))
		})
	}
}

// once makes a fixture that is quickly made again: on SQLite with values in every place
// and a file, on PostgreSQL with a few credentials more.
func once(t *testing.T, name string) func() *place {
	if isPostgres(name) {
		return func() *place {
			p := copyOf(t, name)
			p.credentials(t, 40)
			return p
		}
	}
	first := seeded(t, name)
	return func() *place {
		p := *first
		dir := t.TempDir()
		b, err := os.ReadFile(first.location)
		if err != nil {
			t.Fatal(err)
		}
		p.location, p.storage = filepath.Join(dir, "database.sqlite"), filepath.Join(dir, "storage")
		if err := os.WriteFile(p.location, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(p.storage, os.DirFS(first.storage)); err != nil {
			t.Fatal(err)
		}
		return &p
	}
}
