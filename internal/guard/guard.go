// Package guard looks for running executions before a backup and waits for their
// end, goes on, or refuses, as the user chose. It never stops, restarts or pauses
// n8n.
//
// A backup beside running executions is complete and consistent, too: they are in
// it as running, and a restored n8n marks them as crashed when it starts. Waiting
// gives an archive in which nothing is half done.
//
// Who is asked: n8n's public API, where one is configured and the version can be
// asked for running executions, then the database. The API shows only what the
// owner of its key may see, so its "nothing runs" is confirmed by the database
// when there is one. What the database shows may be left over from a crash; n8n
// cleans that up at its next start.
package guard

import (
	"context"
	"fmt"
	"time"

	"github.com/n8keep/n8keep/internal/n8napi"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// Mode is what to do when executions are running.
type Mode string

// The values of --when-running.
const (
	Continue Mode = "continue" // go on, and report them
	Wait     Mode = "wait"     // for their end, up to a limit; then refuse
	Fail     Mode = "fail"     // refuse
)

// ParseMode takes "wait", "continue" or "fail"; anything else is a problem of kind Usage.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Continue, Wait, Fail:
		return m, nil
	}
	return "", problem.New(problem.Usage, "%q says not what to do with running executions", s).
		WithHint(`use "wait", "continue" or "fail"`)
}

// Execution is one that n8n works on, or has accepted and not begun.
type Execution struct {
	ID         string
	WorkflowID string
	Status     string    // "new" or "running"; "" where the version does not tell
	Started    time.Time // zero if it has not begun or is not known
}

// Source tells which executions run.
type Source struct {
	Name string // "api" or "database", as it stands in the report
	// Running returns at most some thousand. With supported false it cannot say.
	Running func(context.Context) (list []Execution, supported bool, err error)
}

// API asks n8n's public API.
func API(c *n8napi.Client) Source {
	return Source{Name: "api", Running: func(ctx context.Context) ([]Execution, bool, error) {
		found, supported, err := c.Running(ctx)
		list := make([]Execution, len(found))
		for i, e := range found {
			list[i] = Execution(e)
		}
		return list, supported, err
	}}
}

// Database reads the database, which must not be opened with a snapshot: it would
// show the same executions for ever.
func Database(db *n8ndb.DB) Source {
	return Source{Name: "database", Running: func(ctx context.Context) ([]Execution, bool, error) {
		found, err := db.Running(ctx)
		list := make([]Execution, len(found))
		for i, e := range found {
			list[i] = Execution(e)
		}
		return list, true, err
	}}
}

// Config says what to look for and how long.
type Config struct {
	Mode    Mode          // "" is Continue
	Limit   time.Duration // of Wait; 0 is 10 minutes
	Sources []Source      // asked in this order; at least one
	// Every is the time between two looks; 0 is 2 seconds.
	Every time.Duration
	Now   func() time.Time // nil: time.Now
	// Sleep waits, and ends early with the context's error; nil: with a timer.
	Sleep func(context.Context, time.Duration) error
	// Waiting, if set, is called before each pause with what still runs.
	Waiting func(still []Execution, waited time.Duration)
}

// Report is what was found.
type Report struct {
	Mode    Mode
	Source  string        // who found them, or said last that nothing runs
	First   []Execution   // running at the first look
	Running []Execution   // still running when the guard let go
	Waited  time.Duration // between the first look and the last
	Notes   []string      // sources that could not say, and why
}

const (
	defaultLimit = 10 * time.Minute
	defaultEvery = 2 * time.Second
)

// Check looks, waits if it is to, and returns what was running. The error is of
// kind Busy when executions run that must not (the report is filled then, too),
// and that of the last source when none could be asked.
func Check(ctx context.Context, cfg Config) (Report, error) {
	cfg = cfg.withDefaults()
	report := Report{Mode: cfg.Mode}
	began := cfg.Now()
	for first := true; ; first = false {
		running, err := look(ctx, cfg.Sources, &report)
		if err != nil {
			return report, err
		}
		report.Running, report.Waited = running, cfg.Now().Sub(began)
		if first {
			report.First = running
		}
		switch {
		case len(running) == 0, cfg.Mode == Continue:
			return report, nil
		case cfg.Mode == Fail:
			return report, busy(running, "").
				WithHint("wait for them with --when-running wait, or back up beside them with --when-running continue")
		case report.Waited >= cfg.Limit:
			return report, busy(running, fmt.Sprintf(" after %s of waiting", cfg.Limit)).
				WithHint("back up beside them with --when-running continue, or give them more time with --wait-limit\n" +
					"executions that a crash left behind end when n8n is started anew")
		}
		if cfg.Waiting != nil {
			cfg.Waiting(running, report.Waited)
		}
		if err := cfg.Sleep(ctx, min(cfg.Every, cfg.Limit-report.Waited)); err != nil {
			return report, err
		}
	}
}

func (cfg Config) withDefaults() Config {
	if cfg.Mode == "" {
		cfg.Mode = Continue
	}
	if cfg.Limit == 0 {
		cfg.Limit = defaultLimit
	}
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = sleep
	}
	return cfg
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// look asks the sources in turn until one knows of executions. Nothing runs when
// all that can be asked say so.
func look(ctx context.Context, sources []Source, report *Report) ([]Execution, error) {
	if len(sources) == 0 {
		return nil, problem.New(problem.Unexpected, "nobody can be asked for running executions")
	}
	report.Notes = nil
	answered := false
	var failed error
	for _, s := range sources {
		running, supported, err := s.Running(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			failed = err
			report.Notes = append(report.Notes, fmt.Sprintf("the %s could not be asked for running executions: %v", s.Name, err))
			continue
		case !supported:
			report.Notes = append(report.Notes, fmt.Sprintf("the %s of this n8n does not tell running executions", s.Name))
			continue
		}
		answered, report.Source = true, s.Name
		if len(running) > 0 {
			return running, nil
		}
	}
	switch {
	case answered:
		return nil, nil
	case failed != nil:
		return nil, failed
	}
	return nil, errUnsupported()
}

func errUnsupported() error {
	return problem.New(problem.Usage, "this n8n's API does not tell which executions run").
		WithHint("name the database, too: n8n 1.113.3 is the first whose API can be asked")
}

func busy(running []Execution, after string) *problem.Error {
	what := fmt.Sprintf("%d executions are", len(running))
	if len(running) == 1 {
		what = "1 execution is"
	}
	return problem.New(problem.Busy, "%s running in n8n%s, the first is %s", what, after, running[0].ID)
}
