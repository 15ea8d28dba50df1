package sftpblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/faultproxy"
	"github.com/n8keep/n8keep/internal/problem"
)

func content() []byte {
	b := make([]byte, 1<<20+100_001)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// temporaries are the names that we leave in a folder besides objects.
func temporaries(t *testing.T, dir string) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, ".n8keep-*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// TestConnectionBreaks cuts the connection after more and more bytes in either
// direction, from the greeting to the last answer; each time the object is there
// afterwards, once and whole, and nothing else.
func TestConnectionBreaks(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	cuts := map[string][]int64{
		"up":   {1, 500, 2000, 3000, 5000, 50_000, 300_000, 600_000, 900_000, 1_100_000, 1_152_000},
		"down": {1, 1000, 2500, 3000, 3500, 4000, 4500, 5000, 5500, 6000, 6500, 7000},
	}
	if os.Getenv("N8KEEP_SOAK") != "" {
		for at := int64(1); at < 9000; at += 50 {
			cuts["down"] = append(cuts["down"], at)
		}
	}
	for way, list := range cuts {
		for _, at := range list {
			t.Run(fmt.Sprintf("%s after %d", way, at), func(t *testing.T) {
				t.Parallel()
				w := faultproxy.NewTCP(t, srv.Addr)
				cfg := throughWire(t, srv, w)
				cfg.ChunkSize = 256 << 10
				s := open(t, cfg)
				if way == "up" {
					w.Next(faultproxy.Plan{Up: at})
				} else {
					w.Next(faultproxy.Plan{Down: at})
				}
				info, err := s.Put(t.Context(), "a", bytes.NewReader(content()))
				if err != nil {
					t.Fatal(err)
				}
				if got := blobtest.ReadAll(t, s, "a"); info.Size != int64(len(got)) || !bytes.Equal(got, content()) {
					t.Errorf("%d bytes stored, %d sent, Put says %+v", len(got), len(content()), info)
				}
				if left := temporaries(t, cfg.Dir); len(left) > 0 {
					t.Errorf("left: %q", left)
				}
			})
		}
	}
}

// throughWire is for a new folder that is reached by a wire.
func throughWire(t *testing.T, srv *cloudtest.SFTP, w *faultproxy.TCP) Config {
	cfg := config(t, srv)
	cfg.Addr = w.Addr()
	cfg.KnownHosts = []string{knownHosts(t, w.Addr(), srv.HostKey)}
	return cfg
}

// Every connection breaks a few times before one lasts.
func TestManyBreaks(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	w := faultproxy.NewTCP(t, srv.Addr)
	cfg := throughWire(t, srv, w)
	cfg.ChunkSize = 256 << 10
	s := open(t, cfg)
	r := rand.New(rand.NewPCG(3, 4))
	for range 12 {
		if r.IntN(2) == 0 {
			w.Next(faultproxy.Plan{Up: 1 + r.Int64N(600_000)})
		} else {
			w.Next(faultproxy.Plan{Down: 1 + r.Int64N(6000)})
		}
	}
	s.cfg.Retry.Attempts = 30
	for i := range 3 {
		name := fmt.Sprint("a", i)
		if _, err := s.Put(t.Context(), name, bytes.NewReader(content())); err != nil {
			t.Fatal(err)
		}
		if got := blobtest.ReadAll(t, s, name); !bytes.Equal(got, content()) {
			t.Errorf("%d bytes stored, %d sent", len(got), len(content()))
		}
	}
	if left := temporaries(t, cfg.Dir); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A download goes on where it was.
func TestDownloadIsResumed(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	w := faultproxy.NewTCP(t, srv.Addr)
	cfg := throughWire(t, srv, w)
	if _, err := open(t, cfg).Put(t.Context(), "a", bytes.NewReader(content())); err != nil {
		t.Fatal(err)
	}
	s := open(t, cfg)
	w.Next(faultproxy.Plan{Down: 400_000})
	w.Next(faultproxy.Plan{Down: 200_000})
	if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, content()) {
		t.Errorf("%d bytes read", len(got))
	}
}

// A server that is gone: the error says so, and what to do.
func TestServerIsGone(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	w := faultproxy.NewTCP(t, srv.Addr)
	cfg := throughWire(t, srv, w)
	s := open(t, cfg)
	for range 30 {
		w.Next(faultproxy.Plan{Up: 10})
	}
	_, err := s.Put(t.Context(), "a", bytes.NewReader(content()))
	if problem.KindOf(err) != problem.Unreachable || problem.HintOf(err) == "" || !strings.HasPrefix(err.Error(), `storing "a" in "sftp://`) {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
	if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	cfg.Addr = "127.0.0.1:1"
	if _, err := open(t, cfg).Stat(t.Context(), "a"); problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody listens: %v", err)
	}
}

// What another try cannot help is not tried again, and a server that never answered
// a few times only: meanwhile a snapshot of the database is held.
func TestFirstConnectionFails(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	stranger, other := filepath.Join(t.TempDir(), "stranger"), filepath.Join(t.TempDir(), "other")
	cloudtest.NewKey(t, stranger, "")
	const hint = "no SSH server was reached at "
	for name, tc := range map[string]struct {
		change     func(*Config)
		dials      int
		text, hint string
	}{
		"refused": {func(c *Config) { c.Addr = "127.0.0.1:1" }, 5, "connection refused", hint + "127.0.0.1:1: check the host and the port"},
		"no such host": {func(c *Config) {
			c.Dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true}}
			}
		}, 5, "no such host", hint},
		"another key":   {func(c *Config) { c.KnownHosts = []string{knownHosts(t, srv.Addr, cloudtest.NewKey(t, other, ""))} }, 1, "is not the one in ", "somebody may be in between"},
		"login refused": {func(c *Config) { c.Keys = []string{stranger} }, 1, "refuses the login", "authorized_keys"},
	} {
		for what, f := range map[string]func(*Store) error{
			"put":  func(s *Store) error { _, err := s.Put(t.Context(), "a", strings.NewReader("x")); return err },
			"stat": func(s *Store) error { _, err := s.Stat(t.Context(), "a"); return err },
		} {
			cfg, dials := config(t, srv), 0
			tc.change(&cfg)
			next := cfg.Dial
			if next == nil {
				next = (&net.Dialer{}).DialContext
			}
			cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				dials++
				return next(ctx, network, addr)
			}
			err := f(open(t, cfg))
			if dials != tc.dials || problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), tc.text) || !strings.Contains(problem.HintOf(err), tc.hint) {
				t.Errorf("%s, %s: %v after %d dials, want %d; hint %q", name, what, err, dials, tc.dials, problem.HintOf(err))
			}
		}
	}
	// One that was there is waited for.
	cfg, dials, gone := config(t, srv), 0, false
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if dials++; gone {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	s := open(t, cfg)
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Fatal(err)
	}
	for _, c := range s.idle {
		c.close()
	}
	dials, gone = 0, true
	if _, err := s.Stat(t.Context(), "a"); dials < 8 || !strings.HasPrefix(problem.HintOf(err), "it was tried for a while") {
		t.Errorf("a server that is restarted: %v after %d dials", err, dials)
	}
}

// A server that is silent in the middle counts as gone after a while.
func TestSilentServer(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	w := faultproxy.NewTCP(t, srv.Addr)
	cfg := throughWire(t, srv, w)
	s := open(t, cfg)
	s.silence = 300 * time.Millisecond
	w.Next(faultproxy.Plan{Down: 3500, Stall: true})
	if _, err := s.Put(t.Context(), "a", bytes.NewReader(content())); err != nil {
		t.Fatal(err)
	}
	if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, content()) {
		t.Errorf("%d bytes stored", len(got))
	}
}

// What the server lost of what it had confirmed is noticed when the connection is
// made anew, and nothing becomes visible.
func TestServerLosesWhatItHad(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	for name, tc := range map[string]struct {
		harm func(path string) error
		want string
	}{
		"cut":     {func(path string) error { return os.Truncate(path, 1000) }, "of 524288 bytes that had arrived 1000 are left"},
		"zeroed":  {func(path string) error { return errors.Join(os.Truncate(path, 0), os.Truncate(path, 524288)) }, "what had arrived is not what was sent"},
		"removed": {os.Remove, "the part that had arrived is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, srv)
			cfg.ChunkSize = 256 << 10
			s := open(t, cfg)
			writes := 0
			s.fault = func(step string) error {
				if step == "write" {
					if writes++; writes == 3 {
						for _, path := range temporaries(t, cfg.Dir) {
							if err := tc.harm(path); err != nil {
								t.Error(err)
							}
						}
						return io.ErrUnexpectedEOF // as a broken connection says it
					}
				}
				return nil
			}
			_, err := s.Put(t.Context(), "a", bytes.NewReader(content()))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Put: %v", err)
			}
			if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// TestFaults fails each step; whatever is reported, the object is there as a whole
// or not at all, nothing temporary stays, and the next try ends well.
func TestFaults(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	errFault := errors.New("disk on fire")
	for step, stored := range map[string]bool{"write": false, "sync": false, "commit": false, "committed": true} {
		t.Run(step, func(t *testing.T) {
			cfg := config(t, srv)
			s := open(t, cfg)
			s.fault = func(at string) error {
				if at == step {
					return errFault
				}
				return nil
			}
			if _, err := s.Put(t.Context(), "a", bytes.NewReader(content())); !errors.Is(err, errFault) {
				t.Fatalf("Put: %v", err)
			}
			again := open(t, cfg)
			_, err := again.Stat(t.Context(), "a")
			if (err == nil) != stored {
				t.Errorf("Stat: %v", err)
			}
			if left := temporaries(t, cfg.Dir); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if _, err := again.Put(t.Context(), "a", bytes.NewReader(content())); err != nil && !errors.Is(err, blob.ErrExists) {
				t.Error(err)
			}
			if got := blobtest.ReadAll(t, again, "a"); !bytes.Equal(got, content()) {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
}

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	args := strings.Split(os.Getenv("SFTPBLOB_TEST_PUT"), "\n")
	if len(args) != 6 {
		os.Exit(m.Run())
	}
	left, err := strconv.Atoi(args[5])
	if err != nil {
		os.Exit(2)
	}
	s, err := New(context.Background(), Config{User: args[0], Addr: args[1], Dir: args[2], Keys: []string{args[3]}, KnownHosts: []string{args[4]}, Env: cloudtest.Env(), ChunkSize: 256 << 10})
	if err == nil {
		s.fault = func(string) error {
			if left--; left == 0 {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			return nil
		}
		_, err = s.Put(context.Background(), "a", bytes.NewReader(content()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A killed writer leaves an object that is whole, or none, and what else it left the
// next writer on the same machine removes at once.
func TestKilled(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	for step := 1; ; step++ {
		cfg := config(t, srv)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SFTPBLOB_TEST_PUT="+strings.Join([]string{cfg.User, cfg.Addr, cfg.Dir, srv.Key, srv.KnownHosts, strconv.Itoa(step)}, "\n"))
		out, err := cmd.CombinedOutput()
		if err == nil {
			if step < 7 {
				t.Errorf("only %d steps", step-1)
			}
			break
		}
		if cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: %v: %s", step, err, out)
		}
		s := open(t, cfg)
		if _, err := s.Stat(t.Context(), "a"); err == nil {
			if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, content()) {
				t.Errorf("step %d: a part of %d bytes is visible", step, len(got))
			}
		} else if !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("step %d: %v", step, err)
		}
		if _, err := s.Put(t.Context(), "b", strings.NewReader("next")); err != nil {
			t.Errorf("step %d: %v", step, err)
		}
		if left := temporaries(t, cfg.Dir); len(left) > 0 {
			t.Errorf("step %d: left: %q", step, left)
		}
	}
}

// The sweep knows leftovers from files of living writers, here and elsewhere.
func TestSweep(t *testing.T) {
	cfg := config(t, cloudtest.NewSFTP(t))
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	names := map[string]struct {
		age  time.Duration
		goes bool
	}{
		tempName(): {0, false}, // ours
		fmt.Sprintf("%s%s-%d-%s-x", durable.TempPrefix, machine(), os.Getpid(), "1"):           {0, true}, // a process that had our number
		fmt.Sprintf("%s%s-%d-%s-x", durable.TempPrefix, machine(), child.Process.Pid, "12345"): {0, true},
		durable.TempPrefix + "0123456789ab-1-1-young":                                          {50 * time.Minute, false},
		durable.TempPrefix + "0123456789ab-1-1-old":                                            {70 * time.Minute, true},
		durable.TempPrefix + "odd":                                                             {0, false},
		durable.TempPrefix + "odd-old":                                                         {70 * time.Minute, true},
		claimPrefix + "young":                                                                  {2 * time.Hour, false},
		claimPrefix + "old":                                                                    {25 * time.Hour, true},
		".other":                                                                               {100 * time.Hour, false},
		"object":                                                                               {100 * time.Hour, false},
	}
	for name, f := range names {
		path := filepath.Join(cfg.Dir, name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-f.age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(t, cfg).Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	for name, f := range names {
		if _, err := os.Lstat(filepath.Join(cfg.Dir, name)); (err != nil) != f.goes {
			t.Errorf("%s: %v, should go: %v", name, err, f.goes)
		}
	}
}

// A source that takes its time: the temporary file stays fresh.
func TestSlowSource(t *testing.T) {
	cfg := config(t, cloudtest.NewSFTP(t))
	cfg.Stale = 40 * time.Millisecond
	s := open(t, cfg)
	touched := make(chan struct{}, 1000)
	s.fault = func(step string) error {
		if step == "touch" {
			touched <- struct{}{}
		}
		return nil
	}
	info, err := s.Put(t.Context(), "a", readFunc(func(p []byte) (int, error) {
		<-touched
		// Long ago, until somebody touches it again.
		old := time.Now().Add(-time.Hour)
		files := temporaries(t, cfg.Dir)
		if len(files) != 1 {
			t.Errorf("files: %q", files)
			return 0, io.EOF
		}
		if err := os.Chtimes(files[0], old, old); err != nil {
			t.Error(err)
		}
		<-touched
		<-touched
		return 0, io.EOF // and nothing is written, which would touch it too
	}))
	if err != nil || time.Since(info.ModTime).Abs() > 30*time.Second {
		t.Errorf("%+v, %v", info, err)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
