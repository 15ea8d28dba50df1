package gcsblob

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/remote"
)

// Limits of one request. A chunk of 8 MiB has chunkTimeout, so the slowest line
// that works has about 30 KB/s.
const (
	chunkTimeout = 5 * time.Minute
	callTimeout  = 90 * time.Second
)

func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   20 * time.Second,
			ResponseHeaderTimeout: chunkTimeout,
			IdleConnTimeout:       60 * time.Second,
			MaxIdleConnsPerHost:   8,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true,
		},
		// A redirect would carry the upload elsewhere; 308 means "go on" in this protocol.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// apiError is an answer that is not a success.
type apiError struct {
	Status  int
	Message string
}

func (e *apiError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the server answers %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("the server answers %d: %s", e.Status, e.Message)
}

func isStatus(err error, status int) bool {
	var api *apiError
	return errors.As(err, &api) && api.Status == status
}

type request struct {
	method string
	url    string
	body   []byte
	kind   string            // content type of body
	set    map[string]string // further headers
	header func(http.Header) // sees the answer's headers, also of refusals; optional
}

// call does a request that may be repeated, tries again as long as that makes
// sense, and decodes the answer into out unless that is nil.
func (s *Store) call(ctx context.Context, r request, out any) error {
	return s.cfg.Retry.Do(ctx, func(int) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		resp, err := s.send(ctx, r)
		if err != nil {
			return err
		}
		defer drain(resp)
		if resp.StatusCode/100 != 2 {
			return refused(resp)
		}
		return decode(resp, out)
	})
}

// send does one request. A failed connection is marked as worth another try; the
// answer's status is the caller's business.
func (s *Store) send(ctx context.Context, r request) (*http.Response, error) {
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, body)
	if err != nil {
		return nil, errors.New("the endpoint is not a URL")
	}
	if r.kind != "" {
		req.Header.Set("Content-Type", r.kind)
	}
	for k, v := range r.set {
		req.Header.Set(k, v)
	}
	if err := s.authorise(req); err != nil {
		return nil, err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, lost(err)
	}
	s.heard.Store(true)
	if r.header != nil {
		r.header(resp.Header)
	}
	return resp, nil
}

// lostError is a connection that could not be made or broke.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// lost marks a failure of the connection as worth another try.
func lost(err error) error {
	err = withoutURL(err)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("the server does not answer in time")
	}
	return remote.Again(&lostError{err}, 0)
}

// withoutURL takes the URL out of an error: that of an upload is a secret.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

func decode(resp *http.Response, out any) error {
	if out == nil {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 32<<20))
	if err != nil {
		return lost(fmt.Errorf("reading the answer: %w", err))
	}
	if err := json.Unmarshal(b, out); err != nil {
		return errors.New("the answer is not the JSON of Google Cloud Storage: is the endpoint right?")
	}
	return nil
}

// refused makes an error of an answer, marked if another try may end better.
func refused(resp *http.Response) error {
	e := &apiError{Status: resp.StatusCode, Message: message(resp)}
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return remote.Again(e, retryAfter(resp))
	}
	return e
}

func retryAfter(resp *http.Response) time.Duration {
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, 2*time.Minute)
}

func message(resp *http.Response) string {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var doc struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	text := string(b)
	if json.Unmarshal(b, &doc) == nil {
		text = doc.Error.Message
	}
	text = strings.Join(strings.Fields(text), " ")
	if strings.HasPrefix(text, "<") { // a page of some proxy
		return ""
	}
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "..."
	}
	return text
}

// drain lets the connection be used again.
func drain(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

func (s *Store) objectURL(name string, query url.Values) string {
	u := s.base + "/storage/v1/b/" + url.PathEscape(s.cfg.Bucket) + "/o/" + url.PathEscape(s.cfg.Prefix+name)
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	return u
}
