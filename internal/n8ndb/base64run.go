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

// minRun is the base64 text of the shortest ciphertext, CBC of one block, without
// padding. A run of that length covers a probe, so the text between probes is
// looked at only around base64 characters.
const (
	minRun    = 43
	minGCMRun = 66
)

const cbcMark = "U2FsdGVkX1"

// isBase64 looks the character up in a bit mask of the standard alphabet.
func isBase64(c byte) bool {
	const low, high uint64 = 0x03ff_8800_0000_0000, 0x07ff_fffe_07ff_fffe
	switch c >> 6 {
	case 0:
		return low>>c&1 == 1
	case 1:
		return high>>(c&63)&1 == 1
	}
	return false
}

// findCiphertext calls fn for everything in b that looks like n8n's ciphertext:
// base64 of "Salted__", or of a version byte 1 and enough more, with or without a
// key id. b may be JSON, in which the text stands unchanged.
func findCiphertext(b []byte, fn func(candidate)) {
	done := 0 // end of the last run
	for p := minRun - 1; p < len(b); {
		if !isBase64(b[p]) {
			p += minRun
			continue
		}
		start := p
		for start > done && isBase64(b[start-1]) {
			start--
		}
		end := p + 1
		for end < len(b) && isBase64(b[end]) {
			end++
		}
		if end-start >= minRun {
			inRun(b, start, end, fn)
		}
		done = end
		p = end + minRun
	}
}

// inRun looks at one maximal run of base64 characters.
func inRun(b []byte, start, end int, fn func(candidate)) {
	tail := end
	for tail < len(b) && tail < end+2 && b[tail] == '=' {
		tail++
	}
	for at := start; ; {
		i := bytes.Index(b[at:end], []byte(cbcMark))
		if i < 0 {
			break
		}
		at += i
		if end-at >= minRun && strings.IndexByte("89+/", b[at+len(cbcMark)]) >= 0 {
			fn(candidate{text: b[at:tail], cbc: true})
			return // what follows is its body
		}
		at++
	}
	if start > 0 && b[start-1] == '\\' {
		start++ // the letter of a JSON escape
		if b[start-1] == 'u' {
			start += 4
		}
	}
	if end-start < minGCMRun || b[start] != 'A' || !('Q' <= b[start+1] && b[start+1] <= 'Z' || 'a' <= b[start+1] && b[start+1] <= 'f') {
		return
	}
	id := start
	if start > 0 && b[start-1] == ':' {
		for id = start - 1; id > 0 && start-1-id < 37 && isIDChar(b[id-1]); {
			id--
		}
		if n := start - 1 - id; n >= 1 && n <= 36 {
			fn(candidate{text: b[id:tail], idLen: n, prefixed: true})
			return
		}
	}
	fn(candidate{text: b[start:tail]})
}

func isIDChar(c byte) bool {
	return c == '-' || c == '_' || isBase64(c) && c != '+' && c != '/'
}

// telling reports whether the text is worth a word even if no key opens it. Bare
// base64 that begins with a version byte is one of 256, and so are other texts with
// a colon before them; n8n's key ids have 16 characters.
func (c candidate) telling() bool { return c.cbc || c.prefixed && c.idLen == 16 }
