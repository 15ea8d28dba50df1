package sftpblob

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// servers are those that differ in how a name can be given: OpenSSH with hard links,
// OpenSSH without, and one whose rename replaces.
func servers() map[manner]func(t *testing.T) Config {
	return map[manner]func(t *testing.T) Config{
		byLink:   func(t *testing.T) Config { return config(t, cloudtest.NewSFTP(t)) },
		byRename: func(t *testing.T) Config { return config(t, cloudtest.NewSFTP(t, "-P hardlink,fsync")) },
		byClaim:  func(t *testing.T) Config { return replacing(t) },
	}
}

// replacing is pkg/sftp's own server without extensions: its rename replaces.
func replacing(t *testing.T) Config {
	t.Helper()
	if err := sftp.SetSFTPExtensions(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sftp.SetSFTPExtensions("hardlink@openssh.com", "posix-rename@openssh.com", "statvfs@openssh.com"); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	hostKey := cloudtest.NewKey(t, filepath.Join(dir, "host"), "")
	cloudtest.NewKey(t, filepath.Join(dir, "id"), "")
	private, err := os.ReadFile(filepath.Join(dir, "host"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	server := &ssh.ServerConfig{
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil },
		PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if string(password) == "geheim" {
				return nil, nil
			}
			return nil, errors.New("wrong")
		},
	}
	server.AddHostKey(signer)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveSFTP(c, server)
		}
	}()
	return Config{
		User: "somebody", Addr: l.Addr().String(), Dir: t.TempDir(), Keys: []string{filepath.Join(dir, "id")},
		KnownHosts: []string{knownHosts(t, l.Addr().String(), hostKey)}, Env: cloudtest.Env(), Retry: noWait(),
	}
}

func serveSFTP(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				r.Reply(r.Type == "subsystem" && conn.User() != "no-sftp", nil)
			}
		}()
		if s, err := sftp.NewServer(channel); err == nil {
			go s.Serve()
		}
	}
}

func TestManners(t *testing.T) {
	for want, server := range servers() {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			t.Parallel()
			cfg := server(t)
			s := open(t, cfg)
			if s.Properties().AtomicPut {
				t.Error("known before anything was tried")
			}
			if _, err := s.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
			if got := manner(s.manner.Load()); got != want || s.Properties().AtomicPut != (want == byLink) {
				t.Errorf("manner %d, want %d; %+v", got, want, s.Properties())
			}
			if entries, err := os.ReadDir(cfg.Dir); err != nil || len(entries) != 1 {
				t.Errorf("in the folder: %v, %v", entries, err)
			}
			if want == byLink {
				return // TestConformance
			}
			blobtest.Run(t, func(t *testing.T) blob.Store {
				cfg.Dir = t.TempDir()
				return open(t, cfg)
			})
		})
	}
}

// Several writers on connections and stores of their own, again and again: one wins.
func TestOneOfSeveralWritersWins(t *testing.T) {
	for m, server := range servers() {
		t.Run(fmt.Sprint(m), func(t *testing.T) {
			cfg := server(t)
			stores := make([]*Store, 4)
			for i := range stores {
				stores[i] = open(t, cfg)
				if _, err := stores[i].Put(t.Context(), fmt.Sprint("own-", i), strings.NewReader("x")); err != nil {
					t.Fatal(err)
				}
			}
			for round := range 10 {
				name := fmt.Sprint("a", round)
				errs := make([]error, len(stores))
				var ready, wg sync.WaitGroup
				ready.Add(len(stores))
				for i, s := range stores {
					wg.Go(func() {
						sent := false
						_, errs[i] = s.Put(t.Context(), name, readFunc(func(p []byte) (int, error) {
							if !sent {
								sent = true
								ready.Done()
								ready.Wait() // all have begun before one ends
								return copy(p, fmt.Sprint("writer ", i)), nil
							}
							return 0, errEOF
						}))
					})
				}
				wg.Wait()
				won := 0
				for i, err := range errs {
					if err == nil {
						won++
						if got := string(blobtest.ReadAll(t, stores[0], name)); got != fmt.Sprint("writer ", i) {
							t.Errorf("holds %q, writer %d won", got, i)
						}
					} else if !errors.Is(err, blob.ErrExists) {
						t.Errorf("writer %d: %v", i, err)
					}
				}
				if won != 1 {
					t.Errorf("round %d: %d writers won", round, won)
				}
			}
			if left := temporaries(t, cfg.Dir); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

func TestForeignThingsAreLeftAlone(t *testing.T) {
	cfg := config(t, cloudtest.NewSFTP(t))
	s := open(t, cfg)
	outside := filepath.Join(t.TempDir(), "outside")
	for _, err := range []error{
		os.WriteFile(outside, []byte("secret"), 0o600),
		os.Mkdir(filepath.Join(cfg.Dir, "folder"), 0o700),
		os.Symlink(outside, filepath.Join(cfg.Dir, "link")),
		os.WriteFile(filepath.Join(cfg.Dir, "with space"), nil, 0o600),
		os.WriteFile(filepath.Join(cfg.Dir, ".hidden"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if names := blobtest.Names(t, s, ""); len(names) != 0 {
		t.Errorf("List: %q", names)
	}
	for _, name := range []string{"folder", "link"} {
		if _, _, err := s.Get(t.Context(), name); !errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("Get %q: %v", name, err)
		}
		if err := s.Delete(t.Context(), name); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("Delete %q: %v", name, err)
		}
		if _, err := s.Put(t.Context(), name, strings.NewReader("x")); !errors.Is(err, blob.ErrExists) {
			t.Errorf("Put %q: %v", name, err)
		}
	}
	if entries, err := os.ReadDir(cfg.Dir); err != nil || len(entries) != 4 {
		t.Errorf("in the folder: %v, %v", entries, err)
	}
}

func TestFolderIsMade(t *testing.T) {
	cfg := config(t, cloudtest.NewSFTP(t))
	cfg.Dir = filepath.Join(cfg.Dir, "new", "target")
	s := open(t, cfg)
	for _, err := range s.List(t.Context(), "") {
		if !errors.Is(err, os.ErrNotExist) || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("List: %v", err)
		}
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, os.ErrNotExist) || errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), "the folder is not there") {
		t.Errorf("Stat: %v", err)
	}
	if _, err := s.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{cfg.Dir: 0o700, filepath.Dir(cfg.Dir): 0o700, filepath.Join(cfg.Dir, "a"): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%q: %v, %v", path, fi.Mode(), err)
		}
	}
	file := cfg
	file.Dir = filepath.Join(cfg.Dir, "a")
	if _, err := open(t, file).Put(t.Context(), "b", strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "is not a folder") {
		t.Errorf("a file: %v", err)
	}
}

// The roles of Policy on a real OpenSSH: what it refuses, and what the texts are.
func TestRoles(t *testing.T) {
	base := config(t, cloudtest.NewSFTP(t))
	if _, err := open(t, base).Put(t.Context(), "old", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	for role, want := range map[blob.Role]string{ // put get list overwrite delete hide shorten
		blob.Writer:   "yes no no yes yes not applicable/not applicable",
		blob.Restorer: "no yes yes unknown unknown not applicable/not applicable",
		blob.Pruner:   "no yes yes unknown unknown not applicable/not applicable",
	} {
		t.Run(string(role), func(t *testing.T) {
			text, err := Policy(base, role)
			if err != nil {
				t.Fatal(err)
			}
			_, options, _ := strings.Cut(text, "ForceCommand internal-sftp ")
			options, _, _ = strings.Cut(options, "\n")
			cfg := config(t, cloudtest.NewSFTP(t, options))
			cfg.Dir = base.Dir
			s := open(t, cfg)
			trials, err := s.Probe(t.Context(), "canary-"+string(role))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i, c := range blob.Capabilities() {
				if trials[i].Capability != c {
					t.Errorf("trial %d is of %q", i, trials[i].Capability)
				}
				got = append(got, string(trials[i].Answer))
			}
			if g := strings.Join(got[:6], " ") + "/" + got[6]; g != want {
				t.Errorf("got  %s\nwant %s\n%+v", g, want, trials)
			}
			_, putErr := s.Put(t.Context(), "new-"+string(role), strings.NewReader("x"))
			r, _, getErr := s.Get(t.Context(), "old")
			if getErr == nil {
				_, getErr = io.ReadAll(r) // refused is only the reading
				r.Close()
			}
			if (putErr == nil) != (role == blob.Writer) || (getErr == nil) != (role != blob.Writer) {
				t.Errorf("Put: %v; Get: %v", putErr, getErr)
			}
			for _, err := range []error{putErr, getErr} {
				if err != nil && (problem.KindOf(err) != problem.Unreachable || problem.HintOf(err) != "give the user "+cfg.User+" the rights for it on the server") {
					t.Errorf("%v, hint %q", err, problem.HintOf(err))
				}
			}
			if role == blob.Pruner {
				if err := s.Delete(t.Context(), "old"); err != nil {
					t.Error(err)
				}
				if _, err := open(t, base).Put(t.Context(), "old", strings.NewReader("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all, err := open(t, base).Probe(t.Context(), "canary")
	if err != nil || all[0].Answer != blob.Yes || all[3].Answer != blob.Yes || all[4].Answer != blob.Yes {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := open(t, base).Stat(t.Context(), "canary"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("the canary: %v", err)
	}
	if _, err := Policy(base, "king"); err == nil || err.Error() != `no role is called "king"` {
		t.Errorf("%v", err)
	}
}
