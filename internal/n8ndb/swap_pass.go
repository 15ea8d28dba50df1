package n8ndb

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// PassConfig says what one walk through the database changes.
type PassConfig struct {
	Keys       *Keyset       // required
	Receipt    audit.Receipt // required, valid
	Executions ExecutionScope
	// Seal decides what a value becomes, see [Keyset.Reseal]. Required.
	Seal func(p Place, s Secret, plaintext []byte) (text string, change bool, err error)
	// Digest is of a plaintext before and after; a column whose digests differ is not
	// committed. Required.
	Digest func(place, row string, plaintext []byte) string
	// BatchRows and BatchBytes bound one transaction; 0 is 25 rows and 256 KiB. A
	// single row may be larger.
	BatchRows, BatchBytes int
	// Wait is called after every transaction with the rows that it has written and how
	// long it took; an error ends the walk. Optional.
	Wait func(ctx context.Context, rows int, took time.Duration) error
	// Visit is told of every value, as it was before. Optional.
	Visit    func(Secret) error
	Progress func(table string, rows, changed int64) // optional
}

// Passed is what a walk met and did.
type Passed struct {
	Rows     int64 // that were read
	Values   int64
	Changed  int64             // values that were written
	Written  int64             // rows
	Lost     int64             // rows that were not written, because somebody else has written or locked them
	Unopened int64             // values that open under no key
	ByPlace  map[PlaceID]int64 // values that were written
	Sessions []string          // ids of users whose MFA secret begins otherwise than before
	Longest  time.Duration     // of all transactions
}

// Pass walks through every place of the catalogue that takes values under either kind
// of key, the files of place 18 left out, and writes what Seal changes. It reads in
// pages and writes in short transactions, so that it holds up neither n8n's writes nor
// the cleaning up after them. Before a transaction is committed, every column in it is
// read back and opened, and its digests are compared.
//
// A column that is not any more what was read is left to the next walk. An error ends
// the walk; what was committed stays. Key rows that are not any more what Keys was made
// from are one, of kind Busy: the keys may be others now.
func (s *Swapper) Pass(ctx context.Context, cfg PassConfig) (Passed, error) {
	p := &pass{s: s, cfg: &cfg, done: Passed{ByPlace: map[PlaceID]int64{}}}
	switch {
	case cfg.Keys == nil || cfg.Seal == nil || cfg.Digest == nil:
		return p.done, problem.New(problem.Unexpected, "a walk needs a key set, a sealer and a digest")
	case !cfg.Receipt.Valid():
		return p.done, &problem.Error{Kind: problem.Unexpected, Err: errNoReceipt}
	}
	cfg.BatchRows = cmp.Or(cfg.BatchRows, 25)
	cfg.BatchBytes = cmp.Or(cfg.BatchBytes, 256<<10)
	for _, c := range s.swapColumns() {
		if c.flatted && cfg.Executions == NoExecutions {
			continue
		}
		if err := p.column(ctx, c); err != nil {
			return p.done, err
		}
	}
	return p.done, nil
}

// swapColumn is a column with all places that lie in it.
type swapColumn struct {
	table   *Table
	column  *Column
	places  []Place
	flatted bool
}

// swapColumns are the columns of this database in the order of the catalogue.
func (db *DB) swapColumns() []swapColumn {
	var list []swapColumn
	for _, p := range Catalogue() {
		t := db.table(p.Table)
		if p.Encoding != V2 || p.Container == Bundle || t.Column(p.Column) == nil {
			continue
		}
		i := slices.IndexFunc(list, func(c swapColumn) bool { return c.table == t && c.column.Name == p.Column })
		if i < 0 {
			i = len(list)
			list = append(list, swapColumn{table: t, column: t.Column(p.Column), flatted: p.Container == Flatted})
		}
		list[i].places = append(list[i].places, p)
	}
	return list
}

// pass is one walk.
type pass struct {
	s     *Swapper
	cfg   *PassConfig
	done  Passed
	batch []swapChange
	bytes int
}

// swapRow is a row that was read.
type swapRow struct {
	id   string
	key  []any  // values of the primary key, as arguments
	name string // settings.key
	text string
	blob bool // SQLite: the column holds bytes
}

// stored is a text as the column holds it, for comparing and writing.
func (r *swapRow) stored(text string) any {
	if r.blob {
		return []byte(text)
	}
	return text
}

// swapChange is a column to write.
type swapChange struct {
	row     swapRow
	after   string
	places  []Place
	digests []string // of all values in the column that open
	changed map[PlaceID]int64
}

func (p *pass) column(ctx context.Context, c swapColumn) error {
	if len(c.table.PrimaryKey) == 0 {
		return problem.New(problem.Unexpected, "the table %q has no primary key", c.table.Name)
	}
	var rows int64
	for after := []any(nil); ; {
		page, more, err := p.s.page(ctx, c, p.cfg.Executions, after)
		if err != nil {
			return err
		}
		for _, row := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			rows++
			p.done.Rows++
			if err := p.row(ctx, c, row); err != nil {
				return err
			}
		}
		if err := p.flush(ctx, c); err != nil { // a page is not kept longer than it is worked on
			return err
		}
		if p.cfg.Progress != nil && len(page) > 0 {
			p.cfg.Progress(c.table.Name, rows, p.done.Changed)
		}
		if !more {
			return nil
		}
		after = page[len(page)-1].key
	}
}

// row finds out what a row becomes, and queues it if that is something else.
func (p *pass) row(ctx context.Context, c swapColumn, row swapRow) error {
	places := c.places
	if c.table.Name == settingsTable {
		places = nil
		for _, place := range c.places {
			if place.selects(row.name, "") {
				places = append(places, place)
			}
		}
	}
	change := swapChange{row: row, places: places, changed: map[PlaceID]int64{}}
	after, err := p.edit(places, row.id, row.text, func(place Place, s Secret, plaintext []byte) (string, bool, error) {
		p.done.Values++
		if s.Opens {
			change.digests = append(change.digests, p.cfg.Digest(string(place.ID), s.Row, plaintext))
		} else {
			p.done.Unopened++
		}
		if p.cfg.Visit != nil {
			if err := p.cfg.Visit(s); err != nil {
				return "", false, err
			}
		}
		if !s.Opens {
			return "", false, nil
		}
		text, yes, err := p.cfg.Seal(place, s, plaintext)
		if yes && err == nil {
			change.changed[place.ID]++
		}
		return text, yes, err
	})
	if err != nil || after == row.text {
		return err
	}
	change.after = after
	p.batch = append(p.batch, change)
	if p.bytes += len(row.text) + len(after); len(p.batch) >= p.cfg.BatchRows || p.bytes >= p.cfg.BatchBytes {
		return p.flush(ctx, c)
	}
	return nil
}

// edit opens every value of a column and hands it to seal, as EditColumn does.
func (p *pass) edit(places []Place, row, text string, seal func(Place, Secret, []byte) (string, bool, error)) (string, error) {
	return EditColumn(places, text, func(place *Place, v ColumnValue) (string, bool, error) {
		s := Secret{KeyRef: KeyUnknown, Format: n8ncrypt.None.String(), Problem: v.Problem}
		var plaintext []byte
		if v.Problem == "" {
			var err error
			if s, plaintext, err = p.cfg.Keys.judge(p.cfg.Receipt, place, placeRow{id: row + v.Suffix, value: v.Text}); err != nil {
				return "", false, err
			}
		}
		defer clear(plaintext)
		s.Place, s.Row = place.ID, row+v.Suffix
		return seal(*place, s, plaintext)
	})
}

// flush writes what is queued, in one transaction.
func (p *pass) flush(ctx context.Context, c swapColumn) error {
	batch := p.batch
	if len(batch) == 0 {
		return nil
	}
	p.batch, p.bytes = nil, 0
	failpoint.Hit("n8ndb.swap.begin")
	var written []bool
	var began time.Time
	err := p.s.inWrite(ctx, func(tx *swapTx) error {
		began = time.Now()
		if err := tx.sameKeys(ctx, p.cfg.Keys); err != nil {
			return err
		}
		var stored []string
		var err error
		if written, stored, err = tx.swap(ctx, c, batch); err != nil {
			return err
		}
		failpoint.Hit("n8ndb.swap.written")
		for i, yes := range written {
			if yes {
				if err := p.prove(c, batch[i], stored[i]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	took := time.Since(began)
	failpoint.Hit("n8ndb.swap.committed")
	p.done.Longest = max(p.done.Longest, took)
	rows := 0
	for i, change := range batch {
		if !written[i] {
			p.done.Lost++
			continue
		}
		rows++
		p.done.Written++
		for id, n := range change.changed {
			p.done.ByPlace[id] += n
			p.done.Changed += n
		}
		p.sessions(change)
	}
	if p.cfg.Wait != nil {
		return p.cfg.Wait(ctx, rows, took)
	}
	return nil
}

// prove opens what the database holds now, and compares.
func (p *pass) prove(c swapColumn, change swapChange, stored string) error {
	var digests []string
	_, err := p.edit(change.places, change.row.id, stored, func(place Place, s Secret, plaintext []byte) (string, bool, error) {
		if s.Opens {
			digests = append(digests, p.cfg.Digest(string(place.ID), s.Row, plaintext))
		}
		return "", false, nil
	})
	if err != nil {
		return err
	}
	if stored != change.after || !slices.Equal(digests, change.digests) {
		return problem.New(problem.Damaged, "what was written to %q of %q does not open to what it was before; it was not committed",
			c.table.Name+"."+c.column.Name, clip(change.row.id)).
			WithHint("nothing is lost; report this, and what changes rows of this table (a trigger?)")
	}
	return nil
}

// MFASecret is the place on which sessions depend.
const MFASecret PlaceID = "user.mfaSecret"

// sessions notes whose sessions end: n8n's depend on the first three characters.
func (p *pass) sessions(change swapChange) {
	if change.changed[MFASecret] == 0 || head(change.row.text, 3) == head(change.after, 3) {
		return
	}
	p.done.Sessions = append(p.done.Sessions, change.row.id)
}

// SecondFactors are the ids of the users whose second factor is switched on. One who is
// still setting it up has a secret, too, and no session that depends on it.
func (db *DB) SecondFactors(ctx context.Context) (map[string]bool, error) {
	users := map[string]bool{}
	err := db.view(ctx, func(v *view) error {
		t := db.table("user")
		if t.Column("id") == nil || t.Column("mfaEnabled") == nil {
			return nil
		}
		_, err := v.rows(ctx, `SELECT t."id" FROM `+db.from(t)+` AS t WHERE t."mfaEnabled"`, nil, 1, 0, func(cols []any) error {
			users[textOf(cols[0])] = true
			return nil
		})
		return err
	})
	return users, err
}

func head(s string, n int) string { return s[:min(n, len(s))] }

// errPageFull ends the reading of a page.
var errPageFull = errors.New("page is full")

// page reads the rows of a column behind a key.
func (s *Swapper) page(ctx context.Context, c swapColumn, scope ExecutionScope, after []any) (page []swapRow, more bool, err error) {
	err = s.view(ctx, func(v *view) error {
		ids, order := v.key(c.table)
		exprs := append(slices.Clone(ids), v.text(c.column))
		where := []string{"t." + quote(c.column.Name) + " IS NOT NULL"}
		join, limit := "", pageRows
		var args []any
		arg := func(a any) string {
			args = append(args, a)
			return s.arg(len(args))
		}
		switch {
		case c.table.Name == settingsTable:
			exprs = append(exprs, `t."key"`)
			var names []string
			for _, p := range c.places {
				names = append(names, arg(p.Key))
			}
			where = append(where, `t."key" IN (`+strings.Join(names, ", ")+`)`)
		case c.flatted:
			// Rows can be large, and most hold nothing of interest.
			limit = 32
			var holds []string
			for _, p := range c.places {
				holds = append(holds, v.contains(c.column, `"`+p.Path+`"`))
			}
			where = append(where, "("+strings.Join(holds, " OR ")+")")
			if entity := s.table("execution_entity"); entity != nil && scope != AllExecutions {
				join = ` JOIN ` + s.from(entity) + ` AS e ON e."id" = t."executionId"`
				where = append(where, v.unfinished())
			}
		}
		if after != nil {
			holders := make([]string, len(after))
			for i := range after {
				holders[i] = arg(after[i]) + s.castKey(c.table, i)
			}
			where = append(where, "("+strings.Join(order, ", ")+") > ("+strings.Join(holders, ", ")+")")
		}
		stmt := "SELECT " + strings.Join(exprs, ", ") + " FROM " + s.from(c.table) + " AS t" + join +
			" WHERE " + strings.Join(where, " AND ") + " ORDER BY " + strings.Join(order, ", ") + s.limit(limit)
		size := 0
		_, err := v.rows(ctx, stmt, args, len(exprs), 0, func(cols []any) error {
			row := swapRow{id: rowID(cols[:len(ids)]), text: textOf(cols[len(ids)])}
			_, row.blob = cols[len(ids)].([]byte)
			row.blob = row.blob && s.engine == SQLite
			for _, k := range cols[:len(ids)] {
				if s.engine == Postgres {
					k = textOf(k)
				}
				row.key = append(row.key, k)
			}
			if len(exprs) > len(ids)+1 {
				row.name = textOf(cols[len(ids)+1])
			}
			page = append(page, row)
			if size += len(row.text); size >= pageBytes {
				return errPageFull
			}
			return nil
		})
		more = errors.Is(err, errPageFull) || len(page) == limit
		if errors.Is(err, errPageFull) {
			return nil
		}
		return err
	})
	return page, more, err
}

// Reseal is what puts every value of a V2 place under one data key, or with an empty
// id under the instance key. done reports whether a value needs nothing: it is then
// left as it is. The data key must be one that the instance key has opened.
func (k *Keyset) Reseal(id string) (seal func(Place, Secret, []byte) (string, bool, error), done func(Secret) bool, err error) {
	if id == "" {
		done = func(s Secret) bool {
			return s.Opens && s.Format == n8ncrypt.CBC.String() && s.KeyRef == KeyInstance && !s.Misread
		}
		return func(_ Place, s Secret, plaintext []byte) (string, bool, error) {
			if done(s) {
				return "", false, nil
			}
			v, err := k.keys.Instance.EncryptCBC(plaintext)
			return v.String(), err == nil, err
		}, done, nil
	}
	key, ok := k.data[id]
	if !ok {
		return nil, nil, problem.New(problem.NotFound, "there is no data key %q that the instance key opens", clip(id)).
			WithHint("n8keep data-key list shows the ids")
	}
	done = func(s Secret) bool { return s.Opens && s.Format == n8ncrypt.Prefixed.String() && s.KeyRef == id }
	return func(_ Place, s Secret, plaintext []byte) (string, bool, error) {
		if done(s) {
			return "", false, nil
		}
		v, err := key.Encrypt(plaintext)
		return v.String(), err == nil, err
	}, done, nil
}
