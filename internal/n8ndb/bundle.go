package n8ndb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/n8keep/n8keep/internal/problem"
)

// bundles reads executions that n8n keeps on disk (N8N_EXECUTION_DATA_STORAGE_MODE
// fs, n8n >= 2.6), in order of their paths:
//
//	<folder>/workflows/<workflow>/executions/<execution>/execution_data/bundle.json
//	{"data":"<flatted JSON>","workflowData":{...},"workflowVersionId":...,"version":1}
//
// Links are not followed. Row is the path under workflows, and the element.
func (c *counter) bundles(ctx context.Context, v *view, places []Place) error {
	if c.cfg.BundleDir == "" || c.cfg.Executions == NoExecutions {
		return nil
	}
	wanted, err := v.storedOnDisk(ctx, c.cfg.Executions)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(c.cfg.BundleDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "opening the storage folder %q", c.cfg.BundleDir)
	}
	defer root.Close()
	workflows, err := fs.Glob(root.FS(), "workflows/*/executions")
	if err != nil {
		return fmt.Errorf("listing executions on disk: %w", err)
	}
	var n int64
	for _, dir := range workflows {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			return problem.Wrap(problem.Unexpected, err, "listing executions on disk")
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			if wanted != nil && !wanted[e.Name()] {
				continue
			}
			name := path.Join(dir, e.Name(), "execution_data", "bundle.json")
			if info, err := root.Lstat(name); err != nil || !info.Mode().IsRegular() {
				continue
			}
			if err := c.bundle(root, name, places); err != nil {
				return err
			}
			if n++; n%100 == 0 {
				c.progress("bundle.json", n)
			}
		}
	}
	return nil
}

// storedOnDisk are the ids of unfinished executions that are not in the database;
// nil means all. There are few of them at any time.
func (v *view) storedOnDisk(ctx context.Context, scope ExecutionScope) (map[string]bool, error) {
	t := v.db.table("execution_entity")
	if scope == AllExecutions || t.Column("id") == nil {
		return nil, nil
	}
	ids := map[string]bool{}
	if t.Column("storedAt") == nil {
		return ids, nil
	}
	stmt := `SELECT e."id" FROM ` + v.db.from(t) + ` AS e WHERE e."storedAt" <> 'db' AND ` + v.unfinished()
	_, err := v.rows(ctx, stmt, nil, 1, 0, func(cols []any) error {
		ids[textOf(cols[0])] = true
		return nil
	})
	return ids, err
}

func (c *counter) bundle(root *os.Root, name string, places []Place) error {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // n8n deleted the execution meanwhile
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading an execution on disk")
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "reading an execution on disk")
	}
	row := path.Dir(path.Dir(name))[len("workflows/"):]
	_, err = c.flatted(bundleData(b), row, places)
	return err
}

// bundleData returns the flatted JSON of a bundle, unescaped within b.
func bundleData(b []byte) []byte {
	b = bytes.TrimSpace(b)
	if len(b) < 2 || b[0] != '{' {
		return nil
	}
	var data []byte
	s := flattedScanner{data: b, end: len(b)}
	s.members(func(name, value []byte) {
		if string(name) == "data" && len(value) > 1 && value[0] == '"' {
			data = unescape(value[1 : len(value)-1])
		}
	})
	return data
}

// unescape undoes JSON's escapes in place: what comes out is never longer.
func unescape(b []byte) []byte {
	out := b[:0]
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\\')
		if i < 0 || i+1 >= len(b) {
			return append(out, b...)
		}
		out = append(out, b[:i]...)
		n := 2
		switch c := b[i+1]; c {
		case 'n', 't', 'r', 'b', 'f':
			out = append(out, map[byte]byte{'n': '\n', 't': '\t', 'r': '\r', 'b': '\b', 'f': '\f'}[c])
		case 'u':
			for n = min(6, len(b)-i); i+n+6 <= len(b) && b[i+n] == '\\' && b[i+n+1] == 'u'; {
				n += 6 // the other half of a surrogate pair must be decoded with the first
			}
			var s string
			if json.Unmarshal([]byte(`"`+string(b[i:i+n])+`"`), &s) == nil {
				out = append(out, s...)
			}
		default:
			out = append(out, c)
		}
		b = b[i+n:]
	}
	return out
}
