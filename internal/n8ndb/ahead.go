package n8ndb

import (
	"context"
	"errors"
	"sync"
)

// aheadRows and aheadBytes bound what is read before somebody has looked at it.
const (
	aheadRows  = 256
	aheadBytes = 1 << 20
)

var errAheadStopped = errors.New("nobody reads on")

type aheadRow struct {
	id   string
	cols []any
}

// ahead is each, but for the order in time: rows are read by another goroutine while fn
// works on those before. Fn is called by the caller's goroutine, and may keep the columns.
// Nothing is read beside a row above aheadBytes: the next one may be as large.
func (v *view) ahead(ctx context.Context, q query, fn func(row string, cols []any) error) (err error) {
	batches, stop := make(chan []aheadRow), make(chan struct{})
	var failed error
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(batches)
		var batch []aheadRow
		size := 0
		send := func() error {
			select {
			case batches <- batch:
				batch, size = nil, 0
				return nil
			case <-stop:
				return errAheadStopped
			}
		}
		failed = v.each(ctx, q, func(row string, cols []any) error {
			cols = keep(cols)
			batch = append(batch, aheadRow{row, cols})
			before := size
			for _, c := range cols {
				size += len(bytesOf(c))
			}
			large := size-before >= aheadBytes
			if len(batch) < aheadRows && size < aheadBytes {
				return nil
			}
			if err := send(); err != nil || !large {
				return err
			}
			return send() // nothing, which is taken when fn has returned from the last row
		})
		if failed == nil && len(batch) > 0 {
			failed = send()
		}
	})
	for batch := range batches {
		for _, r := range batch {
			if err = fn(r.id, r.cols); err != nil {
				close(stop)
				reader.Wait()
				return err
			}
		}
	}
	return failed
}
