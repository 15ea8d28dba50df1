package n8nhome

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// KeyPlaceKind is what sort of place a key is set in.
type KeyPlaceKind string

// The kinds.
const (
	InConfig      KeyPlaceKind = "config"              // n8n's settings file
	InEnvironment KeyPlaceKind = "environment"         // a variable of n8n's processes
	InKeyFile     KeyPlaceKind = "key-file"            // a file that N8N_ENCRYPTION_KEY_FILE names
	InEnvFile     KeyPlaceKind = "env-file"            // .env, env_file:, EnvironmentFile=
	InUnit        KeyPlaceKind = "systemd unit"        // Environment= and the like
	InCompose     KeyPlaceKind = "docker compose file" // environment: and the like
)

// KeyHolds is what a place holds, compared with the key in question. The key itself
// is never shown.
type KeyHolds string

// What a place can hold.
const (
	HoldsSame    KeyHolds = "same"
	HoldsReplace KeyHolds = "new" // KeyPlacesConfig.New
	HoldsOther   KeyHolds = "other"
	HoldsNothing KeyHolds = "nothing" // it is there and empty
	HoldsUnknown KeyHolds = "unknown" // it refers to something that cannot be seen from here
)

// KeyPlace is a place in which n8n's instance key is set, or which says where it is.
type KeyPlace struct {
	Kind KeyPlaceKind
	Path string // of the file; "" in the environment
	Line int    // from 1; 0 when there is none
	Name string // "encryptionKey", "N8N_ENCRYPTION_KEY", "${N8N_KEY}", ...
	In   string // where in the file, such as "services.n8n.environment"; optional

	Holds KeyHolds
	Key   n8ncrypt.InstanceKey // zero where none could be read

	// Follows says that the place only refers to another one, in words: it changes
	// with that. "" for a place of its own.
	Follows string
	// Ignored says why n8n does not take its key from there. "" when it does.
	Ignored string
	// Recreate says that docker compose hands the value to a container when it makes it.
	Recreate bool
	// File is set where a rotation can change the place itself.
	File KeyFile
	// Change is what a person has to do, in words that name the file of the new key;
	// "" where nobody has to.
	Change string
	// Problem says why the place could not be read, or is not changed by us.
	Problem string
}

// CanChange reports whether a rotation changes the place itself.
func (p KeyPlace) CanChange() bool { return p.File != (KeyFile{}) }

// ByHand reports whether a person has to change it.
func (p KeyPlace) ByHand() bool { return p.Change != "" }

// Where is the path, with the line.
func (p KeyPlace) Where() string {
	if p.Line > 0 {
		return fmt.Sprintf("%s:%d", p.Path, p.Line)
	}
	return p.Path
}

func (p KeyPlace) String() string {
	switch {
	case p.Path == "":
		return p.Name + " in n8n's environment"
	case p.Line > 0:
		return fmt.Sprintf("%s in line %d of %s %q", p.Name, p.Line, p.Kind, p.Path)
	case p.Kind == InKeyFile:
		return fmt.Sprintf("key file %q", p.Path)
	}
	return fmt.Sprintf("%s in %s %q", p.Name, p.Kind, p.Path)
}

// KeyPlacesConfig says where to look, and for which key.
type KeyPlacesConfig struct {
	// Key is n8n's key. Required.
	Key n8ncrypt.InstanceKey
	// New is the key that replaces it. Optional: places that hold it already.
	New n8ncrypt.InstanceKey
	// NewKeyFile is where the new key is, for the words. Optional.
	NewKeyFile string
	// Env is the environment of n8n, or ours if it is started the same way. Optional.
	Env Env
	// Dir is n8n's folder, "" for none.
	Dir string
	// N8NVersion picks the rules, as in KeySources.
	N8NVersion string
	// ComposeFiles, EnvFiles and UnitFiles are those that n8n is started with. What they
	// refer to is read, too: include, extends, env_file, .env, secrets, bind mounts,
	// EnvironmentFile=, credentials, drop-ins beside a unit.
	ComposeFiles, EnvFiles, UnitFiles []string
}

// KeyPlaces are the places in which the key is set.
type KeyPlaces struct {
	Places []KeyPlace
	// Warnings are sentences for people, without keys: what could not be looked at.
	Warnings []string
}

// Files are the files that a rotation has to change, config last.
func (k KeyPlaces) Files() []KeyFile {
	var list, last []KeyFile
	for _, p := range k.Places {
		switch {
		case !p.CanChange() || p.Ignored != "" && p.Holds != HoldsSame:
		case p.File.Form == ConfigForm:
			last = append(last, p.File)
		default:
			list = append(list, p.File)
		}
	}
	return append(list, last...)
}

// ByHand are the places that a person has to change.
func (k KeyPlaces) ByHand() []KeyPlace {
	var list []KeyPlace
	for _, p := range k.Places {
		if p.ByHand() {
			list = append(list, p)
		}
	}
	return list
}

// Recreate reports whether containers have to be made anew for a new key, because
// docker compose hands it to them.
func (k KeyPlaces) Recreate() bool {
	return slices.ContainsFunc(k.Places, func(p KeyPlace) bool { return p.Recreate && p.Ignored == "" })
}

// FindKeyPlaces looks for every place in which the key is set. A file that was named
// and does not exist is NotFound, one that cannot be read or understood Usage;
// what such files refer to only leads to a place with a Problem, or a warning. Nothing is
// changed.
func FindKeyPlaces(cfg KeyPlacesConfig) (KeyPlaces, error) {
	f := &placeFinder{KeyPlacesConfig: cfg, rules: rulesOf(cfg.N8NVersion), texts: map[string]string{}}
	if f.Env == nil {
		f.Env = func(string) (string, bool) { return "", false }
	}
	f.newKey = "the new key"
	if cfg.NewKeyFile != "" {
		f.newKey = fmt.Sprintf("the content of %q", cfg.NewKeyFile)
	}
	f.config()
	for _, path := range cfg.UnitFiles {
		if err := f.unit(path); err != nil {
			return KeyPlaces{}, err
		}
	}
	for _, path := range cfg.ComposeFiles {
		if err := f.compose(path); err != nil {
			return KeyPlaces{}, err
		}
	}
	for _, path := range cfg.EnvFiles {
		if err := f.envFile(path, f.byHand("let n8n be started again")); err != nil {
			return KeyPlaces{}, err
		}
	}
	f.environment()
	f.leftovers()
	return KeyPlaces{f.places, f.warnings}, nil
}

type placeFinder struct {
	KeyPlacesConfig
	rules    keyRules
	newKey   string // in words
	places   []KeyPlace
	warnings []string
	texts    map[string]string // of the deployment files that were read
	order    []string          // their paths
	// composing says that what is looked at belongs to a compose file.
	composing bool
}

func (f *placeFinder) warn(format string, args ...any) {
	f.warnings = append(f.warnings, fmt.Sprintf(format, args...))
}

// compare fills in what a value is, given every way in which it could be read.
func (f *placeFinder) compare(p *KeyPlace, readings ...string) {
	p.Holds = HoldsNothing
	for _, text := range readings {
		for _, text := range []string{text, normalise(text)} {
			key, err := n8ncrypt.NewInstanceKey(text)
			if err != nil {
				continue
			}
			switch {
			case key.Equal(f.Key):
				p.Holds, p.Key = HoldsSame, key
				return
			case !f.New.IsZero() && key.Equal(f.New):
				p.Holds, p.Key = HoldsReplace, key
			case p.Holds != HoldsReplace:
				p.Holds, p.Key = HoldsOther, key
			}
		}
	}
}

func (f *placeFinder) add(p KeyPlace) {
	// Two references to one file are one place.
	if p.Kind == InKeyFile && slices.ContainsFunc(f.places, func(q KeyPlace) bool { return q.Kind == InKeyFile && q.Path == p.Path }) {
		return
	}
	p.Recreate = p.Name != FromEnvFile && (p.Kind == InCompose || p.Kind == InEnvFile && f.composing)
	f.places = append(f.places, p)
}

func (f *placeFinder) config() {
	if f.Dir == "" {
		return
	}
	file := ConfigKeyFile(f.Dir)
	p := KeyPlace{Kind: InConfig, Path: file.Name, Name: "encryptionKey"}
	b, _, err := file.read()
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var t keyText
	if err == nil {
		t, err = file.parse(b)
	}
	if err != nil {
		p.Holds, p.Problem = HoldsUnknown, err.Error()
		p.Change = fmt.Sprintf("correct %q: let its encryptionKey be %s", file.Name, f.newKey)
		f.add(p)
		return
	}
	p.Line = 1 + strings.Count(string(t.head), "\n")
	f.compare(&p, t.key.Reveal())
	f.changeable(&p, file)
	f.add(p)
}

// changeable decides who changes a key file. One with a third key is nothing that a
// rotation replaces: somebody has to know why it is there.
func (f *placeFinder) changeable(p *KeyPlace, file KeyFile) {
	if p.Holds == HoldsOther {
		p.Problem = "it holds another key than the one to be replaced"
		p.Change = fmt.Sprintf("replace the key in %q, which is not the one that is rotated, by %s", file.Name, f.newKey)
		return
	}
	if err := file.Changeable(); err != nil {
		p.Problem = err.Error()
		if p.Holds != HoldsReplace {
			p.Change = fmt.Sprintf("replace the key in %q by %s", file.Name, f.newKey)
		}
		return
	}
	p.File = file
}

// keyFile is a place for a file with nothing but the key. from says what names it.
func (f *placeFinder) keyFile(path, from, ignored string) {
	file := PlainKeyFile(path)
	p := KeyPlace{Kind: InKeyFile, Path: path, Name: FromEnvFile, In: from, Ignored: ignored}
	b, _, err := file.read()
	var t keyText
	if err == nil {
		t, err = file.parse(b)
	}
	switch {
	case err != nil && ignored != "":
		p.Holds, p.Problem = HoldsUnknown, err.Error()
	case err != nil:
		p.Holds, p.Problem = HoldsUnknown, err.Error()
		p.Change = fmt.Sprintf("write %s into %q, which %s names", f.newKey, path, from)
	default:
		f.compare(&p, t.key.Reveal())
		switch {
		case ignored == "":
			f.changeable(&p, file)
		case p.Holds == HoldsSame && file.Changeable() == nil:
			// n8n ignores it today; its next release may not.
			p.File = file
		}
	}
	f.add(p)
}

// ignoredFile says why n8n does not read the file that a _FILE variable names; hidden
// says that N8N_ENCRYPTION_KEY is set beside it.
func (f *placeFinder) ignoredFile(hidden bool) string {
	switch {
	case !f.rules.readsFile:
		return fmt.Sprintf("%s ignores %s", f.rules.name, FromEnvFile)
	case hidden:
		return fmt.Sprintf("n8n ignores it because %s exists", FromEnv)
	}
	return ""
}

// environment looks at the variables of the process. What a file sets for n8n and
// the variable holds, too, is the file's.
func (f *placeFinder) environment() {
	value, exists := f.Env(FromEnv)
	if exists && value != "" {
		p := KeyPlace{Kind: InEnvironment, Name: FromEnv}
		f.compare(&p, value)
		for _, q := range f.places {
			if q.Kind != InConfig && q.Kind != InKeyFile && q.Ignored == "" && q.Name == FromEnv && q.Holds == p.Holds && q.Key.Equal(p.Key) {
				p.Follows = q.String()
				break
			}
		}
		if p.Follows == "" && p.Holds != HoldsReplace {
			p.Change = fmt.Sprintf("where n8n's environment is set (systemd unit, compose file, env file, profile of a shell), set %s to %s", FromEnv, f.newKey)
			if slices.ContainsFunc(f.places, func(q KeyPlace) bool { return q.Kind == InConfig && q.CanChange() }) {
				p.Change += ", or remove it there: n8n then takes the key from its config"
			}
		}
		f.add(p)
	}
	if path, ok := f.Env(FromEnvFile); ok && path != "" {
		f.keyFile(path, FromEnvFile+" in n8n's environment", f.ignoredFile(exists))
	}
}

// leftovers finds the key as text in the files, outside the settings that are known:
// in a command, say.
func (f *placeFinder) leftovers() {
	text := f.Key.Reveal()
	if len(text) < 16 {
		return
	}
	for _, path := range f.order {
		for number, line := range numbered(f.texts[path]) {
			known := slices.ContainsFunc(f.places, func(p KeyPlace) bool { return p.Path == path && p.Line == number })
			if known || !strings.Contains(line, text) {
				continue
			}
			p := KeyPlace{Kind: f.kindOf(path), Path: path, Line: number, Name: "the key", Holds: HoldsSame, Key: f.Key}
			if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "#") || strings.HasPrefix(trimmed, ";") {
				p.Ignored = "it is a comment"
			} else if p.Kind == InEnvFile {
				p.Ignored = "nothing is known that takes it from there"
			} else {
				p.Change = fmt.Sprintf("in line %d of %q, replace the key by %s", number, path, f.newKey)
			}
			f.add(p)
		}
	}
}

func (f *placeFinder) kindOf(path string) KeyPlaceKind {
	for _, p := range f.places {
		if p.Path == path {
			return p.Kind
		}
	}
	switch ext := filepath.Ext(path); {
	case ext == ".yml" || ext == ".yaml":
		return InCompose
	case ext == ".service" || ext == ".conf":
		return InUnit
	}
	return InEnvFile
}

// numbered yields the lines of a text with their numbers.
func numbered(text string) func(func(int, string) bool) {
	return func(yield func(int, string) bool) {
		n := 0
		for line := range strings.Lines(text) {
			n++
			if !yield(n, line) {
				return
			}
		}
	}
}

const deploymentLimit = 4 << 20

// text reads a deployment file. Each is read once: again is true when it was before.
func (f *placeFinder) text(what, path string) (text string, again bool, err error) {
	if _, ok := f.texts[path]; ok {
		return "", true, nil
	}
	b, _, err := readSmall(path, deploymentLimit, false)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e := problem.New(problem.NotFound, "%s %q does not exist", what, path)
		e.Err = err
		return "", false, e.WithHint("give the files that n8n is started with")
	case err != nil:
		return "", false, problem.Wrap(problem.Usage, cause(err), "%s %q cannot be read", what, path).WithHint("%s", readHint(err))
	}
	text = strings.TrimPrefix(string(b), "\ufeff")
	f.texts[path] = text
	f.order = append(f.order, path)
	return text, false, nil
}

// byHand makes the words about a value in a file; then is what makes the change count.
func (f *placeFinder) byHand(then string) func(p KeyPlace) string {
	return func(p KeyPlace) string {
		where := fmt.Sprintf("in line %d of %q, set %s to %s", p.Line, p.Path, cmp.Or(p.Name, FromEnv), f.newKey)
		if then != "" {
			where += "; then " + then
		}
		return where
	}
}

// abs is a path in the folder of another file, with ~ for the home folder.
func (f *placeFinder) abs(dir, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, _ := f.Env("HOME"); home != "" {
			path = filepath.Join(home, rest)
		}
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return filepath.Clean(path)
}
