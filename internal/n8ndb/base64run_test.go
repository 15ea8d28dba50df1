package n8ndb

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	sampleCBC = "U2FsdGVkX18BAgMEBQYHCDbcm9YRK+oY9J3mYohVtRStCPaXwnR4pOofgnD1Hw0hAxnJoGtKq+lO2UkF2+PLFQ=="
	sampleGCM = "AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fyhJ8eZ/WuJ60f+1njZgBQjG2QvZSlyb4nZGAEraRa1u+Qe0cNhWeV9FQ2NuadUuE"
)

func found(b []byte) []string {
	var list []string
	findCiphertext(b, func(c candidate) { list = append(list, string(c.text)) })
	return list
}

// naive looks at every position.
func naive(b []byte) []string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	run := func(i int) int {
		return len(b[i:]) - len(bytes.TrimLeft(b[i:], alphabet))
	}
	padding := func(s []byte) int {
		n := 0
		for n < 2 && n < len(s) && s[n] == '=' {
			n++
		}
		return n
	}
	var list []string
	for i := 0; i < len(b); i++ {
		if n := run(i); n >= 43 && bytes.HasPrefix(b[i:], []byte("U2FsdGVkX1")) && strings.ContainsRune("89+/", rune(b[i+10])) {
			list = append(list, string(b[i:i+n+padding(b[i+n:])]))
			i += n - 1
		}
	}
	id := regexp.MustCompile(`(?s)^(?:.*[^A-Za-z0-9_-])?([A-Za-z0-9_-]{1,36}:)$`)
	escape := regexp.MustCompile(`(?s)\\([nrtbf/]|u....)$`)
	for i := 0; i < len(b); i++ {
		n := run(i)
		if n < 66 || b[i] != 'A' || !strings.ContainsRune("QRSTUVWXYZabcdef", rune(b[i+1])) ||
			i > 0 && strings.IndexByte(alphabet, b[i-1]) >= 0 && !escape.Match(b[:i]) {
			continue
		}
		text := string(b[i : i+n+padding(b[i+n:])])
		if m := id.FindSubmatch(b[:i]); m != nil {
			text = string(m[1]) + text
		}
		list = append(list, text)
		i += n - 1
	}
	return list
}

func TestIsBase64(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for c := range 256 {
		if got, want := isBase64(byte(c)), strings.IndexByte(alphabet, byte(c)) >= 0; got != want {
			t.Errorf("%q: %t", rune(c), got)
		}
	}
}

func TestFindCiphertext(t *testing.T) {
	prefixed := "p6gKogeT0bxvBwZ8:" + sampleGCM
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"alone":            {sampleCBC, []string{sampleCBC}},
		"gcm":              {sampleGCM, []string{sampleGCM}},
		"prefixed":         {prefixed, []string{prefixed}},
		"in JSON":          {`{"a":"` + sampleCBC + `","b":"` + prefixed + `"}`, []string{sampleCBC, prefixed}},
		"in JSON in JSON":  {`{\"a\":\"` + sampleGCM + `\"}`, []string{sampleGCM}},
		"after a newline":  {`x\n` + sampleGCM + `\r\n` + sampleCBC, []string{sampleCBC, sampleGCM}},
		"after an escape":  {`\u00e9` + sampleGCM, []string{sampleGCM}},
		"glued to a word":  {"word" + sampleCBC, []string{sampleCBC}},
		"comma list":       {sampleCBC + "," + prefixed + "," + sampleCBC, []string{sampleCBC, sampleCBC, prefixed}},
		"shortest CBC":     {"U2FsdGVkX18BAgMEBQYHCDbcm9YRK+oY9J3mYohVtRQ=", []string{"U2FsdGVkX18BAgMEBQYHCDbcm9YRK+oY9J3mYohVtRQ="}},
		"too short":        {"U2FsdGVkX18BAgMEBQYHCDbcm9YR", nil},
		"too short gcm":    {sampleGCM[:60], nil},
		"long id":          {strings.Repeat("i", 40) + ":" + sampleGCM, []string{sampleGCM}},
		"another version":  {"B" + sampleGCM[1:], nil},
		"not salted":       {"U2FsdGVkX17" + sampleCBC[11:], nil},
		"prose":            {strings.Repeat("the quick brown fox, ", 50), nil},
		"behind much text": {strings.Repeat("word ", 999) + sampleCBC, []string{sampleCBC}},
	} {
		if diff := cmp.Diff(c.want, found([]byte(c.text))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// At every distance from the probes.
	for n := range 3 * minCBC {
		text := strings.Repeat(" ", n) + sampleCBC + " "
		if got := found([]byte(text)); len(got) != 1 || got[0] != sampleCBC {
			t.Fatalf("after %d spaces: %q", n, got)
		}
	}
}

func FuzzFindCiphertext(f *testing.F) {
	f.Add([]byte(`x:` + sampleGCM + `\n` + sampleCBC + `==`))
	f.Add([]byte("id:" + sampleGCM + sampleCBC))
	f.Add(bytes.Repeat([]byte("abc "), 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		if diff := cmp.Diff(naive(b), found(b)); diff != "" {
			t.Error(diff)
		}
	})
}

// prosaic is text as databases hold it: JSON with words, numbers and some base64.
func prosaic(size int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	raw := make([]byte, 600)
	for b.Len() < size {
		switch r.IntN(40) {
		case 0:
			for i := range raw {
				raw[i] = byte(r.Uint32())
			}
			b.WriteString(`"image":"` + base64.StdEncoding.EncodeToString(raw) + `",`)
		default:
			b.WriteString(`{"name":"some words of a sentence","value":12345.678,"id":"7f2c"},`)
		}
	}
	return b.Bytes()[:size]
}

func BenchmarkFindCiphertext(b *testing.B) {
	text := prosaic(16 << 20)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		findCiphertext(text, func(candidate) {})
	}
}
