// Package keyfind answers the question which key an n8n's secrets are encrypted
// with, when there are several that it may be, or one that is nearly it.
//
// It takes candidates out of files ([ReadFile]), and for each it says which values
// of the database it opens. A key that opens nothing as it stands is tried in the
// forms that keys take on their way between files, shells, compose, Kubernetes and
// n8n: with and without quotes, white space and line breaks, as base64 and hex,
// percent-encoded, with shell escapes or their variables expanded, in the encodings
// of text that are mixed up, and in pairs of these. The form that opens something
// is named.
//
// All of that is tried on a sample first, drawn from values that nothing found so
// far opens; a key that opens something there is then tried on every value. What
// opens counts as proof only if a wrong key would not open it: thousands of texts
// are tried, and a short CBC value that may be any text opens by chance.
//
// A key that only opens older data is found as long as one value in a hundred is
// under it, most of the time; values in data of finished executions are looked at
// by choice.
//
// Trust boundary: candidates' files may be anything; parsing them is bounded.
// Nothing here prints, logs or returns a key but in types that redact it: candidates
// are named by file and line. No plaintext reaches this package.
package keyfind

import (
	"context"
	"slices"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Config says where to look and what to try.
type Config struct {
	DB         *n8ndb.DB     // required
	Receipt    audit.Receipt // required, valid
	Candidates []Candidate
	// More returns further candidates that become known with the given keys: those of
	// a keyring. It may be called several times and repeat itself. Optional.
	More       func(keys []n8ncrypt.InstanceKey) ([]Candidate, error)
	Executions n8ndb.ExecutionScope
	BundleDir  string                     // n8n's storage folder, "" for none
	Progress   func(what string, n int64) // optional
}

// Role is what a key is to the database.
type Role string

const (
	// InstanceKey is the key that n8n needs now.
	InstanceKey Role = "instance_key"
	// OlderData: it opens values, but n8n needs another key now, or one cannot tell.
	OlderData Role = "older_data"
	// NoProof: it opens only what a wrong key may open by chance.
	NoProof Role = "no_proof"
	// Nothing opens.
	Nothing Role = "nothing"
)

// Found is a key that opens something.
type Found struct {
	Key       n8ncrypt.InstanceKey
	Candidate int      // of Result.Candidates
	Steps     []string // what had to be done to the candidate; none: nothing
	Role      Role
	Census    *n8ndb.Census // every value, by place
	// Proofs are the opened values that prove the key, Wraps those of them that
	// n8n reads with today's key only: rows of deployment_key.
	Proofs, Wraps int64
	// OldEncoding are values that only n8n to 1.15 reads with this key.
	OldEncoding int64
}

// Outcome is what became of a candidate.
type Outcome struct {
	Candidate Candidate
	// Found are the indexes in Result.Found of the keys that it is, as it stands or
	// after Steps of the same index.
	Found []int
	Steps [][]string
}

// Result is what was found.
type Result struct {
	Found      []Found   // the instance key first, then by what they open
	Candidates []Outcome // in the order given, then those of Config.More
	// Encrypted counts the values of the database that need a key, Wrapped those of
	// deployment_key among them.
	Encrypted, Wrapped int64
	// Closed are values that no key found opens, Broken those of them that are no
	// whole ciphertext, so that none can.
	Closed, Broken int64
	Tried          int64 // texts that were tried
}

// Instance is the instance key, or nil.
func (r *Result) Instance() *Found {
	if len(r.Found) > 0 && r.Found[0].Role == InstanceKey {
		return &r.Found[0]
	}
	return nil
}

const (
	// maxFound bounds the keys whose values are all counted.
	maxFound = 12
	// varied is how many values of the sample each variant is tried on.
	varied = 96
)

// Find tries every candidate.
func Find(ctx context.Context, cfg Config) (*Result, error) {
	if cfg.DB == nil || !cfg.Receipt.Valid() {
		return nil, problem.New(problem.Unexpected, "finding a key needs a database and a receipt")
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int64) {}
	}
	f := &finder{Config: cfg, result: &Result{}, variants: map[int][]variant{}}
	for _, c := range cfg.Candidates {
		f.add(c)
	}
	if err := f.run(ctx); err != nil {
		return nil, err
	}
	return f.result, nil
}

type finder struct {
	Config
	result   *Result
	keysets  []*n8ndb.Keyset // of result.Found
	variants map[int][]variant
	tried    int64
}

func (f *finder) add(c Candidate) bool {
	for _, o := range f.result.Candidates {
		// n8n's own config may be named, too.
		same := o.Candidate.String() == c.String() || c.File != "" && o.Candidate.File == c.File && o.Candidate.Name == c.Name && (o.Candidate.Line == 0 || c.Line == 0)
		if same && o.Candidate.Text.Reveal() == c.Text.Reveal() {
			return false
		}
	}
	f.result.Candidates = append(f.result.Candidates, Outcome{Candidate: c})
	return true
}

// key is the candidate as it stands; false when it cannot be a key so.
func (f *finder) key(i int) (n8ncrypt.InstanceKey, bool) {
	k, err := n8ncrypt.NewInstanceKey(f.result.Candidates[i].Candidate.Text.Reveal())
	return k, err == nil
}

func (f *finder) sample(ctx context.Context) (*n8ndb.Sample, error) {
	return f.DB.Sample(ctx, n8ndb.SampleConfig{Receipt: f.Receipt, Opened: f.keysets, Executions: f.Executions, BundleDir: f.BundleDir,
		Progress: func(_ string, rows int64) { f.Progress("reading the database", rows) }})
}

func (f *finder) run(ctx context.Context) error {
	sample, err := f.sample(ctx)
	if err != nil {
		return err
	}
	for _, k := range sample.ClearKeys() {
		f.add(Candidate{Source: FromDatabase, Name: k.Row, Text: secret.NewString(k.Key.Reveal())})
	}
	if err := f.more(); err != nil {
		return err
	}
	for i := 0; i < len(f.result.Candidates); i++ { // more come while it runs
		if err := f.asItStands(ctx, sample, i); err != nil {
			return err
		}
	}
	// What is still closed is sampled again, until nothing opens any of it. Keys
	// that prove nothing are not looked at any further.
	for len(f.result.Found) < maxFound {
		if sample, err = f.sample(ctx); err != nil {
			return err
		}
		if sample.Len() == 0 {
			break
		}
		found, err := f.best(ctx, sample)
		if err != nil {
			return err
		}
		if !found {
			break
		}
	}
	f.result.Closed, f.result.Broken = sample.Total+sample.Prefixed+sample.Broken, sample.Broken
	if len(f.result.Found) == maxFound {
		if sample, err = f.sample(ctx); err != nil {
			return err
		}
		f.result.Closed = sample.Total + sample.Prefixed + sample.Broken
	}
	if len(f.result.Found) == 0 {
		if err := f.count(ctx); err != nil {
			return err
		}
	}
	f.rank()
	f.recognise()
	f.result.Tried = f.tried
	return nil
}

// more asks for the keys that the candidates open elsewhere.
func (f *finder) more() error {
	if f.More == nil {
		return nil
	}
	var keys []n8ncrypt.InstanceKey
	for i := range f.result.Candidates {
		if k, ok := f.key(i); ok {
			keys = append(keys, k)
		}
	}
	for _, found := range f.result.Found {
		keys = append(keys, found.Key)
	}
	list, err := f.More(keys)
	if err != nil {
		return err
	}
	for _, c := range list {
		f.add(c)
	}
	return nil
}

func (f *finder) asItStands(ctx context.Context, sample *n8ndb.Sample, i int) error {
	key, ok := f.key(i)
	if !ok {
		return nil
	}
	if at := f.known(key); at >= 0 {
		f.belongs(i, at, nil)
		return nil
	}
	f.tried++
	t, err := sample.Try(f.Receipt, key, 0)
	if err != nil || t.Proofs+t.Weak == 0 || len(f.result.Found) == maxFound {
		return err
	}
	return f.found(ctx, i, nil, key)
}

func (f *finder) known(key n8ncrypt.InstanceKey) int {
	return slices.IndexFunc(f.result.Found, func(x Found) bool { return x.Key.Equal(key) })
}

func (f *finder) belongs(candidate, found int, steps []string) {
	o := &f.result.Candidates[candidate]
	if !slices.Contains(o.Found, found) {
		o.Found, o.Steps = append(o.Found, found), append(o.Steps, steps)
	}
}

// best tries all variants of all candidates and keeps the one that opens most; of
// equals the simplest.
func (f *finder) best(ctx context.Context, sample *n8ndb.Sample) (bool, error) {
	var top struct {
		candidate, proofs int
		variant           variant
		key               n8ncrypt.InstanceKey
	}
	for i := range f.result.Candidates {
		for _, v := range f.variantsOf(i) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			key, err := n8ncrypt.NewInstanceKey(v.text)
			if err != nil || f.known(key) >= 0 {
				continue
			}
			if f.tried++; f.tried%500 == 0 {
				f.Progress("trying forms of the candidates", f.tried)
			}
			limit := varied
			if len(v.steps) == 0 {
				limit = 0
			}
			t, err := sample.Try(f.Receipt, key, limit)
			if err != nil {
				return false, err
			}
			if t.Proofs > top.proofs || t.Proofs > 0 && t.Proofs == top.proofs && len(v.steps) < len(top.variant.steps) {
				top.candidate, top.proofs, top.variant, top.key = i, t.Proofs, v, key
			}
		}
	}
	if top.proofs == 0 {
		return false, nil
	}
	if err := f.found(ctx, top.candidate, top.variant.steps, top.key); err != nil {
		return false, err
	}
	return true, f.more()
}

func (f *finder) variantsOf(i int) []variant {
	if f.variants[i] == nil {
		f.variants[i] = variants(f.result.Candidates[i].Candidate.Text.Reveal())
	}
	return f.variants[i]
}

// found counts everything that a key opens.
func (f *finder) found(ctx context.Context, candidate int, steps []string, key n8ncrypt.InstanceKey) error {
	keys, err := f.DB.Keyset(ctx, f.Receipt, key)
	if err != nil {
		return err
	}
	x := Found{Key: key, Candidate: candidate, Steps: steps}
	places := map[n8ndb.PlaceID]n8ndb.Place{}
	for _, p := range n8ndb.Catalogue() {
		places[p.ID] = p
	}
	var wrapped, old int64
	x.Census, err = f.census(ctx, keys, func(s n8ndb.Secret) error {
		p := places[s.Place]
		if s.Plain {
			return nil
		}
		if p.Encoding != n8ndb.V2 {
			wrapped++
		}
		if !n8ndb.Proves(p, s) {
			return nil
		}
		x.Proofs++
		switch {
		case p.Encoding != n8ndb.V2:
			x.Wraps++
		case s.OldEncoding:
			old++
		}
		return nil
	})
	if err != nil {
		return err
	}
	x.OldEncoding = old
	f.result.Encrypted, f.result.Wrapped = x.Census.Opened+x.Census.Failed, wrapped
	f.result.Found, f.keysets = append(f.result.Found, x), append(f.keysets, keys)
	f.belongs(candidate, len(f.result.Found)-1, steps)
	return nil
}

func (f *finder) census(ctx context.Context, keys *n8ndb.Keyset, visit func(n8ndb.Secret) error) (*n8ndb.Census, error) {
	return f.DB.Census(ctx, n8ndb.CensusConfig{Keys: keys, Receipt: f.Receipt, Executions: f.Executions, BundleDir: f.BundleDir, Visit: visit,
		Progress: func(_ string, rows int64) { f.Progress("reading the database", rows) }})
}

// count counts the values of a database of which nothing opens.
func (f *finder) count(ctx context.Context) error {
	sample, err := f.sample(ctx)
	if err != nil {
		return err
	}
	f.result.Encrypted = sample.Total + sample.Prefixed + sample.Broken
	return nil
}

// rank finds out which key is which. n8n reads rows of deployment_key with today's
// key only; without such rows, before 2.18, the key that opens most is it.
func (f *finder) rank() {
	r := f.result
	best, score := -1, int64(0)
	for i := range r.Found {
		x := &r.Found[i]
		x.Role = OlderData
		if x.Proofs == 0 {
			x.Role = NoProof
			continue
		}
		n := x.Wraps
		if r.Wrapped == 0 {
			n = x.Census.Opened
		}
		if n > score {
			best, score = i, n
		}
	}
	if best >= 0 {
		r.Found[best].Role = InstanceKey
	}
	order := make([]int, len(r.Found))
	for i := range order {
		order[i] = i
	}
	weight := func(x Found) int64 {
		switch x.Role {
		case InstanceKey:
			return 1 << 60
		case OlderData:
			return 1<<50 + x.Proofs
		}
		return x.Census.Opened
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch x, y := weight(r.Found[a]), weight(r.Found[b]); {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	sorted, place := make([]Found, len(order)), make([]int, len(order))
	for to, from := range order {
		sorted[to], place[from] = r.Found[from], to
	}
	r.Found = sorted
	for i := range r.Candidates {
		for j, at := range r.Candidates[i].Found {
			r.Candidates[i].Found[j] = place[at]
		}
	}
}

// recognise finds the candidates that open nothing as they stand, but are a form of
// a key that was found.
func (f *finder) recognise() {
	for i := range f.result.Candidates {
		if len(f.result.Candidates[i].Found) > 0 {
			continue
		}
		for _, v := range f.variantsOf(i) {
			if key, err := n8ncrypt.NewInstanceKey(v.text); err == nil {
				if at := f.known(key); at >= 0 {
					f.belongs(i, at, v.steps)
					break
				}
			}
		}
	}
}
