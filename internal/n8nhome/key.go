package n8nhome

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Names of the sources of an instance key.
const (
	FromKeyFile = "--key-file"
	FromEnv     = "N8N_ENCRYPTION_KEY"
	FromEnvFile = "N8N_ENCRYPTION_KEY_FILE"
	FromConfig  = "config"
)

// Source is where a key was found.
type Source struct {
	Name  string // one of the From constants, or what KeySources.Named says
	Where string // the path of a file, empty for a variable
}

func (s Source) String() string {
	switch {
	case s.Where == "":
		return s.Name
	case s.Name == FromConfig:
		return fmt.Sprintf("settings file %q", s.Where)
	}
	return fmt.Sprintf("%s %q", s.Name, s.Where)
}

// KeySources says where to look.
type KeySources struct {
	// KeyFile is a file that a user has named; it beats everything. Optional.
	KeyFile string
	// Named is by what KeyFile was named: an option, or a configuration. "" is
	// FromKeyFile.
	Named string
	// Env is the environment of n8n, or ours if it is started the same way; nil
	// is an empty one.
	Env Env
	// Dir is n8n's folder; empty means there is no config file to look at.
	Dir string
	// N8NVersion, such as "2.41.1" or "1.25.x", picks the rules. Empty, or
	// anything that is no version: those of the newest n8n.
	N8NVersion string
}

// Other is a source that did not win.
type Other struct {
	Source Source
	// Key is never the zero key.
	Key n8ncrypt.InstanceKey
	// Same says that Key is the winner's.
	Same bool
}

// Resolution is the key and how it was chosen.
type Resolution struct {
	Key    n8ncrypt.InstanceKey
	Winner Source
	// Others are the further sources that hold a key, those included that this
	// n8n ignores.
	Others []Other
	// Warnings are sentences for people. None contains a key.
	Warnings []string
}

// keyRules is what n8n does from one version to the next.
//
//	to 1.13        the variable, then config; the text as it is; _FILE ignored
//	1.14 to 1.24   config, then the variable, silently
//	1.25 to 1.115  both and different: n8n refuses to start
//	from 1.116     as before; variable trimmed and unquoted; _FILE read the same way
//
// 1.116.2 is the first release seen with the last rule, 1.115 the last without.
type keyRules struct {
	name       string
	configWins bool // over a variable that differs
	refuses    bool // to start when they differ
	normalises bool // the variable
	readsFile  bool // N8N_ENCRYPTION_KEY_FILE
}

func rulesOf(version string) keyRules {
	m := versionPattern.FindStringSubmatch(version)
	if m == nil {
		return keyRules{name: "n8n", refuses: true, normalises: true, readsFile: true}
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	from := func(a, b int) bool { return major > a || major == a && minor >= b }
	return keyRules{
		name:       "n8n " + version,
		configWins: from(1, 14) && !from(1, 25),
		refuses:    from(1, 25),
		normalises: from(1, 116),
		readsFile:  from(1, 116),
	}
}

var versionPattern = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})(\.|$)`)

// ResolveKey finds the instance key as the n8n of that version would, an
// explicit key file first.
//
// Where a variable and config differ and n8n therefore refuses to start, the key
// of the variable is returned, which is what n8n was told, with a warning. No key
// at all is NotFound with a hint where to look; a source that is needed and
// cannot be read is an error, one that is not needed a warning.
func ResolveKey(sources KeySources) (Resolution, error) {
	r := &resolver{KeySources: sources, rules: rulesOf(sources.N8NVersion)}
	if r.Env == nil {
		r.Env = func(string) (string, bool) { return "", false }
	}
	explicit, err := r.keyFile()
	if err != nil {
		return Resolution{}, err
	}
	variable := r.variable()
	file := r.variableFile()
	config := r.config()

	// n8n looks at the file only when the variable does not exist.
	told := variable
	if !variable.exists && r.rules.readsFile {
		told = file
	}
	order := []*candidate{told, config}
	if r.rules.configWins {
		order = []*candidate{config, told}
	}
	order = append([]*candidate{explicit}, order...)
	var winner *candidate
	for _, c := range order {
		if c.err != nil {
			return Resolution{}, c.err
		}
		if !c.key.IsZero() {
			winner = c
			break
		}
	}
	if winner == nil {
		return Resolution{}, r.notFound(variable, file)
	}
	r.compare(winner, told, config)
	out := Resolution{Key: winner.key, Winner: winner.source}
	r.warnings = append(winner.warnings, r.warnings...)
	for _, c := range []*candidate{explicit, variable, file, config} {
		if c == winner || !c.exists {
			continue
		}
		if c.err != nil {
			r.warn("%v; it is not needed, %s has the key", c.err, winner.source)
			continue
		}
		if !c.key.IsZero() {
			out.Others = append(out.Others, Other{Source: c.source, Key: c.key, Same: c.key.Equal(winner.key)})
		}
	}
	if n := utf8.RuneCountInString(winner.key.Reveal()); n < 16 {
		characters := "characters"
		if n == 1 {
			characters = "character"
		}
		r.warn("the instance key has only %d %s and could be guessed; n8n makes keys of 32", n, characters)
	}
	out.Warnings = r.warnings
	return out, nil
}

type candidate struct {
	source   Source
	explicit bool // a user has named the file
	exists   bool
	key      n8ncrypt.InstanceKey // zero when there is none, or with err
	err      error
	warnings []string
}

type resolver struct {
	KeySources
	rules    keyRules
	warnings []string
}

func (r *resolver) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

func (c *candidate) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// compare says what n8n does with keys that differ.
func (r *resolver) compare(winner, told, config *candidate) {
	both := !told.key.IsZero() && !config.key.IsZero() && !told.key.Equal(config.key)
	switch {
	case winner.explicit:
		for _, c := range []*candidate{told, config} {
			if !c.key.IsZero() && !c.key.Equal(winner.key) {
				r.warn("%s holds another key than %s, which is used", c.source, winner.source)
			}
		}
		if both && r.rules.refuses {
			r.warn("%s and %s hold different keys: %s refuses to start", told.source, config.source, r.rules.name)
		}
	case both && r.rules.refuses:
		r.warn("%s and %s hold different keys: %s refuses to start (Mismatching encryption keys); the key of %s is used here, give the right one with --key-file FILE",
			told.source, config.source, r.rules.name, told.source)
	case both:
		r.warn("%s and %s hold different keys: %s uses %s and says nothing about it", told.source, config.source, r.rules.name, winner.source)
	}
}

// keyFile is the file that the user named. It has to be there.
func (r *resolver) keyFile() (*candidate, error) {
	c := &candidate{source: Source{cmp.Or(r.Named, FromKeyFile), r.KeyFile}, explicit: true, exists: r.KeyFile != ""}
	if !c.exists {
		return c, nil
	}
	text, err := r.readKey(c)
	if err != nil {
		return nil, err
	}
	text = strings.TrimSuffix(text, "\n")
	if settings := settingsPattern.MatchString(text); settings {
		e := problem.New(problem.Usage, "key file %q is n8n's settings file, not a key", r.KeyFile)
		if c.source.Name != FromKeyFile {
			return nil, e.WithHint("%s", c.instead())
		}
		return nil, e.WithHint("give n8n's folder with --n8n-dir DIR, or a file with nothing but the encryptionKey")
	}
	c.describe(text)
	return c, c.take(text)
}

var settingsPattern = regexp.MustCompile(`^\s*\{[^{}]*"encryptionKey"\s*:`)

func (r *resolver) variable() *candidate {
	c := &candidate{source: Source{Name: FromEnv}}
	var text string
	if text, c.exists = r.Env(FromEnv); text == "" {
		return c
	}
	if !r.rules.normalises {
		c.describe(text)
	} else if normal := normalise(text); normal != text {
		c.warn("%s has white space or quotes around it, which %s removes, and n8n before 1.116 does not", FromEnv, r.rules.name)
		text = normal
	}
	c.err = c.take(text)
	return c
}

func (r *resolver) variableFile() *candidate {
	c := &candidate{source: Source{Name: FromEnvFile}}
	c.source.Where, c.exists = r.Env(FromEnvFile)
	if c.exists = c.source.Where != ""; !c.exists {
		return c
	}
	if !r.rules.readsFile {
		r.warn("%s is set, and %s ignores it", FromEnvFile, r.rules.name)
	} else if _, hidden := r.Env(FromEnv); hidden {
		r.warn("%s is set, and n8n ignores it because %s exists", FromEnvFile, FromEnv)
	}
	text, err := r.readKey(c)
	if err != nil {
		c.err = err
		return c
	}
	c.err = c.take(normalise(text))
	return c
}

func (r *resolver) config() *candidate {
	c := &candidate{source: Source{Name: FromConfig}}
	if r.Dir == "" {
		return c
	}
	config, err := ReadConfig(r.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return c
	}
	c.exists = true
	c.source.Where = config.Path
	if err != nil {
		c.err = err
		return c
	}
	c.key = config.Key
	c.describeMode(config.Mode)
	c.describe(config.Key.Reveal())
	return c
}

// readKey reads the file of a source.
func (r *resolver) readKey(c *candidate) (string, error) {
	b, info, err := readSmall(c.source.Where, 64<<10, true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", problem.New(problem.NotFound, "the key file of %s does not exist", c.source).WithHint("%s", c.instead())
	case errors.Is(err, errSpecial):
		return "", problem.Wrap(problem.Usage, err, "the key file of %s cannot be read", c.source).
			WithHint("give a regular file, /dev/stdin, or what the shell makes of <(command); named pipes and devices are not read")
	case err != nil:
		return "", problem.Wrap(problem.Usage, cause(err), "the key file of %s cannot be read", c.source).WithHint("%s", readHint(err))
	}
	c.describeMode(info.Mode())
	return string(b), nil
}

func (c *candidate) take(text string) error {
	if text == "" {
		if c.source.Name == FromEnv {
			return nil
		}
		return problem.New(problem.Usage, "the key file of %s is empty", c.source).WithHint("%s", c.instead())
	}
	if strings.IndexByte(text, 0) >= 0 && utf8.ValidString(text) {
		return problem.New(problem.Usage, "%s holds a NUL byte, which is no part of a key", c.source).
			WithHint("keys read from /proc/PID/environ with grep -z end in one: remove it with tr -d '\\000'")
	}
	key, err := n8ncrypt.NewInstanceKey(text)
	if err != nil {
		return problem.New(problem.Usage, "%s holds bytes that are not text", c.source).
			WithHint("a key is UTF-8 text, such as the encryptionKey in n8n's config; other bytes are not what n8n would use").
			WithHint("%s", c.instead())
	}
	c.key = key
	return nil
}

// instead says what to do about a source that has no key.
func (c *candidate) instead() string {
	switch {
	case c.explicit:
		option := c.source.Name
		if !strings.HasPrefix(option, "--") {
			option = FromKeyFile
		}
		return "give a file that holds n8n's instance key and nothing else, with " + option + " FILE"
	case c.source.Name == FromEnvFile:
		return "correct " + FromEnvFile + " or unset it, or give the key with --key-file FILE"
	}
	return "give the key in a file with --key-file FILE"
}

// describe warns of what looks like a mistake and is kept because n8n keeps it.
func (c *candidate) describe(text string) {
	if text == "" {
		return
	}
	if trimmed := trim(text); trimmed != text {
		c.warn("the key of %s begins or ends with white space, which counts as part of the key", c.source)
	}
	if t := trim(text); len(t) >= 2 && (t[0] == '"' || t[0] == '\'') && t[0] == t[len(t)-1] {
		c.warn("the key of %s stands in quotes, which count as part of the key", c.source)
	}
}

func (c *candidate) describeMode(mode fs.FileMode) {
	if mode.IsRegular() && mode.Perm()&0o077 != 0 {
		c.warn("%s can be read by others (mode %04o): chmod 600 %q", c.source, mode.Perm(), c.source.Where)
	}
}

func (r *resolver) notFound(variable, file *candidate) error {
	e := problem.New(problem.NotFound, "no instance key found")
	if r.Dir != "" {
		e.Msg += fmt.Sprintf(": %s is not set and %q has no config file", FromEnv, r.Dir)
	}
	if file.exists && !r.rules.readsFile {
		e.WithHint("%s is set, but %s ignores it; if that file has the key all the same, give it with --key-file %q", FromEnvFile, r.rules.name, file.source.Where)
	} else if file.exists && variable.exists {
		e.WithHint("%s exists and is empty, so n8n ignores %s; unset it", FromEnv, FromEnvFile)
	}
	return e.WithHint("give the key in a file with --key-file FILE, or in the variable %s", FromEnv).
		WithHint("n8n has it in the file config in its folder, or in its environment: docker exec CONTAINER printenv %s", FromEnv)
}

// normalise is what @n8n/config does to a variable: String.prototype.trim, then
// one pair of quotes around a text of one line.
func normalise(s string) string {
	s = trim(s)
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[0] == s[len(s)-1] && !strings.ContainsAny(s, "\n\r\u2028\u2029") {
		return s[1 : len(s)-1]
	}
	return s
}

// trim is JavaScript's: U+FEFF is white space and U+0085 is not.
func trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool {
		return r == '\uFEFF' || r != '\u0085' && unicode.IsSpace(r)
	})
}
