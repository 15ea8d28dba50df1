package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// BackupOptions are the options of "backup create". Empty ones take what the
// configuration says.
type BackupOptions struct {
	Targets         []string // names or addresses; none: the configured one
	Recipients      []string
	RecipientFiles  []string
	History         string
	DropWaiting     bool
	Binary          bool
	DeploymentFiles []string
	KeepSecrets     bool
	Unproved        bool
	Only            string // backup.OnlyWorkflows, or ""

	// For PostgreSQL.
	Engine        string // auto, pg_dump, native
	PgBin         string // folder of pg_dump
	FromReplica   bool
	YieldAfter    time.Duration
	WholeDatabase bool

	WhenRunning string // continue, wait, fail
	WaitLimit   time.Duration
	APIURL      string
	APIKeyFile  string
}

// BackupCreate takes a backup. A degraded backup is a document and an error of
// kind Partial.
func (a *App) BackupCreate(ctx context.Context, io InstanceOptions, o BackupOptions) (*api.Backup, error) {
	in, err := a.instance(io)
	if err != nil {
		return nil, err
	}
	return a.backupOf(ctx, in, resolvedKey{}, o)
}

// backupOf is BackupCreate of an instance that is known. The key is looked for if
// none is given.
func (a *App) backupOf(ctx context.Context, in *instance, key resolvedKey, o BackupOptions) (doc *api.Backup, err error) {
	if o.WaitLimit < 0 || o.YieldAfter < 0 {
		return nil, problem.New(problem.Usage, "--wait-limit and --yield-after take a time from now on").WithHint("write them as 30s or 10m")
	}
	if o.Only != "" && o.Only != backup.OnlyWorkflows {
		return nil, problem.New(problem.Usage, "--only %q: only workflows can be archived alone", o.Only).WithHint("use --only workflows, or leave it out")
	}
	recipients, err := a.recipients(o.Recipients, o.RecipientFiles)
	if err != nil {
		return nil, err
	}
	history, err := n8ndb.ParseHistory(first(o.History, a.conf.History, "all"))
	if err != nil {
		return nil, err
	}
	if len(o.Targets) == 0 {
		if o.Targets, err = a.conf.BackupTargets(in.conf); err != nil {
			return nil, err
		}
	}
	stores, err := a.openTargets(ctx, o.Targets, true)
	if err != nil {
		return nil, err
	}
	if key.key.IsZero() {
		version, err := in.version(ctx)
		if err != nil {
			return nil, err
		}
		if key, err = a.key(in, version); err != nil {
			return nil, err
		}
	}
	keyPath, err := a.signingKeyPath()
	if err != nil {
		return nil, err
	}
	signing, made, err := backup.LoadSigningKey(keyPath, true)
	if err != nil {
		return nil, err
	}
	receipt, end, err := a.begin(ctx, "backup create", in.name, audit.WarnOnly, map[string]any{"history": history.String()})
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	waited, err := a.guard(ctx, in, o)
	if err != nil {
		return nil, err
	}

	res, err := backup.Create(ctx, backup.Config{Instance: in.name, N8NDir: in.dir, Database: in.database, Postgres: in.postgres(o), Only: o.Only, TablePrefix: in.prefix,
		Key: key.key, Recipients: recipients, Stores: stores, SigningKey: signing, Receipt: receipt, History: history,
		DropWaiting: o.DropWaiting, Binary: o.Binary || in.conf.BinaryData,
		DeploymentFiles: append(append([]string{}, in.conf.DeploymentFiles...), o.DeploymentFiles...),
		KeepSecrets:     o.KeepSecrets || !in.conf.Redacts(), Unproved: o.Unproved,
		OtherKeys: key.keys, Exclude: append(locations(stores), a.StateDir, filepath.Dir(keyPath)),
		WorkDir: a.WorkDir, LockDir: a.lockDir(), Tool: "n8keep " + a.Version, Now: a.Now, Logger: a.Logger, Progress: a.Progress})
	if err != nil {
		if p := (*problem.Error)(nil); errors.As(err, &p) && p.Kind == problem.WrongKey {
			hintKey(p, key)
		}
		return nil, err
	}
	s := res.Sidecar
	counts["secrets"], counts["secrets_failed"], counts["bytes"], counts["findings"] = s.Secrets, s.SecretsFailed, s.Size, s.Findings
	doc = &api.Backup{Archive: archiveDoc(s, archive.SignerOf(signing), true), LastMigration: s.LastMigration, SHA256: s.SHA256, Targets: storedDocs(res.Targets),
		KeySource: key.source, OtherSources: list(key.others), Findings: findingDocs(res.Findings), Failures: failureDocs(res.Failures),
		Warnings: append(list(key.warnings), res.Warnings...), Notes: append(list(res.Notes), waited...), Seconds: res.Elapsed.Seconds()}
	if info, err := os.Stat(keyPath); err == nil && info.Mode().Perm()&0o077 != 0 {
		doc.Warnings = append(doc.Warnings, "the signing key "+keyPath+" can be read by others: chmod 600 it")
	}
	if made {
		doc.Warnings = append(doc.Warnings, "a signing key was made in "+keyPath+"; where else archives are to be verified, trust "+archive.SignerOf(signing).String())
	}
	if s.State != archive.StateGood {
		return doc, degradedProblem(doc, in)
	}
	return doc, missingProblem(doc.ID, o.Targets, res.Targets)
}

// postgres is what the options, or else the configuration, say about a dump; nil
// for SQLite.
func (in *instance) postgres(o BackupOptions) *backup.Postgres {
	if in.dsn == "" {
		return nil
	}
	p := &backup.Postgres{DSN: in.dsn, Schema: in.schema, Engine: first(o.Engine, in.conf.Engine), Programs: first(o.PgBin, in.conf.PgBin),
		FromReplica: o.FromReplica || in.conf.FromReplica, YieldAfter: o.YieldAfter, WholeDatabase: o.WholeDatabase}
	if p.YieldAfter == 0 {
		p.YieldAfter = in.conf.YieldAfter
	}
	return p
}

func locations(stores []blob.Store) (list []string) {
	for _, s := range stores {
		list = append(list, s.Properties().Location)
	}
	return list
}

func storedDocs(stored []backup.Stored) []api.Stored {
	docs := []api.Stored{}
	for _, s := range stored {
		d := api.Stored{Target: s.Target}
		if s.Err != nil {
			d.Problem = s.Err.Error()
		}
		docs = append(docs, d)
	}
	return docs
}

// missingProblem names the targets that the archive is not in. The hint repeats
// them as they were given: their parameters say whether a copy is locked.
func missingProblem(id string, given []string, stored []backup.Stored) error {
	good := ""
	for i, t := range stored {
		if t.Err == nil {
			good = given[i]
			break
		}
	}
	var e *problem.Error
	for i, t := range stored {
		switch {
		case t.Err == nil:
			continue
		case e == nil:
			e = problem.Wrap(problem.Partial, t.Err, "backup %q is good, but not in every target: %s", id, t.Target)
		default:
			e.Msg += "; nor in " + t.Target + ": " + t.Err.Error()
		}
		e.WithHint("put it there later: n8keep backup copy %s --target %s --to %s", id, shellWord(good), shellWord(given[i]))
	}
	if e == nil {
		return nil
	}
	return e
}

// shellWord writes a text so that a shell takes it as one word.
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./~-]+$`)

func degradedProblem(doc *api.Backup, in *instance) error {
	var parts []string
	for _, f := range doc.Findings {
		if backup.Degrades(f.Code) {
			parts = append(parts, strings.TrimSpace(f.Place+" "+f.Detail))
		}
	}
	e := problem.New(problem.Partial, "backup %q is kept, but degraded: %s", doc.ID, strings.Join(parts, "; "))
	if doc.SecretsFailed > 0 {
		e.WithHint("these secrets were probably written with an older key; see which with \"n8keep census %s\"", in.flags())
	}
	return e
}

// version reads only the n8n version of the live database, which decides how
// n8n itself would find its key.
func (in *instance) version(ctx context.Context) (string, error) {
	db, err := in.openDB(ctx)
	if err != nil {
		return "", err
	}
	defer db.Close()
	v, err := db.Version(ctx)
	return v.N8N, err
}

func archiveDoc(s archive.Sidecar, signer archive.Signer, trusted bool) api.Archive {
	return api.Archive{ID: string(s.ID), Instance: s.Instance, Time: s.Created, State: string(s.State), Unproved: s.Unproved, Size: s.Size,
		N8NVersion: s.N8NVersion, KeyFingerprint: s.KeyFingerprint, Engine: s.Engine, History: s.History, RecipientKind: s.RecipientKind,
		Secrets: s.Secrets, SecretsOpened: s.SecretsOpened, SecretsFailed: s.SecretsFailed, Workflows: s.Workflows, Signer: signer.Fingerprint(), Trusted: trusted}
}

func findingDocs(fs []archive.Finding) []api.Finding {
	out := []api.Finding{}
	for _, f := range fs {
		out = append(out, api.Finding(f))
	}
	return out
}

func failureDocs(fs []n8ndb.Secret) []api.Secret {
	out := []api.Secret{}
	for _, f := range fs {
		out = append(out, api.Secret{Place: string(f.Place), Row: f.Row, KeyID: f.KeyRef, Format: f.Format, Problem: string(f.Problem)})
	}
	return out
}

func archivedFailures(fs []archive.Secret) []api.Secret {
	out := []api.Secret{}
	for _, f := range fs {
		out = append(out, api.Secret{Place: f.Place, Row: f.Row, KeyID: f.KeyID, Format: f.Format, Problem: f.Problem})
	}
	return out
}

// list makes an empty list of a nil one, so that JSON shows [] and not null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
