package n8ndb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

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
	if c.cfg.BundleDir == "" {
		return nil
	}
	var n int64
	return v.eachBundle(ctx, c.cfg.BundleDir, c.cfg.Executions, func(root *os.Root, name string) error {
		if err := c.bundle(root, name, places); err != nil {
			return err
		}
		if n++; n%100 == 0 {
			c.progress("bundle.json", n)
		}
		return nil
	})
}

// eachBundle calls fn for the file of every execution in scope.
func (v *view) eachBundle(ctx context.Context, storage string, scope ExecutionScope, fn func(root *os.Root, name string) error) error {
	if scope == NoExecutions {
		return nil
	}
	wanted, err := v.storedOnDisk(ctx, scope)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(storage)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return problem.Wrap(problem.Unexpected, err, "opening the storage folder %q", storage)
	}
	defer root.Close()
	workflows, err := fs.Glob(root.FS(), "workflows/*/executions")
	if err != nil {
		return fmt.Errorf("listing executions on disk: %w", err)
	}
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
			if err := fn(root, name); err != nil {
				return err
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
	at, ok := bundleText(b)
	if !ok {
		return nil
	}
	return unescape(b[at.start:at.end])
}

// bundleText is where the text of the member data stands, without its quotes.
func bundleText(b []byte) (at span, ok bool) {
	start, end := jsonBounds(b)
	if end-start < 2 || b[start] != '{' {
		return at, false
	}
	s := flattedScanner{data: b, start: start, end: end}
	s.memberSpans(func(name, value span) {
		if string(b[name.start:name.end]) == "data" && value.end-value.start > 1 && b[value.start] == '"' {
			at, ok = span{value.start + 1, value.end - 1}, true
		}
	})
	return at, ok
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
		b = b[i:]
		r, n := escaped(b)
		if r != noRune {
			out = utf8.AppendRune(out, r)
		}
		b = b[n:]
	}
	return out
}

// noRune is what an escape is that means nothing.
const noRune rune = -1

// escaped reads the escape that b begins with, of n bytes. Two halves of a surrogate
// pair are one.
func escaped(b []byte) (r rune, n int) {
	switch c := b[1]; c {
	case 'n':
		return '\n', 2
	case 't':
		return '\t', 2
	case 'r':
		return '\r', 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'u':
		r, ok := hexRune(b)
		if !ok {
			return noRune, min(6, len(b))
		}
		if utf16.IsSurrogate(r) {
			if low, ok := hexRune(b[6:]); ok && utf16.DecodeRune(r, low) != utf8.RuneError {
				return utf16.DecodeRune(r, low), 12
			}
			return utf8.RuneError, 6
		}
		return r, 6
	default:
		if c >= utf8.RuneSelf {
			return noRune, 1 // the bytes of a character stand for themselves
		}
		return rune(c), 2
	}
}

// hexRune reads \uXXXX.
func hexRune(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	return rune(n), err == nil
}

// escapedLen is how many bytes an escape is in the end.
func escapedLen(r rune) int {
	if r == noRune {
		return 0
	}
	return utf8.RuneLen(r)
}
