package rotate

import (
	"fmt"

	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// KeySource is a place in which n8n's instance key is set.
type KeySource struct {
	Source string // "config", "N8N_ENCRYPTION_KEY", "docker compose file", ...
	Where  string // path, or path and line; "" for a variable
	// Key is what is set there, zero when it could not be read (a reference).
	Key n8ncrypt.InstanceKey
	// Changed says that the rotation writes the new key there.
	Changed bool
	// Do is what a person has to change, in one line, where it is not Changed.
	Do string
	// Ignored says why n8n does not take its key from there: such a place is listed and
	// never a reason against the rotation. "" when it does.
	Ignored string
}

// PlanSource is a [KeySource] without its key.
type PlanSource struct {
	Source string `json:"source"`
	Where  string `json:"where,omitempty"`
	Holds  string `json:"holds"` // "old", "new", "other", or "unknown"
	By     string `json:"by"`    // "n8keep", "user", or "nobody": who changes it
	Do     string `json:"do,omitempty"`
	// Ignored says why n8n does not take its key from there.
	Ignored string `json:"ignored,omitempty"`
}

// KeySourcesOf takes over what n8nhome has found. Places that only refer to another
// one, and empty ones, are left out.
func KeySourcesOf(found n8nhome.KeyPlaces) []KeySource {
	var list []KeySource
	for _, p := range found.Places {
		if p.Follows != "" || p.Holds == n8nhome.HoldsNothing {
			continue
		}
		s := KeySource{Source: string(p.Kind), Where: p.Where(), Key: p.Key, Changed: p.CanChange(), Do: p.Change, Ignored: p.Ignored}
		switch p.Kind {
		case n8nhome.InEnvironment:
			s.Source = p.Name
		case n8nhome.InEnvFile, n8nhome.InUnit, n8nhome.InCompose:
			s.Source = p.Name + " in the " + s.Source
		}
		list = append(list, s)
	}
	return list
}

// KeyElsewhere names the places, in words, in which n8n's key is set, or may be, and the
// rotation does not change it.
func (p *Plan) KeyElsewhere() []string {
	var list []string
	known := false
	for _, s := range p.Sources {
		if s.Ignored != "" {
			continue
		}
		known = true
		if s.By != "n8keep" {
			list = append(list, sourceName(s.Source, s.Where))
		}
	}
	if !known {
		list = append(list, "a place that n8keep does not know")
	}
	return list
}

func sourceName(source, where string) string {
	if where != "" {
		source += fmt.Sprintf(" (%s)", where)
	}
	return source
}

// sources refuses a start with the old key.
func (p *Plan) sources(cfg PlanConfig) {
	known := false
	for _, s := range cfg.Sources {
		out := PlanSource{Source: s.Source, Where: s.Where, Holds: "other", By: "user", Do: s.Do, Ignored: s.Ignored}
		name := sourceName(s.Source, s.Where)
		switch {
		case s.Key.IsZero():
			out.Holds = "unknown"
		case s.Key.Equal(cfg.Old.Key):
			out.Holds = "old"
		case s.Key.Equal(cfg.New.Key):
			out.Holds = "new"
		}
		switch {
		case s.Changed:
			out.By, out.Do = "n8keep", ""
		case s.Ignored != "" && s.Do == "":
			out.By = "nobody"
		}
		p.Sources = append(p.Sources, out)
		if s.Ignored != "" {
			continue
		}
		known = true
		switch {
		case out.Holds == "other":
			p.warn("%s holds a key that is neither the old nor the new one", name)
		case out.Holds == "new" && !s.Changed:
			p.warn("%s holds the new key already: do not start n8n with it before the rotation", name)
		}
		config := s.Source == string(n8nhome.InConfig)
		if out.By == "user" && out.Holds != "new" && !cfg.KeySetByUser && (config || !cfg.KeySetByStart) {
			hint := "give n8n the new key there when it is started: name the command that does with --start-command, or say --i-will-set-the-key"
			if config {
				hint = "let n8keep write it, or put the new key there yourself while n8n is stopped, and say --i-will-set-the-key: n8n does not start with another key than it has there"
			}
			if s.Do != "" {
				hint += "\nthe change: " + s.Do
			}
			p.refuse("key-source", hint, "n8n's key is set in %s, which n8keep cannot change: n8n would start with the old one", name)
		}
	}
	if !known && !cfg.KeySetByUser && !cfg.KeySetByStart {
		p.refuse("key-source-unknown", "name n8n's folder with --n8n-dir DIR\nor, if the key comes from elsewhere, the command that starts n8n with the new one (--start-command), or say --i-will-set-the-key",
			"no place is known in which n8n's key is set: n8n would start with the old one")
	}
}
