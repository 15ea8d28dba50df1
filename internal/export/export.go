// Package export writes what is in an n8n in n8n's own formats, for people and
// other tools: workflows as a tree of files for Git, and credentials as one file
// that is encrypted to age recipients.
//
// A tree of workflows looks the same whoever writes it and however often: names
// and bytes follow from the database alone, nothing in a file changes unless
// somebody edited that workflow, and a file whose bytes are right already is not
// touched. Each file is replaced as a whole or not at all.
//
//	DIR/n8keep-export.json             the index: every file, its workflow, the credentials it uses
//	DIR/PROJECT/FOLDER/WORKFLOW.json   as "n8n import:workflow --input" takes it
//
// The package refuses to touch what it did not write: a file that is in the way
// stops the export before anything is changed, and only files that the index lists
// and that still hold that workflow are removed. It never leaves DIR, whatever
// names stand in the database or in the index, symbolic links included. A workflow
// that holds the instance key is not written.
//
// Credentials are never in clear anywhere but in memory, one at a time; the file
// appears only when it is complete.
//
// Old data: an index of format 1 is read by all later versions. A file of
// workflows is n8n's format of the version that wrote the database.
//
// Trust boundary: neither the database nor the folder is trusted; both may hold
// names made to deceive.
package export

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// WorkflowsConfig says what to write where.
type WorkflowsConfig struct {
	DB *n8ndb.DB
	// Dir is made (0700) when missing; its parent has to exist.
	Dir string
	// Needle finds the instance key. Optional: without it workflows are not looked
	// through.
	Needle *n8ndb.Needle
	// Progress gets the number of workflows done and of all. Optional.
	Progress func(done, total int64)
}

// Written is what an export did to the files.
type Written struct {
	Workflows int // in the database
	New       int // files that were not there
	Changed   int
	Unchanged int
	Removed   int
	// HoldKey are ids of workflows that were not written because the instance key
	// is in them.
	HoldKey []string
	// Kept are files that the last export wrote, whose workflow is gone or
	// elsewhere, and that hold something else now; they were left alone.
	Kept []string
}

// Workflows brings the tree in line with the database. Two exports into one folder
// at the same time are for the caller to prevent.
func Workflows(ctx context.Context, cfg WorkflowsConfig) (*Written, error) {
	t, err := openTree(cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer t.root.Close()
	old, err := t.readIndex()
	if err != nil {
		return nil, err
	}
	w := &writer{WorkflowsConfig: cfg, tree: t, old: old.files(), files: map[string]string{}}
	err = cfg.DB.ExportWorkflows(ctx, w.plan, func(wf n8ndb.Workflow) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return w.workflow(wf)
	})
	if err != nil {
		return nil, err
	}
	return w.finish()
}

type writer struct {
	WorkflowsConfig
	tree   *tree
	old    map[string]string // workflow id by file, of the last export
	files  map[string]string // file by workflow id, of this one
	places map[string]n8ndb.WorkflowPlace
	index  index
	result Written
}

// plan gives every workflow its file, and looks whether something is in the way
// before anything is changed.
func (w *writer) plan(places []n8ndb.WorkflowPlace) error {
	w.files = layout(places)
	w.places = make(map[string]n8ndb.WorkflowPlace, len(places))
	intent := index{Format: indexFormat}
	fresh := false
	for _, p := range places {
		w.places[p.ID] = p
		file := w.files[p.ID]
		intent.Workflows = append(intent.Workflows, indexed{ID: p.ID, File: file})
		if w.old[file] != "" {
			continue
		}
		fresh = true
		if err := w.tree.free(file, p.ID); err != nil {
			return err
		}
	}
	w.result.Workflows = len(places)
	if !fresh {
		return nil
	}
	// A killed export must not leave files that the next one takes for somebody
	// else's: they are in the index before they are in the folder.
	for file, id := range w.old {
		if !slices.ContainsFunc(intent.Workflows, func(i indexed) bool { return i.File == file }) {
			intent.Workflows = append(intent.Workflows, indexed{ID: id, File: file})
		}
	}
	return w.tree.writeIndex(intent)
}

func (w *writer) workflow(wf n8ndb.Workflow) error {
	file, ok := w.files[wf.ID]
	if !ok {
		return nil // made since the plan; the next export has it
	}
	if w.Needle != nil && w.Needle.Find(wf.JSON) {
		w.result.HoldKey = append(w.result.HoldKey, wf.ID)
		delete(w.files, wf.ID)
		return nil
	}
	text, uses, err := portable(wf.JSON)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading workflow %q", wf.ID)
	}
	outcome, err := w.tree.put(file, text)
	if err != nil {
		return err
	}
	switch outcome {
	case putNew:
		w.result.New++
	case putChanged:
		w.result.Changed++
	default:
		w.result.Unchanged++
	}
	p := w.places[wf.ID]
	entry := indexed{ID: wf.ID, Name: wf.Name, File: file, Folders: p.Folders, Credentials: uses}
	if p.Project.ID != "" {
		entry.Project = &owner{p.Project.ID, p.Project.Name, p.ProjectType}
	}
	w.index.Workflows = append(w.index.Workflows, entry)
	if w.Progress != nil {
		w.Progress(int64(len(w.index.Workflows)), int64(w.result.Workflows))
	}
	return nil
}

// finish removes what is not there any more, and then says so in the index.
func (w *writer) finish() (*Written, error) {
	current := map[string]bool{}
	for _, e := range w.index.Workflows {
		current[e.File] = true
	}
	for _, file := range slices.Sorted(keysOf(w.old)) {
		if current[file] {
			continue
		}
		removed, err := w.tree.remove(file, w.old[file], current)
		if err != nil {
			return nil, err
		}
		switch removed {
		case removedIt:
			w.result.Removed++
		case notOurs:
			w.result.Kept = append(w.result.Kept, file)
		}
	}
	w.index.Format = indexFormat
	if err := w.tree.writeIndex(w.index); err != nil {
		return nil, err
	}
	return &w.result, nil
}

// tree is the folder. Names given to it are relative and slashed.
type tree struct {
	root *os.Root
	dir  string
}

func openTree(dir string) (*tree, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, problem.Wrap(problem.Usage, cause(err), "making folder %q", dir).WithHint("name a folder whose parent exists and may be written to")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, problem.Wrap(problem.Usage, cause(err), "opening folder %q", dir).WithHint("name a folder that this user may read and write")
	}
	return &tree{root, dir}, nil
}

// free reports an error when a file is there that is not the workflow id's.
func (t *tree) free(file, id string) error {
	b, err := t.root.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && idOf(b) == id:
		return nil // an earlier export, whose index was lost
	case err == nil:
		err = errors.New("it was not written by n8keep")
	}
	return problem.Wrap(problem.Usage, cause(err), "%q is in the way of a workflow", path.Join(t.dir, file)).
		WithHint("nothing was changed; move it away, or name another folder")
}

type put int

const (
	putSame put = iota
	putNew
	putChanged
)

// put replaces a file unless it has these bytes already.
func (t *tree) put(file string, text []byte) (put, error) {
	mode, outcome := fs.FileMode(0o600), putNew
	switch b, err := t.root.ReadFile(file); {
	case err == nil && string(b) == string(text):
		return putSame, nil
	case err == nil:
		outcome = putChanged
		if info, err := t.root.Stat(file); err == nil {
			mode = info.Mode().Perm()
		}
	}
	if err := t.write(file, text, mode); err != nil {
		return 0, problem.Wrap(problem.Unexpected, cause(err), "writing %q", path.Join(t.dir, file)).
			WithHint("the folder must be writable for this user, and its disk must have room; run the export again, it goes on where it was")
	}
	return outcome, nil
}

// write is durable.WriteFile within the root.
func (t *tree) write(file string, text []byte, mode fs.FileMode) (err error) {
	if dir := path.Dir(file); dir != "." {
		if err := t.root.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	temp := path.Join(path.Dir(file), tempName)
	if err := t.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := t.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			t.root.Remove(temp)
		}
	}()
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(mode) // the umask took part before
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	if err = t.root.Rename(temp, file); err != nil {
		return err
	}
	return t.sync(path.Dir(file))
}

func (t *tree) sync(dir string) error {
	d, err := t.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

type removal int

const (
	goneAlready removal = iota
	removedIt
	notOurs
)

// remove deletes a file that still holds the workflow that was written to it, and
// the folders around it that are empty then.
func (t *tree) remove(file, id string, current map[string]bool) (removal, error) {
	b, err := t.root.ReadFile(file)
	if err != nil {
		if _, err := t.root.Lstat(file); errors.Is(err, fs.ErrNotExist) {
			return goneAlready, nil
		}
		return notOurs, nil
	}
	if idOf(b) != id {
		return notOurs, nil
	}
	// Where names differ by case only they may be one file.
	for other := range current {
		if strings.EqualFold(other, file) && t.same(other, file) {
			return goneAlready, nil
		}
	}
	if err := t.root.Remove(file); err != nil {
		return 0, problem.Wrap(problem.Unexpected, cause(err), "removing %q", path.Join(t.dir, file)).
			WithHint("its workflow is gone from n8n; remove it, or make the folder writable")
	}
	for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
		t.root.Remove(path.Join(dir, tempName))
		if t.root.Remove(dir) != nil {
			break // not empty
		}
	}
	return removedIt, nil
}

func (t *tree) same(a, b string) bool {
	x, err := t.root.Stat(a)
	if err != nil {
		return false
	}
	y, err := t.root.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// cause drops the path, which the message around it names already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	var l *os.LinkError
	if errors.As(err, &l) {
		return l.Err
	}
	return err
}
