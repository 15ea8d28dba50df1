package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

// lab is one host: a home, an n8n folder, a target, and the program built with
// failpoints.
type lab struct {
	t        *testing.T
	bin      string
	dir      string
	n8n      string
	target   string
	identity string
	key      string
	recip    string
	env      []string
}

const labKey = "lab-key-2.41.1-0123456789abcdef"

func newLab(t *testing.T, bin, fixture string) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{t: t, bin: bin, dir: dir, n8n: filepath.Join(dir, "n8n"), target: filepath.Join(dir, "backups"),
		identity: filepath.Join(dir, "identity.txt"), key: filepath.Join(dir, "key")}
	copyTree(t, filepath.Join("../../testdata/fixtures", fixture), l.n8n, "config", "database.sqlite")
	// Older than a tick of the clock: such a database is read without side files.
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(l.n8n, "database.sqlite"), past, past); err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	l.recip = id.Recipient().String()
	write(t, l.identity, id.String())
	write(t, l.key, labKey)
	l.env = []string{"HOME=" + filepath.Join(dir, "home"), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir}
	return l
}

// buildWithFailpoints builds the program once a test.
func buildWithFailpoints(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "n8keep")
	cmd := exec.Command("go", "build", "-tags", "failpoint", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building with failpoints: %v\n%s", err, out)
	}
	return bin
}

type result struct {
	code   int // -1 when killed
	stdout string
	stderr string
}

func (l *lab) run(failpoint string, args ...string) result {
	l.t.Helper()
	cmd := exec.Command(l.bin, args...)
	cmd.Env = append(append([]string{}, l.env...), "N8KEEP_FAILPOINT="+failpoint)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// must runs a command that has to succeed and decodes its JSON.
func (l *lab) must(doc any, args ...string) result {
	l.t.Helper()
	r := l.run("", args...)
	if r.code != 0 {
		l.t.Fatalf("n8keep %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	if doc != nil {
		if err := json.Unmarshal([]byte(r.stdout), doc); err != nil {
			l.t.Fatalf("n8keep %s: %v\n%s", strings.Join(args, " "), err, r.stdout)
		}
	}
	return r
}

// points lists the failpoints a command passes.
func (l *lab) points(args ...string) []string {
	l.t.Helper()
	file := filepath.Join(l.dir, "points")
	if r := l.run("list:"+file, args...); r.code != 0 {
		l.t.Fatalf("n8keep %s: exit %d\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		l.t.Fatal(err)
	}
	os.Remove(file)
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func (l *lab) create(extra ...string) []string {
	return append([]string{"backup", "create", "--instance", "lab", "--n8n-dir", l.n8n, "--recipient", l.recip, "--target", l.target, "--json"}, extra...)
}

// sample picks every n-th point and the last two; all of them in a soak.
func sample(points []string, n int) []int {
	var out []int
	for i := range points {
		if os.Getenv("N8KEEP_SOAK") != "" || i%n == 0 || i >= len(points)-2 {
			out = append(out, i)
		}
	}
	return out
}

// treeHash is a hash of names, modes and contents below dir.
func treeHash(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		h.Write([]byte(rel + "\x00" + info.Mode().String() + "\x00"))
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(b)
			h.Write(sum[:])
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func copyTree(t *testing.T, from, to string, names ...string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, name), string(b))
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
