package n8ndb

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// KeyRow is a row of deployment_key (n8n >= 2.18) without its value.
type KeyRow struct {
	ID        string
	Type      string // "data_encryption", "signing.jwt", "instance.id", ...
	Algorithm string // "" for NULL
	Status    string // "active" or "inactive"
	Format    n8ncrypt.Format
}

// KeyRows lists deployment_key by id; an n8n before 2.18 has none.
func (db *DB) KeyRows(ctx context.Context) ([]KeyRow, error) {
	var found []KeyRow
	err := db.view(ctx, func(v *view) error {
		t := v.db.table(keysTable)
		if t.Column("value") == nil || t.Column("type") == nil {
			return nil
		}
		q := query{table: t, exprs: []string{`t."value"`, `t."type"`, v.optional(t, "algorithm"), v.optional(t, "status")}}
		return v.each(ctx, q, func(id string, cols []any) error {
			found = append(found, KeyRow{ID: id, Type: textOf(cols[1]), Algorithm: textOf(cols[2]), Status: textOf(cols[3]),
				Format: n8ncrypt.Detect(textOf(cols[0]))})
			return nil
		})
	})
	return found, err
}

// Dependents is what n8n keeps that is not encrypted and yet can end, or move, with
// another instance key, because it hangs on a secret that n8n derives from it.
type Dependents struct {
	Users int64
	// MFAUsers have MFA switched on. A user who is still setting it up has a secret,
	// too, and is not counted.
	MFAUsers int64
	// APIKeys are signed with the JWT secret (n8n >= 1.66, MCP keys included), older
	// ones with nothing.
	APIKeys, OldAPIKeys int64
	OAuthTokens         int64 // access tokens of OAuth and MCP clients
	Licence             bool  // a licence certificate is stored
	TelegramAgents      int64 // agents with a Telegram channel (n8n >= 2.22)
	Executions          ExecutionCounts
}

// ExecutionCounts counts executions by what may still happen to them.
type ExecutionCounts struct {
	New, Running, Waiting, Finished int64
	// FinishedOnDisk and FinishedElsewhere are those of Finished whose data is in
	// n8n's storage folder, and in S3 or Azure; UnfinishedElsewhere likewise.
	FinishedOnDisk, FinishedElsewhere, UnfinishedElsewhere int64
}

// Dependents counts them. A table or column that this n8n does not have counts as
// empty.
func (db *DB) Dependents(ctx context.Context) (Dependents, error) {
	var d Dependents
	err := db.view(ctx, func(v *view) error {
		for _, c := range []struct {
			into          *int64
			table, column string
			where         string
		}{
			{&d.Users, "user", "id", ""},
			{&d.MFAUsers, "user", "mfaEnabled", `t."mfaEnabled"`},
			{&d.APIKeys, "user_api_keys", "apiKey", `t."apiKey" NOT LIKE 'n8n\_api\_%' ESCAPE '\'`},
			{&d.OldAPIKeys, "user_api_keys", "apiKey", `t."apiKey" LIKE 'n8n\_api\_%' ESCAPE '\'`},
			{&d.OAuthTokens, "oauth_access_tokens", "token", ""},
			{&d.TelegramAgents, "agents", "integrations", `CAST(t."integrations" AS text) LIKE '%"telegram"%'`},
		} {
			n, err := v.countWhere(ctx, c.table, c.column, c.where)
			if err != nil {
				return err
			}
			*c.into += n
		}
		// Before n8n 1.50 a user had one key, in a column of its own.
		n, err := v.countWhere(ctx, "user", "apiKey", `t."apiKey" IS NOT NULL AND t."apiKey" <> ''`)
		if err != nil {
			return err
		}
		d.OldAPIKeys += n
		if n, err = v.countWhere(ctx, settingsTable, "value", `t."key" = 'license.cert' AND t."value" <> ''`); err != nil {
			return err
		}
		d.Licence = n > 0
		return v.executionCounts(ctx, &d.Executions)
	})
	return d, err
}

// countWhere counts rows of a table; without the column there are none.
func (v *view) countWhere(ctx context.Context, table, column, where string) (n int64, err error) {
	t := v.db.table(table)
	if t.Column(column) == nil {
		return 0, nil
	}
	from := v.db.from(t) + " AS t"
	if where != "" {
		from += " WHERE " + where
	}
	return v.countFrom(ctx, from)
}

func (v *view) executionCounts(ctx context.Context, c *ExecutionCounts) error {
	t := v.db.table("execution_entity")
	if t.Column("id") == nil {
		return nil
	}
	has := func(column string) bool { return t.Column(column) != nil }
	waiting := "FALSE"
	if has("status") {
		waiting = `e."status" = 'waiting'`
	}
	if has("waitTill") {
		waiting = "(" + waiting + ` OR e."waitTill" IS NOT NULL)`
	}
	state := "CASE WHEN NOT COALESCE(" + v.unfinished() + ", FALSE) THEN 'finished' WHEN COALESCE(" + waiting + ", FALSE) THEN 'waiting' ELSE 'running' END"
	if has("status") {
		state = strings.Replace(state, "ELSE 'running'", `WHEN e."status" = 'new' THEN 'new' ELSE 'running'`, 1)
	}
	stored := "'db'"
	if has("storedAt") {
		stored = `COALESCE(CAST(e."storedAt" AS text), 'db')`
	}
	// Not grouped by the database, which would sort all rows in memory for it.
	type kind struct{ state, stored string }
	var kinds []kind
	var sums []string
	for _, state := range []string{"finished", "waiting", "new", "running"} {
		for _, stored := range []string{"db", "fs", "elsewhere"} {
			kinds = append(kinds, kind{state, stored})
			sums = append(sums, "count(*) FILTER (WHERE s.state = '"+state+"' AND s.stored = '"+stored+"')")
		}
	}
	stmt := "SELECT " + strings.Join(sums, ", ") + " FROM (SELECT " + state + " AS state, CASE WHEN " + stored + " IN ('db', 'fs') THEN " + stored + " ELSE 'elsewhere' END AS stored FROM " + v.db.from(t) + " AS e) AS s"
	_, err := v.rows(ctx, stmt, nil, len(sums), 0, func(cols []any) error {
		for i, k := range kinds {
			n, err := strconv.ParseInt(textOf(cols[i]), 10, 64)
			if err != nil {
				return err
			}
			c.add(k.state, k.stored, n)
		}
		return nil
	})
	return err
}

// add counts n executions of a state whose data is stored in "db", "fs" or "elsewhere".
func (c *ExecutionCounts) add(state, stored string, n int64) {
	switch state {
	case "finished":
		c.Finished += n
	case "waiting":
		c.Waiting += n
	case "new":
		c.New += n
	default:
		c.Running += n
	}
	switch {
	case stored == "db":
	case state != "finished" && stored != "fs":
		c.UnfinishedElsewhere += n
	case state == "finished" && stored == "fs":
		c.FinishedOnDisk += n
	case state == "finished":
		c.FinishedElsewhere += n
	}
}

// saltedInJSON is how every CBC value begins that is a whole JSON string.
const saltedInJSON = `"U2FsdGVkX1`

// Finished counts values in the data of finished executions, and the executions that
// have any. One with values of both kinds is counted with both.
type Finished struct {
	Executions, Values           int64 // under an instance key (CBC)
	KeyedExecutions, KeyedValues int64 // under data keys
	Unread                       int64 // executions that are older than the newest
}

// FinishedValues counts the values of finished executions in the database; those under
// data keys only with keyed. Nothing is opened. It reads the data of the newest of them
// once, of all with newest 0, unless this n8n keeps no secrets there (before 1.123).
func (db *DB) FinishedValues(ctx context.Context, keyed bool, newest int, progress func(table string, rows int64)) (Finished, error) {
	var c Finished
	err := db.view(ctx, func(v *view) error {
		t, entity := v.db.table("execution_data"), v.db.table("execution_entity")
		data := t.Column("data")
		if data == nil || entity.Column("id") == nil || entity.Column("status") == nil {
			return nil // versions without the column are older than the place
		}
		holds, finished := v.mayHold(data, keyed), "NOT COALESCE("+v.unfinished()+", FALSE)"
		q := query{table: t, anyOrder: true,
			// Rows that hold none are read by the database and not sent.
			exprs: []string{"CASE WHEN " + holds + " THEN " + v.text(data) + " END"},
			join:  `JOIN ` + v.db.from(entity) + ` AS e ON e."id" = t."executionId"`,
			where: finished}
		if newest > 0 {
			oldest, unread, err := v.newestFinished(ctx, t, entity, finished, newest)
			if err != nil {
				return err
			}
			if c.Unread = unread; unread > 0 {
				q.where += ` AND t."executionId" >= ` + v.db.arg(1)
				q.args = []any{oldest}
			}
		}
		if !v.db.yield {
			q.where += " AND " + holds
		}
		var rows int64
		return v.each(ctx, q, func(_ string, cols []any) error {
			if rows++; progress != nil && rows%1000 == 0 {
				progress(t.Name, rows)
			}
			b := bytesOf(cols[0])
			if len(b) == 0 {
				return nil
			}
			values, under := int64(0), int64(0)
			for _, f := range scanFlatted(b) {
				switch n8ncrypt.Detect(f.text(b)) {
				case n8ncrypt.CBC:
					values++
				case n8ncrypt.Prefixed:
					if keyed {
						under++
					}
				}
			}
			if values > 0 {
				c.Executions, c.Values = c.Executions+1, c.Values+values
			}
			if under > 0 {
				c.KeyedExecutions, c.KeyedValues = c.KeyedExecutions+1, c.KeyedValues+under
			}
			return nil
		})
	})
	return c, err
}

// newestFinished is the id of the oldest of the newest finished executions, and how many
// with data in the database are older.
func (v *view) newestFinished(ctx context.Context, data, entity *Table, finished string, newest int) (oldest, unread int64, err error) {
	number := func(into *int64) func([]any) error {
		return func(cols []any) (err error) {
			*into, err = strconv.ParseInt(textOf(cols[0]), 10, 64)
			return err
		}
	}
	_, err = v.rows(ctx, fmt.Sprintf(`SELECT e."id" FROM %s AS e WHERE %s ORDER BY e."id" DESC LIMIT 1 OFFSET %d`, v.db.from(entity), finished, newest-1), nil, 1, 0, number(&oldest))
	if err != nil || oldest == 0 {
		return 0, 0, err
	}
	_, err = v.rows(ctx, `SELECT count(*) FROM `+v.db.from(entity)+` AS e WHERE e."id" < `+v.db.arg(1)+` AND `+finished+
		` AND EXISTS (SELECT 1 FROM `+v.db.from(data)+` AS t WHERE t."executionId" = e."id")`, []any{oldest}, 1, 0, number(&unread))
	return oldest, unread, err
}

// mayHold is the SQL condition of execution data that can have a value under an
// instance key, or with everything of any kind. It spares reading the others.
func (v *view) mayHold(data *Column, everything bool) string {
	holds := v.contains(data, saltedInJSON)
	if everything {
		for _, name := range []string{"secureArtifacts", "executionContext", "runtimeData", "encryptedMetadata"} {
			holds += " OR " + v.contains(data, name)
		}
	}
	return "(" + holds + ")"
}

// contains is the SQL condition that a column holds a constant text.
func (v *view) contains(c *Column, text string) string {
	literal := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if v.db.engine == Postgres {
		return "strpos(t." + quote(c.Name) + "::text, " + literal + ") > 0"
	}
	return "instr(t." + quote(c.Name) + ", " + literal + ") > 0"
}

// ColumnSize is how much of one column a rewrite may touch.
type ColumnSize struct {
	Table, Column string
	Rows, Bytes   int64
}

// RewriteSize bounds from above what a change of the instance key rewrites: rows
// and their bytes by column, in the order of the catalogue. With everything it also
// counts values under data keys and in clear, which are rewritten after a leak.
// Bundle files are not among them.
func (db *DB) RewriteSize(ctx context.Context, scope ExecutionScope, everything bool) ([]ColumnSize, error) {
	var sizes []ColumnSize
	err := db.view(ctx, func(v *view) error {
		done := map[string]bool{} // places of one JSON column are one
		for _, p := range Catalogue() {
			id := p.Table + "." + p.Column + "." + p.Key + "." + p.Algorithm
			t := v.db.table(p.Table)
			c := t.Column(p.Column)
			if done[id] || c == nil || p.Encoding == Clear || p.Table == keysTable && (t.Column("type") == nil || t.Column("algorithm") == nil) {
				continue
			}
			done[id] = true
			var size ColumnSize
			var err error
			if p.Container == Flatted {
				size, err = v.executionSize(ctx, t, c, scope, everything)
			} else {
				size, err = v.columnSize(ctx, p, t, c, everything)
			}
			if err != nil {
				return err
			}
			if size.Rows == 0 {
				continue
			}
			if n := len(sizes); n > 0 && sizes[n-1].Table == size.Table && sizes[n-1].Column == size.Column {
				sizes[n-1].Rows, sizes[n-1].Bytes = sizes[n-1].Rows+size.Rows, sizes[n-1].Bytes+size.Bytes
			} else {
				sizes = append(sizes, size)
			}
		}
		return nil
	})
	return sizes, err
}

func (v *view) columnSize(ctx context.Context, p Place, t *Table, c *Column, everything bool) (ColumnSize, error) {
	name := "t." + quote(c.Name)
	conditions := []string{name + " IS NOT NULL", name + " <> ''"}
	var args []any
	switch p.Table {
	case settingsTable:
		conditions, args = append(conditions, `t."key" = `+v.db.arg(1)), []any{p.Key}
	case keysTable:
		conditions, args = append(conditions, `t."type" = `+v.db.arg(1)), []any{p.Key}
		if p.Algorithm != "" {
			conditions, args = append(conditions, `t."algorithm" = `+v.db.arg(2)), append(args, p.Algorithm)
		}
	}
	switch {
	case everything:
	case p.Encoding == V2:
		conditions = append(conditions, v.contains(c, strings.Trim(saltedInJSON, `"`)))
	case p.Encoding == Pinned:
		conditions = append(conditions, `t."algorithm" IS NOT NULL`)
	}
	size := ColumnSize{Table: t.Name, Column: c.Name}
	stmt := "SELECT count(*), COALESCE(SUM(octet_length(" + name + ")), 0) FROM " + v.db.from(t) + " AS t WHERE " + strings.Join(conditions, " AND ")
	_, err := v.rows(ctx, stmt, args, 2, 0, func(cols []any) (err error) {
		if size.Rows, err = strconv.ParseInt(textOf(cols[0]), 10, 64); err == nil {
			size.Bytes, err = strconv.ParseInt(textOf(cols[1]), 10, 64)
		}
		return err
	})
	return size, err
}

func (v *view) executionSize(ctx context.Context, t *Table, data *Column, scope ExecutionScope, everything bool) (ColumnSize, error) {
	size := ColumnSize{Table: t.Name, Column: data.Name}
	if scope == NoExecutions {
		return size, nil
	}
	q := query{table: t, anyOrder: true}
	if entity := v.db.table("execution_entity"); entity != nil && scope != AllExecutions {
		q.join, q.where = `JOIN `+v.db.from(entity)+` AS e ON e."id" = t."executionId"`, v.unfinished()
	}
	q.exprs = []string{fmt.Sprintf("CASE WHEN %s THEN octet_length(t.%s) END", v.mayHold(data, everything), quote(data.Name))}
	err := v.each(ctx, q, func(_ string, cols []any) error {
		if cols[0] == nil {
			return nil
		}
		n, err := strconv.ParseInt(textOf(cols[0]), 10, 64)
		size.Rows, size.Bytes = size.Rows+1, size.Bytes+n
		return err
	})
	return size, err
}

// Unwritable are the tables of the catalogue that the user of this connection may
// not update, sorted, and whether the server takes no writes at all. Both are empty
// for SQLite, where the file decides.
func (db *DB) Unwritable(ctx context.Context) (tables []string, standby bool, err error) {
	if db.engine != Postgres {
		return nil, false, nil
	}
	err = db.view(ctx, func(v *view) error {
		_, err := v.rows(ctx, "SELECT pg_is_in_recovery()", nil, 1, 0, func(cols []any) error {
			standby = textOf(cols[0]) == "t"
			return nil
		})
		if err != nil {
			return err
		}
		for _, p := range Catalogue() {
			t := v.db.table(p.Table)
			if t.Column(p.Column) == nil || slices.Contains(tables, t.Name) {
				continue
			}
			_, err := v.rows(ctx, "SELECT has_table_privilege($1, 'UPDATE')", []any{v.db.from(t)}, 1, 0, func(cols []any) error {
				if textOf(cols[0]) != "t" {
					tables = append(tables, t.Name)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	slices.Sort(tables)
	return tables, standby, err
}

// optional is the SQL of a column that older versions do not have.
func (v *view) optional(t *Table, column string) string {
	if t.Column(column) == nil {
		return "NULL"
	}
	return "t." + quote(column)
}
