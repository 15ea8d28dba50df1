package n8ncrypt

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	k := mustKey(t, "clé-🔐-日本語")
	d, err := NewDataKey(NewKeyID())
	if err != nil {
		t.Fatal(err)
	}
	keys := Keys{Instance: k, Data: func(id string) (DataKey, bool) { return d, id == d.ID }}
	for _, n := range []int{0, 1, 15, 16, 17, 255, 4096} {
		plaintext := []byte(strings.Repeat("x", n))
		cbc, err := k.EncryptCBC(plaintext)
		if err != nil {
			t.Fatal(err)
		}
		prefixed, err := d.Encrypt(plaintext)
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := k.Wrap(plaintext)
		if err != nil {
			t.Fatal(err)
		}
		for _, stored := range []string{cbc.String(), prefixed.String(), wrapped} {
			got, ref, err := Decrypt(keys, stored, ShapeAny)
			if err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes as %s: %v", n, ref.Format, err)
			}
			if Detect(stored) != ref.Format {
				t.Errorf("%d bytes as %s: detected as %s", n, ref.Format, Detect(stored))
			}
		}
		// A Value may be opened any number of times.
		for range 2 {
			fromCBC, err := k.DecryptCBC(cbc, ShapeAny)
			if err != nil || !bytes.Equal(fromCBC, plaintext) {
				t.Errorf("cbc, %d bytes: %v", n, err)
			}
			fromPrefixed, err := d.Decrypt(prefixed, ShapeAny)
			if err != nil || !bytes.Equal(fromPrefixed, plaintext) {
				t.Errorf("prefixed, %d bytes: %v", n, err)
			}
			fromWrap, err := k.Unwrap(wrapped)
			if err != nil || !bytes.Equal(fromWrap, plaintext) {
				t.Errorf("wrap, %d bytes: %v", n, err)
			}
		}
	}
}

func TestSaltsAreRandom(t *testing.T) {
	k := mustKey(t, "k")
	d, err := NewDataKey("d")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 100 {
		cbc, _ := k.EncryptCBC(nil)
		prefixed, _ := d.Encrypt(nil)
		wrapped, _ := k.Wrap(nil)
		for _, s := range []string{cbc.String()[:21], prefixed.String()[:44], wrapped[:42]} {
			if seen[s] {
				t.Fatalf("salt repeated in %q", s)
			}
			seen[s] = true
		}
	}
}

// After a rotation that stopped half way, wrapped rows are under either key.
func TestDecryptTriesLegacyKeys(t *testing.T) {
	now, old, older := mustKey(t, "now"), mustKey(t, "old"), mustKey(t, "older")
	keys := Keys{Instance: now, Legacy: []InstanceKey{now, {}, old, older, now}}
	for _, test := range []struct {
		key  InstanceKey
		want string
	}{{now, "instance key"}, {old, "legacy key 2"}, {older, "legacy key 3"}} {
		wrapped, err := test.key.Wrap([]byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		cbc, err := test.key.EncryptCBC([]byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		for _, stored := range []string{wrapped, cbc.String()} {
			_, ref, err := Decrypt(keys, stored, ShapeJSONObject)
			if err != nil || ref.String() != test.want {
				t.Errorf("opened with %s (%v), want %s", ref, err, test.want)
			}
		}
		// The tag proves the key although the shape is wrong.
		_, ref, err := Decrypt(keys, wrapped, ShapeUUID)
		if !errors.Is(err, ErrWrongShape) || errors.Is(err, ErrWrongKey) || ref.String() != test.want {
			t.Errorf("wrong shape: %s, %v", ref, err)
		}
	}
	stored, _ := mustKey(t, "unknown").Wrap([]byte("{}"))
	if _, ref, err := Decrypt(keys, stored, ShapeJSONObject); !errors.Is(err, ErrWrongKey) || ref.String() != "no key" || ref.Format != GCM {
		t.Errorf("unknown key: %s, %v", ref, err)
	}
}

// A failed Prefixed value still says which key it wants.
func TestKeyRefOnFailure(t *testing.T) {
	d, err := NewDataKey("wanted")
	if err != nil {
		t.Fatal(err)
	}
	v, err := d.Encrypt([]byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := NewDataKey("wanted")
	if err != nil {
		t.Fatal(err)
	}
	misnamed, err := NewDataKey("misnamed")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		keys Keys
		want error
	}{
		{Keys{}, ErrUnknownKeyID},
		{Keys{Data: func(string) (DataKey, bool) { return DataKey{}, false }}, ErrUnknownKeyID},
		{Keys{Data: func(string) (DataKey, bool) { return misnamed, true }}, ErrUnknownKeyID},
		{Keys{Data: func(string) (DataKey, bool) { return wrong, true }}, ErrWrongKey},
	} {
		_, ref, err := Decrypt(test.keys, v.String(), ShapeJSONObject)
		if !errors.Is(err, test.want) || ref.Kind != KeyData || ref.ID != "wanted" || ref.Format != Prefixed {
			t.Errorf("got %+v, %v; want %v", ref, err, test.want)
		}
	}
}

func TestShapeZeroAcceptsNothing(t *testing.T) {
	for _, s := range []string{"", "x", "{}", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"} {
		if Shape(0).Check([]byte(s)) || Shape(200).Check([]byte(s)) {
			t.Errorf("an unset shape accepted %q", s)
		}
	}
}

func TestDetect(t *testing.T) {
	gcm := "AQ" + strings.Repeat("A", 64)
	for s, want := range map[string]Format{
		"":                           None,
		"U2FsdGVkX1":                 None,
		"U2FsdGVkX18":                None,
		"U2FsdGVkX18A":               CBC,
		"U2FsdGVkX17A":               None,
		"U2FsdGVkX18A====":           None,
		"U2FsdGVkX18A B":             None,
		"U2FsdGVkX18A-":              None,
		"xU2FsdGVkX18A":              None,
		gcm:                          GCM,
		gcm + "==":                   GCM,
		gcm[:65]:                     None,
		"AP" + gcm[2:]:               None,
		"Ag" + gcm[2:]:               None,
		"Af" + gcm[2:]:               GCM,
		gcm + "_":                    None,
		"id:" + gcm:                  Prefixed,
		"id:" + gcm[:65]:             None,
		":" + gcm:                    None,
		"i d:" + gcm:                 None,
		"id:id:" + gcm:               None,
		"id:U2FsdGVkX18A":            None,
		strings.Repeat("0", 64):      RawHex,
		strings.Repeat("aF", 32):     RawHex,
		strings.Repeat("0", 63):      None,
		strings.Repeat("g", 64):      None,
		"https://example.com/" + gcm: None,

		strings.Repeat("i", 36) + ":" + gcm: Prefixed,
		strings.Repeat("i", 37) + ":" + gcm: None,
	} {
		if got := Detect(s); got != want {
			t.Errorf("Detect(%q) is %s, want %s", s, got, want)
		}
		if n := testing.AllocsPerRun(10, func() { Detect(s) }); n != 0 {
			t.Errorf("Detect(%q) allocates %v times", s, n)
		}
	}
}
