package n8ndb

import (
	"cmp"
	"slices"
	"sync"
)

// findings gathers what a sweep meets, in whatever order and from however many
// goroutines: it comes out the same, by table, row and column.
type findings struct {
	sync.Mutex
	unlisted map[[2]string]*Unlisted
	hits     []NeedleHit // the first ones in order
	total    int64
}

func newFindings() *findings { return &findings{unlisted: map[[2]string]*Unlisted{}} }

// hit notes a value with the instance key in it.
func (f *findings) hit(table, column, row string) {
	h := NeedleHit{table, column, clip(row)}
	f.Lock()
	defer f.Unlock()
	f.total++
	at, _ := slices.BinarySearchFunc(f.hits, h, func(a, b NeedleHit) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), compareRows(a.Row, b.Row), cmp.Compare(a.Column, b.Column))
	})
	if at < listed {
		f.hits = slices.Insert(f.hits, at, h)
		f.hits = f.hits[:min(len(f.hits), listed)]
	}
}

// report notes a ciphertext outside the catalogue.
func (f *findings) report(table, column, row string, opens bool) {
	row = clip(row)
	f.Lock()
	defer f.Unlock()
	u := f.unlisted[[2]string{table, column}]
	if u == nil {
		u = &Unlisted{Table: table, Column: column, Row: row}
		f.unlisted[[2]string{table, column}] = u
	}
	u.Values++
	if opens && u.Opened == 0 || opens == (u.Opened > 0) && compareRows(row, u.Row) < 0 {
		u.Row = row
	}
	if opens {
		u.Opened++
	}
}

// fill moves everything into the census.
func (f *findings) fill(c *Census) {
	f.Lock()
	defer f.Unlock()
	c.NeedleHits, c.NeedleTotal = f.hits, f.total
	for _, u := range f.unlisted {
		c.Unlisted = append(c.Unlisted, *u)
	}
	slices.SortFunc(c.Unlisted, func(a, b Unlisted) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Column, b.Column))
	})
}

// compareRows orders row ids: numbers first, by value, then others by their bytes.
func compareRows(a, b string) int {
	x, y := numeric(a), numeric(b)
	switch {
	case x && y:
		if negative := a[0] == '-'; negative != (b[0] == '-') {
			if negative {
				return -1
			}
			return 1
		} else if negative {
			return -compareRows(a[1:], b[1:])
		}
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	case x:
		return -1
	case y:
		return 1
	}
	return cmp.Compare(a, b)
}

// numeric reports whether s is a decimal number as databases print integers.
func numeric(s string) bool {
	if len(s) > 1 && s[0] == '-' && s[1] != '0' {
		s = s[1:]
	}
	if s == "" || len(s) > 1 && s[0] == '0' {
		return false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
