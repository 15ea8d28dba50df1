package app

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/reencrypt"
	"github.com/n8keep/n8keep/internal/rotate"
	"github.com/n8keep/n8keep/internal/service"
)

// plannedRotation is a plan with what carrying it out needs.
type plannedRotation struct {
	doc     *api.RotationPlan
	plan    *rotate.Plan
	refused error
	files   []n8nhome.KeyFile // that get the new key, n8n's config last
	// before and afterwards are left to a person: before n8n starts with the new key,
	// and once the rotation is through.
	before, afterwards []string
	// elsewhere are places, in words, in which the key is set and n8keep does not change it.
	elsewhere []string
}

// rotationPlan reads everything and changes nothing.
func (a *App) rotationPlan(ctx context.Context, r *rotating, choices rotate.Choices, receipt audit.Receipt) (*plannedRotation, error) {
	in := r.in
	db, err := in.openDB(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	version, err := db.Version(ctx)
	if err != nil {
		return nil, err
	}
	made := &plannedRotation{}
	sources, warnings, err := a.keySources(ctx, r, version.N8N, made)
	if err != nil {
		return nil, err
	}
	cfg := rotate.PlanConfig{Instance: in.name, Database: in.place(), DB: db, Receipt: receipt, Old: engineKey(r.old), New: engineKey(r.new), Others: r.others,
		Storage: in.bundleDir(), Choices: choices, Sources: sources, Env: a.Env,
		KeySetByUser: r.keySetByUser, KeySetByStart: r.spec.StartCommand != "", StateFree: freeAt(a.StateDir)}
	if in.dsn == "" {
		cfg.DatabaseFree = freeAt(filepath.Dir(in.database))
	}
	if flag := reencrypt.FlagOf(a.Env, false, version); flag != reencrypt.FlagUnknown {
		cfg.KeyRotation = string(flag)
	}
	if a.Progress != nil {
		const phase = "reading the database"
		cfg.Progress = func(_ string, rows int64) { a.Progress(phase, rows, 0) }
		defer a.Progress(phase, 1, 1)
	}
	p, err := rotate.MakePlan(ctx, cfg)
	if err != nil {
		return nil, err
	}
	made.elsewhere = append(made.elsewhere, p.KeyElsewhere()...)
	made.doc, made.plan, made.refused = planDoc(p, r), p, explainWrongKey(p.Refused(), r.old)
	made.doc.Warnings = list(slices.Concat(made.doc.Warnings, in.known.doubts(), warnings))
	return made, nil
}

func planDoc(p *rotate.Plan, r *rotating) *api.RotationPlan {
	doc := &api.RotationPlan{Instance: p.Instance, Database: p.Database, Engine: string(p.Engine), N8NVersion: p.N8NVersion,
		OldKey: api.KeyRef{Fingerprint: string(p.OldKey), Path: r.old.source.Where}, NewKey: api.KeyRef{Fingerprint: string(p.NewKey), Path: r.new.source.Where},
		AfterLeak: p.AfterLeak, Executions: p.Executions, Places: []api.RotationPlace{}, Values: p.Values, Change: p.Change, Already: p.Already, Unopened: p.Unopened, Misread: p.Misread,
		Failures: failureDocs(p.Failures), Unlisted: []api.Unlisted{}, Derived: []api.Derived{}, KeyPlaces: []api.KeyPlace{}, MFALogouts: p.MFALogouts,
		LeftBehind: p.LeftBehind, LeftValues: p.LeftValues, LeftKeyed: p.LeftKeyed, LeftUnseen: p.LeftUnseen, LeftUnread: p.LeftUnread, WaitingValues: p.WaitingValues, Bundles: p.Bundles, JournalBytes: p.JournalBytes, Service: "you stop it before, and start it afterwards",
		Effects: list(p.Effects), Refusals: []api.Refusal{}, Warnings: append(append(list(r.old.warnings), r.new.warnings...), p.Warnings...), ExposedAdvice: p.ExposedAdvice}
	if r.service != nil {
		doc.Service = fmt.Sprintf("stopped and started by %s", r.service)
	}
	for _, pl := range p.Places {
		doc.Places = append(doc.Places, api.RotationPlace{Place: string(pl.Place), Number: pl.Number, Values: pl.Values, Change: pl.Change, Unopened: pl.Unopened, ByKey: pl.ByKey})
	}
	for _, u := range p.Unlisted {
		doc.Unlisted = append(doc.Unlisted, api.Unlisted{Table: u.Table, Column: u.Column, Values: u.Values, Opened: u.Opened, Row: u.Row})
	}
	for _, d := range p.Derived {
		doc.Derived = append(doc.Derived, api.Derived{Secret: d.Secret, How: d.How, Variable: d.Variable, Obtain: d.Obtain, Effect: d.Effect})
	}
	for _, s := range p.Sources {
		doc.KeyPlaces = append(doc.KeyPlaces, api.KeyPlace{Source: s.Source, Where: s.Where, Holds: s.Holds, By: s.By, Do: s.Do, Ignored: s.Ignored})
	}
	for _, e := range p.Refusals {
		doc.Refusals = append(doc.Refusals, api.Refusal{Code: e.Code, Message: e.Message, Hint: e.Hint})
	}
	for _, e := range p.Exposed {
		doc.Exposed = append(doc.Exposed, exposedDoc(e))
	}
	return doc
}

// freeAt is the free space of a path, or of the first folder above it that exists; 0
// when it is not known.
func freeAt(path string) int64 {
	for {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err == nil {
			return int64(st.Bavail) * int64(st.Bsize)
		}
		up := filepath.Dir(path)
		if up == path {
			return 0
		}
		path = up
	}
}

func exposedDoc(e rotate.Exposed) api.Exposed {
	doc := api.Exposed{Kind: e.Kind, ID: e.ID, Type: e.Type, Name: e.Name, Count: e.Count, Workflows: []api.WorkflowUse{}, Replaced: e.Replaced, Do: e.Do}
	for _, w := range e.Workflows {
		doc.Workflows = append(doc.Workflows, api.WorkflowUse{ID: w.ID, Name: w.Name, Active: w.Active})
	}
	for _, g := range e.Agents {
		doc.Agents = append(doc.Agents, g.ID)
	}
	return doc
}

// keySources finds the places in which n8n's key is set, as far as they can be seen
// from here, the files that the rotation changes, and what is left to a person
// afterwards. Where docker compose hands the key over, containers are made anew.
func (a *App) keySources(ctx context.Context, r *rotating, version string, made *plannedRotation) ([]rotate.KeySource, []string, error) {
	in := r.in
	cfg := n8nhome.KeyPlacesConfig{Key: r.old.key, New: r.new.key, NewKeyFile: r.new.source.Where, Env: a.Env, Dir: in.dir, N8NVersion: version}
	var warnings []string
	if r.service != nil {
		for _, what := range r.service.Unchecked(ctx) {
			warnings = append(warnings, "n8keep cannot see "+what)
		}
	}
	if err := r.deployment(ctx, &cfg); err != nil {
		if ctx.Err() != nil {
			return nil, nil, err
		}
		warnings = append(warnings, "whether the key is set where n8n is started is not known: "+err.Error())
		made.elsewhere = append(made.elsewhere, "what starts n8n")
	}
	if r.keySetByUser {
		made.elsewhere = append(made.elsewhere, "what you set yourself")
	}
	places, err := n8nhome.FindKeyPlaces(cfg)
	if err != nil {
		return nil, nil, err
	}
	if r.spec.Compose != "" && places.Recreate() && !r.spec.ComposeRecreate {
		r.spec.ComposeRecreate = true
		if err := a.serve(r, r.old); err != nil {
			return nil, nil, err
		}
	}
	made.files = places.Files()
	if !in.conf.Key.IsZero() {
		made.afterwards = append(made.afterwards, "n8keep.yaml names the old key for "+in.name+" ("+in.conf.Key.String()+"): let it name the new one")
	}
	if r.keySetByUser {
		for _, p := range places.ByHand() {
			made.before = append(made.before, p.Change)
		}
	}
	return rotate.KeySourcesOf(places), append(warnings, places.Warnings...), nil
}

// deployment puts in the files that n8n is started with. Without those of the service the
// others are there all the same.
func (r *rotating) deployment(ctx context.Context, cfg *n8nhome.KeyPlacesConfig) (err error) {
	if r.service != nil {
		var d service.Deployment
		d, err = r.service.Deployment(ctx)
		cfg.ComposeFiles, cfg.UnitFiles = d.Compose, d.Units
	}
	for _, path := range r.in.conf.DeploymentFiles {
		base := filepath.Base(path)
		compose := strings.HasPrefix(base, "compose.") || strings.HasPrefix(base, "docker-compose.")
		switch {
		case compose && r.spec.Compose == "":
			cfg.ComposeFiles = append(cfg.ComposeFiles, path)
		case strings.HasPrefix(base, ".env") || strings.HasSuffix(base, ".env"):
			cfg.EnvFiles = append(cfg.EnvFiles, path)
		}
	}
	return err
}

// keyPlaces is the KeyPlaces of the engine: a place from which n8n takes its key, and
// which the rotation does not change, must not be seen to hold another one than n8n is to
// have. Where a person or a start command gives the key, only n8n's settings file counts
// on the way forward: n8n compares the key that it is given with it.
func (a *App) keyPlaces(r *rotating, files []string) func(ctx context.Context, back bool) error {
	return func(ctx context.Context, back bool) error {
		key, other := r.new, r.old
		if back {
			key, other = r.old, r.new
		}
		if key.key.IsZero() {
			return nil
		}
		relied := r.keySetByUser || r.spec.StartCommand != ""
		version, _ := r.in.version(ctx) // "" are the rules of a new one
		cfg := n8nhome.KeyPlacesConfig{Key: key.key, New: other.key, Dir: r.in.dir, N8NVersion: version}
		err := r.deployment(ctx, &cfg)
		places, ferr := n8nhome.FindKeyPlaces(cfg)
		if err = errors.Join(err, ferr); err != nil {
			if ctx.Err() != nil {
				return err
			}
			a.Logger.Warn("where n8n takes its key from when it is started is not known", "error", err)
		}
		for _, p := range places.Places {
			wrong := p.Holds == n8nhome.HoldsReplace || p.Holds == n8nhome.HoldsOther && !relied
			if relied && !back && p.Kind != n8nhome.InConfig {
				continue
			}
			if wrong && !slices.Contains(files, p.Path) && p.Ignored == "" && p.Follows == "" {
				return problem.New(problem.CheckFailed, "%s is not the key %s, which n8n has to start with", p, key.key.Fingerprint()).
					WithHint("n8keep does not change it: put the key there, do not restart n8n yourself, and call this again")
			}
		}
		return nil
	}
}

func stagedPaths(files []n8nhome.StagedFile) (paths []string) {
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return paths
}
