package app

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// CensusOptions are the options of "census".
type CensusOptions struct {
	AllExecutions bool // also those that are finished
	NoSweep       bool // do not look outside the catalogue
}

// Census opens every secret of the live database. Secrets that do not open are a
// document and an error: CheckFailed, or WrongKey when none does.
func (a *App) Census(ctx context.Context, command string, io InstanceOptions, o CensusOptions) (doc *api.Census, err error) {
	in, err := a.instance(io)
	if err != nil {
		return nil, err
	}
	db, err := in.openDB(ctx)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	version, err := db.Version(ctx)
	if err != nil {
		return nil, err
	}
	key, err := a.key(in, version.N8N)
	if err != nil {
		return nil, err
	}
	receipt, end, err := a.begin(ctx, command, in.name, audit.WarnOnly, nil)
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	defer func() { err = end(err, counts) }()

	fingerprint := make(chan string, 1)
	go func() { fingerprint <- string(key.key.Fingerprint()) }()
	keys, err := db.Keyset(ctx, receipt, key.key)
	if err != nil {
		return nil, err
	}
	scope := n8ndb.Unfinished
	if o.AllExecutions {
		scope = n8ndb.AllExecutions
	}
	cfg := n8ndb.CensusConfig{Keys: keys, Receipt: receipt, Executions: scope, Sweep: !o.NoSweep, BundleDir: in.bundleDir()}
	if a.Progress != nil {
		cfg.Progress = func(_ string, rows int64) { a.Progress("reading the database", rows, 0) }
	}
	census, err := db.Census(ctx, cfg)
	if err != nil {
		return nil, err
	}
	counts["values"], counts["opened"], counts["failed"] = census.Values, census.Opened, census.Failed
	doc = &api.Census{Instance: in.name, Engine: string(db.Engine()), N8NVersion: version.N8N, LastMigration: version.LastMigration,
		KeyFingerprint: <-fingerprint, KeySource: key.source, OtherSources: list(key.others),
		Totals: api.Totals{Values: census.Values, Opened: census.Opened, Failed: census.Failed, Plaintext: census.Plain},
		Places: placeDocs(census.Places), Unlisted: []api.Unlisted{}, Failures: failureDocs(census.Failures), Warnings: list(key.warnings)}
	if version.Warning != "" {
		doc.Warnings = append(doc.Warnings, version.Warning)
	}
	for _, u := range census.Unlisted {
		doc.Unlisted = append(doc.Unlisted, api.Unlisted(u))
		if u.Opened > 0 {
			doc.Warnings = append(doc.Warnings, fmt.Sprintf("%s.%s holds secrets that open with a known key but is not a place n8keep knows: please report it", u.Table, u.Column))
		}
	}
	if census.MisreadTotal > 0 {
		doc.Warnings = append(doc.Warnings, fmt.Sprintf("%d values open with the instance key, but n8n reads them with another one (the legacy row of deployment_key) and fails, %s row %s among them",
			census.MisreadTotal, census.Misread[0].Place, census.Misread[0].Row))
	}
	return doc, verdict(doc, in, key, census.Proved)
}

func verdict(doc *api.Census, in *instance, key resolvedKey, proved int64) error {
	t := doc.Totals
	where := fmt.Sprintf("%q", in.name)
	switch ciphertext := t.Opened + t.Failed; {
	case ciphertext == 0:
		doc.Verdict = "there is no encrypted value, so the key is neither proved nor refuted"
	case proved == 0:
		doc.Verdict = fmt.Sprintf("none of the %d encrypted values opens through the instance key", ciphertext)
		p := problem.New(problem.WrongKey, "instance key %s opens none of %d encrypted values in %s", doc.KeyFingerprint, ciphertext, where)
		hintKey(p, key)
		return p.WithHint("try another one: \"n8keep key check %s --key-file FILE\"", in.flag())
	case t.Failed == 0:
		doc.Verdict = fmt.Sprintf("all %d encrypted values open", ciphertext)
	default:
		doc.Verdict = fmt.Sprintf("%d of %d encrypted values do not open", t.Failed, ciphertext)
		return problem.New(problem.CheckFailed, "instance key does not open %d of %d encrypted values in %s", t.Failed, ciphertext, where).
			WithHint("the other %d opened; what does not was probably written with an older key", t.Opened).
			WithHint("try an older key on it: \"n8keep key check %s --key-file FILE\"", in.flag())
	}
	return nil
}

// bundleDir is where n8n keeps execution data on disk (2.6 and later, by choice).
func (in *instance) bundleDir() string {
	if in.dir == "" {
		return ""
	}
	return filepath.Join(in.dir, "storage")
}

func sourceText(k api.KeySource) string {
	if k.Where == "" {
		return k.Source
	}
	return k.Source + " (" + k.Where + ")"
}

func placeDocs(places []n8ndb.PlaceCount) []api.Place {
	number := map[n8ndb.PlaceID]int{}
	for _, p := range n8ndb.Catalogue() {
		number[p.ID] = p.Number
	}
	out := []api.Place{}
	for _, p := range places {
		out = append(out, api.Place{Place: string(p.ID), Number: number[p.ID], ByKey: p.ByKey,
			Totals: api.Totals{Values: p.Values, Opened: p.Opened, Failed: p.Failed, Plaintext: p.Plain}})
	}
	return out
}

// KeyFingerprint resolves the instance key and returns its fingerprint. A key
// file alone needs no n8n.
func (a *App) KeyFingerprint(ctx context.Context, io InstanceOptions) (*api.Key, error) {
	in := &instance{keyFile: io.KeyFile}
	version := ""
	if io.KeyFile == "" {
		var err error
		if in, err = a.instance(io); err != nil {
			return nil, err
		}
		// Without a database the newest rules decide.
		version, _ = in.version(ctx)
	}
	key, err := a.key(in, version)
	if err != nil {
		return nil, err
	}
	return &api.Key{Fingerprint: string(key.key.Fingerprint()), KeySource: &key.source, OtherSources: key.others, Warnings: list(key.warnings)}, nil
}
