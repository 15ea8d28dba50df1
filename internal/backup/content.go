package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/deploy"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
)

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

// write puts everything but the manifest into the archive: the database first,
// so that "tar x" shows it soon.
func (t *take) write(ctx context.Context, w *archive.Writer) error {
	if err := t.writeDatabase(ctx, w); err != nil {
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
		if err != nil {
			return err
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

// fileName keeps an id a plain file name; n8n's own ids already are.
func fileName(id string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, id)
}

func (t *take) writeFiles(ctx context.Context, w *archive.Writer) error {
	for f, err := range n8nhome.Files(t.N8NDir, n8nhome.FilesConfig{Binary: t.Binary}) {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.Skipped != "" {
			t.find(FindingFileSkipped, f.Path, "%s", f.Skipped)
			continue
		}
		if err := t.writeFile(ctx, w, f); err != nil {
			return err
		}
	}
	return nil
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
