package app

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/reencrypt"
)

// ReencryptOptions are the options of "reencrypt".
type ReencryptOptions struct {
	To            string // active, a data key's id, legacy
	Flag          string // on, off, "": as in this environment
	AssumeStopped bool
	HealthURL     string
	Executions    string // waiting, all
	Rate          int    // rows per second; 0: unlimited
	DryRun        bool
	// Confirm is shown the plan before anything is changed. Required unless DryRun.
	Confirm func(*api.Reencryption) error
}

// Reencrypt moves every value under one key, beside a running n8n. A plan that must
// not be carried out, and values that are left, are a document and an error.
func (a *App) Reencrypt(ctx context.Context, io InstanceOptions, o ReencryptOptions) (doc *api.Reencryption, err error) {
	start := a.Now()
	to, err := reencrypt.ParseTarget(o.To)
	if err != nil {
		return nil, err
	}
	scope, err := executionScope(o.Executions)
	if err != nil {
		return nil, err
	}
	if o.Rate < 0 {
		return nil, problem.New(problem.Usage, "--rate takes a number of rows per second").WithHint("leave it out for as fast as possible")
	}
	in, unlock, err := a.changing(ctx, io, o.DryRun)
	if err != nil {
		return nil, err
	}
	defer unlock()
	version, err := in.version(ctx)
	if err != nil {
		return nil, err
	}
	key, err := a.key(in, version)
	if err != nil {
		return nil, err
	}
	receipt, end, err := a.begin(ctx, "reencrypt", in.name, writing(o.DryRun), map[string]any{"to": to.String(), "dry_run": o.DryRun})
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	db, err := in.swapper(ctx, "n8keep-reencrypt")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	full, err := db.Version(ctx)
	if err != nil {
		return nil, err
	}
	hold := n8ndb.HoldConfig{AssumeStopped: o.AssumeStopped, HealthURL: first(o.HealthURL, in.conf.HealthURL)}
	cfg := reencrypt.Config{DB: db, Key: key.key, Receipt: receipt, To: to, Storage: in.bundleDir(), Executions: scope, RowsPerSecond: o.Rate, Now: a.Now, Logger: a.Logger,
		Attached: func(ctx context.Context) (n8ndb.Attached, error) { return db.Attached(ctx, hold) }}
	if cfg.Flag, err = a.rotationFlag(o.Flag, full); err != nil {
		return nil, err
	}
	if memory, err := a.memory(ctx); err == nil {
		if cfg.Retired, err = memory.RetiredDataKeys(ctx, in.identity()); err != nil {
			a.Logger.Warn("which data keys are retired is not known", "error", err)
		}
	}
	if a.Progress != nil {
		cfg.Progress = func(p reencrypt.Progress) { a.Progress("encrypting", p.Changed, p.Of) }
	}
	plan, err := reencrypt.MakePlan(ctx, cfg)
	if err != nil {
		return nil, explainWrongKey(err, key)
	}
	doc = reencryptionDoc(in, plan, o.DryRun)
	doc.Warnings = list(slices.Concat(key.warnings, in.known.doubts(), doc.Warnings))
	doc.Seconds = a.since(start)
	if err := plan.Refused(); err != nil {
		return doc, explainWrongKey(err, key)
	}
	if o.DryRun {
		return doc, nil
	}
	if err := o.Confirm(doc); err != nil {
		return nil, err
	}
	if err := a.notRotating(in.known); err != nil {
		return nil, err
	}
	start = a.Now() // how long somebody thought about it is of no interest
	res, err := reencrypt.Run(ctx, cfg, plan)
	if res == nil {
		return nil, err
	}
	counts["changed"], counts["lost"], counts["unopened"], counts["left"] = res.Changed, res.Lost, res.Unopened, res.Left
	doc.To = first(res.KeyID, plan.To.String()) // n8n may have got another one meanwhile
	doc.Changed, doc.Lost, doc.Unopened, doc.Left, doc.MFA = res.Changed, res.Lost, res.Unopened, res.Left, res.MFA
	for _, p := range res.Passes {
		doc.Passes = append(doc.Passes, api.ReencryptPass{Pass: p.Number, Changed: p.Changed, Lost: p.Lost, Seconds: p.Seconds})
	}
	doc.Warnings = append(doc.Warnings, res.Warnings...)
	doc.Seconds = a.since(start)
	if err == nil && !to.Legacy() {
		doc.Next = append(doc.Next, "see which data keys nothing uses any more: \"n8keep data-key list "+in.flags()+" --all-executions\"")
	}
	if problem.KindOf(err) == problem.Interrupted {
		err = problem.New(problem.Interrupted, "interrupted: %d values were encrypted, the others are as they were", res.Changed).
			WithHint("everything can be read; run the command again to go on")
	}
	return doc, err
}

// rotationFlag is whether n8n writes with data keys: as the option says, or else as
// n8n's variable in this environment.
func (a *App) rotationFlag(option string, version n8ndb.Version) (reencrypt.Flag, error) {
	switch option {
	case "on":
		return reencrypt.FlagOn, nil
	case "off":
		return reencrypt.FlagOff, nil
	case "":
		return reencrypt.FlagOf(a.Env, false, version), nil
	}
	return "", problem.New(problem.Usage, "--key-rotation-flag is on or off, not %q", option).
		WithHint("it is whether n8n runs with %s=true", reencrypt.FlagVariable)
}

func executionScope(s string) (n8ndb.ExecutionScope, error) {
	switch s {
	case "", "waiting":
		return n8ndb.Unfinished, nil
	case "all":
		return n8ndb.AllExecutions, nil
	}
	return 0, problem.New(problem.Usage, "--executions is waiting or all, not %q", s).
		WithHint("waiting takes along what is not finished; all takes longer, and lets finished executions be retried")
}

func reencryptionDoc(in *instance, p *reencrypt.Plan, dryRun bool) *api.Reencryption {
	doc := &api.Reencryption{Instance: in.name, N8NVersion: p.Version.N8N, To: first(p.KeyID, p.To.String()), DryRun: dryRun, Running: p.State == reencrypt.Runs,
		Allowed: []api.Combination{}, Places: []api.RotationPlace{}, Values: p.Values, Change: p.Change, Unopened: p.Unopened, Failures: failureDocs(p.Failures), Passes: []api.ReencryptPass{},
		MFA: p.MFA, Obstacles: list(p.Obstacles), Refusals: []api.Refusal{}, Warnings: list(p.Warnings), Next: []string{}}
	for _, c := range p.Table {
		answer := "refused"
		if c.Allowed {
			answer = "allowed"
		}
		doc.Allowed = append(doc.Allowed, api.Combination{Versions: c.Versions, Flag: c.Flag, Running: c.Running, To: c.To, Answer: answer, Why: c.Why, Here: c.Here})
	}
	for _, pl := range p.Places {
		doc.Places = append(doc.Places, api.RotationPlace{Place: string(pl.Place), Number: pl.Number, Values: pl.Values, Change: pl.Change, Unopened: pl.Unopened, ByKey: pl.ByKey})
	}
	for _, r := range p.Refusals {
		doc.Refusals = append(doc.Refusals, api.Refusal{Code: r.Code, Message: r.Text, Hint: r.Hint})
	}
	return doc
}

// explainWrongKey says of a key that does not fit where it came from.
func explainWrongKey(err error, key resolvedKey) error {
	if p := (*problem.Error)(nil); errors.As(err, &p) && p.Kind == problem.WrongKey {
		hintKey(p, key)
	}
	return err
}

func joined(ids []string) string { return strings.Join(ids, " ") }
