package n8ndb_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// TestKeysetOf: with a key that opens nothing in front and the right one behind it, the
// same values open, under the name given, data keys included.
func TestKeysetOf(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres", "2.41.1-sqlite-keyrotation", "1.123.81-sqlite"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location, seeded := f.Prepare(t, name == "2.41.1-sqlite" || name == "2.41.1-postgres")
			cfg := n8ndb.CensusConfig{Executions: n8ndb.AllExecutions, Receipt: n8ndbtest.Receipt(t), BundleDir: seeded.BundleDir}
			db := f.Open(t, location)
			want := n8ndbtest.Census(t, db, f.Key, cfg)
			keys, err := db.KeysetOf(ctx, cfg.Receipt, n8ndbtest.Key(t, "a-key-that-comes-first"), n8ndb.OtherKey{Name: "older", Key: n8ndbtest.Key(t, "and-one-more-of-no-use")},
				n8ndb.OtherKey{Name: "old", Key: f.Key}, n8ndb.OtherKey{Name: "old again", Key: f.Key})
			if err != nil {
				t.Fatal(err)
			}
			var got []n8ndb.Secret
			plaintexts := map[string]string{}
			cfg.Keys = keys
			cfg.Digest = func(place, row string, plaintext []byte) string {
				plaintexts[place+"["+row+"]"] = string(plaintext)
				return "digest"
			}
			cfg.Visit = func(s n8ndb.Secret) error { got = append(got, s); return nil }
			census, err := db.Census(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			expected := want.Secrets
			for i := range expected {
				if expected[i].KeyRef == n8ndb.KeyInstance {
					expected[i].KeyRef = "old"
				}
				// n8n does not have the key, nor the data keys that only it opens.
				expected[i].Misread = expected[i].Opens && !expected[i].Unproved
			}
			if diff := cmp.Diff(expected, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(want.Plaintexts, plaintexts); diff != "" {
				t.Error(diff)
			}
			if census.Failed != 0 || census.ByKey["old"] == 0 || census.ByKey[n8ndb.KeyInstance] != 0 || census.ByKey["old again"] != 0 {
				t.Errorf("keys %v, %d failed", census.ByKey, census.Failed)
			}
		})
	}
}

// TestKeysetOfLegacyRow: a key that a legacy row holds keeps the name it was given, and
// n8n reads what it opens.
func TestKeysetOfLegacyRow(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	location := f.Copy(t)
	older := n8ndbtest.Key(t, "the-key-of-years-ago")
	wrap, err := f.Key.Wrap([]byte(older.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	value, err := older.EncryptCBC([]byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	f.Exec(t, location, `UPDATE deployment_key SET value = $1 WHERE type = 'data_encryption' AND algorithm = 'aes-256-cbc'`, wrap)
	f.Exec(t, location, `UPDATE credentials_entity SET data = $1`, value.String())
	db := f.Open(t, location)
	for name, others := range map[string][]n8ndb.OtherKey{"older": {{Name: "older", Key: older}}, "row": nil} {
		r := n8ndbtest.Receipt(t)
		keys, err := db.KeysetOf(context.Background(), r, f.Key, others...)
		if err != nil {
			t.Fatal(err)
		}
		if len(keys.LegacyIDs()) != 1 {
			t.Errorf("legacy rows %v", keys.LegacyIDs())
		}
		want := "older"
		if name == "row" {
			want = keys.LegacyIDs()[0]
		}
		seen := 0
		_, err = db.Census(context.Background(), n8ndb.CensusConfig{Keys: keys, Receipt: r, Visit: func(s n8ndb.Secret) error {
			if s.Place == "credentials_entity.data" {
				seen++
				if s.KeyRef != want || s.Misread || !s.Opens {
					t.Errorf("%+v, want key %q", s, want)
				}
			}
			return nil
		}})
		if err != nil || seen == 0 {
			t.Errorf("%d credentials, %v", seen, err)
		}
	}
}

func TestKeysetOfRefuses(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	db := f.Open(t, f.Copy(t))
	for _, other := range []n8ndb.OtherKey{{Name: "x"}, {Key: f.Key}, {Name: n8ndb.KeyInstance, Key: f.Key}, {Name: n8ndb.KeyUnknown, Key: f.Key}} {
		if _, err := db.KeysetOf(context.Background(), n8ndbtest.Receipt(t), f.Key, other); err == nil || err.Error() != "a further key needs text and a name of its own" {
			t.Errorf("%v", err)
		}
	}
	if _, err := db.KeysetOf(context.Background(), n8ndbtest.Receipt(t), n8ncrypt.InstanceKey{}); err == nil || err.Error() != "no instance key given" {
		t.Errorf("%v", err)
	}
}
