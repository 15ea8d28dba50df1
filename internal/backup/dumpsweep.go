package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/pgclient"
	"github.com/n8keep/n8keep/internal/pgcopy"
	"github.com/n8keep/n8keep/internal/problem"
)

// dumpSweep looks through the rows of a dump on their way into the archive, so that
// the server reads each only once, and counts them: the manifest says what is in
// the archive and not what was in the database.
type dumpSweep struct {
	sweeper *n8ndb.RowSweeper
	schema  string

	mu   sync.Mutex
	rows map[string]int64 // of n8n's tables, by full name
}

func (t *take) newDumpSweep(ctx context.Context) (*dumpSweep, error) {
	r, err := t.db.NewRowSweeper(ctx, n8ndb.CensusConfig{Keys: t.keys, Receipt: t.Receipt, Executions: n8ndb.AllExecutions, Sweep: true, Needle: t.needle})
	return &dumpSweep{sweeper: r, schema: t.db.Schema(), rows: map[string]int64{}}, err
}

// handler is for one stream; several may be read at once.
func (s *dumpSweep) handler(ctx context.Context) pgcopy.Handler {
	return &sweptBlock{Handler: s.sweeper.Handler(), ctx: ctx, s: s}
}

type sweptBlock struct {
	pgcopy.Handler
	ctx   context.Context
	s     *dumpSweep
	table pgcopy.Table
}

func (b *sweptBlock) Begin(t pgcopy.Table) (skip bool, err error) {
	b.table = t
	if err := b.ctx.Err(); err != nil {
		return false, err
	}
	return b.Handler.Begin(t)
}

func (b *sweptBlock) End(rows int64) error {
	if b.table.Schema == b.s.schema {
		b.s.mu.Lock()
		b.s.rows[b.table.Name] += rows
		b.s.mu.Unlock()
	}
	return b.Handler.End(rows)
}

// counts are the rows of each table of n8n's. A table of which the dump says
// nothing is missing in it, unless all its rows were left out.
func (s *dumpSweep) counts(tables []n8ndb.Table, prefix string, filters map[string]n8ndb.RowFilter) ([]n8ndb.RowCount, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var counts []n8ndb.RowCount
	for _, t := range tables {
		rows, dumped := s.rows[prefix+t.Name]
		if _, filtered := filters[prefix+t.Name]; !dumped && !filtered {
			return nil, problem.New(problem.Unexpected, "the dump does not hold table %q", prefix+t.Name).
				WithHint("no archive was kept; try --engine native, and report it")
		}
		counts = append(counts, n8ndb.RowCount{Table: t.Name, Rows: rows})
	}
	return counts, nil
}

// sameRows compares what passed by with what the database counts in the same
// snapshot: two numbers that come to be in different ways.
func sameRows(dumped, counted []n8ndb.RowCount) error {
	if len(dumped) != len(counted) {
		return problem.New(problem.Unexpected, "the dump has %d tables, the database %d", len(dumped), len(counted))
	}
	for i, d := range dumped {
		if d != counted[i] {
			return problem.New(problem.Unexpected, "the dump has %d rows of table %q, the database %d of %q", d.Rows, d.Table, counted[i].Rows, counted[i].Table).
				WithHint("no archive was kept; try the other engine, and report it")
		}
	}
	return nil
}

// agree compares what was looked through with what was dumped, tables without rows
// included.
func (s *dumpSweep) agree(dumped map[string]int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for table, rows := range dumped {
		if seen := s.rows[table]; seen != rows && !strings.Contains(table, ".") {
			return problem.New(problem.Unexpected, "of %d rows of table %q %d were looked through", rows, table, seen)
		}
		if rows == 0 {
			s.rows[table] = 0
		}
	}
	return nil
}

// tee reads a dump of pg_dump while it is written to w: pg_restore makes rows of
// it. The returned close waits for the end and says what went wrong.
func (s *dumpSweep) tee(ctx context.Context, programs pgclient.Programs, w io.Writer) (io.Writer, func(dumped error) error) {
	customRead, customWrite := io.Pipe()
	scriptRead, scriptWrite := io.Pipe()
	done := make(chan error, 2)
	go func() {
		err := pgclient.ScriptFrom(ctx, programs, customRead, scriptWrite)
		customRead.CloseWithError(errStopped(err))
		scriptWrite.CloseWithError(err)
		done <- err
	}()
	go func() {
		err := pgcopy.ReadScript(scriptRead, s.handler(ctx))
		scriptRead.CloseWithError(errStopped(err))
		done <- err
	}()
	return io.MultiWriter(w, customWrite), func(dumped error) error {
		customWrite.CloseWithError(dumped)
		first, second := <-done, <-done
		if dumped != nil && !errors.Is(dumped, errReading) {
			return dumped
		}
		for _, err := range []error{first, second} {
			if err != nil && !errors.Is(err, errReading) {
				return err
			}
		}
		return dumped
	}
}

// errReading ends a pipe whose reader has failed: the reader's own error is the one to show.
var errReading = errors.New("the dump could not be read again")

func errStopped(err error) error {
	if err == nil {
		return nil
	}
	return errReading
}

// sweepers look through pieces of a native dump beside its writing.
type sweepers struct {
	pieces chan []byte
	ended  chan struct{}
	wg     sync.WaitGroup
	once   sync.Once
	err    error
}

const sweeperCount = 2

func (s *dumpSweep) sweepers(ctx context.Context) *sweepers {
	w := &sweepers{pieces: make(chan []byte, 1), ended: make(chan struct{})}
	for range sweeperCount {
		w.wg.Go(func() {
			for piece := range w.pieces {
				if err := pgcopy.ReadScript(bytes.NewReader(piece), s.handler(ctx)); err != nil {
					w.once.Do(func() { w.err = err; close(w.ended) })
				}
			}
		})
	}
	return w
}

// add hands over a copy of a piece; false when looking through one has failed.
func (w *sweepers) add(piece []byte) bool {
	select {
	case w.pieces <- bytes.Clone(piece):
		return true
	case <-w.ended:
		return false
	}
}

func (w *sweepers) close() error {
	close(w.pieces)
	w.wg.Wait()
	return w.err
}
