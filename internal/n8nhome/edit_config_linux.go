package n8nhome

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// mountPoint reports whether a file is one, as those that are mounted into a
// container are. Kernels before 5.8 do not say; there the rename fails.
func mountPoint(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	return err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// immutable reports whether a file can be neither written nor replaced, by whomever
// (chattr +i, chattr +a). A file system that has no such thing does not say.
func immutable(path string) bool {
	const kinds = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	return err == nil && st.Attributes_mask&st.Attributes&kinds != 0
}

// copyAttributes gives a file the extended attributes of another: access lists,
// security labels. By descriptor: a path in n8n's folder may have become a link meanwhile.
func copyAttributes(from, to *os.File) error {
	names, err := attributes(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		value, err := attribute(from, name)
		if err != nil {
			return err
		}
		if has, err := attribute(to, name); err == nil && bytes.Equal(has, value) {
			continue
		}
		if err := unix.Fsetxattr(int(to.Fd()), name, value, 0); err != nil {
			return &os.PathError{Op: "setxattr", Path: to.Name(), Err: err}
		}
	}
	return nil
}

func attributes(f *os.File) ([]string, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Flistxattr(int(f.Fd()), b)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: f.Name(), Err: err}
	}
	var names []string
	for name := range bytes.SplitSeq(b[:n], []byte{0}) {
		if len(name) > 0 {
			names = append(names, string(name))
		}
	}
	return names, nil
}

func attribute(f *os.File, name string) ([]byte, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Fgetxattr(int(f.Fd()), name, b)
	if err != nil {
		return nil, &os.PathError{Op: "getxattr", Path: f.Name(), Err: err}
	}
	return b[:n], nil
}

// folderWritable asks for the effective user, and knows read-only file systems.
func folderWritable(dir string) bool {
	return unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS) == nil
}
