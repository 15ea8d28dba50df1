package archive

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/base32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// TestFormatDocument runs the commands of docs/format.md, as they stand there,
// against the golden archive.
func TestFormatDocument(t *testing.T) {
	var script strings.Builder
	script.WriteString("set -euo pipefail\n")
	blocks := 0
	inside := false
	for line := range strings.Lines(string(readFile(t, "../docs/format.md"))) {
		switch strings.TrimSpace(line) {
		case "```sh":
			inside = true
			blocks++
			continue
		case "```":
			inside = false
		}
		if inside {
			script.WriteString(line)
		}
	}
	if blocks < 7 {
		t.Fatalf("found %d blocks of commands", blocks)
	}
	id := goldenIDs[0]
	dir := t.TempDir()
	for _, name := range []string{id.ArchiveName(), id.SidecarName(), string(id) + ".identity"} {
		writeFile(t, filepath.Join(dir, name), readFile(t, filepath.Join(goldenDir, name)))
	}
	writeFile(t, filepath.Join(dir, "key"), []byte(goldenKey))
	writeFile(t, filepath.Join(dir, "plaintext"), []byte(goldenPlaintext))
	cmd := exec.Command("bash", "-c", script.String())
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "ID="+string(id), "IDENTITY="+string(id)+".identity", "INSTANCE_KEY=key", "PLAINTEXT=plaintext",
		"PLACE="+goldenPlace, "ROW="+goldenRow)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, stdout.String(), stderr.String())
	}
	fingerprint, err := pbkdf2.Key(sha512.New, goldenKey, []byte("n8keep.fingerprint.v1"), 600_000, 32)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		id.ArchiveName() + ": OK",
		"all entries agree",
		goldenPlace + " row eFgH5678: wrong key",
		"digest agrees",
		"Signature Verified Successfully",
		goldenSigner,
		"n8k1-" + strings.ToLower(base32.StdEncoding.EncodeToString(fingerprint))[:16],
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the commands do not say %q; they say\n%s%s", want, stdout.String(), stderr.String())
		}
	}
	for _, f := range goldenFiles() {
		path := filepath.Join(dir, "opened", f.name)
		if f.name == "database/postgres.dump" {
			path = filepath.Join(dir, "postgres.dump")
		}
		if !bytes.Equal(readFile(t, path), f.body) {
			t.Errorf("%q differs", f.name)
		}
	}
}

// The command line age of this machine may be too old for post-quantum files, so
// the first step is the library's; zstd and tar are the commands.
func TestOpenPostQuantumByHand(t *testing.T) {
	id := goldenIDs[1]
	ids, err := age.ParseIdentities(bytes.NewReader(readFile(t, filepath.Join(goldenDir, string(id)+".identity"))))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := age.Decrypt(bytes.NewReader(readFile(t, filepath.Join(goldenDir, id.ArchiveName()))), ids...)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("bash", "-c", "set -o pipefail; zstd -d | tar x")
	cmd.Dir, cmd.Stdin = dir, plain
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := readFile(t, filepath.Join(dir, "workflows/w1.json")); string(got) != `{"id":"w1","name":"one"}` {
		t.Errorf("got %q", got)
	}
}

// A large archive has many frames and pieces; the commands must read them all.
func TestCommandsReadManyFrames(t *testing.T) {
	identity := newIdentity(t)
	body := bytes.Repeat(random(1<<20, 3), 21)
	var out bytes.Buffer
	w, err := NewWriter(&out, WriterConfig{Header: testHeader(), Recipients: []age.Recipient{identity.Recipient()}, SpoolDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	s := w.Stream("dump", 0o600)
	for rest := body; len(rest) > 0; {
		n := min(len(rest), 333_333)
		if _, err := s.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(testManifest()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "identity"), []byte(identity.String()))
	cmd := exec.Command("bash", "-c", "set -o pipefail; age -d -i identity | zstd -d | tar xO --wildcards 'dump.*'")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(out.Bytes())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if !bytes.Equal(got, body) {
		t.Errorf("got %d bytes, want %d", len(got), len(body))
	}
}

func writeFile(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
