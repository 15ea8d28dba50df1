package labn8n

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// readyLine is printed once REST routes and webhooks answer; /healthz says 200 long before. A worker has its own.
const (
	readyLine       = "Editor is now accessible via"
	workerReadyLine = "n8n worker is now ready"
)

const (
	startTimeout = 4 * time.Minute // migrations on a busy machine with two cores take up to half a minute
	stopTimeout  = time.Minute
)

// Server is a running n8n. Its methods are safe for concurrent use, Stop and Terminate excepted.
type Server struct {
	Instance
	// URL is its address without a slash at the end.
	URL string

	cmd    *exec.Cmd
	log    *log
	exited chan struct{} // closed when the process is gone and err is set
	err    error
}

// Start runs the instance and returns once its editor is accessible. It is stopped at the end of the test if it still runs.
func Start(t testing.TB, in Instance) *Server {
	t.Helper()
	s, err := Launch(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

// StartWorker runs a process that executes what the instance's main process enqueues, and returns once it takes jobs. The
// instance's Env has what queue mode needs. Its URL is that of its health check.
func StartWorker(t testing.TB, in Instance) *Server {
	t.Helper()
	s, err := LaunchWorker(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

// Launch is Start for other goroutines than the test's: the error has the end of n8n's log, and the caller ends the server.
func Launch(ctx context.Context, in Instance) (*Server, error) {
	return launch(ctx, in, "start", readyLine)
}

// LaunchWorker is StartWorker for other goroutines than the test's.
func LaunchWorker(ctx context.Context, in Instance) (*Server, error) {
	return launch(ctx, in, "worker", workerReadyLine)
}

func launch(ctx context.Context, in Instance, command, ready string) (*Server, error) {
	s, err := start(in, command)
	if err != nil {
		return nil, err
	}
	if err := s.await(ctx, ready, startTimeout); err != nil {
		s.kill()
		return nil, fmt.Errorf("labn8n: starting n8n %s: %w\n%s", in.Version, err, tail(s.Log()))
	}
	return s, nil
}

func start(in Instance, command string) (*Server, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	if in.Port != "" && command == "start" {
		ports[0] = in.Port
	}
	env := []string{
		"N8N_LISTEN_ADDRESS=127.0.0.1",
		"N8N_HOST=127.0.0.1",
		"N8N_PORT=" + ports[0],
		"N8N_RUNNERS_BROKER_PORT=" + ports[1],
	}
	if command == "worker" {
		env = append(env, "QUEUE_HEALTH_CHECK_ACTIVE=true", "QUEUE_HEALTH_CHECK_PORT="+ports[0])
	}
	running := in
	running.Env = append(env, in.Env...)
	cmd, err := running.command(context.Background(), command)
	if err != nil {
		return nil, err
	}
	s := &Server{Instance: in, URL: "http://127.0.0.1:" + ports[0], cmd: cmd, log: newLog(), exited: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the starting thread ends, so this one must live as long as n8n.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			s.err = cmd.Wait()
			close(s.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("labn8n: starting n8n %s: %w", in.Version, err)
	}
	return s, nil
}

// Log is what n8n has printed so far.
func (s *Server) Log() string { return s.log.String() }

// Await returns when n8n has printed text, and ends the test when it does not within a minute.
func (s *Server) Await(t testing.TB, text string) {
	t.Helper()
	if err := s.await(t.Context(), text, time.Minute); err != nil {
		t.Fatalf("labn8n: %v\n%s", err, tail(s.Log()))
	}
}

func (s *Server) await(ctx context.Context, text string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		more := s.log.more()
		if strings.Contains(s.log.String(), text) {
			return nil
		}
		select {
		case <-more:
		case <-s.exited:
			return fmt.Errorf("n8n ended (%v) before it printed %q", s.err, text)
		case <-ctx.Done():
			return fmt.Errorf("waiting for n8n to print %q: %w", text, ctx.Err())
		}
	}
}

// Stop ends n8n as a service manager does, with SIGTERM, and waits until the process is gone.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.Terminate(); err != nil {
		t.Fatal(err)
	}
}

// Terminate is Stop for other goroutines than the test's.
func (s *Server) Terminate() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("labn8n: stopping n8n: %w\n%s", err, tail(s.Log()))
	}
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		s.kill()
		return fmt.Errorf("labn8n: n8n did not stop within %s of SIGTERM\n%s", stopTimeout, tail(s.Log()))
	}
	s.kill() // helpers that n8n left behind
	return nil
}

// Kill ends n8n as a crash does.
func (s *Server) Kill() { s.kill() }

func (s *Server) kill() {
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		panic(fmt.Sprintf("labn8n: killing n8n: %v", err))
	}
	<-s.exited
}

// FreePort is one that nothing listens on, for an instance that keeps its address.
func FreePort(t testing.TB) string {
	t.Helper()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

// freePorts finds n ports that nothing listens on.
func freePorts(n int) ([]string, error) {
	var ports []string
	var open []net.Listener
	defer func() {
		for _, l := range open {
			l.Close()
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("labn8n: finding a free port: %w", err)
		}
		open = append(open, l)
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}

// log collects output and wakes those who wait for more of it.
type log struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	wake chan struct{}
}

func newLog() *log { return &log{wake: make(chan struct{})} }

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	close(l.wake)
	l.wake = make(chan struct{})
	return len(p), nil
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// more is closed by the next Write.
func (l *log) more() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wake
}
