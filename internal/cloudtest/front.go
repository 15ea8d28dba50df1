package cloudtest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Fault is what happens to a request instead of an ordinary answer.
type Fault struct {
	Status int         // answered instead of forwarding; 0 for none
	Header http.Header // of that answer
	Body   string      // of that answer

	CutRequest  int64 // the connection is reset after this many bytes of the body; the rest never arrives. 0 for not; -1 for at once
	CutResponse int64 // the request is served, and the connection ends after this many bytes of the answer's body; -1: before its first byte

	Skew string // the Date of the server's answer
}

// Front forwards HTTP requests to a server, except for the faults that Rule asks for.
type Front struct {
	URL string

	// Rule looks at each request, in the order of arrival, and returns its fault, nil for
	// none. It may be called from several goroutines, one at a time. Once there were
	// requests, Follow changes it.
	Rule func(n int, r *http.Request) *Fault

	mu       sync.Mutex
	n        int
	requests []string
	next     http.Handler
}

// NewFront starts a front before the server at the URL; it ends with the test.
func NewFront(t testing.TB, backend string) *Front {
	t.Helper()
	u, err := url.Parse(backend)
	must(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(u)
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { reset(w) },
		ErrorLog:     nil,
	}
	f := &Front{next: proxy}
	s := httptest.NewServer(f)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	f.URL = s.URL
	return f
}

// Requests are the methods and paths of the requests so far.
func (f *Front) Requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.requests...)
}

// Follow sets the rule for the requests to come.
func (f *Front) Follow(rule func(n int, r *http.Request) *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Rule = rule
}

func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.n++
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	var fault *Fault
	if f.Rule != nil {
		fault = f.Rule(f.n, r)
	}
	f.mu.Unlock()
	switch {
	case fault == nil:
		f.next.ServeHTTP(w, r)
	case fault.Status != 0:
		for k, v := range fault.Header {
			w.Header()[k] = v
		}
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(fault.Status)
		io.WriteString(w, fault.Body)
	case fault.CutRequest != 0:
		r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, max(fault.CutRequest, 0)), broken{}))
		f.next.ServeHTTP(discard{w.Header()}, r)
		reset(w)
	case fault.CutResponse != 0:
		rec := httptest.NewRecorder()
		f.next.ServeHTTP(rec, r)
		if fault.CutResponse < 0 {
			reset(w)
			return
		}
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes()[:min(fault.CutResponse, int64(rec.Body.Len()))])
		http.NewResponseController(w).Flush()
		// An ordinary end: a reset would also take away what the other side has not read yet.
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	default:
		rec := httptest.NewRecorder()
		f.next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.Header().Set("Date", fault.Skew)
		w.WriteHeader(rec.Code)
		io.Copy(w, bytes.NewReader(rec.Body.Bytes()))
	}
}

// broken is the end of a request that never arrived as a whole.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type discard struct{ h http.Header }

func (d discard) Header() http.Header       { return d.h }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// reset ends the connection so that the other side sees an error, not an end.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// Once is a rule that applies a fault to the n-th request (from 1) whose method and
// path contain the text, and to no other.
func Once(text string, n int, fault Fault) func(int, *http.Request) *Fault {
	seen := 0
	return func(_ int, r *http.Request) *Fault {
		if !strings.Contains(r.Method+" "+r.URL.String(), text) {
			return nil
		}
		if seen++; seen == n {
			return &fault
		}
		return nil
	}
}
