package datakey

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/state"
	"github.com/n8keep/n8keep/n8ncrypt"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func noon() time.Time { return time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC) }

// set is a copy of a fixture and the configuration to work on it.
type set struct {
	n8ndbtest.Fixture
	location string
	cfg      Config
}

func newSet(t *testing.T, name string) *set {
	t.Helper()
	f := n8ndbtest.Load(t, name)
	s := &set{Fixture: f, location: f.Copy(t)}
	marks, err := state.Open(context.Background(), state.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { marks.Close() })
	var w *n8ndb.Swapper
	if f.Engine == n8ndb.Postgres {
		w, err = n8ndb.SwapPostgres(context.Background(), n8ndb.SwapPostgresConfig{DSN: s.location})
	} else {
		w, err = n8ndb.SwapSQLite(context.Background(), n8ndb.SwapSQLiteConfig{Path: s.location})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	s.cfg = Config{DB: w.DB, Swapper: w, Key: f.Key, Receipt: n8ndbtest.Receipt(t), Instance: "prod", Marks: marks, Now: noon}
	return s
}

func (s *set) ids(t *testing.T) (active, inactive, legacy string) {
	t.Helper()
	for id, d := range s.Deployment {
		switch {
		case d.Type != "data_encryption":
		case d.Algorithm == "aes-256-cbc":
			legacy = id
		case d.Status == "active":
			active = id
		default:
			inactive = id
		}
	}
	if active == "" || inactive == "" || legacy == "" {
		t.Fatal("the fixture lacks a kind of key")
	}
	return active, inactive, legacy
}

// TestList counts what each key opens.
func TestList(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite-keyrotation", "2.38.7-sqlite-keyrotation", "2.41.1-postgres-keyrotation"} {
		t.Run(name, func(t *testing.T) {
			s := newSet(t, name)
			active, inactive, legacy := s.ids(t)
			l, err := List(context.Background(), s.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if len(l.Keys) != 3 || l.Active() == nil || l.Active().ID != active || l.Unopened != 0 || len(l.Warnings) != 0 {
				t.Fatalf("listing %+v", l)
			}
			census := n8ndbtest.Census(t, s.cfg.DB, s.cfg.Key, n8ndb.CensusConfig{})
			for _, id := range []string{active, inactive} {
				k := l.Key(id)
				if k.Values == 0 || k.Values != census.Census.ByKey[id] || !k.Opens || k.Legacy || k.Wrap != "gcm" || k.Created.IsZero() {
					t.Errorf("key %+v, %d in the census", k, census.Census.ByKey[id])
				}
				var sum int64
				for _, n := range k.ByPlace {
					sum += n
				}
				if sum != k.Values {
					t.Errorf("%d by place, %d in all", sum, k.Values)
				}
			}
			if k := l.Key(legacy); !k.Legacy || !k.Same || k.Values != 0 || !k.Opens {
				t.Errorf("legacy row %+v", k)
			}
			if l.Instance == 0 {
				t.Error("no values under the instance key")
			}
		})
	}
	s := newSet(t, "2.0.3-sqlite")
	l, err := List(context.Background(), s.cfg)
	if err != nil || len(l.Keys) != 0 || l.Instance == 0 || l.Active() != nil {
		t.Errorf("before 2.18: %v %+v", err, l)
	}
}

// TestListWarnings: what is wrong with keys is said.
func TestListWarnings(t *testing.T) {
	other := n8ndbtest.Key(t, "another-instance-key-0123456789")
	for _, c := range []struct {
		prepare func(t *testing.T, s *set)
		want    string
	}{
		{func(t *testing.T, s *set) {
			_, inactive, _ := s.ids(t)
			v, err := other.Wrap([]byte(strings.Repeat("ab", 32)))
			if err != nil {
				t.Fatal(err)
			}
			s.Exec(t, s.location, `UPDATE deployment_key SET value = $1 WHERE id = $2`, v, inactive)
		}, "the instance key does not open the data key"},
		{func(t *testing.T, s *set) {
			v, err := s.Key.Wrap([]byte("the-instance-key-before-0123456789"))
			if err != nil {
				t.Fatal(err)
			}
			s.Exec(t, s.location, `UPDATE deployment_key SET value = $1 WHERE algorithm = 'aes-256-cbc'`, v)
		}, "holds another instance key than the one in use"},
		{func(t *testing.T, s *set) {
			_, inactive, _ := s.ids(t)
			if err := s.cfg.Marks.RetireDataKey(context.Background(), "prod", inactive, noon()); err != nil {
				t.Fatal(err)
			}
		}, "was retired and is used again, by"},
		{func(t *testing.T, s *set) {
			_, inactive, _ := s.ids(t)
			s.Exec(t, s.location, `DELETE FROM deployment_key WHERE id = $1`, inactive)
		}, "that the database does not have"},
		{func(t *testing.T, s *set) {
			s.Exec(t, s.location, `UPDATE deployment_key SET status = 'inactive' WHERE type = 'data_encryption'`)
		}, "0 data keys are active; n8n needs exactly one"},
		{func(t *testing.T, s *set) {
			_, inactive, _ := s.ids(t)
			s.Exec(t, s.location, `UPDATE deployment_key SET value = $1 WHERE id = $2`, s.Deployment[inactive].Plain, inactive)
		}, "open with a data key that is stored in clear"},
	} {
		s := newSet(t, "2.41.1-sqlite-keyrotation")
		c.prepare(t, s)
		l, err := List(context.Background(), s.cfg)
		if err != nil || !slices.ContainsFunc(l.Warnings, func(w string) bool { return strings.Contains(w, c.want) }) {
			t.Errorf("%v: no %q in %q", err, c.want, l.Warnings)
		}
	}
}

// TestRotate makes a key in the database, and one through n8n.
func TestRotate(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite-keyrotation", "2.41.1-postgres-keyrotation"} {
		t.Run(name, func(t *testing.T) {
			s := newSet(t, name)
			active, _, _ := s.ids(t)
			ctx := context.Background()
			plan, err := PlanRotation(ctx, s.cfg)
			if err != nil || plan.ID != "" || len(plan.Previous) != 1 || plan.Previous[0] != active || plan.Through != "database" || len(plan.Warnings) != 1 {
				t.Fatalf("%v %+v", err, plan)
			}
			made, err := Rotate(ctx, s.cfg)
			if err != nil || made.Previous[0] != active {
				t.Fatalf("%v %+v", err, made)
			}
			l, err := List(ctx, s.cfg)
			if err != nil || l.Active() == nil || l.Active().ID != made.ID || l.Key(active).Status != "inactive" || l.Key(active).Values == 0 {
				t.Errorf("%v %+v", err, l)
			}

			s.cfg.N8N = func(ctx context.Context) (string, error) {
				made, err := s.cfg.Swapper.AddDataKey(ctx, s.cfg.Receipt, s.cfg.Key)
				return made.ID, err
			}
			again, err := Rotate(ctx, s.cfg)
			if err != nil || again.Through != "n8n" || again.Previous[0] != made.ID || again.ID == "" {
				t.Errorf("%v %+v", err, again)
			}
			s.cfg.N8N = func(context.Context) (string, error) { return "elsewhere0000000", nil }
			_, err = Rotate(ctx, s.cfg)
			if problem.KindOf(err) != problem.CheckFailed || !strings.Contains(err.Error(), `n8n has made the data key "elsewhere0000000", but it is not the active one of this database`) || problem.HintOf(err) == "" {
				t.Errorf("%v", err)
			}
			refused := errors.New("refused")
			s.cfg.N8N = func(context.Context) (string, error) { return "", refused }
			if _, err = Rotate(ctx, s.cfg); !errors.Is(err, refused) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestRotateRefusals(t *testing.T) {
	for _, c := range []struct {
		fixture, key string
		kind         problem.Kind
		want         string
	}{
		{"2.0.3-sqlite", "", problem.CheckFailed, "has no data keys: they came with 2.18"},
		{"2.38.7-sqlite", "", problem.CheckFailed, "this database has no data key yet"},
		{"2.41.1-sqlite-keyrotation", "another-instance-key-0123456789", problem.WrongKey, "the instance key opens none of the 2 data keys of this database"},
	} {
		s := newSet(t, c.fixture)
		if c.key != "" {
			s.cfg.Key = n8ndbtest.Key(t, c.key)
		}
		_, err := Rotate(context.Background(), s.cfg)
		if problem.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.want) || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", c.fixture, err)
		}
	}
}

// move puts everything under the active key.
func (s *set) move(t *testing.T, scope n8ndb.ExecutionScope) {
	t.Helper()
	ctx := context.Background()
	k, err := s.cfg.DB.Keyset(ctx, s.cfg.Receipt, s.cfg.Key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := List(ctx, s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	seal, _, err := k.Reseal(l.Active().ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.cfg.Swapper.Pass(ctx, n8ndb.PassConfig{Keys: k, Receipt: s.cfg.Receipt, Seal: seal, Executions: scope,
		Digest: func(place, row string, plaintext []byte) string { return row + string(plaintext) }}); err != nil {
		t.Fatal(err)
	}
}

// TestRetire: only when nothing uses a key, and n8n's row stays as it is.
func TestRetire(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite-keyrotation", "2.41.1-postgres-keyrotation"} {
		t.Run(name, func(t *testing.T) {
			s := newSet(t, name)
			_, inactive, _ := s.ids(t)
			ctx := context.Background()
			r, err := Retire(ctx, s.cfg, inactive)
			if problem.KindOf(err) != problem.CheckFailed || !strings.Contains(err.Error(), "is still used by") || !strings.Contains(err.Error(), "in credentials_entity.data") ||
				!strings.Contains(problem.HintOf(err), "reencrypt --to active") || r.Key.Values == 0 {
				t.Fatalf("%v %+v", err, r)
			}
			s.move(t, n8ndb.AllExecutions)
			plan, err := PlanRetirement(ctx, s.cfg, inactive)
			if err != nil || !plan.At.IsZero() || plan.Already {
				t.Fatalf("%v %+v", err, plan)
			}
			before, err := List(ctx, s.cfg)
			if err != nil {
				t.Fatal(err)
			}
			r, err = Retire(ctx, s.cfg, inactive)
			if err != nil || !r.At.Equal(noon()) || r.Already {
				t.Fatalf("%v %+v", err, r)
			}
			after, err := List(ctx, s.cfg)
			if err != nil {
				t.Fatal(err)
			}
			k, was := after.Key(inactive), before.Key(inactive)
			if !k.Retired.Equal(noon()) || k.Status != "inactive" || !k.Updated.Equal(was.Updated) || !k.Opens {
				t.Errorf("key %+v", k)
			}
			s.cfg.Now = func() time.Time { return noon().Add(time.Hour) }
			if r, err = Retire(ctx, s.cfg, inactive); err != nil || !r.Already || !r.At.Equal(noon()) {
				t.Errorf("again: %v %+v", err, r)
			}
		})
	}
}

func TestRetireRefusals(t *testing.T) {
	for _, c := range []struct {
		name    string
		which   func(active, inactive, legacy string) string
		prepare func(t *testing.T, s *set, inactive string)
		kind    problem.Kind
		want    string
		hint    string
	}{
		{"unknown", func(_, _, _ string) string { return "nosuchkey0000000" }, nil, problem.NotFound, `there is no data key "nosuchkey0000000"`, "data-key list"},
		{"active", func(a, _, _ string) string { return a }, nil, problem.Usage, "is active: n8n encrypts with it", "data-key rotate"},
		{"legacy", func(_, _, l string) string { return l }, nil, problem.Usage, "is no data key: it holds the instance key", "rotate instance"},
		{"in S3", func(_, i, _ string) string { return i }, func(t *testing.T, s *set, _ string) {
			s.Exec(t, s.location, `UPDATE execution_entity SET status = 'waiting', "storedAt" = 's3' WHERE id = (SELECT min(id) FROM execution_entity)`)
		}, problem.CheckFailed, "it cannot be proved that nothing uses the data key", "costs nothing"},
		{"finished in Azure", func(_, i, _ string) string { return i }, func(t *testing.T, s *set, _ string) {
			s.Exec(t, s.location, `UPDATE execution_entity SET status = 'success', finished = true, "storedAt" = 'az' WHERE id = (SELECT min(id) FROM execution_entity)`)
		}, problem.CheckFailed, "1 execution in S3 or Azure cannot be read", "costs nothing"},
		{"finished, its file gone", func(_, i, _ string) string { return i }, func(t *testing.T, s *set, _ string) {
			s.Exec(t, s.location, `UPDATE execution_entity SET status = 'success', finished = true, "storedAt" = 'fs' WHERE id = (SELECT min(id) FROM execution_entity)`)
		}, problem.CheckFailed, "the data of 1 execution is not in n8n's storage folder", "costs nothing"},
		{"finished execution", func(_, i, _ string) string { return i }, func(t *testing.T, s *set, inactive string) {
			v := encrypted(t, s, inactive)
			s.Exec(t, s.location, `UPDATE execution_entity SET status = 'success', finished = true`)
			s.Exec(t, s.location, `UPDATE execution_data SET data = $1 WHERE "executionId" = (SELECT min("executionId") FROM execution_data)`,
				string(n8ndbtest.ExecutionData(v, v, v)))
		}, problem.CheckFailed, "is still used by 3 values: 1 in execution_data.data[credentials]", "--executions all"},
		{"outside the catalogue", func(_, i, _ string) string { return i }, func(t *testing.T, s *set, inactive string) {
			v := encrypted(t, s, inactive)
			s.Exec(t, s.location, `UPDATE workflow_entity SET name = $1 WHERE id = (SELECT min(id) FROM workflow_entity)`, v)
		}, problem.CheckFailed, "1 value in workflow_entity.name, which n8keep does not know as a place of secrets", "costs nothing"},
		{"unreadable", func(_, i, _ string) string { return i }, func(t *testing.T, s *set, _ string) {
			s.Exec(t, s.location, `UPDATE settings SET value = '{"bindingAdminPassword":' WHERE key = 'features.ldap'`)
		}, problem.CheckFailed, "1 value cannot be read at all", "costs nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSet(t, "2.41.1-sqlite-keyrotation")
			active, inactive, legacy := s.ids(t)
			s.move(t, n8ndb.AllExecutions)
			if c.prepare != nil {
				c.prepare(t, s, inactive)
			}
			_, err := Retire(context.Background(), s.cfg, c.which(active, inactive, legacy))
			if problem.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.want) || !strings.Contains(problem.HintOf(err), c.hint) {
				t.Errorf("%v; hint %q", err, problem.HintOf(err))
			}
			retired, err := s.cfg.Marks.RetiredDataKeys(context.Background(), "prod")
			if err != nil || len(retired) != 0 {
				t.Errorf("%v: %v were marked", err, retired)
			}
		})
	}
}

// encrypted is a value under a data key of the fixture, which its own notes have.
func encrypted(t *testing.T, s *set, id string) string {
	t.Helper()
	k, err := n8ncrypt.ParseDataKey(id, s.Deployment[id].Plain)
	if err != nil {
		t.Fatal(err)
	}
	v, err := k.Encrypt([]byte(`{"version":1}`))
	if err != nil {
		t.Fatal(err)
	}
	return v.String()
}
