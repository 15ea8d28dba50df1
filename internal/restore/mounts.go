package restore

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mountsBelow lists the mount points below dir, relative to it. A file can be
// one: a database bound into a container by itself. Systems without
// /proc/self/mountinfo list none; a rename over a mount point fails there by
// itself (EBUSY) and is undone.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var below []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // id parent major:minor root mountpoint ...
		if len(fields) < 5 {
			continue
		}
		name, err := filepath.Rel(dir, unescapeMount(fields[4]))
		if err == nil && name != "." && filepath.IsLocal(name) {
			below = append(below, filepath.ToSlash(name))
		}
	}
	return below, lines.Err()
}

// unescapeMount undoes the kernel's \040 for space, tab, newline and backslash.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
