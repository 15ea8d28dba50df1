package app

import (
	"context"
	"errors"
	"fmt"
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
	picked := size.Pick(archives, remembered, level)
	keys := sampleKeys{}
	if level == backup.Secrets {
		keys = a.sampleKeys(io, archives, picked)
	}
	worst := keys.newest
	doc.Warnings = append(doc.Warnings, keys.warnings...)
	for _, l := range picked {
		out, err := a.sampleOne(ctx, opened{store, l.ID, trust}, keys.wrong[l.ID], keys.other[l.ID], o, io, level)
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
	if doc.Failed == 0 {
		return doc, worst
	}
	e := problem.New(problem.KindOf(worst), "%d of %d archives did not verify: %s", doc.Failed, len(doc.Archives), worst)
	if hint := problem.HintOf(worst); hint != "" {
		e.WithHint("%s", hint)
	}
	return doc, e
}

// sampleKeys says of which archives the key at hand is not the one, and what that
// means.
type sampleKeys struct {
	other    map[archive.ID]bool  // made with another key
	wrong    map[archive.ID]error // of these, where the key at hand is the wrong one
	newest   error                // an instance's newest archive was made with another key
	warnings []string
}

// sampleKeys compares the fingerprints in the sidecars with the keys at hand. A key
// of which neither the newest archive of an instance nor any of those picked was
// made is the wrong one: then nothing was proved that was asked for. Old archives
// from before a change of the key are only named.
func (a *App) sampleKeys(io InstanceOptions, archives, picked []backup.Listed) sampleKeys {
	k := sampleKeys{other: map[archive.ID]bool{}, wrong: map[archive.ID]error{}}
	keys, wrongOf := map[string]resolvedKey{}, map[string]bool{}
	fits := 0
	for _, l := range picked {
		instance := l.ID.Instance()
		key, known := keys[instance]
		if !known {
			var err error
			if key, err = a.keyFor(io, instance, ""); err != nil {
				return sampleKeys{} // each verification says why
			}
			keys[instance] = key
			newest := archives[slices.IndexFunc(archives, func(l backup.Listed) bool { return l.ID.Instance() == instance })]
			if err := wrongKey(newest, key, archives); err != nil {
				wrongOf[instance] = true
				if k.newest == nil {
					k.newest = err
				}
			}
		}
		if string(key.key.Fingerprint()) == l.Sidecar.KeyFingerprint {
			fits++
		} else {
			k.other[l.ID] = true
		}
	}
	for _, l := range picked {
		switch {
		case !k.other[l.ID]:
		case fits == 0 || wrongOf[l.ID.Instance()]:
			k.wrong[l.ID] = wrongKey(l, keys[l.ID.Instance()], archives)
		default:
			k.warnings = append(k.warnings, fmt.Sprintf("archive %s was made with another instance key, %s: its secrets were not opened, it was verified at level full", l.ID, l.Sidecar.KeyFingerprint))
		}
	}
	return k
}

// wrongKey is nil for the key that the archive was made with.
func wrongKey(l backup.Listed, key resolvedKey, archives []backup.Listed) error {
	err := backup.CheckKey(l.Sidecar, key.key)
	var p *problem.Error
	if !errors.As(err, &p) {
		return err
	}
	hintKey(p, key)
	var ids []archive.ID
	for _, l := range archives {
		if l.Sidecar.KeyFingerprint == string(key.key.Fingerprint()) {
			ids = append(ids, l.ID)
		}
	}
	hintArchives(p, ids)
	return p
}

// sampleOne verifies one archive. One that was made with another key than the one
// at hand is verified as deep as is possible without it, and then fails with wrong
// if that is an error.
func (a *App) sampleOne(ctx context.Context, arc opened, wrong error, otherKey bool, o ArchiveOptions, io InstanceOptions, level backup.Level) (api.SampleOutcome, error) {
	start := a.Now()
	if otherKey {
		level = backup.Full
	}
	doc, err := a.verifyOpened(ctx, arc, o, io, level)
	if wrong != nil && (err == nil || severity(wrong) < severity(err)) {
		err = wrong
	}
	out := api.SampleOutcome{ID: string(arc.id), Level: level.String(), Outcome: "sound", Seconds: a.Now().Sub(start).Seconds()}
	switch k := problem.KindOf(err); {
	case err == nil:
	case k == problem.CheckFailed && slices.ContainsFunc(doc.Findings, func(f api.Finding) bool { return f.Code == backup.FoundAltered }):
		out.Outcome = backup.FoundAltered
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
