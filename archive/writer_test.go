package archive

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"filippo.io/age"
)

func newWriter(t testing.TB, out io.Writer) *Writer {
	t.Helper()
	w, err := NewWriter(out, WriterConfig{Header: testHeader(), Recipients: []age.Recipient{fuzzIdentity().Recipient()}, SpoolDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Abort)
	return w
}

func TestNewWriterRefuses(t *testing.T) {
	recipient := []age.Recipient{fuzzIdentity().Recipient()}
	for _, tc := range []struct {
		change func(*WriterConfig)
		want   string
	}{
		{func(c *WriterConfig) { c.Header.ID = "x" }, `beginning an archive: archive id "x": want TIME-INSTANCE-RANDOM as in "20260801T020000Z-prod-k3x7qa"`},
		{func(c *WriterConfig) { c.Header.Instance = "test" }, `beginning an archive: the id "20260801T020000Z-prod-k3x7qa" is not of instance "test"`},
		{func(c *WriterConfig) { c.Header.Created = time.Time{} }, "beginning an archive: the time is missing"},
		{func(c *WriterConfig) { c.Header.Tool = strings.Repeat("x", 2000) }, "beginning an archive: the key fingerprint or tool is too long"},
		{func(c *WriterConfig) { c.Recipients = nil }, `beginning archive "20260801T020000Z-prod-k3x7qa": no recipient given: nobody could open the archive`},
		{func(c *WriterConfig) { c.SpoolDir = "/nonexistent" }, `beginning archive "20260801T020000Z-prod-k3x7qa": making a spool file: `},
	} {
		cfg := WriterConfig{Header: testHeader(), Recipients: recipient, SpoolDir: t.TempDir()}
		tc.change(&cfg)
		if _, err := NewWriter(io.Discard, cfg); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
	}
}

// What is refused for its name spoils nothing; a file that is not what was
// announced ends the archive.
func TestAddRefuses(t *testing.T) {
	for _, tc := range []struct {
		e    Entry
		body io.Reader
		want string
		ends bool
	}{
		{Entry{Name: "manifest.json"}, strings.NewReader(""), `entry name "manifest.json" is reserved`, false},
		{Entry{Name: "../a"}, strings.NewReader(""), `entry name "../a" is not a plain relative path`, false},
		{Entry{Name: ""}, strings.NewReader(""), `entry name "" is not a plain relative path`, false},
		{Entry{Name: "a\xff"}, strings.NewReader(""), `entry name "a\xff" is not a plain relative path`, false},
		{Entry{Name: "a\nb"}, strings.NewReader(""), `entry name "a\nb" holds a backslash or a control character`, false},
		{Entry{Name: strings.Repeat("x", 1025)}, strings.NewReader(""), `entry name "` + strings.Repeat("x", 40) + `"... has 1025 bytes, more than 1024`, false},
		{Entry{Name: "there"}, strings.NewReader(""), `entry name "there" appears twice`, false},
		{Entry{Name: "there/below"}, strings.NewReader(""), `entry name "there/below" has a file as its folder`, false},
		{Entry{Name: "a", Mode: fs.ModeSymlink | 0o600}, strings.NewReader(""), `adding "a": mode Lrw------- has more than permission bits`, false},
		{Entry{Name: "a", Size: -1}, strings.NewReader(""), `adding "a": size -1`, false},
		{Entry{Name: "a", Size: 5}, strings.NewReader("1234"), `adding "a": it ended after 4 of 5 bytes: it was changed meanwhile`, true},
		{Entry{Name: "a", Size: 3}, strings.NewReader("1234"), `adding "a": it has more than the 3 bytes that were announced: it was changed meanwhile`, true},
		{Entry{Name: "a", Size: 3}, iotest.ErrReader(errors.New("disk broke")), `adding "a": disk broke`, true},
		{Entry{Name: "a", Size: 1, SHA256: strings.Repeat("0", 64)}, strings.NewReader("1"), `adding "a": its content is not what was announced: checksum differs`, true},
	} {
		var out bytes.Buffer
		w := newWriter(t, &out)
		if err := w.Add(Entry{Name: "there", Mode: 0o600}, strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
		err := w.Add(tc.e, tc.body)
		if err == nil || err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
		_, closeErr := w.Close(testManifest())
		if tc.ends {
			if closeErr != err {
				t.Errorf("%s: Close: %v", tc.want, closeErr)
			}
		} else if closeErr != nil {
			t.Errorf("%s: Close: %v", tc.want, closeErr)
		} else if _, _, err := read(t, out.Bytes(), fuzzIdentity()); err != nil {
			t.Errorf("%s: reading: %v", tc.want, err)
		}
	}
}

func TestStream(t *testing.T) {
	for _, size := range []int{0, 1, pieceBytes - 1, pieceBytes, pieceBytes + 1, 3*pieceBytes + 7} {
		var out bytes.Buffer
		w := newWriter(t, &out)
		body := random(size, 5)
		s := w.Stream("database/postgres.dump", 0o640)
		if _, err := io.Copy(onlyWriter{s}, bytes.NewReader(body)); err != nil || s.Close() != nil || s.Close() != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("writing after Close: %v", err)
		}
		sum, err := w.Close(testManifest())
		if err != nil || sum.PlainSize != int64(size) {
			t.Fatal(sum, err)
		}
		files, r, err := read(t, out.Bytes(), fuzzIdentity())
		if err != nil {
			t.Fatal(err)
		}
		var joined []byte
		for _, f := range files {
			joined = append(joined, f.body...)
		}
		if want := max(1, (size+pieceBytes-1)/pieceBytes); !bytes.Equal(joined, body) || len(files) != want || files[0].name != "database/postgres.dump.000001" {
			t.Errorf("%d bytes: %d pieces, want %d", size, len(files), want)
		}
		if e := r.Manifest().Entries[0]; e.Mode != 0o640 {
			t.Errorf("mode %v", e.Mode)
		}
	}
}

type onlyWriter struct{ io.Writer }

func TestAddBesideAnOpenStream(t *testing.T) {
	w := newWriter(t, io.Discard)
	w.Stream("dump", 0o600)
	want := `adding "a": the stream "dump" is not closed`
	if err := w.Add(Entry{Name: "a"}, strings.NewReader("")); err == nil || err.Error() != want {
		t.Errorf("Add: %v", err)
	}
	w = newWriter(t, io.Discard)
	w.Stream("dump", 0o600)
	if _, err := w.Stream("b", 0o600).Write([]byte("x")); err == nil || err.Error() != `adding "b": the stream "dump" is not closed` {
		t.Errorf("Stream: %v", err)
	}
}

func TestCloseRefuses(t *testing.T) {
	for _, tc := range []struct {
		change func(*Writer, *Manifest)
		want   string
	}{
		{func(_ *Writer, m *Manifest) { m.State = "" }, `ending archive "20260801T020000Z-prod-k3x7qa": unknown state ""`},
		{func(_ *Writer, m *Manifest) { m.DigestSalt = []byte("x") }, `ending archive "20260801T020000Z-prod-k3x7qa": the salt of the digests has 1 bytes, want 32`},
		{func(w *Writer, _ *Manifest) { w.Stream("a", 0) }, `ending the archive: the stream "a" is not closed`},
	} {
		w := newWriter(t, io.Discard)
		m := testManifest()
		tc.change(w, &m)
		if _, err := w.Close(m); err == nil || err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
	}
}

func TestSecretRefused(t *testing.T) {
	w := newWriter(t, io.Discard)
	for _, tc := range []struct {
		s    Secret
		want string
	}{
		{Secret{}, `recording a secret of "": it has no place`},
		{Secret{Place: "p", Row: strings.Repeat("x", 70_000)}, `recording a secret of "p": its description has 70036 bytes, more than 65536`},
		{Secret{Place: "p", Opens: true, Problem: "wrong key"}, `recording a secret of "p": it opens and has a problem`},
	} {
		if err := w.AddSecret(tc.s); err == nil || err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
	}
}

// Rows of a real database need not be UTF-8, and the archive must be readable.
func TestOddStrings(t *testing.T) {
	var out bytes.Buffer
	w := newWriter(t, &out)
	odd := "a\xff<&>\u2028\x00\""
	if err := w.AddSecret(Secret{Place: odd, Row: odd, Problem: odd}); err != nil {
		t.Fatal(err)
	}
	m := testManifest()
	m.Schema, m.DigestSalt = odd, nil
	m.Findings = []Finding{{odd, odd, odd}}
	m.Census = []PlaceCount{{Place: odd, ByKey: map[string]int64{odd: 1, "": 2}}, {Place: "none", ByKey: map[string]int64{}}}
	m.Tables = []TableCount{{odd, 1}}
	if _, err := w.Close(m); err != nil {
		t.Fatal(err)
	}
	_, r, err := read(t, out.Bytes(), fuzzIdentity())
	if err != nil {
		t.Fatal(err)
	}
	want := strings.ToValidUTF8(odd, "\uFFFD")
	for s, err := range r.Secrets() {
		if err != nil || s.Row != want {
			t.Errorf("%+v, %v", s, err)
		}
	}
	if r.Manifest().Census[0].ByKey[want] != 1 {
		t.Errorf("census %+v", r.Manifest().Census)
	}
}

// failingWriter fails after n bytes.
type failingWriter struct{ n int }

var errFull = errors.New("no space left")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.n -= len(p); w.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// noMoreGoroutines gives those that have reported their end the time to be gone.
func noMoreGoroutines(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
			return
		}
	}
}

func TestUnderlyingWriterFails(t *testing.T) {
	before := runtime.NumGoroutine()
	var size failingWriter
	size.n = 1 << 40
	fill := func(out io.Writer) error {
		w, err := NewWriter(out, WriterConfig{Header: testHeader(), Recipients: []age.Recipient{fuzzIdentity().Recipient()}, SpoolDir: t.TempDir()})
		if err != nil {
			return err
		}
		defer w.Abort()
		body := random(8*frameBytes, 3)
		if err := w.Add(Entry{Name: "a", Size: int64(len(body)), Mode: 0o600}, bytes.NewReader(body)); err != nil {
			return err
		}
		_, err = w.Close(testManifest())
		return err
	}
	if err := fill(&size); err != nil {
		t.Fatal(err)
	}
	total := 1<<40 - size.n
	for _, n := range []int{0, 10, 300, 70_000, total / 2, total - 70_000, total - 100, total - 1} {
		if err := fill(&failingWriter{n}); !errors.Is(err, errFull) {
			t.Errorf("full after %d of %d bytes: %v", n, total, err)
		}
	}
	noMoreGoroutines(t, before)
}

func TestAbort(t *testing.T) {
	before := runtime.NumGoroutine()
	var out bytes.Buffer
	w := newWriter(t, &out)
	if err := w.Add(Entry{Name: "a", Size: 4 << 20}, bytes.NewReader(random(4<<20, 1))); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	if _, err := w.Close(testManifest()); err == nil || err.Error() != "the archive writer is closed" {
		t.Errorf("Close: %v", err)
	}
	if err := w.AddSecret(testSecret(0)); err == nil {
		t.Error("AddSecret after Abort")
	}
	if _, err := w.Stream("a", 0).Write(nil); err == nil {
		_, err = w.Stream("b", 0).Write([]byte("x"))
		if err == nil {
			t.Error("Stream after Abort")
		}
	}
	noMoreGoroutines(t, before)
	if _, _, err := read(t, out.Bytes(), fuzzIdentity()); !errors.Is(err, ErrDamaged) {
		t.Errorf("an aborted archive: %v", err)
	}
}

// Two archives of the same content differ only by what age and zstd make of it.
func TestEntriesAreDeterministic(t *testing.T) {
	id := fuzzIdentity()
	var streams [2][]byte
	for i := range streams {
		archive, _ := write(t, someFiles(), 5, id.Recipient())
		plain, err := age.Decrypt(bytes.NewReader(archive), id)
		if err != nil {
			t.Fatal(err)
		}
		if streams[i], err = io.ReadAll(plain); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(streams[0], streams[1]) {
		t.Error("two archives of the same files differ inside")
	}
}

func TestSpoolIsPrivateAndNameless(t *testing.T) {
	dir := t.TempDir()
	w, err := NewWriter(io.Discard, WriterConfig{Header: testHeader(), Recipients: []age.Recipient{fuzzIdentity().Recipient()}, SpoolDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	info, err := w.spool.file.Stat()
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if names, err := fs.Glob(os.DirFS(dir), "*"); err != nil || len(names) != 0 {
		t.Errorf("in the folder: %q, %v", names, err)
	}
}
