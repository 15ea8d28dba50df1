package config

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/n8keep/n8keep/internal/problem"
)

// Parse reads a file's text. path names it in errors, and its folder is where
// relative paths count from; home replaces "~". Every error names the line.
func Parse(text []byte, path, home string) (*Config, error) {
	p := &parse{path: path, home: home, lines: strings.Split(string(text), "\n")}
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, p.syntax(err)
	}
	c := &Config{Path: path}
	if len(file.Docs) > 1 {
		return nil, p.fail(file.Docs[1].Body, "", "a second document begins here; the file holds one")
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return c, nil
	}
	if err := p.value(file.Docs[0].Body, reflect.ValueOf(c).Elem(), "", ""); err != nil {
		return nil, err
	}
	for _, u := range p.uses {
		if _, ok := c.Targets[u.name]; !ok {
			return nil, p.fail(u.node, u.at, fmt.Sprintf("there is no target %q in this file", u.name)).
				WithHint("define it under targets:")
		}
	}
	return c, nil
}

type parse struct {
	path  string
	home  string
	lines []string
	uses  []use
}

// use is where an instance names a target, which may be defined further down.
type use struct {
	name string
	at   string
	node ast.Node
}

// value fills v from node; at is its path in the file and kind the field's tag.
func (p *parse) value(node ast.Node, v reflect.Value, at, kind string) error {
	switch node := node.(type) {
	case *ast.NullNode, *ast.CommentGroupNode:
		return nil // a key with nothing behind it is the same as no key
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		return p.fail(node, at, "anchors, aliases, merges and tags are not understood here")
	}
	switch v.Interface().(type) {
	case Reference:
		return set(p, node, v, at, func(s string) (Reference, error) {
			r, err := ParseReference(s)
			if r.scheme == "file" {
				r.name = p.absolute(r.name)
			}
			return r, err
		})
	case Address:
		return set(p, node, v, at, func(s string) (Address, error) {
			a, err := ParseAddress(s)
			if a.ref.scheme == "file" {
				a.ref.name = p.absolute(a.ref.name)
			} else if a.plain != "" && !strings.Contains(a.plain, "://") {
				a.plain = p.absolute(a.plain)
			}
			return a, err
		})
	case time.Duration:
		return set(p, node, v, at, duration)
	}
	switch v.Kind() {
	case reflect.Struct:
		return p.object(node, v, at)
	case reflect.Map:
		return p.mapping(node, v, at)
	case reflect.Slice:
		return p.list(node, v, at, kind)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return p.value(node, v.Elem(), at, kind)
	case reflect.Bool:
		b, ok := node.(*ast.BoolNode)
		if !ok {
			return p.fail(node, at, "true or false is expected")
		}
		v.SetBool(b.Value)
		return nil
	case reflect.Int:
		return set(p, node, v, at, count)
	}
	return set(p, node, v, at, func(s string) (string, error) { return p.text(s, kind) })
}

// set fills v with what from makes of a scalar.
func set[T any](p *parse, node ast.Node, v reflect.Value, at string, from func(string) (T, error)) error {
	s, ok := scalar(node)
	if !ok {
		return p.fail(node, at, "a single text is expected, not a list or a group of keys")
	}
	if s == "" {
		return nil
	}
	x, err := from(s)
	if err != nil {
		return p.fail(node, at, err.Error())
	}
	v.Set(reflect.ValueOf(x))
	return nil
}

func scalar(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case ast.ScalarNode:
		return n.GetToken().Value, true
	}
	return "", false
}

var (
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*$`)
	history    = regexp.MustCompile(`^(all|none|[1-9][0-9]*[hdw])$`)
	signer     = regexp.MustCompile(`^ed25519:[A-Za-z0-9+/]{43}=$`)
	recipient  = regexp.MustCompile(`^age1[0-9a-z]+$`)
	instance   = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)
	unit       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.@:\\-]{0,254}$`)
	plainKey   = regexp.MustCompile(`^["']?[A-Za-z0-9._-]+["']?$`)
)

func (p *parse) text(s, kind string) (string, error) {
	check := func(r *regexp.Regexp, expected string) (string, error) {
		if !r.MatchString(s) {
			return "", errors.New(expected + " is expected")
		}
		return s, nil
	}
	if values := strings.Split(kind, "|"); len(values) > 1 {
		if !slices.Contains(values, s) {
			return "", errors.New(strings.Join(values[:len(values)-1], ", ") + " or " + values[len(values)-1] + " is expected")
		}
		return s, nil
	}
	switch kind {
	case "target":
		return s, CheckTargetURL(s)
	case "signer":
		return check(signer, "a public key, ed25519: and 44 characters of base64,")
	case "history":
		return check(history, "all, none or a time like 12h, 30d or 2w")
	}
	if looksSecret(s) {
		return "", errSecret
	}
	switch kind {
	case "path":
		return p.absolute(s), nil
	case "identifier":
		return check(identifier, "a name of letters, digits and underscores")
	case "name":
		return check(instance, "the name of a target")
	case "command":
		return s, nil
	case "unit":
		return check(unit, "the name of a unit or service: letters, digits and any of _.@:-")
	case "url":
		u, err := url.Parse(s)
		if err != nil || u.User != nil {
			return "", errors.New("an address without user and password is expected")
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return "", errors.New("an http or https address is expected")
		}
		return s, nil
	}
	return check(recipient, "an age public key, age1...,")
}

// count is a number of periods to keep. Zero is refused, because a policy of
// zeros would read as one that keeps nothing.
func count(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 100_000 {
		return 0, errors.New("a number from 1 to 100000 is expected; leave the key out to keep none for its sake")
	}
	return n, nil
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		return 0, errors.New("a time of at least one second is expected, like 30s, 10m or 2h")
	}
	return d, nil
}

func (p *parse) absolute(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok && p.home != "" {
		return filepath.Join(p.home, rest)
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(filepath.Dir(p.path), path)
}

type pair struct {
	key   string
	at    ast.Node
	value ast.Node
}

// pairs are the keys and values of node; expected says what should stand there
// instead of a text or a list. Each key stands once.
func (p *parse) pairs(node ast.Node, at, expected string) ([]pair, error) {
	var values []*ast.MappingValueNode
	switch n := node.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = append(values, n)
	default:
		return nil, p.fail(node, at, expected)
	}
	seen := map[string]bool{}
	var list []pair
	for _, v := range values {
		key, ok := scalar(v.Key)
		if _, merge := v.Key.(*ast.MergeKeyNode); merge || !ok {
			return nil, p.fail(v.Key, at, "anchors, aliases, merges and tags are not understood here")
		}
		if seen[key] {
			return nil, p.fail(v.Key, at, "the key stands there a second time")
		}
		seen[key] = true
		list = append(list, pair{key, v.Key, v.Value})
	}
	return list, nil
}

func (p *parse) object(node ast.Node, v reflect.Value, at string) error {
	list, err := p.pairs(node, at, "keys and values are expected here")
	if err != nil {
		return err
	}
	for _, x := range list {
		field, found := fieldByKey(v.Type(), x.key)
		if !found {
			return p.unknown(x.at, v.Type(), at, x.key)
		}
		if err := p.value(x.value, v.FieldByIndex(field.Index), join(at, x.key), field.Tag.Get("kind")); err != nil {
			return err
		}
	}
	return nil
}

func (p *parse) mapping(node ast.Node, v reflect.Value, at string) error {
	list, err := p.pairs(node, at, "a name and, indented below it, keys and values are expected here")
	if err != nil {
		return err
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(list)))
	for _, x := range list {
		if !instance.MatchString(x.key) {
			return p.fail(x.at, at, "a name is expected here: lower-case letters, digits, dots and hyphens, at most 63")
		}
		item := reflect.New(v.Type().Elem()).Elem()
		if err := p.value(x.value, item, join(at, x.key), ""); err != nil {
			return err
		}
		if t, ok := item.Interface().(Target); ok && (t.Path == "") == (t.URL == "") {
			return p.fail(x.at, join(at, x.key), "a target has exactly one of path and url")
		}
		v.SetMapIndex(reflect.ValueOf(x.key), item)
	}
	return nil
}

func (p *parse) list(node ast.Node, v reflect.Value, at, kind string) error {
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		return p.fail(node, at, `a list is expected: each item on its own line after "- "`)
	}
	for _, n := range seq.Values {
		item := reflect.New(v.Type().Elem()).Elem()
		if err := p.value(n, item, at, kind); err != nil {
			return err
		}
		if item.IsZero() {
			return p.fail(n, at, "an item of the list is empty")
		}
		if kind == "name" {
			p.uses = append(p.uses, use{item.String(), at, n})
		}
		v.Set(reflect.Append(v, item))
	}
	return nil
}

// fail is a Usage error with the line. The line is shown without its value,
// because a misplaced value may be a secret.
func (p *parse) fail(node ast.Node, at, msg string) *problem.Error {
	line := 0
	if node != nil && node.GetToken() != nil {
		line = node.GetToken().Position.Line
	}
	return p.failLine(line, at, msg)
}

func (p *parse) failLine(line int, at, msg string) *problem.Error {
	where := fmt.Sprintf("config file %q, line %d", p.path, line)
	if at != "" {
		where += ", " + at
	}
	e := problem.New(problem.Usage, "%s: %s", where, msg)
	if line >= 1 && line <= len(p.lines) {
		e.WithHint("line %d is: %s", line, withoutValue(p.lines[line-1]))
	}
	return e
}

// withoutValue keeps the key of a line, or the dash of an item.
func withoutValue(line string) string {
	line = strings.TrimSpace(line)
	dash := ""
	if rest, ok := strings.CutPrefix(line, "- "); ok {
		dash, line = "- ", strings.TrimSpace(rest)
	}
	key, value, ok := strings.Cut(line, ":")
	switch {
	case !ok || looksSecret(key) || !plainKey.MatchString(key):
		return dash + "…"
	case strings.TrimSpace(value) == "":
		return dash + key + ":"
	}
	return dash + key + ": …"
}

func (p *parse) unknown(node ast.Node, t reflect.Type, at, key string) error {
	var known []string
	for f := range fields(t) {
		known = append(known, f.Tag.Get("yaml"))
	}
	msg := "the key is not known (it is not shown here)"
	if !looksSecret(key) {
		msg = fmt.Sprintf("the key %q is not known", key)
	}
	e := p.fail(node, at, msg)
	if near := nearest(key, known); near != "" {
		return e.WithHint("did you mean %q?", near)
	}
	return e.WithHint("known here: %s", strings.Join(known, ", "))
}

// nearest is the known key within two edits of key, "" if there is none.
func nearest(key string, known []string) string {
	best, at := 3, ""
	for _, k := range known {
		if d := distance(strings.ToLower(key), k); d < best {
			best, at = d, k
		}
	}
	return at
}

func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// syntax names the line of a text that is no YAML. The parser's own words are not
// repeated, because they may quote the file.
func (p *parse) syntax(err error) error {
	var y yaml.Error
	if !errors.As(err, &y) || y.GetToken() == nil {
		return p.failLine(0, "", "it is not YAML")
	}
	line := y.GetToken().Position.Line
	e := p.failLine(line, "", "it is not YAML")
	if slices.ContainsFunc(p.lines, func(s string) bool { return strings.HasPrefix(strings.TrimLeft(s, " "), "\t") }) {
		return e.WithHint("YAML is indented with spaces; a tab stands in the file")
	}
	return e.WithHint("look at the indentation and the colons of that line and the one before")
}
