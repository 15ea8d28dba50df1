package guard

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8napi"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// clock moves only when somebody sleeps.
type clock struct {
	now    time.Time
	sleeps []time.Duration
}

func (c *clock) sleep(ctx context.Context, d time.Duration) error {
	c.sleeps = append(c.sleeps, d)
	c.now = c.now.Add(d)
	return ctx.Err()
}

func (c *clock) config(mode Mode, sources ...Source) Config {
	return Config{Mode: mode, Sources: sources, Limit: 7 * time.Second, Now: func() time.Time { return c.now }, Sleep: c.sleep}
}

// answers gives one list after another, the last for ever.
func answers(name string, lists ...[]Execution) Source {
	i := -1
	return Source{Name: name, Running: func(context.Context) ([]Execution, bool, error) {
		i = min(i+1, len(lists)-1)
		return lists[i], true, nil
	}}
}

func mute(name string) Source {
	return Source{Name: name, Running: func(context.Context) ([]Execution, bool, error) { return nil, false, nil }}
}

func broken(name string) Source {
	return Source{Name: name, Running: func(context.Context) ([]Execution, bool, error) {
		return nil, false, problem.New(problem.Unreachable, "no way")
	}}
}

func two() []Execution {
	return []Execution{{ID: "7", WorkflowID: "w", Status: "running"}, {ID: "8", WorkflowID: "w", Status: "new"}}
}

func TestCheck(t *testing.T) {
	one := two()[:1]
	for name, tt := range map[string]struct {
		mode       Mode
		sources    []Source
		want       Report
		sleeps     []time.Duration
		text, hint string
	}{
		"nothing runs": {Wait, []Source{answers("database", nil)}, Report{Mode: Wait, Source: "database"}, nil, "", ""},
		"continue":     {Continue, []Source{answers("database", two())}, Report{Mode: Continue, Source: "database", First: two(), Running: two()}, nil, "", ""},
		"default":      {"", []Source{answers("database", one)}, Report{Mode: Continue, Source: "database", First: one, Running: one}, nil, "", ""},
		"fail": {Fail, []Source{answers("database", two())}, Report{Mode: Fail, Source: "database", First: two(), Running: two()}, nil,
			"2 executions are running in n8n, the first is 7",
			"wait for them with --when-running wait, or back up beside them with --when-running continue"},
		"wait until done": {Wait, []Source{answers("database", two(), two(), one, nil)},
			Report{Mode: Wait, Source: "database", First: two(), Waited: 6 * time.Second}, []time.Duration{2 * time.Second, 2 * time.Second, 2 * time.Second}, "", ""},
		"wait too long": {Wait, []Source{answers("database", two(), one)},
			Report{Mode: Wait, Source: "database", First: two(), Running: one, Waited: 7 * time.Second},
			[]time.Duration{2 * time.Second, 2 * time.Second, 2 * time.Second, time.Second},
			"1 execution is running in n8n after 7s of waiting, the first is 7",
			"back up beside them with --when-running continue, or give them more time with --wait-limit\nexecutions that a crash left behind end when n8n is started anew"},
		"the API knows": {Continue, []Source{answers("api", one), answers("database", two())}, Report{Mode: Continue, Source: "api", First: one, Running: one}, nil, "", ""},
		"the API sees less than the database": {Continue, []Source{answers("api", nil), answers("database", two())},
			Report{Mode: Continue, Source: "database", First: two(), Running: two()}, nil, "", ""},
		"an old API": {Continue, []Source{mute("api"), answers("database", nil)},
			Report{Mode: Continue, Source: "database", Notes: []string{"the api of this n8n does not tell running executions"}}, nil, "", ""},
		"a broken API": {Continue, []Source{broken("api"), answers("database", one)},
			Report{Mode: Continue, Source: "database", First: one, Running: one, Notes: []string{"the api could not be asked for running executions: no way"}}, nil, "", ""},
		"only an old API": {Wait, []Source{mute("api")}, Report{Mode: Wait, Notes: []string{"the api of this n8n does not tell running executions"}}, nil,
			"this n8n's API does not tell which executions run", "name the database, too: n8n 1.113.3 is the first whose API can be asked"},
		"only a broken API": {Wait, []Source{broken("api")}, Report{Mode: Wait, Notes: []string{"the api could not be asked for running executions: no way"}}, nil, "no way", ""},
		"nobody":            {Wait, nil, Report{Mode: Wait}, nil, "nobody can be asked for running executions", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := &clock{now: time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)}
			got, err := Check(t.Context(), c.config(tt.mode, tt.sources...))
			text := ""
			if err != nil {
				text = err.Error()
			}
			if text != tt.text || problem.HintOf(err) != tt.hint {
				t.Errorf("got %q\n%q", text, problem.HintOf(err))
			}
			if len(got.Running) > 0 && err != nil && problem.KindOf(err) != problem.Busy {
				t.Errorf("kind %s", problem.KindOf(err))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.sleeps, c.sleeps); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := &clock{}
	cfg := c.config(Wait, answers("database", two()))
	cfg.Waiting = func(still []Execution, waited time.Duration) {
		if len(still) != 2 || waited != 0 {
			t.Errorf("waiting: %v %v", still, waited)
		}
		cancel()
	}
	if _, err := Check(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	cfg = Config{Mode: Wait, Sources: cfg.Sources, Every: time.Hour, Waiting: func([]Execution, time.Duration) {}}
	if _, err := Check(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("with the real clock: %v", err)
	}
	cfg.Every = time.Millisecond
	cfg.Sources = []Source{answers("database", two(), nil)}
	if r, err := Check(t.Context(), cfg); err != nil || len(r.First) != 2 || len(r.Running) != 0 {
		t.Errorf("with the real clock: %+v %v", r, err)
	}
}

func TestParseMode(t *testing.T) {
	for _, s := range []string{"wait", "continue", "fail"} {
		if m, err := ParseMode(s); err != nil || string(m) != s {
			t.Errorf("%q: %v %v", s, m, err)
		}
	}
	_, err := ParseMode("perhaps")
	if problem.KindOf(err) != problem.Usage || err.Error() != `"perhaps" says not what to do with running executions` || problem.HintOf(err) != `use "wait", "continue" or "fail"` {
		t.Errorf("got %v", err)
	}
}

// The sources as they are, on both engines.
func TestSources(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		f := n8ndbtest.Load(t, name)
		location, _ := f.CopySeeded(t)
		got, supported, err := Database(f.Open(t, location)).Running(t.Context())
		want := []Execution{{ID: "9001", WorkflowID: "labWorkflowCli01", Status: "new"}, {ID: "9002", WorkflowID: "labWorkflowCli01", Status: "running"}}
		if diff := cmp.Diff(want, got); err != nil || !supported || diff != "" {
			t.Errorf("%s: %v %v\n%s", name, supported, err, diff)
		}
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("status") != "running" {
			w.WriteHeader(400)
			w.Write([]byte(`{"message":"request/query/status must be equal to one of the allowed values: running"}`))
			return
		}
		w.Write([]byte(`{"data":[{"id":"5","workflowId":"w","status":"running","startedAt":null}],"nextCursor":null}`))
	}))
	defer s.Close()
	c, err := n8napi.New(n8napi.Config{URL: s.URL, Key: secret.NewString("k")})
	if err != nil {
		t.Fatal(err)
	}
	got, supported, err := API(c).Running(t.Context())
	if diff := cmp.Diff([]Execution{{ID: "5", WorkflowID: "w", Status: "running"}}, got); err != nil || !supported || diff != "" {
		t.Errorf("%v %v\n%s", supported, err, diff)
	}
}
