package state

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// ClockSeen returns when a target was last pruned with a clock that was found
// plausible; zero if never.
func (db *DB) ClockSeen(ctx context.Context, target string) (time.Time, error) {
	var at int64
	err := db.pool.QueryRowContext(ctx, "SELECT seen FROM clock WHERE target = ?", target).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, db.wrap(err, "reading the time of the last prune")
	}
	return time.UnixMilli(at).UTC(), nil
}

// SeeClock remembers now as such a time, also if it is before the last one:
// then a person said that it is right.
func (db *DB) SeeClock(ctx context.Context, target string, now time.Time) error {
	err := db.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO clock(target, seen) VALUES (?, ?) ON CONFLICT DO UPDATE SET seen = excluded.seen", target, now.UnixMilli())
		return err
	})
	return db.wrap(err, "recording the time of this prune")
}
