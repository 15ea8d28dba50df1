package archive

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
}

func testSidecar() Sidecar {
	return Sidecar{
		ID: "20260801T020000Z-prod-k3x7qa", Instance: "prod", Created: testTime, State: StateGood, Engine: "sqlite", N8NVersion: "2.41.1",
		LastMigration: "AddThing1700000000000", KeyFingerprint: "n8k1-abcdefghijklmnop", RecipientKind: "x25519", History: "all",
		Size: 1234, PlainSize: 5678, SHA256: strings.Repeat("0a", 32), Entries: 5, Secrets: 3, SecretsOpened: 3, Workflows: 2,
	}
}

func TestSidecarRoundTrip(t *testing.T) {
	s := testSidecar()
	s.Created = testTime.Add(5 * time.Millisecond).In(time.FixedZone("east", 7200))
	b, err := SignSidecar(s, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseSidecar(b)
	if err != nil {
		t.Fatal(err)
	}
	want := testSidecar()
	want.Format = FormatVersion
	if d := cmp.Diff(want, got.Sidecar); d != "" {
		t.Error(d)
	}
	if got.Signer != SignerOf(testKey(1)) {
		t.Errorf("signer %v", got.Signer)
	}
	if !json.Valid(b) || bytes.Count(b, []byte("\n")) != 1 {
		t.Errorf("not one line of JSON: %q", b)
	}
	again, err := SignSidecar(got.Sidecar, testKey(1))
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("signed again: %s, %v", again, err)
	}
}

// A version that is no UTF-8, out of a database, must not make an archive that
// nobody accepts.
func TestSidecarOddStrings(t *testing.T) {
	s := testSidecar()
	s.N8NVersion, s.LastMigration, s.History = "2\xff<&>", "\u2028\x00\"", "\uFFFD"
	b, err := SignSidecar(s, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseSidecar(b)
	if err != nil || got.N8NVersion != "2\uFFFD<&>" || got.LastMigration != s.LastMigration || got.History != s.History {
		t.Errorf("%+v, %v", got, err)
	}
}

// sign signs a value that SignSidecar would not make.
func sign(value string) []byte {
	return assembleSidecar([]byte(value), SignerOf(testKey(1)), ed25519.Sign(testKey(1), sidecarMessage([]byte(value))))
}

func sidecarValue(t testing.TB, b []byte) string {
	t.Helper()
	value, _, err := openSidecar(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(value)
}

func TestForgedSidecars(t *testing.T) {
	good, err := SignSidecar(testSidecar(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	value := sidecarValue(t, good)
	replace := func(old, new string) []byte {
		t.Helper()
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("nothing to replace: %q", old)
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	otherSigner := SignerOf(testKey(2)).String()
	signer := SignerOf(testKey(1)).String()
	swapped := assembleSidecar([]byte(value), SignerOf(testKey(2)), ed25519.Sign(testKey(1), sidecarMessage([]byte(value))))
	noDomain := assembleSidecar([]byte(value), SignerOf(testKey(1)), ed25519.Sign(testKey(1), []byte(value)))
	withSignature := func(sig []byte) []byte { return assembleSidecar([]byte(value), SignerOf(testKey(1)), sig) }
	resigned := func(old, new string) []byte {
		t.Helper()
		if !strings.Contains(value, old) {
			t.Fatalf("nothing to replace: %q", old)
		}
		return sign(strings.Replace(value, old, new, 1))
	}
	const form = "the sidecar is not in the form that n8keep writes"
	const changed = "the sidecar was changed after it was signed"
	const short = "the sidecar is cut short or not signed"
	const noSignature = "the sidecar has no signature in the expected place"
	const noSigner = "the sidecar names no signer in the expected place"
	const canonical = "the sidecar is not canonical JSON"
	const fields = "the sidecar is not JSON of the expected fields"
	for name, tc := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":                 {nil, short},
		"not signed":            {[]byte(`{"sidecar":` + value + `}`), ""},
		"value alone":           {[]byte(value), ""},
		"state changed":         {replace(`"good"`, `"fine"`), changed},
		"size changed":          {replace("1234", "1235"), changed},
		"swapped signer":        {swapped, changed},
		"signer text replaced":  {replace(signer, otherSigner), changed},
		"no domain":             {noDomain, changed},
		"zero signature":        {withSignature(make([]byte, 64)), changed},
		"no newline":            {good[:len(good)-1], noSigner},
		"two newlines":          {append(bytes.Clone(good), '\n'), noSigner},
		"trailing data":         {append(bytes.Clone(good), "{}"...), noSigner},
		"two sidecars":          {append(bytes.Clone(good), good...), changed},
		"leading space":         {append([]byte(" "), good...), form},
		"space in envelope":     {replace(`{"sidecar":`, `{ "sidecar":`), form},
		"envelope key twice":    {replace(`{"sidecar":`, `{"sidecar":{},"sidecar":`), changed},
		"second value":          {replace(`,"signer"`, `,"sidecar":{},"signer"`), changed},
		"envelope order":        {[]byte(`{"signer":"` + signer + `","sidecar":` + value + `,"signature":"` + strings.Repeat("A", 86) + `=="}` + "\n"), ""},
		"loose base64":          {replace(`=="}`, `="}`), noSigner},
		"signature not base64":  {bytes.Replace(good, good[len(good)-20:len(good)-10], []byte("!!!!!!!!!!"), 1), noSignature},
		"too long":              {append(bytes.Clone(good), bytes.Repeat([]byte(" "), MaxSidecar)...), "the sidecar has 66208 bytes, more than 65536"},
		"signed white space":    {resigned(`,"state"`, `, "state"`), canonical},
		"signed key twice":      {resigned(`"state":"good"`, `"state":"degraded","state":"good"`), canonical},
		"signed other case":     {resigned(`"state"`, `"State"`), canonical},
		"signed unknown field":  {resigned(`"state"`, `"more":1,"state"`), canonical},
		"signed missing field":  {resigned(`"unproved":false,`, ``), canonical},
		"signed escape":         {resigned(`"prod"`, `"\u0070rod"`), canonical},
		"signed other zone":     {resigned(`02:00:00Z`, `04:00:00+02:00`), "the time is not in UTC and whole seconds"},
		"signed fraction":       {resigned(`02:00:00Z`, `02:00:00.5Z`), "the time is not in UTC and whole seconds"},
		"signed number as text": {resigned(`"size":1234`, `"size":"1234"`), fields},
		"signed huge number":    {resigned(`"size":1234`, `"size":12340000000000000000000`), fields},
		"signed negative":       {resigned(`"size":1234`, `"size":-1`), "a count is negative"},
		"signed negative plain": {resigned(`"plain_size":5678`, `"plain_size":-1`), "a count is negative"},
		"signed no plain size":  {resigned(`"plain_size":5678,`, ``), canonical},
		"signed null":           {sign("null"), canonical},
		"signed list":           {sign("[]"), "the sidecar is not JSON"},
		"signed nonsense":       {sign("nonsense"), "the sidecar is not JSON"},
		"signed two values":     {sign(value + value), "the sidecar is not JSON"},
		"signed format 0":       {resigned(`"format":1`, `"format":0`), "unknown format 0"},
		"signed state":          {resigned(`"good"`, `"fine"`), `unknown state "fine"`},
		"signed id":             {resigned(`"id":"2026`, `"id":"x026`), ""},
		"signed instance":       {resigned(`"instance":"prod"`, `"instance":"test"`), `the id "20260801T020000Z-prod-k3x7qa" is not of instance "test"`},
		"signed sum":            {resigned(strings.Repeat("0a", 32), strings.Repeat("0A", 32)), "sha256 is not 64 lower hex digits"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSidecar(tc.b)
			if !errors.Is(err, ErrSignature) || got != (SignedSidecar{}) {
				t.Fatalf("accepted, or another error: %v", err)
			}
			if tc.want != "" && err.Error() != "signature missing or forged: "+tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
	for i := range good {
		for _, bit := range []byte{1, 0x20, 0x80} {
			forged := bytes.Clone(good)
			forged[i] ^= bit
			if _, err := ParseSidecar(forged); !errors.Is(err, ErrSignature) {
				t.Errorf("byte %d changed to %q: %v", i, forged[i], err)
			}
		}
		if _, err := ParseSidecar(good[:i]); !errors.Is(err, ErrSignature) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

func TestNewerSidecar(t *testing.T) {
	good, err := SignSidecar(testSidecar(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	value := strings.Replace(sidecarValue(t, good), `"format":1`, `"format":2,"new":[]`, 1)
	_, err = ParseSidecar(sign(value))
	want := "written in a newer format: the sidecar has format 2 and this version knows up to 1; use a newer n8keep"
	if !errors.Is(err, ErrFormat) || errors.Is(err, ErrSignature) || err.Error() != want {
		t.Errorf("got %v", err)
	}
	// An unsigned claim of a newer format is a forgery like any other.
	forged := bytes.Replace(good, []byte(`"format":1`), []byte(`"format":2`), 1)
	if _, err := ParseSidecar(forged); !errors.Is(err, ErrSignature) {
		t.Errorf("unsigned: %v", err)
	}
}

func TestSignSidecarRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Sidecar)
		key    ed25519.PrivateKey
		want   string
	}{
		"no key":   {func(*Sidecar) {}, nil, "signing the sidecar: no signing key"},
		"no id":    {func(s *Sidecar) { s.ID = "" }, testKey(1), `signing the sidecar of "": archive id "": want TIME-INSTANCE-RANDOM as in "20260801T020000Z-prod-k3x7qa"`},
		"no state": {func(s *Sidecar) { s.State = "" }, testKey(1), `signing the sidecar of "20260801T020000Z-prod-k3x7qa": unknown state ""`},
		"too long": {func(s *Sidecar) { s.N8NVersion = strings.Repeat("x", MaxSidecar) }, testKey(1), `signing the sidecar of "20260801T020000Z-prod-k3x7qa": it has 66202 bytes, more than 65536`},
		"no sum":   {func(s *Sidecar) { s.SHA256 = "" }, testKey(1), `signing the sidecar of "20260801T020000Z-prod-k3x7qa": sha256 is not 64 lower hex digits`},
	} {
		s := testSidecar()
		tc.change(&s)
		if _, err := SignSidecar(s, tc.key); err == nil || err.Error() != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A sidecar and a header are public or nearly so: this is all that they may say.
func TestSidecarAndHeaderHoldNothingElse(t *testing.T) {
	keys := func(v any) []string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		var names []string
		for k, value := range m {
			switch value.(type) {
			case string, float64, bool:
			default:
				t.Errorf("%q is not a plain value", k)
			}
			names = append(names, k)
		}
		slices.Sort(names)
		return names
	}
	wantSidecar := []string{"created", "engine", "entries", "findings", "format", "history", "id", "instance", "key_fingerprint", "last_migration",
		"n8n_version", "plain_size", "recipient_kind", "secrets", "secrets_failed", "secrets_opened", "sha256", "size", "state", "unproved", "workflows"}
	if d := cmp.Diff(wantSidecar, keys(Sidecar{})); d != "" {
		t.Error(d)
	}
	wantHeader := []string{"created", "format", "id", "instance", "key_fingerprint", "tool"}
	if d := cmp.Diff(wantHeader, keys(Header{})); d != "" {
		t.Error(d)
	}
}

// The vectors are what other programs can test themselves with.
func TestSidecarVectors(t *testing.T) {
	if *makeGolden {
		writeSidecarVectors(t)
	}
	files, err := filepath.Glob("testdata/vectors/sidecar-*.txt")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d vectors, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			head, body, ok := bytes.Cut(readFile(t, name), []byte("\n\n"))
			expect, found := strings.CutPrefix(string(head), "expect: ")
			if !ok || !found {
				t.Fatal("no expect header")
			}
			_, err := ParseSidecar(body)
			want, known := map[string]error{"ok": nil, "signature": ErrSignature, "format": ErrFormat}[expect]
			if !known || !errors.Is(err, want) {
				t.Errorf("got %v, expect %s", err, expect)
			}
		})
	}
}

func writeSidecarVectors(t *testing.T) {
	good, err := SignSidecar(testSidecar(), testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	value := sidecarValue(t, good)
	s := testSidecar()
	s.State, s.Unproved, s.RecipientKind, s.SecretsFailed = StateDegraded, true, "mlkem768x25519", 1
	degraded, err := SignSidecar(s, testKey(2))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]struct {
		expect string
		b      []byte
	}{
		"good":            {"ok", good},
		"degraded":        {"ok", degraded},
		"newer-format":    {"format", sign(strings.Replace(value, `"format":1`, `"format":2,"new":[]`, 1))},
		"changed-byte":    {"signature", bytes.Replace(good, []byte("1234"), []byte("1235"), 1)},
		"swapped-signer":  {"signature", bytes.Replace(good, []byte(SignerOf(testKey(1)).String()), []byte(SignerOf(testKey(2)).String()), 1)},
		"no-domain":       {"signature", assembleSidecar([]byte(value), SignerOf(testKey(1)), ed25519.Sign(testKey(1), []byte(value)))},
		"key-twice":       {"signature", sign(strings.Replace(value, `"state":"good"`, `"state":"degraded","state":"good"`, 1))},
		"white-space":     {"signature", sign(strings.Replace(value, `,"state"`, `, "state"`, 1))},
		"unknown-field":   {"signature", sign(strings.Replace(value, `"state"`, `"more":1,"state"`, 1))},
		"trailing-data":   {"signature", append(bytes.Clone(good), "{}"...)},
		"cut-short":       {"signature", good[:len(good)/2]},
		"not-signed":      {"signature", []byte(`{"sidecar":` + value + "}\n")},
		"format-unsigned": {"signature", bytes.Replace(good, []byte(`"format":1`), []byte(`"format":2`), 1)},
	} {
		writeFile(t, "testdata/vectors/sidecar-"+name+".txt", fmt.Appendf(nil, "expect: %s\n\n%s", v.expect, v.b))
	}
}

func TestSigner(t *testing.T) {
	s := SignerOf(testKey(1))
	for _, text := range []string{s.String()} {
		got, err := ParseSigner(text)
		if err != nil || got != s {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, text := range []string{"", "ed25519:", key, "ed25519:" + key[:40], "ED25519:" + key, "ed25519:" + key + "\n", "ed25519: " + key, "ed25519:" + key[:43] + "A", "ed25519:ed25519:" + key,
		"ed25519:" + key[:42] + "B="} {
		if _, err := ParseSigner(text); err == nil || err.Error() != fmt.Sprintf(`signer %q: want "ed25519:" and the base64 of 32 bytes`, text) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if !(Signer{}).IsZero() || s.IsZero() || (Signer{}).verify(nil, make([]byte, 64)) {
		t.Error("the zero signer")
	}
}

func TestSigningKeyFile(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := MarshalSigningKey(key)
	if err != nil || !bytes.HasPrefix(text, []byte("-----BEGIN PRIVATE KEY-----\n")) {
		t.Fatalf("%s, %v", text, err)
	}
	got, err := ParseSigningKey(text)
	if err != nil || !got.Equal(key) {
		t.Error("another key:", err)
	}
	rsa := "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g\n-----END PRIVATE KEY-----\n"
	for _, tc := range []struct{ text, want string }{
		{"", `signing key: want one PEM block "PRIVATE KEY"`},
		{"secret-in-the-wrong-file", `signing key: want one PEM block "PRIVATE KEY"`},
		{string(text) + string(text), `signing key: want one PEM block "PRIVATE KEY"`},
		{strings.ReplaceAll(string(text), "PRIVATE KEY", "OPENSSH PRIVATE KEY"), `signing key: want one PEM block "PRIVATE KEY"`},
		{"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "signing key: the PEM block is not PKCS#8"},
		{rsa, "signing key: not an Ed25519 key"},
	} {
		if _, err := ParseSigningKey([]byte(tc.text)); err == nil || err.Error() != tc.want {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
	// What openssl writes is read.
	if _, err := os.Stat("testdata/openssl-ed25519.pem"); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseSigningKey(readFile(t, "testdata/openssl-ed25519.pem")); err != nil {
		t.Error(err)
	}
}
