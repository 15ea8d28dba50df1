package sftpblob

import (
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

var errEOF = io.EOF

func noWait() remote.Retry {
	return remote.Retry{First: time.Millisecond, Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
}

// knownHosts writes a file that has the key for the address.
func knownHosts(t *testing.T, addr string, key ssh.PublicKey) string {
	t.Helper()
	return write(t, "known_hosts", knownhosts.Line([]string{addr}, key)+"\n")
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func parse(t *testing.T, text string) (Config, error) {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return Parse(u, cloudtest.Env())
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Config{
		"sftp://me@host/a/b/":           {User: "me", Addr: "host:22", Dir: "/a/b"},
		"sftp://me@host:2222/~/backups": {User: "me", Addr: "host:2222", Dir: "backups"},
		"sftp://me@host/~":              {User: "me", Addr: "host:22"},
		"sftp://me@[::1]:23/":           {User: "me", Addr: "[::1]:23", Dir: "/"},
		"sftp://me@host/a?key=file:/k&known_hosts=/kh&passphrase=env:P": {User: "me", Addr: "host:22", Dir: "/a", Keys: []string{"/k"}, KnownHosts: []string{"/kh"}, Passphrase: "env:P"},
		"sftp://me@host/a?key=agent&password=file:/p":                   {User: "me", Addr: "host:22", Dir: "/a", Agent: true, Password: "file:/p"},
	} {
		got, err := parse(t, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Config{}, "Env", "Now", "Retry", "Dial", "Logger")); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"sftp:///a":                            "target sftp://...: no host",
		"sftp://host/a":                        "target sftp://...: no user",
		"sftp://me@host":                       "target sftp://...: no path",
		"sftp://me:geheim@host/a":              "target sftp://...: a password inside the URL",
		"sftp://me@host/a?password=geheim":     `target sftp://...: parameter "password" holds neither a file nor a variable`,
		"sftp://me@host/a?passphrase=geheim:x": `target sftp://...: parameter "passphrase" holds neither a file nor a variable`,
		"sftp://me@host/a?token=geheim":        `target sftp://...: the secret parameter "token" inside the URL`,
		"sftp://me@host/a?retain=30d":          "target sftp://...: an SFTP server cannot lock files: retain and lock mean nothing here",
		"sftp://me@host/a?key=geheim":          `target sftp://...: parameter "key": want "file:PATH" or "agent"`,
		"sftp://me@host/a?colour=geheim":       `target sftp://...: unknown parameter "colour"`,
		"sftp://me@host/~/../geheim":           "target sftp://...: a path that is not printable, or leaves the user's folder",
	} {
		_, err := parse(t, text)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
		if problem.KindOf(err) != problem.Usage || strings.Contains(problem.HintOf(err)+err.Error(), "geheim") {
			t.Errorf("%s: kind %s, hint %q", text, problem.KindOf(err), problem.HintOf(err))
		}
	}
}

func TestLocation(t *testing.T) {
	for text, want := range map[string]string{
		"sftp://me@host:22/a/b?password=file:/p": "sftp://me@host/a/b",
		"sftp://me@host:2222/~/b":                "sftp://me@host:2222/~/b",
		"sftp://me@host/~":                       "sftp://me@host/~",
	} {
		if cfg, err := parse(t, text); err != nil || cfg.location() != want {
			t.Errorf("%s: %q, %v", text, cfg.location(), err)
		}
	}
}

func TestHostKeys(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	other := cloudtest.NewKey(t, filepath.Join(t.TempDir(), "other"), "")
	print := ssh.FingerprintSHA256(srv.HostKey)
	cfg := config(t, srv)
	for name, tc := range map[string]struct{ line, want, hint string }{
		"unknown": {"", "the server's key " + print + " is not in known_hosts", "ssh-keyscan -p"},
		"another": {knownhosts.Line([]string{srv.Addr}, other) + "\n", "the server's key " + print + " is not the one in ", "somebody may be in between"},
		"revoked": {"@revoked * " + string(ssh.MarshalAuthorizedKey(srv.HostKey)), "the server's key " + print + " is revoked by known_hosts", "somebody may be in between"},
	} {
		cfg.KnownHosts = []string{write(t, "known_hosts", tc.line)}
		s := open(t, cfg)
		_, err := s.Put(t.Context(), "a", strings.NewReader("x"))
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(problem.HintOf(err), tc.hint) || problem.KindOf(err) != problem.Unreachable {
			t.Errorf("%s: %v, hint %q", name, err, problem.HintOf(err))
		}
	}
	if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) > 0 {
		t.Errorf("in the folder: %v, %v", left, err)
	}
	// A name that is hashed, with further keys of another kind.
	host := knownhosts.HashHostname(knownhosts.Normalize(srv.Addr))
	cfg.KnownHosts = []string{write(t, "known_hosts", knownhosts.Line([]string{host}, srv.HostKey)+"\n")}
	if _, err := open(t, cfg).Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	cfg.KnownHosts, cfg.Env = nil, cloudtest.Env("HOME", t.TempDir())
	if _, err := os.Stat("/etc/ssh/ssh_known_hosts"); err != nil {
		if _, err := New(t.Context(), cfg); err == nil || !strings.HasSuffix(err.Error(), "no known_hosts file, so the server cannot be recognised") || !strings.Contains(problem.HintOf(err), "ssh-keyscan") {
			t.Errorf("none: %v, hint %q", err, problem.HintOf(err))
		}
	}
	cfg.KnownHosts = []string{"/no/such/file"}
	if _, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), `reading known_hosts "/no/such/file": no such file or directory`) {
		t.Errorf("missing: %v", err)
	}
}

func TestLogins(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	private, err := os.ReadFile(srv.Key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParseRawPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct{ name, from string }{{"id_ed25519", srv.Key}, {"known_hosts", srv.KnownHosts}} {
		b, err := os.ReadFile(f.from)
		if err == nil {
			err = os.WriteFile(filepath.Join(home, ".ssh", f.name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	socket := serveAgent(t, key)
	for name, change := range map[string]func(*Config){
		"key in the usual place": func(c *Config) { c.Keys, c.KnownHosts, c.Env = nil, nil, cloudtest.Env("HOME", home) },
		"agent":                  func(c *Config) { c.Keys, c.Agent, c.Env = nil, true, cloudtest.Env("SSH_AUTH_SOCK", socket) },
		"agent without asking":   func(c *Config) { c.Keys, c.Env = nil, cloudtest.Env("SSH_AUTH_SOCK", socket) },
		"agent that is gone":     func(c *Config) { c.Keys, c.Env = nil, cloudtest.Env("HOME", home, "SSH_AUTH_SOCK", socket+"-gone") },
	} {
		cfg := config(t, srv)
		change(&cfg)
		s, err := New(t.Context(), cfg)
		if err == nil {
			_, err = s.Put(t.Context(), "a", strings.NewReader("x"))
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func serveAgent(t *testing.T, key any) string {
	t.Helper()
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "n8keep-agent-") // a short path: sockets have a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(ring, c)
		}
	}()
	return l.Addr().String()
}

func TestPasswordAndPassphrase(t *testing.T) {
	cfg := replacing(t)
	cfg.Keys, cfg.Password = nil, "file:"+write(t, "password", "geheim\n")
	if _, err := open(t, cfg).Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	cfg.Password, cfg.Env = "env:PW", cloudtest.Env("PW", "falsch")
	_, err := open(t, cfg).Put(t.Context(), "b", strings.NewReader("x"))
	if err == nil || !strings.HasSuffix(err.Error(), "the server refuses the login of the user somebody") || problem.KindOf(err) != problem.Unreachable || !strings.Contains(problem.HintOf(err), "authorized_keys") || strings.Contains(err.Error(), "falsch") {
		t.Errorf("wrong password: %v, hint %q", err, problem.HintOf(err))
	}
	locked := filepath.Join(t.TempDir(), "locked")
	cloudtest.NewKey(t, locked, "geheim")
	cfg = replacing(t)
	cfg.Keys, cfg.Passphrase, cfg.Env = []string{locked}, "env:PP", cloudtest.Env("PP", "geheim")
	if _, err := open(t, cfg).Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	cfg.User = "no-sftp"
	if _, err := open(t, cfg).Stat(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "the server lets the user no-sftp in, but offers no SFTP") {
		t.Errorf("no SFTP: %v", err)
	}
}

func TestLoginErrors(t *testing.T) {
	srv := cloudtest.NewSFTP(t)
	locked := filepath.Join(t.TempDir(), "locked")
	cloudtest.NewKey(t, locked, "geheim")
	odd := write(t, "odd", "geheim")
	stranger := filepath.Join(t.TempDir(), "stranger")
	cloudtest.NewKey(t, stranger, "")
	for want, change := range map[string]func(*Config){
		`reading private key "/no/such": no such file or directory`: func(c *Config) { c.Keys = []string{"/no/such"} },
		`private key "` + locked + `" has a passphrase`:             func(c *Config) { c.Keys = []string{locked} },
		`private key "` + locked + `" is not opened by the passphrase`: func(c *Config) {
			c.Keys, c.Passphrase, c.Env = []string{locked}, "env:PP", cloudtest.Env("PP", "falsch")
		},
		`"` + odd + `" is not a private key that OpenSSH makes`:       func(c *Config) { c.Keys = []string{odd} },
		`key=agent, but SSH_AUTH_SOCK is not set`:                     func(c *Config) { c.Agent = true },
		`no private key, no agent and no password`:                    func(c *Config) { c.Keys = nil },
		`reading the password: "/no/such": no such file or directory`: func(c *Config) { c.Password = "file:/no/such" },
		`reading the password: the variable "NO" is not set`:          func(c *Config) { c.Password = "env:NO" },
		`reading the passphrase: the variable "NO" is not set`:        func(c *Config) { c.Passphrase = "env:NO" },
	} {
		cfg := config(t, srv)
		change(&cfg)
		_, err := New(t.Context(), cfg)
		if err == nil || err.Error() != `opening "`+cfg.location()+`": `+want || problem.KindOf(err) != problem.Usage || problem.HintOf(err) == "" || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%v, want %s", err, want)
		}
	}
	cfg := config(t, srv)
	cfg.Keys = []string{stranger}
	if _, err := open(t, cfg).Stat(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "the server refuses the login of the user "+cfg.User) {
		t.Errorf("stranger: %v", err)
	}
}

func TestClock(t *testing.T) {
	cfg := config(t, cloudtest.NewSFTP(t))
	now, err := open(t, cfg).Clock(t.Context())
	if err != nil || time.Since(now).Abs() > 5*time.Second {
		t.Errorf("%v, %v", now, err)
	}
	if left, err := os.ReadDir(cfg.Dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
