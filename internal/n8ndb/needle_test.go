package n8ndb

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/n8keep/n8keep/n8ncrypt"
)

func needle(t testing.TB, key string) *Needle {
	t.Helper()
	k, err := n8ncrypt.NewInstanceKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return NewNeedle(k)
}

func TestNeedle(t *testing.T) {
	for _, key := range []string{
		"lab-key-2.41.1-0123456789abcdef",
		strings.Repeat("0123456789abcdef", 4),
		`with "quotes" and \ and / inside`,
		"schlüssel-mit-ümlaut-🔐-0123",
		"exactly16letters",
		strings.Repeat("a", 300),
	} {
		n := needle(t, key)
		if n.Weak() {
			t.Errorf("%q is weak", key)
		}
		quoted, _ := json.Marshal(key)
		twice, _ := json.Marshal(string(quoted))
		forms := map[string]string{
			"raw":          key,
			"json":         string(quoted),
			"json in json": string(twice),
			"ascii":        asciiText(key),
		}
		for pad := range 3 {
			raw := append(bytes.Repeat([]byte{'{'}, pad), key+"}..."...)
			forms["base64 std "+string(rune('0'+pad))] = base64.StdEncoding.EncodeToString(raw)
			forms["base64 url "+string(rune('0'+pad))] = base64.RawURLEncoding.EncodeToString(raw)
			forms["base64 alone"] = base64.StdEncoding.EncodeToString([]byte(key))
		}
		for name, form := range forms {
			text := strings.Repeat("some text ", 100) + form + strings.Repeat(" more text", 100)
			if !n.Find([]byte(form)) || !n.Find([]byte(text)) {
				t.Errorf("%q not found as %s", key, name)
			}
			for size := range 40 {
				r := n.Reader(&chunks{text, size + 1})
				if _, err := io.Copy(io.Discard, r); err != nil || !r.Found() {
					t.Errorf("%q not found as %s in reads of %d", key, name, size+1)
				}
			}
		}
		for _, other := range []string{"", key[1:], key[:len(key)-1], strings.ToUpper(key) + "x", strings.Repeat("nothing here ", 500)} {
			if strings.Contains(other, key) {
				continue
			}
			if n.Find([]byte(other)) {
				t.Errorf("%q found in %q", key, other)
			}
			r := n.Reader(strings.NewReader(other))
			if _, err := io.Copy(io.Discard, r); err != nil || r.Found() {
				t.Errorf("%q found in a reader of %q", key, other)
			}
		}
	}
}

type chunks struct {
	rest string
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.rest == "" {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.size)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func TestNeedleReaderPassesThrough(t *testing.T) {
	text := strings.Repeat("0123456789", 1000)
	got, err := io.ReadAll(needle(t, "lab-key-2.41.1-0123456789abcdef").Reader(iotest.HalfReader(strings.NewReader(text))))
	if err != nil || string(got) != text {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestWeakNeedle(t *testing.T) {
	n := needle(t, "password")
	if !n.Weak() {
		t.Fatal("not weak")
	}
	for text, want := range map[string]bool{
		"password": true, " password\n": true, `"password"`: true,
		"my password": false, "": false, "passwor": false, `{"a":"password"}`: false,
		strings.Repeat("password", 100): false,
	} {
		if n.Find([]byte(text)) != want {
			t.Errorf("%q: found is %t", text, !want)
		}
		for size := range 9 {
			r := n.Reader(&chunks{text, size + 1})
			if _, err := io.Copy(io.Discard, r); err != nil || r.Found() != want {
				t.Errorf("%q in reads of %d: found is %t", text, size+1, !want)
			}
		}
	}
}

func FuzzNeedle(f *testing.F) {
	f.Add("0123456789abcdef", []byte("x0123456789abcdefx"), uint8(3))
	f.Add("aaaaaaaaaaaaaaaaaaaa", bytes.Repeat([]byte{'a'}, 60), uint8(1))
	f.Fuzz(func(t *testing.T, key string, b []byte, size uint8) {
		k, err := n8ncrypt.NewInstanceKey(key)
		if err != nil || len(key) > 200 {
			return
		}
		n := NewNeedle(k)
		if n.Weak() {
			return
		}
		want := false
		for _, p := range n.patterns {
			want = want || bytes.Contains(b, p)
		}
		if got := n.Find(b); got != want {
			t.Errorf("find is %t", got)
		}
		r := n.Reader(&chunks{string(b), int(size) + 1})
		if _, err := io.Copy(io.Discard, r); err != nil || r.Found() != want {
			t.Errorf("reader finds %t", r.Found())
		}
	})
}

func BenchmarkNeedle(b *testing.B) {
	text := prosaic(16 << 20)
	n := needle(b, "lab-key-2.41.1-0123456789abcdef")
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		n.Find(text)
	}
}
