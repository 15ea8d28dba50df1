package deploy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/n8keep/n8keep/internal/yamlguard"
)

// parseYAML reads a YAML file of any number of documents. The parser gives the
// structure; where a value stands in the file is found by the source text of its
// token, since all that may stand between two tokens is white space.
func parseYAML(src string) (doc document, err error) {
	defer func() {
		if recover() != nil { // the parser's, on input that it did not expect
			doc, err = nil, errors.New("it is not valid YAML")
		}
	}()
	tokens := lexer.Tokenize(src)
	// What a person writes is far below these.
	if line := (yamlguard.Limits{Depth: 100, PerLine: 200}).Exceeded(tokens); line > 0 {
		return nil, fmt.Errorf("line %d is nested too deep", line)
	}
	y := &yamlParser{src: src, at: map[*token.Token][2]int{}, anchors: map[string]*node{}, used: map[*token.Token]bool{}}
	if err := y.locate(tokens); err != nil {
		return nil, err
	}
	tokens = y.joinFlow(tokens)
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		// The parser's text quotes the file.
		if line := yamlguard.ErrorLine(err); line > 0 {
			return nil, fmt.Errorf("line %d is not valid YAML", line)
		}
		return nil, errors.New("it is not valid YAML")
	}
	t := &tree{notes: y.notes}
	for _, d := range file.Docs {
		if d.Body == nil {
			continue
		}
		if _, ok := d.Body.(*ast.DirectiveNode); ok {
			continue
		}
		n := y.node(d.Body)
		if n.kind == leafKind && n.txt.s != "" {
			return nil, errors.New("it is plain text and no YAML mapping or list")
		}
		t.roots = append(t.roots, n)
	}
	if y.err != nil {
		return nil, y.err
	}
	return t, y.complete(tokens)
}

// unknownForm refuses what the lexer and this package do not agree on.
func unknownForm(t *token.Token) error {
	return fmt.Errorf("line %d has a form of YAML that is not known here", t.Position.Line)
}

type yamlParser struct {
	src     string
	at      map[*token.Token][2]int
	used    map[*token.Token]bool
	notes   [][2]int
	anchors map[string]*node
	err     error
}

const yamlSpace = " \t\r\n"

// locate finds every token in the file.
func (y *yamlParser) locate(tokens token.Tokens) error {
	at := 0
	if strings.HasPrefix(y.src, "\ufeff") {
		at = len("\ufeff")
	}
	for _, t := range tokens {
		origin := strings.Trim(strings.TrimPrefix(t.Origin, "\ufeff"), yamlSpace)
		for at < len(y.src) && strings.IndexByte(yamlSpace, y.src[at]) >= 0 {
			at++
		}
		n, ok := sameText(y.src[at:], origin)
		// The lexer decodes some escapes in the origin of a quoted scalar.
		switch t.Type {
		case token.DoubleQuoteType, token.SingleQuoteType:
			n, ok = quotedLength(y.src[at:])
		}
		if !ok {
			return unknownForm(t)
		}
		y.at[t] = [2]int{at, at + n}
		if t.Type == token.CommentType {
			y.notes = append(y.notes, y.at[t])
		}
		at += n
	}
	if strings.Trim(y.src[at:], yamlSpace) != "" {
		return unknownForm(&token.Token{Position: &token.Position{Line: 1 + strings.Count(y.src[:at], "\n")}})
	}
	return nil
}

// quotedLength is the length of the quoted scalar that src begins with.
func quotedLength(src string) (int, bool) {
	if src == "" || src[0] != '"' && src[0] != '\'' {
		return 0, false
	}
	for i := 1; ; {
		n := closing(src[i:], src[0])
		if n < 0 {
			return 0, false
		}
		if i += n + 1; src[0] == '"' || i >= len(src) || src[i] != '\'' {
			return i, true
		}
		i++ // two quotes stand for one
	}
}

// joinFlow makes one scalar of [a:b] again, which the lexer takes for [{a: b}]:
// in YAML a colon without a space behind it is part of the scalar, and redacted
// values have one.
func (y *yamlParser) joinFlow(tokens token.Tokens) token.Tokens {
	var out token.Tokens
	var open []token.Type
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			open = append(open, t.Type)
		case token.SequenceEndType, token.MappingEndType:
			open = open[:max(0, len(open)-1)]
		}
		for len(open) > 0 && open[len(open)-1] == token.SequenceStartType && isPlain(t) && i+2 < len(tokens) &&
			tokens[i+1].Type == token.MappingValueType && isPlain(tokens[i+2]) &&
			y.at[t][1] == y.at[tokens[i+1]][0] && y.at[tokens[i+1]][1] == y.at[tokens[i+2]][0] {
			from, to := y.at[t][0], y.at[tokens[i+2]][1]
			t.Value, t.Origin, t.Type = y.src[from:to], y.src[from:to], token.StringType
			y.at[t] = [2]int{from, to}
			t.Next = tokens[i+2].Next
			if t.Next != nil {
				t.Next.Prev = t
			}
			i += 2
		}
		out = append(out, t)
	}
	return out
}

func isPlain(t *token.Token) bool {
	switch t.Type {
	case token.StringType, token.IntegerType, token.FloatType, token.OctetIntegerType, token.HexIntegerType, token.BinaryIntegerType, token.BoolType, token.NullType:
		return true
	}
	return false
}

// sameText reports how many bytes of src the origin of a token stands for. The
// lexer leaves out white space at the ends of lines.
func sameText(src, origin string) (int, bool) {
	if strings.HasPrefix(src, origin) {
		return len(origin), true
	}
	i := 0
	for j := 0; j < len(origin); {
		switch {
		case i < len(src) && src[i] == origin[j]:
			i++
			j++
		case i < len(src) && strings.IndexByte(yamlSpace, src[i]) >= 0:
			i++
		case strings.IndexByte(yamlSpace, origin[j]) >= 0:
			j++
		default:
			return 0, false
		}
	}
	return i, true
}

// complete looks for scalars that the tree does not hold: nothing is let through
// unseen.
func (y *yamlParser) complete(tokens token.Tokens) error {
	for i, t := range tokens {
		switch t.Type {
		case token.StringType, token.SingleQuoteType, token.DoubleQuoteType, token.IntegerType, token.FloatType:
		default:
			continue
		}
		if span := y.at[t]; y.used[t] || span[0] == span[1] {
			continue
		}
		if i > 0 && (tokens[i-1].Type == token.AnchorType || tokens[i-1].Type == token.AliasType) || t.Position.Line == directiveLine(tokens, i) {
			continue
		}
		return unknownForm(t)
	}
	return nil
}

// directiveLine is the line of the directive that the token follows, or 0.
func directiveLine(tokens token.Tokens, i int) int {
	for ; i >= 0; i-- {
		switch tokens[i].Type {
		case token.DirectiveType:
			return tokens[i].Position.Line
		case token.DocumentHeaderType, token.MappingValueType:
			return 0
		}
	}
	return 0
}

func (y *yamlParser) node(n ast.Node) *node {
	switch n := n.(type) {
	case *ast.MappingNode:
		out := &node{kind: mapKind}
		for _, v := range n.Values {
			y.pair(out, v)
		}
		return out
	case *ast.MappingValueNode:
		out := &node{kind: mapKind}
		y.pair(out, n)
		return out
	case *ast.SequenceNode:
		out := &node{kind: seqKind}
		for _, v := range n.Values {
			out.kids = append(out.kids, y.node(v))
		}
		return out
	case *ast.AnchorNode:
		out := &node{}
		y.anchors[n.Name.GetToken().Value] = out
		*out = *y.node(n.Value)
		return out
	case *ast.AliasNode:
		return &node{kind: aliasKind, to: y.anchors[n.Value.GetToken().Value]}
	case *ast.TagNode:
		return y.node(n.Value)
	case *ast.LiteralNode:
		return y.scalar(n.Value.GetToken(), true)
	case *ast.NullNode:
		// Where nothing is written the parser makes up a token.
		if _, ok := y.at[n.Token]; !ok {
			return &node{kind: leafKind}
		}
		return y.scalar(n.Token, false)
	case nil:
		return &node{kind: leafKind}
	}
	return y.scalar(n.GetToken(), false)
}

func (y *yamlParser) pair(to *node, n *ast.MappingValueNode) {
	to.keys = append(to.keys, y.key(n.Key))
	to.kids = append(to.kids, y.node(n.Value))
}

func (y *yamlParser) key(n ast.Node) key {
	switch k := n.(type) {
	case *ast.MappingKeyNode:
		return y.key(k.Value)
	case *ast.AnchorNode:
		return y.key(k.Value)
	case *ast.TagNode:
		return y.key(k.Value)
	case *ast.AliasNode:
		return key{name: "*" + k.Value.GetToken().Value}
	case *ast.MergeKeyNode:
		return key{name: "<<"}
	case *ast.LiteralNode:
		return y.key(k.Value)
	case *ast.MappingNode, *ast.SequenceNode, *ast.MappingValueNode:
		y.err = unknownForm(n.GetToken())
		return key{}
	}
	t := n.GetToken()
	span, ok := y.at[t]
	if !ok {
		return key{name: t.Value}
	}
	y.used[t] = true
	return key{name: t.Value, at: span}
}

func (y *yamlParser) scalar(t *token.Token, isBlock bool) *node {
	span, ok := y.at[t]
	if !ok {
		if t.Type != token.ImplicitNullType && strings.Trim(t.Origin, yamlSpace) != "" {
			y.err = unknownForm(t)
		}
		return &node{kind: leafKind}
	}
	y.used[t] = true
	from, to := span[0], span[1]
	switch {
	case isBlock:
		return &node{kind: leafKind, txt: block(y.src, from, to)}
	case t.Type == token.DoubleQuoteType && to-from >= 2:
		return &node{kind: leafKind, txt: doubleQuoted(y.src, from+1, to-1)}
	case t.Type == token.SingleQuoteType && to-from >= 2:
		return &node{kind: leafKind, txt: singleQuoted(y.src, from+1, to-1)}
	}
	return &node{kind: leafKind, txt: plain(y.src, from, to)}
}
