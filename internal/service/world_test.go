package service

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
)

// The types of testdata/faketool, which has what they mean.
type (
	world struct {
		Units      map[string]*unit
		Bus        string
		Daemon     string
		NoCompose  bool
		Services   map[string]*composeService
		Config     string
		ConfigFail string
	}
	unit struct {
		User               bool
		Load               string
		States             []string
		OnStop, OnStart    []string
		FailStop           string
		FailStart          string
		Fragment, DropIns  string
		ExitStop, ExitBoot int
	}
	composeService struct {
		Containers      []*container
		OnStop, OnStart []*container
		FailStop        string
		FailStart       string
	}
	container struct {
		ID, Name string
		States   []string
	}
)

var tools struct {
	once sync.Once
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if tools.path != "" {
		os.RemoveAll(filepath.Dir(tools.path))
	}
	os.Exit(code)
}

// with makes a world and the programs that live in it.
func with(t *testing.T, w world) string {
	t.Helper()
	tools.once.Do(func() {
		var dir string
		if dir, tools.err = os.MkdirTemp("", "faketool"); tools.err != nil {
			return
		}
		tools.path = filepath.Join(dir, "faketool")
		if out, err := exec.Command("go", "build", "-o", tools.path, "./testdata/faketool").CombinedOutput(); err != nil {
			t.Logf("%s", out)
			tools.err = err
		}
	})
	if tools.err != nil {
		t.Fatal(tools.err)
	}
	dir := t.TempDir()
	for _, name := range []string{"systemctl", "docker", "docker-compose"} {
		if err := os.Link(tools.path, filepath.Join(dir, name)); err != nil {
			b, err := os.ReadFile(tools.path)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), b, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	b, err := json.Marshal(w)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "world.json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// calls are what was called, one line each, without what both versions always have.
func calls(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		var call []string
		if err := json.Unmarshal([]byte(line), &call); err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(strings.Join(call, " "), dir, "DIR")
		text = strings.ReplaceAll(text, "--property="+properties, "--property=P")
		text = strings.ReplaceAll(text, inspection, "FORMAT")
		lines = append(lines, text)
	}
	if len(lines) == 0 {
		t.Fatal("nothing was called")
	}
	return lines
}

// quick are limits for tests in which nothing has to be waited for.
func quick() Config {
	return Config{StopLimit: 20 * time.Second, StartLimit: 20 * time.Second, HealthLimit: 20 * time.Second, Poll: time.Millisecond, Settle: time.Millisecond}
}

// short are limits for tests in which they are reached.
func short() Config {
	return Config{StopLimit: 300 * time.Millisecond, StartLimit: 300 * time.Millisecond, HealthLimit: 300 * time.Millisecond, Poll: 5 * time.Millisecond, Settle: time.Millisecond}
}

func open(t *testing.T, o Orchestrator, cfg Config) *Service {
	t.Helper()
	s, err := New(o, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fails checks the kind of an error, and that its text and hint have the parts.
func fails(t *testing.T, err error, kind problem.Kind, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if got := problem.KindOf(err); got != kind {
		t.Errorf("kind %q, want %q: %v", got, kind, err)
	}
	text := err.Error() + "\n" + problem.HintOf(err)
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
	if problem.HintOf(err) == "" && kind != problem.Interrupted {
		t.Errorf("no hint: %v", err)
	}
}
