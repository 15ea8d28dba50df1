package cloudtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"

	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SFTP is an OpenSSH server for the user who runs the tests.
type SFTP struct {
	Addr       string
	User       string
	Key        string // file with the private key that it accepts
	KnownHosts string // file with its host key
	HostKey    ssh.PublicKey
}

// NewSFTP starts sshd with internal-sftp, which gets the options: "-P read" refuses
// that request, "-R" is read-only.
func NewSFTP(t testing.TB, options ...string) *SFTP {
	t.Helper()
	const sshd = "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		t.Fatalf(`no %s: run "scripts/setup"`, sshd)
	}
	me, err := user.Current()
	must(t, err)
	if os.Geteuid() == 0 {
		must(t, os.MkdirAll("/run/sshd", 0o755)) // where it puts itself to separate privileges
	}
	dir := t.TempDir()
	s := &SFTP{User: me.Username, Key: filepath.Join(dir, "id"), KnownHosts: filepath.Join(dir, "known_hosts")}
	s.HostKey = NewKey(t, filepath.Join(dir, "host"), "")
	login := NewKey(t, s.Key, "")
	must(t, os.WriteFile(filepath.Join(dir, "authorized"), ssh.MarshalAuthorizedKey(login), 0o600))
	for range 3 {
		port, err := freePort()
		must(t, err)
		s.Addr = "127.0.0.1:" + port
		config := filepath.Join(dir, "sshd_config")
		must(t, os.WriteFile(config, []byte(strings.Join([]string{
			"ListenAddress " + s.Addr, "HostKey " + filepath.Join(dir, "host"), "AuthorizedKeysFile " + filepath.Join(dir, "authorized"),
			"StrictModes no", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin yes",
			"PidFile none", "MaxStartups 100", "MaxSessions 100", "LogLevel ERROR", "UseDNS no",
			"Subsystem sftp internal-sftp " + strings.Join(options, " "), "",
		}, "\n")), 0o600))
		var stop func()
		if stop, err = run(sshd, nil, []string{"-D", "-e", "-f", config}, func() bool {
			c, err := net.DialTimeout("tcp", s.Addr, time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil
		}); err == nil {
			t.Cleanup(stop)
			must(t, os.WriteFile(s.KnownHosts, []byte(knownhosts.Line([]string{s.Addr}, s.HostKey)+"\n"), 0o600))
			return s
		}
		t.Log(err)
	}
	t.Fatal("sshd does not start")
	return nil
}

// NewKey makes a key pair, writes the private key to the path, and returns the
// public one. A passphrase other than "" locks the file.
func NewKey(t testing.TB, path, passphrase string) ssh.PublicKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	must(t, err)
	must(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	key, err := ssh.NewPublicKey(public)
	must(t, err)
	return key
}
