package n8nhome

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// TestChangeable: what stands against a change is found without one.
func TestChangeable(t *testing.T) {
	dir := t.TempDir()
	f := ConfigKeyFile(dir)
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(f.Name, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	put(oldConfig)
	c := change(t)
	s, err := f.Stage(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	c.Before = s.Before()
	unchanged := func(want string) {
		t.Helper()
		if got := names(t, dir); strings.Join(got, " ") != "config" || content(t, f.Name) != want {
			t.Errorf("%q: %q", got, content(t, f.Name))
		}
	}
	for _, text := range []string{oldConfig, newConfig} {
		put(text)
		if err := s.Changeable(c); err != nil {
			t.Error(err)
		}
		unchanged(text)
	}
	third := strings.Replace(newConfig, isKey, "a-third-key-of-somebody", 1)
	put(third)
	if err := s.Changeable(c); problem.KindOf(err) != problem.WrongKey || !strings.Contains(problem.HintOf(err), "put one of the two there") {
		t.Error(err)
	}
	unchanged(third)
	put("[]")
	if err := s.Changeable(c); problem.KindOf(err) != problem.Damaged {
		t.Error(err)
	}
	if err := os.Remove(f.Name); err != nil {
		t.Fatal(err)
	}
	if err := s.Changeable(c); err != nil {
		t.Error(err)
	}
	gone := s
	gone.Path = filepath.Join(dir, "gone", "config")
	if err := gone.Changeable(c); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "has been removed, and nothing can be written to its folder") || problem.HintOf(err) == "" {
		t.Error(err)
	}

	put(oldConfig)
	if err := setImmutable(f.Name, true); err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
			t.Log("this user, or this file system, makes no immutable files")
			return
		}
		t.Fatal(err)
	}
	defer setImmutable(f.Name, false)
	c.Before = secret.NewBytes([]byte(oldConfig))
	_, staged := f.Stage(c)
	for what, err := range map[string]error{"file": f.Changeable(), "rotation": s.Changeable(c), "stage": staged} {
		if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "cannot be changed: it is immutable") || !strings.Contains(problem.HintOf(err), "chattr -ia "+f.Name) {
			t.Errorf("%s: %v", what, err)
		}
	}
	unchanged(oldConfig)
}

func setImmutable(path string, yes bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	flags, err := unix.IoctlGetInt(int(file.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return err
	}
	const immutable = 0x10 // FS_IMMUTABLE_FL
	if flags &^= immutable; yes {
		flags |= immutable
	}
	return unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, flags)
}
