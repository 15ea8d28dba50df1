package archive

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// One zstd frame holds this much of the tar stream. Frames are independent, so
// that they are compressed at the same time; a decoder reads them one after
// another as one stream (RFC 8878, section 3).
const frameBytes = 1 << 20

const (
	compressWorkers = 2
	spareFrames     = 4 // filled or waiting to be written, so that a pause of one side does not stop the other
)

// compressor cuts what is written to it into zstd frames, compresses them in
// compressWorkers goroutines and writes them in order to dst from one more
// goroutine. Memory: compressWorkers+spareFrames frames.
type compressor struct {
	dst     io.Writer
	current *frame
	free    chan *frame
	jobs    chan *frame // to the workers
	order   chan *frame // the same frames, to the one that writes
	failed  chan struct{}
	err     error // set before failed is closed
	skip    atomic.Bool
	workers sync.WaitGroup
	written sync.WaitGroup
	closed  bool
}

type frame struct {
	in, out []byte
	done    chan struct{} // one token when out is ready
}

func newCompressor(dst io.Writer) (*compressor, error) {
	const frames = compressWorkers + spareFrames
	c := &compressor{
		dst:    dst,
		free:   make(chan *frame, frames),
		jobs:   make(chan *frame, frames),
		order:  make(chan *frame, frames),
		failed: make(chan struct{}),
	}
	encoders := make([]*zstd.Encoder, compressWorkers)
	for i := range encoders {
		e, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithWindowSize(frameBytes),
			zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(true),
			zstd.WithLowerEncoderMem(true))
		if err != nil {
			return nil, fmt.Errorf("preparing zstd: %w", err)
		}
		encoders[i] = e
	}
	for range frames {
		c.free <- &frame{done: make(chan struct{}, 1)}
	}
	for _, e := range encoders {
		c.workers.Go(func() { c.compress(e) })
	}
	c.written.Go(c.drain)
	return c, nil
}

func (c *compressor) compress(e *zstd.Encoder) {
	for f := range c.jobs {
		if !c.skip.Load() {
			f.out = e.EncodeAll(f.in, f.out[:0])
		}
		f.done <- struct{}{}
	}
	e.Close()
}

func (c *compressor) drain() {
	for f := range c.order {
		<-f.done
		if !c.skip.Load() {
			if _, err := c.dst.Write(f.out); err != nil {
				c.err = err
				c.skip.Store(true)
				close(c.failed)
			}
		}
		c.free <- f
	}
}

// Write fails with the error of dst, possibly some calls late.
func (c *compressor) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		select {
		case <-c.failed:
			return total - len(p), c.err
		default:
		}
		if c.current == nil {
			c.current = <-c.free
			if c.current.in == nil {
				c.current.in = make([]byte, 0, frameBytes)
			}
			c.current.in = c.current.in[:0]
		}
		n := copy(c.current.in[len(c.current.in):frameBytes], p)
		c.current.in = c.current.in[:len(c.current.in)+n]
		p = p[n:]
		if len(c.current.in) == frameBytes {
			c.submit()
		}
	}
	return total, nil
}

func (c *compressor) submit() {
	f := c.current
	c.current = nil
	c.order <- f
	c.jobs <- f
}

// Close writes the last frame and waits for everything to be written.
func (c *compressor) Close() error {
	if c.current != nil {
		c.submit()
	}
	c.stop()
	return c.err
}

// Abort throws away what was not written yet and waits for a running Write of
// dst to return.
func (c *compressor) Abort() {
	c.skip.Store(true)
	c.stop()
}

func (c *compressor) stop() {
	if c.closed {
		return
	}
	c.closed = true
	close(c.jobs)
	close(c.order)
	c.workers.Wait()
	c.written.Wait()
}
