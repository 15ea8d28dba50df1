package n8ncrypt

import (
	"encoding/base64"
	"unicode/utf16"
	"unicode/utf8"
)

// purity says how far a base64 text is from what n8n writes.
type purity uint8

const (
	canonical purity = iota // decoding and encoding again gives the same text
	loose                   // other alphabet, line breaks, missing padding, stray low bits
	junk                    // spaces and bytes that no base64 variant has, as in prose
)

// decodeBase64 decodes as Node's Buffer.from(s, "base64") does, so that what
// n8n reads is read here.
func decodeBase64(s string) ([]byte, purity) {
	if len(s)%4 == 0 {
		raw := make([]byte, base64.StdEncoding.DecodedLen(len(s)))
		n, err := base64.StdEncoding.Decode(raw, []byte(s))
		if err == nil && base64.StdEncoding.EncodedLen(n) == len(s) && cleanTail(s, raw[:n]) {
			return raw[:n], canonical
		}
	}
	return decodeLoose(s)
}

// cleanTail reports whether the unused low bits of the last group are zero.
func cleanTail(s string, raw []byte) bool {
	rest := len(raw) % 3
	if rest == 0 {
		return true
	}
	var group [4]byte
	base64.StdEncoding.Encode(group[:], raw[len(raw)-rest:])
	return string(group[:]) == s[len(s)-4:]
}

// decodeLoose takes both alphabets, skips every other character, and stops at
// the first "=". Node looks at the low byte of each UTF-16 unit only; checked
// against Node 20 and 24.
func decodeLoose(s string) ([]byte, purity) {
	out := make([]byte, 0, len(s)/4*3+3)
	p := loose
	var acc uint32
	bits := 0
	feed := func(unit uint16) (more bool) {
		c := byte(unit)
		if unit > 0xFF {
			p = junk
		}
		if c == '=' {
			return false
		}
		v, ok := sextet(c)
		if !ok {
			if c != '\n' && c != '\r' {
				p = junk
			}
			return true
		}
		acc = acc<<6 | uint32(v)
		if bits += 6; bits >= 8 {
			bits -= 8
			out = append(out, byte(acc>>bits))
		}
		return true
	}
	for i, r := range s {
		if r < utf8.RuneSelf {
			if !feed(uint16(r)) {
				if !onlyPadding(s[i:]) {
					p = junk
				}
				break
			}
			continue
		}
		more := true
		if r1, r2 := utf16.EncodeRune(r); r1 != utf8.RuneError {
			more = feed(uint16(r1)) && feed(uint16(r2))
		} else {
			more = feed(uint16(r))
		}
		if !more {
			break
		}
	}
	return out, p
}

func sextet(c byte) (byte, bool) {
	switch {
	case 'A' <= c && c <= 'Z':
		return c - 'A', true
	case 'a' <= c && c <= 'z':
		return c - 'a' + 26, true
	case '0' <= c && c <= '9':
		return c - '0' + 52, true
	case c == '+' || c == '-':
		return 62, true
	case c == '/' || c == '_':
		return 63, true
	}
	return 0, false
}

func onlyPadding(s string) bool {
	for i := range len(s) {
		switch s[i] {
		case '=', '\n', '\r':
		default:
			return false
		}
	}
	return true
}

// isBase64Text reports whether s is standard alphabet with at most two "=" at
// the end and at least min characters before them.
func isBase64Text(s string, min int) bool {
	for range 2 {
		if n := len(s); n > 0 && s[n-1] == '=' {
			s = s[:n-1]
		}
	}
	if len(s) < min {
		return false
	}
	// A bit per byte value instead of comparisons: random text makes branches slow.
	const letters = 1<<26 - 1
	set := [4]uint64{1<<'+' | 1<<'/' | (1<<10-1)<<'0', letters<<('A'-64) | letters<<('a'-64)}
	for i := range len(s) {
		if set[s[i]>>6]>>(s[i]&63)&1 == 0 {
			return false
		}
	}
	return true
}
