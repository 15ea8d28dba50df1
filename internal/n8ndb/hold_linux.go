package n8ndb

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Where SQLite locks (os.h of SQLite 3): one pending byte, one reserved byte, and
// 510 shared bytes, of which a reader holds read locks on all, and a writer that
// wants to be alone write locks on everything.
const (
	holdFirstByte = 0x40000000
	holdBytes     = 2 + 510
)

// holdVFS names SQLite's way to a file that a Held keeps everybody else from: it takes no
// locks of its own, which would meet ours.
const holdVFS = "&vfs=unix-none"

// holdLock is SQLite's exclusive lock. It belongs to the open file and not to
// the process, so that no other part of this process drops it by closing the file.
type holdLock struct {
	f   *os.File
	gap string
}

// holdTakeLock returns a conflict when somebody else has a lock on the database.
func holdTakeLock(path string) (lock *holdLock, conflict, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	want := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: holdFirstByte, Len: holdBytes}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &want)
	switch {
	case err == nil:
		return &holdLock{f: f}, nil, nil
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES):
		f.Close()
		return nil, fmt.Errorf("it is locked: %w", err), nil
	case errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP):
		return &holdLock{f: f, gap: "the file system has no locks"}, nil, nil
	}
	f.Close()
	return nil, nil, err
}

// release unlocks before it closes: a child that this process starts at the same
// moment has a copy of the descriptor until it runs its program.
func (l *holdLock) release() error {
	if l.gap == "" {
		unlock := unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart, Start: holdFirstByte, Len: holdBytes}
		if err := unix.FcntlFlock(l.f.Fd(), unix.F_OFD_SETLK, &unlock); err != nil {
			return errors.Join(err, l.f.Close())
		}
	}
	return l.f.Close()
}

// holdFileSystem says why locks on the file may not be seen by everybody, or
// nothing.
func holdFileSystem(path string) string {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return "the kind of the file system cannot be found out"
	}
	name := map[uint32]string{
		unix.NFS_SUPER_MAGIC: "NFS", unix.SMB_SUPER_MAGIC: "SMB", 0xff534d42: "SMB", 0xfe534d42: "SMB",
		unix.FUSE_SUPER_MAGIC: "FUSE", unix.V9FS_MAGIC: "9p", unix.CEPH_SUPER_MAGIC: "Ceph",
		unix.AFS_SUPER_MAGIC: "AFS", unix.CODA_SUPER_MAGIC: "Coda", unix.OCFS2_SUPER_MAGIC: "OCFS2",
		0x01161970: "GFS2", 0x0bd00bd0: "Lustre",
	}[uint32(stat.Type)]
	if name == "" {
		return ""
	}
	return "locks of other machines are not seen on " + name
}
