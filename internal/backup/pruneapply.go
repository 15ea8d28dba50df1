package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/retention"
)

// Pruned is what became of an archive of the plan.
type Pruned struct {
	retention.Decision       // Keep and Reason as it turned out
	Removed            bool  // it is gone
	Err                error // why it is not, although it was to go
}

// PruneResult is what a prune did.
type PruneResult struct {
	Archives []Pruned // in the plan's order
	Removed  int64
	Kept     int64
	Failed   int64
	Bytes    int64 // of the removed ones
	Proved   []string
}

// removers is how many archives are removed at a time.
const removers = 8

// Apply proves what the plan demands, then removes what it says and nothing else.
// Before the newest good archive of an instance was read and found sound, nothing
// of it goes, and nothing that a key opens before one that it opens was. A failure does not end it: the result says what became of each
// archive, and the error, of kind Partial, how many were left.
//
// Of an archive the sidecar goes first. It is what makes the archive exist, so a
// prune that is interrupted leaves no sidecar that vouches for data that is gone;
// what it leaves is data without a sidecar, which every list calls incomplete and
// the next prune removes without waiting a day, because it is old. It is also the
// safe order under locks: the sidecar was put last, so a target that lets it go
// lets the archive go as well, and one that does not has lost nothing.
func (p *Prune) Apply(ctx context.Context) (*PruneResult, error) {
	where := p.cfg.Store.Properties().Location
	if err := p.cfg.State.SeeClock(ctx, where, p.Clock.Now()); err != nil {
		return nil, err
	}
	a := &pruning{Prune: p, looked: map[string]error{}, fate: map[string]Pruned{}, res: &PruneResult{}}
	for _, proof := range p.Proofs {
		if err := a.prove(ctx, proof); err != nil {
			return nil, err
		}
	}
	a.remove(ctx)
	return a.finish(ctx)
}

type pruning struct {
	*Prune
	res *PruneResult

	looked map[string]error // what reading an archive came to

	mu   sync.Mutex
	fate map[string]Pruned // where it is not as planned, or done
	done int64
}

func (a *pruning) decide(d retention.Decision, to Pruned) {
	a.mu.Lock()
	defer a.mu.Unlock()
	to.Item = d.Item
	a.fate[d.ID] = to
}

// prove reads the candidates until one is sound, which then stays.
func (a *pruning) prove(ctx context.Context, proof retention.Proof) error {
	decisions := map[string]retention.Decision{}
	for _, d := range a.Decisions {
		decisions[d.ID] = d
	}
	if len(a.awaiting(proof)) == 0 {
		return nil // a wider proof has failed, and all of it stays
	}
	reason, nothing := "newest good that was verified here, just now", "no good archive of it could be verified first"
	if proof.Key != "" {
		reason = "the newest that key " + proof.Key + " opens and that was verified here, just now"
		nothing = "no archive that key " + proof.Key + " opens could be verified first"
	}
	var last error
	for _, id := range proof.Candidates {
		d := decisions[id]
		err, known := a.looked[id]
		if !known {
			var stop error
			if err, stop = a.look(ctx, a.byID[id]); stop != nil {
				return stop
			}
			a.looked[id] = err
		}
		if err == nil {
			if !known {
				a.res.Proved = append(a.res.Proved, id)
			}
			if !d.Keep {
				a.decide(d, Pruned{Decision: retention.Decision{Keep: true, Reason: reason}})
			}
			return nil
		}
		last = err
		found := "found damaged just now"
		switch problem.KindOf(err) {
		case problem.Damaged:
		case problem.Untrusted, problem.NotFound:
			found = "not found as it was listed, just now"
		default:
			found = "" // it could not be read, and so could not the others
		}
		if found == "" {
			break
		}
		a.decide(d, Pruned{Decision: retention.Decision{Keep: true, Reason: found}, Err: err})
	}
	for _, d := range a.awaiting(proof) {
		a.decide(d, Pruned{Decision: retention.Decision{Keep: true, Reason: nothing}, Err: last})
	}
	return nil
}

// awaiting is what a proof is for and is still to go.
func (a *pruning) awaiting(proof retention.Proof) []retention.Decision {
	var list []retention.Decision
	for _, d := range a.Decisions {
		_, decided := a.fate[d.ID]
		if !d.Keep && d.Hold == "" && d.State != retention.Incomplete && proof.Same(d.Item) && !decided {
			list = append(list, d)
		}
	}
	return list
}

// look reads an archive and remembers what that came to; stop ends the prune.
func (a *pruning) look(ctx context.Context, l Listed) (outcome, stop error) {
	v, err := Verify(ctx, VerifyConfig{Store: a.cfg.Store, ID: l.ID, Level: Quick, Trust: a.cfg.Trust, Logger: a.cfg.logger(), Progress: a.cfg.Progress})
	if ctx.Err() != nil {
		return nil, problem.New(problem.Interrupted, "pruning: interrupted before anything was removed").WithHint("run the command again")
	}
	// The plan rests on the sidecar that was listed, perhaps long ago; what was read
	// by another says nothing of that one.
	if v != nil && (v.Sidecar.SHA256 != l.Sidecar.SHA256 || v.Sidecar.KeyFingerprint != l.Sidecar.KeyFingerprint) {
		return problem.New(problem.Untrusted, "archive %q has another sidecar than when the target was listed", l.ID).
			WithHint("n8keep never replaces a sidecar; find out who did, then run the command again"), nil
	}
	return err, Remember(ctx, a.cfg.State, a.cfg.Store.Properties().Location, l.Sidecar, Quick, a.cfg.Now(), err)
}

func (a *pruning) remove(ctx context.Context) {
	list := slices.DeleteFunc(a.oldestFirst(), func(d retention.Decision) bool {
		_, decided := a.fate[d.ID]
		return decided
	})
	report := a.cfg.Progress.of("removing archives")
	var g errgroup.Group
	g.SetLimit(removers)
	for _, d := range list {
		g.Go(func() error {
			a.decide(d, a.removeOne(ctx, d))
			a.mu.Lock()
			a.done++
			done := a.done
			a.mu.Unlock()
			report(done, int64(len(list)))
			return nil
		})
	}
	g.Wait()
}

func (a *pruning) removeOne(ctx context.Context, d retention.Decision) Pruned {
	l := a.byID[d.ID]
	keep := func(reason string) Pruned {
		return Pruned{Decision: retention.Decision{Keep: true, Reason: reason}}
	}
	fail := func(err error) Pruned {
		if errors.Is(err, blob.ErrLocked) {
			return keep("locked by the target")
		}
		return Pruned{Decision: retention.Decision{Keep: true, Reason: "could not be removed"}, Err: targetProblem(err, a.cfg.Store, "removing %q", d.ID)}
	}
	sidecar, archive := l.ID.SidecarName(), l.ID.ArchiveName()
	// Asked anew: much may have happened since the plan, and the sidecar must not go
	// when the archive cannot.
	for _, name := range []string{sidecar, archive} {
		info, err := a.cfg.Store.Stat(ctx, name)
		switch {
		case errors.Is(err, blob.ErrNotFound):
			continue
		case err != nil:
			return fail(err)
		case name == sidecar && d.State == retention.Incomplete:
			return keep("it was completed meanwhile")
		case info.Altered != "":
			return keep("altered: " + info.Altered)
		case info.LockedUntil.After(a.Clock.Now()):
			return keep("locked until " + info.LockedUntil.UTC().Format("2006-01-02T15:04:05Z"))
		}
	}
	for _, name := range []string{sidecar, archive} {
		failpoint.Hit("prune.delete")
		if err := a.cfg.Store.Delete(ctx, name); err != nil && !errors.Is(err, blob.ErrNotFound) {
			return fail(err)
		}
	}
	return Pruned{Decision: d, Removed: true}
}

func (a *pruning) finish(ctx context.Context) (*PruneResult, error) {
	var gone []string
	var firstErr error
	for _, d := range a.Decisions {
		f, ok := a.fate[d.ID]
		if !ok {
			f = Pruned{Decision: d}
		}
		switch {
		case f.Removed:
			a.res.Removed++
			a.res.Bytes += a.byID[d.ID].Size
			gone = append(gone, d.ID)
		case f.Err != nil:
			a.res.Failed++
			a.res.Kept++
			if firstErr == nil {
				firstErr = f.Err
			}
		default:
			a.res.Kept++
		}
		a.res.Archives = append(a.res.Archives, f)
	}
	if err := a.cfg.State.ForgetVerifications(context.WithoutCancel(ctx), a.cfg.Store.Properties().Location, gone); err != nil {
		a.cfg.logger().Warn("what was known of removed archives is not forgotten", "error", err)
	}
	switch {
	case firstErr == nil:
		return a.res, nil
	case ctx.Err() != nil:
		return a.res, problem.New(problem.Interrupted, "pruning: interrupted after %s", number(a.res.Removed, "archive")).WithHint("run the command again; what was left half-way is removed then")
	}
	e := problem.New(problem.Partial, "%s removed, %s not: %s", number(a.res.Removed, "archive"), number(a.res.Failed, "archive"), firstErr)
	e.Err = firstErr
	if hint := problem.HintOf(firstErr); hint != "" {
		e.WithHint("%s", hint)
	}
	return a.res, e
}

func number(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
