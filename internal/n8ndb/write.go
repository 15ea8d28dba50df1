package n8ndb

import (
	"context"
	"crypto/sha256"
	"errors"
	"iter"
	"time"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// SQLiteWriteConfig names a database file that nobody may have open.
type SQLiteWriteConfig struct {
	Path        string
	TablePrefix string // DB_TABLE_PREFIX
	// Hold says how to find out whether n8n is stopped.
	Hold HoldConfig
}

// PostgresWriteConfig names a database on a server that nobody may be using.
type PostgresWriteConfig struct {
	DSN         string // URL or key=value; its password is in no error
	Schema      string // DB_POSTGRESDB_SCHEMA; "" is public
	TablePrefix string // DB_TABLE_PREFIX
	AppName     string // application_name of the session; "" is n8keep
	// LockTimeout is how long somebody who holds a lock is waited for; 0 is 10 seconds.
	LockTimeout time.Duration
	// AssumeStopped goes on although other sessions are in the database.
	AssumeStopped bool
}

// Writer is one transaction in which nobody else changes n8n's secrets. What its DB
// reads, it reads inside the transaction, with the changes made so far. Nothing is
// changed for others before Commit, and nothing at all if the process dies before.
// It is not safe for concurrent use, nor may callbacks of a census or a Rewrite use it.
type Writer struct {
	*DB
	// Unchecked says in plain sentences what could not be checked of who else uses
	// the database; AssumeStopped was set, or it does not matter.
	Unchecked []string
	// Warnings are what went wrong without harm, in plain sentences.
	Warnings []string

	tx   writeTx
	done bool // committed, rolled back, or nobody knows
}

// writeTx is the transaction of one engine.
type writeTx interface {
	// update sets columns of one table by primary key, and says how many rows it found.
	update(ctx context.Context, t *Table, c *Column, rows []columnUpdate) (int64, error)
	// restore is update where the column still holds the bytes that a change left.
	restore(ctx context.Context, t *Table, c *Column, changes []Change) (Restored, error)
	// compare is restore without a change.
	compare(ctx context.Context, t *Table, c *Column, changes []Change) (Compared, error)
	// pages calls fn for the rows of a query, a page at a time, between which the
	// transaction may be used.
	pages(ctx context.Context, q query, fn func([]pageRow) error) error
	commit(ctx context.Context) (warnings []string, err error)
	rollback() error
	close() error
}

// columnUpdate is the new value of one column.
type columnUpdate struct {
	key   []any // as the engine gave it
	value string
	bytes bool // SQLite: the column holds a blob
}

// ErrCommitUnknown says that a commit was sent and no answer came: whether the database
// has the changes must be found out by reading it.
var ErrCommitUnknown = errors.New("it is not known whether the changes were committed")

// Sealer decides what a value becomes. Plaintext is nil for one that does not open, and
// the stored text for one with s.Plain; it must not be kept or changed. With change
// false the value stays as it is, byte for byte. s.Digest is set.
type Sealer func(p Place, s Secret, plaintext []byte) (text string, change bool, err error)

// RewriteConfig says what a Rewrite reads, and what it makes of it. Its functions are
// called one at a time, from another goroutine than the caller's.
type RewriteConfig struct {
	Keys       *Keyset       // required: opens the values
	Receipt    audit.Receipt // required, valid
	Executions ExecutionScope
	Seal       Sealer // required
	// Record gets every change before the database does; an error ends the Rewrite.
	// Optional, and not called for bundles.
	Record func(Change) error
	// Digest, DigestPlain and Visit are those of a census, of the values as they were
	// before. Optional.
	Digest      func(place, row string, plaintext []byte) string
	DigestPlain bool
	Visit       func(Secret) error
	// Progress is called now and then. Optional.
	Progress func(table string, rows int64)
}

func (cfg *RewriteConfig) check() error {
	switch {
	case cfg.Keys == nil, cfg.Seal == nil:
		return problem.New(problem.Unexpected, "rewriting needs a key set and a sealer")
	case !cfg.Receipt.Valid():
		return &problem.Error{Kind: problem.Unexpected, Err: errNoReceipt}
	}
	return nil
}

// Change is one column of one row that is rewritten.
type Change struct {
	Table, Column string   // table without prefix
	Key           []string // of the primary key, as text, in key order
	Before        string
	AfterSum      [sha256.Size]byte // SHA-256 of After
	After         string            // "" when read back from a journal
}

// Rewritten says what a Rewrite changed.
type Rewritten struct {
	Columns  int64 // of rows
	Values   int64
	ByPlace  map[PlaceID]int64 // values changed
	Unopened int64             // values that did not open, changed or not
}

// Restored says what a Restore did.
type Restored struct {
	Restored int64 // written back
	Same     int64 // held the old bytes already
	Changed  int64 // written by somebody else since
	Gone     int64 // of rows that are not there any more
}

func (r *Restored) add(o Restored) {
	r.Restored += o.Restored
	r.Same += o.Same
	r.Changed += o.Changed
	r.Gone += o.Gone
}

// Rewrite opens every value of the database in the order of a census, places of one
// column together, and replaces those that Seal says. Bundles are left to
// [Keyset.RewriteBundle]. After an error only Close may be called.
func (w *Writer) Rewrite(ctx context.Context, cfg RewriteConfig) (*Rewritten, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if w.done {
		return nil, errWriterDone()
	}
	r := &rewriter{w: w, cfg: &cfg, out: Rewritten{ByPlace: map[PlaceID]int64{}}}
	for _, places := range columnsOf(Catalogue()) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := r.column(ctx, places); err != nil {
			return nil, err
		}
	}
	return &r.out, nil
}

// Restore writes pre-images back where the column still holds the bytes that were
// written, by their SHA-256; others are left alone and counted. An error of the
// sequence ends it.
func (w *Writer) Restore(ctx context.Context, changes iter.Seq2[Change, error]) (sum Restored, err error) {
	err = w.eachBatch(ctx, changes, func(t *Table, c *Column, batch []Change) error {
		if c == nil { // n8n has dropped it since
			sum.Gone += int64(len(batch))
			return nil
		}
		done, err := w.tx.restore(ctx, t, c, batch)
		sum.add(done)
		return err
	})
	return sum, err
}

// Compared says what the columns of changes hold.
type Compared struct {
	Before int64
	After  int64
	Other  int64 // neither
	Gone   int64 // their rows are not there
}

// Compare tells which columns hold the bytes from before a change, and which the ones
// after it. It changes nothing. An error of the sequence ends it.
func (w *Writer) Compare(ctx context.Context, changes iter.Seq2[Change, error]) (sum Compared, err error) {
	err = w.eachBatch(ctx, changes, func(t *Table, c *Column, batch []Change) error {
		if c == nil {
			sum.Gone += int64(len(batch))
			return nil
		}
		done, err := w.tx.compare(ctx, t, c, batch)
		sum.Before += done.Before
		sum.After += done.After
		sum.Other += done.Other
		sum.Gone += done.Gone
		return err
	})
	return sum, err
}

// eachBatch hands out changes of one column at a time, which is nil where this
// database has none of that name.
func (w *Writer) eachBatch(ctx context.Context, changes iter.Seq2[Change, error], fn func(*Table, *Column, []Change) error) error {
	if w.done {
		return errWriterDone()
	}
	var batch []Change
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		t := w.table(batch[0].Table)
		err := fn(t, t.Column(batch[0].Column), batch)
		clear(batch)
		batch, size = batch[:0], 0
		return err
	}
	for change, err := range changes {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(batch) > 0 && (len(batch) == pageRows || size+len(change.Before) > pageBytes || batch[0].Table != change.Table || batch[0].Column != change.Column) {
			if err := flush(); err != nil {
				return err
			}
		}
		if t := w.table(change.Table); t != nil && len(change.Key) != max(len(t.PrimaryKey), 1) {
			return problem.New(problem.Damaged, "a change of %q has a key of %d columns", change.Table, len(change.Key))
		}
		batch = append(batch, change)
		size += len(change.Before)
	}
	return flush()
}

// Commit makes the changes durable. An error that is [ErrCommitUnknown] leaves open
// whether they were made; after any other they were not. It cannot be cancelled once
// it was sent.
func (w *Writer) Commit(ctx context.Context) error {
	if w.done {
		return errWriterDone()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w.done = true
	warnings, err := w.tx.commit(context.WithoutCancel(ctx))
	w.Warnings = append(w.Warnings, warnings...)
	return err
}

// Close rolls back what was not committed and lets others at the database. It may be
// called more than once.
func (w *Writer) Close() error {
	if w.tx == nil {
		return nil
	}
	tx := w.tx
	w.tx, w.writing = nil, nil
	var err error
	if !w.done {
		w.done = true
		failpoint.Hit("write.rollback")
		err = tx.rollback()
		failpoint.Hit("write.rolled-back")
	}
	return errors.Join(err, tx.close())
}

func errWriterDone() error {
	return problem.New(problem.Unexpected, "the transaction is over")
}
