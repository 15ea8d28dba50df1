package n8ndb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// holdOpener is a process that has a file of the database open.
type holdOpener struct {
	pid      int
	command  string
	starting bool // a child of this process that still runs our program
}

func (o holdOpener) String() string { return fmt.Sprintf("process %d (%s)", o.pid, o.command) }

type holdInode struct{ dev, inode uint64 }

func holdInodeOf(info fs.FileInfo) (holdInode, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return holdInode{}, false
	}
	return holdInode{uint64(stat.Dev), stat.Ino}, true
}

// holdOpeners looks through the open files of every process but this one. gaps
// says which processes could not be looked at. Files are known by device and
// inode, since a process in a container has another name for them.
func holdOpeners(proc, path string) (openers []holdOpener, gaps []string, err error) {
	wanted := map[holdInode]bool{}
	for _, suffix := range holdSuffixes() {
		info, err := os.Stat(path + suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if id, ok := holdInodeOf(info); ok {
			wanted[id] = true
		}
	}
	entries, err := os.ReadDir(proc)
	if err != nil || len(entries) == 0 {
		return nil, []string{fmt.Sprintf("there is no %s to look at open files", proc)}, nil
	}
	self := os.Getpid()
	first, refused := false, 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		first = first || pid == 1
		if pid == self {
			continue
		}
		starting := holdStarting(proc, e.Name()) // before its files are looked at: it may go on meanwhile
		fds, err := os.ReadDir(filepath.Join(proc, e.Name(), "fd"))
		if errors.Is(err, fs.ErrPermission) {
			refused++
			continue
		}
		// Everything else: the process has ended meanwhile.
		for _, fd := range fds {
			info, err := os.Stat(filepath.Join(proc, e.Name(), "fd", fd.Name()))
			if err != nil {
				continue
			}
			if id, ok := holdInodeOf(info); ok && wanted[id] {
				openers = append(openers, holdOpener{pid, holdCommand(proc, e.Name()), starting})
				break
			}
		}
	}
	slices.SortFunc(openers, func(a, b holdOpener) int { return a.pid - b.pid })
	if refused > 0 {
		gaps = append(gaps, fmt.Sprintf("the open files of %d processes of other users cannot be seen", refused))
	}
	if !first {
		gaps = append(gaps, "processes of other users are hidden")
	}
	if holdContained(proc) {
		gaps = append(gaps, "processes outside this container cannot be seen")
	}
	return openers, gaps, nil
}

// holdStarting reports whether a process is a child of this one and has not yet
// run a program of its own.
func holdStarting(proc, pid string) bool {
	stat, err := os.ReadFile(filepath.Join(proc, pid, "stat"))
	if err != nil {
		return false
	}
	// pid (comm) state ppid: the name may hold anything, parentheses included.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
		return false
	}
	own, err := os.Stat(filepath.Join(proc, "self", "exe"))
	if err != nil {
		return false
	}
	theirs, err := os.Stat(filepath.Join(proc, pid, "exe"))
	return err == nil && os.SameFile(own, theirs)
}

// holdCommand is the process's short name: its command line may hold secrets.
func holdCommand(proc, pid string) string {
	b, err := os.ReadFile(filepath.Join(proc, pid, "comm"))
	name := strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
	if err != nil || name == "" {
		return "unknown"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, name)
}

// holdHostNamespace is the number that Linux gives the first namespace of
// processes (PROC_PID_INIT_INO).
const holdHostNamespace = "pid:[4026531836]"

func holdContained(proc string) bool {
	name, err := os.Readlink(filepath.Join(proc, "self", "ns", "pid"))
	return err != nil || name != holdHostNamespace
}
