package app

import (
	"fmt"
	"strings"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/keyfind"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
)

// verdict says in words what was found, what to do, and with which exit code.
func (s *keySearch) verdict(doc *api.KeyFind) error {
	r, where := s.result, fmt.Sprintf("%q", s.in.name)
	next := func(format string, args ...any) { doc.Next = append(doc.Next, fmt.Sprintf(format, args...)) }
	x := r.Instance()
	switch {
	case r.Encrypted == 0:
		doc.Verdict = "there is no encrypted value, so nothing can be told about any key"
		return nil
	case len(r.Found) == 0:
		none := "the one candidate opens none"
		if n := len(r.Candidates); n > 1 {
			none = fmt.Sprintf("none of %d candidates opens any", n)
		}
		doc.Verdict = fmt.Sprintf("%s of the %d encrypted values, in any of %d forms", none, r.Encrypted, r.Tried)
		next("look where n8n ran before: its config file (n8n's folder, a Docker volume), the variable in its container: docker inspect CONTAINER, in env and compose files, units, secrets of Kubernetes")
		next("a worker or another host with the same database may have the key: --candidate takes its config, too")
		p := problem.New(problem.WrongKey, "%s of %d encrypted values in %s", none, r.Encrypted, where)
		return hints(p, doc.Next)
	case x == nil && r.Found[0].Role == keyfind.NoProof:
		doc.Verdict = fmt.Sprintf("%s opens %d of %d encrypted values, of a kind that a wrong key may open by chance: that is no proof",
			s.named(&r.Found[0]), r.Found[0].Census.Opened, r.Encrypted)
		next("save a credential in n8n with the key that you believe in, then look again")
		return hints(problem.New(problem.CheckFailed, "no key is proved in %s", where), doc.Next)
	case x == nil:
		first := r.Found[0]
		doc.Verdict = fmt.Sprintf("no candidate is the instance key; %s opens older data, %d of %d encrypted values, and not what n8n reads with its key of today (rows of deployment_key)",
			s.named(&first), first.Census.Opened, r.Encrypted)
		next("look for the key that replaced it, and keep this one: nothing else opens those values")
		return hints(problem.New(problem.CheckFailed, "no candidate is the instance key of %s; the best opens %d of %d encrypted values, older data", where, first.Census.Opened, r.Encrypted), doc.Next)
	}
	s.nextForKey(x, next)
	if x.Census.Failed == 0 {
		doc.Verdict = fmt.Sprintf("%s is the instance key%s: all %d encrypted values open", s.candidate(x), steps(x.Steps), r.Encrypted)
		return nil
	}
	what := "is the instance key"
	if r.Wrapped == 0 {
		what = "opens the most, and is probably the instance key"
	}
	doc.Verdict = fmt.Sprintf("%s %s%s: it opens %d of %d encrypted values", s.candidate(x), what, steps(x.Steps), x.Census.Opened, r.Encrypted)
	for i := range r.Found[1:] {
		if y := &r.Found[i+1]; y.Role == keyfind.OlderData {
			doc.Verdict += fmt.Sprintf("; %s opens %d, older data", s.named(y), y.Census.Opened)
			next("keep %s: n8n itself cannot read what only that key opens", s.candidate(y))
		}
	}
	switch open := r.Closed - r.Broken; {
	case open > 0:
		doc.Verdict += fmt.Sprintf("; %d stay closed under every candidate", r.Closed)
		next("what stays closed was written with a key that is not here: try older files with --candidate FILE, or save those credentials again in n8n")
	case r.Broken > 0:
		doc.Verdict += fmt.Sprintf("; %d are not whole, and open with no key", r.Broken)
		next("\"n8keep census %s\" names them; save those credentials again in n8n", s.in.flags())
	}
	p := problem.New(problem.CheckFailed, "no candidate opens all of %d encrypted values in %s; the best opens %d", r.Encrypted, where, x.Census.Opened)
	return hints(p, doc.Next)
}

// nextForKey says how n8n gets the key.
func (s *keySearch) nextForKey(x *keyfind.Found, next func(string, ...any)) {
	c := s.result.Candidates[x.Candidate].Candidate
	inUse := !s.own.IsZero() && x.Key.Equal(s.own)
	switch {
	case inUse:
		next("nothing has to be changed: n8n takes this key by itself, from %s", s.ownSource)
	case !s.own.IsZero():
		next("n8n takes another key now, from %s, and cannot read its secrets with it: give it this one there", s.ownSource)
	default:
		next("give n8n this key: in N8N_ENCRYPTION_KEY, or as encryptionKey in the file config in its folder")
	}
	text := x.Key.Reveal()
	normal := strings.TrimFunc(text, func(r rune) bool { return r == '\ufeff' || strings.ContainsRune(" \t\r\n\v\f\u00a0", r) })
	if quoted := len(normal) > 1 && (normal[0] == '"' || normal[0] == '\'') && normal[0] == normal[len(normal)-1]; quoted || normal != text {
		next("white space and quotes at its ends belong to this key, and n8n from 1.116 takes them away from its variables: only its config file can hold it; \"n8keep rotate instance\" gives n8n a plain key")
	}
	if x.OldEncoding > 0 {
		next("%d values were written by n8n 1.15 or older, which took the key's letters outside ASCII in another way: n8n 1.16 and later cannot read them; \"n8keep rotate instance\" writes them anew", x.OldEncoding)
	}
	if !inUse && c.Generated() {
		next("it looks like a key that an n8n made by itself, because it was started without one: give all processes (main, workers, webhooks) the same N8N_ENCRYPTION_KEY")
	}
	if s.options.Out != "" {
		next("%q holds the key as it has to be", s.options.Out)
	} else if !inUse && (len(x.Steps) > 0 || c.Name != "" || c.Line > 0 || c.Source == keyfind.FromKeyring) {
		next("--out FILE writes the key as it has to be into a file")
	}
	for _, o := range s.result.Candidates {
		if o.Candidate.Source == n8nhome.FromConfig && o.Candidate.Generated() && len(o.Found) == 0 {
			next("the key in %q looks like one that n8n made by itself at a start without the right one, and opens nothing", o.Candidate.File)
		}
	}
}

// candidate names where a key came from.
func (s *keySearch) candidate(x *keyfind.Found) string {
	return s.result.Candidates[x.Candidate].Candidate.String()
}

func (s *keySearch) named(x *keyfind.Found) string { return s.candidate(x) + steps(x.Steps) }

func steps(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return " (" + strings.Join(list, ", ") + ")"
}

func hints(p *problem.Error, list []string) *problem.Error {
	for _, h := range list {
		p.WithHint("%s", h)
	}
	return p
}
