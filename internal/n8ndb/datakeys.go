package n8ndb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// DataKeyRow is a row of deployment_key with type data_encryption (n8n >= 2.18),
// without what is in it.
type DataKeyRow struct {
	ID        string
	Algorithm string // aes-256-gcm; aes-256-cbc is the legacy row, which holds an instance key
	Status    string // active or inactive
	Created   time.Time
	Updated   time.Time
	// Wrap is how it is stored: gcm, cbc (2.19), plaintext (2.18); "" when the key set
	// does not open it.
	Wrap string
}

// Legacy reports whether the row holds an instance key.
func (r DataKeyRow) Legacy() bool { return r.Algorithm == string(n8ncrypt.AlgorithmCBC) }

// Active reports whether n8n encrypts with the key while its rotation flag is on.
func (r DataKeyRow) Active() bool { return r.Status == "active" }

const keyTimeLayout = "2006-01-02 15:04:05.999999999"

// DataKeys lists the data keys, and the legacy rows, by the time at which they were
// made. An n8n before 2.18 has none.
func (db *DB) DataKeys(ctx context.Context, r audit.Receipt, k *Keyset) (list []DataKeyRow, err error) {
	err = db.view(ctx, func(v *view) error {
		list, err = v.dataKeys(ctx, func(row DataKeyRow, stored string) (DataKeyRow, error) {
			s := sealed{as: aDataKey, id: row.ID, stored: stored}
			if row.Legacy() {
				s.as = aLegacyKey
			}
			o, _, err := k.unwrap(r, s)
			if errors.Is(err, errNoReceipt) {
				return row, err
			}
			if err == nil {
				row.Wrap = o.wrap.String()
			}
			return row, nil
		})
		return err
	})
	return list, err
}

// OpenKeys is the key set of an instance key and the rows of DataKeys.
func (db *DB) OpenKeys(ctx context.Context, r audit.Receipt, key n8ncrypt.InstanceKey) (*Keyset, []DataKeyRow, error) {
	k, err := db.Keyset(ctx, r, key)
	if err != nil {
		return nil, nil, err
	}
	rows, err := db.DataKeys(ctx, r, k)
	return k, rows, err
}

func (v *view) dataKeys(ctx context.Context, open func(DataKeyRow, string) (DataKeyRow, error)) (list []DataKeyRow, err error) {
	t := v.db.table(keysTable)
	for _, name := range []string{"id", "type", "value", "algorithm", "status"} {
		if t.Column(name) == nil {
			return nil, nil
		}
	}
	when := func(name string) string {
		switch {
		case t.Column(name) == nil:
			return "NULL"
		case v.db.engine == Postgres:
			return `to_char(t.` + quote(name) + ` AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')`
		}
		return `CAST(t.` + quote(name) + ` AS text)`
	}
	stmt := `SELECT t."id", t."algorithm", t."status", t."value", ` + when("createdAt") + ", " + when("updatedAt") + " FROM " + v.db.from(t) +
		` AS t WHERE t."type" = ` + v.db.arg(1) + ` ORDER BY 5, t."id"`
	_, err = v.rows(ctx, stmt, []any{dataEncryption}, 6, 0, func(cols []any) error {
		row, err := open(DataKeyRow{ID: textOf(cols[0]), Algorithm: textOf(cols[1]), Status: textOf(cols[2]),
			Created: keyTime(textOf(cols[4])), Updated: keyTime(textOf(cols[5]))}, textOf(cols[3]))
		list = append(list, row)
		return err
	})
	return list, err
}

// keyTime reads what n8n has written; zero when that is no time.
func keyTime(s string) time.Time {
	at, err := time.Parse(keyTimeLayout, strings.TrimSuffix(strings.Replace(s, "T", " ", 1), "Z"))
	if err != nil {
		return time.Time{}
	}
	return at
}

// NewDataKey is what AddDataKey did.
type NewDataKey struct {
	ID       string
	Previous []string // that were active before; one, unless n8n's index was missing
	Wrap     string   // how the new key is stored
}

// AddDataKey makes a new active data key as n8n's own rotation does: in one
// transaction, in which the keys that are there are opened first, every active one becomes inactive, and then the new one is inserted, so
// that exactly one is active. It is stored as the n8n of the database stores it (in
// clear in 2.18, CBC in 2.19, wrapped later), with the times that n8n would write, and
// opened again before it is committed. Processes of n8n take it up within seconds.
//
// A database without a data key is refused (CheckFailed): n8n makes the first one.
func (s *Swapper) AddDataKey(ctx context.Context, r audit.Receipt, key n8ncrypt.InstanceKey) (NewDataKey, error) {
	if !r.Valid() {
		return NewDataKey{}, &problem.Error{Kind: problem.Unexpected, Err: errNoReceipt}
	}
	var out NewDataKey
	err := s.inWrite(ctx, func(tx *swapTx) error {
		if err := tx.lockSeed(ctx); err != nil {
			return err
		}
		k, like, err := tx.howToWrap(ctx, r, key)
		if err != nil {
			return err
		}
		made, err := n8ncrypt.NewDataKey(n8ncrypt.NewKeyID())
		if err != nil {
			return err
		}
		stored, err := wrapAs(like, key, made)
		if err != nil {
			return err
		}
		out = NewDataKey{ID: made.ID, Wrap: like}
		if out.Previous, err = tx.addDataKey(ctx, made.ID, stored); err != nil {
			return err
		}
		failpoint.Hit("n8ndb.datakey.inserted")
		var again string
		var active int
		stmt := `SELECT (SELECT "value" FROM %[1]s WHERE "id" = %[2]s AND "status" = 'active'), (SELECT count(*) FROM %[1]s WHERE "type" = %[3]s AND "status" = 'active')`
		stmt = fmt.Sprintf(stmt, s.from(s.table(keysTable)), s.arg(1), s.arg(2))
		if err := tx.tx.QueryRowContext(ctx, stmt, made.ID, dataEncryption).Scan(&again, &active); err != nil {
			return err
		}
		o, _, err := k.unwrap(r, sealed{as: aDataKey, id: made.ID, stored: again})
		if err != nil || !o.data.Equal(made) || active != 1 {
			return problem.New(problem.Damaged, "the new data key is not in the database as it was written (%d active ones); it was not committed", active)
		}
		return nil
	})
	if err != nil {
		return NewDataKey{}, err
	}
	return out, nil
}

// howToWrap opens the keys that are there, and says how a new one is stored beside them.
func (x *swapTx) howToWrap(ctx context.Context, r audit.Receipt, key n8ncrypt.InstanceKey) (k *Keyset, like string, err error) {
	err = x.inside(func(db *DB) error {
		var rows []DataKeyRow
		if k, rows, err = db.OpenKeys(ctx, r, key); err != nil {
			return err
		}
		version, err := db.Version(ctx)
		if err != nil {
			return err
		}
		like, err = wrapLike(rows, version)
		return err
	})
	return k, like, err
}

// lockSeed takes the lock that n8n takes before it makes a data key.
func (x *swapTx) lockSeed(ctx context.Context) error {
	if x.s.engine != Postgres {
		return nil
	}
	_, err := x.tx.ExecContext(ctx, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", lockSeed))
	return err
}

// wrapLike is how a new key is stored: as the active one is, or where that does not
// open, as the version does.
func wrapLike(rows []DataKeyRow, version Version) (string, error) {
	byVersion := n8ncrypt.WrapGCM.String()
	switch {
	case version.Before(2, 18):
		return "", problem.New(problem.CheckFailed, "n8n before 2.18 has no data keys").WithHint("upgrade n8n to 2.39 or later")
	case version.N8N == "2.18 or newer": // not known well enough
		byVersion = ""
	case version.Before(2, 19):
		byVersion = n8ncrypt.WrapPlaintext.String()
	case version.Before(2, 20):
		byVersion = n8ncrypt.WrapCBC.String()
	}
	opened, keys := "", 0
	for _, row := range rows {
		if row.Legacy() {
			continue
		}
		keys++
		if row.Wrap != "" && (opened == "" || row.Active()) {
			opened = row.Wrap
		}
	}
	switch {
	case keys == 0:
		return "", problem.New(problem.CheckFailed, "this database has no data key yet").
			WithHint("n8n makes the first one when it is started: before 2.39 with its key rotation flag on, later always")
	case opened == "":
		return "", problem.New(problem.WrongKey, "the instance key opens none of the %d data keys of this database", keys).
			WithHint("n8keep key find says which key does")
	case byVersion == "":
		return opened, nil
	}
	return byVersion, nil
}

func wrapAs(like string, key n8ncrypt.InstanceKey, made n8ncrypt.DataKey) (string, error) {
	switch like {
	case n8ncrypt.WrapPlaintext.String():
		return made.Reveal(), nil
	case n8ncrypt.WrapCBC.String():
		v, err := key.EncryptCBC([]byte(made.Reveal()))
		return v.String(), err
	}
	return n8ncrypt.WrapDataKey(key, made)
}

// addDataKey demotes and inserts. On SQLite n8n's update leaves updatedAt without
// milliseconds.
func (x *swapTx) addDataKey(ctx context.Context, id, stored string) (previous []string, err error) {
	s, table := x.s, x.s.from(x.s.table(keysTable))
	now := `strftime('%Y-%m-%d %H:%M:%S', 'now')`
	if s.engine == Postgres {
		now = "CURRENT_TIMESTAMP(3)"
	}
	rows, err := x.tx.QueryContext(ctx, `UPDATE `+table+` SET "status" = 'inactive', "updatedAt" = `+now+
		` WHERE "type" = `+s.arg(1)+` AND "status" = 'active' RETURNING "id"`, dataEncryption)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		previous = append(previous, id)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	failpoint.Hit("n8ndb.datakey.demoted")
	_, err = x.tx.ExecContext(ctx, `INSERT INTO `+table+` ("id", "type", "value", "algorithm", "status") VALUES (`+
		strings.Join([]string{s.arg(1), s.arg(2), s.arg(3), s.arg(4)}, ", ")+`, 'active')`, id, dataEncryption, stored, string(n8ncrypt.AlgorithmGCM))
	return previous, err
}
