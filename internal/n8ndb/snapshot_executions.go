package n8ndb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
)

// snapKept holds the ids of the executions that are kept. It is a temporary
// table in memory.
const snapKept = "temp.n8keep_kept"

// keepExecutions chooses the executions. Of n8n's tables only execution_entity
// is read, whose rows are small, and where n8n has an index that fits SQLite
// takes it; execution_data, where the gigabytes are, is later asked for single ids.
func (r *snapRebuilder) keepExecutions(ctx context.Context) error {
	if err := r.exec(ctx, "CREATE TEMP TABLE n8keep_kept (id INTEGER PRIMARY KEY)"); err != nil {
		return err
	}
	if !r.has("execution_entity") {
		return nil
	}
	query, args, err := r.executionQuery(ctx)
	if err != nil || query == "" {
		return err
	}
	return r.exec(ctx, "INSERT INTO "+snapKept+" "+query, args...)
}

// executionQuery is empty when no execution is to be kept.
func (r *snapRebuilder) executionQuery(ctx context.Context) (string, []any, error) {
	columns, _, err := r.columns(ctx, r.table("execution_entity"))
	if err != nil {
		return "", nil, err
	}
	has := func(c string) bool { return slices.Contains(columns, c) }
	// status is NULL in rows older than the column; of those, the ones that have
	// not stopped count as unfinished.
	unfinished := `status IN ('new', 'running', 'waiting')`
	if has("stoppedAt") {
		unfinished = `(` + unfinished + ` OR (status IS NULL AND "stoppedAt" IS NULL))`
	}
	if !has("status") {
		return "", nil, fmt.Errorf("table %q has no column %q", r.table("execution_entity"), "status")
	}
	var where []string
	var args []any
	if !r.cfg.DropWaiting {
		where = append(where, unfinished)
	}
	if since, ok := r.cfg.History.Since(r.cfg.Now()); ok {
		// TypeORM writes UTC in this form, which sorts as text.
		at := since.UTC().Format("2006-01-02 15:04:05.000")
		recent := `"stoppedAt" > ?`
		args = append(args, at)
		if has("startedAt") {
			// A crashed execution has no end.
			recent = `(` + recent + ` OR ("stoppedAt" IS NULL AND "startedAt" > ?))`
			args = append(args, at)
		}
		if r.cfg.DropWaiting {
			recent = `(` + recent + ` AND NOT coalesce(` + unfinished + `, 0))`
		}
		where = append(where, recent)
	}
	if len(where) == 0 {
		return "", nil, nil
	}
	return fmt.Sprintf("SELECT id FROM src.%s WHERE %s", quote(r.table("execution_entity")), strings.Join(where, " OR ")), args, nil
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
		// What belongs to an execution goes with it, what belongs to a chat goes as
		// the chats do. Files of agents, and kinds not known yet, are no history. The
		// rows come from n8n's index over the two columns: each of these is a range of it.
		part := " FROM src." + quote(table) + ` AS b WHERE b."sourceType" `
		return "FROM src." + quote(table) + " AS t WHERE t.rowid IN (" +
			"SELECT b.rowid FROM " + snapKept + " AS k CROSS JOIN src." + quote(table) + ` AS b ON b."sourceType" = 'execution' AND b."sourceId" = CAST(k.id AS TEXT)` +
			" UNION ALL SELECT b.rowid" + part + `< 'chat_message_attachment'` +
			" UNION ALL SELECT b.rowid" + part + `> 'chat_message_attachment' AND b."sourceType" < 'execution'` +
			" UNION ALL SELECT b.rowid" + part + `> 'execution')`
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
