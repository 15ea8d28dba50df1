package n8ndb

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// birth is when a file was made, "" where nobody has written that down: old kernels,
// network file systems, sandboxes without the call.
func birth(path string) string {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME, &st); err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return ""
	}
	return fmt.Sprintf("%d.%09d", st.Btime.Sec, st.Btime.Nsec)
}
