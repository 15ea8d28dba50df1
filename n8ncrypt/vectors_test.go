package n8ncrypt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// vector is one file of testdata/vectors: "name: value" lines, an empty line,
// and the stored value on one line. Key, plaintext and stored value are JSON
// strings when they begin with a quote. Headers:
//
//	expect     ok, or the sentinels that the error satisfies
//	op         decrypt (default), parse-cbc, data-key, legacy-key, derive
//	format     of the parsed value
//	key        instance key; legacy (repeatable) further ones
//	data-key   "ID HEX" (repeatable)
//	shape      expected shape; plaintext, and repeat times
//	opened     KeyRef.String; encoding: KeyRef.Encoding
//	canonical  what Value.String gives, when not the stored value
//	salt, sha256  with repeat: the value is made with salt and compared by hash
//	wrap       WrapKind of data-key and legacy-key
type vector struct {
	headers map[string][]string
	stored  string
}

var expectations = map[string]error{
	"not-ciphertext":      ErrNotCiphertext,
	"malformed":           ErrMalformed,
	"unsupported-version": ErrUnsupportedVersion,
	"wrong-key":           ErrWrongKey,
	"unknown-key-id":      ErrUnknownKeyID,
	"wrong-shape":         ErrWrongShape,
	"no-key":              ErrNoKey,
	"invalid-key":         ErrInvalidKey,
}

func (v vector) get(name string) string {
	if values := v.headers[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func unquote(t testing.TB, s string) string {
	t.Helper()
	if !strings.HasPrefix(s, `"`) {
		return s
	}
	var out string
	if err := json.Unmarshal([]byte(s), &out); err != nil {
		t.Fatalf("unquoting %s: %v", s, err)
	}
	return out
}

func readVector(t testing.TB, path string) vector {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	known := []string{"expect", "op", "format", "key", "legacy", "data-key", "shape", "plaintext", "repeat", "opened", "encoding",
		"canonical", "salt", "sha256", "wrap", "note", "instance-id", "signing-jwt", "signing-hmac", "signing-binary-data",
		"telegram", "wrap-key", "fingerprint"}
	v := vector{headers: map[string][]string{}}
	head, body, _ := strings.Cut(string(b), "\n\n")
	for line := range strings.Lines(head) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if !ok || !slices.Contains(known, name) {
			t.Fatalf("unknown header line %q", line)
		}
		v.headers[name] = append(v.headers[name], value)
	}
	if v.get("expect") == "" {
		t.Fatal("no expect header")
	}
	v.stored = unquote(t, strings.TrimSuffix(body, "\n"))
	return v
}

func (v vector) keys(t testing.TB) Keys {
	t.Helper()
	var k Keys
	if s := v.get("key"); s != "" {
		k.Instance = mustKey(t, unquote(t, s))
	}
	for _, s := range v.headers["legacy"] {
		k.Legacy = append(k.Legacy, mustKey(t, unquote(t, s)))
	}
	data := map[string]DataKey{}
	for _, s := range v.headers["data-key"] {
		id, digits, _ := strings.Cut(s, " ")
		key, err := ParseDataKey(id, digits)
		if err != nil {
			t.Fatal(err)
		}
		data[id] = key
	}
	if len(data) > 0 {
		k.Data = func(id string) (DataKey, bool) { key, ok := data[id]; return key, ok }
	}
	return k
}

func (v vector) plaintext(t testing.TB) []byte {
	t.Helper()
	p := []byte(unquote(t, v.get("plaintext")))
	if s := v.get("repeat"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		p = bytes.Repeat(p, n)
	}
	return p
}

func (v vector) shape(t testing.TB) Shape {
	t.Helper()
	for s := ShapeAny; s <= ShapeHexKey; s++ {
		if s.String() == v.get("shape") {
			return s
		}
	}
	t.Fatalf("unknown shape %q", v.get("shape"))
	return 0
}

func mustKey(t testing.TB, s string) InstanceKey {
	t.Helper()
	k, err := NewInstanceKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// checkError compares the set of sentinels that err satisfies with expect.
func checkError(t *testing.T, expect string, err error) (ok bool) {
	t.Helper()
	var got []string
	for name, sentinel := range expectations {
		if errors.Is(err, sentinel) {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if err == nil {
		got = []string{"ok"}
	}
	want := strings.Split(expect, ", ")
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	return err == nil
}

func TestVectors(t *testing.T) {
	paths, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) < 60 {
		t.Fatalf("found %d vectors, want at least 60", len(paths))
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			v := readVector(t, path)
			switch op := v.get("op"); op {
			case "":
				if v.get("repeat") != "" {
					v.stored = v.build(t)
				}
				v.testDecrypt(t)
			case "parse-cbc":
				v.testParseCBC(t)
			case "data-key", "legacy-key":
				v.testUnwrap(t, op)
			case "derive":
				v.testDerive(t)
			default:
				t.Fatalf("unknown op %q", op)
			}
		})
	}
}

// build makes the stored value of a vector that is too large for a file.
func (v vector) build(t *testing.T) string {
	t.Helper()
	salt, err := hex.DecodeString(v.get("salt"))
	if err != nil {
		t.Fatal(err)
	}
	k := v.keys(t).Instance
	var value Value
	switch v.get("format") {
	case "cbc":
		value = k.encryptCBC(v.plaintext(t), [cbcSalt]byte(salt), Latin1)
	case "gcm":
		value = Value{format: GCM, raw: sealGCMWith(k.wrapKey(), [gcmSalt]byte(salt), v.plaintext(t))}
	default:
		t.Fatalf("repeat with format %q", v.get("format"))
	}
	if sum := sha256.Sum256([]byte(value.String())); hex.EncodeToString(sum[:]) != v.get("sha256") {
		t.Fatalf("built value has SHA-256 %x, want %s", sum, v.get("sha256"))
	}
	return value.String()
}

func (v vector) testDecrypt(t *testing.T) {
	plaintext, ref, err := Decrypt(v.keys(t), v.stored, v.shape(t))
	if err == nil && ref.Format.String() != v.get("format") {
		t.Errorf("format %s, want %s", ref.Format, v.get("format"))
	}
	if !checkError(t, v.get("expect"), err) {
		if plaintext != nil {
			t.Errorf("plaintext returned beside an error")
		}
		return
	}
	if !bytes.Equal(plaintext, v.plaintext(t)) {
		t.Errorf("plaintext %.80q, want %.80q", plaintext, v.plaintext(t))
	}
	if want := v.get("opened"); want != "" && ref.String() != want {
		t.Errorf("opened with %s, want %s", ref, want)
	}
	if want := v.get("encoding"); want != "" && ref.Encoding.String() != want {
		t.Errorf("encoding %s, want %s", ref.Encoding, want)
	}
	v.testText(t)
	v.testReencrypt(t, plaintext, ref)
}

func (v vector) testText(t *testing.T) {
	t.Helper()
	value, err := Parse(v.stored)
	if err != nil {
		t.Fatal(err)
	}
	want := v.stored
	if s := v.get("canonical"); s != "" {
		want = s
	}
	if value.String() != want {
		t.Errorf("String is %.200q, want %.200q", value, want)
	}
	if value.Canonical() != (want == v.stored) {
		t.Errorf("Canonical is %v", value.Canonical())
	}
	if got := Detect(want); got != value.Format() {
		t.Errorf("Detect is %s, want %s", got, value.Format())
	}
}

// testReencrypt encrypts with the value's own salt: the format is fixed then.
func (v vector) testReencrypt(t *testing.T, plaintext []byte, ref KeyRef) {
	t.Helper()
	value, _ := Parse(v.stored)
	keys := v.keys(t)
	var again Value
	switch value.Format() {
	case CBC:
		k := keys.Instance
		if ref.Kind == KeyLegacy {
			k = keys.Legacy[ref.Index]
		}
		again = k.encryptCBC(plaintext, [cbcSalt]byte(value.raw[8:]), ref.Encoding)
	case GCM:
		again = Value{format: GCM, raw: sealGCMWith(keys.Instance.wrapKey(), [gcmSalt]byte(value.raw[1:]), plaintext)}
	case Prefixed:
		key, _ := keys.Data(value.KeyID())
		again = Value{format: Prefixed, keyID: key.ID, raw: sealGCMWith(key.secret(), [gcmSalt]byte(value.raw[1:]), plaintext)}
	}
	if again.String() != value.String() {
		t.Errorf("encrypted again: %.200s, want %.200s", again, value)
	}
}

func (v vector) testParseCBC(t *testing.T) {
	value, err := ParseCBC(v.stored)
	if !checkError(t, v.get("expect"), err) {
		return
	}
	plaintext, err := v.keys(t).Instance.DecryptCBC(value, v.shape(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plaintext, v.plaintext(t)) {
		t.Errorf("plaintext %q, want %q", plaintext, v.plaintext(t))
	}
	if value.String() != v.stored {
		t.Errorf("String is %q, want %q", value, v.stored)
	}
}

func (v vector) testUnwrap(t *testing.T, op string) {
	k := v.keys(t).Instance
	var got string
	var kind WrapKind
	var err error
	if op == "data-key" {
		var key DataKey
		key, kind, err = UnwrapDataKey(k, "some-id", v.stored)
		got = key.Reveal()
	} else {
		var key InstanceKey
		key, kind, err = UnwrapLegacyKey(k, v.stored)
		got = key.Reveal()
	}
	if !checkError(t, v.get("expect"), err) {
		if got != "" {
			t.Error("key returned beside an error")
		}
		return
	}
	if got != string(v.plaintext(t)) || kind.String() != v.get("wrap") {
		t.Errorf("got %q wrapped as %s, want %q as %s", got, kind, v.plaintext(t), v.get("wrap"))
	}
}

func (v vector) testDerive(t *testing.T) {
	k := v.keys(t).Instance
	for name, got := range map[string]string{
		"instance-id":         k.InstanceID(),
		"signing-jwt":         k.SigningJWT(),
		"signing-hmac":        k.SigningHMAC(),
		"signing-binary-data": k.SigningBinaryData(),
		"telegram":            k.TelegramWebhookSecret("agent-1", "cred-2"),
		"wrap-key":            k.WrapKey(),
		"fingerprint":         fmt.Sprint(k.Fingerprint()),
	} {
		if want := v.get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestNodeBase64(t *testing.T) {
	b, err := os.ReadFile("testdata/node-base64.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range bytes.Lines(b) {
		var pair [2]string
		if err := json.Unmarshal(line, &pair); err != nil {
			t.Fatal(err)
		}
		n++
		if raw, _ := decodeBase64(pair[0]); hex.EncodeToString(raw) != pair[1] {
			t.Errorf("decoding %q gives %x, Node gives %s", pair[0], raw, pair[1])
		}
	}
	if n < 500 {
		t.Fatalf("found %d pairs, want at least 500", n)
	}
}
