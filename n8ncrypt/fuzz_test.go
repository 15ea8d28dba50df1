package n8ncrypt

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
)

// addVectors seeds a fuzz target with every committed vector.
func addVectors(f *testing.F, add func(stored, key string)) {
	f.Helper()
	paths, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	n := 0
	for _, path := range paths {
		v := readVector(f, path)
		if v.get("repeat") == "" && v.get("op") != "derive" {
			add(v.stored, unquote(f, v.get("key")))
			n++
		}
	}
	if n < 60 {
		f.Fatalf("found %d seeds, want at least 60", n)
	}
}

// parseErrors are the only ones that parsing may give, one at a time.
func checkParseError(t *testing.T, err error) {
	t.Helper()
	n := 0
	for _, sentinel := range []error{ErrNotCiphertext, ErrMalformed, ErrUnsupportedVersion} {
		if errors.Is(err, sentinel) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("error %v matches %d sentinels, want 1", err, n)
	}
}

func FuzzParse(f *testing.F) {
	addVectors(f, func(stored, _ string) { f.Add(stored) })
	f.Fuzz(func(t *testing.T, s string) {
		v, err := Parse(s)
		if err != nil {
			checkParseError(t, err)
			if v.Format() != None || v.String() != "" {
				t.Error("value returned beside an error")
			}
			return
		}
		text := v.String()
		if v.Canonical() != (text == s) {
			t.Errorf("Canonical is %v for %q, String is %q", v.Canonical(), s, text)
		}
		if Detect(text) != v.Format() {
			t.Errorf("canonical text %q is detected as %s, want %s", text, Detect(text), v.Format())
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("parsing the canonical text %q: %v", text, err)
		}
		if !again.Canonical() || again.String() != text || again.Format() != v.Format() || again.KeyID() != v.KeyID() || !bytes.Equal(again.raw, v.raw) {
			t.Errorf("%q parses to another value than %q", text, s)
		}
	})
}

func FuzzDecrypt(f *testing.F) {
	addVectors(f, func(stored, key string) { f.Add(stored, key, uint8(ShapeAny)) })
	f.Fuzz(func(t *testing.T, stored, key string, shape uint8) {
		var keys Keys
		if k, err := NewInstanceKey(key); err == nil {
			keys.Instance = k
			keys.Legacy = []InstanceKey{k, {}}
			d, err := ParseDataKey("id", k.WrapKey())
			if err != nil {
				t.Fatal(err)
			}
			keys.Data = func(id string) (DataKey, bool) { d.ID = id; return d, true }
		}
		before := string([]byte(stored))
		plaintext, ref, err := Decrypt(keys, stored, Shape(shape))
		if stored != before {
			t.Fatal("the stored string was changed")
		}
		if err != nil {
			if plaintext != nil {
				t.Error("plaintext returned beside an error")
			}
			return
		}
		if !Shape(shape).Check(plaintext) {
			t.Errorf("plaintext of another shape returned")
		}
		// What opened opens again after it was encrypted again.
		var again string
		switch ref.Format {
		case CBC:
			v, err := keys.Instance.EncryptCBC(plaintext)
			if err != nil {
				t.Fatal(err)
			}
			again = v.String()
		case GCM:
			if again, err = keys.Instance.Wrap(plaintext); err != nil {
				t.Fatal(err)
			}
		case Prefixed:
			d, _ := keys.Data(ref.ID)
			v, err := d.Encrypt(plaintext)
			if err != nil {
				t.Fatal(err)
			}
			again = v.String()
		}
		got, _, err := Decrypt(keys, again, Shape(shape))
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("encrypted again as %s: %v", ref.Format, err)
		}
	})
}

func FuzzUnwrap(f *testing.F) {
	addVectors(f, func(stored, key string) { f.Add(stored, key) })
	f.Fuzz(func(t *testing.T, stored, key string) {
		k, _ := NewInstanceKey(key)
		if d, kind, err := UnwrapDataKey(k, "id", stored); err == nil {
			if d.IsZero() || len(d.Reveal()) != 64 || kind.String() == "" {
				t.Error("no key without an error")
			}
		} else if !d.IsZero() {
			t.Error("key returned beside an error")
		}
		if legacy, kind, err := UnwrapLegacyKey(k, stored); err == nil {
			if legacy.IsZero() || kind.String() == "" {
				t.Error("no key without an error")
			}
		} else if !legacy.IsZero() {
			t.Error("key returned beside an error")
		}
		if k.IsZero() {
			return
		}
		if plaintext, err := k.Unwrap(stored); err != nil && plaintext != nil {
			t.Error("plaintext returned beside an error")
		}
		wrapped, err := k.Wrap([]byte(stored))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Unwrap(wrapped); err != nil || string(got) != stored {
			t.Errorf("wrap and unwrap: %v", err)
		}
	})
}
