package sftpblob

import (
	"context"
	"log/slog"
	"net"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
)

// Config says where a store is and how to get in. Parse fills what a URL can say.
type Config struct {
	User string
	Addr string // host:port
	Dir  string // absolute, or relative to the folder in which the server puts the user; "" for that folder

	// Keys are files with private keys; KnownHosts are files in OpenSSH's format.
	// Empty means what OpenSSH uses: ~/.ssh/id_ed25519, id_ecdsa and id_rsa as far as
	// they exist; ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts.
	Keys       []string
	KnownHosts []string

	// Agent says that keys come from the agent at SSH_AUTH_SOCK and nowhere else.
	// Without it and without Keys, the agent is asked first where there is one.
	Agent bool

	// Password and Passphrase (of the private key) are references: "file:PATH" or
	// "env:NAME"; "" for none.
	Password   string
	Passphrase string

	Env func(string) (string, bool) // environment; required
	// Dial connects; nil for TCP with a timeout.
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Now    func() time.Time // nil for time.Now
	Logger *slog.Logger     // nil for none
	// Retry is for tests; the zero value is patient for about two minutes, once the server was reached.
	Retry remote.Retry
	// ChunkSize is how many bytes are sent before their arrival is known; 0 for 4 MiB.
	ChunkSize int
	// Stale is for how long the temporary file of a writer on another machine must not
	// have been touched to count as a leftover; 0 for an hour.
	Stale time.Duration
}

const whereSecretsBelong = `name a private key by key=file:PATH, or a password by password=file:PATH or password=env:NAME`

// Parse reads sftp://USER@HOST:PORT/PATH with the parameters key (file:PATH or
// agent), known_hosts (PATH), password and passphrase (file:PATH or env:NAME). The
// path is absolute; /~/PATH is relative to the user's folder. Its errors are of kind
// Usage and repeat no value of a parameter.
func Parse(u *url.URL, env func(string) (string, bool)) (Config, error) {
	c := Config{Env: env}
	o, err := remote.ParseOptions(u, whereSecretsBelong, "key", "known_hosts", "password", "passphrase", "retain", "lock")
	if err != nil {
		return c, err
	}
	usage := func(msg string) *problem.Error {
		return problem.New(problem.Usage, "target sftp://...: %s", msg)
	}
	if u.Hostname() == "" {
		return c, usage("no host").WithHint("write sftp://USER@HOST/PATH")
	}
	if u.User.Username() == "" {
		return c, usage("no user").WithHint("write sftp://USER@%s/PATH", u.Host)
	}
	if o.Text("retain") != "" || o.Text("lock") != "" {
		return c, usage("an SFTP server cannot lock files: retain and lock mean nothing here").
			WithHint("let the server's file system make snapshots, or use an s3, gcs or azure target with retain and lock")
	}
	c.User = u.User.Username()
	port := u.Port()
	if port == "" {
		port = "22"
	}
	c.Addr = net.JoinHostPort(u.Hostname(), port)
	switch dir := strings.TrimRight(u.Path, "/"); {
	case dir == "" && u.Path == "":
		return c, usage("no path").WithHint("write sftp://USER@%s/PATH, or /~/PATH for one in the user's folder", u.Host)
	case dir == "":
		c.Dir = "/"
	case dir == "/~":
	case strings.HasPrefix(dir, "/~/"):
		c.Dir = path.Clean(strings.TrimPrefix(dir, "/~/"))
	default:
		c.Dir = path.Clean(dir)
	}
	if strings.ContainsAny(c.Dir, "\x00\n") || strings.HasPrefix(c.Dir, "..") {
		return c, usage("a path that is not printable, or leaves the user's folder")
	}
	if v := o.Text("key"); v == "agent" {
		c.Agent = true
	} else if v != "" {
		file, err := o.File("key")
		if err != nil {
			return c, o.Bad("key", `want "file:PATH" or "agent"`)
		}
		c.Keys = []string{file}
	}
	if v := o.Text("known_hosts"); v != "" {
		c.KnownHosts = []string{strings.TrimPrefix(v, "file:")}
	}
	for _, name := range []string{"password", "passphrase"} {
		v := o.Text(name)
		kind, value, _ := strings.Cut(v, ":")
		if v != "" && (value == "" || kind != "file" && kind != "env") {
			return c, problem.New(problem.Usage, "target sftp://...: parameter %q holds neither a file nor a variable", name).
				WithHint(`a secret never stands in a URL: write %s=file:PATH or %s=env:NAME`, name, name)
		}
	}
	c.Password, c.Passphrase = o.Text("password"), o.Text("passphrase")
	return c, nil
}

// location is the URL that people are shown.
func (c Config) location() string {
	u := url.URL{Scheme: "sftp", User: url.User(c.User), Host: strings.TrimSuffix(c.Addr, ":22"), Path: c.Dir}
	if !path.IsAbs(c.Dir) {
		u.Path = path.Join("/~", c.Dir)
	}
	return u.String()
}
