// Package archive writes and reads n8keep's backups: a tar stream, compressed
// with zstd, encrypted with age to public keys, beside a small signed document
// in clear, the sidecar, that says what the archive is.
//
// Everything a person needs to read a backup when n8keep is gone is in this
// package and in docs/format.md: `age -d -i KEY ID.tar.zst.age | zstd -d | tar x`
// opens an archive without any of our code.
//
// What the package promises. Output of a [Reader] counts only after [Reader.Next]
// returned io.EOF: by then the last chunk of the age stream was authenticated,
// every zstd frame closed with its checksum, the tar stream ended with nothing
// behind it, and the manifest, which is the last entry, agreed with every entry
// about order, name, size, mode, time and SHA-256. Archives of format 1 stay
// readable by all later versions; a newer format is refused with [ErrFormat],
// never guessed at. Memory is bounded for archives of any size, also hostile
// ones: windows, names, counts and JSON values have limits, findings, census and
// tables have one together, and the list of secrets is streamed through a private
// file. The Writer keeps the same limits, and says in [Writer.Close] which.
//
// What it refuses: symbolic links, devices and folders as entries, absolute
// names, names with "..", duplicates, recipients of different kinds in one
// archive, a sidecar that is not byte for byte what this package would write.
//
// Trust. Encryption needs only public keys, so an archive proves nothing about
// who wrote it; the signature of the sidecar over the archive's SHA-256 does.
// The sidecar proves which host signed, not that the host was honest, and the
// caller of [ParseSidecar] decides whom to trust. The sidecar is public: it
// holds no names of credentials, no hosts, no digests. Names and digests are in
// the manifest, which is encrypted.
package archive

import (
	"errors"
	"fmt"
)

// FormatVersion is the number of the format that this package writes, and the
// newest that it reads.
const FormatVersion = 1

// The sentinels of this package. Every sort of damage, truncation included,
// satisfies errors.Is(err, ErrDamaged).
var (
	ErrDamaged         = errors.New("damaged")
	ErrTruncated       = fmt.Errorf("%w: cut short", ErrDamaged)
	ErrNoIdentity      = errors.New("no identity opens the archive")
	ErrFormat          = errors.New("written in a newer format")
	ErrMixedRecipients = errors.New("recipients of different kinds cannot share one archive")
	ErrSignature       = errors.New("signature missing or forged")
)

// DamagedError says where an archive is damaged. Its text completes the
// sentence `archive "ID" is ...`, as in "damaged at entry 14 of 212: checksum
// differs".
type DamagedError struct {
	Index  int    // entry, counted from 1 without header.json; 0 outside of entries
	Total  int    // entries of the archive, 0 when the manifest was not reached
	Name   string // name of the entry; "" outside of entries
	Reason string // lower case, no secrets

	truncated bool
}

func (e *DamagedError) Error() string {
	word := "damaged"
	if e.truncated {
		word = "truncated"
	}
	switch {
	case e.Index > 0 && e.Total > 0:
		return fmt.Sprintf("%s at entry %d of %d: %s", word, e.Index, e.Total, e.Reason)
	case e.Index > 0:
		return fmt.Sprintf("%s at entry %d: %s", word, e.Index, e.Reason)
	}
	return word + ": " + e.Reason
}

// Is makes every DamagedError match ErrDamaged, and those that a missing end
// caused match ErrTruncated.
func (e *DamagedError) Is(target error) bool {
	return target == ErrDamaged || e.truncated && target == ErrTruncated
}

func newerFormat(what string, format int) error {
	return fmt.Errorf("%w: %s has format %d and this version knows up to %d; use a newer n8keep",
		ErrFormat, what, format, FormatVersion)
}
