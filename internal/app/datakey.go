package app

import (
	"context"
	"os"
	"slices"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/config"
	"github.com/n8keep/n8keep/internal/datakey"
	"github.com/n8keep/n8keep/internal/n8napi"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// DataKeyOptions are the options of "data-key list", "rotate" and "retire".
type DataKeyOptions struct {
	ID            string // retire
	AllExecutions bool   // list
	N8NURL        string // rotate: where n8n's editor answers
	SessionFile   string // rotate: a file with the cookie of a session
	DryRun        bool
	// Confirm is asked before anything is changed. Required unless DryRun.
	Confirm func(*api.DataKeyChange) error
}

// dataKeys is what the three commands need beside the instance: its key, the database.
func (a *App) dataKeys(ctx context.Context, in *instance) (datakey.Config, resolvedKey, error) {
	db, err := in.openDB(ctx)
	if err != nil {
		return datakey.Config{}, resolvedKey{}, err
	}
	version, err := db.Version(ctx)
	if err != nil {
		db.Close()
		return datakey.Config{}, resolvedKey{}, err
	}
	key, err := a.key(in, version.N8N)
	if err != nil {
		db.Close()
		return datakey.Config{}, resolvedKey{}, err
	}
	cfg := datakey.Config{DB: db, Key: key.key, Instance: in.identity(), Storage: in.bundleDir(), Now: a.Now}
	if a.Progress != nil {
		cfg.Progress = func(_ string, rows int64) { a.Progress("reading the database", rows, 0) }
	}
	return cfg, key, nil
}

// changingDataKeys is changing and dataKeys; done ends both, and closes what is the
// Config's database then.
func (a *App) changingDataKeys(ctx context.Context, io InstanceOptions, dryRun bool) (in *instance, cfg *datakey.Config, key resolvedKey, done func(), err error) {
	in, unlock, err := a.changing(ctx, io, dryRun)
	if err != nil {
		return nil, nil, key, nil, err
	}
	cfg = new(datakey.Config)
	if *cfg, key, err = a.dataKeys(ctx, in); err != nil {
		unlock()
		return nil, nil, key, nil, err
	}
	return in, cfg, key, func() {
		cfg.DB.Close()
		unlock()
	}, nil
}

// DataKeyList lists n8n's data keys with the number of values that each opens. Keys or
// values that do not open are a document and an error of kind CheckFailed.
func (a *App) DataKeyList(ctx context.Context, io InstanceOptions, o DataKeyOptions) (doc *api.DataKeys, err error) {
	in, err := a.instance(io)
	if err != nil {
		return nil, err
	}
	cfg, key, err := a.dataKeys(ctx, in)
	if err != nil {
		return nil, err
	}
	defer cfg.DB.Close()
	receipt, end, err := a.begin(ctx, "data-key list", in.name, audit.WarnOnly, nil)
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	cfg.Receipt = receipt
	if o.AllExecutions {
		cfg.Executions = n8ndb.AllExecutions
	}
	if db, err := a.memory(ctx); err == nil {
		cfg.Marks = db
	} else {
		a.Logger.Warn("which data keys are retired is not known", "error", err)
	}
	l, err := datakey.List(ctx, cfg)
	if err != nil {
		return nil, err
	}
	doc = &api.DataKeys{Instance: in.name, Engine: string(l.Engine), N8NVersion: l.Version.N8N, Keys: []api.DataKey{}, Legacy: l.Instance, Unopened: l.Unopened,
		Warnings: append(list(key.warnings), l.Warnings...)}
	closed := 0
	for _, k := range l.Keys {
		doc.Keys = append(doc.Keys, a.dataKeyDoc(k))
		if !k.Opens {
			closed++
		}
	}
	counts["keys"], counts["unopened"] = int64(len(l.Keys)), l.Unopened
	switch {
	case closed > 0 && closed == len(l.Keys):
		p := problem.New(problem.WrongKey, "the instance key %s opens none of the %d data keys of %q", key.key.Fingerprint(), closed, in.name)
		hintKey(p, key)
		return doc, p.WithHint("see which key opens what: \"n8keep key find %s --candidate FILE\"", in.flag())
	case closed > 0:
		return doc, problem.New(problem.CheckFailed, "%d of %d data keys do not open with the instance key", closed, len(l.Keys)).
			WithHint("see which key opens what: \"n8keep key find %s --candidate FILE\"", in.flag())
	case l.Unopened > 0:
		return doc, problem.New(problem.CheckFailed, "%d values open under no key", l.Unopened).WithHint("see which with \"n8keep census %s\"", in.flags())
	}
	return doc, nil
}

func (a *App) dataKeyDoc(k datakey.Key) api.DataKey {
	doc := api.DataKey{ID: k.ID, Algorithm: k.Algorithm, Status: k.Status, Created: timeOf(k.Created), Values: k.Values, Opens: k.Opens, Legacy: k.Legacy, Wrap: k.Wrap, Retired: timeOf(k.Retired)}
	if !k.Created.IsZero() {
		doc.AgeSeconds = a.Now().Sub(k.Created).Seconds()
	}
	return doc
}

// DataKeyRotate makes a new active data key.
func (a *App) DataKeyRotate(ctx context.Context, io InstanceOptions, o DataKeyOptions) (doc *api.DataKeyChange, err error) {
	start := a.Now()
	in, cfg, key, done, err := a.changingDataKeys(ctx, io, o.DryRun)
	if err != nil {
		return nil, err
	}
	defer done()
	if cfg.N8N, err = a.session(o); err != nil {
		return nil, err
	}
	receipt, end, err := a.begin(ctx, "data-key rotate", in.name, writing(o.DryRun), map[string]any{"dry_run": o.DryRun, "through_n8n": cfg.N8N != nil})
	if err != nil {
		return nil, err
	}
	defer func() { err = end(err, nil) }()
	cfg.Receipt = receipt
	plan, err := datakey.PlanRotation(ctx, *cfg)
	if err != nil {
		return nil, explainWrongKey(err, key)
	}
	doc = &api.DataKeyChange{Instance: in.name, DryRun: o.DryRun, Through: plan.Through, Previous: joined(plan.Previous), Warnings: list(slices.Concat(key.warnings, in.known.doubts(), plan.Warnings)), Next: []string{}}
	if o.DryRun {
		doc.Seconds = a.since(start)
		return doc, nil
	}
	if err := o.Confirm(doc); err != nil {
		return nil, err
	}
	if err := a.notRotating(in.known); err != nil {
		return nil, err
	}
	if cfg.N8N == nil {
		if cfg.Swapper, err = in.swapper(ctx, "n8keep-data-key"); err != nil {
			return nil, err
		}
		cfg.DB.Close()
		cfg.DB = cfg.Swapper.DB
		defer cfg.Swapper.Close()
	}
	made, err := datakey.Rotate(ctx, *cfg)
	if made == nil {
		return nil, explainWrongKey(err, key)
	}
	doc.ID, doc.Previous, doc.Warnings = made.ID, joined(made.Previous), list(slices.Concat(key.warnings, in.known.doubts(), made.Warnings))
	doc.Next = []string{"encrypt everything with it: \"n8keep reencrypt " + in.flags() + " --to active\""}
	doc.Seconds = a.since(start)
	return doc, err
}

// DataKeyRetire marks a data key that nothing uses. One that is used is a document and
// an error of kind CheckFailed.
func (a *App) DataKeyRetire(ctx context.Context, io InstanceOptions, o DataKeyOptions) (doc *api.DataKeyChange, err error) {
	start := a.Now()
	in, cfg, key, done, err := a.changingDataKeys(ctx, io, o.DryRun)
	if err != nil {
		return nil, err
	}
	defer done()
	receipt, end, err := a.begin(ctx, "data-key retire", in.name, writing(o.DryRun), map[string]any{"dry_run": o.DryRun, "key": o.ID})
	if err != nil {
		return nil, err
	}
	defer func() { err = end(err, nil) }()
	cfg.Receipt = receipt
	if cfg.Marks, err = a.memory(ctx); err != nil {
		return nil, err
	}
	plan, err := datakey.PlanRetirement(ctx, *cfg, o.ID)
	if plan == nil {
		return nil, explainWrongKey(err, key)
	}
	doc = &api.DataKeyChange{Instance: in.name, DryRun: o.DryRun, ID: plan.Key.ID, Values: plan.Key.Values, Warnings: list(slices.Concat(key.warnings, in.known.doubts(), plan.Listing.Warnings)), Next: []string{}}
	doc.Seconds = a.since(start)
	if err != nil || o.DryRun {
		return doc, err
	}
	if plan.Already {
		doc.Warnings = append(doc.Warnings, "it was retired before, on "+plan.Key.Retired.UTC().Format("2006-01-02"))
		return doc, nil
	}
	if err := o.Confirm(doc); err != nil {
		return nil, err
	}
	if err := a.notRotating(in.known); err != nil {
		return nil, err
	}
	_, err = datakey.Retire(ctx, *cfg, o.ID)
	doc.Seconds = a.since(start)
	return doc, err
}

// session is n8n's own endpoint, if the options name one.
func (a *App) session(o DataKeyOptions) (func(context.Context) (string, error), error) {
	switch {
	case o.N8NURL == "" && o.SessionFile == "":
		return nil, nil
	case o.N8NURL == "":
		return nil, problem.New(problem.Usage, "a session, but no n8n that it is of").WithHint("say where n8n's editor answers: --n8n-url http://127.0.0.1:5678")
	case o.SessionFile == "":
		return nil, problem.New(problem.Usage, "an n8n, but no session in it").
			WithHint("log in as somebody who may manage encryption keys, put the value of the cookie n8n-auth into a file, and give it with --session-file FILE").
			WithHint("or leave out --n8n-url: the key is then made in the database")
	}
	ref, err := config.ParseReference("file:" + o.SessionFile)
	if err != nil {
		return nil, err
	}
	b, err := ref.Resolve(a.Env, os.ReadFile)
	if err != nil {
		return nil, err
	}
	s, err := n8napi.NewSession(n8napi.SessionConfig{URL: o.N8NURL, Cookie: secret.NewString(string(b.Reveal()))})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		made, err := s.RotateDataKey(ctx)
		return made.ID, err
	}, nil
}

// swapper opens the database for changes beside a running n8n.
func (in *instance) swapper(ctx context.Context, app string) (*n8ndb.Swapper, error) {
	if in.dsn != "" {
		return n8ndb.SwapPostgres(ctx, n8ndb.SwapPostgresConfig{DSN: in.dsn, Schema: in.schema, TablePrefix: in.prefix, AppName: app})
	}
	return n8ndb.SwapSQLite(ctx, n8ndb.SwapSQLiteConfig{Path: in.database, TablePrefix: in.prefix})
}

// writing is the policy of a command that changes n8n: what is not recorded is not
// done. A dry run only warns.
func writing(dryRun bool) audit.Policy {
	if dryRun {
		return audit.WarnOnly
	}
	return audit.FailClosed
}
