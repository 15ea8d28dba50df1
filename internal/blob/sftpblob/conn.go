package sftpblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	dialTimeout = 30 * time.Second
	// A server that answers neither a request nor a sign of life for silence is gone.
	silence   = 90 * time.Second
	heartbeat = 25 * time.Second
	maxIdle   = 30 * time.Second // for how long a connection waits for its next use
)

// lostError is a connection that could not be made or broke.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// conn is a connection, used by one operation at a time.
type conn struct {
	s     *Store
	ctx   context.Context // of the operation that has it
	ssh   *ssh.Client
	sftp  *sftp.Client
	timer *time.Timer // ends it while idle
	stop  func() bool // the operation's context no longer ends it

	closing sync.Once
	closed  chan struct{}
}

// patient makes reads fail when the other side is silent for too long.
type patient struct {
	net.Conn
	silence time.Duration
}

func (p patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(p.silence)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

// do runs an operation that may be repeated, on as many connections as it takes.
func (s *Store) do(ctx context.Context, f func(c *conn, attempt int) error) error {
	return s.cfg.Retry.Do(ctx, func(attempt int) error {
		c, err := s.take(ctx)
		if err != nil {
			return err
		}
		return c.release(f(c, attempt))
	})
}

// take returns a connection, an old one if there is one. It ends with ctx.
func (s *Store) take(ctx context.Context) (*conn, error) {
	for {
		s.mu.Lock()
		if len(s.idle) == 0 {
			s.mu.Unlock()
			break
		}
		c := s.idle[len(s.idle)-1]
		s.idle = s.idle[:len(s.idle)-1]
		s.mu.Unlock()
		if c.timer.Stop() {
			return c.use(ctx), nil
		}
	}
	c, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	return c.use(ctx), nil
}

func (c *conn) use(ctx context.Context) *conn {
	c.ctx = ctx
	c.stop = context.AfterFunc(ctx, c.close)
	return c
}

// release gives the connection back after an operation that ended with err. If the
// connection is to blame, it is closed, and the error marked as worth another try.
func (c *conn) release(err error) error {
	ctx := c.ctx
	if !c.stop() {
		c.close()
		return context.Cause(ctx)
	}
	if lost(err) {
		c.close()
		return remote.Again(&lostError{fmt.Errorf("the connection broke: %w", err)}, 0)
	}
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	c.timer = time.AfterFunc(maxIdle, func() {
		s.mu.Lock()
		for i, other := range s.idle {
			if other == c {
				s.idle = append(s.idle[:i], s.idle[i+1:]...)
				break
			}
		}
		s.mu.Unlock()
		c.close()
	})
	s.idle = append(s.idle, c)
	return err
}

// lost tells a broken connection from an answer. Errors of ours are no answers of
// the server, but no failures of the connection either: they are marked by local.
func lost(err error) bool {
	var status *sftp.StatusError
	var local *localError
	switch {
	case err == nil, errors.As(err, &local), errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return false
	case errors.As(err, &status):
		return status.FxCode() == sftp.ErrSSHFxConnectionLost || status.FxCode() == sftp.ErrSSHFxNoConnection
	case errors.Is(err, sftp.ErrSSHFxConnectionLost), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return true
	}
	var n net.Error
	var op *net.OpError
	return errors.As(err, &n) || errors.As(err, &op) || strings.HasPrefix(err.Error(), "ssh: ")
}

// localError is an error that has nothing to do with the connection.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func (c *conn) close() {
	c.closing.Do(func() {
		close(c.closed)
		c.ssh.Close() // the SFTP client ends with it
	})
}

// dial connects, checks the server's key and logs in.
func (s *Store) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errors.New("the server does not answer in time"))
	defer cancel()
	raw, err := s.cfg.Dial(ctx, "tcp", s.cfg.Addr)
	if err != nil {
		return nil, remote.Again(&lostError{cause(ctx, err)}, 0)
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	var hostKey error
	cfg := s.client
	cfg.Auth = s.auth
	check := cfg.HostKeyCallback
	cfg.HostKeyCallback = func(name string, addr net.Addr, key ssh.PublicKey) error {
		s.heard.Store(true)
		hostKey = s.judge(check(name, addr, key), key)
		return hostKey
	}
	p := patient{raw, silence}
	if s.silence > 0 {
		p.silence = s.silence
	}
	transport, channels, requests, err := ssh.NewClientConn(p, s.cfg.Addr, &cfg)
	if err != nil {
		raw.Close()
		return nil, s.refused(cause(ctx, err), hostKey)
	}
	c := &conn{s: s, ssh: ssh.NewClient(transport, channels, requests), closed: make(chan struct{})}
	if c.sftp, err = sftp.NewClient(c.ssh, sftp.UseConcurrentWrites(true)); err != nil {
		c.ssh.Close()
		if ctx.Err() == nil && strings.Contains(err.Error(), "subsystem request failed") {
			return nil, &localError{problem.New(problem.Unreachable, "the server lets the user %s in, but offers no SFTP", s.cfg.User)}
		}
		return nil, remote.Again(&lostError{cause(ctx, err)}, 0)
	}
	if !stop() {
		c.close()
		return nil, remote.Again(&lostError{context.Cause(ctx)}, 0)
	}
	go c.live(p.silence)
	return c, nil
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return op
	}
	return err
}

// live asks for signs of life: without them a silent server looks like a slow one.
func (c *conn) live(silence time.Duration) {
	t := time.NewTicker(min(heartbeat, silence/3))
	defer t.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-t.C:
			if _, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil); err != nil {
				c.close()
				return
			}
		}
	}
}

// judge puts what known_hosts says of a key into words.
func (s *Store) judge(err error, key ssh.PublicKey) error {
	var k *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	host, port, _ := net.SplitHostPort(s.cfg.Addr)
	print := ssh.FingerprintSHA256(key)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &revoked):
		return problem.New(problem.Unreachable, "the server's key %s is revoked by known_hosts", print).
			WithHint("somebody may be in between: ask the server's owner")
	case errors.As(err, &k) && len(k.Want) > 0:
		return problem.New(problem.Unreachable, "the server's key %s is not the one in %s, line %d", print, k.Want[0].Filename, k.Want[0].Line).
			WithHint("somebody may be in between: ask the server's owner; if the key was changed, correct that line")
	case errors.As(err, &k):
		return problem.New(problem.Unreachable, "the server's key %s is not in known_hosts", print).
			WithHint("compare it with what the server's owner says, then: ssh-keyscan -p %s %s >> ~/.ssh/known_hosts", port, host)
	}
	return problem.Wrap(problem.Unreachable, err, "checking the server's key %s", print)
}

// refused tells what another try can help from what it cannot.
func (s *Store) refused(err, hostKey error) error {
	if hostKey != nil {
		return &localError{hostKey}
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "unable to authenticate"):
		return &localError{problem.New(problem.Unreachable, "the server refuses the login of the user %s", s.cfg.User).
			WithHint("%s; the public key belongs into the server's ~/.ssh/authorized_keys", whereSecretsBelong)}
	case strings.Contains(text, "no common algorithm"):
		return &localError{problem.New(problem.Unreachable, "the server and n8keep have no algorithm in common: %s", strings.TrimPrefix(text, "ssh: handshake failed: "))}
	}
	return remote.Again(&lostError{err}, 0)
}
