package fileblob

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/durable"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return newStore(t) })
}

func TestFolderIsMadeByTheFirstPut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "target")
	s, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range s.List(t.Context(), "") {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "listing") || !strings.Contains(err.Error(), dir) {
			t.Errorf("List: %v", err)
		}
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("reading made the folder")
	}
	if _, err := s.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "a"): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q has mode %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if _, err := New(""); err == nil || err.Error() != "opening a target folder: no folder given" {
		t.Errorf("no folder: %v", err)
	}
}

func TestForeignThingsAreLeftAlone(t *testing.T) {
	s := newStore(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(s.dir, "folder"), 0o700),
		os.Symlink(outside, filepath.Join(s.dir, "link")),
		syscall.Mkfifo(filepath.Join(s.dir, "pipe"), 0o600),
		os.WriteFile(filepath.Join(s.dir, "with space"), nil, 0o600),
		os.WriteFile(filepath.Join(s.dir, ".hidden"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if names := blobtest.Names(t, s, ""); len(names) != 0 {
		t.Errorf("List: %q", names)
	}
	for _, name := range []string{"folder", "link", "pipe"} {
		if _, _, err := s.Get(t.Context(), name); !errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("Get %q: %v", name, err)
		}
		if err := s.Delete(t.Context(), name); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Delete %q: %v", name, err)
		}
		if _, err := s.Put(t.Context(), name, strings.NewReader("x")); !errors.Is(err, blob.ErrExists) {
			t.Errorf("Put %q: %v", name, err)
		}
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "secret" {
		t.Errorf("outside the folder: %q, %v", b, err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 5 {
		t.Errorf("%d things left, %v", len(entries), err)
	}
}

// Errors name the object and the folder.
func TestErrorTexts(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	if _, err := s.Put(ctx, "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	_, putErr := s.Put(ctx, "a", strings.NewReader("x"))
	_, _, getErr := s.Get(ctx, "b")
	_, statErr := s.Stat(ctx, "b")
	for _, tc := range []struct {
		err  error
		want string
	}{
		{putErr, `storing "a" in "DIR": object exists already`},
		{getErr, `opening "b" in "DIR": object not found`},
		{statErr, `looking for "b" in "DIR": object not found`},
		{s.Delete(ctx, "b"), `deleting "b" from "DIR": object not found`},
		{s.Delete(ctx, "../b"), `object name "../b": want 1 to 200 letters, digits, dots, hyphens and underscores, not beginning with dot or hyphen`},
	} {
		if want := strings.ReplaceAll(tc.want, "DIR", s.dir); tc.err == nil || tc.err.Error() != want {
			t.Errorf("got  %v\nwant %s", tc.err, want)
		}
	}
}

func TestObjectCutWhileRead(t *testing.T) {
	s := newStore(t)
	if _, err := s.Put(t.Context(), "a", strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	r, _, err := s.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := os.Truncate(filepath.Join(s.dir, "a"), 3); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := r.Read(buf)
	if err == nil {
		_, err = r.Read(buf)
	}
	if n != 3 || err == nil || err.Error() != `reading "a": it was cut meanwhile: unexpected EOF` {
		t.Errorf("read %d, %v", n, err)
	}
}

func temporaries(t *testing.T, dir string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, durable.TempPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// lookReader calls look when it is read for the first time.
type lookReader struct {
	*strings.Reader
	look func()
}

func (r *lookReader) Read(p []byte) (int, error) {
	if r.look != nil {
		r.look()
		r.look = nil
	}
	return r.Reader.Read(p)
}

func TestSweepSparesLivingWriters(t *testing.T) {
	s := newStore(t)
	dead := filepath.Join(s.dir, durable.TempPrefix+"dead")
	if err := os.WriteFile(dead, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.Put(t.Context(), "outer", &lookReader{strings.NewReader("outer"), func() {
		if left := temporaries(t, s.dir); len(left) != 1 || left[0] == dead {
			t.Errorf("during a Put: %q", left)
		}
		if _, err := s.Put(t.Context(), "inner", strings.NewReader("inner")); err != nil {
			t.Error(err)
		}
		if left := temporaries(t, s.dir); len(left) != 1 {
			t.Errorf("after another Put: %q", left)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if left := temporaries(t, s.dir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	for _, name := range []string{"inner", "outer"} {
		if got := blobtest.ReadAll(t, s, name); string(got) != name {
			t.Errorf("%q holds %q", name, got)
		}
	}
}

// What the file system cannot do is said before anything is read, and asked once.
func TestProbe(t *testing.T) {
	s := newStore(t)
	fails, probes := true, 0
	s.fault = func(step string) error {
		if step != "probe" {
			return nil
		}
		probes++
		if fails {
			return durable.ErrNoExclusive
		}
		return nil
	}
	r := strings.NewReader("content")
	if _, err := s.Put(t.Context(), "a", r); !errors.Is(err, durable.ErrNoExclusive) || r.Len() != len("content") {
		t.Errorf("%v, %d bytes left", err, r.Len())
	}
	fails = false
	for _, name := range []string{"a", "b"} {
		if _, err := s.Put(t.Context(), name, strings.NewReader("content")); err != nil {
			t.Fatal(err)
		}
	}
	if probes != 2 {
		t.Errorf("probed %d times", probes)
	}
	if left := temporaries(t, s.dir); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

func TestNewParentsAreSynced(t *testing.T) {
	base := t.TempDir()
	s, err := New(filepath.Join(base, "a", "b", "c"))
	if err != nil {
		t.Fatal(err)
	}
	var synced []string
	s.fault = func(step string) error {
		if dir, ok := strings.CutPrefix(step, "synced "); ok {
			synced = append(synced, dir)
		}
		return nil
	}
	if _, err := s.Put(t.Context(), "x", strings.NewReader("y")); err != nil {
		t.Fatal(err)
	}
	if want := []string{filepath.Join(base, "a", "b"), filepath.Join(base, "a"), base}; !slices.Equal(synced, want) {
		t.Errorf("synced %q, want %q", synced, want)
	}
}

// TestFaults goes through every step of Put and Delete: whatever is reported,
// the object is there as a whole or not at all, nothing temporary stays, and the
// next try ends well.
func TestFaults(t *testing.T) {
	errFault := errors.New("disk on fire")
	for _, tc := range []struct {
		step   string
		stored bool // the object is there afterwards
	}{
		{"write", false},
		{"commit", false},
		{"committed", true}, // stored but reported failed
		{"remove", true},
		{"removed", false}, // deleted but reported failed
	} {
		t.Run(tc.step, func(t *testing.T) {
			s := newStore(t)
			content := strings.Repeat("x", 3<<20)
			ctx := context.Background()
			hit := false
			fault := func(step string) error {
				if step != tc.step {
					return nil
				}
				hit = true
				return errFault
			}
			var err error
			if strings.HasPrefix(tc.step, "remove") {
				if _, err := s.Put(ctx, "a", strings.NewReader(content)); err != nil {
					t.Fatal(err)
				}
				s.fault = fault
				err = s.Delete(ctx, "a")
			} else {
				s.fault = fault
				_, err = s.Put(ctx, "a", strings.NewReader(content))
			}
			if !hit || !errors.Is(err, errFault) {
				t.Fatalf("step reached: %v, error %v", hit, err)
			}
			again, err := New(s.dir)
			if err != nil {
				t.Fatal(err)
			}
			checkWhole(t, again, content, &tc.stored)
			if left := temporaries(t, s.dir); len(left) != 0 {
				t.Errorf("left: %q", left)
			}
			retry(t, again, content)
		})
	}
}

// checkWhole checks that "a" is complete or absent; stored, if not nil, says which.
func checkWhole(t *testing.T, s *Store, content string, stored *bool) {
	t.Helper()
	_, err := s.Stat(t.Context(), "a")
	there := err == nil
	if err != nil && !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if stored != nil && there != *stored {
		t.Errorf("the object is there: %v, want %v", there, *stored)
	}
	if there {
		if got := blobtest.ReadAll(t, s, "a"); string(got) != content {
			t.Errorf("the object holds %d bytes, want %d", len(got), len(content))
		}
	}
}

func retry(t *testing.T, s *Store, content string) {
	t.Helper()
	if _, err := s.Put(t.Context(), "a", strings.NewReader(content)); err != nil && !errors.Is(err, blob.ErrExists) {
		t.Errorf("second try: %v", err)
	}
	yes := true
	checkWhole(t, s, content, &yes)
	if left := temporaries(t, s.dir); len(left) != 0 {
		// An object that exists spares the sweep nothing: it comes first.
		t.Errorf("left after the second try: %q", left)
	}
}
