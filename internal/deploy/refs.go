package deploy

import (
	"regexp"
	"strings"
)

// references says which forms of $NAME mean something where a value stands.
type references int

const (
	noReferences references = iota // systemd, single quotes in an env file
	braced                         // ${NAME}, $(NAME), {{ name }}
	anyReference                   // those, and $NAME
)

var (
	bareReference   = regexp.MustCompile(`^\$(?:[A-Z_][A-Z0-9_]*|[0-9@*#?])`)
	parenReference  = regexp.MustCompile(`^\$\((?:[A-Za-z_][A-Za-z0-9_.]*|(?:cat|<) ?[^)]*)\)`)
	braceName       = regexp.MustCompile(`^\$\{[A-Za-z_][A-Za-z0-9_.]*`)
	templateDefault = regexp.MustCompile(`\bdefault\s+(?:"([^"]*)"|'([^']*)'|` + "`([^`]*)`)")
	// Values that name where a secret is: 1Password, vals, bank-vaults, AWS, our own.
	elsewhere = regexp.MustCompile(`^(?:op://\S+|ref\+[a-z]+://\S+|vault:[\w/.-]+#\S+|arn:aws[\w-]*:(?:secretsmanager|ssm):\S+|file:[./~]\S*|env:[A-Z_][A-Z0-9_]*)$`)
)

// reference is one reference in a text: its span, and the spans of defaults in it.
type reference struct {
	from, to int
	defaults [][2]int
}

// maxReference is the length of the longest reference, defaults included.
const maxReference = 4096

// referenceAt returns the reference that begins at s[i].
func referenceAt(s string, i int, syntax references) (reference, bool) {
	if syntax == noReferences || i >= len(s) {
		return reference{}, false
	}
	if c := s[i]; c != '$' && c != '{' {
		return reference{}, false
	}
	s = s[:min(len(s), i+maxReference)]
	rest := s[i:]
	switch {
	case strings.HasPrefix(rest, "{{"):
		n := strings.Index(rest, "}}")
		if n < 0 {
			return reference{}, false
		}
		ref := reference{from: i, to: i + n + 2}
		for _, m := range templateDefault.FindAllStringSubmatchIndex(rest[:n], -1) {
			for g := 2; g < len(m); g += 2 {
				if m[g] >= 0 {
					ref.defaults = append(ref.defaults, [2]int{i + m[g], i + m[g+1]})
				}
			}
		}
		return ref, true
	case strings.HasPrefix(rest, "${"):
		name := braceName.FindString(rest)
		if name == "" {
			return reference{}, false
		}
		return bracedReference(s, i, i+len(name))
	case strings.HasPrefix(rest, "$("):
		if m := parenReference.FindString(rest); m != "" {
			return reference{from: i, to: i + len(m)}, true
		}
	case rest[0] == '$' && syntax == anyReference:
		if m := bareReference.FindString(rest); m != "" {
			return reference{from: i, to: i + len(m)}, true
		}
	}
	return reference{}, false
}

// bracedReference reads ${NAME}, ${NAME:-default} and their like; at is behind
// the name.
func bracedReference(s string, from, at int) (reference, bool) {
	op := at
	if op < len(s) && s[op] == ':' {
		op++
	}
	if op >= len(s) {
		return reference{}, false
	}
	if s[op] == '}' && op == at {
		return reference{from: from, to: at + 1}, true
	}
	kind := s[op]
	if strings.IndexByte("-+?=", kind) < 0 {
		return reference{}, false
	}
	depth := 1
	for i := op + 1; i < len(s); i++ {
		switch s[i] {
		case '{':
			if s[i-1] == '$' {
				depth++
			}
		case '}':
			if depth--; depth == 0 {
				ref := reference{from: from, to: i + 1}
				if kind != '?' && i > op+1 {
					ref.defaults = [][2]int{{op + 1, i}}
				}
				return ref, true
			}
		}
	}
	return reference{}, false
}

// onlyReferences reports whether s is nothing but references, and the defaults
// that stand in them.
func onlyReferences(s string, syntax references) (defaults [][2]int, ok bool) {
	for i := 0; i < len(s); {
		ref, found := referenceAt(s, i, syntax)
		if !found {
			return nil, false
		}
		defaults = append(defaults, ref.defaults...)
		i = ref.to
	}
	return defaults, len(s) > 0
}
