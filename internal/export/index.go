package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// IndexName is the file in the export's folder that lists the others.
const IndexName = "n8keep-export.json"

// tempName is the only temporary name, so that what a killed export left is
// overwritten by the next one.
const tempName = durable.TempPrefix + "export"

const indexFormat = "n8keep workflows 1"

// index is IndexName:
//
//	{
//	  "format": "n8keep workflows 1",
//	  "workflows": [
//	    {
//	      "id": "xBw1gpMZt6V6nAnV",
//	      "name": "Orders",
//	      "file": "Shop/Daily/Orders.json",
//	      "project": {"id": "...", "name": "Shop", "type": "team"},
//	      "folders": [{"id": "...", "name": "Daily"}],
//	      "credentials": [{"id": "...", "name": "Shop API", "type": "httpHeaderAuth", "nodes": ["Fetch"]}]
//	    }
//	  ]
//	}
//
// sorted by file. It has no time in it, so that it changes only when a name, a
// place or the use of a credential does.
type index struct {
	Format    string    `json:"format"`
	Workflows []indexed `json:"workflows"`
}

type indexed struct {
	ID          string        `json:"id"`
	Name        string        `json:"name"`
	File        string        `json:"file"`
	Project     *owner        `json:"project,omitempty"`
	Folders     []n8ndb.Named `json:"folders,omitempty"`
	Credentials []use         `json:"credentials,omitempty"`
}

type owner struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Type string `json:"type"`
}

// use is a credential that nodes of a workflow refer to.
type use struct {
	ID    string   `json:"id"`
	Name  string   `json:"name"`
	Type  string   `json:"type"`
	Nodes []string `json:"nodes"`
}

// files is the workflow id by file. Names that no export would have made are left
// out: the index may have been edited, or come from somewhere else.
func (x index) files() map[string]string {
	files := map[string]string{}
	for _, w := range x.Workflows {
		if fs.ValidPath(w.File) && strings.HasSuffix(w.File, ".json") && strings.Contains(w.File, "/") && w.ID != "" && !hidden(w.File) {
			files[w.File] = w.ID
		}
	}
	return files
}

// hidden reports whether a part of the name begins with a dot, as in .git.
func hidden(file string) bool {
	return slices.ContainsFunc(strings.Split(file, "/"), func(part string) bool { return strings.HasPrefix(part, ".") })
}

func keysOf(m map[string]string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func (t *tree) readIndex() (index, error) {
	b, err := t.root.ReadFile(IndexName)
	if errors.Is(err, fs.ErrNotExist) {
		return index{}, nil
	}
	if err != nil {
		return index{}, problem.Wrap(problem.Usage, cause(err), "reading %q", path.Join(t.dir, IndexName)).WithHint("it lists what the last export wrote; make it readable")
	}
	var x index
	if err := json.Unmarshal(b, &x); err != nil || x.Format == "" {
		return index{}, problem.New(problem.Usage, "%q is not the index of an export", path.Join(t.dir, IndexName)).
			WithHint("if a merge in Git left marks in it, take either side; if it is not n8keep's, name another folder").
			WithHint("without it nothing is removed: delete it, and files of workflows that are gone stay")
	}
	if x.Format != indexFormat {
		return index{}, problem.New(problem.Usage, "%q has format %q, which this version does not know", path.Join(t.dir, IndexName), x.Format).
			WithHint("use the n8keep that wrote it, or a newer one")
	}
	return x, nil
}

func (t *tree) writeIndex(x index) error {
	slices.SortFunc(x.Workflows, func(a, b indexed) int { return strings.Compare(a.File, b.File) })
	if x.Workflows == nil {
		x.Workflows = []indexed{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(x); err != nil {
		return problem.Wrap(problem.Unexpected, err, "writing the index")
	}
	_, err := t.put(IndexName, b.Bytes())
	return err
}
