package sftpblob

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/n8keep/n8keep/internal/durable"
)

// tempName is a new name that says which process it belongs to:
// .n8keep-tmp-MACHINE-PID-START-RANDOM. MACHINE changes with every boot and is
// another one in every container.
func tempName() string {
	return fmt.Sprintf("%s%s-%d-%s-%s", durable.TempPrefix, machine(), os.Getpid(), started(os.Getpid()), strings.ToLower(rand.Text()[:10]))
}

func machine() string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	space, _ := os.Readlink("/proc/self/ns/pid")
	host, _ := os.Hostname()
	if len(boot) == 0 || space == "" {
		host += strconv.Itoa(os.Getpid()) // cannot be recognised: only age counts
	}
	return fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%s|%s|%s", boot, space, host)))[:12]
}

// started is the start of a process in the kernel's ticks, "0" if there is none:
// process numbers come around again.
func started(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "0"
	}
	// The name in parentheses may hold anything, also spaces and parentheses.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return "0"
	}
	return string(fields[19])
}

// dead reports whether the process that a temporary file belongs to is known to be
// dead.
func dead(name string) bool {
	parts := strings.Split(strings.TrimPrefix(name, durable.TempPrefix), "-")
	if len(parts) < 4 || parts[0] != machine() {
		return false
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil || pid <= 0 {
		return false
	}
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	now := started(pid)
	return now != "0" && now != parts[2]
}

// sweep removes what dead writers left, once for each store; own is the file that
// shows the server's time. It is best effort: what it cannot remove, the next one will.
func (s *Store) sweep(c *conn, own *temp) {
	if s.swept.Swap(true) {
		return
	}
	entries, err := c.sftp.ReadDir(s.dir())
	if err != nil {
		return
	}
	for _, e := range entries {
		name, age := e.Name(), own.made.Sub(e.ModTime())
		switch {
		case !e.Mode().IsRegular():
		case strings.HasPrefix(name, durable.TempPrefix) && (dead(name) || age > s.cfg.Stale),
			strings.HasPrefix(name, claimPrefix) && age > max(claimAge, s.cfg.Stale, time.Hour):
			_ = c.sftp.Remove(s.path(name))
		}
	}
}
