// Package failtest lets a test kill a process at any of its failpoints.
//
// The test binary itself is that process: TestMain hands over what it does there, and a
// job says on what. A job is any value that JSON can hold:
//
//	func TestMain(m *testing.M) { os.Exit(failtest.Main(m.Run, job.do)) }
//
//	points := failtest.Points(t, j)  // the names of all that j passes
//	failtest.Kill(t, j, 3)           // j, up to the third of them
//
// Do, Points and Kill run the binary built with the tag failpoint, without the race
// detector, which slows down every start. It is built when the first of them is called,
// in the folder of the package, and removed after the last test. The kernel kills a
// child when the test binary dies.
package failtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/n8keep/n8keep/internal/failpoint"
)

// Variables of the environment of a child.
const (
	jobVariable = "N8KEEP_FAILTEST_JOB"
	variable    = "N8KEEP_FAILPOINT"
)

// killable is the binary with failpoints.
var killable struct {
	sync.Mutex
	main   bool // Main runs and will remove dir
	binary string
	dir    string
}

// Main is what TestMain ends with. In a process that one of the others has started it
// does the job, and an error is printed and makes the process fail. Else it runs the
// tests (m.Run, or what does that with servers around it).
func Main[J any](run func() int, do func(J) error) int {
	if text, ok := os.LookupEnv(jobVariable); ok {
		var j J
		err := json.Unmarshal([]byte(text), &j)
		if err == nil {
			err = do(j)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	killable.Lock()
	killable.main = true
	killable.Unlock()
	code := run()
	killable.Lock()
	defer killable.Unlock()
	if err := os.RemoveAll(killable.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// Command does a job in a process of this very test binary, without failpoints.
func Command(t testing.TB, job any) *exec.Cmd {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	return cmd
}

// Do does a job, which has to succeed, in a process without the race detector: what
// leads up to a test takes a tenth of the time there.
func Do(t testing.TB, job any) {
	t.Helper()
	if out, err := run(t, job, ""); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// Points does a job, which has to succeed, and returns the names of the points that it
// passes, in their order.
func Points(t testing.TB, job any) (names []string) {
	t.Helper()
	list := filepath.Join(t.TempDir(), "points")
	if out, err := run(t, job, "list:"+list); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		_, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		names = append(names, name)
	}
	return names
}

// Kill does a job until its n-th point, counted from 1, where the process is killed. It
// reports false when the job succeeded without getting there.
func Kill(t testing.TB, job any, n int) bool {
	t.Helper()
	out, err := run(t, job, fmt.Sprintf("kill:%d", n))
	if err == nil {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("not killed but: %v\n%s", err, out)
	}
	return true
}

// MustKill is Kill of a job that has the point.
func MustKill(t testing.TB, job any, n int) {
	t.Helper()
	if !Kill(t, job, n) {
		t.Fatalf("point %d was not reached", n)
	}
}

func run(t testing.TB, job any, mode string) ([]byte, error) {
	t.Helper()
	cmd := Command(t, job)
	cmd.Path = build(t)
	cmd.Env = append(cmd.Env, variable+"="+mode)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.Bytes(), err
}

// build returns the path of the binary with failpoints.
func build(t testing.TB) string {
	t.Helper()
	killable.Lock()
	defer killable.Unlock()
	switch {
	case !killable.main:
		t.Fatal("failtest: TestMain does not call Main")
	case killable.binary != "":
	case failpoint.Enabled: // it is this one
		var err error
		if killable.binary, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	default:
		dir, err := os.MkdirTemp("", "n8keep-failtest-")
		if err != nil {
			t.Fatal(err)
		}
		killable.dir = dir
		binary := filepath.Join(dir, "failpoint.test")
		if out, err := exec.Command("go", "test", "-c", "-tags", "failpoint", "-ldflags", "-s -w", "-o", binary, ".").CombinedOutput(); err != nil {
			t.Fatalf("failtest: building with failpoints: %v\n%s", err, out)
		}
		killable.binary = binary
	}
	return killable.binary
}
