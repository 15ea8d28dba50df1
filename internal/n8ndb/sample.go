package n8ndb

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// SampleConfig says which values a sample is drawn from.
type SampleConfig struct {
	Receipt audit.Receipt // required, valid
	// PerPlace bounds the values kept of each place; 0 is 512.
	PerPlace int
	// Opened leaves out what one of these opens.
	Opened     []*Keyset
	Executions ExecutionScope
	BundleDir  string                         // as in CensusConfig
	Progress   func(table string, rows int64) // optional
}

// Sample holds stored values, still closed, on which any number of keys can be
// tried without the database. It is drawn evenly over all rows, and in the same
// way each time. It is safe for concurrent use.
type Sample struct {
	values []sampled
	// Total is how many values the sample stands for: ciphertext under an instance
	// key that nothing of SampleConfig.Opened opens.
	Total int64
	// Prefixed counts the values under a data key besides. They open through
	// their data key's row, which is in the sample itself.
	Prefixed int64
	// Broken counts what is no ciphertext, or a cut one: no key opens it.
	Broken int64
	clear  []ClearKey
}

type sampled struct {
	place *Place
	row   placeRow
}

// ClearKey is a legacy row of deployment_key that holds an instance key as it is,
// as n8n 2.18 to 2.40.2 could store it.
type ClearKey struct {
	Row string
	Key n8ncrypt.InstanceKey
}

// sampledSize bounds a value of a sample, so that a sample has a bounded size,
// too: some 30 MB if every place were full of them.
const (
	defaultPerPlace = 512
	sampledSize     = 64 << 10
)

// Sample reads every value of the catalogue that an instance key may open and
// keeps some of each place.
func (db *DB) Sample(ctx context.Context, cfg SampleConfig) (*Sample, error) {
	if !cfg.Receipt.Valid() {
		return nil, &problem.Error{Kind: problem.Unexpected, Err: errNoReceipt}
	}
	if cfg.PerPlace == 0 {
		cfg.PerPlace = defaultPerPlace
	}
	census := &CensusConfig{Receipt: cfg.Receipt, Executions: cfg.Executions, BundleDir: cfg.BundleDir, Progress: cfg.Progress}
	c := &counter{cfg: census, result: &Census{ByKey: map[string]int64{}}, places: map[PlaceID]*PlaceCount{}}
	c.sweeper = newSweeper(census)
	s := &Sample{}
	random := rand.New(rand.NewPCG(1, 2)) // fixed: a second run says the same
	seen := map[PlaceID]int{}
	kept := map[PlaceID][]sampled{}
	c.collect = func(p *Place, row placeRow) error {
		switch closed, err := s.closed(cfg, p, row); {
		case err != nil:
			return err
		case !closed || len(row.value) > sampledSize && len(kept[p.ID]) > 0:
			return nil
		}
		seen[p.ID]++
		row.id, row.value = strings.Clone(row.id), strings.Clone(row.value) // of execution data it is a small part
		if list := kept[p.ID]; len(list) < cfg.PerPlace {
			place := *p
			kept[p.ID] = append(list, sampled{&place, row})
		} else if i := random.IntN(seen[p.ID]); i < len(list) {
			list[i].row = row
		}
		return nil
	}
	if err := db.view(ctx, func(v *view) error { return c.run(ctx, v) }); err != nil {
		return nil, err
	}
	// Interleaved, so that each beginning of the sample has something of every place.
	for i, more := 0, true; more; i++ {
		more = false
		for _, p := range Catalogue() {
			list := kept[p.ID]
			if i == 0 {
				random.Shuffle(len(list), func(a, b int) { list[a], list[b] = list[b], list[a] })
			}
			if i < len(list) {
				s.values = append(s.values, list[i])
				more = true
			}
		}
	}
	return s, nil
}

// closed reports whether a value belongs into the sample, and counts it.
func (s *Sample) closed(cfg SampleConfig, p *Place, row placeRow) (bool, error) {
	if p.Encoding == Clear || p.Encoding == Pinned && !row.hasAlgorithm {
		return false, nil
	}
	if row.problem != "" {
		s.Broken++
		return false, nil
	}
	value, unparsed := n8ncrypt.Parse(row.value)
	if unparsed != nil && p.Key == dataEncryption {
		if n8ncrypt.Detect(row.value) == n8ncrypt.RawHex && p.Algorithm != string(n8ncrypt.AlgorithmCBC) {
			return false, nil // in clear, and no instance key
		}
		if key, err := n8ncrypt.NewInstanceKey(row.value); err == nil && p.Algorithm == string(n8ncrypt.AlgorithmCBC) && errors.Is(unparsed, n8ncrypt.ErrNotCiphertext) {
			s.clear = append(s.clear, ClearKey{row.id, key})
		}
	}
	for _, k := range cfg.Opened {
		secret, plaintext, err := k.judge(cfg.Receipt, p, row)
		clear(plaintext)
		if err != nil {
			return false, err
		}
		if secret.Opens || secret.Plain {
			return false, nil
		}
	}
	switch {
	case unparsed != nil:
		s.Broken++
	case value.Format() == n8ncrypt.Prefixed:
		s.Prefixed++
	default:
		s.Total++
		return true, nil
	}
	return false, nil
}

// Len is how many values can be tried.
func (s *Sample) Len() int { return len(s.values) }

// ClearKeys are the instance keys that the database holds in clear.
func (s *Sample) ClearKeys() []ClearKey { return s.clear }

// Trial is what a key opened.
type Trial struct {
	Tried int
	// Proofs are the opened values that a wrong key would not open: the tag of GCM
	// fits, or the plaintext of CBC has a shape that chance does not make.
	Proofs int
	// Wraps are those of Proofs that belong to deployment_key, which n8n reads with
	// the instance key of today only.
	Wraps int
	// Weak are opened values whose plaintext may be any text. One wrong key in 1.5
	// million opens a short one: little where many keys are tried.
	Weak int
	// OldEncoding are those of Proofs and Weak that only n8n to 1.15 reads: CBC
	// under the UTF-8 bytes of a key that is not ASCII.
	OldEncoding int
}

// Try tries a key on the first limit values, or on all with 0. It never says what
// is in them.
func (s *Sample) Try(r audit.Receipt, key n8ncrypt.InstanceKey, limit int) (t Trial, err error) {
	k := &Keyset{keys: n8ncrypt.Keys{Instance: key}}
	values := s.values
	if limit > 0 {
		values = values[:min(limit, len(values))]
	}
	for _, v := range values {
		secret, plaintext, err := k.judge(r, v.place, v.row)
		clear(plaintext)
		if err != nil {
			return Trial{}, err
		}
		t.Tried++
		switch {
		case !secret.Opens:
			continue
		case Proves(*v.place, secret):
			t.Proofs++
			if v.place.Encoding != V2 {
				t.Wraps++
			}
		default:
			t.Weak++
		}
		if secret.OldEncoding {
			t.OldEncoding++
		}
	}
	return t, nil
}

// Proves reports whether a value that opens proves the key: authenticated, or of a
// shape that chance does not make.
func Proves(p Place, s Secret) bool {
	if !s.Opens || s.Unproved {
		return false
	}
	return s.Format != n8ncrypt.CBC.String() || p.Shape != n8ncrypt.ShapeText && p.Shape != n8ncrypt.ShapeJSON
}
