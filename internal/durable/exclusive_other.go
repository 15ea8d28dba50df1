//go:build !linux

package durable

import (
	"os"
	"syscall"
)

func renameNew(from, to string) error {
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: syscall.ENOTSUP}
}
