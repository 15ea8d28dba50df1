package reencrypt

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestTableIsComplete: every combination has a row, every row is met, and what is
// refused says why and what to do.
func TestTableIsComplete(t *testing.T) {
	t.Parallel()
	met := map[int]bool{}
	n := 0
	for _, versions := range []string{Before218, From218, From239} {
		for _, flag := range []Flag{FlagOn, FlagOff, FlagUnknown} {
			for _, state := range []State{Runs, Stopped} {
				for _, to := range []string{"active", "0123456789abcdef", "legacy"} {
					n++
					table, here := Look(versions, flag, state, target(t, to))
					i := slices.IndexFunc(table, func(c Combination) bool { return c.Here })
					if i < 0 {
						t.Errorf("%s, flag %s, n8n %s, to %s: no row", versions, flag, state, to)
						continue
					}
					met[i] = true
					if !here.Allowed && (here.Why == "" || here.Hint == "") {
						t.Errorf("%s, flag %s, n8n %s, to %s: a refusal without reason or hint", versions, flag, state, to)
					}
					if flag == FlagUnknown && here.Allowed {
						t.Errorf("%s, n8n %s, to %s is allowed without knowing the flag", versions, state, to)
					}
				}
			}
		}
	}
	if n != 54 || len(met) != len(Table()) {
		t.Errorf("%d combinations meet %d of %d rows", n, len(met), len(Table()))
	}
}

// TestDecisions repeats decisions.md in other words than the table.
func TestDecisions(t *testing.T) {
	t.Parallel()
	allowed := func(versions string, flag Flag, state State, to string) bool {
		_, here := Look(versions, flag, state, target(t, to))
		return here.Allowed
	}
	for _, c := range []struct {
		versions string
		flag     Flag
		state    State
		to       string
		want     bool
	}{
		{From239, FlagOff, Runs, "legacy", true}, {From239, FlagOff, Stopped, "legacy", true},
		{From239, FlagOn, Runs, "legacy", false}, {From239, FlagOn, Stopped, "legacy", true},
		{From239, FlagOn, Runs, "active", true}, {From239, FlagOn, Stopped, "active", true},
		{From239, FlagOff, Runs, "active", false}, {From239, FlagOff, Stopped, "active", true},
		{From218, FlagOff, Runs, "active", false}, {From218, FlagOff, Stopped, "active", false},
		{From218, FlagOn, Runs, "active", true}, {From218, FlagOn, Stopped, "active", true},
		{From218, FlagOff, Runs, "legacy", false}, {From218, FlagOff, Stopped, "legacy", true},
		{From218, FlagOn, Runs, "legacy", false}, {From218, FlagOn, Stopped, "legacy", true},
		{Before218, FlagOff, Stopped, "legacy", false}, {Before218, FlagOn, Stopped, "active", false},
	} {
		if got := allowed(c.versions, c.flag, c.state, c.to); got != c.want {
			t.Errorf("%s, flag %s, n8n %s, to %s: allowed is %t", c.versions, c.flag, c.state, c.to, got)
		}
	}
}

func TestFlagOf(t *testing.T) {
	t.Parallel()
	env := func(value string, set bool) func(string) (string, bool) {
		return func(name string) (string, bool) {
			if name != "N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION" {
				t.Errorf("asked for %q", name)
			}
			return value, set
		}
	}
	two, three := n8ndb.Version{N8N: "2.41.1"}, n8ndb.Version{N8N: "3.0.0"}
	for _, c := range []struct {
		env      func(string) (string, bool)
		complete bool
		version  n8ndb.Version
		want     Flag
	}{
		{nil, true, two, FlagUnknown},
		{env("", false), false, two, FlagUnknown},
		{env("", false), true, two, FlagOff},
		{env("true", true), false, two, FlagOn},
		{env("1", true), false, two, FlagOff},
		{env("false", true), false, three, FlagOff},
		{env("", false), true, three, FlagOn},
	} {
		if got := FlagOf(c.env, c.complete, c.version); got != c.want {
			t.Errorf("version %s, complete %t: %s, want %s", c.version.N8N, c.complete, got, c.want)
		}
	}
}

// TestRefusals: the text, the hint and the kind of each, and that nothing is written.
func TestRefusals(t *testing.T) {
	t.Parallel()
	const later = "2.41.1-sqlite-keyrotation"
	inactive := func(p *place) string {
		for id, d := range p.Deployment {
			if d.Type == "data_encryption" && d.Algorithm == "aes-256-gcm" && d.Status == "inactive" {
				return id
			}
		}
		t.Fatal("no inactive key")
		return ""
	}
	wrap := func(p *place, text string) string {
		v, err := p.Key.Wrap([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		name    string
		fixture string
		to      string
		flag    Flag
		state   State
		prepare func(*place, *Config)
		kind    problem.Kind
		want    string
		hint    string
	}{
		{"before 2.18", "2.0.3-sqlite", "legacy", FlagOff, Stopped, nil, problem.CheckFailed, "n8n before 2.18 has no data keys", "upgrade n8n to 2.39"},
		{"flag unknown", later, "active", FlagUnknown, Runs, nil, problem.Usage, "the key rotation flag decides under which key n8n writes", "--key-rotation-flag on"},
		{"2.38 flag unknown", "2.38.7-sqlite-keyrotation", "active", "", Stopped, nil, problem.Usage, "before 2.39 n8n reads values under a data key only with", "--key-rotation-flag on"},
		{"2.38 flag off", "2.38.7-sqlite-keyrotation", "active", FlagOff, Stopped, nil, problem.CheckFailed, "with the flag off every value would be unreadable", "=true for every n8n process"},
		{"2.38 back online, flag on", "2.38.7-sqlite-keyrotation", "legacy", FlagOn, Runs, nil, problem.CheckFailed, "n8n goes on saving under its data key", "stop every n8n process"},
		{"2.38 back online, flag off", "2.38.7-sqlite-keyrotation", "legacy", FlagOff, Runs, nil, problem.CheckFailed, "it shows them empty", "stop every n8n process"},
		{"flag off online", later, "active", FlagOff, Runs, nil, problem.CheckFailed, "what it saves would return to it at once", "=true for every n8n process"},
		{"back online, flag on", later, "legacy", FlagOn, Runs, nil, problem.CheckFailed, "the way back would not end", "=false for every n8n process"},
		{"no such key", later, "nosuchkey0000000", FlagOn, Runs, nil, problem.NotFound, `there is no data key "nosuchkey0000000"`, "data-key list"},
		{"retired", later, "", FlagOn, Runs, func(p *place, cfg *Config) {
			id := inactive(p)
			cfg.To = target(t, id)
			cfg.Retired = map[string]time.Time{id: time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)}
		}, problem.Usage, "was retired on 2026-08-01", "--to active"},
		{"legacy row as key", later, "", FlagOn, Runs, func(p *place, cfg *Config) {
			for id, d := range p.Deployment {
				if d.Algorithm == "aes-256-cbc" {
					cfg.To = target(t, id)
				}
			}
		}, problem.Usage, "is no data key: it holds the instance key", "--to legacy"},
		{"key of another instance", later, "", FlagOn, Runs, func(p *place, cfg *Config) {
			id := inactive(p)
			cfg.To = target(t, id)
			other, err := n8ndbtest.Key(t, "another-instance-key-0123456789").Wrap([]byte(strings.Repeat("ab", 32)))
			if err != nil {
				t.Fatal(err)
			}
			p.Exec(t, p.location, `UPDATE deployment_key SET value = $1 WHERE id = $2`, other, id)
		}, problem.WrongKey, "the instance key does not open the data key", "key find"},
		{"no active key", later, "active", FlagOn, Runs, func(p *place, _ *Config) {
			p.Exec(t, p.location, `UPDATE deployment_key SET status = 'inactive' WHERE type = 'data_encryption'`)
		}, problem.CheckFailed, "no data key is active", "n8n makes the first one"},
		{"two active keys", later, "active", FlagOn, Runs, func(p *place, _ *Config) {
			p.Exec(t, p.location, `DROP INDEX "IDX_deployment_key_data_encryption_active"`)
			p.Exec(t, p.location, `UPDATE deployment_key SET status = 'active' WHERE algorithm = 'aes-256-gcm' AND type = 'data_encryption'`)
		}, problem.CheckFailed, "2 data keys are active, of which n8n could use none", "data-key rotate"},
		{"legacy row with another key", later, "legacy", FlagOff, Runs, func(p *place, _ *Config) {
			p.Exec(t, p.location, `UPDATE deployment_key SET value = $1 WHERE algorithm = 'aes-256-cbc'`, wrap(p, "the-instance-key-before-0123456789"))
		}, problem.CheckFailed, "holds another instance key, with which n8n would read what is written here", "rotate instance"},
		{"legacy row that does not open", later, "legacy", FlagOff, Runs, func(p *place, _ *Config) {
			other, err := n8ndbtest.Key(t, "another-instance-key-0123456789").Wrap([]byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			p.Exec(t, p.location, `UPDATE deployment_key SET value = $1 WHERE algorithm = 'aes-256-cbc'`, other)
		}, problem.CheckFailed, "does not open with it", "key find"},
		{"wrong key", later, "active", FlagOn, Runs, func(_ *place, cfg *Config) {
			cfg.Key = n8ndbtest.Key(t, "another-instance-key-0123456789")
		}, problem.WrongKey, "the instance key opens none of the", "key find"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := copyOf(t, c.fixture)
			cfg := p.config(t, "active", c.flag, c.state)
			if c.to != "" {
				cfg.To = target(t, c.to)
			}
			if c.prepare != nil {
				c.prepare(p, &cfg)
			}
			r, err := Run(context.Background(), cfg, nil)
			if problem.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.want) || !strings.Contains(problem.HintOf(err), c.hint) {
				t.Errorf("%s: %v; hint %q", problem.KindOf(err), err, problem.HintOf(err))
			}
			if r == nil || r.Changed != 0 || len(r.Passes) != 0 {
				t.Errorf("result %+v", r)
			}
		})
	}
}

func TestParseTarget(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"active", "legacy", "lMv5Dv4KgWv8L6xc"} {
		if got := target(t, s).String(); got != s {
			t.Errorf("%q came back as %q", s, got)
		}
	}
	for _, s := range []string{"", "a b", strings.Repeat("x", 37), "../x"} {
		_, err := ParseTarget(s)
		if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "is neither active nor legacy nor the id of a data key") {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// TestStartedMeanwhile: n8n had to be stopped, and was started between two passes.
func TestStartedMeanwhile(t *testing.T) {
	t.Parallel()
	p := copyOf(t, "2.41.1-sqlite-keyrotation")
	cfg := p.config(t, "legacy", FlagOn, Stopped)
	n := 0
	cfg.Attached = func(context.Context) (n8ndb.Attached, error) {
		if n++; n > 2 { // plan, first pass
			return n8ndb.Attached{By: []string{"n8n"}}, nil
		}
		return n8ndb.Attached{}, nil
	}
	r, err := Run(context.Background(), cfg, nil)
	if problem.KindOf(err) != problem.Busy || !strings.HasPrefix(err.Error(), "n8n was started meanwhile: ") || len(r.Passes) != 1 || r.Changed == 0 {
		t.Errorf("%v: %+v", err, r)
	}
}

func TestUncheckedCountsAsRunning(t *testing.T) {
	t.Parallel()
	p := copyOf(t, "2.41.1-sqlite-keyrotation")
	cfg := p.config(t, "legacy", FlagOn, Stopped)
	cfg.Attached = func(context.Context) (n8ndb.Attached, error) {
		return n8ndb.Attached{Unchecked: []string{"the open files of process 1 cannot be seen"}}, nil
	}
	plan, err := MakePlan(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if plan.State != Runs || plan.Refused() == nil || !slices.ContainsFunc(plan.Warnings, func(s string) bool {
		return strings.Contains(s, "process 1 cannot be seen; n8n therefore counts as running (--assume-stopped if it does not)")
	}) {
		t.Errorf("plan %+v", plan)
	}
}

// TestValuesThatDoNotOpen are left byte for byte, and said.
func TestValuesThatDoNotOpen(t *testing.T) {
	t.Parallel()
	p := copyOf(t, "2.41.1-sqlite")
	p.credentials(t, 3)
	other, err := n8ndbtest.Key(t, "another-instance-key-0123456789").EncryptCBC([]byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	p.Exec(t, p.location, `UPDATE credentials_entity SET data = $1 WHERE id = 'soak000000000001'`, other.String())
	r, err := Run(context.Background(), p.config(t, "active", FlagOn, Runs), nil)
	if problem.KindOf(err) != problem.Partial || !strings.Contains(err.Error(), "but 1 value opens under no key and is left as it is") || !r.Converged || r.Unopened != 1 ||
		len(r.Failures) != 1 || r.Failures[0].Row != "soak000000000001" {
		t.Errorf("%v: %+v", err, r)
	}
	var stored string
	if err := p.open(t).QueryRow(`SELECT data FROM credentials_entity WHERE id = 'soak000000000001'`).Scan(&stored); err != nil || stored != other.String() {
		t.Errorf("a value that does not open was changed: %v", err)
	}
}

// TestWarnings of plans that are allowed.
func TestWarnings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fixture string
		to      string
		flag    Flag
		state   State
		prepare string
		want    string
	}{
		{"2.38.7-sqlite-keyrotation", "active", FlagOn, Runs, "", "the flag must stay on"},
		{"2.38.7-sqlite-keyrotation", "active", FlagOn, Stopped, "", "start n8n with the flag on"},
		{"2.38.7-sqlite-keyrotation", "legacy", FlagOff, Stopped, "", "start n8n with the flag off"},
		{"2.41.1-sqlite", "active", FlagOff, Stopped, "", "what it saves from now on is under the instance key again"},
		{"2.41.1-sqlite-keyrotation", "legacy", FlagOn, Stopped, "", "start n8n with the flag off"},
		{"2.41.1-sqlite", "active", FlagOn, Runs, "", "1 user with a second factor will have to log in again"},
		{"2.41.1-sqlite-keyrotation", "zMhTolQAVifoGM0K", FlagOn, Runs, "", `goes on saving under "lMv5Dv4KgWv8L6xc"`},
		{"2.41.1-sqlite-keyrotation", "active", FlagOn, Runs, `UPDATE instance_version_history SET major = 2, minor = 20, patch = 1`, "workers of n8n 2.20.1 cannot read values under a data key"},
		{"2.41.1-sqlite-keyrotation", "active", FlagOn, Runs, `UPDATE execution_entity SET status = 'waiting', "storedAt" = 's3'`, "in S3 or Azure, where it is left as it is"},
	} {
		p := copyOf(t, c.fixture)
		if c.prepare != "" {
			p.Exec(t, p.location, c.prepare)
		}
		plan, err := MakePlan(context.Background(), p.config(t, c.to, c.flag, c.state))
		if err != nil {
			t.Fatal(err)
		}
		if plan.Refused() != nil || !slices.ContainsFunc(plan.Warnings, func(s string) bool { return strings.Contains(s, c.want) }) {
			t.Errorf("%s to %s: no %q in %q (%v)", c.fixture, c.to, c.want, plan.Warnings, plan.Refused())
		}
	}
}

func TestObstacles(t *testing.T) {
	t.Parallel()
	p := seeded(t, "2.41.1-sqlite")
	plan, err := MakePlan(context.Background(), p.config(t, "legacy", FlagOff, Runs))
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(plan.Obstacles, "\n")
	for _, want := range []string{"run this again with n8n stopped", "finished executions", "N8N_USER_MANAGEMENT_JWT_SECRET", "JWE key", "db:revert"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in %q", want, all)
		}
	}
}
