package pgdump

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/n8keep/n8keep/internal/problem"
)

const (
	// chunkBytes is how long a data file is at most, unless a single row is longer.
	chunkBytes = 4 << 20
	// partBytes is how much of a large table one session reads at a time.
	partBytes = 64 << 20
	// lockPatience is how long a session that reads rows waits for a lock. The main session holds them already, so
	// whoever waits at all stands behind somebody who waits for the main session.
	lockPatience = 5 * time.Second
)

// dump is a dump being written.
type dump struct {
	cfg    DumpConfig
	folder string // of data files
	mu     sync.Mutex
	report Report
	total  int64
	done   int64
	files  []string
}

func (d *dump) emit(name string, body []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = append(d.files, name)
	if err := d.cfg.Emit(name, body); err != nil {
		return fmt.Errorf("writing %q: %w", name, err)
	}
	return nil
}

// master is restore.sql.
func (d *dump) master() []byte {
	var b strings.Builder
	b.WriteString("-- Restores this dump into an empty database: psql -X -d DATABASE -f restore.sql\n\\set ON_ERROR_STOP on\n")
	for _, pass := range []string{"pre.sql", "data/", "post.sql"} {
		slices.Sort(d.files)
		for _, f := range d.files {
			if strings.HasPrefix(f, pass) {
				fmt.Fprintf(&b, "\\ir %s\n", f)
			}
		}
	}
	return []byte(b.String())
}

// part is what one COPY reads.
type part struct {
	t     *table
	query string // "": the whole table
	bytes int64
}

// parts cuts the work into pieces, the largest first, so that the sessions end at about the same time.
func (d *dump) parts(tables []*table, name func(*table) string) []part {
	var all []part
	for _, t := range tables {
		if f, ok := d.cfg.Filters[name(t)]; ok {
			if f.Columns != nil {
				t.columns = f.Columns
			}
			if f.Query != "" {
				all = append(all, part{t: t, query: f.Query})
			}
			continue
		}
		d.total += t.bytes
		n := min(t.bytes/d.cfg.partBytes, t.pages)
		if n < 2 || len(t.columns) == 0 {
			all = append(all, part{t: t, bytes: t.bytes})
			continue
		}
		for i := range n {
			where := fmt.Sprintf("ctid >= '(%d,0)'::tid", t.pages*i/n)
			if i < n-1 {
				where += fmt.Sprintf(" AND ctid < '(%d,0)'::tid", t.pages*(i+1)/n)
			}
			all = append(all, part{t: t, bytes: t.bytes / n,
				query: "SELECT " + identifiers(t.columns) + " FROM ONLY " + qualified(t.schema, t.name) + " WHERE " + where})
		}
	}
	slices.SortStableFunc(all, func(a, b part) int { return cmp.Compare(b.bytes, a.bytes) })
	return all
}

// data reads the rows of all tables with several sessions.
func (d *dump) data(ctx context.Context, snapshot string, tables []*table) error {
	scope := &catalogue{schema: d.cfg.Schema}
	for _, t := range tables {
		d.report.Rows[scope.fullName(t)] = 0
	}
	d.report.Tables = len(tables)
	parts := d.parts(tables, scope.fullName)
	work := make(chan part)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		for _, p := range parts {
			select {
			case work <- p:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range min(d.cfg.Workers, len(parts)) {
		g.Go(func() error {
			r, err := openReader(ctx, d.cfg.DSN, d.cfg.AppName, snapshot, lockPatience)
			if err != nil {
				return err
			}
			defer r.close()
			w := &chunkWriter{d: d}
			for p := range work {
				w.t = p.t
				if err := r.lock(ctx, true, p.t); err != nil {
					return err
				}
				rows, err := w.copy(ctx, r, p.query)
				if err != nil {
					return fmt.Errorf("reading table %q: %w", p.t.schema+"."+p.t.name, err)
				}
				d.mu.Lock()
				d.report.Rows[scope.fullName(p.t)] += rows
				d.mu.Unlock()
			}
			return nil
		})
	}
	return g.Wait()
}

// chunkWriter turns what COPY sends into data files.
type chunkWriter struct {
	d   *dump
	t   *table
	buf []byte
}

// copy reads the rows of a query, or of the whole table.
func (w *chunkWriter) copy(ctx context.Context, r *reader, query string) (int64, error) {
	source := qualified(w.t.schema, w.t.name)
	if len(w.t.columns) > 0 {
		source += " (" + identifiers(w.t.columns) + ")"
	}
	head := "COPY " + source + " FROM stdin;\n"
	if query != "" {
		source = "(" + query + ")"
	}
	w.buf = append(w.buf[:0], head...)
	tag, err := r.PgConn().CopyTo(ctx, chunks{w, len(head)}, "COPY "+source+" TO STDOUT")
	if err != nil {
		return 0, lockError(err)
	}
	if len(w.buf) > len(head) {
		if err := w.flush(len(head)); err != nil {
			return 0, err
		}
	}
	return tag.RowsAffected(), nil
}

func lockError(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "55P03" { // lock_not_available
		return problem.Wrap(problem.Busy, err, "a table of the database is about to be changed by somebody else").
			WithHint("n8n may be upgrading: try again when it has started")
	}
	return err
}

// chunks is the io.Writer of a COPY whose files begin with head bytes of statement.
type chunks struct {
	*chunkWriter
	head int
}

// Write gets one row or a part of one. In COPY's text format a line feed ends a row, everywhere else it is escaped.
func (c chunks) Write(p []byte) (int, error) {
	border := len(c.buf) > c.head && c.buf[len(c.buf)-1] == '\n'
	if border && len(c.buf)+len(p) > c.d.cfg.chunkBytes {
		if err := c.flush(c.head); err != nil {
			return 0, err
		}
	}
	if need := len(c.buf) + len(p) + len(copyEnd); need > cap(c.buf) {
		// Not append's growth: a row of many megabytes gets what it needs and no more.
		c.buf = append(make([]byte, 0, max(need, c.d.cfg.chunkBytes+len(copyEnd))), c.buf...)
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}

const copyEnd = "\\.\n"

// flush emits what is there and keeps the statement for the next file.
func (w *chunkWriter) flush(head int) error {
	rows := int64(len(w.buf) - head)
	w.buf = append(w.buf, copyEnd...)
	d := w.d
	d.mu.Lock()
	w.t.chunks++
	name := fmt.Sprintf("%s%04d.%06d.sql", d.folder, w.t.number, w.t.chunks)
	d.files = append(d.files, name)
	d.report.Bytes += int64(len(w.buf))
	d.done += rows
	err := d.cfg.Emit(name, w.buf)
	if d.cfg.Progress != nil {
		d.cfg.Progress(d.done, max(d.done, d.total))
	}
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("writing %q: %w", name, err)
	}
	w.buf = w.buf[:head]
	if cap(w.buf) > 2*d.cfg.chunkBytes {
		w.buf = slices.Clip(slices.Clone(w.buf)) // a long row does not stay in memory
	}
	return nil
}
