package app

import (
	"context"
	"slices"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/problem"
)

// BackupSample verifies some archives of a target, those first that were not looked
// at for the longest time, and remembers which. Problems of archives are in the
// document, and the error is of the kind of the worst.
func (a *App) BackupSample(ctx context.Context, o ArchiveOptions, io InstanceOptions, sample string, level backup.Level) (*api.Sampled, error) {
	start := a.Now()
	size, err := backup.ParseSample(sample)
	if err != nil {
		return nil, err
	}
	store, err := a.openTarget(ctx, o.Target, false)
	if err != nil {
		return nil, err
	}
	trust, err := a.trust(o)
	if err != nil {
		return nil, err
	}
	// Without it the same archives would be taken again and again.
	db, err := a.memory(ctx)
	if err != nil {
		return nil, err
	}
	archives, err := a.lister(ctx, store, trust).List(ctx)
	if err != nil {
		return nil, err
	}
	archives = slices.DeleteFunc(archives, func(l backup.Listed) bool {
		return !l.Trusted || o.Instance != "" && l.ID.Instance() != o.Instance
	})
	doc := &api.Sampled{Target: store.Properties().Location, Level: level.String(), Sample: sample, Total: len(archives), Archives: []api.SampleOutcome{}, Warnings: []string{}}
	if len(archives) == 0 {
		return nil, problem.New(problem.NotFound, "there is no archive to verify in %q", doc.Target).WithHint("see what is there: \"n8keep backup list --target %s\"", doc.Target)
	}
	remembered, err := db.Verifications(ctx, doc.Target)
	if err != nil {
		return nil, err
	}
	var worst error
	for _, l := range size.Pick(archives, remembered, level) {
		out, err := a.sampleOne(ctx, opened{store, l.ID, trust}, l.Sidecar, o, io, level)
		if ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			doc.Failed++
			if worst == nil || severity(err) < severity(worst) {
				worst = err
			}
		} else {
			doc.Sound++
		}
		doc.Archives = append(doc.Archives, out)
	}
	doc.Seconds = a.Now().Sub(start).Seconds()
	if worst == nil {
		return doc, nil
	}
	e := problem.New(problem.KindOf(worst), "%d of %d archives did not verify: %s", doc.Failed, len(doc.Archives), worst)
	if hint := problem.HintOf(worst); hint != "" {
		e.WithHint("%s", hint)
	}
	return doc, e
}

// sampleOne verifies one archive. One that was made with another key than the one
// at hand is verified as deep as is possible without it.
func (a *App) sampleOne(ctx context.Context, arc opened, s archive.Sidecar, o ArchiveOptions, io InstanceOptions, level backup.Level) (api.SampleOutcome, error) {
	start := a.Now()
	if level == backup.Secrets {
		if key, err := a.keyFor(io, arc.id.Instance(), ""); err == nil && string(key.key.Fingerprint()) != s.KeyFingerprint {
			level = backup.Full
		}
	}
	_, err := a.verifyOpened(ctx, arc, o, io, level)
	out := api.SampleOutcome{ID: string(arc.id), Level: level.String(), Outcome: "sound", Seconds: a.Now().Sub(start).Seconds()}
	switch k := problem.KindOf(err); {
	case err == nil:
	case k == problem.CheckFailed:
		out.Outcome = string(archive.StateDegraded)
	default:
		out.Outcome = string(k)
	}
	if err != nil {
		out.Problem, out.Hint = err.Error(), problem.HintOf(err)
	}
	return out, err
}

// severity orders what a sample may show, the worst first: an archive that is lost
// before one that could not be looked at.
func severity(err error) int {
	order := []problem.Kind{problem.Damaged, problem.Untrusted, problem.NotFound, problem.WrongKey, problem.CheckFailed, problem.NoIdentity, problem.Unreachable}
	if i := slices.Index(order, problem.KindOf(err)); i >= 0 {
		return i
	}
	return len(order)
}
