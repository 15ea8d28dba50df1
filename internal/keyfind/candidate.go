package keyfind

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf16"

	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// Candidate is a text that may be the instance key, or nearly.
type Candidate struct {
	// Source says whose it is: one of the From constants of n8nhome, or of this
	// package.
	Source string
	File   string // its path, "" for a variable
	Line   int    // in File, from 1; 0 when the whole file is the key
	Name   string // variable or member, "" when the whole file or line is the key
	// Text is what stands there, which need not be UTF-8.
	Text secret.String
	// Known is an earlier key of the keyring, named for people: "n8k1-... of prod".
	Known string
}

// Sources beside those of n8nhome.
const (
	FromFile     = "--candidate"
	FromKeyring  = "keyring"
	FromDatabase = "deployment_key" // a legacy row that holds its key in clear
)

// String names the candidate by its place, never by its text.
func (c Candidate) String() string {
	var b strings.Builder
	switch {
	case c.Source == FromKeyring:
		return "keyring: " + c.Known
	case c.Source == FromDatabase:
		return "the database: deployment_key row " + c.Name
	case c.File == "":
		return c.Source
	}
	fmt.Fprintf(&b, "%q", c.File)
	if c.Line > 0 {
		fmt.Fprintf(&b, " line %d", c.Line)
	}
	if c.Name != "" {
		b.WriteString(" " + c.Name)
	}
	return b.String()
}

// Generated reports whether the key looks like one that n8n made by itself, because
// it was started without one: the base64 of 24 bytes, in its settings file.
func (c Candidate) Generated() bool {
	text := c.Text.Reveal()
	b, err := base64.StdEncoding.DecodeString(text)
	return err == nil && len(text) == 32 && len(b) == 24 && c.Name == settingsMember
}

const (
	variable       = "N8N_ENCRYPTION_KEY"
	settingsMember = "encryptionKey"
	maxFile        = 4 << 20
	maxPerFile     = 200
	maxKeyLines    = 64
)

// ReadFile takes the candidates out of a file: n8n's settings file, or other JSON;
// YAML of compose, Kubernetes or Helm; files of variables, shell scripts, units;
// else the file is the key, and when it has several lines each of them. Notes say
// what was seen and could not be taken. A folder stands for the config in it.
//
// A file that is missing is NotFound; one that cannot be read or has nothing that
// could be a key is Usage.
func ReadFile(path string) (list []Candidate, notes []string, err error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, problem.New(problem.NotFound, "candidate %q does not exist", path).WithHint("give a file that holds a key: --candidate FILE")
	case err == nil && info.IsDir():
		path = filepath.Join(path, "config")
		if info, err = os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, problem.New(problem.NotFound, "candidate %q is a folder without a file named config", filepath.Dir(path)).
				WithHint("give a file that holds a key, or n8n's folder")
		}
	}
	if err == nil && !info.Mode().IsRegular() && !openFile.MatchString(path) {
		err = errors.New("it is neither a file nor a folder")
	}
	var b []byte
	if err == nil {
		b, err = read(path)
	}
	if err != nil {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return nil, nil, problem.Wrap(problem.Usage, err, "candidate %q cannot be read", path).
			WithHint("give a regular file, and run as a user who may read it")
	}
	list, notes = parse(path, b)
	if len(list) == 0 {
		e := problem.New(problem.Usage, "candidate %q holds nothing that could be a key", path)
		for _, n := range notes {
			e.WithHint("%s", n)
		}
		return nil, nil, e.WithHint("a file with the key alone, n8n's config, or one that sets %s is wanted", variable)
	}
	return list, notes, nil
}

// openFile is what the process was started with: standard input and <(command).
var openFile = regexp.MustCompile(`^(/dev/stdin|(/dev|/proc/self)/fd/\d+)$`)

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return b, err
}

// parse finds the candidates of one file.
func parse(path string, b []byte) (list []Candidate, notes []string) {
	p := &parser{file: path}
	text := decodeUTF16(b)
	switch {
	case strings.TrimSpace(text) == "":
		return nil, []string{fmt.Sprintf("%q is empty", path)}
	case p.json(text), p.yaml(text):
		p.lines(text, true)
	default:
		p.lines(text, false)
	}
	if len(p.list) == 0 && len(p.notes) == 0 {
		p.plain(text)
	}
	if len(p.list) > maxPerFile {
		p.list = p.list[:maxPerFile]
		p.notes = append(p.notes, fmt.Sprintf("%q holds more than %d candidates; the first of them are tried", path, maxPerFile))
	}
	return p.list, p.notes
}

// decodeUTF16 is for what PowerShell writes; everything else stays as it is.
func decodeUTF16(b []byte) string {
	var order binary.ByteOrder
	switch {
	case len(b) >= 2 && b[0] == 0xff && b[1] == 0xfe:
		order = binary.LittleEndian
	case len(b) >= 2 && b[0] == 0xfe && b[1] == 0xff:
		order = binary.BigEndian
	default:
		return string(b)
	}
	units := make([]uint16, 0, len(b)/2)
	for i := 2; i+1 < len(b); i += 2 {
		units = append(units, order.Uint16(b[i:]))
	}
	return string(utf16.Decode(units))
}

// parser gathers the candidates of one file.
type parser struct {
	file  string
	list  []Candidate
	notes []string
}

func (p *parser) add(line int, name, text string) {
	for _, c := range p.list {
		if c.Line == line && c.Text.Reveal() == text {
			return
		}
	}
	p.list = append(p.list, Candidate{Source: FromFile, File: p.file, Line: line, Name: name, Text: secret.NewString(text)})
}

// value takes what a variable or member is set to.
func (p *parser) value(line int, name, text string) {
	switch {
	case trim(text) == "":
	case strings.EqualFold(name, variable+"_FILE"):
		p.notes = append(p.notes, fmt.Sprintf("%q line %d names a file that has the key; give that one with --candidate, too", p.file, line))
	case reference.MatchString(trim(text)):
		if m := withDefault.FindStringSubmatch(trim(text)); m != nil {
			p.add(line, name, m[1])
			return
		}
		p.notes = append(p.notes, fmt.Sprintf("%q line %d refers to the key, which is elsewhere; give the file that has it", p.file, line))
	default:
		p.add(line, name, text)
	}
}

var (
	keyName     = regexp.MustCompile(`(?i)^(N8N_ENCRYPTION_KEY(_FILE)?|encryptionKey|encryption_key|n8n-encryption-key)$`)
	setting     = regexp.MustCompile(`(?s)^(N8N_ENCRYPTION_KEY(?:_FILE)?)=(.*)$`)
	reference   = regexp.MustCompile(`(?s)^(\$\{[^{}]*\}|\$[A-Za-z_][A-Za-z0-9_]*|\$\(.*\)|\{\{.*\}\}|<%.*%>|!\w+ .*)$`)
	withDefault = regexp.MustCompile(`(?s)^\$\{[A-Za-z_][A-Za-z0-9_]*:?-([^{}$]+)\}$`)
)

// plain: the file is the key, as it stands but for one line break at the end.
func (p *parser) plain(text string) {
	p.add(0, "", strings.TrimSuffix(text, "\n"))
	lines := strings.Split(text, "\n")
	if len(lines) > maxKeyLines {
		return
	}
	var full []int
	for i, l := range lines {
		if strings.TrimSpace(l) != "" {
			full = append(full, i)
		}
	}
	if len(full) < 2 {
		return
	}
	for _, i := range full {
		p.add(i+1, "", strings.TrimSuffix(lines[i], "\r"))
	}
}

var (
	anyLine  = regexp.MustCompile(`(N8N_ENCRYPTION_KEY(?:_FILE)?|encryptionKey)["']?([ \t]*[=:][ \t]*|[ \t]+)`)
	leadText = regexp.MustCompile(`^[ \t]*#*[ \t]*(?:-[ \t]+)?(?:(?:export|set|ENV|ARG|\$env:)[ \t]*)?$`)
)

// lines looks for settings line by line; in comments only where a parser has
// taken the rest.
func (p *parser) lines(text string, comments bool) {
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if comments && !strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, m := range anyLine.FindAllStringSubmatchIndex(line, -1) {
			if m[0] > 0 && word.MatchString(line[m[0]-1:m[0]]) {
				continue // the end of another name
			}
			sep, lead := strings.TrimSpace(line[m[4]:m[5]]), line[:m[0]]
			if sep == "" && !strings.Contains(lead, "ENV") {
				continue // the name in a sentence
			}
			p.value(i+1, line[m[2]:m[3]], valueOf(lead, line[m[5]:]))
		}
	}
}

var word = regexp.MustCompile(`[A-Za-z0-9_]`)

// valueOf is what a line sets the variable to, as dotenv, compose and systemd read
// it: quotes end a value, in an environment file so does " #", and elsewhere white
// space.
func valueOf(lead, rest string) string {
	if n := len(lead); n > 0 && (lead[n-1] == '"' || lead[n-1] == '\'') { // "NAME=value"
		if end := strings.IndexByte(rest, lead[n-1]); end >= 0 && !strings.HasPrefix(rest, lead[n-1:n]) {
			return rest[:end]
		}
	}
	if rest != "" && strings.IndexByte("\"'`", rest[0]) >= 0 {
		for i := 1; i < len(rest); i++ {
			if rest[i] == '\\' && rest[0] == '"' {
				i++
			} else if rest[i] == rest[0] {
				return rest[1:i]
			}
		}
	}
	if !leadText.MatchString(lead) {
		if end := strings.IndexAny(rest, " \t"); end >= 0 {
			rest = rest[:end]
		}
		return rest
	}
	if end := strings.Index(rest, " #"); end >= 0 {
		rest = rest[:end]
	}
	return strings.TrimRight(rest, " \t")
}

// FromSettings are the candidates of an n8n's folder and environment.
func FromSettings(s n8nhome.Source, key string) Candidate {
	c := Candidate{Source: s.Name, File: s.Where, Text: secret.NewString(key)}
	if s.Name == n8nhome.FromConfig {
		c.Name = settingsMember
	}
	return c
}
