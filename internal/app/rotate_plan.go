package app

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/reencrypt"
	"github.com/n8keep/n8keep/internal/rotate"
)

// plannedRotation is a plan with what carrying it out needs.
type plannedRotation struct {
	doc     *api.RotationPlan
	refused error
	files   []n8nhome.KeyFile // that get the new key, n8n's config last
	// afterwards is what is left to a person once the rotation is through.
	afterwards []string
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
	var sources []rotate.KeySource
	if sources, made.files, made.afterwards, err = a.keySources(r, version.N8N); err != nil {
		return nil, err
	}
	cfg := rotate.PlanConfig{Instance: in.name, Database: in.place(), DB: db, Receipt: receipt, Old: engineKey(r.old), New: engineKey(r.new), Others: r.others,
		Storage: in.bundleDir(), Choices: choices, Sources: sources, Env: a.Env,
		KeySetByUser: r.keySetByUser || r.spec.StartCommand != "", StateFree: freeAt(a.StateDir)}
	if in.dsn == "" {
		cfg.DatabaseFree = freeAt(filepath.Dir(in.database))
	}
	if flag := reencrypt.FlagOf(a.Env, false, version); flag != reencrypt.FlagUnknown {
		cfg.KeyRotation = string(flag)
	}
	if a.Progress != nil {
		cfg.Progress = func(_ string, rows int64) { a.Progress("reading the database", rows, 0) }
	}
	p, err := rotate.MakePlan(ctx, cfg)
	if err != nil {
		return nil, err
	}
	made.doc, made.refused = planDoc(p, r), explainWrongKey(p.Refused(), r.old)
	return made, nil
}

func planDoc(p *rotate.Plan, r *rotating) *api.RotationPlan {
	doc := &api.RotationPlan{Instance: p.Instance, Database: p.Database, Engine: string(p.Engine), N8NVersion: p.N8NVersion,
		OldKey: api.KeyRef{Fingerprint: string(p.OldKey), Path: r.old.source.Where}, NewKey: api.KeyRef{Fingerprint: string(p.NewKey), Path: r.new.source.Where},
		AfterLeak: p.AfterLeak, Executions: p.Executions, Places: []api.RotationPlace{}, Values: p.Values, Change: p.Change, Already: p.Already, Unopened: p.Unopened, Misread: p.Misread,
		Failures: failureDocs(p.Failures), Unlisted: []api.Unlisted{}, Derived: []api.Derived{}, KeyPlaces: []api.KeyPlace{}, MFALogouts: p.MFALogouts,
		LeftBehind: p.LeftBehind, LeftValues: p.LeftValues, LeftUnseen: p.LeftUnseen, WaitingValues: p.WaitingValues, Bundles: p.Bundles, JournalBytes: p.JournalBytes, Service: "you stop it before, and start it afterwards",
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
		doc.KeyPlaces = append(doc.KeyPlaces, api.KeyPlace{Source: s.Source, Where: s.Where, Holds: s.Holds, By: s.By, Do: s.Do})
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
// afterwards.
func (a *App) keySources(r *rotating, version string) (sources []rotate.KeySource, files []n8nhome.KeyFile, afterwards []string, err error) {
	in := r.in
	found, err := n8nhome.ResolveKey(n8nhome.KeySources{Env: a.Env, Dir: in.dir, N8NVersion: version})
	if err != nil && problem.KindOf(err) != problem.NotFound {
		return nil, nil, nil, err
	}
	all := []n8nhome.Other{}
	if err == nil {
		all = append(all, n8nhome.Other{Source: found.Winner, Key: found.Key})
	}
	var last []n8nhome.KeyFile
	for _, o := range append(all, found.Others...) {
		s := rotate.KeySource{Source: o.Source.Name, Where: o.Source.Where, Key: o.Key}
		var file n8nhome.KeyFile
		switch o.Source.Name {
		case n8nhome.FromConfig:
			file = n8nhome.ConfigKeyFile(filepath.Dir(o.Source.Where))
		case n8nhome.FromEnvFile:
			file = n8nhome.PlainKeyFile(o.Source.Where)
		default:
			s.Do = "give n8n's processes the new key in " + o.Source.Name
		}
		if file.Name != "" {
			if why := file.Changeable(); why != nil {
				s.Do = "write the new key into it: " + why.Error()
			} else {
				s.Changed = true
				if file.Form == n8nhome.ConfigForm {
					last = append(last, file)
				} else {
					files = append(files, file)
				}
			}
		}
		sources = append(sources, s)
	}
	files = append(files, last...)
	if in.conf.Key.IsZero() {
		return sources, files, nil, nil
	}
	own := "n8keep.yaml names the old key for " + in.name + " (" + in.conf.Key.String() + "): let it name the new one"
	return sources, files, []string{own}, nil
}
