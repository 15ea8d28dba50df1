package n8ndb

import (
	"context"
	"strconv"
)

// Anchors tell a database from that of another n8n: what n8n has made by chance, keeps
// for good, and no rotation changes. A copy has the same ones.
type Anchors struct {
	InstanceID  string   // instance.id of deployment_key (n8n >= 2.18), or ""
	Users       []string // ids of the oldest 50
	Credentials []string // ids of the oldest 50; n8n before 0.215 counted them from 1
}

const anchored = 50

// Anchors reads them.
func (db *DB) Anchors(ctx context.Context) (Anchors, error) {
	var a Anchors
	err := db.view(ctx, func(v *view) error {
		if t := db.table(keysTable); t.Column("value") != nil && t.Column("type") != nil {
			stmt := `SELECT t."value" FROM ` + db.from(t) + ` AS t WHERE t."type" = 'instance.id' ORDER BY t."id" LIMIT 1`
			if _, err := v.rows(ctx, stmt, nil, 1, 0, func(cols []any) error {
				a.InstanceID = textOf(cols[0])
				return nil
			}); err != nil {
				return err
			}
		}
		for _, from := range []struct {
			table string
			into  *[]string
		}{{"user", &a.Users}, {"credentials_entity", &a.Credentials}} {
			if err := v.oldest(ctx, from.table, from.into); err != nil {
				return err
			}
		}
		return nil
	})
	return a, err
}

func (v *view) oldest(ctx context.Context, table string, ids *[]string) error {
	t := v.db.table(table)
	if t.Column("id") == nil {
		return nil
	}
	order := `t."id"`
	if t.Column("createdAt") != nil {
		order = `t."createdAt", t."id"`
	}
	stmt := `SELECT ` + v.text(t.Column("id")) + ` FROM ` + v.db.from(t) + ` AS t ORDER BY ` + order + ` LIMIT ` + strconv.Itoa(anchored)
	_, err := v.rows(ctx, stmt, nil, 1, 0, func(cols []any) error {
		*ids = append(*ids, textOf(cols[0]))
		return nil
	})
	return err
}
