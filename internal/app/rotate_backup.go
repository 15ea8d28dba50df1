package app

import (
	"context"
	"slices"
	"time"

	"filippo.io/age"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/rotate"
	"github.com/n8keep/n8keep/internal/state"
)

// rotationBackup is the backup that a rotation rests on, or the one after it.
type rotationBackup struct {
	in             *instance
	key            resolvedKey // the one that the database is under at that time
	targets        []string
	recipients     []string
	recipientFiles []string
	identities     []age.Identity
	youngerThan    time.Duration // 0: always a new one
	quarantine     bool          // values may open under no key
	level          backup.Level
	last           bool // the one after the rotation
}

// ready finds out, before anything is done, what a backup would fail for.
func (a *App) ready(ctx context.Context, b *rotationBackup) error {
	var err error
	if len(b.targets) == 0 {
		if b.targets, err = a.conf.BackupTargets(b.in.conf); err != nil {
			return err
		}
	}
	if _, err := a.openTargets(ctx, b.targets, false); err != nil && problem.KindOf(err) != problem.NotFound {
		return err
	}
	if _, err := a.recipients(b.recipients, b.recipientFiles); err != nil {
		return err
	}
	if b.level == backup.Secrets && len(b.identities) == 0 {
		return problem.New(problem.Usage, "no identity to verify the backup with").
			WithHint("give the file with the private key that belongs to a recipient: --identity FILE").
			WithHint("or verify a backup elsewhere on this machine, and accept it with --backup-younger-than 24h")
	}
	return nil
}

// take makes a backup with the key and verifies it, or finds one that is young enough.
func (a *App) take(ctx context.Context, b rotationBackup) (rotate.BackupRef, error) {
	if b.youngerThan > 0 {
		if ref, ok, err := a.young(ctx, b); err != nil || ok {
			return ref, err
		}
	}
	if err := a.ready(ctx, &b); err != nil {
		return rotate.BackupRef{}, err
	}
	doc, err := a.backupOf(ctx, b.in, b.key, BackupOptions{Targets: b.targets, Recipients: b.recipients, RecipientFiles: b.recipientFiles})
	if err != nil && (doc == nil || problem.KindOf(err) != problem.Partial) {
		return rotate.BackupRef{}, err
	}
	if err := b.goodEnough(doc.State, doc.Unproved, doc.SecretsFailed); err != nil {
		return rotate.BackupRef{}, err
	}
	given := ""
	var missed []string
	for i, t := range doc.Targets {
		switch {
		case t.Problem != "":
			missed = append(missed, t.Target+": "+t.Problem)
		case given == "":
			given = b.targets[i]
		}
	}
	if given == "" {
		return rotate.BackupRef{}, problem.New(problem.Unreachable, "backup %q is in no target", doc.ID)
	}
	o := ArchiveOptions{Target: given, ID: doc.ID, Identities: b.identities}
	arc, err := a.open(ctx, o)
	if err != nil {
		return rotate.BackupRef{}, b.unverified(err, doc.ID)
	}
	v, err := a.verifyWith(ctx, arc, o, b.key, b.level, nil)
	switch {
	case v != nil && problem.KindOf(err) == problem.CheckFailed && !slices.ContainsFunc(v.Findings, func(f api.Finding) bool { return f.Code == backup.FoundAltered }):
		// It is as degraded as it was made, which was good enough.
	case err != nil:
		return rotate.BackupRef{}, b.unverified(err, doc.ID)
	}
	return rotate.BackupRef{ID: doc.ID, Target: arc.store.Properties().Location, Created: doc.Time, Taken: true, Missed: missed}, nil
}

func (b *rotationBackup) unverified(err error, id string) error {
	p := problem.Wrap(problem.KindOf(err), err, "the backup %q was taken, but could not be verified", id).WithHint("%s", problem.HintOf(err))
	if b.last {
		return p.WithHint("verify it where its target can be read, and finalise with --no-backup-i-accept-the-risk")
	}
	return p.WithHint("verify it by hand: \"n8keep backup verify %s --level secrets\", then accept it with --backup-younger-than 24h", id)
}

// goodEnough says whether a rotation may rest on a backup. One that is degraded by the
// instance key in the database, which n8n itself put there, is: the rotation repairs it.
func (b *rotationBackup) goodEnough(s string, unproved bool, failed int64) error {
	switch {
	case s == string(archive.StateGood):
		return nil
	case unproved || s != string(archive.StateDegraded):
		return problem.New(problem.CheckFailed, "the backup proves nothing: no secret in it was opened")
	case failed > 0 && !b.quarantine:
		return problem.New(problem.CheckFailed, "%d values of the backup do not open", failed).
			WithHint("go on with --quarantine if they are to stay as they are")
	}
	return nil
}

// young looks for the newest archive of this database that was made with the key and
// verified on this machine with every secret.
func (a *App) young(ctx context.Context, b rotationBackup) (ref rotate.BackupRef, found bool, err error) {
	targets := b.targets
	if len(targets) == 0 {
		if targets, err = a.conf.BackupTargets(b.in.conf); err != nil {
			return ref, false, err
		}
	}
	trust, err := a.trust(ArchiveOptions{})
	if err != nil {
		return ref, false, err
	}
	fingerprint := string(b.key.key.Fingerprint())
	for _, name := range targets {
		store, err := a.openTarget(ctx, name, false)
		if problem.KindOf(err) == problem.NotFound {
			continue
		}
		if err != nil {
			return ref, false, err
		}
		archives, err := a.lister(ctx, store, trust).List(ctx)
		if err != nil {
			return ref, false, err
		}
		known := a.checked(ctx, store)
		for _, l := range archives {
			s := l.Sidecar
			if !l.Trusted || s.Instance != b.in.name || s.KeyFingerprint != fingerprint || s.Engine == backup.EngineWorkflows || l.Altered != "" ||
				a.Now().Sub(s.Created) > b.youngerThan || b.goodEnough(l.State, s.Unproved, s.SecretsFailed) != nil || !proved(known[string(l.ID)], s) {
				continue
			}
			if !found || s.Created.After(ref.Created) {
				ref, found = rotate.BackupRef{ID: string(l.ID), Target: store.Properties().Location, Created: s.Created}, true
			}
		}
	}
	return ref, found, nil
}

// proved reports whether every secret of the archive was opened here, and it was not
// found damaged since.
func proved(known []state.Verification, s archive.Sidecar) bool {
	if !backup.CheckedOf(known, s).Damaged.IsZero() {
		return false
	}
	return slices.ContainsFunc(known, func(v state.Verification) bool {
		return v.SHA256 == s.SHA256 && v.Level == backup.Secrets.String() && v.Outcome == state.Sound
	})
}

// madeWith lists the archives of an instance in the targets that open with one key
// only, and says which targets could not be asked.
func (a *App) madeWith(ctx context.Context, in *instance, targets []string, fingerprint string) (archives []api.KeptArchive, warnings []string) {
	if len(targets) == 0 {
		var err error
		if targets, err = a.conf.BackupTargets(in.conf); err != nil {
			return nil, []string{"which backups need the old key is not known: no target is named"}
		}
	}
	trust, err := a.trust(ArchiveOptions{})
	if err != nil {
		return nil, []string{err.Error()}
	}
	for _, name := range targets {
		var store blob.Store
		var all []backup.Listed
		store, err := a.openTarget(ctx, name, false)
		if err == nil {
			all, err = a.lister(ctx, store, trust).List(ctx)
		}
		if err != nil {
			warnings = append(warnings, "which backups need the old key is not known of one target: "+err.Error())
			continue
		}
		for _, l := range all {
			if l.Sidecar.KeyFingerprint == fingerprint && l.Sidecar.Engine != backup.EngineWorkflows {
				archives = append(archives, api.KeptArchive{ID: string(l.ID), Target: store.Properties().Location})
			}
		}
	}
	return archives, warnings
}
