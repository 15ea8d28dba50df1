package n8ncrypt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// fixture holds what a real n8n stored, with the plaintext its own tools gave.
type fixture struct {
	N8nVersion    string
	EncryptionKey string
	Credentials   []struct {
		ID        string
		Stored    string
		Plaintext json.RawMessage
	}
	DeploymentKeys []struct {
		ID, Type  string
		Algorithm *string
		Value     string
		Plain     string
	}
	Values []struct{ Place, Shape, Stored, Plaintext string }
}

func readFixtures(t testing.TB) map[string]fixture {
	t.Helper()
	paths, err := filepath.Glob("testdata/fixtures/*.json")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]fixture{}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var f fixture
		if err := json.Unmarshal(b, &f); err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(path)] = f
	}
	if len(all) < 9 {
		t.Fatalf("found %d fixtures, want at least 9", len(all))
	}
	return all
}

// keys opens the data keys of the fixture, which is itself part of the test.
func (f fixture) keys(t testing.TB) Keys {
	t.Helper()
	k := Keys{Instance: mustKey(t, f.EncryptionKey)}
	data := map[string]DataKey{}
	for _, row := range f.DeploymentKeys {
		if row.Type != "data_encryption" {
			continue
		}
		switch Algorithm(*row.Algorithm) {
		case AlgorithmGCM:
			key, kind, err := UnwrapDataKey(k.Instance, row.ID, row.Value)
			if err != nil || kind != WrapGCM || key.Reveal() != row.Plain {
				t.Errorf("data key %q: wrapped as %s, error %v", row.ID, kind, err)
			}
			data[row.ID] = key
		case AlgorithmCBC:
			key, kind, err := UnwrapLegacyKey(k.Instance, row.Value)
			if err != nil || kind != WrapGCM || key.Reveal() != row.Plain {
				t.Errorf("legacy key %q: wrapped as %s, error %v", row.ID, kind, err)
			}
			k.Legacy = append(k.Legacy, key)
		}
	}
	k.Data = func(id string) (DataKey, bool) { key, ok := data[id]; return key, ok }
	return k
}

func shapeOf(t testing.TB, name string) Shape {
	t.Helper()
	return vector{headers: map[string][]string{"shape": {name}}}.shape(t)
}

func TestFixturesOpen(t *testing.T) {
	formats := map[Format]int{}
	for name, f := range readFixtures(t) {
		t.Run(name, func(t *testing.T) {
			keys := f.keys(t)
			if len(f.Credentials) < 10 {
				t.Fatalf("found %d credentials, want at least 10", len(f.Credentials))
			}
			open := func(place, stored string, shape Shape, want []byte) {
				plaintext, ref, err := Decrypt(keys, stored, shape)
				if err != nil {
					t.Errorf("%s: %v", place, err)
					return
				}
				if !bytes.Equal(plaintext, want) {
					t.Errorf("%s: plaintext differs from n8n's own", place)
				}
				v, err := Parse(stored)
				if err != nil || v.String() != stored || !v.Canonical() || Detect(stored) != v.Format() {
					t.Errorf("%s: parse and String is no identity", place)
				}
				formats[ref.Format]++
			}
			for _, c := range f.Credentials {
				var want bytes.Buffer
				if err := json.Compact(&want, c.Plaintext); err != nil {
					t.Fatal(err)
				}
				open("credential "+c.ID, c.Stored, ShapeJSONObject, want.Bytes())
			}
			for i, v := range f.Values {
				open(fmt.Sprint(v.Place, i), v.Stored, shapeOf(t, v.Shape), []byte(v.Plaintext))
			}
			for _, row := range f.DeploymentKeys {
				if row.Value != row.Plain && row.Type != "data_encryption" {
					open("deployment_key "+row.Type, row.Value, ShapeText, []byte(row.Plain))
				}
			}
		})
	}
	for _, f := range []Format{CBC, GCM, Prefixed} {
		if formats[f] == 0 {
			t.Errorf("no fixture value has format %s", f)
		}
	}
}

// Every n8n >= 2.18 stores the secrets that it derived at its first start.
func TestFixturesDerived(t *testing.T) {
	seen := 0
	for name, f := range readFixtures(t) {
		k := mustKey(t, f.EncryptionKey)
		derived := map[string]string{
			"instance.id":         k.InstanceID(),
			"signing.jwt":         k.SigningJWT(),
			"signing.hmac":        k.SigningHMAC(),
			"signing.binary_data": k.SigningBinaryData(),
		}
		for _, row := range f.DeploymentKeys {
			if want, ok := derived[row.Type]; ok {
				seen++
				if row.Plain != want {
					t.Errorf("%s: %s differs from what n8n stored", name, row.Type)
				}
			}
		}
	}
	if seen < 4*7 {
		t.Fatalf("compared %d derived secrets, want at least 28", seen)
	}
}

// wrongKeys is the number of keys that the tests below try on each format.
const wrongKeys = 10_000

func sampleValues(t testing.TB) map[Format]string {
	t.Helper()
	samples := map[Format]string{}
	f := readFixtures(t)["2.41.1-sqlite-keyrotation.json"]
	for _, c := range f.Credentials {
		samples[Detect(c.Stored)] = c.Stored
	}
	for _, row := range f.DeploymentKeys {
		if Detect(row.Value) == GCM {
			samples[GCM] = row.Value
		}
	}
	if len(samples) != 3 {
		t.Fatalf("found %d formats in the fixture, want 3", len(samples))
	}
	return samples
}

func wrongKey(t testing.TB, i int) (Keys, InstanceKey) {
	t.Helper()
	k := mustKey(t, fmt.Sprintf("wrong-key-%d", i))
	d, err := ParseDataKey("id", k.WrapKey())
	if err != nil {
		t.Fatal(err)
	}
	return Keys{Instance: k, Data: func(id string) (DataKey, bool) { d.ID = id; return d, true }}, k
}

func TestWrongKeysOpenNothing(t *testing.T) {
	for format, stored := range sampleValues(t) {
		t.Run(format.String(), func(t *testing.T) {
			t.Parallel()
			shape := ShapeJSONObject
			if format == GCM {
				shape = ShapeText
			}
			for i := range wrongKeys {
				keys, _ := wrongKey(t, i)
				if _, _, err := Decrypt(keys, stored, shape); !errors.Is(err, ErrWrongKey) {
					t.Fatalf("wrong key %d: %v", i, err)
				}
			}
		})
	}
	// The hardest case: n8n's shortest secrets, under the weakest shape.
	t.Run("cbc one block of text", func(t *testing.T) {
		t.Parallel()
		v := mustKey(t, "right").encryptCBC([]byte("s3cret"), [cbcSalt]byte{}, Latin1) // a fixed salt: no flakes
		for i := range wrongKeys {
			_, k := wrongKey(t, i)
			if _, err := k.DecryptCBC(v, ShapeText); !errors.Is(err, ErrWrongKey) {
				t.Fatalf("wrong key %d: %v", i, err)
			}
		}
	})
}

// Without a shape CBC cannot tell: of wrong keys 1/256 + 1/256² + ... leave a
// valid padding, 39 in 10,000. The bounds are five standard deviations away.
func TestWrongKeysPassPadding(t *testing.T) {
	opened := 0
	stored := sampleValues(t)[CBC]
	for i := range wrongKeys {
		keys, _ := wrongKey(t, i)
		if _, _, err := Decrypt(keys, stored, ShapeAny); err == nil {
			opened++
		}
	}
	if opened < 10 || opened > 75 {
		t.Errorf("%d of %d wrong keys passed the padding, want about 39", opened, wrongKeys)
	}
}
