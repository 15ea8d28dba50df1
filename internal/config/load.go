package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/n8keep/n8keep/internal/problem"
)

// FileName is the name of the file in the current folder and in the others.
const FileName = "n8keep.yaml"

// EnvFile is the variable that names the file to use.
const EnvFile = "N8KEEP_CONFIG"

// Host is what the file and the default folders are looked up in. The zero value
// is this process: its environment, its current folder and its user.
type Host struct {
	Env  func(string) (string, bool) // os.LookupEnv by default
	Dir  string                      // the current folder, "" for the real one
	Home string                      // by default $HOME, else the home folder of the user's account
	Etc  string                      // "/etc" by default
}

func (h Host) env(name string) string {
	look := h.Env
	if look == nil {
		look = os.LookupEnv
	}
	v, _ := look(name)
	return v
}

// home is never an error: a unit of systemd has no HOME, and a container's user
// may have no account. What needs a home says so.
func (h Host) home() string {
	if h.Home != "" {
		return h.Home
	}
	if v := h.env("HOME"); filepath.IsAbs(v) {
		return v
	}
	if u, err := user.LookupId(strconv.Itoa(os.Getuid())); err == nil && filepath.IsAbs(u.HomeDir) {
		return u.HomeDir
	}
	return ""
}

// Search is where the file is looked for when --config is not given and
// $N8KEEP_CONFIG is not set, in this order; the first that exists is used.
func (h Host) Search() []string {
	etc := h.Etc
	if etc == "" {
		etc = "/etc"
	}
	list := []string{filepath.Join(h.Dir, FileName)}
	if d, err := h.ConfigDir(); err == nil {
		list = append(list, filepath.Join(d, FileName))
	}
	return append(list, filepath.Join(etc, "n8keep", FileName))
}

// Load reads the file: the one at path (--config) if path is not "", else the one
// that $N8KEEP_CONFIG names, else the first of [Host.Search]. Without any the
// result is empty and no error.
func Load(path string, h Host) (*Config, error) {
	if path == "" {
		path = h.env(EnvFile)
	}
	if path != "" {
		return read(path, h)
	}
	for i, p := range h.Search() {
		info, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			continue
		case errors.Is(err, fs.ErrPermission) && i > 0:
			continue
		case err == nil && i == 0 && !mayTrust(info):
			return nil, problem.New(problem.Usage, "%q in the current folder belongs to another user", p).
				WithHint("if you trust it: --config %s", p).
				WithHint("if not, run n8keep in another folder")
		}
		return read(p, h)
	}
	return &Config{}, nil
}

func mayTrust(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Uid == 0 || int(st.Uid) == os.Getuid()
}

func read(path string, h Host) (*Config, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem.New(problem.NotFound, "there is no config file %q", path).
			WithHint("none is needed: everything can be given by flags; leave out --config and unset %s", EnvFile)
	}
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "reading the config file")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "reading the config file")
	}
	return Parse(b, abs, h.home())
}

// ConfigDir is where signing.key and n8keep.yaml are: n8keep in $XDG_CONFIG_HOME
// or ~/.config.
func (h Host) ConfigDir() (string, error) {
	return h.xdg("XDG_CONFIG_HOME", ".config", "--config and signing_key")
}

// StateDir is where the audit log, the locks and the work folder are unless the
// file or --state-dir says otherwise: n8keep in $XDG_STATE_HOME or ~/.local/state.
func (h Host) StateDir() (string, error) {
	return h.xdg("XDG_STATE_HOME", filepath.Join(".local", "state"), "--state-dir")
}

func (h Host) xdg(variable, below, instead string) (string, error) {
	// The XDG specification has relative values ignored.
	if v := h.env(variable); filepath.IsAbs(v) {
		return filepath.Join(v, "n8keep"), nil
	}
	home := h.home()
	if home == "" {
		return "", problem.New(problem.Usage, "this user has no home folder, and %s is not set", variable).
			WithHint("set %s or HOME, or give %s", variable, instead)
	}
	return filepath.Join(home, below, "n8keep"), nil
}

// Instance is the instance of that name; with "" the only one there is. A file
// without instances gives an empty Instance for "".
func (c *Config) Instance(name string) (string, Instance, error) {
	if name == "" && len(c.Instances) == 0 {
		return "", Instance{}, nil
	}
	return pick(c.Instances, name, c.Path, "instance", "--instance")
}

// Target is the target of that name; with "" the only one there is.
func (c *Config) Target(name string) (string, Target, error) {
	return pick(c.Targets, name, c.Path, "target", "--target")
}

func pick[T any](all map[string]T, name, path, what, flag string) (string, T, error) {
	var none T
	names := slices.Sorted(maps.Keys(all))
	switch {
	case name != "":
		if v, ok := all[name]; ok {
			return name, v, nil
		}
		e := problem.New(problem.NotFound, "there is no %s %q in the config", what, name)
		if len(names) > 0 {
			e.WithHint("there are: %s", strings.Join(names, ", "))
		}
		return "", none, e
	case len(names) == 0:
		return "", none, problem.New(problem.Usage, "no %s given", what).WithHint("say which with %s", flag)
	case len(names) > 1:
		return "", none, problem.New(problem.Usage, "%q has %d %ss", path, len(names), what).
			WithHint("say which with %s: %s", flag, strings.Join(names, ", "))
	}
	return names[0], all[names[0]], nil
}

// String says where the config came from.
func (c *Config) String() string {
	if c.Path == "" {
		return "no config file"
	}
	return fmt.Sprintf("config file %q", c.Path)
}
