// Package cloudtest is the test kit of targets on other machines: it starts the
// servers that scripts/install-servers and scripts/setup install, and puts a [Front]
// before them that breaks connections and refuses requests in the ways that the
// vendors' services do.
//
// A server is started by the first test of a binary that needs it, listens on
// 127.0.0.1, keeps its data in memory or in a test's folder, and dies with the test
// binary. A missing server fails the test and names the command that installs it.
//
// What the servers themselves do not enforce stands in the comments of [GCS] and
// [Azure]; the front adds what is documented by the vendor, and tests that rely on it
// say so. It is imported by tests only.
package cloudtest

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// server is a program that was started once for the test binary.
type server struct {
	once sync.Once
	url  string
	err  error
}

// program is the path of an installed server.
func program(name string) (string, error) {
	cache := os.Getenv("N8KEEP_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("finding the cache of test servers: %w", err)
		}
		cache = filepath.Join(dir, "n8keep")
	}
	found, _ := filepath.Glob(filepath.Join(cache, "servers", name+"-[0-9]*", "bin", name))
	if len(found) == 0 {
		return "", fmt.Errorf(`no %s in %s: run "scripts/install-servers %s"`, name, filepath.Join(cache, "servers"), name)
	}
	return found[len(found)-1], nil
}

// start runs a program that serves HTTP on the port it is given, until the test
// binary ends. Another program may take the free port first, so it tries a few.
func (s *server) start(name string, env []string, args func(port string) []string) {
	path, err := program(name)
	if err != nil {
		s.err = err
		return
	}
	for range 3 {
		port, err := freePort()
		if err != nil {
			s.err = err
			return
		}
		s.url = "http://127.0.0.1:" + port
		if _, s.err = run(path, env, args(port), func() bool {
			resp, err := http.Get(s.url)
			if err == nil {
				resp.Body.Close()
			}
			return err == nil
		}); s.err == nil {
			return
		}
	}
}

// run starts a program and returns when ready says so. It ends with the test binary,
// or when stop is called.
func run(path string, env, args []string, ready func() bool) (stop func(), err error) {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Dir = os.TempDir()
	cmd.WaitDelay = 100 * time.Millisecond // children may hold the output open
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error), make(chan error, 1)
	go func() {
		// Pdeathsig fires when the starting thread ends, so this one must live as long as the server.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", path, err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case err := <-exited:
			return nil, fmt.Errorf("%s ended at once: %w\n%s", path, err, &output)
		case <-deadline:
			cmd.Process.Kill()
			<-exited
			return nil, fmt.Errorf("%s does not answer after a minute\n%s", path, &output)
		case <-tick.C:
			if ready() {
				return func() {
					cmd.Process.Kill()
					<-exited
				}, nil
			}
		}
	}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), l.Close()
}

// Env is an environment for tests of the parts of a URL and of credentials.
func Env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
