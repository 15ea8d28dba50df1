package labn8n

import (
	"net"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// Redis starts a server on loopback, without files, that dies with the test binary, and returns what queue mode of n8n
// needs to be told.
func Redis(t testing.TB) (env []string) {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(`labn8n: redis-server is missing: run "scripts/setup"`)
	}
	port := FreePort(t)
	cmd := exec.Command(program, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // Pdeathsig fires when the starting thread ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(exited)
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("labn8n: starting redis-server: %v", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
	})
	Eventually(t, "redis-server", func() (bool, error) {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second)
		if err != nil {
			return false, err
		}
		return true, c.Close()
	})
	return []string{"EXECUTIONS_MODE=queue", "QUEUE_BULL_REDIS_HOST=127.0.0.1", "QUEUE_BULL_REDIS_PORT=" + port, "OFFLOAD_MANUAL_EXECUTIONS_TO_WORKERS=true"}
}
