package n8ndb

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/n8keep/n8keep/internal/pgcopy"
	"github.com/n8keep/n8keep/internal/problem"
)

// ScratchConfig says what was dumped and where to put what a census needs of it.
type ScratchConfig struct {
	Path string // the file to make, mode 0600; it must not exist
	// Tables are those of the database that was dumped, from [DB.Tables].
	Tables      []Table
	Schema      string // of n8n; "" is public
	TablePrefix string // DB_TABLE_PREFIX
}

// Scratch makes an SQLite database of the rows of a PostgreSQL dump as they pass
// by, in which Version, Keyset, Bundles and a Census without Sweep and Needle find what they found on PostgreSQL: the same values in the same order
// with the same row ids and digests.
//
// Loaded are the columns of the catalogue with their keys, executions that are not
// finished, and of execution_data the ciphertexts with what leads to them; its
// size does not grow with the history. Rows of all tables are counted. A Scratch
// is for one goroutine.
type Scratch struct {
	ctx    context.Context // rows come from callbacks that carry none
	path   string
	prefix string
	schema string
	pool   *sql.DB
	conn   *sql.Conn
	tables map[string]*scratchTable // by full name; nil entries are only counted
	order  []Table                  // as loaded
	all    []Table
	counts map[string]int64 // by full name
}

type scratchTable struct {
	table   Table // columns that are loaded
	insert  *sql.Stmt
	columns []string // of the rows that insert was prepared for
	from    []int    // position in a row of each loaded column
	args    []any
	status  int // positions in a row of execution_entity's columns, -1 if it has none
	wait    int
	data    int // of execution_data.data
	text    []byte
}

// NewScratch makes the file. Everything up to Finish ends with ctx. After an error
// nothing is left.
func NewScratch(ctx context.Context, cfg ScratchConfig) (s *Scratch, err error) {
	s = &Scratch{ctx: ctx, path: cfg.Path, prefix: cfg.TablePrefix, schema: cmp.Or(cfg.Schema, "public"), tables: map[string]*scratchTable{}, counts: map[string]int64{}, all: cfg.Tables}
	for _, t := range cfg.Tables {
		full := cfg.TablePrefix + t.Name
		if _, twice := s.tables[full]; twice {
			return nil, problem.New(problem.Damaged, "the description of the database has the table %q twice", t.Name)
		}
		s.tables[full], s.counts[full] = nil, 0
		if need, ok := scratchColumns(&t); ok {
			s.tables[full] = &scratchTable{table: need}
			s.order = append(s.order, need)
		}
	}
	slices.SortFunc(s.order, func(a, b Table) int { return strings.Compare(a.Name, b.Name) })
	for _, name := range []string{"migrations", "credentials_entity"} {
		if s.tables[cfg.TablePrefix+name] == nil {
			return nil, problem.New(problem.Damaged, "the description of the database has no table %q", cfg.TablePrefix+name)
		}
	}
	if err := snapCreate(cfg.Path); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	// Nothing of it outlives this run, so it needs neither journal nor syncs.
	if s.pool, err = snapPool(snapURI(cfg.Path, "mode=rw") + "&_pragma=journal_mode(off)&_pragma=synchronous(off)&_pragma=temp_store(2)&_pragma=cache_size(-8000)"); err != nil {
		return nil, err
	}
	if s.conn, err = s.pool.Conn(ctx); err != nil {
		return nil, err
	}
	for i := range s.order {
		if err := s.exec(ctx, scratchSchema(&s.order[i], cfg.TablePrefix)); err != nil {
			return nil, err
		}
	}
	return s, s.exec(ctx, "BEGIN")
}

func (s *Scratch) exec(ctx context.Context, stmt string) error {
	_, err := s.conn.ExecContext(ctx, stmt)
	if err != nil {
		return snapProblem(ctx, err, "making the database %q", s.path)
	}
	return nil
}

// scratchColumns is the part of a table that is loaded.
func scratchColumns(t *Table) (Table, bool) {
	need := map[string][]string{
		"migrations":               {"id", "timestamp", "name"},
		"instance_version_history": {"id", "major", "minor", "patch"},
		"execution_entity":         {"id", "status", "stoppedAt", "waitTill", "storedAt"},
		"settings":                 {"key"},
		"deployment_key":           {"type", "algorithm"},
	}[t.Name]
	for _, p := range Catalogue() {
		if p.Table == t.Name {
			need = append(need, p.Column)
		}
	}
	if len(need) == 0 {
		return Table{}, false
	}
	part := Table{Name: t.Name, PrimaryKey: t.PrimaryKey}
	for _, c := range t.Columns {
		if slices.Contains(need, c.Name) || slices.Contains(t.PrimaryKey, c.Name) {
			part.Columns = append(part.Columns, c)
		}
	}
	return part, true
}

// scratchSchema: a column is INTEGER where PostgreSQL has integers, else TEXT, whose
// order by bytes is PostgreSQL's COLLATE "C", and that of a uuid. A key is an index,
// so that nothing is sorted.
func scratchSchema(t *Table, prefix string) string {
	var columns []string
	for _, c := range t.Columns {
		declared := "TEXT"
		switch {
		case scratchInteger(&c):
			declared = "INTEGER"
		case c.Kind == Blob:
			declared = "BLOB"
		}
		columns = append(columns, quote(c.Name)+" "+declared)
	}
	if len(t.PrimaryKey) > 0 {
		columns = append(columns, "PRIMARY KEY ("+joined(t.PrimaryKey, quote)+")")
	}
	return "CREATE TABLE " + quote(prefix+t.Name) + " (" + strings.Join(columns, ", ") + ")"
}

func scratchInteger(c *Column) bool {
	return c.Type == "integer" || c.Type == "bigint" || c.Type == "smallint"
}

// Wants reports whether the rows of a table are loaded; those of others need only
// be counted. The schema is as the dump names it.
func (s *Scratch) Wants(schema, table string) bool {
	return schema == s.schema && s.tables[table] != nil
}

// Count adds rows of a table of n8n's schema that were not given to Row.
func (s *Scratch) Count(table string, rows int64) {
	if _, ok := s.counts[table]; ok {
		s.counts[table] += rows
	}
}

// Row takes one row of a table of n8n's schema: its full name, the names of its
// columns, and their values in COPY's text form with the escapes undone, nil for
// NULL. Nothing is kept of fields. A row that does not fit is a problem of kind
// Damaged.
func (s *Scratch) Row(table string, columns []string, fields [][]byte) error {
	s.Count(table, 1)
	t := s.tables[table]
	if t == nil {
		return nil
	}
	if len(columns) != len(fields) {
		return problem.New(problem.Damaged, "a row of %q has %d values for %d columns", table, len(fields), len(columns))
	}
	if t.insert == nil || !slices.Equal(t.columns, columns) {
		if err := s.prepare(t, columns); err != nil {
			return err
		}
	}
	if t.status >= 0 && t.wait >= 0 && finished(fields[t.status]) && fields[t.wait] == nil {
		return nil // the most of them; the others are the statement's to judge
	}
	for i, at := range t.from {
		if at == t.data {
			reduced := reduceFlatted(t.text[:0], fields[at])
			if reduced == nil {
				return nil
			}
			t.text, t.args[i] = reduced, string(reduced)
			continue
		}
		value, err := scratchValue(&t.table.Columns[i], fields[at])
		if err != nil {
			return problem.New(problem.Damaged, "a row of %q has no %s in %q", table, t.table.Columns[i].Type, t.table.Columns[i].Name)
		}
		t.args[i] = value
	}
	if _, err := t.insert.ExecContext(s.ctx, t.args...); err != nil {
		if code := snapCode(err); code == sqliteConstraint {
			return problem.New(problem.Damaged, "the table %q has a row twice", table)
		}
		return snapProblem(s.ctx, err, "filling the database %q", s.path)
	}
	return nil
}

const sqliteConstraint = 19

// finished are the states in which n8n is done with an execution.
func finished(status []byte) bool {
	switch string(status) {
	case "success", "error", "canceled", "crashed":
		return true
	}
	return false
}

func (s *Scratch) prepare(t *scratchTable, columns []string) error {
	if t.insert != nil {
		t.insert.Close()
	}
	t.columns, t.from = slices.Clone(columns), nil
	t.status, t.wait, t.data = -1, -1, -1
	for _, c := range t.table.Columns {
		at := slices.Index(columns, c.Name)
		if at < 0 {
			return problem.New(problem.Damaged, "the rows of %q have no column %q", s.prefix+t.table.Name, c.Name)
		}
		t.from = append(t.from, at)
	}
	t.args = make([]any, len(t.from))
	into, names := quote(s.prefix+t.table.Name), make([]string, len(t.table.Columns))
	holders, named := make([]string, len(names)), make([]string, len(names))
	for i, c := range t.table.Columns {
		names[i], holders[i] = quote(c.Name), "?"
		named[i] = "? AS " + quote(c.Name)
	}
	stmt := "INSERT INTO " + into + " (" + strings.Join(names, ", ") + ") VALUES (" + strings.Join(holders, ", ") + ")"
	switch t.table.Name {
	case "execution_entity":
		has := func(c string) bool { return t.table.Column(c) != nil }
		if has("status") && has("waitTill") {
			t.status, t.wait = slices.Index(columns, "status"), slices.Index(columns, "waitTill")
		}
		stmt = "INSERT INTO " + into + " (" + strings.Join(names, ", ") + ") SELECT * FROM (SELECT " + strings.Join(named, ", ") + ") AS e WHERE " +
			strings.Join(unfinishedExecution(has), " OR ")
	case "execution_data":
		t.data = slices.Index(columns, "data")
	}
	var err error
	if t.insert, err = s.conn.PrepareContext(s.ctx, stmt); err != nil {
		return snapProblem(s.ctx, err, "filling the database %q", s.path)
	}
	return nil
}

// scratchValue is what PostgreSQL gives for the column when it is read as text.
func scratchValue(c *Column, field []byte) (any, error) {
	switch {
	case field == nil:
		return nil, nil
	case scratchInteger(c):
		return strconv.ParseInt(string(field), 10, 64)
	case c.Kind == Blob:
		text, ok := strings.CutPrefix(string(field), `\x`)
		if !ok {
			return nil, errors.New("not in hex")
		}
		return hex.DecodeString(text)
	case strings.HasPrefix(c.Type, "character("):
		return strings.TrimRight(string(field), " "), nil
	}
	return string(field), nil
}

// Finish ends the loading and opens the database for reading, with the description
// of the tables that were loaded; RowCounts returns the counts of all tables. The
// Scratch is of no more use, except for Close, which may come after the DB's.
func (s *Scratch) Finish(ctx context.Context) (*DB, error) {
	if err := s.exec(ctx, "COMMIT"); err != nil {
		return nil, err
	}
	if err := s.shut(); err != nil {
		return nil, err
	}
	pool, err := openSQLitePool(ctx, s.path, "&immutable=1")
	if err != nil {
		return nil, explainSQLite(s.path, err)
	}
	db := &DB{engine: SQLite, pool: pool, prefix: s.prefix, tables: s.order, counts: make([]RowCount, 0, len(s.all))}
	for _, t := range s.all {
		db.counts = append(db.counts, RowCount{Table: t.Name, Rows: s.counts[s.prefix+t.Name]})
	}
	slices.SortFunc(db.counts, func(a, b RowCount) int { return strings.Compare(a.Table, b.Table) })
	return db, nil
}

func (s *Scratch) shut() error {
	var err error
	for _, t := range s.tables {
		if t != nil && t.insert != nil {
			err = errors.Join(err, t.insert.Close())
			t.insert = nil
		}
	}
	if s.conn != nil {
		err = errors.Join(err, s.conn.Close())
		s.conn = nil
	}
	if s.pool != nil {
		err = errors.Join(err, s.pool.Close())
		s.pool = nil
	}
	return err
}

// Close ends everything and removes the file.
func (s *Scratch) Close() error {
	err := s.shut()
	if e := os.Remove(s.path); e != nil && !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("removing the database %q: %w", s.path, snapCause(e)))
	}
	return err
}

// Handler takes the blocks of a dump script, of all schemas, for pgcopy.ReadScript.
func (s *Scratch) Handler() pgcopy.Handler { return &scratchHandler{s: s} }

type scratchHandler struct {
	s     *Scratch
	table pgcopy.Table
	wants bool
	ours  bool
}

func (h *scratchHandler) Begin(t pgcopy.Table) (skip bool, err error) {
	h.table, h.ours, h.wants = t, t.Schema == h.s.schema, h.s.Wants(t.Schema, t.Name)
	return !h.wants, h.s.ctx.Err()
}

func (h *scratchHandler) Row(fields [][]byte) error {
	return h.s.Row(h.table.Name, h.table.Columns, fields)
}

func (h *scratchHandler) End(rows int64) error {
	if h.ours && !h.wants {
		h.s.Count(h.table.Name, rows)
	}
	return h.s.ctx.Err()
}
