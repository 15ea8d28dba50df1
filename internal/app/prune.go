package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/config"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/retention"
)

// PruneOptions are the options of "backup prune".
type PruneOptions struct {
	DryRun      bool
	AcceptClock bool
	ForgetKeys  []string // fingerprints
	// Confirm is shown the plan before it is carried out; an error ends the command
	// with nothing done. Required unless DryRun.
	Confirm func(*api.Prune) error
}

var keyFingerprint = regexp.MustCompile(`^n8k1-[a-z2-7]{16}$`)

// BackupPrune removes what the configured policy does not keep. A prune of which
// some of it failed is a document and an error of kind Partial.
func (a *App) BackupPrune(ctx context.Context, o ArchiveOptions, po PruneOptions) (doc *api.Prune, err error) {
	start := a.Now()
	for _, fp := range po.ForgetKeys {
		if !keyFingerprint.MatchString(fp) {
			return nil, problem.New(problem.Usage, "%q is no key's fingerprint", fp).WithHint("it is n8k1- and 16 letters a to z and digits 2 to 7, as the plan shows it")
		}
	}
	store, err := a.openTarget(ctx, o.Target, false)
	if err != nil {
		return nil, err
	}
	trust, err := a.trust(o)
	if err != nil {
		return nil, err
	}
	// Without it nothing is known of verifications and clocks, which a prune relies on.
	db, err := a.memory(ctx)
	if err != nil {
		return nil, err
	}
	lock, err := a.lockPrune()
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	policies := map[retention.Kind]retention.Policy{
		retention.Archives: keepsOf(a.conf.Retention.Archives), retention.Workflows: keepsOf(a.conf.Retention.Workflows)}
	plan, err := backup.PlanPrune(ctx, backup.PruneConfig{ListConfig: backup.ListConfig{Store: store, Trust: trust, Logger: a.Logger}, State: db, Policies: policies,
		Instance: o.Instance, ForgottenKeys: po.ForgetKeys, AcceptClock: po.AcceptClock, Now: a.Now, Progress: a.Progress})
	if err != nil {
		return nil, err
	}
	doc = a.pruneDoc(plan, policies, po)
	doc.Target = store.Properties().Location
	doc.Seconds = a.Now().Sub(start).Seconds()
	if po.DryRun {
		return doc, damagedThere(doc)
	}
	if doc.Removed > 0 {
		if err := po.Confirm(doc); err != nil {
			return nil, err
		}
	}
	_, end, err := a.begin(ctx, "backup prune", o.Instance, audit.FailClosed, map[string]any{"to_remove": doc.Removed, "to_prove": len(doc.ToProve)})
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	start = a.Now() // how long somebody thought about it is of no interest
	res, err := plan.Apply(ctx)
	if res == nil {
		return nil, err
	}
	doc.Seconds += a.Now().Sub(start).Seconds()
	doc.Removed, doc.Kept, doc.Failed, doc.Bytes, doc.Proved = res.Removed, res.Kept, res.Failed, res.Bytes, list(res.Proved)
	for i, p := range res.Archives {
		doc.Archives[i].Keep, doc.Archives[i].Reason = p.Keep, p.Reason
		if p.Err != nil {
			doc.Archives[i].Problem = p.Err.Error()
		}
	}
	counts["removed"], counts["kept"], counts["failed"], counts["bytes"], counts["findings"] = res.Removed, res.Kept, res.Failed, res.Bytes, int64(len(plan.Findings))
	if err == nil {
		err = damagedThere(doc)
	}
	return doc, err
}

// damagedThere is an error as long as the target holds an archive that is known to
// be damaged.
func damagedThere(doc *api.Prune) error {
	var ids []string
	for _, f := range doc.Findings {
		if f.Code == backup.FoundDamaged {
			ids = append(ids, f.Place)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return problem.New(problem.Partial, "archive %q%s was found damaged; it is kept, and counts for nothing", ids[0], more(len(ids)-1)).
		WithHint("look again with \"n8keep backup verify %s --target %s\"; if it is damaged indeed, it is for a person to remove: %s.json first, then %s.tar.zst.age", ids[0], doc.Target, ids[0], ids[0])
}

func keepsOf(p config.RetentionPolicy) retention.Policy { return retention.Policy(p.OrDefault()) }

// lockPrune keeps two prunes of this host apart. No instance has such a name.
func (a *App) lockPrune() (*durable.Lock, error) {
	if err := os.MkdirAll(a.lockDir(), 0o700); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "making lock folder %q", a.lockDir()).WithHint("choose another with --state-dir")
	}
	lock, err := durable.TryLock(filepath.Join(a.lockDir(), "_prune.lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, problem.New(problem.Busy, "another prune is under way on this host").
			WithHint("wait for it to end; the lock goes with its process, there is nothing to remove")
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "locking out other prunes")
	}
	return lock, nil
}

func (a *App) pruneDoc(plan *backup.Prune, policies map[retention.Kind]retention.Policy, po PruneOptions) *api.Prune {
	doc := &api.Prune{DryRun: po.DryRun, Policy: map[string]api.Policy{}, Archives: []api.Decision{}, ToProve: []string{}, Proved: []string{},
		Findings: findingDocs(plan.Findings), Warnings: list(plan.Warnings)}
	for kind, p := range policies {
		doc.Policy[string(kind)] = api.Policy(p)
	}
	keys := map[string]bool{}
	for _, d := range plan.Decisions {
		size := plan.Size(d.ID)
		keys[d.Key] = true
		if d.Keep {
			doc.Kept++
		} else {
			doc.Removed++
			doc.Bytes += size
		}
		doc.Archives = append(doc.Archives, api.Decision{ID: d.ID, Instance: d.Instance, Kind: string(d.Kind), Signer: d.Signer, Stored: d.Stored.UTC(), Size: size, Keep: d.Keep, Reason: d.Reason})
	}
	for _, p := range plan.Proofs {
		doc.ToProve = append(doc.ToProve, p.Candidates[0])
	}
	for _, fp := range po.ForgetKeys {
		if !keys[fp] {
			doc.Warnings = append(doc.Warnings, "no archive there was made with the key "+fp)
		}
	}
	slices.Sort(doc.ToProve)
	doc.ToProve = slices.Compact(doc.ToProve) // one may be demanded for a group and for a key
	return doc
}
