// Package faultproxy stands between a client and a real server, in tests, and
// makes the network and the server fail on demand: throttling, errors, lost
// answers, connections that are cut or stand still in mid-body, wrong clocks.
//
//	p := faultproxy.New(t, "127.0.0.1:7070")
//	p.Inject(faultproxy.Fault{Match: faultproxy.Method("PUT"), Kind: faultproxy.LoseAnswer})
//	... use p.URL() as the endpoint ...
//
// Each request takes the first fault that matches it and is not used up, and
// passes unharmed when there is none. The proxy speaks HTTP/1.1 without TLS and
// changes nothing in what it lets through, the Host header included, so signed
// requests stay valid. [NewTCP] is the same for protocols that are not HTTP.
package faultproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Kind is what happens to a request.
type Kind int

const (
	// Answer replies with Status, Header and Body, and the server never hears of it.
	Answer Kind = iota
	// AnswerAfter lets the server do its work, and replies with Status all the same.
	AnswerAfter
	// LoseAnswer lets the server do its work, and then cuts the connection.
	LoseAnswer
	// CutRequest passes After bytes of the request's body on and then cuts both connections.
	CutRequest
	// CutAnswer passes After bytes of the answer's body on and then ends the connection.
	// It is not reset: a reset may overtake and discard what was passed on.
	CutAnswer
	// StallRequest reads After bytes of the request's body and then nothing more, and never answers.
	StallRequest
	// StallAnswer passes After bytes of the answer's body on and then nothing more.
	StallAnswer
	// Reset cuts the connection as soon as it has read the request's head.
	Reset
	// ShiftDate lets all pass, with Shift added to the answer's Date.
	ShiftDate
)

// Fault is something that goes wrong.
type Fault struct {
	Match func(*http.Request) bool // nil: every request
	Skip  int                      // so many matching requests pass unharmed first
	Times int                      // how often; 0 means once, a negative number for ever
	Kind  Kind

	After  int64 // bytes, for the kinds that cut and stall
	Status int   // for Answer and AnswerAfter
	Header http.Header
	Body   string
	Shift  time.Duration
}

// Method matches requests of a method.
func Method(method string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method }
}

// Query matches requests of a method whose query has a parameter, with any value.
func Query(method, parameter string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method && r.URL.Query().Has(parameter) }
}

// Request is one that came to the proxy.
type Request struct {
	Method, Path, Query string
	Header              http.Header
	Harmed              bool // a fault was applied
}

func (r Request) String() string {
	s := r.Method + " " + r.Path
	if r.Query != "" {
		s += "?" + r.Query
	}
	return s
}

// Proxy is a running proxy. It ends with the test.
type Proxy struct {
	backend string
	l       net.Listener
	done    chan struct{}
	all     sync.WaitGroup

	mu       sync.Mutex
	faults   []*Fault
	requests []Request
	open     map[net.Conn]bool
}

// New starts a proxy before the server at backend, HOST:PORT or http://HOST:PORT.
func New(t testing.TB, backend string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("faultproxy: %v", err)
	}
	p := &Proxy{backend: strings.TrimPrefix(backend, "http://"), l: l, done: make(chan struct{}), open: map[net.Conn]bool{}}
	p.all.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is HOST:PORT of the proxy.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// URL is http://HOST:PORT of the proxy.
func (p *Proxy) URL() string { return "http://" + p.Addr() }

// Inject adds faults behind those that are there.
func (p *Proxy) Inject(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range faults {
		if f.Times == 0 {
			f.Times = 1
		}
		p.faults = append(p.faults, &f)
	}
}

// Clear removes all faults and forgets all requests.
func (p *Proxy) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults, p.requests = nil, nil
}

// Left is how many faults have not done all their harm yet.
func (p *Proxy) Left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, f := range p.faults {
		if f.Times > 0 {
			n++
		}
	}
	return n
}

// Requests are all that came so far.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Request{}, p.requests...)
}

func (p *Proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		if !p.track(c) {
			return
		}
		p.all.Go(func() {
			defer p.untrack(c)
			p.serve(c)
		})
	}
}

func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.done:
		c.Close()
		return false
	default:
	}
	p.open[c] = true
	return true
}

func (p *Proxy) untrack(c net.Conn) {
	p.mu.Lock()
	delete(p.open, c)
	p.mu.Unlock()
	c.Close()
}

func (p *Proxy) close() {
	p.l.Close()
	p.mu.Lock()
	close(p.done)
	for c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
	p.all.Wait()
}

// choose takes the fault of a request, nil for none.
func (p *Proxy) choose(r *http.Request) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	var chosen *Fault
	for _, f := range p.faults {
		if f.Times == 0 || f.Match != nil && !f.Match(r) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			f.Times--
		}
		c := *f
		chosen = &c
		break
	}
	p.requests = append(p.requests, Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header.Clone(), Harmed: chosen != nil})
	return chosen
}

func (p *Proxy) serve(client net.Conn) {
	in := bufio.NewReader(client)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if !p.exchange(client, r, p.choose(r)) {
			return
		}
	}
}

// cut ends a connection with a reset, so that the other side sees no ordinary end.
func cut(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// exchange handles one request and reports whether the connection goes on.
func (p *Proxy) exchange(client net.Conn, r *http.Request, f *Fault) bool {
	if f != nil && f.Kind == Reset {
		cut(client)
		return false
	}
	if r.Header.Get("Expect") != "" {
		r.Header.Del("Expect")
		if _, err := io.WriteString(client, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return false
		}
	}
	if f != nil && f.Kind == Answer {
		io.Copy(io.Discard, r.Body)
		return f.answer(client, r) == nil
	}
	if f != nil && f.Kind == StallRequest {
		io.CopyN(io.Discard, r.Body, f.After)
		<-p.done
		return false
	}
	server, err := net.Dial("tcp", p.backend)
	if err != nil {
		(&Fault{Status: http.StatusBadGateway, Body: err.Error()}).answer(client, r)
		return false
	}
	if !p.track(server) {
		return false
	}
	defer p.untrack(server)
	if f != nil && f.Kind == CutRequest {
		r.Body = &cutting{r.Body, f.After}
	}
	r.Close = true // the connection to the server is for this request alone
	if err := r.Write(server); err != nil {
		cut(server)
		cut(client)
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(server), r)
	if err != nil {
		cut(client)
		return false
	}
	defer resp.Body.Close()
	return p.reply(client, r, resp, f)
}

func (p *Proxy) reply(client net.Conn, r *http.Request, resp *http.Response, f *Fault) bool {
	resp.Close = false
	resp.Header.Del("Connection")
	if f == nil {
		return resp.Write(client) == nil
	}
	switch f.Kind {
	case LoseAnswer:
		io.Copy(io.Discard, resp.Body)
		cut(client)
		return false
	case AnswerAfter:
		io.Copy(io.Discard, resp.Body)
		return f.answer(client, r) == nil
	case ShiftDate:
		if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			resp.Header.Set("Date", t.Add(f.Shift).UTC().Format(http.TimeFormat))
		}
		return resp.Write(client) == nil
	case CutAnswer, StallAnswer:
		resp.Body = io.NopCloser(&cutting{resp.Body, f.After})
		err := resp.Write(client)
		if f.Kind == StallAnswer && errors.Is(err, errCut) {
			<-p.done
		}
		return false
	}
	return false
}

func (f *Fault) answer(client net.Conn, r *http.Request) error {
	resp := &http.Response{StatusCode: f.Status, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: r,
		ContentLength: int64(len(f.Body)), Body: io.NopCloser(strings.NewReader(f.Body))}
	for name, values := range f.Header {
		resp.Header[name] = values
	}
	if resp.Header.Get("Date") == "" {
		resp.Header.Set("Date", time.Now().Add(f.Shift).UTC().Format(http.TimeFormat))
	}
	resp.Header.Set("Content-Length", strconv.Itoa(len(f.Body)))
	return resp.Write(client)
}

var errCut = errors.New("faultproxy: cut here")

// cutting fails after so many bytes.
type cutting struct {
	r    io.Reader
	left int64
}

func (c *cutting) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errCut
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

func (c *cutting) Close() error { return nil }

// S3Error is the body of an error answer in S3's protocol.
func S3Error(code string) string {
	return fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>injected</Message></Error>`, code)
}
