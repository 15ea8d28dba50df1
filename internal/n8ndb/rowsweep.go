package n8ndb

import (
	"bytes"
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"sync"

	"github.com/n8keep/n8keep/internal/pgcopy"
	"github.com/n8keep/n8keep/internal/problem"
)

// RowSweeper is the sweep of a census for whoever sees all rows anyway, such as an
// engine that dumps them: what it finds in the rows given to it is what a Census
// with SkipPlaces, Sweep and Needle finds in a PostgreSQL database of these rows.
// It may be used by several goroutines at once, and rows may come in any order.
type RowSweeper struct {
	sweeper    *sweeper
	tables     map[string]*Table // by full name
	schema     string
	unfinished map[string]bool // executions whose data is looked at; nil: of all
	mu         sync.RWMutex
	plans      map[string]*rowPlan
}

// rowPlan is what to do with the rows of a table.
type rowPlan struct {
	names   []string // of the columns of the rows it was made for
	skip    bool
	key     []int // positions of the primary key
	padded  []bool
	columns []*Column // to look at
	from    []int
	places  []Place
	data    int // positions of data and executionId in execution_data, -1 elsewhere
	owner   int
}

// NewRowSweeper takes Keys, Receipt, Sweep, Needle and Executions of the config. For
// Executions Unfinished it asks the database which those are.
func (db *DB) NewRowSweeper(ctx context.Context, cfg CensusConfig) (*RowSweeper, error) {
	switch {
	case cfg.Keys == nil:
		return nil, problem.New(problem.Unexpected, "a census needs a key set")
	case !cfg.Receipt.Valid():
		return nil, &problem.Error{Kind: problem.Unexpected, Err: errNoReceipt}
	}
	r := &RowSweeper{sweeper: newSweeper(&cfg), tables: map[string]*Table{}, schema: db.schema, plans: map[string]*rowPlan{}}
	for i := range db.tables {
		t := &db.tables[i]
		if t.Name != "execution_data" || cfg.Executions != NoExecutions {
			r.tables[db.prefix+t.Name] = t
		}
	}
	if cfg.Executions != Unfinished {
		return r, nil
	}
	r.unfinished = map[string]bool{}
	return r, db.view(ctx, func(v *view) error {
		t := db.table("execution_entity")
		if t.Column("id") == nil {
			r.unfinished = nil
			return nil
		}
		_, err := v.rows(ctx, `SELECT e."id" FROM `+db.from(t)+` AS e WHERE `+v.unfinished(), nil, 1, 0, func(cols []any) error {
			r.unfinished[textOf(cols[0])] = true
			return nil
		})
		return err
	})
}

// Wants reports whether there is anything to look at in rows of the table.
func (r *RowSweeper) Wants(schema, table string) bool {
	return schema == r.schema && r.tables[table] != nil && r.sweeper.active()
}

// Row looks at one row of a table of n8n's schema: its full name, the names of its
// columns, and their values in COPY's text form with the escapes undone, nil for
// NULL. Nothing is kept of them.
func (r *RowSweeper) Row(table string, columns []string, fields [][]byte) error {
	t := r.tables[table]
	if t == nil || !r.sweeper.active() {
		return nil
	}
	p, err := r.plan(table, t, columns)
	if err != nil || p.skip {
		return err
	}
	if len(fields) != len(columns) {
		return problem.New(problem.Damaged, "a row of %q has %d values for %d columns", table, len(fields), len(columns))
	}
	if p.data >= 0 && r.unfinished != nil && !r.unfinished[string(fields[p.owner])] {
		return nil
	}
	row := "" // made when there is something to say of it
	for i, c := range p.columns {
		b := fields[p.from[i]]
		if len(b) == 0 {
			continue
		}
		if c.Kind == Blob {
			if b, err = rowBytes(b); err != nil {
				return problem.New(problem.Damaged, "a row of %q has no bytes in %q", table, c.Name)
			}
		}
		if !r.sweeper.suspects(b, len(b) > pieceBytes && c.Kind == Blob) {
			continue
		}
		if row == "" {
			row = p.row(fields)
		}
		if err := r.value(p, t, i, row, fields, b); err != nil {
			return err
		}
	}
	return nil
}

// value is for the few values that need a closer look.
func (r *RowSweeper) value(p *rowPlan, t *Table, i int, row string, fields [][]byte, b []byte) error {
	c := p.columns[i]
	if c.Kind == Blob && len(b) > pieceBytes { // n8n has no ciphertext in files, and a census searches them in pieces
		r.sweeper.found.hit(t.Name, c.Name, row)
		return nil
	}
	var known []string
	all := false
	switch {
	case p.data == p.from[i]:
		known = r.sweeper.knownFlatted(b)
	case len(p.places) > 0:
		values := make([][]byte, len(p.columns))
		for j, at := range p.from {
			values[j] = fields[at]
		}
		known, all = accounted(p.places, p.columns, values, func(b []byte) string { return string(b) }, i)
	}
	return r.sweeper.value(t.Name, c.Name, row, b, known, all)
}

// suspects reports whether there may be something to find in b.
func (s *sweeper) suspects(b []byte, keyOnly bool) bool {
	if s.cfg.Needle != nil && s.cfg.Needle.Find(b) {
		return true
	}
	return !keyOnly && s.cfg.Sweep && len(b) >= minCBC && holdsCiphertext(b)
}

func (r *RowSweeper) plan(table string, t *Table, columns []string) (*rowPlan, error) {
	r.mu.RLock()
	p := r.plans[table]
	r.mu.RUnlock()
	if p != nil && slices.Equal(p.names, columns) {
		return p, nil
	}
	p = &rowPlan{names: slices.Clone(columns), data: -1, owner: -1}
	for i := range t.Columns {
		c := &t.Columns[i]
		at := slices.Index(columns, c.Name)
		if c.Kind == Other || at < 0 {
			continue // a column that is not dumped is generated from others
		}
		if t.Name == "execution_data" && (c.Kind != Text || slices.Contains(t.PrimaryKey, c.Name)) {
			continue
		}
		p.columns, p.from = append(p.columns, c), append(p.from, at)
		if t.Name == "execution_data" && c.Name == "data" {
			p.data = at
		}
	}
	for _, name := range t.PrimaryKey {
		at := slices.Index(columns, name)
		if at < 0 {
			return nil, problem.New(problem.Damaged, "the rows of %q have no column %q", table, name)
		}
		p.key = append(p.key, at)
		p.padded = append(p.padded, strings.HasPrefix(t.Column(name).Type, "character("))
	}
	p.places = catalogued(t.Name)
	p.skip = len(p.columns) == 0
	if t.Name == "execution_data" {
		p.owner = slices.Index(columns, "executionId")
		p.skip = p.data < 0 || p.owner < 0
	}
	r.mu.Lock()
	r.plans[table] = p
	r.mu.Unlock()
	return p, nil
}

func (p *rowPlan) row(fields [][]byte) string {
	parts := make([]string, len(p.key))
	for i, at := range p.key {
		parts[i] = string(fields[at])
		if p.padded[i] {
			parts[i] = strings.TrimRight(parts[i], " ")
		}
	}
	return strings.Join(parts, "/")
}

// rowBytes is a bytea value as COPY writes it.
func rowBytes(text []byte) ([]byte, error) {
	digits, ok := bytes.CutPrefix(text, []byte(`\x`))
	if !ok {
		return nil, hex.ErrLength
	}
	b := make([]byte, hex.DecodedLen(len(digits)))
	_, err := hex.Decode(b, digits)
	return b, err
}

// Census returns what was found so far: Unlisted, NeedleHits and NeedleTotal.
func (r *RowSweeper) Census() *Census {
	c := &Census{ByKey: map[string]int64{}}
	r.sweeper.found.fill(c)
	return c
}

// Handler takes the blocks of a dump script, of all schemas, for pgcopy.ReadScript.
func (r *RowSweeper) Handler() pgcopy.Handler { return &rowHandler{r: r} }

type rowHandler struct {
	r     *RowSweeper
	table pgcopy.Table
}

func (h *rowHandler) Begin(t pgcopy.Table) (skip bool, err error) {
	h.table = t
	return !h.r.Wants(t.Schema, t.Name), nil
}

func (h *rowHandler) Row(fields [][]byte) error {
	return h.r.Row(h.table.Name, h.table.Columns, fields)
}

func (h *rowHandler) End(int64) error { return nil }
