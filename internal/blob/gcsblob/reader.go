package gcsblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/n8keep/n8keep/internal/remote"
)

// reader opens one generation of an object.
func (s *Store) reader(ctx context.Context, name, generation string, size int64) (io.ReadCloser, error) {
	r := &remote.Reader{
		Size: size, Retry: s.cfg.Retry,
		Open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			return s.from(ctx, name, generation, offset)
		},
		Fail: func(err error, offset int64) error {
			var api *apiError
			if !errors.As(err, &api) {
				err = &lostError{withoutURL(err)}
			}
			return s.fail(err, "reading %q from %q at byte %d", name, s.cfg.location(), offset)
		},
	}
	return r, r.Start(ctx)
}

func (s *Store) from(ctx context.Context, name, generation string, offset int64) (io.ReadCloser, error) {
	resp, err := s.send(ctx, request{
		method: http.MethodGet, url: s.objectURL(name, url.Values{"alt": {"media"}, "generation": {generation}}),
		set: map[string]string{"Range": fmt.Sprintf("bytes=%d-", offset)},
	})
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusPartialContent, resp.StatusCode == http.StatusOK && offset == 0:
		return resp.Body, nil
	case resp.StatusCode == http.StatusOK:
		resp.Body.Close()
		return nil, errors.New("the server begins anew instead of going on")
	}
	defer drain(resp)
	return nil, refused(resp)
}
