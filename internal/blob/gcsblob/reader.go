package gcsblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// stall is for how long a download may yield nothing before it is begun anew.
const stall = 90 * time.Second

// reader yields one generation of an object and goes on where it was when the
// connection breaks.
type reader struct {
	s          *Store
	ctx        context.Context
	name       string
	generation string
	size       int64

	offset int64
	body   io.ReadCloser
	cancel context.CancelFunc
	timer  *time.Timer
}

// open asks for the rest of the object.
func (r *reader) open() error {
	if r.offset == r.size {
		return nil
	}
	return r.s.cfg.Retry.Do(r.ctx, func(int) error {
		ctx, cancel := context.WithCancel(r.ctx)
		timer := time.AfterFunc(stall, cancel)
		resp, err := r.s.send(ctx, request{
			method: http.MethodGet, url: r.s.objectURL(r.name, url.Values{"alt": {"media"}, "generation": {r.generation}}),
			set: map[string]string{"Range": fmt.Sprintf("bytes=%d-", r.offset)},
		})
		if err == nil && resp.StatusCode == http.StatusOK && r.offset > 0 {
			err = errors.New("the server begins anew instead of going on")
		} else if err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
			err = refused(resp)
		}
		if err != nil {
			timer.Stop()
			cancel()
			if resp != nil {
				resp.Body.Close()
			}
			return err
		}
		r.body, r.cancel, r.timer = resp.Body, cancel, timer
		return nil
	})
}

func (r *reader) Read(p []byte) (int, error) {
	for failures := 0; ; failures++ {
		if r.ctx.Err() != nil {
			return 0, context.Cause(r.ctx)
		}
		if r.offset == r.size {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		if r.body == nil {
			if err := r.open(); err != nil {
				return 0, r.s.fail(err, "reading %q from %q at byte %d", r.name, r.s.cfg.location(), r.offset)
			}
		}
		r.timer.Reset(stall)
		n, err := r.body.Read(p[:min(int64(len(p)), r.size-r.offset)])
		r.offset += int64(n)
		if n > 0 {
			if err != nil && r.offset < r.size {
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
			return 0, r.s.fail(errors.Unwrap(lost(err)), "reading %q from %q at byte %d", r.name, r.s.cfg.location(), r.offset)
		}
		if err := r.s.cfg.Retry.Pause(r.ctx, failures); err != nil {
			return 0, err
		}
	}
}

func (r *reader) drop() {
	if r.body != nil {
		r.timer.Stop()
		r.cancel()
		r.body.Close()
		r.body = nil
	}
}

func (r *reader) Close() error {
	r.drop()
	return nil
}
