package faultproxy

import (
	"io"
	"net"
	"sync"
	"testing"
)

// TCP passes bytes on, and cuts connections or lets them stand still.
type TCP struct {
	backend string
	l       net.Listener
	done    chan struct{}
	all     sync.WaitGroup

	mu    sync.Mutex
	plans []Plan
	open  map[net.Conn]bool
	count int
}

// Plan is what happens to one connection: after so many bytes in a direction, it
// is cut, or stands still for good. Zero means that nothing happens there.
type Plan struct {
	Up, Down int64 // bytes from and to the client
	Stall    bool  // stand still instead of being cut
}

// NewTCP starts a proxy before the server at backend, HOST:PORT.
func NewTCP(t testing.TB, backend string) *TCP {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("faultproxy: %v", err)
	}
	p := &TCP{backend: backend, l: l, done: make(chan struct{}), open: map[net.Conn]bool{}}
	p.all.Go(p.accept)
	t.Cleanup(func() {
		p.l.Close()
		close(p.done)
		p.CutAll()
		p.all.Wait()
	})
	return p
}

// Addr is HOST:PORT of the proxy.
func (p *TCP) Addr() string { return p.l.Addr().String() }

// Next sets what happens to the next connections, in their order; later ones are
// unharmed.
func (p *TCP) Next(plans ...Plan) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plans = append(p.plans, plans...)
}

// Connections is how many were made so far.
func (p *TCP) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// CutAll cuts every connection that is open now.
func (p *TCP) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		cut(c)
	}
}

func (p *TCP) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		var plan Plan
		if len(p.plans) > 0 {
			plan, p.plans = p.plans[0], p.plans[1:]
		}
		p.count++
		p.mu.Unlock()
		p.all.Go(func() { p.serve(client, plan) })
	}
}

func (p *TCP) serve(client net.Conn, plan Plan) {
	server, err := net.Dial("tcp", p.backend)
	if err != nil {
		cut(client)
		return
	}
	p.mu.Lock()
	p.open[client], p.open[server] = true, true
	p.mu.Unlock()
	select {
	case <-p.done:
		cut(client)
		cut(server)
	default:
	}
	var both sync.WaitGroup
	// The client goes first: the end of the server's side would look to it like an
	// ordinary one.
	end := func() {
		cut(client)
		cut(server)
	}
	both.Go(func() { p.pump(server, client, plan.Up, plan.Stall, end) })
	both.Go(func() { p.pump(client, server, plan.Down, plan.Stall, end) })
	both.Wait()
	p.mu.Lock()
	delete(p.open, client)
	delete(p.open, server)
	p.mu.Unlock()
}

// pump passes one direction on; its end is the end of both.
func (p *TCP) pump(dst, src net.Conn, limit int64, stall bool, end func()) {
	if limit == 0 {
		io.Copy(dst, src)
		if tcp, ok := dst.(*net.TCPConn); ok {
			tcp.CloseWrite()
		}
		return
	}
	if _, err := io.CopyN(dst, src, limit); err == nil && stall {
		<-p.done
	}
	end()
}
