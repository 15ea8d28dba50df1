package deploy

import (
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// text is a decoded value that knows where each of its bytes stands in the file.
type text struct {
	s    string
	base int   // offset of s in the file, when it stands there as it is
	at   []int // else the offset of each byte, and of the end
	// A value that only makes sense as a whole, such as a"b"c in a shell, has the
	// span here that is replaced for any part of it.
	whole *[2]int
	// A number in JSON needs quotes around what replaces it.
	quote bool
}

// raw is the text of a span that stands in the file as it is.
func raw(src string, from, to int) text { return text{s: src[from:to], base: from} }

func (t text) slice(i, j int) text {
	out := text{s: t.s[i:j], base: t.base + i, whole: t.whole, quote: t.quote}
	if t.at != nil {
		out.at = t.at[i : j+1]
	}
	return out
}

// span is the place in the file that stands for the whole text.
func (t text) span() (from, to int) {
	if t.whole != nil {
		return t.whole[0], t.whole[1]
	}
	if t.at != nil {
		return t.at[0], t.at[len(t.at)-1]
	}
	return t.base, t.base + len(t.s)
}

// trim is the text without white space at its ends.
func (t text) trim() text {
	left := len(t.s) - len(strings.TrimLeft(t.s, " \t\r\n"))
	right := max(left, len(strings.TrimRight(t.s, " \t\r\n")))
	return t.slice(left, right)
}

// builder makes a text byte by byte.
type builder struct {
	s  strings.Builder
	at []int
}

func (b *builder) add(s string, at int) {
	for range len(s) {
		b.at = append(b.at, at)
	}
	b.s.WriteString(s)
}

// copy adds bytes that stand in the file as they are.
func (b *builder) copy(s string, at int) {
	for i := range len(s) {
		b.at = append(b.at, at+i)
	}
	b.s.WriteString(s)
}

func (b *builder) text(end int) text { return text{s: b.s.String(), at: append(b.at, end)} }

// doubleQuoted decodes the inside of a double-quoted string of JSON or YAML.
// What is no escape in either stays as it is.
func doubleQuoted(src string, from, to int) text {
	if !strings.ContainsAny(src[from:to], "\\\n") {
		return raw(src, from, to)
	}
	var b builder
	for i := from; i < to; {
		switch {
		case src[i] == '\\' && i+1 < to:
			s, n := unescape(src[i:to])
			b.add(s, i)
			i += n
		case src[i] == '\n' || src[i] == '\r' && i+1 < to && src[i+1] == '\n':
			i = b.fold(src, i, to)
		default:
			b.copy(src[i:i+1], i)
			i++
		}
	}
	return b.text(to)
}

// unescape decodes the escape that s begins with, and returns its length.
func unescape(s string) (string, int) {
	switch c := s[1]; c {
	case '\n':
		return "", 2 + len(s[2:]) - len(strings.TrimLeft(s[2:], " \t"))
	case 'x':
		if r, ok := hexRune(s, 2, 2); ok {
			return string(r), 4
		}
	case 'u':
		r, ok := hexRune(s, 2, 4)
		if !ok {
			break
		}
		if utf16.IsSurrogate(r) && len(s) >= 12 && s[6] == '\\' && s[7] == 'u' {
			if low, ok := hexRune(s, 8, 4); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
				return string(utf16.DecodeRune(r, low)), 12
			}
		}
		return string(r), 6
	case 'U':
		if r, ok := hexRune(s, 2, 8); ok {
			return string(r), 10
		}
	default:
		const letters = "0abt\tnvfre \"/\\N_LP"
		if n := strings.IndexByte(letters, c); n >= 0 {
			return string([]rune("\x00\a\b\t\t\n\v\f\r\x1b \"/\\\u0085\u00a0\u2028\u2029")[n]), 2
		}
	}
	return s[:1], 1
}

func hexRune(s string, from, digits int) (rune, bool) {
	if len(s) < from+digits {
		return 0, false
	}
	var r rune
	for _, c := range []byte(s[from : from+digits]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// fold adds what a line break inside of a YAML scalar stands for, and returns
// where the next line's text begins.
func (b *builder) fold(src string, i, to int) int {
	start, breaks := i, 0
	for i < to && strings.IndexByte(" \t\r\n", src[i]) >= 0 {
		if src[i] == '\n' {
			breaks++
		}
		i++
	}
	if breaks > 1 {
		b.add(strings.Repeat("\n", breaks-1), start)
	} else {
		b.add(" ", start)
	}
	return i
}

// singleQuoted decodes the inside of a single-quoted YAML scalar.
func singleQuoted(src string, from, to int) text {
	if !strings.ContainsAny(src[from:to], "'\n") {
		return raw(src, from, to)
	}
	var b builder
	for i := from; i < to; {
		switch {
		case strings.HasPrefix(src[i:to], "''"):
			b.add("'", i)
			i += 2
		case src[i] == '\n' || strings.HasPrefix(src[i:to], "\r\n"):
			i = b.fold(src, i, to)
		default:
			b.copy(src[i:i+1], i)
			i++
		}
	}
	return b.text(to)
}

// plain decodes a YAML scalar without quotes.
func plain(src string, from, to int) text {
	if !strings.Contains(src[from:to], "\n") {
		return raw(src, from, to)
	}
	var b builder
	for i := from; i < to; {
		if src[i] == '\n' || strings.HasPrefix(src[i:to], "\r\n") {
			i = b.fold(src, i, to)
			continue
		}
		b.copy(src[i:i+1], i)
		i++
	}
	return b.text(to)
}

// block decodes a YAML block scalar, line by line also where it is a folded one:
// what people write there is lines. From is behind the first line's indentation.
func block(src string, from, to int) text {
	if !strings.Contains(src[from:to], "\n") {
		return raw(src, from, to)
	}
	indent := from - (strings.LastIndexByte(src[:from], '\n') + 1)
	var b builder
	for i := from; i < to; {
		end := to
		if n := strings.IndexByte(src[i:to], '\n'); n >= 0 {
			end = i + n + 1
		}
		b.copy(src[i:end], i)
		for i = end; i < to && i < end+indent && src[i] == ' '; i++ {
		}
	}
	return b.text(to)
}
