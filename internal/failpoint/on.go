//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Enabled says whether this is a build in which [Hit] does something.
const Enabled = true

var passed atomic.Int64

// Hit marks a point; see the package documentation.
func Hit(name string) {
	mode, arg, _ := strings.Cut(os.Getenv("N8KEEP_FAILPOINT"), ":")
	n := passed.Add(1)
	switch mode {
	case "list":
		f, err := os.OpenFile(arg, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(f, "%d %s\n", n, name)
		f.Close()
	case "kill":
		if at, err := strconv.ParseInt(arg, 10, 64); err == nil && at == n {
			syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}
