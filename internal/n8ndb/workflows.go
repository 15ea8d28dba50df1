package n8ndb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"strings"
	"time"
)

// Workflow is one workflow in n8n's import format.
type Workflow struct {
	ID, Name string
	// JSON is what "n8n export:workflow --pretty" writes for it, members in n8n's
	// order, with tags, owners and the name of its version.
	JSON []byte
}

// field is a member of n8n's export and how its column becomes JSON.
type field struct {
	name string
	as   byte // s text, j JSON, b boolean, n number, t time
}

func workflowFields() []field {
	return []field{
		{"updatedAt", 't'}, {"createdAt", 't'}, {"id", 's'}, {"name", 's'}, {"description", 's'}, {"active", 'b'},
		{"isArchived", 'b'}, {"nodes", 'j'}, {"connections", 'j'}, {"settings", 'j'}, {"staticData", 'j'}, {"meta", 'j'},
		{"nodeGroups", 'j'}, {"pinData", 'j'}, {"versionId", 's'}, {"activeVersionId", 's'}, {"versionCounter", 'n'},
		{"triggerCount", 'n'}, {"sourceWorkflowId", 's'},
	}
}

func tagFields() []field {
	return []field{{"updatedAt", 't'}, {"createdAt", 't'}, {"id", 's'}, {"name", 's'}}
}

func sharedFields() []field {
	return []field{{"updatedAt", 't'}, {"createdAt", 't'}, {"role", 's'}, {"workflowId", 's'}, {"projectId", 's'}}
}

func projectFields() []field {
	return []field{
		{"updatedAt", 't'}, {"createdAt", 't'}, {"id", 's'}, {"name", 's'}, {"type", 's'}, {"icon", 'j'},
		{"description", 's'}, {"customTelemetryTags", 'j'}, {"creatorId", 's'},
	}
}

var errStop = errors.New("no more wanted")

// Workflows yields every workflow by id, archived ones included. Links to tags and
// owners are held in memory, workflows one at a time.
func (db *DB) Workflows(ctx context.Context) iter.Seq2[Workflow, error] {
	return func(yield func(Workflow, error) bool) {
		err := db.view(ctx, func(v *view) error {
			return v.workflows(ctx, func(w Workflow) error {
				if !yield(w, nil) {
					return errStop
				}
				return nil
			})
		})
		if err != nil && err != errStop {
			yield(Workflow{}, err)
		}
	}
}

func (v *view) workflows(ctx context.Context, fn func(Workflow) error) error {
	tags, err := v.links(ctx, "workflows_tags", nil, "tag_entity", "tagId", tagFields())
	if err != nil {
		return err
	}
	shared, err := v.links(ctx, "shared_workflow", sharedFields(), "project", "projectId", projectFields())
	if err != nil {
		return err
	}
	t := v.db.table("workflow_entity")
	fields, exprs := v.fields(t, "t", workflowFields())
	q := query{table: t, exprs: exprs}
	history := v.db.table("workflow_history")
	named := t.Column("nodeGroups") != nil && history.Column("description") != nil
	if named {
		q.join = `LEFT JOIN ` + v.db.from(history) + ` AS h ON h."versionId" = t."versionId" AND h."workflowId" = t."id"`
		_, more := v.fields(history, "h", []field{{"versionId", 's'}, {"name", 's'}, {"description", 's'}})
		q.exprs = append(q.exprs, more...)
	}
	return v.each(ctx, q, func(id string, cols []any) error {
		var b bytes.Buffer
		b.WriteByte('{')
		members(&b, fields, cols)
		b.WriteString(`,"tags":[` + strings.Join(tags[id], ",") + `]`)
		b.WriteString(`,"shared":[` + strings.Join(shared[id], ",") + `]`)
		if named {
			b.WriteString(`,"versionMetadata":`)
			if h := cols[len(fields):]; h[0] == nil {
				b.WriteString("null")
			} else {
				b.WriteByte('{')
				members(&b, []field{{"name", 's'}, {"description", 's'}}, h[1:])
				b.WriteByte('}')
			}
		}
		b.WriteByte('}')
		w := Workflow{ID: id}
		for i, f := range fields {
			if f.name == "name" {
				w.Name = textOf(cols[i])
			}
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, b.Bytes(), "", "  "); err != nil {
			return err
		}
		w.JSON = append(pretty.Bytes(), '\n')
		return fn(w)
	})
}

// links reads a table between workflows and others: JSON objects by workflow id.
// With own fields the other row is the member "project" of the link.
func (v *view) links(ctx context.Context, table string, own []field, other, column string, fields []field) (map[string][]string, error) {
	t, o := v.db.table(table), v.db.table(other)
	if t.Column(column) == nil || t.Column("workflowId") == nil || o.Column("id") == nil {
		return nil, nil
	}
	own, ownExprs := v.fields(t, "t", own)
	fields, exprs := v.fields(o, "o", fields)
	q := query{table: t, exprs: append(append([]string{v.cast("t", "workflowId")}, ownExprs...), exprs...),
		join: `JOIN ` + v.db.from(o) + ` AS o ON o."id" = t.` + quote(column)}
	found := map[string][]string{}
	err := v.each(ctx, q, func(_ string, cols []any) error {
		var b bytes.Buffer
		b.WriteByte('{')
		if len(own) > 0 {
			members(&b, own, cols[1:])
			b.WriteString(`,"project":{`)
		}
		members(&b, fields, cols[1+len(own):])
		if len(own) > 0 {
			b.WriteByte('}')
		}
		b.WriteByte('}')
		id := textOf(cols[0])
		found[id] = append(found[id], b.String())
		return nil
	})
	return found, err
}

// fields leaves out columns that this n8n does not have, and returns their SQL.
func (v *view) fields(t *Table, alias string, all []field) (have []field, exprs []string) {
	for _, f := range all {
		if t.Column(f.name) == nil {
			continue
		}
		expr := v.cast(alias, f.name)
		if f.as == 't' && v.db.engine == Postgres {
			expr = `to_char(` + alias + `.` + quote(f.name) + ` AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')`
		}
		have, exprs = append(have, f), append(exprs, expr)
	}
	return have, exprs
}

func (v *view) cast(alias, column string) string {
	return `CAST(` + alias + `.` + quote(column) + ` AS text)`
}

// members writes "name":value pairs.
func members(b *bytes.Buffer, fields []field, cols []any) {
	for i, f := range fields {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + f.name + `":`)
		if cols[i] == nil {
			b.WriteString("null")
			continue
		}
		switch text := textOf(cols[i]); f.as {
		case 'j', 'n':
			if json.Valid([]byte(text)) {
				b.WriteString(text)
			} else {
				writeText(b, text) // nothing is lost, though n8n will not take it
			}
		case 'b':
			if text == "1" || text == "true" {
				b.WriteString("true")
			} else {
				b.WriteString("false")
			}
		case 't':
			writeText(b, isoTime(text))
		default:
			writeText(b, text)
		}
	}
}

func writeText(b *bytes.Buffer, s string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	b.Truncate(b.Len() - 1)
}

// isoTime turns a database's time into JavaScript's.
func isoTime(s string) string {
	at, err := time.Parse("2006-01-02 15:04:05", s)
	if err != nil {
		return s
	}
	return at.Format("2006-01-02T15:04:05.000Z")
}
