//go:build !unix

package pgclient

import (
	"os"
	"os/exec"
	"syscall"
)

func ownGroup() *syscall.SysProcAttr { return nil }

func wait(cmd *exec.Cmd) error { return cmd.Wait() }

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill()
	}
}

func terminateGroup(pid int) { killGroup(pid) }

func widen(*os.File) {}

func signalName(*os.ProcessState) string { return "" }
