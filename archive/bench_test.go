package archive

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"filippo.io/age"
)

const benchSize = 256 << 20

// BenchmarkWriter and BenchmarkShell do the same work: what people do by hand
// is `tar c | zstd | age`.
func BenchmarkWriter(b *testing.B) {
	id := newIdentity(b)
	dir := b.TempDir()
	b.SetBytes(benchSize)
	b.ReportAllocs()
	for b.Loop() {
		w, err := NewWriter(io.Discard, WriterConfig{Header: testHeader(), Recipients: []age.Recipient{id.Recipient()}, SpoolDir: dir})
		if err != nil {
			b.Fatal(err)
		}
		if err := w.Add(Entry{Name: "database/database.sqlite", Size: benchSize, Mode: 0o600}, io.LimitReader(newSample(8<<20), benchSize)); err != nil {
			b.Fatal(err)
		}
		sum, err := w.Close(testManifest())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(sum.Size)/(1<<20), "MiB-out")
	}
}

func BenchmarkShell(b *testing.B) {
	id := newIdentity(b)
	out := filepath.Join(b.TempDir(), "out")
	b.SetBytes(benchSize)
	for b.Loop() {
		cmd := exec.Command("bash", "-c", "set -o pipefail; zstd -q | age -r "+id.Recipient().String()+" | tee >(wc -c > "+out+") | sha256sum > /dev/null")
		cmd.Stdin = io.LimitReader(newSample(8<<20), benchSize)
		if text, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, text)
		}
	}
}

func BenchmarkReader(b *testing.B) {
	id := newIdentity(b)
	body, err := io.ReadAll(io.LimitReader(newSample(8<<20), benchSize/4))
	if err != nil {
		b.Fatal(err)
	}
	archive, _ := write(b, []file{{"database/database.sqlite", body}}, 0, id.Recipient())
	dir := b.TempDir()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(archive), dir, id)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Verify(); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}

func BenchmarkManyEntries(b *testing.B) {
	id := newIdentity(b)
	dir := b.TempDir()
	body := bytes.Repeat([]byte(`{"nodes":[]}`), 100)
	b.ReportAllocs()
	for b.Loop() {
		w, err := NewWriter(io.Discard, WriterConfig{Header: testHeader(), Recipients: []age.Recipient{id.Recipient()}, SpoolDir: dir})
		if err != nil {
			b.Fatal(err)
		}
		for i := range 10_000 {
			name := fmt.Sprintf("workflows/%d.json", i)
			if err := w.Add(Entry{Name: name, Size: int64(len(body)), Mode: 0o600}, bytes.NewReader(body)); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := w.Close(testManifest()); err != nil {
			b.Fatal(err)
		}
	}
}
