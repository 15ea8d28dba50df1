package state

import (
	"context"
	"database/sql"
	"time"
)

// Sidecar is a sidecar as a target held it. Objects are immutable, so one of the
// same name, size, ETag and time is the same one.
type Sidecar struct {
	Name    string // of the object
	Size    int64
	ETag    string // "" when the target has none
	ModTime time.Time
	Content []byte
}

// Sidecars returns every sidecar remembered of a target, by name.
func (db *DB) Sidecars(ctx context.Context, target string) (map[string]Sidecar, error) {
	all := map[string]Sidecar{}
	err := db.each(ctx, func(rows *sql.Rows) error {
		var s Sidecar
		var at int64
		if err := rows.Scan(&s.Name, &s.Size, &s.ETag, &at, &s.Content); err != nil {
			return err
		}
		s.ModTime = time.Unix(0, at).UTC()
		all[s.Name] = s
		return nil
	}, "SELECT name, size, etag, time, content FROM sidecar WHERE target = ?", target)
	if err != nil {
		return nil, db.wrap(err, "reading remembered sidecars")
	}
	return all, nil
}

// UpdateSidecars remembers added and forgets gone, by name.
func (db *DB) UpdateSidecars(ctx context.Context, target string, added []Sidecar, gone []string) error {
	if len(added)+len(gone) == 0 {
		return nil
	}
	err := db.change(ctx, func(tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, `INSERT INTO sidecar(target, name, size, etag, time, content) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET size = excluded.size, etag = excluded.etag, time = excluded.time, content = excluded.content`)
		if err != nil {
			return err
		}
		defer insert.Close()
		for _, s := range added {
			if _, err := insert.ExecContext(ctx, target, s.Name, s.Size, s.ETag, s.ModTime.UnixNano(), s.Content); err != nil {
				return err
			}
		}
		remove, err := tx.PrepareContext(ctx, "DELETE FROM sidecar WHERE target = ? AND name = ?")
		if err != nil {
			return err
		}
		defer remove.Close()
		for _, name := range gone {
			if _, err := remove.ExecContext(ctx, target, name); err != nil {
				return err
			}
		}
		return nil
	})
	return db.wrap(err, "remembering sidecars")
}
