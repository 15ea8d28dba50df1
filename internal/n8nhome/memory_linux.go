package n8nhome

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// memoryFile makes a file that is in memory only, readable by this user, and
// returns a path that this process and those it starts can open. The file stays
// until this process ends.
func memoryFile(name, text string) (string, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("making a file in memory: %w", err)
	}
	// libpq refuses keys that others could read.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return "", fmt.Errorf("making a file in memory: %w", err)
	}
	for b := []byte(text); len(b) > 0; {
		n, err := unix.Write(fd, b)
		if err != nil {
			return "", fmt.Errorf("writing a file in memory: %w", err)
		}
		b = b[n:]
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), nil
}
