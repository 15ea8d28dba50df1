package reencrypt

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestThereAndBack: everything to the active key, and back to the instance key, on what
// real n8n wrote; plaintexts stay what they were, and a second run finds nothing. Those
// that TestEveryPlace has, with more in them, are left to the soak.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	tested := 0
	for _, name := range n8ndbtest.Names(t) {
		f := n8ndbtest.Load(t, name)
		old := !strings.HasPrefix(f.N8NVersion, "2.41")
		if old && !strings.HasSuffix(name, "-keyrotation") {
			continue // it has no data keys
		}
		if (name == "2.41.1-sqlite" || name == "2.41.1-postgres") && os.Getenv("N8KEEP_SOAK") == "" {
			continue
		}
		tested++
		t.Run(name, func(t *testing.T) {
			p := copyOf(t, name)
			before := p.contents(t, n8ndb.Unfinished)
			r := mustRun(t, p.config(t, "active", FlagOn, Runs))
			there := p.contents(t, n8ndb.Unfinished)
			same(t, before, there)
			if len(there.keys) != 1 || there.keys[r.KeyID] != len(there.plaintexts) || r.KeyID == "" {
				t.Errorf("keys %v after moving to %q", there.keys, r.KeyID)
			}
			if r.Changed == 0 || r.Lost != 0 || r.Proved != int64(len(there.plaintexts)) {
				t.Errorf("result %+v", r)
			}
			if again := mustRun(t, p.config(t, "active", FlagOn, Runs)); again.Changed != 0 || len(again.Passes) != 1 {
				t.Errorf("a second run: %+v", again)
			}
			state := Runs
			if old {
				state = Stopped
			}
			back := mustRun(t, p.config(t, "legacy", FlagOff, state))
			home := p.contents(t, n8ndb.Unfinished)
			same(t, before, home)
			if len(home.keys) != 1 || home.keys[n8ndb.KeyInstance] != len(home.plaintexts) || back.KeyID != "" {
				t.Errorf("keys %v after moving back", home.keys)
			}
		})
	}
	if tested < 4 {
		t.Errorf("only %d fixtures have data keys", tested)
	}
}

// TestEveryPlace moves what a seed has put into every place, files included, there and
// back with n8n stopped.
func TestEveryPlace(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			p := seeded(t, name)
			before := p.contents(t, n8ndb.AllExecutions)
			for _, scope := range []n8ndb.ExecutionScope{n8ndb.Unfinished, n8ndb.AllExecutions} {
				cfg := p.config(t, "seedDataKey00001", FlagOn, Stopped)
				cfg.Executions = scope
				r := mustRun(t, cfg)
				there := p.contents(t, scope)
				if len(there.keys) != 1 || there.keys["seedDataKey00001"] != len(there.plaintexts) {
					t.Errorf("scope %d: keys %v", scope, there.keys)
				}
				if scope == n8ndb.Unfinished && r.Bundles != 1 {
					t.Errorf("%d files were rewritten", r.Bundles)
				}
			}
			same(t, before, p.contents(t, n8ndb.AllExecutions))
			cfg := p.config(t, "legacy", FlagOff, Stopped)
			cfg.Executions = n8ndb.AllExecutions
			mustRun(t, cfg)
			home := p.contents(t, n8ndb.AllExecutions)
			same(t, before, home)
			if len(home.keys) != 1 || home.keys[n8ndb.KeyInstance] != len(home.plaintexts) {
				t.Errorf("keys %v after moving back", home.keys)
			}
		})
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	p := seeded(t, "2.41.1-sqlite")
	before := p.contents(t, n8ndb.AllExecutions)
	plan, err := MakePlan(context.Background(), p.config(t, "active", FlagOn, Runs))
	if err != nil {
		t.Fatal(err)
	}
	if plan.Refused() != nil || plan.Change == 0 || plan.Values <= plan.Change/2 || plan.MFA != 1 {
		t.Errorf("plan %+v", plan)
	}
	after := p.contents(t, n8ndb.AllExecutions)
	same(t, before, after)
	if len(after.keys) != len(before.keys) {
		t.Error("the dry run has moved values")
	}
}

// TestRate keeps the bound.
func TestRate(t *testing.T) {
	t.Parallel()
	p := copyOf(t, "2.41.1-sqlite")
	p.credentials(t, 20)
	cfg := p.config(t, "active", FlagOn, Runs)
	cfg.RowsPerSecond = 60
	var last Progress
	cfg.Progress = func(p Progress) { last = p }
	r := mustRun(t, cfg)
	rows := float64(r.Changed) - 9 // ten recovery codes are in one column
	if least := (rows - 15) / 60; rows < 30 || r.Seconds < least {
		t.Errorf("%.0f rows in %.2f s, want at least %.2f s", rows, r.Seconds, least)
	}
	if last.Pass != 2 || last.Changed != r.Changed || last.Of != r.Plan.Change {
		t.Errorf("progress ends with %+v", last)
	}
}

// TestCancelled: a second run goes on where the first was.
func TestCancelled(t *testing.T) {
	t.Parallel()
	p := copyOf(t, "2.41.1-postgres")
	p.credentials(t, 60)
	before := p.contents(t, n8ndb.Unfinished)
	ctx, cancel := context.WithCancel(context.Background())
	cfg := p.config(t, "active", FlagOn, Runs)
	cfg.BatchRows = 10
	cfg.betweenBatches = cancel
	r, err := Run(ctx, cfg, nil)
	if problem.KindOf(err) != problem.Interrupted || r.Changed != 10 || r.Converged {
		t.Errorf("%v %+v", err, r)
	}
	same(t, before, p.contents(t, n8ndb.Unfinished))
	again := mustRun(t, p.config(t, "active", FlagOn, Runs))
	if again.Changed+10 != r.Plan.Change {
		t.Errorf("%d of %d values were left to the second run", again.Changed, r.Plan.Change)
	}
	same(t, before, p.contents(t, n8ndb.Unfinished))
}
