// Package yamlguard is for YAML that somebody else wrote. The parser recurses, so that
// nesting may exhaust its stack, which no recover catches; and the texts of its errors
// quote the file, in which secrets are.
package yamlguard

import (
	"fmt"

	"github.com/goccy/go-yaml/token"
)

// Limits bound what the parser is given. The depth of blocks is bounded by the size of
// the file, since each level needs indentation, but for what can stand many times on
// one line.
type Limits struct {
	Depth   int // of lists and mappings in brackets
	PerLine int // entries, keys, tags and anchors on one line
}

// Exceeded is the line on which the tokens go beyond the limits, or 0.
func (l Limits) Exceeded(tokens token.Tokens) int {
	depth, line, onLine := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType, token.TagType, token.AnchorType:
			if t.Position.Line != line {
				line, onLine = t.Position.Line, 0
			}
			onLine++
		}
		if depth > l.Depth || onLine > l.PerLine {
			return t.Position.Line
		}
	}
	return 0
}

// ErrorLine is the line that an error of the parser names, or 0.
func ErrorLine(err error) int {
	var line, column int
	if n, _ := fmt.Sscanf(err.Error(), "[%d:%d]", &line, &column); n == 2 {
		return line
	}
	return 0
}
