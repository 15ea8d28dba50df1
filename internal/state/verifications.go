package state

import (
	"context"
	"database/sql"
	"time"
)

// Outcomes of a verification. One that could not be carried out has none.
const (
	Sound   = "sound"   // it is what its signed sidecar and its manifest say
	Damaged = "damaged" // it is not
)

// Verification is what a verification of one archive showed.
type Verification struct {
	Archive string // its id
	Level   string // quick, full, secrets
	SHA256  string // of the archive's bytes, as its sidecar says
	Time    time.Time
	Outcome string
}

// RecordVerification remembers v for a target, named by its location. It replaces
// what was known of the same archive at the same level.
func (db *DB) RecordVerification(ctx context.Context, target string, v Verification) error {
	err := db.change(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO verification(target, archive, level, sha256, time, outcome) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET sha256 = excluded.sha256, time = excluded.time, outcome = excluded.outcome`,
			target, v.Archive, v.Level, v.SHA256, v.Time.UnixMilli(), v.Outcome)
		return err
	})
	return db.wrap(err, "recording a verification")
}

// Verifications returns what is remembered of a target's archives, by their ids,
// newest first.
func (db *DB) Verifications(ctx context.Context, target string) (map[string][]Verification, error) {
	all := map[string][]Verification{}
	err := db.each(ctx, func(rows *sql.Rows) error {
		var v Verification
		var at int64
		if err := rows.Scan(&v.Archive, &v.Level, &v.SHA256, &at, &v.Outcome); err != nil {
			return err
		}
		v.Time = time.UnixMilli(at).UTC()
		all[v.Archive] = append(all[v.Archive], v)
		return nil
	}, "SELECT archive, level, sha256, time, outcome FROM verification WHERE target = ? ORDER BY time DESC, level", target)
	if err != nil {
		return nil, db.wrap(err, "reading verifications")
	}
	return all, nil
}

// ForgetVerifications drops what is remembered of archives that are gone.
func (db *DB) ForgetVerifications(ctx context.Context, target string, archives []string) error {
	if len(archives) == 0 {
		return nil
	}
	err := db.change(ctx, func(tx *sql.Tx) error {
		for _, id := range archives {
			if _, err := tx.ExecContext(ctx, "DELETE FROM verification WHERE target = ? AND archive = ?", target, id); err != nil {
				return err
			}
		}
		return nil
	})
	return db.wrap(err, "forgetting verifications")
}

func (db *DB) each(ctx context.Context, row func(*sql.Rows) error, query string, args ...any) error {
	rows, err := db.pool.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
