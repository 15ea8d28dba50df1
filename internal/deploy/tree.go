package deploy

import (
	"fmt"
	"regexp"
	"strings"
)

// node is a value of a YAML or JSON document.
type node struct {
	kind kind
	txt  text // of a leaf
	keys []key
	kids []*node
	to   *node // of an alias: the value that it stands for
}

type kind byte

const (
	leafKind  kind = 'v'
	mapKind   kind = 'm'
	seqKind   kind = 's'
	aliasKind kind = '*'
)

type key struct {
	name string
	at   [2]int
}

// tree is a parsed YAML or JSON file.
type tree struct {
	roots []*node
	notes [][2]int
}

func (t *tree) comments() [][2]int { return t.notes }

func (t *tree) visit(r *redactor) {
	w := &walker{r: r, seen: map[*node]bool{}}
	for i, n := range t.roots {
		p := place{refs: anyReference}
		if len(t.roots) > 1 {
			p.row = fmt.Sprintf("#%d", i+1)
		}
		if n.kind == mapKind && n.child("services") != nil {
			p.compose = 1
		}
		w.node(n, p)
	}
}

func (t *tree) names() [][2]int {
	var out [][2]int
	t.each(func(n *node) {
		for _, k := range n.keys {
			if k.at[0] < k.at[1] {
				out = append(out, k.at)
			}
		}
	})
	return inOrder(out)
}

func (t *tree) shape() []string {
	var out []string
	t.each(func(n *node) {
		out = append(out, fmt.Sprintf("%c%d", n.kind, len(n.kids)))
		for _, k := range n.keys {
			out = append(out, "="+k.name)
		}
	})
	return out
}

func (t *tree) each(f func(*node)) {
	var down func(*node)
	down = func(n *node) {
		f(n)
		for _, kid := range n.kids {
			down(kid)
		}
	}
	for _, n := range t.roots {
		down(n)
	}
}

func (n *node) child(name string) *node {
	for i, k := range n.keys {
		if k.name == name {
			return n.kids[i]
		}
	}
	return nil
}

// leaf is the text of the child with one of the names, as it is or as Name.
func (n *node) leaf(names ...string) string {
	for _, name := range names {
		for i, k := range n.keys {
			if strings.EqualFold(k.name, name) && n.kids[i].kind == leafKind {
				return strings.TrimSpace(n.kids[i].txt.s)
			}
		}
	}
	return ""
}

// place is where a value stands, and what that says about it.
type place struct {
	row     string
	name    string // the name that says whether it is a secret
	reason  Reason // KubeSecret or BelowName
	refs    references
	compose int  // 1 in a compose file, 2 in its services, 3 in one service
	listed  bool // a list of names of secrets
}

type walker struct {
	r    *redactor
	seen map[*node]bool // by aliases
}

func (w *walker) node(n *node, p place) {
	switch n.kind {
	case mapKind:
		w.mapping(n, p)
	case seqKind:
		w.sequence(n, p)
	case aliasKind:
		w.alias(n, p)
	default:
		w.r.value(w.leaf(n, n.txt, p))
	}
}

func (w *walker) leaf(n *node, t text, p place) leaf {
	reason := p.reason
	if reason == BelowName && (referenceLeaf.MatchString(strings.ToLower(p.name)) ||
		judge(p.name) == exempt || isSecretsName(p.name, t.s)) {
		reason = ""
	}
	return leaf{row: p.row, name: p.name, txt: t, refs: p.refs, reason: reason, listed: p.listed}
}

// alias looks at the value of an anchor again, when the place of the alias says
// more about it than its own.
func (w *walker) alias(n *node, p place) {
	if n.to == nil || w.seen[n.to] || p.reason == "" && judge(p.name) <= exempt {
		return
	}
	w.seen[n.to] = true
	w.node(n.to, p)
}

var plainLabels = regexp.MustCompile(`^(?i:labels|annotations|metadata|selector|matchLabels)$`)

// kubectl keeps the whole manifest there, a Secret's data included.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

func (w *walker) mapping(n *node, p place) {
	kind := n.leaf("kind")
	if kind != "" && n.child("apiVersion") != nil {
		p.refs = min(p.refs, braced)
	}
	external := strings.Contains(n.leaf("apiVersion"), "external-secrets")
	// In {name: DB_PASSWORD, value: x} the first says what the second is.
	named := n.leaf("name", "key", "variable")
	for i, k := range n.keys {
		q := p
		q.name, q.row, q.listed = k.name, join(p.row, k.name), false
		q.compose = deeper(p.compose, k.name)
		switch v := judge(k.name); {
		case kind == "Secret" && (k.name == "data" || k.name == "stringData"), k.name == lastApplied:
			q.reason = KubeSecret
		case p.reason == KubeSecret:
		case external && k.name == "spec":
			// Everything there refers to another store.
			q.listed = true
		case p.listed:
			q.listed = true
		case named != "" && strings.EqualFold(k.name, "value") && n.kids[i].kind == leafKind:
			q.name, q.row = named, join(strings.TrimSuffix(p.row, lastIndex(p.row)), named)
		case strings.EqualFold(k.name, "secrets") && (p.compose == 1 || p.compose == 3):
			q.listed = n.kids[i].kind == seqKind
			q.reason = ""
			if p.compose == 1 {
				q.reason = BelowName
			}
		case strings.HasSuffix(strings.ToLower(k.name), "pullsecrets"):
			q.listed, q.reason = true, ""
		case plainLabels.MatchString(k.name), v == exempt:
			q.reason = ""
		case v == strong && n.kids[i].kind != leafKind:
			q.reason = BelowName
		}
		w.r.needle(q.row, text{s: k.name, whole: &k.at})
		w.node(n.kids[i], q)
	}
}

// deeper is how far below the root of a compose file a name leads.
func deeper(level int, name string) int {
	switch {
	case level == 1 && name == "services":
		return 2
	case level == 2:
		return 3
	case level == 3 && name == "build": // which has a list of secrets, too
		return 3
	}
	return 0
}

// lastIndex is the "[3]" at the end of a row.
func lastIndex(row string) string {
	if strings.HasSuffix(row, "]") {
		return row[strings.LastIndexByte(row, '['):]
	}
	return ""
}

var (
	setting = regexp.MustCompile(`^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_./-]*)\s*=`)
	// Lists of which each item is, or is part of, a command.
	commandList = regexp.MustCompile(`^(?i:command|entrypoint|cmd|test|script|exec)$`)
	longFlag    = regexp.MustCompile(`^--?([A-Za-z][A-Za-z0-9_.-]*)$`)
)

func (w *walker) sequence(n *node, p place) {
	before := "" // the flag that the item before is
	for i, kid := range n.kids {
		q := p
		q.row = fmt.Sprintf("%s[%d]", p.row, i)
		if kid.kind != leafKind {
			w.node(kid, q)
			before = ""
			continue
		}
		s := kid.txt.s
		l := w.leaf(kid, kid.txt, q)
		m := setting.FindStringSubmatchIndex(s)
		switch {
		case m != nil && !commandList.MatchString(p.name) && l.reason != KubeSecret && !namesSecret(l.name, s):
			name := s[m[2]:m[3]]
			w.r.needle(l.row, kid.txt)
			l.row, l.name, l.txt = join(p.row, name), name, kid.txt.slice(m[1], len(s))
			w.r.value(l)
		case before != "" && !strings.HasPrefix(s, "-") && isFlagForSecret(before):
			l.row, l.name = join(p.row, before), before
			w.r.value(l)
		default:
			w.r.value(l)
		}
		before = ""
		if m := longFlag.FindStringSubmatch(s); m != nil {
			before = m[1]
		}
	}
}

func join(row, name string) string {
	if row == "" {
		return name
	}
	return row + "." + name
}
