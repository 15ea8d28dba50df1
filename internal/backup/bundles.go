package backup

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// storageEntries is where execution data that n8n keeps outside its database
// stands in an archive; BundlePlaces begins the names of its places.
const (
	storageEntries = FileFolder + "storage/"
	bundlePlaces   = "bundle.json"
)

// holdBundles copies the data of executions that are not finished, where n8n
// keeps it in files (n8n >= 2.6, by choice): without it such an execution could
// not go on. What is proved is the copy, and the copy is archived.
func (t *take) holdBundles(ctx context.Context) error {
	if t.N8NDir == "" {
		return nil
	}
	storage := filepath.Join(t.N8NDir, "storage")
	found, err := t.db.Bundles(ctx, storage)
	if err := t.tolerate(err); err != nil {
		return err
	}
	missing := found.Missing
	for _, path := range found.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := t.holdBundle(storage, path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, path)
		case err != nil:
			return problem.Wrap(problem.Unexpected, err, "holding execution data still")
		default:
			t.bundles = append(t.bundles, path)
		}
	}
	if len(t.bundles) > 0 {
		t.storage = filepath.Join(t.work.Dir, "storage")
	}
	if len(missing) > 0 {
		t.find(FindingExecutionData, "execution_entity", "the data of %s that n8n keeps in files is not there, %s among them; they cannot go on after a restore",
			count(int64(len(missing)), "unfinished execution"), missing[0])
	}
	if found.Elsewhere > 0 {
		t.find(FindingExecutionData, "execution_entity", "the data of %s is in S3 or Azure and not in this backup", count(found.Elsewhere, "unfinished execution"))
	}
	return nil
}

func (t *take) holdBundle(storage, path string) error {
	src, err := os.Open(filepath.Join(storage, filepath.FromSlash(path)))
	if err != nil {
		return err
	}
	defer src.Close()
	to := filepath.Join(t.work.Dir, "storage", filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// writeBundle adds a held copy. One that holds the key stays, as a row of the
// database would, and degrades the archive.
func (t *take) writeBundle(w *archive.Writer, path string) error {
	f, err := os.Open(filepath.Join(t.storage, filepath.FromSlash(path)))
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading execution data")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading execution data")
	}
	look := t.needle.Reader(f)
	err = w.Add(archive.Entry{Name: storageEntries + path, Size: info.Size(), Mode: 0o600, ModTime: t.Now()}, look)
	if look.Found() {
		t.find(FindingKeyInside, bundlePlaces, "%s holds the instance key itself: %s", path, keyInsideRepair(n8ndb.NeedleHit{}))
	}
	return err
}

func isBundle(place string) bool { return strings.HasPrefix(place, bundlePlaces) }
