package keyfind

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	yamlparser "github.com/goccy/go-yaml/parser"

	"github.com/n8keep/n8keep/internal/yamlguard"
)

// maxDepth bounds the nesting that is followed.
const maxDepth = 100

// json takes the members of a JSON text; false when it is none.
func (p *parser) json(text string) bool {
	text = strings.TrimPrefix(text, bom)
	if t := strings.TrimSpace(text); t == "" || t[0] != '{' && t[0] != '[' || !json.Valid([]byte(t)) {
		return false
	}
	d := json.NewDecoder(strings.NewReader(text))
	w := &jsonWalk{parser: p, d: d, text: text}
	w.value("", 0)
	return true
}

type jsonWalk struct {
	*parser
	d    *json.Decoder
	text string
}

func (w *jsonWalk) line() int { return 1 + strings.Count(w.text[:w.d.InputOffset()], "\n") }

// value reads one value. In {"name": N, "value": V} of container definitions the
// name is a member, too.
func (w *jsonWalk) value(name string, depth int) (text string, line int, isText bool) {
	token, err := w.d.Token()
	if err != nil && err != io.EOF || depth > maxDepth {
		return "", 0, false
	}
	switch t := token.(type) {
	case string:
		line = w.line()
		w.member(name, t, line)
		return t, line, true
	case json.Delim:
		var named, valued string
		var at int
		for w.d.More() {
			key := ""
			if t == '{' {
				k, err := w.d.Token()
				if err != nil {
					return "", 0, false
				}
				key, _ = k.(string)
			}
			before := w.d.InputOffset()
			s, l, ok := w.value(key, depth+1)
			if ok && strings.EqualFold(key, "name") {
				named = s
			} else if ok && strings.EqualFold(key, "value") {
				valued, at = s, l
			}
			if w.d.InputOffset() == before {
				return "", 0, false
			}
		}
		w.d.Token()
		if keyName.MatchString(named) && valued != "" {
			w.parser.value(at, named, valued)
		}
	}
	return "", 0, false
}

func (p *parser) member(name, text string, line int) {
	if keyName.MatchString(name) {
		p.value(line, name, text)
	} else if m := setting.FindStringSubmatch(text); m != nil {
		p.value(line, m[1], m[2])
	}
}

// yaml takes the members of a YAML text; false when it is none, or when it is an
// environment file, which YAML's parser may take for one long word.
func (p *parser) yaml(text string) (ok bool) {
	if !strings.Contains(text, variable) && !strings.Contains(text, settingsMember) && !strings.Contains(text, "ncryption") {
		return false
	}
	defer func() {
		if recover() != nil { // the parser's, on input that it did not expect
			ok = false
		}
	}()
	tokens := lexer.Tokenize(text)
	if (yamlguard.Limits{Depth: maxDepth, PerLine: 2 * maxDepth}).Exceeded(tokens) > 0 {
		return false
	}
	file, err := yamlparser.Parse(tokens, 0)
	if err != nil {
		return false
	}
	found := &yamlWalk{parser: &parser{file: p.file}}
	structured := false
	for _, d := range file.Docs {
		switch d.Body.(type) {
		case *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
			structured = true
			found.walk("", d.Body, 0)
		}
	}
	if !structured {
		return false
	}
	p.list, p.notes = append(p.list, found.list...), append(p.notes, found.notes...)
	return true
}

// yamlWalk walks YAML nodes.
type yamlWalk struct{ *parser }

func (y *yamlWalk) walk(name string, n ast.Node, depth int) {
	if n == nil || depth > maxDepth {
		return
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		var named string
		for _, v := range n.Values {
			if strings.EqualFold(v.Key.String(), "name") {
				named, _ = scalar(v.Value)
			}
		}
		for _, v := range n.Values {
			if text, ok := scalar(v.Value); ok && keyName.MatchString(named) && strings.EqualFold(v.Key.String(), "value") {
				y.value(lineOf(v.Value), named, text)
			}
			y.walk(v.Key.String(), v.Value, depth+1)
		}
	case *ast.MappingValueNode:
		y.walk(n.Key.String(), n.Value, depth+1)
	case *ast.SequenceNode:
		for _, v := range n.Values {
			y.walk("", v, depth+1)
		}
	case *ast.AnchorNode:
		y.walk(name, n.Value, depth+1)
	case *ast.TagNode:
		y.walk(name, n.Value, depth+1)
	default:
		if text, ok := scalar(n); ok {
			y.member(strings.Trim(name, `"'`), text, lineOf(n))
		}
	}
}

func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.AnchorNode:
		return scalar(n.Value)
	case *ast.TagNode:
		return scalar(n.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true // a key of digits that lost its quotes
	}
	return "", false
}

func lineOf(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}
