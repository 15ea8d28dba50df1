package deploy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var (
	envName = regexp.MustCompile(`(?:^|[._-])env(?:[._-]|$)|^envrc$`)
	envLine = regexp.MustCompile(`^[ \t]*(?:(?:export|set)[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)(?:[ \t]*=[ \t]*|:[ \t]+)`)
	envBare = regexp.MustCompile(`^[ \t]*(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_]*[ \t\r]*$`)
	envTail = regexp.MustCompile(`^[ \t\r]*(?:[ \t]#.*)?$`)
	envNote = regexp.MustCompile(`[ \t]#`)
)

// lines is a file of settings, one by line: an env file or a systemd unit.
type lines struct {
	leaves []leaf
	notes  [][2]int
	keys   []key
	forms  []string
}

func (l *lines) comments() [][2]int { return l.notes }
func (l *lines) shape() []string    { return l.forms }

func (l *lines) visit(r *redactor) {
	for _, v := range l.leaves {
		r.value(v)
	}
}

func (l *lines) names() [][2]int {
	var out [][2]int
	for _, k := range l.keys {
		out = append(out, k.at)
	}
	return inOrder(out)
}

func (l *lines) name(src string, from, to int) string {
	l.keys = append(l.keys, key{src[from:to], [2]int{from, to}})
	l.forms = append(l.forms, "="+src[from:to])
	return src[from:to]
}

// parseEnv reads an env file as docker compose, dotenv and shells do: an
// unquoted value goes to the end of the line or to " #", a quoted one may have
// several lines.
func parseEnv(src string) (document, error) {
	out := &lines{}
	at := len(src) - len(strings.TrimPrefix(src, "\ufeff"))
	for number := 1; at < len(src); {
		end := lineEnd(src, at)
		line := src[at:end]
		trimmed := strings.TrimSpace(line)
		next := end + 1
		switch m := envLine.FindStringSubmatchIndex(line); {
		case trimmed == "":
		case trimmed[0] == '#':
			out.notes = append(out.notes, [2]int{at, end})
		case m != nil:
			name := out.name(src, at+m[2], at+m[3])
			value, refs, to, err := envValue(src, at+m[1])
			if err != nil {
				return nil, fmt.Errorf("line %d: %v", number, err)
			}
			out.leaves = append(out.leaves, leaf{row: name, name: name, txt: value, refs: refs})
			end = lineEnd(src, to)
			if n := envNote.FindStringIndex(src[to:end]); n != nil {
				out.notes = append(out.notes, [2]int{to + n[0], end})
			}
			next = end + 1
		case envBare.MatchString(line):
			out.forms = append(out.forms, "bare")
		default:
			return nil, fmt.Errorf("line %d is no NAME=VALUE", number)
		}
		number += strings.Count(src[at:min(next, len(src))], "\n")
		at = next
	}
	return out, nil
}

func lineEnd(src string, at int) int {
	if n := strings.IndexByte(src[at:], '\n'); n >= 0 {
		return at + n
	}
	return len(src)
}

// envValue reads the value at src[at]; to is behind it, within its last line.
func envValue(src string, at int) (value text, refs references, to int, err error) {
	end := lineEnd(src, at)
	if at < end && strings.IndexByte("\"'`", src[at]) >= 0 {
		quote := src[at]
		refs = anyReference
		if quote == '\'' {
			refs = noReferences
		}
		n := closing(src[at+1:], quote)
		switch {
		case n >= 0 && envTail.MatchString(src[at+n+2:lineEnd(src, at+n+2)]):
			inside := at + 1
			if quote == '"' {
				return envQuoted(src, inside, inside+n), refs, inside + n + 1, nil
			}
			return raw(src, inside, inside+n), refs, inside + n + 1, nil
		case n < 0 && strings.IndexByte(src[at+1:end], quote) < 0:
			return text{}, 0, 0, errors.New("its quote is not closed")
		}
		// A quote and more, which each reader takes for something else.
		to = at + len(strings.TrimRight(src[at:end], " \t\r"))
		value = raw(src, at, to)
		value.whole = &[2]int{at, to}
		return value, noReferences, to, nil
	}
	to = end
	if n := envNote.FindStringIndex(src[at:end]); n != nil {
		to = at + n[0]
	}
	to = at + len(strings.TrimRight(src[at:to], " \t\r"))
	return raw(src, at, to), anyReference, to, nil
}

// envQuoted decodes the inside of a double-quoted value, in which line breaks
// stand for themselves.
func envQuoted(src string, from, to int) text {
	if !strings.Contains(src[from:to], `\`) {
		return raw(src, from, to)
	}
	var b builder
	for i := from; i < to; i++ {
		if src[i] != '\\' || i+1 == to {
			b.copy(src[i:i+1], i)
			continue
		}
		c := src[i+1]
		switch n := strings.IndexByte("nrt", c); {
		case n >= 0:
			b.add("\n\r\t"[n:n+1], i)
		case strings.IndexByte("\"\\$`'", c) >= 0:
			b.add(string(c), i)
		default:
			b.copy(src[i:i+2], i)
		}
		i++
	}
	return b.text(to)
}
