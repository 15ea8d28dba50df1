package fileblob

import (
	"os"

	"golang.org/x/sys/unix"
)

// writeback asks the kernel to begin writing a part of a file, without waiting,
// so that the sync at the end of a large one has little left to do. It is no
// promise: only the sync makes the file durable.
func writeback(f *os.File, from, n int64) {
	unix.SyncFileRange(int(f.Fd()), from, n, unix.SYNC_FILE_RANGE_WRITE)
}
