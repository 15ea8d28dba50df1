// Package service stops and starts n8n for a rotation, and waits until it is really
// stopped and really well: by commands of the user, by systemd, by docker compose.
//
// What differs between these is an [Orchestrator]: asking for a stop or a start, and
// saying what runs. Everything else is in [Service]: time limits, waiting, n8n's own
// health address, errors that say what was seen. A new orchestrator (a cluster, a
// scheduler) implements that interface and gets a kind in [Spec]; nothing that uses
// a Service changes.
//
// It refuses to believe: a stop counts when the orchestrator shows nothing running
// any more and the health address is silent, a start when everything runs and n8n
// says that it is ready. Where one of them cannot be known, [Service.Unchecked] says
// so, and the caller looks at the database. It never kills anything of n8n by itself.
//
// Everything can be repeated: stopping what is stopped and starting what runs is no
// error. Commands of a user have to be like that, too.
//
// Trust boundary: commands run with the rights of n8keep, in a process group of their
// own, without n8n's instance key and without database passwords in their
// environment. What they print is shown in errors only, shortened, without what is
// known or looks like a secret. n8n's answers are read up to a limit and never shown.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// Orchestrator is what runs n8n. Methods are called one at a time.
type Orchestrator interface {
	// Stop asks for all of n8n to be stopped, and returns when that was obeyed or
	// refused. It is called for what is stopped already, too.
	Stop(ctx context.Context) error
	// Start asks for all of it to be started. It need not wait until n8n is ready. It
	// is called for what runs already, too.
	Start(ctx context.Context) error
	// State says what becomes of each part of n8n. No parts and no error mean that
	// this orchestrator cannot know.
	State(ctx context.Context) ([]Part, error)
	// Logs says how a person reads what n8n has said: a command, or words.
	Logs() string
	// String names it for people, without secrets: `systemd unit "n8n.service"`.
	String() string
}

// Part is a process, container or unit of n8n.
type Part struct {
	Name  string // `unit "n8n.service"`
	State string // in the orchestrator's words, without secrets: "active", "restarting"
	// Runs says that a process is there, or comes and goes.
	Runs bool
	// Well says that it runs as it should.
	Well bool
	// Failed says that it has ended and will not come back by itself.
	Failed bool
	// Run changes with each new start of the process; "" when that is not known.
	Run string
}

func (p Part) String() string { return p.Name + " is " + p.State }

// Config is what a Service works with; all of it is optional.
type Config struct {
	// HealthURL is n8n's address, or that of its /healthz. Empty: n8n is not asked.
	HealthURL string
	// StopLimit, StartLimit and HealthLimit bound the methods. 0 is five minutes:
	// n8n lets running executions end, and migrates its database when it starts.
	StopLimit, StartLimit, HealthLimit time.Duration
	// Settle is how long everything has to run without a restart where there is no
	// HealthURL to ask; 0 is 15 seconds.
	Settle time.Duration
	// Poll is the time between two looks; 0 is half a second.
	Poll time.Duration
	// HTTP asks HealthURL. nil: a client that waits for five seconds, without a proxy.
	HTTP *http.Client
	// Logger gets notes without secrets; nil for none.
	Logger *slog.Logger
	// Replaced is the instance key that n8n must not be started with any more; zero for
	// none. [Open] gives it to the orchestrator.
	Replaced secret.String
}

// Service stops and starts one n8n with all its workers. It is not safe for
// concurrent use.
type Service struct {
	o      Orchestrator
	cfg    Config
	health *health
}

// New checks the configuration; it does no I/O.
func New(o Orchestrator, cfg Config) (*Service, error) {
	s := &Service{o: o, cfg: cfg}
	for _, d := range []struct {
		value   *time.Duration
		missing time.Duration
	}{
		{&s.cfg.StopLimit, 5 * time.Minute}, {&s.cfg.StartLimit, 5 * time.Minute}, {&s.cfg.HealthLimit, 5 * time.Minute},
		{&s.cfg.Settle, 15 * time.Second}, {&s.cfg.Poll, 500 * time.Millisecond},
	} {
		if *d.value <= 0 {
			*d.value = d.missing
		}
	}
	if s.cfg.Logger == nil {
		s.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.HealthURL != "" {
		var err error
		if s.health, err = newHealth(cfg.HealthURL, cfg.HTTP); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Service) String() string { return s.o.String() }

// Deployment is what n8n is started from: the files in which its environment may be set.
type Deployment struct {
	Units   []string // unit files and drop-ins of systemd
	Compose []string // docker compose files
}

// deployed is an orchestrator that knows its files.
type deployed interface {
	Deployment(ctx context.Context) (Deployment, error)
}

// Deployment asks the orchestrator for its files; there are none where it does not know
// any.
func (s *Service) Deployment(ctx context.Context) (Deployment, error) {
	if d, ok := s.o.(deployed); ok {
		return d.Deployment(ctx)
	}
	return Deployment{}, nil
}

// Unchecked are the things that this service cannot see, in words.
func (s *Service) Unchecked(ctx context.Context) []string {
	var list []string
	if parts, err := s.o.State(ctx); err == nil && len(parts) == 0 {
		list = append(list, fmt.Sprintf("whether the %s stop and start everything: only n8n's database and its health address show it", s.o))
	}
	if s.health == nil {
		list = append(list, "whether n8n itself says that it runs: give its address with --health-url")
	}
	return list
}

// Stop returns nil when n8n is stopped, as far as can be seen: nothing of it runs for
// the orchestrator, and the health address does not answer. What still runs at the
// limit is Busy.
func (s *Service) Stop(ctx context.Context) error {
	limit := time.Now().Add(s.cfg.StopLimit)
	asked, cancel := context.WithTimeoutCause(ctx, s.cfg.StopLimit, errLimit)
	defer cancel()
	if err := s.o.Stop(asked); err != nil {
		return s.explain(ctx, err, "stopping n8n")
	}
	for {
		running, err := s.running(ctx)
		if err == nil && len(running) == 0 {
			return nil
		}
		if again, cause := s.wait(ctx, limit); cause != nil {
			return problem.Wrap(problem.Interrupted, cause, "stopping n8n by %s", s.o)
		} else if again {
			continue
		}
		if err != nil {
			return s.explain(ctx, err, "stopping n8n")
		}
		return problem.New(problem.Busy, "stopping n8n by %s: it still runs after %s: %s", s.o, s.cfg.StopLimit, strings.Join(running, "; ")).
			WithHint("stop it by hand; its log: %s", s.o.Logs()).
			WithHint("if the health address is answered by something else, give --health-url the address of n8n itself")
	}
}

// Start returns when the orchestrator has started n8n; [Service.Healthy] waits for it.
func (s *Service) Start(ctx context.Context) error {
	asked, cancel := context.WithTimeoutCause(ctx, s.cfg.StartLimit, errLimit)
	defer cancel()
	if err := s.o.Start(asked); err != nil {
		return s.explain(ctx, err, "starting n8n")
	}
	return nil
}

// Healthy returns nil when everything runs and n8n says that it is ready; where
// neither can be known, at once. An n8n that is not there at the limit, or has ended,
// is Unreachable, with what was seen last.
func (s *Service) Healthy(ctx context.Context) error {
	limit := time.Now().Add(s.cfg.HealthLimit)
	settle := settling{need: s.cfg.Settle}
	for {
		parts, err := s.state(ctx)
		if err == nil && len(parts) == 0 && s.health == nil {
			return nil
		}
		var seen, failed []string
		for _, p := range parts {
			if p.Failed {
				failed = append(failed, p.String())
			}
			if !p.Well {
				seen = append(seen, p.String())
			}
		}
		if err != nil {
			seen = append(seen, err.Error())
		}
		if len(failed) > 0 {
			return s.unhealthy("n8n has ended again: " + strings.Join(failed, "; "))
		}
		if s.health != nil {
			if ready, said := s.health.ready(ctx); !ready {
				seen = append(seen, said)
			}
		} else if err == nil {
			if why := settle.look(parts, len(seen) == 0, time.Now()); why != "" {
				seen = append(seen, why)
			}
		}
		if len(seen) == 0 {
			return nil
		}
		if again, cause := s.wait(ctx, limit); cause != nil {
			return problem.Wrap(problem.Interrupted, cause, "waiting for n8n")
		} else if !again {
			return s.unhealthy(fmt.Sprintf("n8n is not healthy after %s: %s", s.cfg.HealthLimit, strings.Join(seen, "; ")))
		}
	}
}

func (s *Service) unhealthy(msg string) error {
	return problem.New(problem.Unreachable, "%s", msg).
		WithHint("look at its log: %s", s.o.Logs()).
		WithHint(`n8n refuses to start ("Mismatching encryption keys") when its config and its environment hold different keys`)
}

// running is what still runs, in words.
func (s *Service) running(ctx context.Context) ([]string, error) {
	parts, err := s.state(ctx)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, p := range parts {
		if p.Runs {
			list = append(list, p.String())
		}
	}
	if s.health != nil {
		if said, answers := s.health.answers(ctx); answers {
			list = append(list, said)
		}
	}
	return list, ctx.Err()
}

// state is one look, which the limits do not cut short: what they report was seen.
func (s *Service) state(ctx context.Context) ([]Part, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookLimit, errLook)
	defer cancel()
	return s.o.State(ctx)
}

// lookLimit is how long the orchestrator may take to say how n8n is.
const lookLimit = time.Minute

var errLook = fmt.Errorf("it did not say within %s how n8n is", lookLimit)

var errLimit = errors.New("the time limit was reached")

// wait is the pause between two looks. again is false when the limit has passed; cause
// is that of ctx.
func (s *Service) wait(ctx context.Context, limit time.Time) (again bool, cause error) {
	t := time.NewTimer(s.cfg.Poll)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case <-t.C:
		return time.Now().Before(limit), nil
	}
}

// explain gives an error of the orchestrator the operation and, when there is none, a
// next step.
func (s *Service) explain(ctx context.Context, err error, op string) error {
	if cause := context.Cause(ctx); cause != nil {
		return problem.Wrap(problem.Interrupted, cause, "%s by %s", op, s.o)
	}
	var e *problem.Error
	if !errors.As(err, &e) {
		e = problem.Wrap(problem.Unexpected, err, "%s by %s", op, s.o)
	} else if e.Op == "" {
		e.Op = op
	}
	if e.Hint == "" {
		e.WithHint("look at its log: %s", s.o.Logs())
	}
	return e
}

// settling watches that nothing ends or restarts for a while.
type settling struct {
	need  time.Duration
	since time.Time
	runs  map[string]string
}

// look says why it is too early to believe that all is well; "" when it is not.
func (s *settling) look(parts []Part, well bool, now time.Time) string {
	if !well {
		s.since = time.Time{}
		return ""
	}
	runs, restarted := map[string]string{}, ""
	for _, p := range parts {
		runs[p.Name] = p.Run
		if was, ok := s.runs[p.Name]; ok && was != p.Run {
			restarted = p.Name + " was started again"
		}
	}
	s.runs = runs
	if restarted != "" || s.since.IsZero() {
		s.since = now
	}
	switch {
	case restarted != "":
		return restarted
	case now.Sub(s.since) < s.need:
		return fmt.Sprintf("it runs, but not yet for %s", s.need)
	}
	return ""
}
