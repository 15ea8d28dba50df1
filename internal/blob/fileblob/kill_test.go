package fileblob

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const killContent = "0123456789abcdef"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	dir := os.Getenv("FILEBLOB_TEST_PUT_INTO")
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := New(dir)
	if err == nil {
		_, err = s.Put(context.Background(), "a", strings.NewReader(strings.Repeat(killContent, 200_000)))
	}
	if err == nil {
		_, err = s.Put(context.Background(), "b", strings.NewReader("b"))
	}
	if err == nil {
		err = s.Delete(context.Background(), "b")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestKilledAnywhere kills a process at each point where it changes something,
// and then looks at the folder with the eyes of the next one.
func TestKilledAnywhere(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "killed.test")
	build := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	run := func(dir, mode string) error {
		cmd := exec.Command(binary)
		cmd.Env = append(os.Environ(), "FILEBLOB_TEST_PUT_INTO="+dir, "N8KEEP_FAILPOINT="+mode)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%w: %s", err, stderr.Bytes())
		}
		return nil
	}
	list := filepath.Join(t.TempDir(), "points")
	if err := run(filepath.Join(t.TempDir(), "target"), "list:"+list); err != nil {
		t.Fatal(err)
	}
	points, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(points)), "\n")
	for _, want := range []string{"fileblob.folder-made", "durable.created", "fileblob.written", "fileblob.copied", "durable.synced", "durable.renamed", "durable.dir-synced", "fileblob.remove", "fileblob.removed"} {
		if !strings.Contains(string(points), want) {
			t.Errorf("point %q is never passed; got\n%s", want, points)
		}
	}
	for i, point := range lines {
		t.Run(strings.ReplaceAll(point, " ", "-"), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "target")
			err := run(dir, fmt.Sprintf("kill:%d", i+1))
			if err == nil || !strings.Contains(err.Error(), syscall.SIGKILL.String()) {
				t.Fatalf("not killed: %v", err)
			}
			s, err := New(dir)
			if err != nil {
				t.Fatal(err)
			}
			content := strings.Repeat(killContent, 200_000)
			checkWhole(t, s, content, nil)
			retry(t, s, content)
		})
	}
}
