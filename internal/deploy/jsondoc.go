package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
)

// parseJSON reads a JSON file. Its nesting is limited by encoding/json.
func parseJSON(src string) (document, error) {
	skip := 0
	if strings.HasPrefix(src, "\ufeff") {
		skip = len("\ufeff")
	}
	var discard any
	if err := json.Unmarshal([]byte(src[skip:]), &discard); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return nil, fmt.Errorf("line %d is not valid JSON", 1+strings.Count(src[:min(len(src), skip+int(syntax.Offset))], "\n"))
		}
		return nil, errors.New("it is not valid JSON")
	}
	p := &jsonParser{src: src, at: skip}
	return &tree{roots: []*node{p.value()}}, nil
}

// jsonParser reads JSON that is known to be valid.
type jsonParser struct {
	src string
	at  int
}

func (p *jsonParser) next() byte {
	for strings.IndexByte(" \t\r\n", p.src[p.at]) >= 0 {
		p.at++
	}
	return p.src[p.at]
}

func (p *jsonParser) value() *node {
	switch p.next() {
	case '{':
		n := &node{kind: mapKind}
		for p.at++; p.next() != '}'; {
			if p.src[p.at] == ',' {
				p.at++
				p.next()
			}
			k := p.text()
			from, to := k.span()
			n.keys = append(n.keys, key{k.s, [2]int{from, to}})
			p.next()
			p.at++ // the colon
			n.kids = append(n.kids, p.value())
		}
		p.at++
		return n
	case '[':
		n := &node{kind: seqKind}
		for p.at++; p.next() != ']'; {
			if p.src[p.at] == ',' {
				p.at++
			}
			n.kids = append(n.kids, p.value())
		}
		p.at++
		return n
	case '"':
		return &node{kind: leafKind, txt: p.text()}
	}
	from := p.at
	for p.at < len(p.src) && strings.IndexByte(" \t\r\n,]}", p.src[p.at]) < 0 {
		p.at++
	}
	t := raw(p.src, from, p.at)
	t.quote = true
	return &node{kind: leafKind, txt: t}
}

func (p *jsonParser) text() text {
	from := p.at + 1
	n := closing(p.src[from:], '"')
	p.at = from + n + 1
	return doubleQuoted(p.src, from, from+n)
}

// inOrder sorts spans.
func inOrder(spans [][2]int) [][2]int {
	sort.Slice(spans, func(i, j int) bool { return spans[i][0] < spans[j][0] })
	return spans
}
