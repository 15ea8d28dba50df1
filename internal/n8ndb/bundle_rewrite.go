package n8ndb

import (
	"context"
	"errors"
	"path"
	"strings"
)

// BundleFiles lists the files bundle.json of the executions in scope below n8n's
// storage folder, slash-separated, in the order of a census. Links are left out.
func (db *DB) BundleFiles(ctx context.Context, storage string, scope ExecutionScope) ([]string, error) {
	return nil, errors.New("not yet")
}

// BundleRow is what stands for the file in Secret.Row, before the "#".
func BundleRow(file string) string {
	return strings.TrimPrefix(path.Dir(path.Dir(file)), "workflows/")
}

// RewriteBundle is [Writer.Rewrite] for one file of BundleFiles, whose name makes the
// row (see [BundleRow]): it returns the file with new values, and how many are new. It
// does not change file and returns it as it is when nothing changes.
func (k *Keyset) RewriteBundle(cfg RewriteConfig, row string, file []byte) (out []byte, values int, err error) {
	return nil, 0, errors.New("not yet")
}
