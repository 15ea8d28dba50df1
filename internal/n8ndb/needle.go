package n8ndb

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// Needle finds an instance key in bytes: as it is, as it stands in JSON (also in
// JSON within JSON), and inside base64 of any alignment and alphabet. It may be
// used by several goroutines at once.
//
// A key of fewer than 16 characters could be part of any text by chance. Such a
// weak key is found only where it is a whole value.
type Needle struct {
	weak     bool
	patterns [][]byte
	shortest int
	longest  int
	// shift is how far a window of the shortest pattern's length may move, by the
	// last two bytes in it (Wu and Manber); 0 is a possible match.
	shift []uint8
	also  []*Needle // further keys
}

// StrongKey is the number of characters from which a key is searched in all text.
const StrongKey = 16

// NewNeedle returns a Needle for the key, which must not be zero, and for others.
func NewNeedle(key n8ncrypt.InstanceKey, others ...n8ncrypt.InstanceKey) *Needle {
	text := key.Reveal()
	n := &Needle{weak: utf8.RuneCountInString(text) < StrongKey}
	n.add([]byte(text))
	quoted := jsonText(text)
	n.add([]byte(quoted))
	n.add([]byte(jsonText(quoted)))
	n.add([]byte(asciiText(text)))
	n.add([]byte(strings.ReplaceAll(quoted, "/", `\/`)))
	if !n.weak {
		for align := range 3 {
			core := base64Core([]byte(text), align)
			n.add(core)
			n.add([]byte(strings.NewReplacer("+", "-", "/", "_").Replace(string(core))))
		}
	}
	n.prepare()
	for _, other := range others {
		if !other.Equal(key) {
			more := NewNeedle(other)
			n.also, n.longest = append(n.also, more), max(n.longest, more.longest)
		}
	}
	return n
}

// Weak reports whether the key has too few characters to be searched inside text.
func (n *Needle) Weak() bool { return n.weak }

func (n *Needle) add(p []byte) {
	for _, have := range n.patterns {
		if bytes.Equal(have, p) {
			return
		}
	}
	n.patterns = append(n.patterns, p)
}

func (n *Needle) prepare() {
	n.shortest = len(n.patterns[0])
	for _, p := range n.patterns {
		n.shortest = min(n.shortest, len(p))
		n.longest = max(n.longest, len(p))
	}
	if n.weak {
		return
	}
	n.shift = make([]uint8, 1<<16)
	far := min(n.shortest-1, 255)
	for i := range n.shift {
		n.shift[i] = uint8(far)
	}
	for _, p := range n.patterns {
		for i := 1; i < n.shortest; i++ {
			pair := int(p[i-1])<<8 | int(p[i])
			n.shift[pair] = min(n.shift[pair], uint8(min(n.shortest-1-i, 255)))
		}
	}
}

// Find reports whether a key is in b, or, for a weak key, whether b is the key.
func (n *Needle) Find(b []byte) bool {
	return n.find(b) || slices.ContainsFunc(n.also, func(m *Needle) bool { return m.find(b) })
}

func (n *Needle) find(b []byte) bool {
	if n.weak {
		return n.whole(b)
	}
	m := n.shortest
	for i := m - 1; i < len(b); {
		s := n.shift[int(b[i-1])<<8|int(b[i])]
		if s > 0 {
			i += int(s)
			continue
		}
		for _, p := range n.patterns {
			if bytes.HasPrefix(b[i-m+1:], p) {
				return true
			}
		}
		i++
	}
	return false
}

// Ranges returns where a key stands in b, as pairs of begin and end in order,
// without overlaps. A weak key is found only where it is all of b.
func (n *Needle) Ranges(b []byte) [][2]int {
	all := n.ranges(b)
	for _, m := range n.also {
		all = append(all, m.ranges(b)...)
	}
	slices.SortFunc(all, func(x, y [2]int) int { return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(y[1], x[1])) })
	var out [][2]int
	for _, r := range all {
		if last := len(out) - 1; last >= 0 && r[0] < out[last][1] {
			out[last][1] = max(out[last][1], r[1])
			continue
		}
		out = append(out, r)
	}
	return out
}

func (n *Needle) ranges(b []byte) [][2]int {
	if n.weak {
		if n.whole(b) {
			return [][2]int{{0, len(b)}}
		}
		return nil
	}
	var out [][2]int
	for i := 0; i+n.shortest <= len(b); {
		end := 0
		for _, p := range n.patterns {
			if bytes.HasPrefix(b[i:], p) {
				end = max(end, i+len(p))
			}
		}
		if end == 0 {
			i++
			continue
		}
		out = append(out, [2]int{i, end})
		i = end
	}
	return out
}

func (n *Needle) whole(b []byte) bool {
	if len(b) > n.longest+64 {
		return false
	}
	b = bytes.TrimSpace(b)
	if len(b) >= 2 && b[0] == '"' && b[len(b)-1] == '"' {
		b = b[1 : len(b)-1]
	}
	for _, p := range n.patterns {
		if bytes.Equal(b, p) {
			return true
		}
	}
	return false
}

// Reader returns r with an eye on what passes, for files of any size.
func (n *Needle) Reader(r io.Reader) *NeedleReader {
	out := &NeedleReader{n: n}
	for _, m := range n.also {
		inner := m.Reader(r)
		out.also, r = append(out.also, inner), inner
	}
	out.r = r
	return out
}

// NeedleReader passes the bytes of another reader on and finds the key in them,
// also where a match lies across two reads. A weak key is found when it is the
// whole content, which is known at the end.
type NeedleReader struct {
	n     *Needle
	r     io.Reader
	found bool
	ended bool
	tail  []byte // the last bytes that a match could begin in
	total int64
	also  []*NeedleReader // of the other keys, each reading through the one before
}

// Read implements io.Reader.
func (r *NeedleReader) Read(p []byte) (int, error) {
	count, err := r.r.Read(p)
	r.total += int64(count)
	r.ended = r.ended || errors.Is(err, io.EOF)
	if !r.found {
		r.watch(p[:count])
	}
	return count, err
}

func (r *NeedleReader) watch(p []byte) {
	keep := r.n.longest - 1
	if r.n.weak {
		keep = r.n.longest + 64
	} else {
		r.found = r.n.find(p) || len(r.tail) > 0 && r.n.find(append(r.tail[:len(r.tail):len(r.tail)], p[:min(len(p), keep)]...))
	}
	r.tail = append(r.tail, p[max(0, len(p)-keep):]...)
	r.tail = append(r.tail[:0], r.tail[max(0, len(r.tail)-keep):]...)
}

// Found reports whether a key was in what has been read so far.
func (r *NeedleReader) Found() bool {
	return r.foundOwn() || slices.ContainsFunc(r.also, (*NeedleReader).Found)
}

func (r *NeedleReader) foundOwn() bool {
	if r.n.weak {
		return r.ended && r.total <= int64(len(r.tail)) && r.n.whole(r.tail)
	}
	return r.found
}

// base64Core is the part of the base64 text of something with s in it that depends
// on s alone, when s begins align bytes behind a group of three.
func base64Core(s []byte, align int) []byte {
	all := base64.RawStdEncoding.AppendEncode(nil, append(make([]byte, align), s...))
	whole := (align + len(s)) * 8 / 6
	return all[[]int{0, 2, 3}[align]:whole]
}

// jsonText is JSON.stringify without its quotes.
func jsonText(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(s) != nil {
		return s
	}
	return strings.TrimSuffix(b.String(), "\n")[1 : b.Len()-2]
}

// asciiText is JSON as Python and PHP write it, with every other character escaped.
func asciiText(s string) string {
	var b strings.Builder
	for _, r := range jsonText(s) {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}
