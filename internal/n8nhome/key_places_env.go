package n8nhome

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// envVariable is a variable that a file sets.
type envVariable struct {
	name string
	// readings are the value as different programs read it: they disagree about
	// comments and quotes. The first is docker compose's.
	readings []string
	line     int
	bare     bool // NAME alone: taken from the environment of whoever reads the file
	literal  bool // in single quotes: no variables in it
}

var envSetting = regexp.MustCompile(`^[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)(?:[ \t]*(=)[ \t]*(.*)|[ \t]*)$`)

// settingsOf reads an env file as docker compose, dotenv, shells and systemd do. Lines
// that are no setting are passed over, as some of them do.
func settingsOf(text string) []envVariable {
	var list []envVariable
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		m := envSetting.FindStringSubmatch(strings.TrimRight(lines[i], "\r"))
		if m == nil {
			continue
		}
		s := envVariable{name: m[1], line: i + 1, bare: m[2] == ""}
		if s.bare {
			list = append(list, s)
			continue
		}
		value := strings.TrimRight(m[3], " \t")
		if value != "" && (value[0] == '"' || value[0] == '\'') {
			quote := value[0]
			// A quoted value may go on over lines.
			whole := value
			for n := i; ; {
				if end := closingQuote(whole, quote); end >= 0 {
					inside := whole[1:end]
					if quote == '"' {
						s.readings = append(s.readings, unquoted(inside))
					}
					s.readings = append(s.readings, inside)
					s.literal = quote == '\''
					i = n
					break
				}
				if n++; n == len(lines) {
					break
				}
				whole += "\n" + strings.TrimRight(lines[n], "\r")
			}
		} else if at := strings.Index(" "+value, " #"); at >= 0 {
			s.readings = append(s.readings, strings.TrimRight(value[:max(at-1, 0)], " \t"))
		}
		s.readings = append(s.readings, value)
		list = append(list, s)
	}
	return list
}

// closingQuote is where the value that begins with a quote ends, -1 when it does not.
func closingQuote(s string, quote byte) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote == '"':
			i++
		case s[i] == quote:
			return i
		}
	}
	return -1
}

var envEscapes = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`, `\'`, `'`, "\\`", "`", `\n`, "\n", `\r`, "\r", `\t`, "\t")

func unquoted(s string) string { return envEscapes.Replace(s) }

// envFile looks at an env file that gives its variables to n8n.
func (f *placeFinder) envFile(path string, change func(KeyPlace) string) error {
	path = f.abs(".", path)
	text, again, err := f.text("env file", path)
	if err != nil || again {
		return err
	}
	settings := settingsOf(text)
	hidden := slices.ContainsFunc(settings, func(s envVariable) bool { return s.name == FromEnv })
	for _, s := range settings {
		switch s.name {
		case FromEnv:
			p := KeyPlace{Kind: InEnvFile, Path: path, Line: s.line, Name: s.name}
			if s.bare {
				p.Holds, p.Follows = HoldsUnknown, "the environment of docker compose"
				f.reference(&p, FromEnv)
				f.add(p)
				continue
			}
			raw := s.readings[0]
			if s.literal {
				raw = ""
			}
			f.value(&p, raw, s.readings, change)
			f.add(p)
		case FromEnvFile:
			if len(s.readings) > 0 && s.readings[0] != "" {
				f.keyFile(f.abs(".", s.readings[0]), fmt.Sprintf("line %d of %q", s.line, path), f.ignoredFile(hidden))
			}
		}
	}
	return nil
}

// referredEnvFile looks at an env file that another file names in a line. One that is
// there and cannot be read is a place about which nothing is known, since n8n may well
// have its key from it.
func (f *placeFinder) referredEnvFile(path, where string, optional bool, change func(KeyPlace) string) {
	err := f.envFile(path, change)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		if !optional {
			f.warn("%s: %v", where, err)
		}
	default:
		f.add(KeyPlace{Kind: InEnvFile, Path: path, Name: FromEnv, Holds: HoldsUnknown, Problem: err.Error(),
			Change: fmt.Sprintf("look whether %q, which %s names, sets %s, and let it be %s", path, where, FromEnv, f.newKey)})
	}
}

// value fills in a place with a value of its own, or one that refers to a variable.
// raw is the value with its references.
func (f *placeFinder) value(p *KeyPlace, raw string, readings []string, change func(KeyPlace) string) {
	if m := reference.FindStringSubmatch(strings.TrimSpace(raw)); m != nil {
		name := m[1] + m[4]
		if _, _, ok := f.lookup(name); ok || m[2] == "" || strings.HasSuffix(m[2], "?") {
			f.reference(p, name)
			return
		}
		// The variable is set nowhere: what stands behind :- counts.
		readings = []string{m[3]}
	}
	f.compare(p, readings...)
	if p.Holds == HoldsOther && strings.Contains(raw, "${") {
		p.Holds, p.Key = HoldsUnknown, n8ncrypt.InstanceKey{}
		p.Problem = "it is put together from variables"
	}
	if p.Holds != HoldsReplace && p.Holds != HoldsNothing {
		p.Change = change(*p)
	}
}

// reference matches a value that is one variable: ${NAME}, ${NAME:-default}, $NAME.
var reference = regexp.MustCompile(`^\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?+])([^{}]*))?\}|([A-Za-z_][A-Za-z0-9_]*))$`)

// lookup finds a variable where docker compose would: in its own environment, or in
// the file .env; where says which.
func (f *placeFinder) lookup(name string) (value envVariable, where string, ok bool) {
	for _, path := range f.order {
		if !strings.HasSuffix(path, "/.env") {
			continue
		}
		for _, s := range slices.Backward(settingsOf(f.texts[path])) {
			if s.name == name && !s.bare {
				return s, path, true
			}
		}
	}
	if v, ok := f.Env(name); ok {
		return envVariable{name: name, readings: []string{v}}, "", true
	}
	return envVariable{}, "", false
}

// reference makes p one that follows a variable of docker compose, and adds the
// place in which that is set.
func (f *placeFinder) reference(p *KeyPlace, name string) {
	s, path, ok := f.lookup(name)
	if !ok {
		p.Holds, p.Follows = HoldsUnknown, ""
		p.Problem = fmt.Sprintf("the variable %s is set neither here nor in a file .env beside the compose file", name)
		p.Change = fmt.Sprintf("set %s, in the environment in which docker compose is run, to %s", name, f.newKey)
		return
	}
	f.compare(p, s.readings...)
	if path == "" {
		if name == FromEnv {
			p.Follows = FromEnv + " in the environment of docker compose"
			return // environment() has it
		}
		p.Change = fmt.Sprintf("set %s, in the environment in which docker compose is run, to %s", name, f.newKey)
		return
	}
	p.Follows = fmt.Sprintf("%s in line %d of %q", name, s.line, path)
	q := KeyPlace{Kind: InEnvFile, Path: path, Line: s.line, Name: name}
	if slices.ContainsFunc(f.places, func(have KeyPlace) bool { return have.Path == q.Path && have.Line == q.Line }) {
		return
	}
	f.compare(&q, s.readings...)
	if q.Holds != HoldsReplace && q.Holds != HoldsNothing {
		q.Change = f.byHand(recreated)(q)
	}
	f.add(q)
}

const recreated = "docker compose up -d makes the container anew"
