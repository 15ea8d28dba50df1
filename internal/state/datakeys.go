package state

import (
	"context"
	"database/sql"
	"time"
)

// RetireDataKey remembers that nothing used a data key of an n8n. A key that is
// retired already keeps its time.
func (db *DB) RetireDataKey(ctx context.Context, instance, id string, at time.Time) error {
	err := db.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO retired_data_key(instance, id, time) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", instance, id, at.UnixMilli())
		return err
	})
	return db.wrap(err, "recording a retired data key")
}

// RetiredDataKeys returns the retired data keys of an n8n, with the time at which each
// was retired.
func (db *DB) RetiredDataKeys(ctx context.Context, instance string) (map[string]time.Time, error) {
	all := map[string]time.Time{}
	err := db.each(ctx, func(rows *sql.Rows) error {
		var id string
		var at int64
		if err := rows.Scan(&id, &at); err != nil {
			return err
		}
		all[id] = time.UnixMilli(at).UTC()
		return nil
	}, "SELECT id, time FROM retired_data_key WHERE instance = ?", instance)
	if err != nil {
		return nil, db.wrap(err, "reading retired data keys")
	}
	return all, nil
}
