package n8nhome

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func setAttribute(path, name, value string) error { return unix.Setxattr(path, name, []byte(value), 0) }

func attributeOf(path, name string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return attribute(f, name)
}

// inNamespace runs a test of this binary again as root of a mount namespace of its
// own, or as somebody else.
func again(t *testing.T, attr *syscall.SysProcAttr, env ...string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = attr
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// A config that is mounted into a container as a file cannot be replaced by a rename.
func TestMountPoint(t *testing.T) {
	const variable = "N8NHOME_TEST_MOUNT"
	target := os.Getenv(variable)
	if target == "" {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "source"), []byte(oldConfig), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "config"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		attr := &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if os.Geteuid() != 0 {
			attr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}}
		}
		again(t, attr, variable+"="+dir)
		if got := content(t, filepath.Join(dir, "source")); got != newConfig {
			t.Errorf("the file that is mounted: %q", got)
		}
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	f := ConfigKeyFile(target)
	if err := unix.Mount(filepath.Join(target, "source"), f.Name, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	c := change(t)
	s, err := f.Stage(c)
	if err != nil {
		t.Fatal(err)
	}
	if s.Staged != "" || s.InPlace != "it is a mount point" || s.Mode != 0o640 {
		t.Errorf("%+v", s)
	}
	c.Before = s.Before()
	for range 2 {
		if err := s.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
	if exact, err := s.Undo(c); err != nil || !exact || content(t, f.Name) != oldConfig {
		t.Fatal(exact, err)
	}
	// Where it could not be told, the rename fails.
	s.InPlace = ""
	s.Staged = stagedName(s.Path)
	if err := os.WriteFile(s.Staged, []byte(newConfig), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.Staged, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	if got := names(t, target); strings.Join(got, " ") != "config source" || content(t, f.Name) != newConfig {
		t.Error(got)
	}
	// Mounted read-only, as secrets are.
	if err := unix.Mount("", f.Name, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	err = f.Changeable()
	if err == nil || !strings.Contains(err.Error(), "cannot be changed: it is a mount point, and it cannot be written in place: read-only file system") {
		t.Error(err)
	}
	found, err := FindKeyPlaces(KeyPlacesConfig{Key: c.New, Dir: target})
	if err != nil || len(found.ByHand()) != 1 || len(found.Files()) != 0 || found.Places[0].Change != fmt.Sprintf("replace the key in %q by the new key", f.Name) ||
		!strings.Contains(found.Places[0].Problem, "it is a mount point, and it cannot be written in place") {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := f.Stage(KeyChange{Old: c.New, New: c.Old}); err == nil || !strings.Contains(err.Error(), "cannot be changed: it is a mount point") {
		t.Error(err)
	}
}

// TestAttributesByDescriptor: what n8n's user puts in the place of the file beside gets no attribute.
func TestAttributesByDescriptor(t *testing.T) {
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	from, to, victim := open("config"), open("beside"), open("victim")
	if err := setAttribute(from.Name(), "user.n8keep-test", "value"); err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			t.Log("this file system has no extended attributes")
			return
		}
		t.Fatal(err)
	}
	if err := os.Remove(to.Name()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim.Name(), to.Name()); err != nil {
		t.Fatal(err)
	}
	if err := copyAttributes(from, to); err != nil {
		t.Fatal(err)
	}
	if got, err := attribute(to, "user.n8keep-test"); err != nil || string(got) != "value" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := attributes(victim); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

// A user who owns the file and not its folder, and one who owns neither.
func TestOtherUsers(t *testing.T) {
	const variable = "N8NHOME_TEST_USER"
	if os.Getenv(variable) == "" {
		if os.Geteuid() != 0 {
			// Without root nobody else can be had: the file of another user is one of root's.
			f := PlainKeyFile("/etc/hostname")
			if err := f.Changeable(); err == nil || !strings.Contains(err.Error(), "cannot be written in place") {
				t.Error(err)
			}
			return
		}
		// Not below the folders of the tests, which are root's alone.
		dir, err := os.MkdirTemp("/tmp", "n8nhome-users-*")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		exe, err := os.ReadFile(mustExecutable(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []error{
			os.Chmod(dir, 0o755),
			os.WriteFile(filepath.Join(dir, "test"), exe, 0o755),
			os.WriteFile(filepath.Join(dir, "config"), []byte(oldConfig), 0o600), os.Chown(filepath.Join(dir, "config"), 1234, 1234),
			os.WriteFile(filepath.Join(dir, "root"), []byte(wasKey), 0o644),
			os.Mkdir(filepath.Join(dir, "open"), 0o777), os.Chmod(filepath.Join(dir, "open"), 0o777),
			os.WriteFile(filepath.Join(dir, "open", "config"), []byte(oldConfig), 0o666), os.Chmod(filepath.Join(dir, "open", "config"), 0o666),
		} {
			if step != nil {
				t.Fatal(step)
			}
		}
		cmd := exec.Command(filepath.Join(dir, "test"), "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), variable+"="+dir)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if got := content(t, filepath.Join(dir, "config")); got != newConfig {
			t.Errorf("%q", got)
		}
		// As root, the owner is kept when the file is replaced.
		c := change(t)
		c.Old, c.New = c.New, c.Old
		f := ConfigKeyFile(dir)
		s, err := f.Stage(c)
		if err == nil {
			err = s.Apply(c)
		}
		info, err2 := os.Stat(f.Name)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if uid, gid := ownerOf(info); uid != 1234 || gid != 1234 || info.Mode() != 0o600 || s.InPlace != "" {
			t.Error(uid, gid, info.Mode(), s.InPlace)
		}
		return
	}
	dir := os.Getenv(variable)
	c := change(t)
	f := ConfigKeyFile(dir)
	s, err := f.Stage(c)
	if err != nil {
		t.Fatal(err)
	}
	if s.InPlace != "nothing can be written to its folder" || s.Staged != "" {
		t.Errorf("%+v", s)
	}
	if err := s.Apply(c); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	err = PlainKeyFile(filepath.Join(dir, "root")).Changeable()
	if err == nil || !strings.Contains(err.Error(), "cannot be changed: nothing can be written to its folder, and it cannot be written in place: permission denied") {
		t.Error(err)
	}
	// Replacing it would make it ours.
	open, err := ConfigKeyFile(filepath.Join(dir, "open")).Stage(c)
	if err != nil || open.InPlace != "only root can make a file of user 0 and group 0" {
		t.Errorf("%+v, %v", open, err)
	}
	fmt.Println("as somebody else")
}

func mustExecutable(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}
