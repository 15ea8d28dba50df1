package n8ndb

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/durable"
)

// Lists of what is kept are tables of a scratch database beside the copy: their
// number has no bound, so they are not for the memory.
const (
	snapKept       = "n8keep_kept.executions" // ids
	snapKeptBinary = "n8keep_kept.binaries"   // rowids of binary_data
)

// attachScratch makes the scratch database, which remove takes away again. Like
// the copy it needs no journal: after an error neither is there.
func (r *snapRebuilder) attachScratch(ctx context.Context) (remove func(), err error) {
	f, err := os.CreateTemp(filepath.Dir(r.cfg.Dest), durable.TempPrefix+"kept-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("making a list of executions: %w", snapCause(err))
	}
	remove = func() { os.Remove(f.Name()) }
	if err := f.Close(); err != nil {
		return remove, err
	}
	if err := r.exec(ctx, "ATTACH ? AS n8keep_kept", snapURI(f.Name(), "mode=rw")); err != nil {
		return remove, err
	}
	for _, stmt := range []string{
		"PRAGMA n8keep_kept.journal_mode = OFF",
		"PRAGMA n8keep_kept.synchronous = OFF",
		"CREATE TABLE " + snapKept + " (id INTEGER PRIMARY KEY)",
		"CREATE TABLE " + snapKeptBinary + " (id INTEGER PRIMARY KEY)",
	} {
		if err := r.exec(ctx, stmt); err != nil {
			return remove, err
		}
	}
	return remove, nil
}

// keepExecutions chooses the executions and the files that go with them. Of n8n's
// tables only execution_entity is read, whose rows are small, and binary_data by
// its index, and where n8n has an index that fits SQLite takes it; execution_data,
// where the gigabytes are, is later asked for single ids.
func (r *snapRebuilder) keepExecutions(ctx context.Context) error {
	if r.has("execution_entity") {
		conditions, err := r.keptConditions(ctx)
		if err != nil {
			return err
		}
		// One at a time: for an OR over several indexes SQLite holds all ids in memory.
		for _, c := range conditions {
			if err := r.exec(ctx, "INSERT OR IGNORE INTO "+snapKept+" "+r.executionQuery(c), c.args...); err != nil {
				return err
			}
		}
	}
	if r.has("binary_data") {
		for _, query := range r.binaryQueries() {
			if err := r.exec(ctx, "INSERT OR IGNORE INTO "+snapKeptBinary+" "+query); err != nil {
				return err
			}
		}
	}
	return nil
}

// snapCondition is a condition on execution_entity AS e.
type snapCondition struct {
	where string
	args  []any
}

func (r *snapRebuilder) executionQuery(c snapCondition) string {
	return fmt.Sprintf("SELECT e.id FROM src.%s AS e WHERE %s", quote(r.table("execution_entity")), c.where)
}

// keptConditions say which executions are kept: those for which at least one holds.
func (r *snapRebuilder) keptConditions(ctx context.Context) ([]snapCondition, error) {
	columns, _, err := r.columns(ctx, r.table("execution_entity"))
	if err != nil {
		return nil, err
	}
	has := func(c string) bool { return slices.Contains(columns, c) }
	if !has("status") {
		return nil, fmt.Errorf("table %q has no column %q", r.table("execution_entity"), "status")
	}
	unfinished := unfinishedExecution(has)
	var kept []snapCondition
	but := ""
	if r.cfg.DropWaiting {
		but = ` AND NOT coalesce(` + strings.Join(unfinished, " OR ") + `, 0)`
	} else {
		for _, where := range unfinished {
			kept = append(kept, snapCondition{where: where})
		}
	}
	if since, ok := r.cfg.History.Since(r.cfg.Now()); ok {
		// TypeORM writes UTC in this form, which sorts as text.
		at := since.UTC().Format("2006-01-02 15:04:05.000")
		kept = append(kept, snapCondition{where: `e."stoppedAt" > ?` + but, args: []any{at}})
		if has("startedAt") {
			// A crashed execution has no end.
			kept = append(kept, snapCondition{where: `e."stoppedAt" IS NULL AND e."startedAt" > ?` + but, args: []any{at}})
		}
	}
	return kept, nil
}

// binaryQueries find the rows of binary_data to keep. What belongs to an execution
// goes with it, what belongs to a chat goes as the chats do. Files of agents, and
// kinds not known yet, are no history. The rows come from n8n's index over the two
// columns: each query is a range of it.
func (r *snapRebuilder) binaryQueries() []string {
	from := "src." + quote(r.table("binary_data")) + " AS b"
	part := "SELECT b.rowid FROM " + from + ` WHERE b."sourceType" `
	return []string{
		"SELECT b.rowid FROM " + snapKept + " AS k CROSS JOIN " + from + ` ON b."sourceType" = 'execution' AND b."sourceId" = CAST(k.id AS TEXT)`,
		part + `< 'chat_message_attachment'`,
		part + `> 'chat_message_attachment' AND b."sourceType" < 'execution'`,
		part + `> 'execution'`,
	}
}

// keptRows is the FROM clause for the rows, called t, of a high-churn table that
// are kept, empty for none. CROSS JOIN makes SQLite begin with the few ids.
func (r *snapRebuilder) keptRows(table string) string {
	kept := "FROM " + snapKept + " AS k CROSS JOIN src." + quote(table) + " AS t "
	switch strings.TrimPrefix(table, r.cfg.TablePrefix) {
	case "execution_entity":
		return kept + "ON t.id = k.id"
	case "execution_data", "execution_metadata", "execution_annotations":
		return kept + `ON t."executionId" = k.id`
	case "execution_annotation_tags":
		if !r.has("execution_annotations") {
			return ""
		}
		return "FROM " + snapKept + " AS k CROSS JOIN src." + quote(r.table("execution_annotations")) + ` AS a ON a."executionId" = k.id ` +
			"CROSS JOIN src." + quote(table) + ` AS t ON t."annotationId" = a.id`
	case "binary_data":
		return "FROM " + snapKeptBinary + " AS k CROSS JOIN src." + quote(table) + " AS t ON t.rowid = k.id"
	}
	return ""
}

func (r *snapRebuilder) table(name string) string { return r.cfg.TablePrefix + name }

func (r *snapRebuilder) has(name string) bool {
	return slices.ContainsFunc(r.schema, func(o snapObject) bool { return o.kind == "table" && o.name == r.table(name) })
}

func (r *snapRebuilder) dropped(ctx context.Context) (n int64, err error) {
	if !r.has("execution_entity") {
		return 0, nil
	}
	err = r.conn.QueryRowContext(ctx, fmt.Sprintf("SELECT (SELECT count(*) FROM src.%s) - (SELECT count(*) FROM main.%[1]s)",
		quote(r.table("execution_entity")))).Scan(&n)
	return n, err
}

// snapReference is one foreign key of a table of the source.
type snapReference struct {
	child, parent string
	from, to      []string
	onDelete      string
	nullable      bool // every column of from may be NULL
}

// mendReferences does to rows that refer to rows left out what the schema says
// for their deletion: ON DELETE CASCADE and columns that may not be NULL delete
// the row, everything else sets the columns NULL. Deletions spread until nothing
// refers to what is not there. References into tables that lost nothing are not
// touched, also when they were broken before.
func (r *snapRebuilder) mendReferences(ctx context.Context) error {
	refs, err := r.references(ctx)
	if err != nil {
		return err
	}
	// Each round deletes rows or is the last.
	for changed := true; changed; {
		changed = false
		for _, ref := range refs {
			if !r.thinned[ref.parent] {
				continue
			}
			deleted, err := r.mend(ctx, ref)
			if err != nil {
				return fmt.Errorf("references of table %q to %q: %w", ref.child, ref.parent, err)
			}
			if deleted {
				r.thinned[ref.child] = true
				changed = true
			}
		}
	}
	return nil
}

func (r *snapRebuilder) mend(ctx context.Context, ref snapReference) (deleted bool, err error) {
	var set, given, match []string
	for i, from := range ref.from {
		set = append(set, quote(from)+" = NULL")
		given = append(given, "c."+quote(from)+" IS NOT NULL")
		match = append(match, "p."+quote(ref.to[i])+" = c."+quote(from))
	}
	dangling := fmt.Sprintf("%s AND NOT EXISTS (SELECT 1 FROM main.%s AS p WHERE %s)",
		strings.Join(given, " AND "), quote(ref.parent), strings.Join(match, " AND "))
	if ref.nullable && ref.onDelete != "CASCADE" {
		// A constraint that wants the column after all leaves the row to be deleted.
		if err := r.exec(ctx, "PRAGMA ignore_check_constraints = OFF"); err != nil {
			return false, err
		}
		err := r.exec(ctx, fmt.Sprintf("UPDATE OR IGNORE main.%s AS c SET %s WHERE %s", quote(ref.child), strings.Join(set, ", "), dangling))
		if err := r.exec(ctx, "PRAGMA ignore_check_constraints = ON"); err != nil {
			return false, err
		}
		if err != nil {
			return false, err
		}
	}
	result, err := r.conn.ExecContext(ctx, fmt.Sprintf("DELETE FROM main.%s AS c WHERE %s", quote(ref.child), dangling))
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

func (r *snapRebuilder) references(ctx context.Context) ([]snapReference, error) {
	var refs []snapReference
	for _, o := range r.schema {
		if o.kind != "table" {
			continue
		}
		required, key, err := r.requiredColumns(ctx, o.name)
		if err != nil {
			return nil, err
		}
		last := -1
		err = snapRows(ctx, r.conn, func(rows *sql.Rows) error {
			var id int
			var parent, from, onDelete string
			var to sql.NullString
			if err := rows.Scan(&id, &parent, &from, &to, &onDelete); err != nil {
				return err
			}
			if id != last {
				refs = append(refs, snapReference{child: o.name, parent: r.spelling(parent), onDelete: onDelete, nullable: true})
				last = id
			}
			ref := &refs[len(refs)-1]
			ref.from = append(ref.from, from)
			ref.nullable = ref.nullable && !required[from] && !slices.Contains(key, from)
			if to.Valid {
				ref.to = append(ref.to, to.String)
			}
			return nil
		}, `SELECT id, "table", "from", "to", on_delete FROM pragma_foreign_key_list(?, 'src') ORDER BY id, seq`, o.name)
		if err != nil {
			return nil, err
		}
	}
	known := refs[:0]
	for _, ref := range refs {
		if len(ref.to) == 0 { // REFERENCES parent without columns means its primary key
			_, key, err := r.requiredColumns(ctx, ref.parent)
			if err != nil {
				return nil, err
			}
			ref.to = key
		}
		if len(ref.to) == len(ref.from) {
			known = append(known, ref)
		}
	}
	return known, nil
}

func (r *snapRebuilder) requiredColumns(ctx context.Context, table string) (required map[string]bool, key []string, err error) {
	required = map[string]bool{}
	err = snapRows(ctx, r.conn, func(rows *sql.Rows) error {
		var name string
		var notNull bool
		var pk int
		if err := rows.Scan(&name, &notNull, &pk); err != nil {
			return err
		}
		required[name] = notNull
		if pk > 0 {
			key = append(key, name)
		}
		return nil
	}, `SELECT name, "notnull", pk FROM pragma_table_xinfo(?, 'src') ORDER BY pk, cid`, table)
	return required, key, err
}

// spelling is a table's name as the schema has it: foreign keys may differ in case.
func (r *snapRebuilder) spelling(table string) string {
	for _, o := range r.schema {
		if o.kind == "table" && strings.EqualFold(o.name, table) {
			return o.name
		}
	}
	return table
}
