package n8ndb

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
)

// RowFilter says which rows of a table are dumped, and how.
type RowFilter struct {
	// Query is a SELECT of Columns without placeholders, to be run in the snapshot,
	// also inside COPY (...) TO STDOUT. "" keeps no row.
	Query string
	// Columns are those that hold data of their own (no generated ones), in order.
	Columns []string
}

// HistoryFilters returns what a limited History leaves out of a PostgreSQL database,
// by full table name, as [Snapshot] does it on SQLite: a table that is not in the
// map is taken as it is. Executions that n8n has not finished are kept with all
// that belongs to them, unless dropWaiting. References to rows left out become NULL
// where the schema allows it, and else their rows are left out, too, so that every
// foreign key holds when the rows are loaded; tables that are no history get a
// filter for that reason alone. References from tables of other schemas or
// without the prefix are not looked at: they are not dumped.
//
// With a database that was opened with a snapshot the queries fit that snapshot
// only. Neither they nor this function read execution_data beyond the rows kept.
func (db *DB) HistoryFilters(ctx context.Context, h History, dropWaiting bool, now time.Time) (map[string]RowFilter, error) {
	if h.All() {
		return nil, nil
	}
	if db.engine != Postgres {
		return nil, problem.New(problem.Unexpected, "filters are for PostgreSQL; a snapshot leaves history out itself")
	}
	var filters map[string]RowFilter
	err := db.view(ctx, func(v *view) error {
		p := &filterPlan{v: v, history: h, dropWaiting: dropWaiting, now: now, touched: map[string]bool{}, states: map[string]filterState{}}
		if err := p.read(ctx); err != nil {
			return err
		}
		p.touch()
		if err := p.keepExecutions(ctx); err != nil {
			return err
		}
		var err error
		filters, err = p.filters()
		return err
	})
	return filters, err
}

// FilteredCounts counts the rows that the filters keep, for every table as
// RowCounts does.
func (db *DB) FilteredCounts(ctx context.Context, filters map[string]RowFilter) ([]RowCount, error) {
	counts := make([]RowCount, 0, len(db.tables))
	err := db.view(ctx, func(v *view) error {
		for i := range db.tables {
			t := &db.tables[i]
			from := db.from(t)
			if f, ok := filters[db.prefix+t.Name]; ok && f.Query == "" {
				counts = append(counts, RowCount{Table: t.Name})
				continue
			} else if ok {
				from = "(" + f.Query + ") AS kept"
			}
			n, err := v.countFrom(ctx, from)
			if err != nil {
				return err
			}
			counts = append(counts, RowCount{Table: t.Name, Rows: n})
		}
		return nil
	})
	return counts, err
}

// filterPlan turns a History into one query for each table.
type filterPlan struct {
	v           *view
	history     History
	dropWaiting bool
	now         time.Time
	tables      map[string]*filterTable // of the schema, by full name
	executions  []string                // conditions on execution_entity AS e; none: all are left out
	ids         []string                // of the executions kept, if they are few and the snapshot is fixed
	idsKnown    bool
	touched     map[string]bool
	states      map[string]filterState
	aliases     int
	depth       int
}

// filterState is what becomes of a table's rows.
type filterState int

const (
	filterUnknown filterState = iota
	filterOpen                // being found out
	filterAll
	filterSome
	filterNone
)

// inlined is how many ids of executions may stand in the queries.
const inlined = 5000

var plainID = regexp.MustCompile(`^[0-9A-Za-z-]{1,40}$`)

func (p *filterPlan) name(table string) string { return p.v.db.prefix + table }

func (p *filterPlan) from(name string) string { return quote(p.v.db.schema) + "." + quote(name) }

// keepExecutions chooses the executions to keep.
func (p *filterPlan) keepExecutions(ctx context.Context) error {
	t := p.tables[p.name("execution_entity")]
	if t == nil {
		return nil
	}
	if t.column("status") == nil || t.column("id") == nil {
		return fmt.Errorf("table %q has no column %q", t.name, "status")
	}
	unfinished := unfinishedExecution(func(c string) bool { return t.column(c) != nil })
	but := ""
	if p.dropWaiting {
		but = ` AND NOT coalesce(` + strings.Join(unfinished, " OR ") + `, false)`
	} else {
		p.executions = unfinished
	}
	if since, ok := p.history.Since(p.now); ok {
		after := func(column string) string {
			at := " > '" + since.UTC().Format("2006-01-02 15:04:05.000")
			if strings.HasSuffix(t.column(column).declared, "without time zone") {
				return `e.` + quote(column) + at + `'::timestamp`
			}
			return `e.` + quote(column) + at + `+00'::timestamptz`
		}
		p.executions = append(p.executions, after("stoppedAt")+but)
		if t.column("startedAt") != nil {
			// A crashed execution has no end.
			p.executions = append(p.executions, `e."stoppedAt" IS NULL AND `+after("startedAt")+but)
		}
	}
	if len(p.executions) == 0 || p.v.db.snapshot == "" {
		return nil
	}
	query, err := p.rows(t.name, []string{"id"})
	if err != nil || query == "" {
		return err
	}
	known := true
	_, err = p.v.rows(ctx, fmt.Sprintf("SELECT k.id FROM (%s) AS k LIMIT %d", query, inlined+1), nil, 1, 0, func(cols []any) error {
		id := textOf(cols[0])
		known = known && plainID.MatchString(id)
		p.ids = append(p.ids, id)
		return nil
	})
	p.idsKnown = known && len(p.ids) <= inlined
	clear(p.states)
	return err
}

// keptIDs is an array of the executions kept, of the type of their ids or as text.
// As an array, it makes the server look up single ids instead of reading a table.
func (p *filterPlan) keptIDs(asText bool) (string, error) {
	declared := "text"
	if !asText {
		declared = p.tables[p.name("execution_entity")].column("id").declared
	}
	if p.idsKnown {
		return "'{" + strings.Join(p.ids, ",") + "}'::" + declared + "[]", nil
	}
	query, err := p.rows(p.name("execution_entity"), []string{"id"})
	if asText {
		query = "SELECT k.id::text FROM (" + query + ") AS k"
	}
	return "ARRAY(" + query + ")", err
}

// base says which rows of a high-churn table, called alias, are kept for their own
// sake: none with "".
func (p *filterPlan) base(t *filterTable, alias string) (string, error) {
	noExecution := len(p.executions) == 0 || p.idsKnown && len(p.ids) == 0
	switch strings.TrimPrefix(t.name, p.v.db.prefix) {
	case "execution_entity":
		if noExecution {
			return "", nil
		}
		if p.idsKnown {
			ids, err := p.keptIDs(false)
			return alias + `."id" = ANY (` + ids + `)`, err
		}
		return "((" + strings.ReplaceAll(strings.Join(p.executions, ") OR ("), `e."`, alias+`."`) + "))", nil
	case "execution_data", "execution_metadata", "execution_annotations":
		if noExecution || t.column("executionId") == nil {
			return "", nil
		}
		ids, err := p.keptIDs(false)
		return alias + `."executionId" = ANY (` + ids + `)`, err
	case "execution_annotation_tags":
		annotations := p.name("execution_annotations")
		if noExecution || p.tables[annotations] == nil || t.column("annotationId") == nil {
			return "", nil
		}
		query, err := p.rows(annotations, []string{"id"})
		return alias + `."annotationId" = ANY (ARRAY(` + query + `))`, err
	case "binary_data":
		// What belongs to an execution goes with it, what belongs to a chat goes as the
		// chats do; see binaryQueries. Each part is a range of n8n's index.
		part := "SELECT b.ctid FROM " + p.from(t.name) + ` AS b WHERE b."sourceType" `
		parts := []string{part + `< 'chat_message_attachment'`, part + `> 'chat_message_attachment' AND b."sourceType" < 'execution'`, part + `> 'execution'`}
		if !noExecution {
			ids, err := p.keptIDs(true)
			if err != nil {
				return "", err
			}
			parts = append(parts, part+`= 'execution' AND b."sourceId" = ANY (`+ids+`)`)
		}
		return alias + ".ctid = ANY (ARRAY(" + strings.Join(parts, " UNION ALL ") + "))", nil
	}
	return "", nil
}

// follows says that the rows of child were chosen by this reference already.
func (p *filterPlan) follows(child *filterTable, ref filterReference) bool {
	if len(ref.from) != 1 || ref.to[0] != "id" {
		return false
	}
	switch strings.TrimPrefix(child.name, p.v.db.prefix) {
	case "execution_data", "execution_metadata", "execution_annotations":
		return ref.parent == p.name("execution_entity") && ref.from[0] == "executionId"
	case "execution_annotation_tags":
		return ref.parent == p.name("execution_annotations") && ref.from[0] == "annotationId"
	}
	return false
}

// touch finds the tables of which rows may be left out: history, and what cannot do
// without it.
func (p *filterPlan) touch() {
	for name := range p.tables {
		p.touched[name] = historyIsChurn(name, p.v.db.prefix)
	}
	for changed := true; changed; {
		changed = false
		for name, t := range p.tables {
			if !p.touched[name] && slices.ContainsFunc(t.references, func(r filterReference) bool { return p.touched[r.parent] && t.needs(r) }) {
				p.touched[name], changed = true, true
			}
		}
	}
}

// state finds out what becomes of the rows of a table, those it refers to first.
func (p *filterPlan) state(name string) (filterState, error) {
	t := p.tables[name]
	switch s := p.states[name]; {
	case !p.touched[name]:
		return filterAll, nil
	case s == filterOpen:
		return s, errCircle(name)
	case s != filterUnknown:
		return s, nil
	}
	if historyIsChurn(name, p.v.db.prefix) {
		keep, err := p.base(t, "x")
		if err != nil || keep == "" {
			p.states[name] = filterNone
			return filterNone, err
		}
	}
	p.states[name] = filterOpen
	s := filterSome
	for _, ref := range t.references {
		if !t.needs(ref) || p.follows(t, ref) {
			continue
		}
		parent, err := p.state(ref.parent)
		if err != nil {
			return 0, err
		}
		if parent == filterNone && !ref.nullable && t.required(ref.from) {
			s = filterNone
		}
	}
	p.states[name] = s
	return s, nil
}

func errCircle(table string) error {
	return problem.New(problem.Usage, "rows around the table %q refer to each other in a circle, and not all of them would be kept", table).
		WithHint(`use "--history all"`)
}

// rows is the query for columns of the rows kept of a table, "" for none.
func (p *filterPlan) rows(name string, columns []string) (string, error) {
	s, err := p.state(name)
	if err != nil || s == filterNone {
		return "", err
	}
	if p.depth++; p.depth > 100 {
		return "", errCircle(name)
	}
	defer func() { p.depth-- }()
	p.aliases++
	t, alias := p.tables[name], fmt.Sprintf("t%d", p.aliases)
	var where []string
	if historyIsChurn(name, p.v.db.prefix) {
		keep, err := p.base(t, alias)
		if err != nil {
			return "", err
		}
		where = append(where, keep)
	}
	stays := map[string][]string{} // conditions under which a column keeps its value
	for _, ref := range t.references {
		if !p.touched[ref.parent] || p.follows(t, ref) {
			continue
		}
		asked := slices.ContainsFunc(ref.set, func(c string) bool { return slices.Contains(columns, c) })
		if !asked && !t.needs(ref) {
			continue
		}
		holds, err := p.holds(t, ref, alias)
		if err != nil {
			return "", err
		}
		if !ref.nullable {
			where = append(where, holds)
			continue
		}
		for _, c := range ref.set {
			stays[c] = append(stays[c], holds)
		}
	}
	value := func(column string) string {
		c := alias + "." + quote(column)
		if conditions := stays[column]; len(conditions) > 0 {
			return "CASE WHEN " + strings.Join(conditions, " AND ") + " THEN " + c + " END AS " + quote(column)
		}
		return c
	}
	from, tail := " FROM "+p.from(name)+" AS "+alias, ""
	if len(where) > 0 {
		tail = " WHERE " + strings.Join(where, " AND ")
	}
	checks := t.checksOf(slices.Collect(maps.Keys(stays)))
	if len(checks) == 0 {
		return "SELECT " + joined(columns, value) + from + tail, nil
	}
	// A constraint that wants the column after all leaves the row out.
	every := make([]string, len(t.columns))
	for i, c := range t.columns {
		every[i] = c.name
	}
	p.aliases++
	outer := fmt.Sprintf("t%d", p.aliases)
	return "SELECT " + joined(columns, func(c string) string { return outer + "." + quote(c) }) +
		" FROM (SELECT " + joined(every, value) + from + tail + ") AS " + outer +
		" WHERE (" + strings.Join(checks, ") IS NOT FALSE AND (") + ") IS NOT FALSE", nil
}

func joined(columns []string, sql func(string) string) string {
	parts := make([]string, len(columns))
	for i, c := range columns {
		parts[i] = sql(c)
	}
	return strings.Join(parts, ", ")
}

// holds is the condition that a row's reference leads to a row that is kept, or nowhere.
func (p *filterPlan) holds(t *filterTable, ref filterReference, alias string) (string, error) {
	var any []string
	for _, c := range ref.from {
		if !t.required([]string{c}) {
			any = append(any, alias+"."+quote(c)+" IS NULL")
		}
	}
	query, err := p.rows(ref.parent, ref.to)
	if err != nil {
		return "", err
	}
	columns := joined(ref.from, func(c string) string { return alias + "." + quote(c) })
	switch {
	case query == "" && len(any) == 0:
		return "FALSE", nil
	case query == "":
	case p.idsKnown && ref.parent == p.name("execution_entity") && slices.Equal(ref.to, []string{"id"}):
		ids, err := p.keptIDs(false)
		if err != nil {
			return "", err
		}
		any = append(any, columns+" = ANY ("+ids+")")
	default:
		any = append(any, "("+columns+") IN ("+query+")")
	}
	return "(" + strings.Join(any, " OR ") + ")", nil
}

func (p *filterPlan) filters() (map[string]RowFilter, error) {
	all := map[string]RowFilter{}
	for _, name := range slices.Sorted(maps.Keys(p.tables)) {
		s, err := p.state(name)
		if err != nil {
			return nil, err
		}
		t := p.tables[name]
		if s == filterAll && !slices.ContainsFunc(t.references, func(r filterReference) bool { return p.touched[r.parent] }) {
			continue
		}
		f := RowFilter{Columns: t.names()}
		if s != filterNone {
			if f.Query, err = p.rows(name, f.Columns); err != nil {
				return nil, err
			}
		}
		all[name] = f
	}
	return all, nil
}
