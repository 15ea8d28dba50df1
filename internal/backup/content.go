package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/deploy"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
)

// write puts everything but the manifest into the archive: the database first,
// so that "tar x" shows it soon.
func (t *take) write(ctx context.Context, w *archive.Writer) error {
	database := t.writeDatabase
	if t.dump != nil {
		database = t.writeDump
	}
	if err := database(ctx, w); err != nil {
		return err
	}
	if err := t.writeWorkflows(ctx, w); err != nil {
		return err
	}
	if t.N8NDir != "" {
		if err := t.writeFiles(ctx, w); err != nil {
			return err
		}
	}
	return t.writeDeployment(w)
}

func (t *take) writeDatabase(ctx context.Context, w *archive.Writer) error {
	f, err := os.Open(t.copy)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading the private copy")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading the private copy")
	}
	report := t.Progress.of("writing the archive")
	r := &countingReader{ctx: ctx, r: f, report: func(n int64) { report(n, info.Size()) }}
	return w.Add(archive.Entry{Name: DatabaseEntry, Size: info.Size(), Mode: 0o600, ModTime: t.Now()}, r)
}

func (t *take) writeWorkflows(ctx context.Context, w *archive.Writer) error {
	for wf, err := range t.db.Workflows(ctx) {
		if err := t.tolerate(err); err != nil {
			return err
		}
		if wf.ID == "" {
			continue // the database is damaged here
		}
		if t.needle.Find(wf.JSON) {
			t.find(FindingWorkflowKey, "workflow_entity", "workflow %q holds the instance key: its JSON file is not in the archive", wf.ID)
			continue
		}
		if err := addBytes(w, workflowFolder+fileName(wf.ID)+".json", wf.JSON, 0o600, t.Now()); err != nil {
			return err
		}
		t.workflows++
	}
	return nil
}

// fileName keeps an id a plain file name; n8n's own ids already are. One that is
// not gets a hash, so that no two share a name.
func fileName(id string) string {
	name := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, id)
	const most = 64
	if name == id && len(id) <= most {
		return name
	}
	sum := sha256.Sum256([]byte(id))
	return name[:min(len(name), most)] + "-" + hex.EncodeToString(sum[:4])
}

func (t *take) writeFiles(ctx context.Context, w *archive.Writer) error {
	var own []os.FileInfo
	for _, dir := range append([]string{t.WorkDir, t.LockDir}, t.Exclude...) {
		if info, err := os.Stat(dir); err == nil {
			own = append(own, info)
		}
	}
	held := map[string]bool{}
	for _, path := range t.bundles {
		held[filepath.Join("storage", filepath.FromSlash(path))] = true
		if err := t.writeBundle(w, path); err != nil {
			return err
		}
	}
	inside := map[string]bool{} // folders below N8NDir: whether they are n8keep's own
	for f, err := range n8nhome.Files(t.N8NDir, n8nhome.FilesConfig{Binary: t.Binary}) {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if held[f.Path] || t.ownFolder(filepath.Dir(f.Path), own, inside) {
			continue
		}
		switch {
		case f.Skipped != "":
			t.find(FindingFileSkipped, f.Path, "%s", f.Skipped)
		case archive.CheckEntryName(FileFolder+filepath.ToSlash(f.Path)) != nil:
			t.find(FindingFileSkipped, strconv.QuoteToASCII(f.Path), "its name cannot stand in an archive")
		case t.needle.Find([]byte(f.Path)):
			t.find(FindingFileKey, "", "a file whose name holds an instance key is not in the archive")
		default:
			if err := t.writeFile(ctx, w, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// ownFolder reports whether a folder of N8NDir is one of n8keep's own, such as
// the target: archives of archives would double with every run.
func (t *take) ownFolder(dir string, own []os.FileInfo, known map[string]bool) bool {
	if dir == "." || dir == "" {
		return false
	}
	is, met := known[dir]
	if met {
		return is
	}
	if is = t.ownFolder(filepath.Dir(dir), own, known); !is {
		if info, err := os.Stat(filepath.Join(t.N8NDir, dir)); err == nil {
			is = slices.ContainsFunc(own, func(o os.FileInfo) bool { return os.SameFile(o, info) })
		}
		if is {
			t.warn("%q lies in n8n's folder and belongs to n8keep: it is not in the archive; keep archives elsewhere, best on another machine", dir)
		}
	}
	known[dir] = is
	return is
}

// writeFile adds one file of a folder that n8n may be writing to. Its bytes are
// held still first (small ones in memory, others in the work folder), so that
// what was looked through for the key is what is archived.
func (t *take) writeFile(ctx context.Context, w *archive.Writer, f n8nhome.File) error {
	src, err := os.Open(filepath.Join(t.N8NDir, f.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // deleted since it was listed
	}
	if err != nil {
		t.find(FindingFileSkipped, f.Path, "%v", errors.Unwrap(err))
		return nil
	}
	defer src.Close()
	const inMemory = 4 << 20
	entry := archive.Entry{Name: FileFolder + filepath.ToSlash(f.Path), Mode: f.Mode.Perm(), ModTime: f.ModTime}
	if f.Size <= inMemory {
		b, err := io.ReadAll(io.LimitReader(src, inMemory+1))
		if err != nil {
			return problem.Wrap(problem.Unexpected, err, "reading %q", f.Path)
		}
		if len(b) <= inMemory {
			if t.needle.Find(b) {
				t.leaveOut(f.Path)
				return nil
			}
			entry.Size = int64(len(b))
			return w.Add(entry, bytes.NewReader(b))
		}
		if _, err := src.Seek(0, io.SeekStart); err != nil {
			return problem.Wrap(problem.Unexpected, err, "reading %q", f.Path)
		}
	}
	if err := t.work.Need(f.Size + 16<<20); err != nil {
		return err
	}
	held, err := os.OpenFile(filepath.Join(t.work.Dir, "held"), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "holding %q still", f.Path)
	}
	defer os.Remove(held.Name())
	defer held.Close()
	look := t.needle.Reader(&countingReader{ctx: ctx, r: src})
	if entry.Size, err = io.Copy(held, look); err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading %q", f.Path)
	}
	if look.Found() {
		t.leaveOut(f.Path)
		return nil
	}
	if _, err := held.Seek(0, io.SeekStart); err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading %q", f.Path)
	}
	return w.Add(entry, held)
}

func (t *take) leaveOut(path string) {
	t.find(FindingFileKey, path, "the file holds the instance key and is not in the archive; the key must never travel with the database")
}

func (t *take) writeDeployment(w *archive.Writer) error {
	names := map[string]bool{}
	for _, path := range t.DeploymentFiles {
		content, err := os.ReadFile(path)
		if err != nil {
			return problem.Wrap(problem.Usage, err, "reading deployment file").WithHint("name an existing file, or leave it out")
		}
		name := deploymentName(path, names)
		res, err := deploy.Redact(name, content, deploy.Config{KeepSecrets: t.KeepSecrets, Needle: t.needle.Ranges,
			Digest: func(row string, plaintext []byte) string {
				return t.digester.Sum(deploymentFolder+name, row, plaintext)
			}})
		if err != nil {
			return err
		}
		for _, r := range res.Reported {
			t.warn("line %d of %q (%s) looks like a secret and was kept: give it a name that says so, or leave the file out", r.Line, name, r.Row)
		}
		if t.needle.Find(res.Content) {
			return problem.New(problem.Damaged, "the instance key is still in %q after redaction", name).
				WithHint("no archive was written; leave this file out, and report the form it stands in")
		}
		if err := addBytes(w, deploymentFolder+name, res.Content, 0o600, t.Now()); err != nil {
			return err
		}
	}
	return nil
}

// deploymentName is the file's base name, with its parent folder in front when
// two files share one.
func deploymentName(path string, taken map[string]bool) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	name := strings.TrimLeft(filepath.Base(abs), ".")
	if strings.HasPrefix(filepath.Base(abs), ".") {
		name = "dot-" + name
	}
	if archive.CheckEntryName(deploymentFolder+name) != nil {
		name = fileName(name)
	}
	base := name
	for i := 2; taken[name]; i++ {
		name = fmt.Sprintf("%d-%s", i, base)
	}
	taken[name] = true
	return name
}

func addBytes(w *archive.Writer, name string, b []byte, mode fs.FileMode, mod time.Time) error {
	return w.Add(archive.Entry{Name: name, Size: int64(len(b)), Mode: mode, ModTime: mod}, bytes.NewReader(b))
}

// countingReader stops at a cancelled context and reports how far it is.
type countingReader struct {
	ctx    context.Context
	r      io.Reader
	n      int64
	report func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.report != nil {
		c.report(c.n)
	}
	return n, err
}
