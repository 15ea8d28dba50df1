package reencrypt

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
)

// place is a copy of a fixture on which tests re-encrypt.
type place struct {
	n8ndbtest.Fixture
	location string
	storage  string
}

func copyOf(t testing.TB, name string) *place {
	t.Helper()
	f := n8ndbtest.Load(t, name)
	return &place{Fixture: f, location: f.Copy(t)}
}

// seeded is a copy with a value in every place of the catalogue.
func seeded(t testing.TB, name string) *place {
	t.Helper()
	p := &place{Fixture: n8ndbtest.Load(t, name)}
	var s n8ndbtest.Seeded
	p.location, s = p.CopySeeded(t)
	p.storage = s.BundleDir
	return p
}

func (p *place) swapper(t testing.TB) *n8ndb.Swapper {
	t.Helper()
	var s *n8ndb.Swapper
	var err error
	if p.Engine == n8ndb.Postgres {
		s, err = n8ndb.SwapPostgres(context.Background(), n8ndb.SwapPostgresConfig{DSN: p.location})
	} else {
		s, err = n8ndb.SwapSQLite(context.Background(), n8ndb.SwapSQLiteConfig{Path: p.location})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

// attached pretends that n8n runs, or does not.
func attached(by ...string) func(context.Context) (n8ndb.Attached, error) {
	return func(context.Context) (n8ndb.Attached, error) { return n8ndb.Attached{By: by}, nil }
}

func target(t testing.TB, s string) Target {
	t.Helper()
	to, err := ParseTarget(s)
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func (p *place) config(t testing.TB, to string, flag Flag, state State) Config {
	t.Helper()
	cfg := Config{DB: p.swapper(t), Key: p.Key, Receipt: n8ndbtest.Receipt(t), To: target(t, to), Flag: flag, Attached: attached(), Storage: p.storage}
	if state == Runs {
		cfg.Attached = attached("process 1 (n8n)")
	}
	return cfg
}

// state is everything in the places that can be moved.
type contents struct {
	plaintexts map[string]string
	keys       map[string]int // values by key
	unopened   int
}

func (p *place) contents(t testing.TB, scope n8ndb.ExecutionScope) contents {
	t.Helper()
	var db *n8ndb.DB
	var err error
	if p.Engine == n8ndb.Postgres {
		db, err = n8ndb.OpenPostgres(context.Background(), n8ndb.PostgresConfig{DSN: p.location})
	} else {
		db, err = n8ndb.OpenSQLite(context.Background(), n8ndb.SQLiteConfig{Path: p.location})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r := n8ndbtest.Census(t, db, p.Key, n8ndb.CensusConfig{Executions: scope, BundleDir: p.storage})
	c := contents{map[string]string{}, map[string]int{}, 0}
	v2 := movable()
	for _, s := range r.Secrets {
		if !v2[s.Place] {
			continue
		}
		if !s.Opens {
			c.unopened++
			continue
		}
		c.keys[s.KeyRef]++
		id := string(s.Place) + "[" + s.Row + "]"
		c.plaintexts[id] = r.Plaintexts[id]
	}
	if len(c.plaintexts) == 0 {
		t.Fatal("no values at all")
	}
	return c
}

func same(t testing.TB, before, after contents) {
	t.Helper()
	if diff := cmp.Diff(before.plaintexts, after.plaintexts); diff != "" {
		t.Errorf("plaintexts differ: %s", diff)
	}
}

func mustRun(t testing.TB, cfg Config) *Result {
	t.Helper()
	r, err := Run(context.Background(), cfg, nil)
	if err != nil {
		t.Fatalf("%v (%+v)", err, r)
	}
	if !r.Converged || r.Left != 0 {
		t.Fatalf("not converged: %+v", r)
	}
	return r
}

func isPostgres(name string) bool { return strings.Contains(name, "postgres") }
