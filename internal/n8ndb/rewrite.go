package n8ndb

import (
	"context"
	"crypto/sha256"

	"github.com/n8keep/n8keep/internal/problem"
)

// columnsOf groups the places of a catalogue that lie in one column of the same rows,
// so that a row is read and written once. Such places stand together.
func columnsOf(catalogue []Place) (groups [][]Place) {
	for i, p := range catalogue {
		if p.Container == Bundle {
			continue
		}
		if i > 0 {
			if o := catalogue[i-1]; o.Table == p.Table && o.Column == p.Column && o.Key == p.Key && o.Algorithm == p.Algorithm {
				groups[len(groups)-1] = append(groups[len(groups)-1], p)
				continue
			}
		}
		groups = append(groups, []Place{p})
	}
	return groups
}

// rewriter is one Rewrite.
type rewriter struct {
	w    *Writer
	cfg  *RewriteConfig
	out  Rewritten
	rows int64 // of the column
}

func (r *rewriter) column(ctx context.Context, places []Place) error {
	v := r.w.writing
	r.rows = 0
	q, ok := v.placeQuery(&places[0])
	if places[0].Container == Flatted {
		q, ok = v.executionsQuery(r.cfg.Executions)
	}
	if !ok {
		return nil
	}
	t := q.table
	c := t.Column(places[0].Column)
	if r.w.engine == Postgres && len(t.PrimaryKey) == 0 {
		return problem.New(problem.Damaged, "the table %q has no primary key", r.w.prefix+t.Name).
			WithHint("n8n's tables have one; restore the structure of the database before anything else")
	}
	s := newSealing(func(page []pageRow) ([]columnUpdate, error) { return r.page(t, c, places, page) })
	defer s.end()
	write := func(updates []columnUpdate, err error) error {
		if err != nil {
			return err
		}
		return r.write(ctx, t, c, updates)
	}
	err := r.w.tx.pages(ctx, q, func(page []pageRow) error {
		return write(s.swap(page))
	})
	if err != nil {
		return err
	}
	return write(s.swap(nil))
}

// page makes the updates of a page.
func (r *rewriter) page(t *Table, c *Column, places []Place, page []pageRow) (updates []columnUpdate, err error) {
	for _, row := range page {
		update, change, err := r.row(t, c, places, row)
		if err != nil {
			return nil, err
		}
		if change {
			updates = append(updates, update)
		}
	}
	if r.rows += int64(len(page)); r.cfg.Progress != nil {
		r.cfg.Progress(t.Name, r.rows)
	}
	return updates, nil
}

// sealing makes the updates of one page while the database reads the next one and
// writes the one before.
type sealing struct {
	in      chan []pageRow
	out     chan sealedPage
	running bool // a page is being worked on
}

type sealedPage struct {
	updates []columnUpdate
	err     error
}

func newSealing(work func([]pageRow) ([]columnUpdate, error)) *sealing {
	s := &sealing{in: make(chan []pageRow), out: make(chan sealedPage)}
	go func() {
		defer close(s.out)
		for page := range s.in {
			updates, err := work(page)
			s.out <- sealedPage{updates, err}
		}
	}()
	return s
}

// swap gives a page to work on, nil for none, and returns the updates of the one
// before.
func (s *sealing) swap(page []pageRow) (updates []columnUpdate, err error) {
	if s.running {
		s.running = false
		before := <-s.out
		if before.err != nil {
			return nil, before.err
		}
		updates = before.updates
	}
	if len(page) > 0 {
		s.in <- page
		s.running = true
	}
	return updates, nil
}

// end waits until nobody works any more.
func (s *sealing) end() {
	if s.running {
		<-s.out
	}
	close(s.in)
	<-s.out
}

// row makes the new text of a column and records it.
func (r *rewriter) row(t *Table, c *Column, places []Place, row pageRow) (update columnUpdate, change bool, err error) {
	at := places[0].row(rowID(row.key), row.cols)
	after, _, err := r.cfg.edit(&r.out, places, at)
	if err != nil || after == at.value {
		return update, false, err
	}
	if r.cfg.Record != nil {
		key := make([]string, len(row.key))
		for i := range row.key {
			key[i] = textOf(row.key[i])
		}
		err := r.cfg.Record(Change{Table: t.Name, Column: c.Name, Key: key, Before: at.value, AfterSum: sha256.Sum256(bytesOf(after)), After: after})
		if err != nil {
			return update, false, err
		}
	}
	r.out.Columns++
	_, blob := row.cols[0].([]byte)
	return columnUpdate{key: row.key, value: after, bytes: blob}, true, nil
}

func (r *rewriter) write(ctx context.Context, t *Table, c *Column, updates []columnUpdate) error {
	if len(updates) == 0 {
		return nil
	}
	n, err := r.w.tx.update(ctx, t, c, updates)
	if err == nil && n != int64(len(updates)) {
		err = problem.New(problem.Unexpected, "writing %q: %d of %d rows were found again", r.w.prefix+t.Name, n, len(updates)).
			WithHint("nothing was changed; something in the database keeps rows from being updated")
	}
	return err
}

// edit gives the text of a column its new values, and says how many there are.
func (cfg *RewriteConfig) edit(out *Rewritten, places []Place, row placeRow) (after string, changed int, err error) {
	after, err = EditColumn(places, row.value, func(p *Place, v ColumnValue) (string, bool, error) {
		text, change, err := cfg.reseal(out, p, row.of(v))
		if change {
			changed++
		}
		return text, change, err
	})
	return after, changed, err
}

// reseal opens one value, tells whoever wants to know, and asks what becomes of it.
func (cfg *RewriteConfig) reseal(out *Rewritten, p *Place, row placeRow) (text string, change bool, err error) {
	s := Secret{KeyRef: KeyUnknown, Format: "none", Problem: row.problem}
	var plaintext []byte
	if row.problem == "" {
		if s, plaintext, err = cfg.Keys.judge(cfg.Receipt, p, row); err != nil {
			return "", false, err
		}
	}
	defer func() { clear(plaintext) }()
	if s.Plain && cfg.DigestPlain {
		s.Digest = cfg.Digest(string(p.ID), row.id, []byte(row.value))
	}
	s.Place, s.Row = p.ID, row.id
	if s.Opens && cfg.Digest != nil {
		s.Digest = cfg.Digest(string(p.ID), row.id, plaintext)
	}
	if cfg.Visit != nil {
		if err := cfg.Visit(s); err != nil {
			return "", false, err
		}
	}
	switch {
	case s.Plain:
		plaintext = []byte(row.value)
	case !s.Opens:
		out.Unopened++
	}
	text, change, err = cfg.Seal(*p, s, plaintext)
	if err == nil && change {
		out.Values++
		out.ByPlace[p.ID]++
	}
	return text, change, err
}
