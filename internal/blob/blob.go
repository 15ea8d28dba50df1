// Package blob is where archives are kept, whatever it is made of: a [Store] of
// named, immutable objects.
//
// An object is written once, as a whole, and never changed. A store makes no
// promise about secrecy (archives are encrypted before they get here) nor about
// honesty (sidecars are signed, and readers check sizes and checksums): a hostile
// store can withhold and delete, but not forge.
//
// Objects that other programs put beside ours are left alone. Stores list them
// when their names pass [CheckName] and hide them otherwise. Data written by
// older versions stays readable: a store adds no framing of its own, an object
// is the bytes that were put.
//
// This package imports no vendor's code. The adapters (fileblob and others) do,
// and every adapter passes the conformance suite in blobtest.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"time"
)

// The errors that every store returns, wrapped, for these cases. Any other error
// means that the store could not be asked, refused, or did not answer, and that
// the caller may try again later.
var (
	ErrNotFound = errors.New("object not found")
	ErrExists   = errors.New("object exists already")
	ErrLocked   = errors.New("object is locked") // nobody may delete it yet
)

// Info describes a stored object.
type Info struct {
	Name string
	Size int64 // bytes
	// ModTime is of the store's own clock, not the writer's. Put may say when the
	// store answered, which differs a little from what Stat and List say.
	ModTime time.Time

	// ETag differs when the content does; "" when the store has none. It is not a
	// checksum.
	ETag string
	// LockedUntil is when the store lets anybody delete the object; zero when it
	// may be deleted now, or the store does not say. Stat says it where the store
	// has locks and the identity may ask; List need not.
	LockedUntil time.Time
	// Altered says what somebody did to the object after it was put, in words, ""
	// for nothing. A store with versions still yields the object as it was put.
	Altered string
}

// Properties says what a store can do.
type Properties struct {
	Location string // for people: a path or URL without credentials

	// AtomicPut says that of several writers of one name exactly one wins, also
	// across machines. Without it a caller must not rely on ErrExists between
	// machines.
	AtomicPut bool
	// Versioned says that overwritten and deleted objects remain readable: the
	// store yields what was put first.
	Versioned bool
	// Caveat is what the store found out, since it was opened, that this identity
	// cannot see, in words; "" for nothing.
	Caveat string
}

// Store holds objects. All methods may be called from several goroutines.
// Names must pass [CheckName]; a bad name is an error before anything is asked.
//
// Stores retry what is safe to retry (a lost connection before the first byte);
// callers retry whole operations. When ctx ends, methods return its error soon.
type Store interface {
	// Put stores what r yields until io.EOF. On a nil error the object is
	// complete, durable and visible. On any error r may be read in part and
	// nothing is visible under the name, except that a store which did not hear
	// the answer to its last request may have stored the whole object: the
	// caller finds out with Stat. An existing object is never replaced: then the
	// error is ErrExists, whatever the contents. Put never stores a part.
	Put(ctx context.Context, name string, r io.Reader) (Info, error)

	// Get opens an object. The reader yields exactly Info.Size bytes or an
	// error that is not io.EOF. The caller closes it. ErrNotFound if there is
	// no such object. ctx governs the reading too.
	Get(ctx context.Context, name string) (io.ReadCloser, Info, error)

	// Stat returns what Get would, without the content.
	Stat(ctx context.Context, name string) (Info, error)

	// List yields the objects whose names begin with prefix ("" for all) in
	// byte order of their names. Objects that are being written are not
	// listed. After an error nothing follows. Objects put or deleted meanwhile
	// may or may not be seen; all others are, once.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]

	// Delete removes an object, with all that was put over it. On a nil error it
	// is gone for good, also after a crash. ErrNotFound if there is no such
	// object, ErrLocked if the store keeps it for a time that is not over; then
	// it is as it was.
	Delete(ctx context.Context, name string) error

	// Properties does no I/O.
	Properties() Properties
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$`)

// CheckName accepts what is a plain file name everywhere: 1 to 200 letters,
// digits, dots, hyphens and underscores, not beginning with dot or hyphen.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("object name %.220q: want 1 to 200 letters, digits, dots, hyphens and underscores, not beginning with dot or hyphen", name)
	}
	return nil
}
