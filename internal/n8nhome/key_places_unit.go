package n8nhome

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// directive is a line Key=Value of a unit.
type directive struct {
	section, name, value string
	line                 int
}

var unitDirective = regexp.MustCompile(`^[ \t]*([A-Za-z][A-Za-z0-9-]*)[ \t]*=[ \t]*(.*)$`)

// directivesOf reads a unit. A line that ends in a backslash goes on in the next;
// comments in between are left out.
func directivesOf(text string) []directive {
	var list []directive
	section, joined, start := "", "", 0
	for n, line := range numbered(text) {
		line = strings.TrimRight(line, "\r\n")
		trimmed := strings.TrimSpace(line)
		if trimmed != "" && (trimmed[0] == '#' || trimmed[0] == ';') {
			continue
		}
		if start == 0 {
			start = n
		}
		if rest, ok := strings.CutSuffix(line, `\`); ok {
			joined += rest + " "
			continue
		}
		whole := joined + line
		at := start
		joined, start = "", 0
		if t := strings.TrimSpace(whole); strings.HasPrefix(t, "[") && strings.HasSuffix(t, "]") {
			section = t
			continue
		}
		if m := unitDirective.FindStringSubmatch(whole); m != nil {
			list = append(list, directive{section, m[1], strings.TrimRight(m[2], " \t"), at})
		}
	}
	return list
}

// unitWords splits a value as systemd does: at white space, with quotes and C escapes.
func unitWords(s string) []string {
	var words []string
	var b strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			text, n := unitEscape(s[i+1:])
			b.WriteString(text)
			in = true
			i += n
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				words = append(words, b.String())
				b.Reset()
				in = false
			}
		default:
			b.WriteByte(c)
			in = true
		}
	}
	if in {
		words = append(words, b.String())
	}
	return words
}

// unitEscape decodes what stands behind a backslash; n is its length.
func unitEscape(s string) (text string, n int) {
	if at := strings.IndexByte(`abfnrtv\"'s`, s[0]); at >= 0 {
		return "\a\b\f\n\r\t\v\\\"' "[at : at+1], 1
	}
	for _, form := range []struct {
		prefix string
		digits int
		base   int
	}{{"x", 2, 16}, {"u", 4, 16}, {"U", 8, 16}, {"", 3, 8}} {
		end := len(form.prefix) + form.digits
		if strings.HasPrefix(s, form.prefix) && len(s) >= end {
			if v, err := strconv.ParseUint(s[len(form.prefix):end], form.base, 32); err == nil {
				if form.prefix == "u" || form.prefix == "U" {
					return string(rune(v)), end
				}
				return string([]byte{byte(v)}), end
			}
		}
	}
	return `\` + s[:1], 1
}

const reloaded = "systemctl daemon-reload, and let n8n be started again"

// unit looks at a unit file and the drop-ins beside it.
func (f *placeFinder) unit(path string) error {
	path = f.abs(".", path)
	dropIns, err := filepath.Glob(filepath.Join(escapeGlob(path)+".d", "*.conf"))
	if err != nil {
		return err
	}
	var all []unitFile
	for i, name := range append([]string{path}, dropIns...) {
		text, again, err := f.text("systemd unit", name)
		if err != nil && i > 0 {
			f.warn("%v", err)
			continue
		}
		if err != nil {
			return err
		}
		if again {
			continue
		}
		all = append(all, unitFile{name, directivesOf(text)})
	}
	u := &unitReader{placeFinder: f, credentials: map[string]string{}}
	for _, file := range all {
		u.first(file)
	}
	for _, file := range all {
		u.second(file)
	}
	return nil
}

type unitFile struct {
	path string
	list []directive
}

type unitReader struct {
	*placeFinder
	credentials map[string]string // id to path
	hidden      bool              // N8N_ENCRYPTION_KEY is set somewhere
}

func serviceSection(section string) bool {
	return section == "[Service]" || section == "[Container]" // the latter is podman's
}

// first learns what the rest of the unit may refer to.
func (u *unitReader) first(file unitFile) {
	for _, d := range file.list {
		switch {
		case !serviceSection(d.section):
		case d.name == "LoadCredential" || d.name == "LoadCredentialEncrypted":
			id, path, ok := strings.Cut(d.value, ":")
			if !ok {
				path = "/etc/credstore/" + id
			}
			u.credentials[id] = path
			if d.name == "LoadCredentialEncrypted" {
				u.credentials[id] = ""
			}
		case d.name == "Environment":
			for _, w := range unitWords(d.value) {
				u.hidden = u.hidden || strings.HasPrefix(w, FromEnv+"=")
			}
		}
	}
}

func (u *unitReader) second(file unitFile) {
	for _, d := range file.list {
		if !serviceSection(d.section) {
			continue
		}
		switch d.name {
		case "Environment":
			for _, w := range unitWords(d.value) {
				u.assignment(file.path, d, w)
			}
		case "EnvironmentFile":
			u.environmentFile(file.path, d)
		case "PassEnvironment":
			if slices.Contains(strings.Fields(d.value), FromEnv) {
				u.add(KeyPlace{Kind: InUnit, Path: file.path, Line: d.line, Name: FromEnv, In: "PassEnvironment=", Holds: HoldsUnknown,
					Problem: "the value is in the environment of the service manager",
					Change:  fmt.Sprintf("where the environment of systemd itself is set (systemctl set-environment, DefaultEnvironment=), set %s to %s", FromEnv, u.newKey)})
			}
		case "SetCredential", "SetCredentialEncrypted":
			id, value, _ := strings.Cut(d.value, ":")
			p := KeyPlace{Kind: InUnit, Path: file.path, Line: d.line, Name: "credential " + id, In: d.name + "="}
			u.compare(&p, unitWordsJoined(value), value)
			if p.Holds != HoldsSame {
				continue // it may be anything
			}
			p.Change = u.byHand(reloaded)(p)
			u.add(p)
		}
	}
}

func unitWordsJoined(s string) string { return strings.Join(unitWords(s), " ") }

func (u *unitReader) assignment(path string, d directive, word string) {
	name, value, ok := strings.Cut(word, "=")
	if !ok {
		return
	}
	switch name {
	case FromEnv:
		p := KeyPlace{Kind: InUnit, Path: path, Line: d.line, Name: name, In: "Environment="}
		u.compare(&p, strings.ReplaceAll(value, "%%", "%"), value)
		if p.Holds != HoldsReplace && p.Holds != HoldsNothing {
			p.Change = u.byHand(reloaded)(p)
		}
		u.add(p)
	case FromEnvFile:
		from := fmt.Sprintf("line %d of %q", d.line, path)
		ignored := u.ignoredFile(u.hidden)
		for _, prefix := range []string{"%d/", "/run/credentials/" + filepath.Base(path) + "/"} {
			id, ok := strings.CutPrefix(value, prefix)
			if !ok {
				continue
			}
			if source := u.credentials[id]; source != "" {
				u.keyFile(source, from, ignored)
				return
			}
			p := KeyPlace{Kind: InUnit, Path: path, Line: d.line, Name: FromEnvFile, In: "Environment=", Holds: HoldsUnknown, Ignored: ignored,
				Problem: fmt.Sprintf("credential %q is encrypted, or is set elsewhere", id)}
			if ignored == "" {
				p.Change = fmt.Sprintf("make credential %q of the unit anew from %s, for example with systemd-creds encrypt", id, u.newKey)
			}
			u.add(p)
			return
		}
		if strings.Contains(strings.ReplaceAll(value, "%%", ""), "%") {
			u.warn("%s: %s has a specifier of systemd in it and was not followed", from, FromEnvFile)
			return
		}
		u.keyFile(strings.ReplaceAll(value, "%%", "%"), from, ignored)
	}
}

func (u *unitReader) environmentFile(path string, d directive) {
	name, optional := strings.CutPrefix(d.value, "-")
	if words := unitWords(name); len(words) == 1 {
		name = words[0]
	}
	if name == "" {
		return // an empty one takes those before back: they are looked at all the same
	}
	where := fmt.Sprintf("line %d of %q", d.line, path)
	if strings.Contains(strings.ReplaceAll(name, "%%", ""), "%") {
		u.warn("%s: EnvironmentFile=%s has a specifier of systemd in it and was not followed", where, name)
		return
	}
	files, err := filepath.Glob(strings.ReplaceAll(name, "%%", "%"))
	if err != nil || len(files) == 0 {
		if !optional {
			u.warn("%s names %q, which does not exist", where, name)
		}
		return
	}
	for _, file := range files {
		u.referredEnvFile(file, where, optional, u.byHand("let n8n be started again"))
	}
}

var globSpecial = regexp.MustCompile(`[*?\[\\]`)

// escapeGlob makes a path one that matches itself.
func escapeGlob(path string) string {
	return globSpecial.ReplaceAllString(path, `\$0`)
}
