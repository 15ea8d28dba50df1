package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/retention"
	"github.com/n8keep/n8keep/internal/state"
)

// PruneConfig says what a prune works on. Fields without a remark are required.
type PruneConfig struct {
	ListConfig
	State         *state.DB
	Policies      map[retention.Kind]retention.Policy
	Instance      string   // only this one's archives; "" for all
	ForgottenKeys []string // fingerprints of keys whose last archive may go
	AcceptClock   bool     // go on although the clock is implausible
	Now           func() time.Time
	Progress      Progress // nil: none
}

// Prune is a plan: what goes and what stays, with the reasons.
type Prune struct {
	retention.Plan
	Clock    retention.Clock
	Findings []archive.Finding // Place is the archive's id
	Warnings []string

	cfg  PruneConfig
	byID map[string]Listed
}

// Codes of findings of a prune and of a list.
const (
	FoundAltered     = "altered"          // something was done to an object after it was put
	FoundNoArchive   = "archive_missing"  // there is a sidecar, and nothing that it belongs to
	FoundUnreadable  = "unreadable"       // the sidecar is damaged or forged
	FoundWrongSize   = "size_differs"     // the archive is not as long as its sidecar says
	FoundDamaged     = "damaged"          // a verification on this side found it damaged
	FoundUntrusted   = "untrusted_signer" // not counted and not pruned
	FoundTimeDiffers = "time_differs"     // the target's time and the archive's own
)

// statLimit is up to how many archives that are to go the target is asked for locks
// while planning. Above, each is asked about when its turn comes.
const statLimit = 1000

// PlanPrune lists a target and decides. It changes nothing. Problem Usage: the
// clock cannot be right.
func PlanPrune(ctx context.Context, cfg PruneConfig) (*Prune, error) {
	cfg.Cache = cfg.State
	list, err := cfg.List(ctx)
	if err != nil {
		return nil, err
	}
	where := cfg.Store.Properties().Location
	remembered, err := cfg.State.Verifications(ctx, where)
	if err != nil {
		return nil, err
	}
	p := &Prune{cfg: cfg, byID: map[string]Listed{}}
	if caveat := cfg.Store.Properties().Caveat; caveat != "" { // known once something was asked
		p.Warnings = append(p.Warnings, caveat)
	}
	if err := p.checkClock(ctx, list); err != nil {
		return nil, err
	}
	var items []retention.Item
	for _, l := range list {
		if cfg.Instance != "" && l.ID.Instance() != cfg.Instance {
			continue
		}
		p.byID[string(l.ID)] = l
		items = append(items, p.item(l, CheckedOf(remembered[string(l.ID)], l.Sidecar)))
	}
	rules := retention.Config{Now: p.Clock.Now(), Policies: cfg.Policies, ForgottenKeys: cfg.ForgottenKeys}
	p.Plan = retention.Decide(items, rules)
	locked, err := p.askLocks(ctx, items)
	if err != nil {
		return nil, err
	}
	if locked {
		p.Plan = retention.Decide(items, rules)
	}
	return p, nil
}

func (p *Prune) checkClock(ctx context.Context, list []Listed) error {
	p.Clock.Local = p.cfg.Now()
	if c, ok := p.cfg.Store.(blob.Clocked); ok {
		var err error
		if p.Clock.Target, err = c.Clock(ctx); err != nil {
			return targetProblem(err, p.cfg.Store, "asking the target for its time")
		}
	}
	for _, l := range list {
		if l.Stored.After(p.Clock.Newest) {
			p.Clock.Newest = l.Stored
		}
	}
	var err error
	if p.Clock.Seen, err = p.cfg.State.ClockSeen(ctx, p.cfg.Store.Properties().Location); err != nil {
		return err
	}
	wrong := p.Clock.Implausible()
	switch {
	case wrong == "":
	case p.cfg.AcceptClock:
		p.Warnings = append(p.Warnings, wrong)
	default:
		return problem.New(problem.Usage, "%s", wrong).
			WithHint("nothing was removed; set the clock right").
			WithHint("if the clock is right now: --accept-clock")
	}
	return nil
}

func (p *Prune) find(l Listed, code, format string, args ...any) string {
	detail := fmt.Sprintf(format, args...)
	p.Findings = append(p.Findings, archive.Finding{Code: code, Place: string(l.ID), Detail: detail})
	return detail
}

// item is what retention has to know of an archive.
func (p *Prune) item(l Listed, c Checked) retention.Item {
	i := retention.Item{ID: string(l.ID), Kind: retention.Archives, Instance: l.ID.Instance(), Key: l.Sidecar.KeyFingerprint,
		Created: l.Sidecar.Created, Stored: l.Stored, LockedUntil: l.LockedUntil, Verified: c.Sound}
	if !l.Signer.IsZero() {
		i.Signer = l.Signer.Fingerprint()
	}
	if l.Sidecar.Engine == EngineWorkflows {
		i.Kind = retention.Workflows
	}
	switch l.State {
	case string(archive.StateGood):
		i.State = retention.Good
	case string(archive.StateDegraded):
		i.State = retention.Degraded
	default:
		i.State, i.Created = retention.Incomplete, l.ID.Time()
	}
	// What somebody may have meddled with is kept: it is evidence, and it may be
	// all there is.
	switch {
	case l.Altered != "":
		i.Hold = p.find(l, FoundAltered, "altered: %s", l.Altered)
	case l.State == StateUnreadable:
		i.Hold = p.find(l, FoundUnreadable, "its sidecar is damaged or forged")
	case l.NoArchive:
		i.Hold = p.find(l, FoundNoArchive, "the archive it belongs to is missing, and it was not n8keep that removed it")
	case l.State == StateIncomplete && !l.Signer.IsZero():
		i.Hold = p.find(l, FoundWrongSize, "it has %d bytes, its sidecar says %d", l.Size, l.Sidecar.Size)
	case l.State == StateIncomplete:
	case !l.Trusted:
		i.Hold = p.find(l, FoundUntrusted, "its signer %s is not trusted here", i.Signer)
	case !c.Damaged.IsZero():
		i.Hold = p.find(l, FoundDamaged, "it was found damaged on %s", c.Damaged.UTC().Format("2006-01-02"))
	}
	if text := TimeDiffers(l); text != "" {
		p.find(l, FoundTimeDiffers, "%s", text)
	}
	return i
}

// TimeDiffers says that the target's time of an archive and its own are more than
// an hour apart; "" when they are not.
func TimeDiffers(l Listed) string {
	if l.Sidecar.Created.IsZero() || l.Stored.Sub(l.Sidecar.Created).Abs() <= retention.Tolerance {
		return ""
	}
	return fmt.Sprintf("made %s by its own clock, stored %s by the target's: copied, or one of the clocks was wrong, or the backup took long",
		l.Sidecar.Created.UTC().Format("2006-01-02 15:04"), l.Stored.UTC().Format("2006-01-02 15:04"))
}

// askLocks asks about what is to go, where listings do not tell of locks.
func (p *Prune) askLocks(ctx context.Context, items []retention.Item) (found bool, err error) {
	var ask []int
	goes := map[string]bool{}
	for _, d := range p.Decisions {
		goes[d.ID] = !d.Keep
	}
	for i := range items {
		if goes[items[i].ID] {
			ask = append(ask, i)
		}
	}
	if len(ask) > statLimit {
		return false, nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sidecarReaders)
	until := make([]time.Time, len(ask))
	for n, i := range ask {
		l := p.byID[items[i].ID]
		name := l.ID.SidecarName() // it is put last, so it is locked longest
		if l.Signer.IsZero() {
			name = l.ID.ArchiveName()
		}
		g.Go(func() error {
			info, err := p.cfg.Store.Stat(ctx, name)
			if err != nil && !errors.Is(err, blob.ErrNotFound) { // removed meanwhile
				return targetProblem(err, p.cfg.Store, "looking whether %q is locked", l.ID)
			}
			until[n] = info.LockedUntil
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	for n, i := range ask {
		if until[n].After(items[i].LockedUntil) {
			items[i].LockedUntil, found = until[n], true
		}
	}
	return found, nil
}

// Removes counts what the plan removes, and its bytes.
func (p *Prune) Removes() (archives int, bytes int64) {
	for _, d := range p.Decisions {
		if !d.Keep {
			archives++
			bytes += p.byID[d.ID].Size
		}
	}
	return archives, bytes
}

// Size is the stored size of an archive of the plan.
func (p *Prune) Size(id string) int64 { return p.byID[id].Size }

// oldestFirst are the decisions to remove.
func (p *Prune) oldestFirst() []retention.Decision {
	var list []retention.Decision
	for _, d := range slices.Backward(p.Decisions) {
		if !d.Keep {
			list = append(list, d)
		}
	}
	return list
}
