package n8ndb_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
)

// TestSample: all that an instance key may open is in the sample of an n8n with
// every place, nothing of it once a key set opens it, and a trial proves the key.
func TestSample(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location, seeded := f.CopySeeded(t)
			f.Exec(t, location, `INSERT INTO settings (key, value, "loadOnStartup") VALUES ('features.ldap', 'no JSON', true) ON CONFLICT (key) DO UPDATE SET value = 'no JSON'`)
			f.Exec(t, location, `INSERT INTO deployment_key (id, type, value, algorithm, status) VALUES ('seedVerbatim', 'data_encryption', 'another key, in clear', 'aes-256-cbc', 'inactive')`)
			db := f.Open(t, location)
			receipt := n8ndbtest.Receipt(t)
			cfg := n8ndb.SampleConfig{Receipt: receipt, BundleDir: seeded.BundleDir}
			all, err := db.Sample(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			reading := n8ndbtest.Census(t, db, f.Key, n8ndb.CensusConfig{BundleDir: seeded.BundleDir})
			c := reading.Census
			var prefixed int64
			for _, s := range reading.Secrets {
				if s.Format == "prefixed" {
					prefixed++
				}
			}
			// The key in clear and the setting that is no JSON are broken; one credential
			// is too large to be kept.
			if all.Total+all.Prefixed+all.Broken != c.Opened+c.Failed || all.Prefixed != prefixed || all.Broken != 2 || int64(all.Len()) != all.Total-1 || prefixed == 0 {
				t.Errorf("total %d, prefixed %d, broken %d, sampled %d; the census has %d and %d, %d prefixed", all.Total, all.Prefixed, all.Broken, all.Len(), c.Opened, c.Failed, prefixed)
			}
			if keys := all.ClearKeys(); len(keys) != 1 || keys[0].Row != "seedVerbatim" || keys[0].Key.Reveal() != "another key, in clear" {
				t.Errorf("keys in clear: %+v", keys)
			}
			right, err := all.Try(receipt, f.Key, 0)
			if err != nil || right.Proofs+right.Weak != right.Tried || right.Wraps < 5 || right.Weak == 0 || right.OldEncoding != 0 {
				t.Errorf("the key: %+v, %v", right, err)
			}
			wrong, err := all.Try(receipt, n8ndbtest.Key(t, "wrong"), 10)
			if diff := cmp.Diff(n8ndb.Trial{Tried: 10}, wrong); diff != "" || err != nil {
				t.Error(diff, err)
			}
			keys, err := db.Keyset(t.Context(), receipt, f.Key)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Opened = []*n8ndb.Keyset{keys}
			rest, err := db.Sample(t.Context(), cfg)
			if err != nil || rest.Total != 0 || rest.Prefixed != 0 || rest.Broken != 2 {
				t.Errorf("what the key does not open: %+v, %v", rest, err)
			}
			cfg.Opened, cfg.PerPlace = nil, 1
			few, err := db.Sample(t.Context(), cfg)
			if err != nil || few.Total != all.Total || few.Len() >= all.Len() || few.Len() < 10 {
				t.Errorf("one of each place: %d of %d, %v", few.Len(), all.Len(), err)
			}
		})
	}
}

func TestSampleNeedsAReceipt(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	_, err := f.Open(t, f.Copy(t)).Sample(t.Context(), n8ndb.SampleConfig{})
	if err == nil || !strings.Contains(err.Error(), "no secret is opened before the audit event") {
		t.Errorf("%v", err)
	}
}
