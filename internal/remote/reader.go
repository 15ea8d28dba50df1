package remote

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrStalled is what a [Reader] reports of a connection that yields nothing.
var ErrStalled = errors.New("nothing arrives any more")

// Reader yields an object of known size and goes on where it was when the
// connection breaks. It ends with its context.
type Reader struct {
	Size int64
	// Open asks for the object from a byte on. Errors marked by [Again] are tried again.
	Open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	// Fail makes the error that the reading ends with; optional.
	Fail  func(err error, offset int64) error
	Retry Retry
	// Stall is for how long nothing may arrive before the connection counts as broken; 0 for 90 s.
	Stall time.Duration

	ctx    context.Context
	offset int64
	body   io.ReadCloser
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

// Start opens the object for the first time.
func (r *Reader) Start(ctx context.Context) error {
	r.ctx = ctx
	if r.Stall == 0 {
		r.Stall = 90 * time.Second
	}
	if r.Size == 0 {
		return nil
	}
	return r.open()
}

func (r *Reader) open() error {
	return r.Retry.Do(r.ctx, func(int) error {
		ctx, cancel := context.WithCancelCause(r.ctx)
		timer := time.AfterFunc(r.Stall, func() { cancel(ErrStalled) })
		body, err := r.Open(ctx, r.offset)
		if err != nil {
			timer.Stop()
			if r.ctx.Err() == nil && context.Cause(ctx) == ErrStalled {
				err = Again(ErrStalled, 0)
			}
			cancel(nil)
			return err
		}
		r.body, r.cancel, r.timer = body, cancel, timer
		return nil
	})
}

func (r *Reader) Read(p []byte) (int, error) {
	for failures := 0; ; failures++ {
		if r.ctx.Err() != nil {
			return 0, context.Cause(r.ctx)
		}
		if r.offset == r.Size {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		if r.body == nil {
			if err := r.open(); err != nil {
				return 0, r.fail(err)
			}
		}
		r.timer.Reset(r.Stall)
		n, err := r.body.Read(p[:min(int64(len(p)), r.Size-r.offset)])
		r.timer.Stop() // a consumer may take its time
		r.offset += int64(n)
		if n > 0 {
			if err != nil {
				r.drop()
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		r.drop()
		if r.ctx.Err() != nil {
			return 0, context.Cause(r.ctx)
		}
		if failures >= 5 {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, r.fail(err)
		}
		if err := r.Retry.Pause(r.ctx, failures); err != nil {
			return 0, err
		}
	}
}

func (r *Reader) fail(err error) error {
	if r.Fail != nil && r.ctx.Err() == nil {
		return r.Fail(err, r.offset)
	}
	return err
}

func (r *Reader) drop() {
	if r.body == nil {
		return
	}
	r.timer.Stop()
	r.cancel(nil)
	r.body.Close()
	r.body = nil
}

// Close implements io.Closer.
func (r *Reader) Close() error {
	r.drop()
	return nil
}
