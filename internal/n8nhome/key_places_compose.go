package n8nhome

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/yamlguard"
)

// composeFile is a docker compose file, as far as it says where a key is. Anchors are
// looked at where they are defined, aliases and merges not at all: each setting is one
// place, however often it is used.
type composeFile struct {
	*placeFinder
	path, dir string
	settings  []composeSetting
	envFiles  []composeRef
	more      []string               // files that it includes or extends
	mounts    []composeMount         // into containers
	secrets   map[string]composeFrom // and configs
}

// composeSetting is N8N_ENCRYPTION_KEY or N8N_ENCRYPTION_KEY_FILE with its value.
type composeSetting struct {
	name, value, in string
	line            int
	bare            bool // no value: taken from the environment of docker compose
}

type composeRef struct {
	path     string
	line     int
	optional bool
}

// composeMount says which file of the host, or which secret, stands at a path in a
// container.
type composeMount struct{ target, source, secret string }

// composeFrom is where a secret comes from.
type composeFrom struct {
	file, variable string
	external       bool
	line           int
}

// compose looks at a docker compose file and everything it names.
func (f *placeFinder) compose(name string) error {
	name = f.abs(".", name)
	dir := filepath.Dir(name)
	defer func(was bool) { f.composing = was }(f.composing)
	f.composing = true
	// The variables of the file. docker compose reads it before.
	if _, _, err := f.text("env file", filepath.Join(dir, ".env")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.warn("%v", err)
	}
	text, again, err := f.text("docker compose file", name)
	if err != nil || again {
		return err
	}
	c := &composeFile{placeFinder: f, path: name, dir: dir, secrets: map[string]composeFrom{}}
	if err := c.parse(text); err != nil {
		return err
	}
	c.report()
	for _, ref := range c.envFiles {
		f.referredEnvFile(f.abs(c.dir, ref.path), fmt.Sprintf("line %d of %q", ref.line, c.path), ref.optional, f.byHand(recreated))
	}
	for _, path := range c.more {
		if err := f.compose(f.abs(c.dir, path)); err != nil {
			f.warn("%q names a further file: %v", c.path, err)
		}
	}
	return nil
}

func (c *composeFile) parse(text string) (err error) {
	invalid := func(line int) error {
		where := ""
		if line > 0 {
			where = fmt.Sprintf(" in line %d", line)
		}
		return problem.New(problem.Usage, "docker compose file %q is not valid YAML%s", c.path, where).
			WithHint("docker compose config -q says what is wrong with it")
	}
	defer func() {
		if recover() != nil { // the parser's, on input that it did not expect
			err = invalid(0)
		}
	}()
	tokens := lexer.Tokenize(text)
	// What a person writes is far below these.
	if line := (yamlguard.Limits{Depth: 100, PerLine: 200}).Exceeded(tokens); line > 0 {
		return invalid(line)
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		return invalid(yamlguard.ErrorLine(err))
	}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			c.walk(doc.Body, nil)
		}
	}
	return nil
}

// plain is a node without its anchor or tag.
func plain(n ast.Node) ast.Node {
	for {
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
		case *ast.TagNode:
			n = x.Value
		default:
			return n
		}
	}
}

// scalar is the text of a node that is one.
func scalar(n ast.Node) (text string, null, ok bool) {
	switch x := plain(n).(type) {
	case nil:
		return "", true, true
	case *ast.NullNode:
		return "", true, true
	case *ast.StringNode:
		return x.Value, false, true
	case *ast.LiteralNode:
		return x.Value.Value, false, true
	case *ast.AliasNode, *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode:
		return "", false, false
	default: // numbers and the like, as they are written
		return x.GetToken().Value, false, true
	}
}

func entries(n ast.Node) []*ast.MappingValueNode {
	switch x := plain(n).(type) {
	case *ast.MappingNode:
		return x.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{x}
	}
	return nil
}

func items(n ast.Node) []ast.Node {
	if x, ok := plain(n).(*ast.SequenceNode); ok {
		return x.Values
	}
	return nil
}

func lineOf(n ast.Node) int {
	if n == nil || n.GetToken() == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

func nameOf(e *ast.MappingValueNode) string {
	text, _, _ := scalar(e.Key)
	return text
}

func child(n ast.Node, name string) ast.Node {
	for _, e := range entries(n) {
		if nameOf(e) == name {
			return e.Value
		}
	}
	return nil
}

func text(n ast.Node) string {
	if n == nil {
		return ""
	}
	s, _, _ := scalar(n)
	return s
}

func (c *composeFile) walk(n ast.Node, at []string) {
	for _, e := range entries(n) {
		name := nameOf(e)
		here := append(slices.Clone(at), name)
		switch {
		case name == FromEnv || name == FromEnvFile:
			if value, null, ok := scalar(e.Value); ok {
				c.settings = append(c.settings, composeSetting{name, value, strings.Join(at, "."), lineOf(e.Key), null})
				continue
			}
		case name == "env_file":
			c.envFile(e.Value)
		case name == "volumes" && len(at) > 0:
			c.volumes(e.Value)
		case (name == "secrets" || name == "configs") && len(at) == 0:
			c.sources(e.Value)
		case (name == "secrets" || name == "configs") && len(at) > 0:
			c.used(name, e.Value)
		case name == "include" && len(at) == 0:
			c.include(e.Value)
		case name == "extends":
			if file := text(child(e.Value, "file")); file != "" {
				c.more = append(c.more, file)
			}
		}
		c.walk(e.Value, here)
	}
	for _, item := range items(n) {
		if s, _, ok := scalar(item); ok {
			name, value, assigned := strings.Cut(s, "=")
			if len(at) > 0 && commandNames.MatchString(at[len(at)-1]) {
				continue // words of a command, in which leftovers looks
			}
			if name == FromEnv || name == FromEnvFile {
				c.settings = append(c.settings, composeSetting{name, value, strings.Join(at, "."), lineOf(item), !assigned})
			}
			continue
		}
		c.walk(item, at)
	}
}

var commandNames = regexp.MustCompile(`^(?:command|entrypoint|test)$`)

func (c *composeFile) envFile(n ast.Node) {
	add := func(n ast.Node) {
		if s, null, ok := scalar(n); ok && !null {
			c.envFiles = append(c.envFiles, composeRef{path: s, line: lineOf(n)})
		} else if s := text(child(n, "path")); s != "" {
			c.envFiles = append(c.envFiles, composeRef{s, lineOf(child(n, "path")), text(child(n, "required")) == "false"})
		}
	}
	add(n)
	for _, item := range items(n) {
		add(item)
	}
}

func (c *composeFile) include(n ast.Node) {
	for _, item := range items(n) {
		if s, null, ok := scalar(item); ok && !null {
			c.more = append(c.more, s)
			continue
		}
		paths := child(item, "path")
		if s := text(paths); s != "" {
			c.more = append(c.more, s)
		}
		for _, p := range items(paths) {
			c.more = append(c.more, text(p))
		}
	}
}

// sources are the secrets and configs at the top.
func (c *composeFile) sources(n ast.Node) {
	for _, e := range entries(n) {
		external := text(child(e.Value, "external"))
		c.secrets[nameOf(e)] = composeFrom{
			file: text(child(e.Value, "file")), variable: text(child(e.Value, "environment")),
			external: external == "true" || len(entries(child(e.Value, "external"))) > 0,
			line:     lineOf(e.Key),
		}
	}
}

// used are the secrets and configs of a service.
func (c *composeFile) used(kind string, n ast.Node) {
	base := "/"
	if kind == "secrets" {
		base = "/run/secrets"
	}
	for _, item := range items(n) {
		source, _, ok := scalar(item)
		target := source
		if !ok {
			source = text(child(item, "source"))
			if target = text(child(item, "target")); target == "" {
				target = source
			}
		}
		if source == "" {
			continue
		}
		if !path.IsAbs(target) {
			target = path.Join(base, target)
		}
		c.mounts = append(c.mounts, composeMount{target: path.Clean(target), secret: source})
	}
}

// volumes are the bind mounts of a service.
func (c *composeFile) volumes(n ast.Node) {
	for _, item := range items(n) {
		s, _, ok := scalar(item)
		var source, target string
		if ok {
			parts := strings.Split(s, ":")
			if len(parts) < 2 {
				continue
			}
			source, target = parts[0], parts[1]
			if !strings.HasPrefix(source, ".") && !strings.HasPrefix(source, "/") && !strings.HasPrefix(source, "~") {
				continue // the name of a volume
			}
		} else {
			if text(child(item, "type")) != "bind" {
				continue
			}
			source, target = text(child(item, "source")), text(child(item, "target"))
		}
		if source != "" && path.IsAbs(target) {
			c.mounts = append(c.mounts, composeMount{target: path.Clean(target), source: source})
		}
	}
}

// report makes places of what was found.
func (c *composeFile) report() {
	hidden := slices.ContainsFunc(c.settings, func(s composeSetting) bool { return s.name == FromEnv })
	for _, s := range c.settings {
		p := KeyPlace{Kind: InCompose, Path: c.path, Line: s.line, Name: s.name, In: s.in}
		switch {
		case s.name == FromEnvFile && s.value != "":
			c.file(p, s.value, c.ignoredFile(hidden))
		case s.name == FromEnvFile:
		case s.bare:
			c.reference(&p, FromEnv)
			c.add(p)
		default:
			c.value(&p, s.value, []string{strings.ReplaceAll(s.value, "$$", "$"), s.value}, c.byHand(recreated))
			c.add(p)
		}
	}
}

// file follows N8N_ENCRYPTION_KEY_FILE, which names a path in the container.
func (c *composeFile) file(p KeyPlace, inside, ignored string) {
	from := fmt.Sprintf("line %d of %q", p.Line, c.path)
	if m := reference.FindStringSubmatch(inside); m != nil {
		if s, _, ok := c.lookup(m[1] + m[4]); ok && len(s.readings) > 0 {
			inside = s.readings[0]
		} else if m[3] != "" && m[2] != "+" && m[2] != ":+" {
			inside = m[3]
		}
	}
	inside = path.Clean(inside)
	// The longest mount that leads there.
	best := composeMount{}
	for _, m := range c.mounts {
		if (m.target == inside || strings.HasPrefix(inside, strings.TrimSuffix(m.target, "/")+"/")) && len(m.target) > len(best.target) {
			best = m
		}
	}
	rest := strings.TrimPrefix(inside, best.target)
	switch secret, known := c.secrets[best.secret]; {
	case best.source != "":
		c.keyFile(filepath.Join(c.abs(c.dir, best.source), rest), from, ignored)
		return
	case best.secret != "" && known && secret.file != "":
		c.keyFile(c.abs(c.dir, secret.file), from, ignored)
		return
	case best.secret != "" && known && secret.variable != "":
		p.Line, p.In = secret.line, "secrets."+best.secret
		c.reference(&p, secret.variable)
	case best.secret != "" && known && secret.external:
		p.Holds, p.Problem = HoldsUnknown, fmt.Sprintf("the secret %q is kept by docker, which does not show it", best.secret)
		p.Change = fmt.Sprintf("make a new secret from %s (docker secret create), and let it take the place of %q, which is named in line %d of %q", c.newKey, best.secret, secret.line, c.path)
	default:
		p.Holds, p.Problem = HoldsUnknown, fmt.Sprintf("where the container has the file %q from is not said in the compose file", inside)
		p.Change = fmt.Sprintf("write %s into the file %q of the container, which %s names", c.newKey, inside, from)
	}
	if p.Ignored = ignored; ignored != "" {
		p.Change = ""
	}
	c.add(p)
}
