package n8ndb

import (
	"bytes"
	"strings"
)

// candidate is text that looks like n8n's ciphertext.
type candidate struct {
	text     []byte // with key id and padding
	idLen    int    // length of the key id before the colon, 0 if there is none
	prefixed bool
	cbc      bool
}

// The shortest base64 text of each, without padding: CBC of one block, GCM of an
// empty text.
const (
	minCBC = 43
	minGCM = 66
)

const cbcMark = "U2FsdGVkX1"

// base64Chars is 1 for the characters of the standard alphabet.
const base64Chars = "" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00\x00" +
	"\x00\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00" +
	"\x00\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00"

func isBase64(c byte) bool { return c < 128 && base64Chars[c] == 1 }

// findCiphertext calls fn for everything in b that looks like n8n's ciphertext:
// first all base64 of "Salted__", then all of a version byte 1 and enough more, with
// or without a key id. b may be JSON, in which such text stands unchanged.
//
// It jumps from one character that a ciphertext may begin with to the next.
func findCiphertext(b []byte, fn func(candidate)) {
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte(cbcMark))
		if i < 0 {
			break
		}
		start := at + i
		at = start + len(cbcMark)
		if at == len(b) || strings.IndexByte("89+/", b[at]) < 0 {
			continue
		}
		at = runEnd(b, at)
		if at-start >= minCBC {
			fn(candidate{text: b[start:padded(b, at)], cbc: true})
		}
	}
	for at := 0; len(b)-at >= minGCM; {
		i := bytes.IndexByte(b[at:], 'A')
		if i < 0 {
			break
		}
		start := at + i
		at = start + 1
		for at < len(b) && b[at] == 'A' { // common in base64 of pictures
			at++
		}
		start = at - 1
		if at == len(b) || !versionOne(b[at]) || !beginsRun(b, start) {
			continue
		}
		if at = runEnd(b, at); at-start < minGCM {
			continue
		}
		c := candidate{text: b[start:padded(b, at)]}
		if id := keyIDBefore(b, start); id < start {
			c = candidate{text: b[id:padded(b, at)], idLen: start - 1 - id, prefixed: true}
		}
		fn(c)
	}
}

// versionOne: after 'A', the byte 1 leaves these second characters.
func versionOne(c byte) bool { return 'Q' <= c && c <= 'Z' || 'a' <= c && c <= 'f' }

func runEnd(b []byte, at int) int {
	for at < len(b) && isBase64(b[at]) {
		at++
	}
	return at
}

func padded(b []byte, end int) int {
	limit := min(end+2, len(b))
	for end < limit && b[end] == '=' {
		end++
	}
	return end
}

// beginsRun reports whether no base64 character stands before, other than the
// letters of a JSON escape.
func beginsRun(b []byte, start int) bool {
	if start == 0 || !isBase64(b[start-1]) {
		return true
	}
	if start >= 2 && b[start-2] == '\\' && strings.IndexByte("nrtbf/", b[start-1]) >= 0 {
		return true
	}
	return start >= 6 && b[start-6] == '\\' && b[start-5] == 'u'
}

// keyIDBefore returns where the key id before a colon begins, or start if there is
// none.
func keyIDBefore(b []byte, start int) int {
	if start < 2 || b[start-1] != ':' {
		return start
	}
	id := start - 1
	for id > 0 && start-id <= maxKeyID+2 && isIDChar(b[id-1]) {
		id--
	}
	if n := start - 1 - id; n < 1 || n > maxKeyID {
		return start
	}
	return id
}

const maxKeyID = 36 // deployment_key.id

func isIDChar(c byte) bool {
	return c == '-' || c == '_' || isBase64(c) && c != '+' && c != '/'
}

// telling reports whether the text is worth a word even if no key opens it. Bare
// base64 that begins with a version byte is one of 256, and so are other texts with
// a colon before them; n8n's key ids have 16 characters.
func (c candidate) telling() bool { return c.cbc || c.prefixed && c.idLen == 16 }
