package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
)

// ArchiveOptions say which archive of which target, and whom to believe.
type ArchiveOptions struct {
	Target        string
	ID            string // an id, a unique prefix, or "latest"
	Instance      string // narrows "latest" and list
	Signers       []string
	AcceptSigners []string // fingerprints
	Identities    []age.Identity
	RetiredKey    bool // open it with the retired key that the keyring has, if it is not the key at hand
}

// trust is who may have signed: this host, the configuration, the options.
func (a *App) trust(o ArchiveOptions) (backup.Trust, error) {
	t := backup.Trust{Fingerprints: o.AcceptSigners}
	for _, s := range append(append([]string{}, a.conf.Signers...), o.Signers...) {
		signer, err := archive.ParseSigner(s)
		if err != nil {
			return t, (&problem.Error{Kind: problem.Usage, Err: err}).WithHint("it is ed25519: and 44 characters; \"n8keep status\" on the host that takes the backups prints it")
		}
		t.Signers = append(t.Signers, signer)
	}
	path, err := a.signingKeyPath()
	if err != nil {
		return t, err
	}
	key, _, err := backup.LoadSigningKey(path, false)
	switch {
	case err == nil:
		t.Signers = append(t.Signers, archive.SignerOf(key))
	case problem.KindOf(err) != problem.NotFound:
		a.Logger.Warn("own signing key not readable, its archives are not trusted", "error", err)
	}
	return t, nil
}

// opened is an archive that a command is about.
type opened struct {
	store blob.Store
	id    archive.ID
	trust backup.Trust
}

func (a *App) open(ctx context.Context, o ArchiveOptions) (opened, error) {
	store, err := a.openTarget(ctx, o.Target, false)
	if err != nil {
		return opened{}, err
	}
	trust, err := a.trust(o)
	if err != nil {
		return opened{}, err
	}
	id, err := a.lister(ctx, store, trust).Find(ctx, o.ID, o.Instance)
	return opened{store, id, trust}, err
}

// BackupShow shows an archive's sidecar and, when identities are given, its
// manifest, for which the whole archive is read.
func (a *App) BackupShow(ctx context.Context, o ArchiveOptions) (*api.Shown, error) {
	arc, err := a.open(ctx, o)
	if err != nil {
		return nil, err
	}
	signed, err := backup.ReadSidecar(ctx, arc.store, arc.id, arc.trust)
	if err != nil {
		return nil, err
	}
	s := signed.Sidecar
	doc := &api.Shown{Archive: archiveDoc(s, signed.Signer, true), LastMigration: s.LastMigration, SHA256: s.SHA256, Target: arc.store.Properties().Location, Warnings: []string{}}
	if len(o.Identities) == 0 {
		found, err := backup.Altered(ctx, arc.store, arc.id)
		if ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			doc.Warnings = append(doc.Warnings, err.Error())
		}
		doc.Findings, doc.Warnings = findingDocs(found), append(doc.Warnings, alteredWarnings(found)...)
		return doc, nil
	}
	v, err := backup.Verify(ctx, backup.VerifyConfig{Store: arc.store, ID: arc.id, Level: backup.Full, Trust: arc.trust, Identities: o.Identities,
		WorkDir: a.WorkDir, Logger: a.Logger, Progress: a.Progress})
	if err != nil {
		return nil, err
	}
	m := v.Manifest
	doc.Findings, doc.Warnings = foundDocs(v), alteredWarnings(v.Altered)
	for _, p := range m.Census {
		doc.Places = append(doc.Places, api.Place{Place: p.Place, ByKey: p.ByKey, Totals: api.Totals{Values: p.Values, Opened: p.Opened, Failed: p.Failed, Plaintext: p.Plaintext}})
	}
	for _, t := range m.Tables {
		doc.Tables = append(doc.Tables, api.Table(t))
	}
	for _, e := range m.Entries {
		doc.Entries = append(doc.Entries, api.Entry{Name: e.Name, Size: e.Size, SHA256: e.SHA256})
	}
	return doc, nil
}

// foundDocs are the findings of an archive's manifest, and what was done to the
// archive in its target.
func foundDocs(v *backup.Verified) []api.Finding {
	return findingDocs(slices.Concat(v.Manifest.Findings, v.Altered))
}

func alteredWarnings(found []archive.Finding) []string {
	warnings := []string{}
	for _, f := range found {
		warnings = append(warnings, fmt.Sprintf("archive %s: %s", f.Place, f.Detail))
	}
	return warnings
}

// BackupVerify verifies an archive. One that is sound but holds secrets that do
// not open, or was altered in its target, is a document and an error of kind
// CheckFailed.
func (a *App) BackupVerify(ctx context.Context, o ArchiveOptions, io InstanceOptions, level backup.Level) (*api.Verified, error) {
	arc, err := a.open(ctx, o)
	if err != nil {
		return nil, err
	}
	return a.verifyOpened(ctx, arc, o, io, level)
}

func (a *App) verifyOpened(ctx context.Context, arc opened, o ArchiveOptions, io InstanceOptions, level backup.Level) (*api.Verified, error) {
	return a.verifyIn(ctx, arc, o, io, level, nil)
}

// verifyIn verifies, and proves once more on the server of scratch if there is one.
func (a *App) verifyIn(ctx context.Context, arc opened, o ArchiveOptions, io InstanceOptions, level backup.Level, scratch *scratchRun) (doc *api.Verified, err error) {
	var key resolvedKey
	if level == backup.Secrets {
		if key, err = a.keyFor(io, arc.id.Instance(), ""); err != nil {
			return nil, err
		}
	}
	if level == backup.Secrets && o.RetiredKey {
		signed, err := backup.ReadSidecar(ctx, arc.store, arc.id, arc.trust)
		if err != nil {
			return nil, err
		}
		if key, err = a.retiredKey(ctx, o, signed.Sidecar, key); err != nil {
			return nil, err
		}
	}
	return a.verifyWith(ctx, arc, o, key, level, scratch)
}

// verifyWith is verifyIn with a key that is known; it counts at level Secrets only.
func (a *App) verifyWith(ctx context.Context, arc opened, o ArchiveOptions, key resolvedKey, level backup.Level, scratch *scratchRun) (doc *api.Verified, err error) {
	start := a.Now()
	cfg := backup.VerifyConfig{Store: arc.store, ID: arc.id, Level: level, Trust: arc.trust, Identities: o.Identities, Key: key.key,
		WorkDir: a.WorkDir, Logger: a.Logger, Progress: a.Progress}
	receipt, end, err := a.begin(ctx, "backup verify", arc.id.Instance(), audit.WarnOnly, scratch.detail(map[string]any{"archive": string(arc.id), "level": level.String()}))
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	cfg.Receipt = receipt
	v, err := scratch.verify(ctx, cfg)
	a.remember(ctx, arc, level, err)
	if err != nil {
		return nil, a.explainKey(ctx, err, arc, key, o)
	}
	if err := scratch.prove(ctx, cfg, v); err != nil {
		return nil, err
	}
	counts["entries"], counts["secrets_opened"], counts["secrets_failed"] = int64(v.Entries), v.Opened, v.FailedTotal
	doc = &api.Verified{ID: string(arc.id), Target: arc.store.Properties().Location, Warnings: append(list(key.warnings), alteredWarnings(v.Altered)...), Level: level.String(), State: string(v.Sidecar.State), Signer: v.Signer.Fingerprint(), Size: v.Sidecar.Size,
		Entries: v.Entries, SecretsOpened: v.Opened, Failures: archivedFailures(v.Failed), Findings: foundDocs(v), Scratch: scratch.server(), Seconds: a.Now().Sub(start).Seconds()}
	if len(v.Altered) > 0 {
		return doc, alteredArchive(v)
	}
	if v.Sidecar.State != archive.StateGood {
		return doc, degradedArchive(v.Sidecar, doc.Target)
	}
	return doc, nil
}

// alteredArchive is about an archive that somebody tried to replace or to remove.
func alteredArchive(v *backup.Verified) error {
	var what []string
	for _, f := range v.Altered {
		what = append(what, f.Detail)
	}
	than := ""
	if v.Sidecar.State != archive.StateGood {
		than = " (and degraded when it was made)"
	}
	return problem.New(problem.CheckFailed, "archive %q is undamaged%s, but %s", v.Sidecar.ID, than, strings.Join(what, "; ")).
		WithHint("it can be restored: what was put first is what is read; n8keep never alters an object, so find out who did, and change the credentials of whoever may write there")
}

func degradedArchive(s archive.Sidecar, target string) error {
	e := problem.New(problem.CheckFailed, "archive %q is undamaged, but it was degraded when it was made", s.ID)
	if s.SecretsFailed > 0 {
		e = problem.New(problem.CheckFailed, "archive %q is undamaged, but %d of its %d encrypted values did not open when it was made", s.ID, s.SecretsFailed, s.SecretsOpened+s.SecretsFailed)
	}
	return e.WithHint("see why with \"n8keep backup show %s --target %s --identity FILE\"", s.ID, target)
}

// keyFor resolves an instance key where no live n8n is needed: from options, the
// part of the configuration that is about the archive's instance, the
// environment, or dir.
func (a *App) keyFor(io InstanceOptions, name, dir string) (resolvedKey, error) {
	in := &instance{keyFile: io.KeyFile, dir: first(io.N8NDir, dir)}
	if conf, ok := a.conf.Instances[first(io.Name, name)]; ok && io.KeyFile == "" && io.N8NDir == "" {
		in.name, in.conf, in.dir = first(io.Name, name), conf, first(conf.N8NDir, dir)
	}
	return a.key(in, "")
}

// explainKey adds to a wrong-key error what is odd about the key, and which
// archives of the target it does belong to.
func (a *App) explainKey(ctx context.Context, err error, arc opened, key resolvedKey, o ArchiveOptions) error {
	var p *problem.Error
	if !errors.As(err, &p) || p.Kind != problem.WrongKey || key.key.IsZero() {
		return err
	}
	hintKey(p, key)
	hintArchives(p, a.archivesOf(ctx, arc, string(key.key.Fingerprint())))
	if signed, err := backup.ReadSidecar(ctx, arc.store, arc.id, arc.trust); err == nil {
		a.hintRetired(p, signed.Sidecar, o)
	}
	return p
}

func hintArchives(p *problem.Error, ids []archive.ID) {
	if len(ids) > 0 {
		p.WithHint("the key given is the one of archive %q%s", ids[0], more(len(ids)-1))
	}
}

// hintKey says where a key that does not fit came from, and what is odd about it.
func hintKey(p *problem.Error, key resolvedKey) {
	p.WithHint("the key came from %s", sourceText(key.source))
	for _, w := range key.warnings {
		p.WithHint("%s", w)
	}
}

func (a *App) archivesOf(ctx context.Context, arc opened, fingerprint string) []archive.ID {
	archives, err := a.lister(ctx, arc.store, arc.trust).List(ctx)
	if err != nil {
		return nil
	}
	var ids []archive.ID
	for _, l := range archives {
		if l.Sidecar.KeyFingerprint == fingerprint {
			ids = append(ids, l.ID)
		}
	}
	return ids
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and of %d more", n)
}

// Status looks at everything n8keep knows here; it decrypts nothing.
func (a *App) Status(ctx context.Context) (*api.Status, error) {
	doc := &api.Status{Version: a.Version, Config: a.conf.Path, StateDir: a.StateDir, Instances: []api.InstanceStatus{}, Warnings: []string{}}
	path, err := a.signingKeyPath()
	if err != nil {
		return nil, err
	}
	if key, _, err := backup.LoadSigningKey(path, false); err == nil {
		signer := archive.SignerOf(key)
		doc.Signer, doc.SignerKey = signer.Fingerprint(), signer.String()
	} else if problem.KindOf(err) != problem.NotFound {
		doc.Signer = "unreadable"
		doc.Warnings = append(doc.Warnings, err.Error())
	}
	return doc, nil
}

// InstanceStatus looks at one instance and the archives of it in a target.
func (a *App) InstanceStatus(ctx context.Context, io InstanceOptions, o ArchiveOptions) (*api.InstanceStatus, error) {
	in, err := a.instance(io)
	if err != nil {
		return nil, err
	}
	doc := &api.InstanceStatus{Instance: in.name, Database: in.place(), Problems: []string{}}
	named := in.named()
	if err := named.recognise(ctx); err != nil && ctx.Err() != nil { // what else is wrong is seen below
		return nil, err
	}
	if err := a.notRotating(named); err != nil {
		doc.Problems = append(doc.Problems, err.Error())
	}
	if db, err := in.openDB(ctx); err != nil {
		doc.Problems = append(doc.Problems, err.Error())
	} else {
		defer db.Close()
		doc.Engine = string(db.Engine())
		if v, err := db.Version(ctx); err != nil {
			doc.Problems = append(doc.Problems, err.Error())
		} else {
			doc.N8NVersion = v.N8N
		}
	}
	if key, err := a.key(in, doc.N8NVersion); err != nil {
		doc.Problems = append(doc.Problems, err.Error())
	} else {
		doc.KeyFingerprint, doc.KeySource, doc.OtherSources = string(key.key.Fingerprint()), &key.source, key.others
		doc.Problems = append(doc.Problems, key.warnings...)
	}
	store, err := a.openTarget(ctx, o.Target, false)
	if err != nil {
		doc.Problems = append(doc.Problems, err.Error())
		return doc, nil
	}
	o.Instance = in.name
	archives, err := a.listed(ctx, store, o)
	if err != nil {
		doc.Problems = append(doc.Problems, err.Error())
		return doc, nil
	}
	doc.Target, doc.Archives = store.Properties().Location, len(archives)
	for i, l := range archives {
		if l.State == string(archive.StateGood) && l.Trusted {
			doc.LastGood, doc.AgeSeconds = &archives[i], a.Now().Sub(l.Time).Round(time.Second).Seconds()
			break
		}
	}
	for _, l := range archives {
		// Whatever is newer than the last good one and is not one says why.
		if doc.LastGood != nil && l.ID == doc.LastGood.ID {
			break
		}
		what := l.State
		if l.Problem != "" {
			what += ": " + l.Problem
		}
		doc.Problems = append(doc.Problems, fmt.Sprintf("archive %s is %s", l.ID, what))
	}
	switch {
	case doc.LastGood == nil:
		doc.Problems = append(doc.Problems, "there is no good backup of this instance in the target")
	case doc.KeyFingerprint != "" && doc.LastGood.KeyFingerprint != doc.KeyFingerprint:
		doc.Problems = append(doc.Problems, "the newest good backup was made with another instance key, "+doc.LastGood.KeyFingerprint)
	}
	return doc, nil
}

// Instances returns the options for each configured instance, or for the
// default one when none is configured.
func (a *App) Instances(o InstanceOptions) []InstanceOptions {
	if o.Name != "" || o.N8NDir != "" || o.Database != "" || len(a.conf.Instances) == 0 {
		return []InstanceOptions{o}
	}
	var out []InstanceOptions
	for _, name := range slices.Sorted(maps.Keys(a.conf.Instances)) {
		out = append(out, InstanceOptions{Name: name, KeyFile: o.KeyFile})
	}
	return out
}
