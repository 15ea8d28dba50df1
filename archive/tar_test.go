package archive

import (
	"archive/tar"
	"bytes"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

// Times that a tar header cannot hold would need a record that readers refuse.
func TestTimesOutOfRange(t *testing.T) {
	last := time.Unix(maxTime, 0).UTC()
	for _, tc := range []struct{ given, want time.Time }{
		{time.Unix(-1, 0), time.Unix(0, 0).UTC()},
		{time.Unix(0, -1), time.Unix(0, 0).UTC()},
		{time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC), time.Unix(0, 0).UTC()},
		{time.Unix(math.MinInt64, 0), time.Unix(0, 0).UTC()},
		{time.Unix(0, 0), time.Unix(0, 0).UTC()},
		{time.Unix(1<<33-1, 999), last},
		{time.Unix(1<<33, 0), last},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), last},
		{time.Date(300_000, 1, 1, 0, 0, 0, 0, time.UTC), last},
		{testTime.Add(time.Second - 1), testTime},
	} {
		var out bytes.Buffer
		w := newWriter(t, &out)
		for _, name := range []string{"short", strings.Repeat("long/", 100) + "ä"} {
			if err := w.Add(Entry{Name: name, Size: 1, Mode: 0o600, ModTime: tc.given}, strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Close(testManifest()); err != nil {
			t.Fatal(err)
		}
		_, r, err := read(t, out.Bytes(), fuzzIdentity())
		if err != nil {
			t.Errorf("%v: %v", tc.given, err)
			continue
		}
		for _, e := range r.Manifest().Entries {
			if e.ModTime != tc.want {
				t.Errorf("%v became %v, want %v", tc.given, e.ModTime, tc.want)
			}
		}
	}
}

// The archive's own time goes into the tar headers, too.
func TestClockOutOfRange(t *testing.T) {
	var out bytes.Buffer
	h := testHeader()
	h.Created = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	w, err := NewWriter(&out, WriterConfig{Header: h, Recipients: []age.Recipient{fuzzIdentity().Recipient()}, SpoolDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Add(Entry{Name: "a", Mode: 0o600}, strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(testManifest()); err != nil {
		t.Fatal(err)
	}
	_, r, err := read(t, out.Bytes(), fuzzIdentity())
	if err != nil {
		t.Fatal(err)
	}
	if m := r.Manifest(); !m.Created.Equal(h.Created) || m.Entries[0].ModTime.Unix() != maxTime {
		t.Errorf("created %v, entry %v", m.Created, m.Entries[0].ModTime)
	}
}

// Whatever header the Writer can be brought to write, the Reader takes.
func TestTarHeadersAreAccepted(t *testing.T) {
	n := 0
	for _, name := range []string{"a", strings.Repeat("x", 100), strings.Repeat("x", 101), strings.Repeat("y/", 60) + strings.Repeat("x", 90), strings.Repeat("x", maxName),
		"ä", "a b=c", "a%b", "12 path=x", strings.Repeat("日", 300), "PaxHeaders.0/a", strings.Repeat("d/", 511) + "f"} {
		if err := CheckEntryName(name); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int64{0, 1, 8<<30 - 1, 8 << 30, 1 << 40, math.MaxInt64 - 1024} {
			for _, mtime := range []time.Time{{}, time.Unix(-1, 5), time.Unix(maxTime, 7), time.Unix(maxTime+1, 0), testTime} {
				var out bytes.Buffer
				w := &Writer{tar: tar.NewWriter(&out)}
				if err := w.tarHeader(name, size, 0o777, mtime); err != nil {
					t.Fatalf("%.40q of %d bytes at %v: %v", name, size, mtime, err)
				}
				h, err := tar.NewReader(io.MultiReader(&out, strings.NewReader(strings.Repeat("\x00", 1024)))).Next()
				if err == nil {
					err = checkTarHeader(h)
				}
				if err != nil {
					t.Fatalf("%.40q of %d bytes at %v: %v", name, size, mtime, err)
				}
				if h.Name != name || h.Size != size || !h.ModTime.Equal(tarTime(mtime)) || h.Mode != 0o777 {
					t.Errorf("%.40q of %d bytes at %v: read back as %+v", name, size, mtime, h)
				}
				n++
			}
		}
	}
	if n == 0 {
		t.Error("nothing was tried")
	}
}
