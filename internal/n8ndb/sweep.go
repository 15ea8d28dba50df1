package n8ndb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// pieceBytes is how much of a blob is in memory at once.
const pieceBytes = 8 << 20

// sweeper looks through column values for ciphertext outside the catalogue and for
// the instance key. It may be used by several goroutines at once.
type sweeper struct {
	cfg   *CensusConfig
	found *findings
}

func newSweeper(cfg *CensusConfig) *sweeper { return &sweeper{cfg: cfg, found: newFindings()} }

func (s *sweeper) active() bool { return s.cfg.Sweep || s.cfg.Needle != nil }

// value looks at one column value. Known are the ciphertexts in it that the
// catalogue accounts for; all says that it accounts for everything.
func (s *sweeper) value(table, column, row string, b []byte, known []string, all bool) error {
	if len(b) == 0 {
		return nil
	}
	if s.cfg.Needle != nil && s.cfg.Needle.Find(b) {
		s.found.hit(table, column, row)
	}
	if !s.cfg.Sweep || all || len(b) < minCBC {
		return nil
	}
	var failed error
	findCiphertext(b, func(c candidate) {
		if failed != nil || slices.Contains(known, string(c.text)) {
			return
		}
		opens, err := s.opens(c)
		if err != nil {
			failed = err
		} else if opens || c.telling() {
			s.found.report(table, column, row, opens)
		}
	})
	return failed
}

func (s *sweeper) progress(table string, n int64) {
	if s.cfg.Progress != nil {
		s.found.Lock()
		defer s.found.Unlock()
		s.cfg.Progress(table, n)
	}
}

// holdsCiphertext reports whether anything in b looks like n8n's ciphertext.
func holdsCiphertext(b []byte) (found bool) {
	findCiphertext(b, func(candidate) { found = true })
	return found
}

// opens tries a candidate under all keys. Its shape is not known: n8n encrypts
// nothing but text.
func (s *sweeper) opens(c candidate) (bool, error) {
	texts := []string{string(c.text)}
	if c.prefixed {
		texts = append(texts, string(c.text[c.idLen+1:]))
	}
	for _, text := range texts {
		o, err := s.cfg.Keys.open(s.cfg.Receipt, sealed{as: aValue, stored: text, shape: n8ncrypt.ShapeText})
		clear(o.plaintext)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, errNoReceipt):
			return false, err
		}
	}
	return false, nil
}

// clip keeps a row id of a foreign table within bounds.
func clip(row string) string {
	const most = 200
	if len(row) <= most {
		return row
	}
	for i := most; ; i-- {
		if utf8.RuneStart(row[i]) {
			return row[:i] + "..."
		}
	}
}

// catalogued are the places in columns of a table that are not flatted.
func catalogued(table string) []Place {
	return slices.DeleteFunc(Catalogue(), func(p Place) bool {
		return p.Table != table || p.Container == Flatted || p.Container == Bundle
	})
}

// table reads all text of a table, or of a piece of it, once.
func (s *sweeper) table(ctx context.Context, v *view, t *Table, piece string) error {
	places := catalogued(t.Name)
	var columns []*Column
	var exprs []string
	for i := range t.Columns {
		switch c := &t.Columns[i]; c.Kind {
		case Text:
			if s.cfg.Needle == nil && slices.ContainsFunc(places, func(p Place) bool { return p.wholly(c.Name) }) {
				continue
			}
			columns, exprs = append(columns, c), append(exprs, v.text(c))
		case Blob:
			name := "t." + quote(c.Name)
			columns, exprs = append(columns, c), append(exprs, fmt.Sprintf("CASE WHEN octet_length(%s) <= %d THEN %s END", name, pieceBytes, name))
		}
	}
	if len(columns) == 0 {
		return nil
	}
	var n int64
	err := v.each(ctx, query{table: t, exprs: exprs, where: piece, anyOrder: true}, func(row string, cols []any) error {
		if n++; n%1000 == 0 {
			s.progress(t.Name, n)
		}
		for i, c := range columns {
			b := bytesOf(cols[i])
			if len(b) == 0 {
				continue
			}
			var known []string
			all := false
			if len(places) > 0 {
				known, all = accounted(places, columns, cols, textOf, i)
			}
			if err := s.value(t.Name, c.Name, row, b, known, all); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.progress(t.Name, n)
	for _, c := range columns {
		if c.Kind == Blob && s.cfg.Needle != nil {
			if err := s.largeBlobs(ctx, v, t, c, piece); err != nil {
				return err
			}
		}
	}
	return nil
}

// accounted are the ciphertexts of the ith column value that belong to places; all
// is set when the whole column does.
func accounted[V any](places []Place, columns []*Column, cols []V, text func(V) string, i int) (known []string, all bool) {
	var key, algorithm string
	for j, other := range columns {
		switch other.Name {
		case "key", "type":
			key = text(cols[j])
		case "algorithm":
			algorithm = text(cols[j])
		}
	}
	for _, p := range places {
		if p.Column != columns[i].Name || !p.selects(key, algorithm) {
			continue
		}
		if p.Container != JSON {
			return nil, true
		}
		for _, r := range p.values(placeRow{value: text(cols[i])}) {
			known = append(known, r.value)
		}
	}
	return known, false
}

// wholly reports whether the place accounts for all there is in a column, in every row.
func (p *Place) wholly(column string) bool {
	return p.Column == column && p.Key == "" && p.Algorithm == "" && p.Container != JSON
}

// keep copies the columns of a row for later.
func keep(cols []any) []any {
	kept := slices.Clone(cols)
	for i, c := range kept {
		if b, ok := c.([]byte); ok {
			kept[i] = string(b)
		}
	}
	return kept
}

// largeBlobs searches blobs above pieceBytes for the needle, piece by piece. Their
// keys are gathered first, since a connection runs one query at a time.
func (s *sweeper) largeBlobs(ctx context.Context, v *view, t *Table, c *Column, part string) error {
	ids, order := v.key(t)
	if len(ids) == 0 {
		return nil // n8n has no such table; without a key a row cannot be found again
	}
	name, equal, piece := "t."+quote(c.Name), "TRUE", "substr(t."+quote(c.Name)+", ?1, ?2)"
	if v.db.engine == Postgres {
		piece = "substr(" + name + ", $1::int, $2::int)"
	}
	for i := range ids {
		column := order[i]
		if len(t.PrimaryKey) > 0 {
			column = "t." + quote(t.PrimaryKey[i])
		}
		equal += " AND " + column + " = " + v.db.arg(i+3)
	}
	var large [][]any
	stmt := "SELECT " + strings.Join(ids, ", ") + ", octet_length(" + name + ") FROM " + v.db.from(t) + " AS t" +
		fmt.Sprintf(" WHERE octet_length(%s) > %d AND %s ORDER BY ", name, pieceBytes, cmp.Or(part, "TRUE")) + strings.Join(order, ", ")
	_, err := v.rows(ctx, stmt, nil, len(ids)+1, 0, func(cols []any) error {
		large = append(large, keep(cols))
		return nil
	})
	if err != nil {
		return err
	}
	stmt = "SELECT " + piece + " FROM " + v.db.from(t) + " AS t WHERE " + equal
	for _, blob := range large {
		key := blob[:len(ids)]
		size, _ := strconv.ParseInt(textOf(blob[len(ids)]), 10, 64)
		found := false
		for at := int64(1); at <= size && !found; at += pieceBytes {
			args := append([]any{at, pieceBytes + s.cfg.Needle.longest}, key...)
			_, err := v.rows(ctx, stmt, args, 1, 0, func(cols []any) error {
				found = s.cfg.Needle.Find(bytesOf(cols[0]))
				return nil
			})
			if err != nil {
				return err
			}
		}
		if found {
			s.found.hit(t.Name, c.Name, rowID(key))
		}
	}
	return nil
}
