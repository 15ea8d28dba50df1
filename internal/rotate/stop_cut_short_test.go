package rotate

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

// slowService goes on with a stop when whoever asked for it was interrupted, as docker does:
// n8n ends once it is asked again, or by the time of the first start.
type slowService struct {
	fakeService
	stopping *bool
	stop     func() error // is told of the first stop
	stops    *int
}

func (s slowService) Stop(ctx context.Context) error {
	*s.stops++
	if *s.stops == 1 {
		*s.stopping = true
		return s.stop()
	}
	*s.stopping = false
	return s.fakeService.Stop(ctx)
}

func (s slowService) Start(ctx context.Context) error {
	if *s.stopping { // it seems to run, and then ends
		return s.fakeService.Stop(ctx)
	}
	return s.fakeService.Start(ctx)
}

func (s slowService) Healthy(context.Context) error { return nil }

// TestStopCutShort: a stop that was interrupted has ended before n8n is started again.
func TestStopCutShort(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	slow := func(cfg *Config, stop func() error) *int {
		n := new(int)
		cfg.Service = slowService{fakeService{j}, new(bool), stop, n}
		return n
	}
	cfg := j.mustConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	stops := slow(&cfg, func() error { cancel(); return ctx.Err() })
	r, err := Run(ctx, cfg)
	says(t, "forward", err, problem.Interrupted, "nothing was changed; n8n runs again with the old key")
	if r.Journal.State != Abandoned || *stops != 2 {
		t.Errorf("%+v, stopped %d times", r.Journal, *stops)
	}
	b.check(t, j, "forward")

	// The same in a rollback.
	j = b.world(t)
	if _, err := j.do(); err != nil {
		t.Fatal(err)
	}
	j.Do = "rollback"
	cfg = j.mustConfig(t)
	stops = slow(&cfg, func() error { return errors.New("it does not stop") })
	r, err = Rollback(t.Context(), cfg)
	says(t, "back", err, problem.Unexpected, "it does not stop", "n8n was started again")
	if r.Journal.State != Verified || *stops != 2 {
		t.Errorf("%+v, stopped %d times", r.Journal, *stops)
	}
	b.check(t, j, "back")
}

// TestJournalNotWrittenForTheStop: what fails before n8n is stopped has ended the rotation.
func TestJournalNotWrittenForTheStop(t *testing.T) {
	b := newBase(t, "2.41.1-sqlite")
	j := b.world(t)
	r, err := j.with(t, t.Context(), at("journal 5", func() error {
		if _, err := os.Stat(j.path("running")); err != nil {
			t.Errorf("n8n was stopped already: %v", err)
		}
		return errors.New("no room")
	}))
	says(t, "stop", err, problem.Unexpected, "no room", "nothing was changed")
	if r.Journal.State != Abandoned || r.Journal.Step(StepStage) == nil || r.Journal.Step(StepStop) != nil || len(r.Next) > 0 {
		t.Fatalf("%+v", r.Journal)
	}
	b.check(t, j, "stop")
}
