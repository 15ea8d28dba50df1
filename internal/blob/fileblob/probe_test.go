package fileblob

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/blob"
)

func answers(t *testing.T, s *Store) [7]blob.Answer {
	t.Helper()
	list, err := s.Probe(t.Context(), "canary")
	if err != nil {
		t.Fatal(err)
	}
	var got [7]blob.Answer
	for i, trial := range list {
		if trial.Capability != blob.Capabilities()[i] {
			t.Errorf("trial %d is of %q", i, trial.Capability)
		}
		got[i] = trial.Answer
	}
	return got
}

func TestTrials(t *testing.T) {
	const y, na = blob.Yes, blob.NotApplicable
	s := newStore(t)
	if got, want := answers(t, s), [7]blob.Answer{y, y, y, y, y, na, na}; got != want {
		t.Errorf("own folder: %v, want %v", got, want)
	}
	left, err := os.ReadDir(s.dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := s.Probe(t.Context(), "a/b"); err == nil || !strings.Contains(err.Error(), "object name") {
		t.Errorf("bad name: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	under, err := New(filepath.Join(s.dir, "file", "folder"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := under.Probe(t.Context(), "canary"); err == nil || !strings.Contains(err.Error(), "trying out") {
		t.Errorf("no folder: %v", err)
	}
}

func TestTrialsInAFolderThatOnlyReads(t *testing.T) {
	const y, n, na = blob.Yes, blob.No, blob.NotApplicable
	s := newStore(t)
	if _, err := s.Put(t.Context(), "archive", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		// Modes do not bind root; /proc refuses even him.
		ro, err := New("/proc/self")
		if err != nil {
			t.Fatal(err)
		}
		list, err := ro.Probe(t.Context(), "canary")
		if err == nil && list[0].Answer == blob.Yes {
			t.Errorf("a file was made in /proc: %v", list)
		}
		return
	}
	for path, mode := range map[string]os.FileMode{filepath.Join(s.dir, "archive"): 0o400, s.dir: 0o500} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Chmod(s.dir, 0o700)
	if got, want := answers(t, s), [7]blob.Answer{n, y, y, n, n, na, na}; got != want {
		t.Errorf("%v, want %v", got, want)
	}
}
