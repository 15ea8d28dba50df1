package app

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/keyfind"
	"github.com/n8keep/n8keep/internal/keyring"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// KeyFindOptions are the options of "key find".
type KeyFindOptions struct {
	Candidates    []string // --candidate: files
	Only          bool     // --candidates-only: nothing that n8keep finds by itself
	AllExecutions bool     // also those that are finished
	Out           string   // --out: where the instance key is written, "" for nowhere
}

// KeyFind says which of the candidates opens what. A result that is not one key for
// everything is a document and an error: CheckFailed, or WrongKey when nothing opens.
func (a *App) KeyFind(ctx context.Context, io InstanceOptions, o KeyFindOptions) (doc *api.KeyFind, err error) {
	s := &keySearch{app: a, options: o}
	for _, path := range o.Candidates {
		list, notes, err := keyfind.ReadFile(path)
		if err != nil {
			return nil, err
		}
		s.candidates, s.warnings = append(s.candidates, list...), append(s.warnings, notes...)
	}
	keyFile := io.KeyFile
	io.KeyFile = ""
	if s.in, err = a.instance(io); err != nil {
		return nil, err
	}
	db, err := s.in.openDB(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	if s.version, err = db.Version(ctx); err != nil {
		return nil, err
	}
	if err := s.ownKeys(keyFile); err != nil {
		return nil, err
	}
	if len(s.candidates) == 0 {
		return nil, problem.New(problem.Usage, "there is no candidate to try").
			WithHint("give files that may hold the key: old key files, env files, compose files, n8n's config of another host: --candidate FILE")
	}
	receipt, end, err := a.begin(ctx, "key find", s.in.name, audit.WarnOnly, map[string]any{"candidates": len(s.candidates)})
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()
	cfg := keyfind.Config{DB: db, Receipt: receipt, Candidates: s.candidates, BundleDir: s.in.bundleDir()}
	if o.AllExecutions {
		cfg.Executions = n8ndb.AllExecutions
	}
	if !o.Only {
		cfg.More = func(keys []n8ncrypt.InstanceKey) ([]keyfind.Candidate, error) { return s.retired(ctx, keys), nil }
	}
	if a.Progress != nil {
		cfg.Progress = func(what string, n int64) { a.Progress(what, n, 0) }
	}
	if s.result, err = keyfind.Find(ctx, cfg); err != nil {
		return nil, err
	}
	counts["values"], counts["closed"], counts["keys"] = s.result.Encrypted, s.result.Closed, int64(len(s.result.Found))
	doc = s.document(string(db.Engine()))
	if o.Out != "" {
		if err := s.write(doc); err != nil {
			return nil, err
		}
	}
	return doc, s.verdict(doc)
}

// keySearch is one run of KeyFind.
type keySearch struct {
	app        *App
	options    KeyFindOptions
	in         *instance
	version    n8ndb.Version
	candidates []keyfind.Candidate
	warnings   []string
	ringFailed bool
	// own is the key that n8n takes by itself, zero when there is none.
	own       n8ncrypt.InstanceKey
	ownSource n8nhome.Source
	result    *keyfind.Result
}

// ownKeys adds --key-file, and what n8n and n8keep find without being told.
func (s *keySearch) ownKeys(keyFile string) error {
	if keyFile != "" {
		list, notes, err := keyfind.ReadFile(keyFile)
		if err != nil {
			return err
		}
		for _, c := range list {
			c.Source = n8nhome.FromKeyFile
			s.candidates = append(s.candidates, c)
		}
		s.warnings = append(s.warnings, notes...)
	}
	res, err := n8nhome.ResolveKey(n8nhome.KeySources{Env: s.app.Env, Dir: s.in.dir, N8NVersion: s.version.N8N})
	switch {
	case err == nil:
		s.own, s.ownSource = res.Key, res.Winner
		if !s.options.Only {
			s.candidates = append(s.candidates, keyfind.FromSettings(res.Winner, res.Key.Reveal()))
			for _, other := range res.Others {
				s.candidates = append(s.candidates, keyfind.FromSettings(other.Source, other.Key.Reveal()))
			}
			s.warnings = append(s.warnings, res.Warnings...)
		}
	case problem.KindOf(err) != problem.NotFound:
		s.warnings = append(s.warnings, err.Error())
	}
	if s.options.Only || s.in.conf.Key.IsZero() {
		return nil
	}
	key, err := s.app.key(s.in, s.version.N8N)
	if err != nil {
		s.warnings = append(s.warnings, err.Error())
		return nil
	}
	s.candidates = append(s.candidates, keyfind.Candidate{Source: "n8keep.yaml", File: key.source.Where, Text: secret.NewString(key.key.Reveal())})
	return nil
}

// retired are the keys of the keyring that the given ones open. A keyring that
// cannot be read is a warning here: it is one source among many.
func (s *keySearch) retired(ctx context.Context, keys []n8ncrypt.InstanceKey) []keyfind.Candidate {
	if s.ringFailed {
		return nil
	}
	entries, err := keyring.New(keyring.Config{StateDir: s.app.StateDir}).OpenedBy(ctx, keys...)
	if err != nil {
		s.ringFailed = true
		s.warnings = append(s.warnings, err.Error())
		return nil
	}
	var list []keyfind.Candidate
	for _, e := range entries {
		for _, r := range e.Retired {
			known := fmt.Sprintf("%s of %q until %s", r.Fingerprint, e.Instance, r.To.Format("2006-01-02"))
			list = append(list, keyfind.Candidate{Source: keyfind.FromKeyring, Known: known, Text: secret.NewString(r.Key.Reveal())})
		}
	}
	return list
}

func (s *keySearch) document(engine string) *api.KeyFind {
	r := s.result
	doc := &api.KeyFind{Instance: s.in.name, Engine: engine, N8NVersion: s.version.N8N, LastMigration: s.version.LastMigration,
		Encrypted: r.Encrypted, Closed: r.Closed, Broken: r.Broken, Tried: r.Tried,
		Next: []string{}, Keys: []api.FoundKey{}, Candidates: []api.KeyCandidate{}, Warnings: list(s.warnings)}
	if s.version.Warning != "" {
		doc.Warnings = append(doc.Warnings, s.version.Warning)
	}
	fingerprints := make([]string, len(r.Found))
	var wg sync.WaitGroup
	for i, x := range r.Found {
		wg.Go(func() { fingerprints[i] = string(x.Key.Fingerprint()) })
	}
	wg.Wait()
	for i, x := range r.Found {
		c := x.Census
		doc.Keys = append(doc.Keys, api.FoundKey{KeyFingerprint: fingerprints[i], Role: string(x.Role), Candidate: r.Candidates[x.Candidate].Candidate.String(),
			Steps: list(x.Steps), InUse: !s.own.IsZero() && x.Key.Equal(s.own),
			Totals: api.Totals{Values: c.Values, Opened: c.Opened, Failed: c.Failed, Plaintext: c.Plain},
			Proved: x.Proofs, OldEncoding: x.OldEncoding, Places: placeDocs(c.Places)})
	}
	for _, out := range r.Candidates {
		c := out.Candidate
		d := api.KeyCandidate{Candidate: c.String(), Source: c.Source, File: c.File, Line: c.Line, Name: c.Name, Role: string(keyfind.Nothing), Keys: []api.CandidateForm{}}
		best := len(r.Found)
		for i, at := range out.Found {
			d.Keys = append(d.Keys, api.CandidateForm{KeyFingerprint: fingerprints[at], Steps: list(out.Steps[i])})
			if at < best {
				best, d.Role = at, string(r.Found[at].Role)
			}
		}
		doc.Candidates = append(doc.Candidates, d)
	}
	return doc
}

// write puts the instance key into a file. A key file loses one line break when it
// is read.
func (s *keySearch) write(doc *api.KeyFind) error {
	x := s.result.Instance()
	if x == nil {
		doc.Warnings = append(doc.Warnings, fmt.Sprintf("the instance key was not found, so %q was not written", s.options.Out))
		return nil
	}
	text := x.Key.Reveal()
	if strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if err := writeKey(s.options.Out, text); err != nil {
		return err
	}
	doc.Out = s.options.Out
	return nil
}
