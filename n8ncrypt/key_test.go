package n8ncrypt

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const planted = "planted-secret-0123456789"

// nested holds keys where only reflection reaches them.
type nested struct {
	Instance   InstanceKey
	Data       DataKey
	unexported InstanceKey
	data       DataKey
	pointer    *InstanceKey
	slice      []InstanceKey
}

func TestKeysRedactThemselves(t *testing.T) {
	k := mustKey(t, planted)
	d, err := ParseDataKey("id", strings.Repeat("5e", 32))
	if err != nil {
		t.Fatal(err)
	}
	leaks := []string{planted, fmt.Sprintf("%x", planted), fmt.Sprintf("%X", planted), strings.Repeat("5e", 8), strings.Repeat("94 ", 8), strings.Repeat("94, ", 8), "112 108 97"}
	check := func(what, out string) {
		t.Helper()
		for _, leak := range leaks {
			if strings.Contains(strings.ToLower(out), strings.ToLower(leak)) {
				t.Errorf("%s leaks: %s", what, out)
			}
		}
	}
	n := nested{k, d, k, d, &k, []InstanceKey{k}}
	for _, value := range []any{k, &k, d, &d, n, &n, []any{k, d}, map[string]InstanceKey{"k": k}, Keys{Instance: k, Legacy: []InstanceKey{k}}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%p", "%b", "%o", "%U", "%c", "%e", "%g", "%T", "%!", "%10.3v"} {
			check(verb, fmt.Sprintf(verb, value))
		}
		check("Sprint", fmt.Sprint(value))

		var text, jsonLog bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("m", "value", value)
		slog.New(slog.NewJSONHandler(&jsonLog, nil)).Info("m", "value", value, slog.Group("g", "value", value))
		check("slog text", text.String())
		check("slog json", jsonLog.String())

		out, err := json.Marshal(value)
		check("json", string(out))
		if err != nil {
			check("json error", err.Error())
		}
		out, _ = xml.Marshal(value)
		check("xml", string(out))
		var g bytes.Buffer
		_ = gob.NewEncoder(&g).Encode(value)
		check("gob", g.String())
	}
	for _, value := range []any{k, d} {
		if _, err := json.Marshal(value); err == nil || !strings.Contains(err.Error(), "keys are not marshalled") {
			t.Errorf("marshalling %T: %v", value, err)
		}
	}
	if got, want := fmt.Sprint(k, " ", d), "n8ncrypt.InstanceKey(redacted) n8ncrypt.DataKey(id, redacted)"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

// Whatever fails, neither key nor plaintext may be in the text.
func TestErrorsHoldNoSecrets(t *testing.T) {
	k := mustKey(t, planted)
	const secret = "plaintext-of-the-credential"
	cbc, err := k.EncryptCBC([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := k.Wrap([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDataKey("id")
	if err != nil {
		t.Fatal(err)
	}
	prefixed, err := d.Encrypt([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	keys := Keys{Instance: k, Legacy: []InstanceKey{mustKey(t, "other")}, Data: func(string) (DataKey, bool) { return d, true }}
	var errs []error
	add := func(err error) {
		t.Helper()
		if err == nil {
			t.Error("no error")
			return
		}
		errs = append(errs, err)
	}
	for _, stored := range []string{cbc.String(), wrapped, prefixed.String()} {
		_, _, err := Decrypt(keys, stored, ShapeJSONObject)
		add(err)
		_, _, err = UnwrapDataKey(k, "id", stored)
		add(err)
		_, _, err = UnwrapDataKey(k, d.Reveal(), stored)
		add(err)
		_, _, err = Decrypt(keys, stored[:len(stored)-9], ShapeAny)
		add(err)
	}
	_, _, err = Decrypt(keys, planted, ShapeAny)
	add(err)
	_, _, err = Decrypt(keys, "hunter2: AWS "+strings.Repeat(secret+" ", 9), ShapeAny)
	add(err)
	_, err = ParseDataKey(d.Reveal(), "id")
	add(err)
	_, err = ParseDataKey("id", planted)
	add(err)
	_, err = ParseFingerprint(planted)
	add(err)
	_, err = NewInstanceKey(planted + "\xff")
	add(err)
	for _, err := range errs {
		for _, leak := range []string{planted, secret, d.Reveal(), "hunter2"} {
			if strings.Contains(err.Error(), leak) {
				t.Errorf("error leaks: %v", err)
			}
		}
	}
}

func TestErrorTexts(t *testing.T) {
	k := mustKey(t, planted)
	d, err := NewDataKey("p6gKogeT0bxvBwZ8")
	if err != nil {
		t.Fatal(err)
	}
	cbc, _ := k.EncryptCBC([]byte("[1]"))
	prefixed, _ := d.Encrypt([]byte("[1]"))
	wrapped, _ := k.Wrap([]byte("[1]"))
	only := func(_ any, err error) error { return err }
	decrypt := func(keys Keys, stored string) error { _, _, err := Decrypt(keys, stored, ShapeJSONObject); return err }
	unwrap := func(stored string) error { _, _, err := UnwrapDataKey(k, "id", stored); return err }
	for _, test := range []struct {
		want string
		err  error
	}{
		{"not n8n ciphertext", decrypt(Keys{}, "hello")},
		{"no key given", decrypt(Keys{}, cbc.String())},
		{"no key given", decrypt(Keys{}, wrapped)},
		{"malformed n8n ciphertext: cbc data has 16 bytes, at least 32 are needed", decrypt(Keys{}, "U2FsdGVkX18BAgMEBQYHCA==")},
		{"malformed n8n ciphertext: cbc data has 33 bytes, not a multiple of 16", decrypt(Keys{}, "U2FsdGVkX18BAgMEBQYHCAAAAAAAAAAAAAAAAAAAAAAA")},
		{"malformed n8n ciphertext: gcm data has 6 bytes, at least 49 are needed", decrypt(Keys{}, "id:AQAAAAAA")},
		{"malformed n8n ciphertext: a key stored under another data key", unwrap(prefixed.String())},
		{"unsupported ciphertext version: 2", decrypt(Keys{}, "id:Ag"+strings.Repeat("A", 70))},
		{"wrong key or damaged value", decrypt(Keys{Instance: mustKey(t, "other")}, wrapped)},
		{"wrong key or damaged value: plaintext has an unexpected shape (json-object)", decrypt(Keys{Instance: k}, cbc.String())},
		{"plaintext has an unexpected shape (json-object)", decrypt(Keys{Instance: k}, wrapped)},
		{"plaintext has an unexpected shape (hex-key)", unwrap(wrapped)},
		{`unknown data key id "p6gKogeT0bxvBwZ8"`, decrypt(Keys{Instance: k}, prefixed.String())},
		{"not n8n ciphertext: prefixed value where cbc is wanted", only(k.DecryptCBC(prefixed, ShapeAny))},
		{"not n8n ciphertext: cbc value where prefixed is wanted", only(d.Decrypt(cbc, ShapeAny))},
		{"not n8n ciphertext: cbc value where an instance-key wrap is wanted", only(k.Unwrap(cbc.String()))},
		{"not n8n ciphertext", only(k.Unwrap("hello"))},
		{"unsupported ciphertext version: 2", only(k.Unwrap("Ag" + strings.Repeat("A", 70)))},
		{"invalid key: the instance key is empty", only(NewInstanceKey(""))},
		{"invalid key: the instance key is not valid UTF-8", only(NewInstanceKey("\xff"))},
		{"invalid key: the instance key holds a NUL byte, which ends a variable in /proc/PID/environ and is no part of the key", only(NewInstanceKey("key\x00"))},
		{`invalid key: data key "id" is not 64 hexadecimal digits`, only(ParseDataKey("id", "00"))},
		{"invalid key: key id of 0 bytes is not 1 to 36 of A-Z a-z 0-9 _ -", only(ParseDataKey("", strings.Repeat("0", 64)))},
		{"invalid key: key id of 3 bytes is not 1 to 36 of A-Z a-z 0-9 _ -", only(NewDataKey("a:b"))},
		{"not an instance key fingerprint: want n8k1- and 16 characters of a-z 2-7", only(ParseFingerprint("n8k1-x"))},
	} {
		if test.err == nil || test.err.Error() != test.want {
			t.Errorf("got %q, want %q", fmt.Sprint(test.err), test.want)
		}
	}
}

func TestZeroKeys(t *testing.T) {
	var k InstanceKey
	var d DataKey
	if !k.IsZero() || !d.IsZero() || k.Reveal() != "" || d.Reveal() != "" {
		t.Error("zero keys are not zero")
	}
	for name, got := range map[string]string{
		"InstanceID": k.InstanceID(), "SigningJWT": k.SigningJWT(), "SigningHMAC": k.SigningHMAC(), "WrapKey": k.WrapKey(),
		"SigningBinaryData": k.SigningBinaryData(), "TelegramWebhookSecret": k.TelegramWebhookSecret("a", "b"), "Fingerprint": string(k.Fingerprint()),
	} {
		if got != "" {
			t.Errorf("%s of the zero key is %q", name, got)
		}
	}
	_, encryptErr := k.EncryptCBC(nil)
	_, decryptErr := k.DecryptCBC(Value{}, ShapeAny)
	_, wrapErr := k.Wrap(nil)
	_, unwrapErr := k.Unwrap("")
	_, sealErr := d.Encrypt(nil)
	_, openErr := d.Decrypt(Value{}, ShapeAny)
	_, wrapDataErr := WrapDataKey(mustKey(t, "k"), d)
	for i, err := range []error{encryptErr, decryptErr, wrapErr, unwrapErr, sealErr, openErr, wrapDataErr} {
		if !errors.Is(err, ErrNoKey) {
			t.Errorf("call %d with a zero key: %v", i, err)
		}
	}
	if _, _, err := Decrypt(Keys{Data: func(string) (DataKey, bool) { return DataKey{}, true }}, "id:AQ"+strings.Repeat("A", 66), ShapeAny); !errors.Is(err, ErrNoKey) {
		t.Errorf("lookup of a zero data key: %v", err)
	}
}

func TestEqual(t *testing.T) {
	a, b := mustKey(t, "a"), mustKey(t, "b")
	if !a.Equal(mustKey(t, "a")) || a.Equal(b) || a.Equal(InstanceKey{}) || !(InstanceKey{}).Equal(InstanceKey{}) {
		t.Error("InstanceKey.Equal is wrong")
	}
	c, err := NewDataKey("c")
	if err != nil {
		t.Fatal(err)
	}
	same, err := ParseDataKey("c", c.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	renamed, err := ParseDataKey("d", c.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewDataKey("c")
	if err != nil {
		t.Fatal(err)
	}
	if !c.Equal(same) || c.Equal(renamed) || c.Equal(other) || c.Equal(DataKey{ID: "c"}) || !(DataKey{}).Equal(DataKey{}) {
		t.Error("DataKey.Equal is wrong")
	}
}

func TestNewKeyID(t *testing.T) {
	seen := map[string]bool{}
	letters := map[rune]bool{}
	for range 1000 {
		id := NewKeyID()
		for _, r := range id {
			letters[r] = true
		}
		if len(id) != 16 || !ValidKeyID(id) || strings.ContainsAny(id, "-_") || seen[id] {
			t.Fatalf("bad or repeated id %q", id)
		}
		seen[id] = true
	}
	if len(letters) != 62 {
		t.Errorf("%d letters and digits seen, want 62", len(letters))
	}
}

func TestParseFingerprint(t *testing.T) {
	f, err := ParseFingerprint("N8K1-GMYLPMO2KAODJ5FN")
	if err != nil || f != "n8k1-gmylpmo2kaodj5fn" {
		t.Errorf("got %q, %v", f, err)
	}
	for _, bad := range []string{"", "gmylpmo2kaodj5fn", "n8k1-gmylpmo2kaodj5f", "n8k1-gmylpmo2kaodj5fn2", "n8k1-gmylpmo2kaodj5f1", "n8k1-gmylpmo2 aodj5fn"} {
		if f, err := ParseFingerprint(bad); err == nil {
			t.Errorf("%q was accepted as %q", bad, f)
		}
	}
}

// A process that has seen many keys forgets some, and names all of them rightly.
func TestFingerprintsRemembered(t *testing.T) {
	m := &fingerprintMemo{known: map[[32]byte]func() Fingerprint{}}
	for i := range maxRemembered {
		m.known[[32]byte{byte(i), byte(i >> 8)}] = func() Fingerprint { return "wrong" }
	}
	first, second := m.of("one key"), m.of("another key")
	if first != fingerprintOf("one key") || second == first {
		t.Errorf("%s, %s", first, second)
	}
	if m.of("one key") != first || len(m.known) != 2 {
		t.Errorf("%d remembered", len(m.known))
	}
}
