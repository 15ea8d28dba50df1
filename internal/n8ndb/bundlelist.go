package n8ndb

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/n8keep/n8keep/internal/problem"
)

// Bundles says where the data of executions lies outside the database (n8n >= 2.6,
// N8N_EXECUTION_DATA_STORAGE_MODE).
type Bundles struct {
	Files     []string // below the storage folder, slash-separated, in order
	Missing   []string // ids of executions kept in the folder whose file is not there
	Elsewhere int64    // executions kept in S3 or Azure
}

// Bundles finds the files of executions that are not finished in n8n's storage
// folder, which need not exist.
func (db *DB) Bundles(ctx context.Context, storage string) (Bundles, error) {
	return db.BundlesOf(ctx, storage, Unfinished)
}

// BundlesOf is Bundles of the executions in scope. It holds a name or an id of each that
// is not in the database.
func (db *DB) BundlesOf(ctx context.Context, storage string, scope ExecutionScope) (Bundles, error) {
	var found Bundles
	ids := map[string]bool{} // value: its file was met
	err := db.view(ctx, func(v *view) error {
		t := v.db.table("execution_entity")
		if t.Column("id") == nil || t.Column("storedAt") == nil {
			return nil
		}
		stmt := `SELECT e."id", e."storedAt" FROM ` + v.db.from(t) + ` AS e WHERE e."storedAt" <> 'db'`
		if scope != AllExecutions {
			stmt += " AND " + v.unfinished()
		}
		_, err := v.rows(ctx, stmt, nil, 2, 0, func(cols []any) error {
			if textOf(cols[1]) == "fs" {
				ids[textOf(cols[0])] = false
			} else {
				found.Elsewhere++
			}
			return nil
		})
		return err
	})
	if err != nil || len(ids) == 0 {
		return found, err
	}
	root, err := os.OpenRoot(storage)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return found, problem.Wrap(problem.Unexpected, err, "opening the storage folder %q", storage)
	}
	if err == nil {
		defer root.Close()
		if err := listBundles(ctx, root, ids, &found); err != nil {
			return found, err
		}
	}
	for id, met := range ids {
		if !met {
			found.Missing = append(found.Missing, id)
		}
	}
	slices.Sort(found.Missing)
	return found, nil
}

func listBundles(ctx context.Context, root *os.Root, ids map[string]bool, found *Bundles) error {
	workflows, err := fs.Glob(root.FS(), "workflows/*/executions")
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "listing executions on disk")
	}
	for _, dir := range workflows {
		if err := ctx.Err(); err != nil {
			return err
		}
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			return problem.Wrap(problem.Unexpected, err, "listing executions on disk")
		}
		for _, e := range entries {
			if _, wanted := ids[e.Name()]; !wanted {
				continue
			}
			name := path.Join(dir, e.Name(), "execution_data", "bundle.json")
			if info, err := root.Lstat(name); err != nil || !info.Mode().IsRegular() {
				continue
			}
			ids[e.Name()] = true
			found.Files = append(found.Files, name)
		}
	}
	return nil
}
