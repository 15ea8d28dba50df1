package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
)

var testTime = time.Date(2026, 8, 1, 2, 0, 0, 0, time.UTC)

func testHeader() Header {
	return Header{
		ID:             "20260801T020000Z-prod-k3x7qa",
		Instance:       "prod",
		Created:        testTime,
		KeyFingerprint: "n8k1-abcdefghijklmnop",
		Tool:           "n8keep test",
	}
}

func testManifest() Manifest {
	return Manifest{
		Engine: "sqlite", N8NVersion: "2.41.1", LastMigration: "AddThing1700000000000",
		DigestSalt: bytes.Repeat([]byte{7}, saltSize), State: StateGood, History: "all",
		Findings: []Finding{{Code: "weak-key", Detail: "short"}},
		Census:   []PlaceCount{{Place: "credentials_entity.data", Values: 3, Opened: 2, Failed: 1, ByKey: map[string]int64{"instance": 2, "unknown": 1}}},
		Tables:   []TableCount{{"credentials_entity", 3}, {"workflow_entity", 1}},
	}
}

type file struct {
	name string
	body []byte
}

func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed)})
	src.Read(b)
	return b
}

func newIdentity(t testing.TB) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// write makes an archive of the files and n secrets.
func write(t testing.TB, files []file, secrets int, recipients ...age.Recipient) ([]byte, Summary) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, WriterConfig{Header: testHeader(), Recipients: recipients, SpoolDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for _, f := range files {
		if err := w.Add(Entry{Name: f.name, Size: int64(len(f.body)), Mode: 0o600}, bytes.NewReader(f.body)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range secrets {
		if err := w.AddSecret(testSecret(i)); err != nil {
			t.Fatal(err)
		}
	}
	sum, err := w.Close(testManifest())
	if err != nil {
		t.Fatal(err)
	}
	if sum.Size != int64(out.Len()) {
		t.Fatalf("summary says %d bytes, wrote %d", sum.Size, out.Len())
	}
	return out.Bytes(), sum
}

func testSecret(i int) Secret {
	s := Secret{Place: "credentials_entity.data", Row: fmt.Sprint("row", i), KeyID: "instance", Format: "cbc", Opens: true, Digest: strings.Repeat("ab", 32)}
	if i%3 == 2 {
		s.Opens, s.Problem, s.Digest, s.KeyID = false, "wrong key", "", "unknown"
	}
	return s
}

// read returns the files, and only once the end was good.
func read(t testing.TB, archive []byte, ids ...age.Identity) ([]file, *Reader, error) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(archive), t.TempDir(), ids...)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { r.Close() })
	var files []file
	for {
		e, err := r.Next()
		if err == io.EOF {
			return files, r, nil
		}
		if err != nil {
			return nil, r, err
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return nil, r, err
		}
		if int64(len(body)) != e.Size {
			t.Fatalf("entry %q has %d bytes, its header says %d", e.Name, len(body), e.Size)
		}
		files = append(files, file{e.Name, body})
	}
}

func someFiles() []file {
	return []file{
		{"database/database.sqlite", random(300_000, 1)},
		{"workflows/1.json", []byte(`{"name":"one"}`)},
		{"files/nodes/" + strings.Repeat("long/", 60) + "ä.js", []byte("exports = 1\n")},
		{"empty", nil},
		{"text", bytes.Repeat([]byte("the same again and again\n"), 100_000)},
	}
}

func TestRoundTrip(t *testing.T) {
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	plain, second := newIdentity(t), newIdentity(t)
	for name, tc := range map[string]struct {
		recipients []age.Recipient
		ids        []age.Identity
	}{
		"x25519":        {[]age.Recipient{plain.Recipient()}, []age.Identity{plain}},
		"two, second":   {[]age.Recipient{plain.Recipient(), second.Recipient()}, []age.Identity{second}},
		"post-quantum":  {[]age.Recipient{hybrid.Recipient()}, []age.Identity{plain, hybrid}},
		"many tried":    {[]age.Recipient{plain.Recipient()}, []age.Identity{second, hybrid, plain}},
		"post-quantum2": {[]age.Recipient{hybrid.Recipient(), hybrid.Recipient()}, []age.Identity{hybrid}},
	} {
		t.Run(name, func(t *testing.T) {
			want := someFiles()
			archive, sum := write(t, want, 10, tc.recipients...)
			got, r, err := read(t, archive, tc.ids...)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Fatalf("%d entries, want %d", len(got), len(want))
			}
			for i := range want {
				if got[i].name != want[i].name || !bytes.Equal(got[i].body, want[i].body) {
					t.Errorf("entry %d %q differs", i, want[i].name)
				}
			}
			wantManifest := testManifest()
			h := testHeader()
			h.Format = FormatVersion
			wantManifest.Format, wantManifest.ID, wantManifest.Instance, wantManifest.Created, wantManifest.KeyFingerprint, wantManifest.Tool =
				h.Format, h.ID, h.Instance, h.Created, h.KeyFingerprint, h.Tool
			m := r.Manifest()
			if len(m.Entries) != len(want) || m.Entries[1].Name != "workflows/1.json" || m.Entries[1].ModTime != testTime || m.Entries[1].Mode != 0o600 {
				t.Errorf("entries %+v", m.Entries)
			}
			m.Entries = nil
			if d := cmp.Diff(wantManifest, m); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(h, r.Header()); d != "" {
				t.Error(d)
			}
			for range 2 {
				n := 0
				for s, err := range r.Secrets() {
					if err != nil || s != testSecret(n) {
						t.Fatalf("secret %d: %+v, %v", n, s, err)
					}
					n++
				}
				if n != 10 {
					t.Errorf("%d secrets", n)
				}
			}
			if sum.Entries != len(want) || sum.Secrets != 10 || sum.SecretsFailed != 3 || sum.SecretsOpened != 7 {
				t.Errorf("summary %+v", sum)
			}
		})
	}
}

func TestEmptyArchive(t *testing.T) {
	id := newIdentity(t)
	archive, _ := write(t, nil, 0, id.Recipient())
	files, r, err := read(t, archive, id)
	if err != nil || len(files) != 0 {
		t.Fatal(files, err)
	}
	for range r.Secrets() {
		t.Error("a secret")
	}
	if _, err := r.Next(); err != io.EOF {
		t.Error("not at the end:", err)
	}
}

func TestMixedRecipients(t *testing.T) {
	hybrid, _ := age.GenerateHybridIdentity()
	_, err := NewWriter(io.Discard, WriterConfig{Header: testHeader(), SpoolDir: t.TempDir(),
		Recipients: []age.Recipient{newIdentity(t).Recipient(), hybrid.Recipient()}})
	want := `beginning archive "20260801T020000Z-prod-k3x7qa": recipients of different kinds cannot share one archive: ` +
		`got x25519 and mlkem768x25519; age refuses to put post-quantum and other recipients into one file`
	if !errors.Is(err, ErrMixedRecipients) || err.Error() != want {
		t.Errorf("error %v", err)
	}
}
