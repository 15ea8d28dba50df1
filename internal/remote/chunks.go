package remote

import (
	"context"
	"io"
	"sync"
)

// Chunks reads a stream in pieces, one ahead of the consumer, so that a slow
// source and a slow store work at the same time. It holds at most two pieces.
type Chunks struct {
	cancel context.CancelFunc
	filled chan Chunk
	free   chan []byte
	done   sync.WaitGroup
}

// Chunk is a piece of a stream.
type Chunk struct {
	Data []byte // valid until the next call of Next
	Last bool   // the stream ends after it; then Data may be empty
	Err  error  // the source's error; then there is no Data
}

// NewChunks starts reading r in pieces of the given size; only the last piece is
// shorter. Close must be called.
func NewChunks(ctx context.Context, r io.Reader, size int) *Chunks {
	ctx, cancel := context.WithCancel(ctx)
	c := &Chunks{cancel: cancel, filled: make(chan Chunk), free: make(chan []byte, 2)}
	c.free <- nil
	c.free <- nil
	c.done.Go(func() { c.read(ctx, r, size) })
	return c
}

// read looks one byte ahead: only so is the last piece known as such.
func (c *Chunks) read(ctx context.Context, r io.Reader, size int) {
	var ahead []byte
	ended := false
	for {
		var buf []byte
		select {
		case buf = <-c.free:
		case <-ctx.Done():
			return
		}
		if buf == nil {
			buf = make([]byte, size+1)
		}
		n := copy(buf, ahead)
		var err error
		if !ended {
			var m int
			m, err = Fill(ctx, r, buf[n:])
			n += m
			ended = err == io.EOF
		}
		chunk := Chunk{Data: buf[:min(n, size)], Last: ended && n <= size}
		if err != nil && !ended {
			chunk = Chunk{Err: err}
		}
		ahead = append(ahead[:0], buf[min(n, size):n]...)
		select {
		case c.filled <- chunk:
		case <-ctx.Done():
			return
		}
		if chunk.Last || chunk.Err != nil {
			return
		}
	}
}

// Next returns the next piece; after the last one it must not be called. When ctx
// ends, the piece's Err says so.
func (c *Chunks) Next(ctx context.Context) Chunk {
	select {
	case chunk := <-c.filled:
		return chunk
	case <-ctx.Done():
		return Chunk{Err: context.Cause(ctx)}
	}
}

// Free gives the piece's memory back for the next reading.
func (c *Chunks) Free(chunk Chunk) {
	if cap(chunk.Data) > 0 {
		c.free <- chunk.Data[:cap(chunk.Data)]
	}
}

// Close ends the reading and waits until the source is no longer used. A source
// that blocks for ever blocks Close.
func (c *Chunks) Close() {
	c.cancel()
	c.done.Wait()
}

// Fill is io.ReadFull that keeps the source's own io.ErrUnexpectedEOF apart from
// an ordinary end (io.EOF, also after a part), and that ctx ends.
func Fill(ctx context.Context, r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}
