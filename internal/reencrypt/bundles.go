package reencrypt

import (
	"context"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// bundles rewrites the files of executions whose data is not in the database. n8n is
// stopped: nothing could tell whether it has a file in its hands.
func (r *run) bundles(ctx context.Context, keys *n8ndb.Keyset, seal n8ndb.Sealer) (files, values int64, err error) {
	names, err := r.cfg.DB.BundleFiles(ctx, r.cfg.Storage, r.cfg.Executions)
	if err != nil || len(names) == 0 {
		return 0, 0, err
	}
	root, err := os.OpenRoot(r.cfg.Storage) // links lead nowhere out of it
	if err != nil {
		return 0, 0, problem.Wrap(problem.Unexpected, err, "opening the storage folder %q", r.cfg.Storage)
	}
	defer root.Close()
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return files, values, err
		}
		n, err := r.bundle(root, name, keys, seal)
		if err != nil {
			return files, values, problem.Wrap(problem.KindOf(err), err, "rewriting the execution in %q", name)
		}
		if n > 0 {
			files++
			values += n
		}
	}
	return files, values, nil
}

func (r *run) bundle(root *os.Root, name string, keys *n8ndb.Keyset, seal n8ndb.Sealer) (int64, error) {
	before, err := root.ReadFile(name)
	if err != nil {
		return 0, err
	}
	row := n8ndb.BundleRow(name)
	var was, is []string
	collect := func(into *[]string) func(place, row string, plaintext []byte) string {
		return func(place, row string, plaintext []byte) string {
			d := r.digest(place, row, plaintext)
			*into = append(*into, d)
			return d
		}
	}
	opened := func(p n8ndb.Place, s n8ndb.Secret, plaintext []byte) (string, bool, error) {
		if !s.Opens {
			return "", false, nil
		}
		return seal(p, s, plaintext)
	}
	after, n, err := keys.RewriteBundle(n8ndb.RewriteConfig{Keys: keys, Receipt: r.cfg.Receipt, Seal: opened, Digest: collect(&was)}, row, before)
	if err != nil || n == 0 {
		return 0, err
	}
	leave := func(n8ndb.Place, n8ndb.Secret, []byte) (string, bool, error) { return "", false, nil }
	if _, _, err := keys.RewriteBundle(n8ndb.RewriteConfig{Keys: keys, Receipt: r.cfg.Receipt, Seal: leave, Digest: collect(&is)}, row, after); err != nil {
		return 0, err
	}
	if !slices.Equal(was, is) {
		return 0, problem.New(problem.Damaged, "the new file does not open to what the old one opens to; it was not written")
	}
	return int64(n), replace(root, name, after)
}

// replace writes a file anew, with the mode and the owner that it has.
func replace(root *os.Root, name string, data []byte) (err error) {
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	dir, temp := path.Dir(name), path.Join(path.Dir(name), durable.TempPrefix+path.Base(name))
	_ = root.Remove(temp) // of a run that was killed
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			root.Remove(temp)
		}
	}()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := f.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
			return err
		}
	}
	if err := f.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	failpoint.Hit("reencrypt.bundle.written")
	if err := root.Rename(temp, name); err != nil {
		return err
	}
	return syncDir(root, dir)
}

func syncDir(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
