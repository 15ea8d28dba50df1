package app

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/state"
)

// memory opens the state database, once.
func (a *App) memory(ctx context.Context) (*state.DB, error) {
	if a.state == nil {
		db, err := state.Open(ctx, state.Config{Dir: a.StateDir, Now: a.Now, Logger: a.Logger})
		if err != nil {
			return nil, err
		}
		a.state = db
	}
	return a.state, nil
}

// lister lists with what is remembered; without, where that cannot be had.
func (a *App) lister(ctx context.Context, store blob.Store, trust backup.Trust) backup.ListConfig {
	cfg := backup.ListConfig{Store: store, Trust: trust, Logger: a.Logger}
	db, err := a.memory(ctx)
	if err != nil {
		a.Logger.Warn("nothing is remembered of this target", "error", err)
		return cfg
	}
	cfg.Cache = db
	return cfg
}

// remember records what a verification came to.
func (a *App) remember(ctx context.Context, arc opened, level backup.Level, outcome error) {
	if k := problem.KindOf(outcome); k != "" && k != problem.Damaged {
		return
	}
	signed, err := backup.ReadSidecar(context.WithoutCancel(ctx), arc.store, arc.id, arc.trust)
	if err != nil {
		return // then there is nothing that the outcome is about
	}
	db, err := a.memory(ctx)
	if err == nil {
		err = backup.Remember(ctx, db, arc.store.Properties().Location, signed.Sidecar, level, a.Now(), outcome)
	}
	if err != nil {
		a.Logger.Warn("the verification is not remembered", "error", err)
	}
}

// BackupList lists targets, newest first; without any, those of the configuration.
// When some cannot be listed, the error is of kind Partial and the document tells of
// the others.
func (a *App) BackupList(ctx context.Context, o ArchiveOptions, targets []string) ([]api.Archive, error) {
	if len(targets) == 0 && len(a.conf.Targets) > 1 {
		targets = slices.Sorted(maps.Keys(a.conf.Targets))
	}
	if len(targets) < 2 {
		stores, err := a.openTargets(ctx, targets, false)
		if err != nil {
			return nil, err
		}
		return a.listed(ctx, stores[0], o)
	}
	m := &merged{byID: map[string]*api.Archive{}}
	var last error
	failed := 0
	for _, name := range targets {
		where, docs, err := a.listedOf(ctx, name, o)
		switch k := problem.KindOf(err); {
		case m.has(where):
			return nil, problem.New(problem.Usage, "target %q is given twice", where).WithHint("name each target once")
		case ctx.Err() != nil, k == problem.Usage:
			return nil, err
		case err != nil:
			failed, last = failed+1, err
			m.targets = append(m.targets, api.Copy{Target: where, State: "unreachable", Problem: err.Error()})
			continue
		}
		m.targets = append(m.targets, api.Copy{Target: where, State: "missing"})
		m.add(docs)
	}
	switch failed {
	case 0:
		return m.list(), nil
	case len(targets):
		return nil, last
	}
	e := problem.New(problem.Partial, "%d of %d targets could not be listed: %s", failed, len(targets), last)
	return m.list(), e.WithHint("%s", problem.HintOf(last))
}

func (a *App) listedOf(ctx context.Context, name string, o ArchiveOptions) (where string, docs []api.Archive, err error) {
	store, err := a.openTarget(ctx, name, false)
	if err != nil {
		return name, nil, err
	}
	docs, err = a.listed(ctx, store, o)
	return store.Properties().Location, docs, err
}

// merged puts the lists of several targets together.
type merged struct {
	targets []api.Copy // what stands for an archive that the target does not have
	byID    map[string]*api.Archive
}

func (m *merged) has(target string) bool {
	return slices.ContainsFunc(m.targets, func(c api.Copy) bool { return c.Target == target })
}

func (m *merged) add(docs []api.Archive) {
	for _, d := range docs {
		known, ok := m.byID[d.ID]
		if !ok {
			m.byID[d.ID] = &d
			continue
		}
		copies := append(known.Copies, d.Copies...)
		// What is best of it is what can be restored.
		if rank(d) < rank(*known) {
			*known = d
		}
		known.Copies = copies
	}
}

func rank(d api.Archive) int {
	states := []string{string(archive.StateGood), string(archive.StateDegraded), stateDamaged, backup.StateIncomplete, backup.StateUnreadable}
	r := slices.Index(states, d.State)
	if !d.Trusted {
		r += len(states)
	}
	return r
}

const stateDamaged = "damaged"

func (m *merged) list() []api.Archive {
	docs := []api.Archive{}
	for _, d := range m.byID {
		var copies []api.Copy
		for _, absent := range m.targets {
			i := slices.IndexFunc(d.Copies, func(c api.Copy) bool { return c.Target == absent.Target })
			if i < 0 {
				copies = append(copies, absent)
				continue
			}
			copies = append(copies, d.Copies[i])
		}
		d.Copies = copies
		docs = append(docs, *d)
	}
	slices.SortFunc(docs, func(a, b api.Archive) int {
		return cmp.Or(b.Time.Compare(a.Time), strings.Compare(b.ID, a.ID))
	})
	return docs
}

// listed is one target's list. It says what is remembered of verifications.
func (a *App) listed(ctx context.Context, store blob.Store, o ArchiveOptions) ([]api.Archive, error) {
	trust, err := a.trust(o)
	if err != nil {
		return nil, err
	}
	archives, err := a.lister(ctx, store, trust).List(ctx)
	if err != nil {
		return nil, err
	}
	if p := store.Properties(); p.Caveat != "" {
		a.Logger.Warn("not all of the target can be seen", "target", p.Location, "why", p.Caveat)
	}
	checked := a.checked(ctx, store)
	docs := []api.Archive{}
	for _, l := range archives {
		if o.Instance != "" && l.ID.Instance() != o.Instance {
			continue
		}
		c := api.Copy{Target: store.Properties().Location, State: l.State, Size: l.Size, Problem: l.Problem, Stored: timeOf(l.Stored), LockedUntil: timeOf(l.LockedUntil)}
		c.Findings = listFindings(l)
		if l.State == backup.StateIncomplete && l.Signer.IsZero() || l.State == backup.StateUnreadable {
			docs = append(docs, api.Archive{ID: string(l.ID), Instance: l.ID.Instance(), Time: l.ID.Time(), State: l.State, Size: l.Size, Problem: l.Problem, Copies: []api.Copy{c}})
			continue
		}
		switch v := backup.CheckedOf(checked[string(l.ID)], l.Sidecar); {
		case !v.Damaged.IsZero():
			c.Verified = &api.Verification{Time: v.Damaged}
			c.State, c.Problem = stateDamaged, "found damaged on "+v.Damaged.UTC().Format("2006-01-02")
		case !v.Sound.IsZero():
			c.Verified = &api.Verification{Time: v.Sound, Level: v.Level.String(), Sound: true}
		}
		doc := archiveDoc(l.Sidecar, l.Signer, l.Trusted)
		doc.State, doc.Problem, doc.Copies = c.State, c.Problem, []api.Copy{c}
		docs = append(docs, doc)
	}
	return docs, nil
}

func (a *App) checked(ctx context.Context, store blob.Store) map[string][]state.Verification {
	db, err := a.memory(ctx)
	if err != nil {
		return nil // lister has warned
	}
	all, err := db.Verifications(ctx, store.Properties().Location)
	if err != nil {
		a.Logger.Warn("what was verified is not known", "error", err)
	}
	return all
}

func listFindings(l backup.Listed) []api.Finding {
	var fs []api.Finding
	if l.Altered != "" {
		fs = append(fs, api.Finding{Code: backup.FoundAltered, Place: string(l.ID), Detail: l.Altered})
	}
	if text := backup.TimeDiffers(l); text != "" {
		fs = append(fs, api.Finding{Code: backup.FoundTimeDiffers, Place: string(l.ID), Detail: text})
	}
	return fs
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
