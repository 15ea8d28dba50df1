package deploy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var (
	section  = regexp.MustCompile(`^\[\[?[^\]\n]*\]\]?[ \t\r]*(?:[#;].*)?$`)
	unitLine = regexp.MustCompile(`^[ \t]*([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*`)
	// Directives that name a credential and do not hold it.
	unitReference = regexp.MustCompile(`^(?:LoadCredential|LoadCredentialEncrypted|ImportCredential|PassEnvironment|EnvironmentFile|UnsetEnvironment|Secret|Private[A-Z]\w*|AmbientCapabilities)$`)
)

// startsSection reports whether the first line that is no comment is a [Section].
func startsSection(src string) bool {
	for line := range strings.Lines(strings.TrimPrefix(src, "\ufeff")) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		return section.MatchString(line)
	}
	return false
}

// parseUnit reads a systemd unit or another file of sections with Key=Value
// lines. A line that ends in a backslash goes on in the next.
func parseUnit(src string) (document, error) {
	out := &lines{}
	at := len(src) - len(strings.TrimPrefix(src, "\ufeff"))
	in := ""
	for number := 1; at < len(src); {
		end := lineEnd(src, at)
		line := src[at:end]
		trimmed := strings.TrimSpace(line)
		next := end + 1
		switch m := unitLine.FindStringSubmatchIndex(line); {
		case trimmed == "":
		case trimmed[0] == '#' || trimmed[0] == ';':
			out.notes = append(out.notes, [2]int{at, end})
		case section.MatchString(trimmed):
			in = strings.Trim(strings.SplitN(trimmed, "]", 2)[0], "[")
			out.forms = append(out.forms, "["+in)
		case m != nil:
			name := out.name(src, at+m[2], at+m[3])
			value, to := out.logical(src, at+m[1])
			if err := out.directive(src, in, name, value); err != nil {
				return nil, fmt.Errorf("line %d: %v", number, err)
			}
			next = to + 1
		default:
			return nil, fmt.Errorf("line %d is no Key=Value", number)
		}
		number += strings.Count(src[at:min(next, len(src))], "\n")
		at = next
	}
	return out, nil
}

// logical is the value at src[at] with the lines that continue it joined by
// blanks; to is the end of the last. Comments between them are none of it.
func (l *lines) logical(src string, at int) (value text, to int) {
	end := lineEnd(src, at)
	if !continued(src[at:end]) {
		return raw(src, at, end).trim(), end
	}
	var b builder
	first := true
	for {
		part := strings.TrimRight(src[at:end], "\r")
		if lead := strings.TrimLeft(part, " \t"); !first && lead != "" && (lead[0] == '#' || lead[0] == ';') {
			l.notes = append(l.notes, [2]int{at, end})
		} else {
			more := continued(part)
			b.copy(strings.TrimSuffix(part, `\`), at)
			if !more {
				break
			}
			b.add(" ", at+len(part)-1)
		}
		if end >= len(src) {
			break
		}
		first = false
		at, end = end+1, lineEnd(src, end+1)
	}
	return b.text(end).trim(), end
}

func continued(line string) bool { return strings.HasSuffix(strings.TrimRight(line, "\r"), `\`) }

func (l *lines) directive(src, in, name string, value text) error {
	row := join(in, name)
	switch {
	case name == "Environment" || name == "DefaultEnvironment":
		return l.environment(row, value)
	case name == "SetCredential" || name == "SetCredentialEncrypted":
		if i := strings.IndexByte(value.s, ':'); i >= 0 {
			l.leaves = append(l.leaves, leaf{row: row, name: name, txt: value.slice(i+1, len(value.s))})
			return nil
		}
	}
	v := leaf{row: row, name: name, txt: value, listed: unitReference.MatchString(name)}
	if s := value.s; len(s) >= 2 && strings.IndexByte("\"'", s[0]) >= 0 && closing(s[1:], s[0]) == len(s)-2 {
		v.txt = value.slice(1, len(s)-1)
	}
	l.leaves = append(l.leaves, v)
	return nil
}

// environment reads the assignments of an Environment= line: words that may be
// quoted in part, with C escapes.
func (l *lines) environment(row string, value text) error {
	s := value.s
	for i := 0; i < len(s); {
		if s[i] == ' ' || s[i] == '\t' {
			i++
			continue
		}
		w, next, err := unitWord(value, i)
		if err != nil {
			return err
		}
		i = next
		eq := strings.IndexByte(w.s, '=')
		if eq < 0 {
			l.leaves = append(l.leaves, leaf{row: row, txt: w})
			l.forms = append(l.forms, "word")
			continue
		}
		name := w.s[:eq]
		l.forms = append(l.forms, "="+name)
		// A word in parts is replaced from its equals sign to its end, quotes as
		// they are: they stand in pairs there, or the word would not be whole.
		v := w.slice(eq+1, len(w.s))
		l.leaves = append(l.leaves, leaf{row: join(row, name), name: name, txt: v})
	}
	return nil
}

// unitWord reads the word at value.s[i].
func unitWord(value text, i int) (word text, next int, err error) {
	s := value.s
	var b builder
	at := func(i int) int { from, _ := value.slice(i, i).span(); return from }
	pieces, start, quote := 0, i, byte(0)
	for ; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && (c == ' ' || c == '\t'):
			goto done
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
			pieces++
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && i+1 < len(s):
			out, n := unescape(s[i:])
			b.add(out, at(i))
			i += n - 1
		default:
			b.copy(s[i:i+1], at(i))
		}
	}
done:
	if quote != 0 {
		return text{}, 0, errors.New("its quote is not closed")
	}
	whole := pieces == 1 && (s[start] == '"' || s[start] == '\'') && s[i-1] == s[start]
	switch {
	case whole:
		word = b.text(at(i - 1))
	case pieces == 0:
		word = b.text(at(i))
	default:
		// Quotes inside: any change replaces all behind the equals sign.
		word = b.text(at(i))
		if eq := strings.IndexByte(s[start:i], '='); eq >= 0 {
			word.whole = &[2]int{at(start + eq + 1), at(i)}
		} else {
			word.whole = &[2]int{at(start), at(i)}
		}
	}
	return word, i, nil
}
