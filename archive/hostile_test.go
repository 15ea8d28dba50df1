package archive

import (
	"archive/tar"
	"bytes"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// tarEntry is an entry of a tar stream that our Writer would not write.
type tarEntry struct {
	name, body, link string
	kind             byte  // 0: regular
	mode             int64 // 0: 0600
	late             bool  // an hour later
	mtime            int64 // 0: testTime
	gnu              bool
	pax              map[string]string
}

// tarStream writes the entries and tail; "" stands for the proper end, "none"
// for nothing.
func tarStream(t testing.TB, entries []tarEntry, tail string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: tar.TypeReg, Size: int64(len(e.body)), Mode: 0o600, ModTime: testTime, Linkname: e.link, PAXRecords: e.pax}
		if e.kind != 0 {
			h.Typeflag = e.kind
		}
		if e.mode != 0 {
			h.Mode = e.mode
		}
		if e.mtime != 0 {
			h.ModTime = time.Unix(e.mtime, 0)
		}
		if e.gnu {
			h.Format = tar.FormatGNU
		}
		if e.late {
			h.ModTime = testTime.Add(time.Hour)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	switch tail {
	case "":
		if len(entries) > 0 {
			out.Write(make([]byte, 1024))
		}
	case "none":
	default:
		out.WriteString(tail)
	}
	return out.Bytes()
}

func compress(t testing.TB, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(b, nil)
}

func seal(t testing.TB, b []byte, recipients ...age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipients...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
