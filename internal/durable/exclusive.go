package durable

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// placeNew gives the file from the name to, which must be free. exFAT, vfat and
// many network file systems have no hard links, but can rename without replacing.
func placeNew(from, to string) error { return placeNewBy(os.Link, renameNew, from, to) }

func placeNewBy(link, rename func(from, to string) error, from, to string) error {
	linking := link(from, to)
	if linking == nil {
		// The file is at its place: a second name that stays is no failure. It is
		// a leftover like that of a killed process.
		os.Remove(from)
		return nil
	}
	if !unsupported(linking) {
		return linking
	}
	renaming := rename(from, to)
	if renaming != nil && unsupported(renaming) {
		return fmt.Errorf("%w (link: %v; rename: %v)", ErrNoExclusive, unwrapPath(linking), unwrapPath(renaming))
	}
	return renaming
}

// unsupported reports whether a file system refused an operation that it does not
// have; which error says so differs.
func unsupported(err error) bool {
	for _, e := range []error{syscall.EPERM, syscall.EACCES, syscall.ENOTSUP, syscall.EOPNOTSUPP, syscall.ENOSYS, syscall.EINVAL, syscall.EMLINK} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
