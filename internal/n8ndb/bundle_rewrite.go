package n8ndb

import (
	"context"
	"os"
	"path"
	"strings"
)

// BundleFiles lists the files bundle.json of the executions in scope below n8n's
// storage folder, slash-separated, in the order of a census. Links are left out.
func (db *DB) BundleFiles(ctx context.Context, storage string, scope ExecutionScope) ([]string, error) {
	var files []string
	err := db.view(ctx, func(v *view) error {
		return v.eachBundle(ctx, storage, scope, func(_ *os.Root, name string) error {
			files = append(files, name)
			return nil
		})
	})
	return files, err
}

// BundleRow is what stands for the file in Secret.Row, before the "#".
func BundleRow(file string) string {
	return strings.TrimPrefix(path.Dir(path.Dir(file)), "workflows/")
}

// RewriteBundle is [Writer.Rewrite] for one file of BundleFiles, whose name makes the
// row (see [BundleRow]): it returns the file with new values, and how many are new. It
// does not change file and returns it as it is when nothing changes. Record is not called.
func (k *Keyset) RewriteBundle(cfg RewriteConfig, row string, file []byte) (out []byte, values int, err error) {
	cfg.Keys = k
	if err := cfg.check(); err != nil {
		return nil, 0, err
	}
	var places []Place
	for _, p := range Catalogue() {
		if p.Container == Bundle {
			places = append(places, p)
		}
	}
	sum := Rewritten{ByPlace: map[PlaceID]int64{}}
	out, err = editBundle(places, file, func(p *Place, v ColumnValue) (string, bool, error) {
		return cfg.reseal(&sum, p, placeRow{id: row}.of(v))
	})
	return out, int(sum.Values), err
}
