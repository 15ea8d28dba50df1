package n8ncrypt

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unsafe"
)

const (
	cbcMagic  = "Salted__"
	cbcSalt   = 8
	cbcHeader = len(cbcMagic) + cbcSalt
	cbcBlock  = 16
	cbcMin    = cbcHeader + cbcBlock

	gcmVersion = 1
	gcmSalt    = 32
	gcmTag     = 16
	gcmHeader  = 1 + gcmSalt + gcmTag

	maxKeyID = 36
)

// Value is a parsed stored value. The zero Value is no ciphertext.
type Value struct {
	format    Format
	canonical bool
	keyID     string
	raw       []byte // never handed out, never changed
}

// Format returns CBC, GCM or Prefixed, and None for the zero Value.
func (v Value) Format() Format { return v.format }

// KeyID returns the data key id of a Prefixed value, else "".
func (v Value) KeyID() string { return v.keyID }

// Canonical reports whether the parsed text was exactly what String returns,
// which holds for everything n8n itself wrote.
func (v Value) Canonical() bool { return v.canonical }

// String returns the canonical text, as n8n would have stored it.
func (v Value) String() string {
	if v.format == None {
		return ""
	}
	n := base64.StdEncoding.EncodedLen(len(v.raw))
	out := make([]byte, 0, len(v.keyID)+1+n)
	if v.format == Prefixed {
		out = append(append(out, v.keyID...), ':')
	}
	out = base64.StdEncoding.AppendEncode(out, v.raw)
	return unsafe.String(unsafe.SliceData(out), len(out)) // nobody else has it
}

// Detect says what a string from any column looks like, without decoding it. It
// knows only the canonical text that n8n writes, so that prose, tokens and URLs
// are None; a value may look right and still not parse. It does not allocate.
func Detect(s string) Format {
	switch {
	case looksCBC(s):
		return CBC
	case looksGCM(s):
		return GCM
	case isHex64(s):
		return RawHex
	}
	if i := strings.IndexByte(s[:min(len(s), maxKeyID+1)], ':'); i > 0 && ValidKeyID(s[:i]) && looksGCM(s[i+1:]) {
		return Prefixed
	}
	return None
}

// looksCBC: base64 of "Salted__" ends two bits inside its eleventh character.
func looksCBC(s string) bool {
	const head = "U2FsdGVkX1"
	return len(s) > len(head)+1 && strings.HasPrefix(s, head) &&
		strings.IndexByte("89+/", s[len(head)]) >= 0 && isBase64Text(s[len(head)+1:], 1)
}

// looksGCM: the version byte 0x01 fills the first character and the upper two
// bits of the second; the header alone has 66 characters.
func looksGCM(s string) bool {
	return len(s) >= 66 && s[0] == 'A' &&
		('Q' <= s[1] && s[1] <= 'Z' || 'a' <= s[1] && s[1] <= 'f') && isBase64Text(s[2:], 64)
}

func isHex64(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

// ValidKeyID reports whether n8n (>= 2.39) takes id as a data key id:
// [A-Za-z0-9_-]{1,36}. n8n's own ids are 16 letters and digits.
func ValidKeyID(id string) bool {
	if len(id) == 0 || len(id) > maxKeyID {
		return false
	}
	for i := range len(id) {
		if _, ok := sextet(id[i]); !ok || id[i] == '+' || id[i] == '/' {
			return false
		}
	}
	return true
}

// Parse reads a stored value from a place where n8n keeps ciphertext. It takes
// what Node's lenient base64 takes, but wants a "Salted__" header or a GCM
// version byte to call it ciphertext. It returns ErrNotCiphertext, ErrMalformed
// or ErrUnsupportedVersion. For arbitrary text use [Detect] first: prose that
// begins with the right letters can pass here and then fail as a wrong key.
func Parse(s string) (Value, error) {
	if id, body, ok := strings.Cut(s, ":"); ok {
		return parsePrefixed(id, body)
	}
	raw, p := decodeBase64(s)
	switch {
	case strings.HasPrefix(string(raw[:min(len(raw), len(cbcMagic))]), cbcMagic):
		return newCBC(raw, p)
	case len(raw) >= gcmHeader && raw[0] == gcmVersion:
		return Value{format: GCM, canonical: p == canonical, raw: raw}, nil
	case len(raw) > gcmSalt && raw[0] == gcmVersion && p != junk:
		return Value{}, shortGCM(len(raw))
	}
	return Value{}, ErrNotCiphertext
}

func parsePrefixed(id, body string) (Value, error) {
	if !ValidKeyID(id) {
		return Value{}, ErrNotCiphertext
	}
	raw, p := decodeBase64(body)
	switch {
	case len(raw) >= gcmHeader && raw[0] == gcmVersion:
		return Value{format: Prefixed, canonical: p == canonical, keyID: id, raw: raw}, nil
	case len(raw) > 0 && raw[0] == gcmVersion && p != junk:
		return Value{}, shortGCM(len(raw))
	case len(raw) >= gcmHeader && p == canonical:
		return Value{}, fmt.Errorf("%w: %d", ErrUnsupportedVersion, raw[0])
	}
	return Value{}, ErrNotCiphertext
}

// ParseCBC reads s the way n8n's CBC decryption does: any base64, whatever its
// first eight bytes are. It returns ErrMalformed when the length is impossible.
// n8n and crypto-js always write the "Salted__" header, so this is for values
// that something else has written.
func ParseCBC(s string) (Value, error) {
	raw, p := decodeBase64(s)
	return newCBC(raw, p)
}

func newCBC(raw []byte, p purity) (Value, error) {
	if len(raw) < cbcMin {
		return Value{}, fmt.Errorf("%w: cbc data has %d bytes, at least %d are needed", ErrMalformed, len(raw), cbcMin)
	}
	if len(raw)%cbcBlock != 0 {
		return Value{}, fmt.Errorf("%w: cbc data has %d bytes, not a multiple of %d", ErrMalformed, len(raw), cbcBlock)
	}
	return Value{format: CBC, canonical: p == canonical, raw: raw}, nil
}

func shortGCM(n int) error {
	return fmt.Errorf("%w: gcm data has %d bytes, at least %d are needed", ErrMalformed, n, gcmHeader)
}
