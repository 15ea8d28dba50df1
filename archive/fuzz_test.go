package archive

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
)

// Whatever is accepted is byte for byte what the parsed sidecar says.
func FuzzParseSidecar(f *testing.F) {
	files, err := filepath.Glob("testdata/vectors/sidecar-*.txt")
	if err != nil || len(files) == 0 {
		f.Fatal("no vectors", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		_, body, _ := bytes.Cut(b, []byte("\n\n"))
		f.Add(body, false)
		f.Add([]byte(sidecarInside(body)), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, resign bool) {
		if resign { // so that the parser behind the signature is reached
			b = sign(string(b))
		}
		got, err := ParseSidecar(b)
		if err != nil {
			if !errors.Is(err, ErrSignature) && !errors.Is(err, ErrFormat) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		if !resign && got.Signer != SignerOf(testKey(1)) {
			return // signed by a key that this test does not have
		}
		again, err := SignSidecar(got.Sidecar, testKey(1))
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted %q\nwrites   %q, %v", b, again, err)
		}
	})
}

func sidecarInside(b []byte) string {
	s := strings.TrimPrefix(string(b), sidecarOpen)
	if i := strings.LastIndex(s, sidecarSigner); i >= 0 {
		s = s[:i]
	}
	return s
}

var fuzzIdentity = sync.OnceValue(func() *age.X25519Identity {
	id, err := age.ParseX25519Identity("AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX")
	if err != nil {
		panic(err)
	}
	return id
})

// Layer 0 is the file, 1 what age protects, 2 what zstd compresses: a hostile
// writer, who needs only the public key, controls them all.
func FuzzReader(f *testing.F) {
	id := fuzzIdentity()
	good, _ := write(f, []file{{"a", []byte("a")}, {"b/c", bytes.Repeat([]byte("b"), 2000)}}, 3, id.Recipient())
	f.Add(good, byte(0))
	plain, err := age.Decrypt(bytes.NewReader(good), id)
	if err != nil {
		f.Fatal(err)
	}
	compressed, err := io.ReadAll(plain)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(compressed, byte(1))
	f.Add(tarStream(f, []tarEntry{{name: headerName, body: "{}"}, {name: "a", kind: '2', link: "b"}}, ""), byte(2))
	f.Fuzz(func(t *testing.T, b []byte, layer byte) {
		switch layer % 3 {
		case 1:
			b = seal(t, b, id.Recipient())
		case 2:
			b = seal(t, compress(t, b), id.Recipient())
		}
		files, r, err := read(t, b, id)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrNoIdentity) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		if m := r.Manifest(); len(m.Entries) != len(files) || m.ID != r.Header().ID {
			t.Fatalf("accepted %+v with %d entries", m, len(files))
		}
	})
}

// Whatever is accepted is encoded to the same bytes again.
func FuzzManifest(f *testing.F) {
	m := testManifest()
	h := testHeader()
	m.Format, m.ID, m.Instance, m.Created = 1, h.ID, h.Instance, h.Created
	m.clean()
	var text bytes.Buffer
	if err := m.encode(&text, func(yield func([]byte, error) bool) {
		_ = yield([]byte(`{"place":"p","row":"r","opens":true}`), nil) && yield([]byte(`{"place":"p","row":"s","opens":false,"problem":"wrong key"}`), nil)
	}); err != nil {
		f.Fatal(err)
	}
	f.Add(text.Bytes())
	f.Add([]byte(`{"secrets":[{"place":"p"}],"entries":[{}]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		spool, err := newSpool(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer spool.close()
		m, err := parseManifest(bytes.NewReader(b), Header{Format: 1, ID: h.ID, Instance: h.Instance, Created: h.Created}, nil, spool)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("another error: %v", err)
			}
			return
		}
		var again bytes.Buffer
		if err := m.encode(&again, spool.lines()); err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Fatalf("accepted %q\nwrites   %q, %v", b, again.Bytes(), err)
		}
	})
}
