package export

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/n8keep/n8keep/internal/n8ndb"
)

// withoutProject is the folder of workflows that no project owns.
const withoutProject = "Personal"

// layout gives every workflow a file, from nothing but what n8n knows of all of
// them: the same database gives the same names, wherever and whenever. Where two
// things in one folder would have one name, each of them gets its id behind it.
func layout(places []n8ndb.WorkflowPlace) map[string]string {
	type node struct {
		id, name, suffix string
		parent           string // key of the folder around it
	}
	nodes := map[string]node{} // by a key that says what it is, and the ids down to it
	inFolder := map[string][]string{}
	add := func(key string, n node) {
		if _, known := nodes[key]; !known {
			nodes[key] = n
			inFolder[n.parent] = append(inFolder[n.parent], key)
		}
	}
	of := make(map[string]string, len(places))
	for _, p := range places {
		parent := "project\x00" + p.Project.ID
		name := p.Project.Name
		if name == "" {
			name = withoutProject
		}
		add(parent, node{p.Project.ID, safeFolder(name), "", ""})
		for _, f := range p.Folders {
			// A folder belongs to one project, but the database is not trusted with that.
			key := parent + "\x00" + f.ID
			add(key, node{f.ID, safeFolder(f.Name), "", parent})
			parent = key
		}
		key := "workflow\x00" + p.ID
		add(key, node{p.ID, safe(p.Name), ".json", parent})
		of[p.ID] = key
	}
	final := map[string]string{}
	for _, keys := range inFolder {
		slices.Sort(keys)
		level := map[string]int{} // 1: with the id, 2: with its hash, for ids that look alike
		for changed := true; changed; {
			changed = false
			taken := map[string][]string{}
			for _, k := range keys {
				n := nodes[k]
				final[k] = n.name + n.suffix
				switch level[k] {
				case 1:
					final[k] = n.name + "-" + safe(n.id) + n.suffix
				case 2:
					sum := sha256.Sum256([]byte(n.id))
					final[k] = n.name + "-" + hex.EncodeToString(sum[:8]) + n.suffix
				}
				folded := strings.ToLower(final[k])
				taken[folded] = append(taken[folded], k)
			}
			for _, same := range taken {
				if len(same) < 2 {
					continue
				}
				// Where one has not got its id yet, that may be all that is needed.
				most := 2
				if slices.ContainsFunc(same, func(k string) bool { return level[k] == 0 }) {
					most = 1
				}
				for _, k := range same {
					if level[k] < most {
						level[k]++
						changed = true
					}
				}
			}
		}
	}
	files := make(map[string]string, len(places))
	for id, key := range of {
		file := final[key]
		for parent := nodes[key].parent; parent != ""; parent = nodes[parent].parent {
			file = path.Join(final[parent], file)
		}
		files[id] = file
	}
	return files
}

// longest is the most bytes of a name, so that with an id behind it every file
// system takes it.
const longest = 120

// safe makes a name that every file system takes, and that is no option, no hidden
// file and no device when it meets a shell.
func safe(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || strings.ContainsRune(`/\:*?"<>|`, r) {
			return '_'
		}
		return r
	}, norm.NFC.String(name))
	if len(name) > longest {
		cut := longest
		for !utf8.RuneStart(name[cut]) {
			cut--
		}
		name = name[:cut]
	}
	name = strings.TrimRight(strings.TrimSpace(name), ". ")
	if name == "" {
		return "unnamed"
	}
	if strings.ContainsRune(".-~", rune(name[0])) {
		name = "_" + name
	}
	stem, rest, _ := strings.Cut(name, ".")
	if slices.Contains(devices(), strings.ToUpper(stem)) {
		name = stem + "_"
		if rest != "" {
			name += "." + rest
		}
	}
	return name
}

// safeFolder is safe for a folder, which must not look like a workflow's file.
func safeFolder(name string) string {
	name = safe(name)
	if strings.HasSuffix(strings.ToLower(name), ".json") {
		name += "_"
	}
	return name
}

// devices are names that Windows does not give to files.
func devices() []string {
	list := []string{"CON", "PRN", "AUX", "NUL"}
	for _, d := range "123456789" {
		list = append(list, "COM"+string(d), "LPT"+string(d))
	}
	return list
}
