package sftpblob

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// prepare reads what logging in and checking the server takes.
func (s *Store) prepare() error {
	if s.cfg.Dial == nil {
		s.cfg.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	check, err := s.knownHosts()
	if err != nil {
		return err
	}
	s.client = ssh.ClientConfig{User: s.cfg.User, HostKeyCallback: check, HostKeyAlgorithms: s.algorithms(check)}
	signers, err := s.signers()
	if err != nil {
		return err
	}
	socket, hasAgent := s.cfg.Env("SSH_AUTH_SOCK")
	hasAgent = hasAgent && socket != ""
	if s.cfg.Agent && !hasAgent {
		return errors.New("key=agent, but SSH_AUTH_SOCK is not set")
	}
	if hasAgent && len(s.cfg.Keys) == 0 {
		s.auth = append(s.auth, ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { return fromAgent(socket, signers) }))
	} else if len(signers) > 0 {
		s.auth = append(s.auth, ssh.PublicKeys(signers...))
	}
	password, err := s.reference(s.cfg.Password)
	if err != nil {
		return fmt.Errorf("reading the password: %w", err)
	}
	if !password.IsZero() {
		s.auth = append(s.auth, ssh.PasswordCallback(func() (string, error) { return password.Reveal(), nil }),
			ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
				answers := make([]string, len(questions))
				for i := range answers {
					answers[i] = password.Reveal()
				}
				return answers, nil
			}))
	}
	if len(s.auth) == 0 {
		return errors.New("no private key, no agent and no password")
	}
	return nil
}

// fromAgent asks the agent for its keys; a broken agent is no reason not to try the files.
func fromAgent(socket string, files []ssh.Signer) ([]ssh.Signer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		if len(files) > 0 {
			return files, nil
		}
		return nil, errors.New("the agent at SSH_AUTH_SOCK does not answer")
	}
	// The signers use the connection later, so it stays open; it ends with the agent or with us.
	signers, err := agent.NewClient(conn).Signers()
	if err != nil && len(files) == 0 {
		return nil, errors.New("the agent at SSH_AUTH_SOCK does not answer")
	}
	return append(signers, files...), nil
}

// signers are the private keys in files. One that was named must be usable; of those
// that OpenSSH would try, the usable ones count.
func (s *Store) signers() ([]ssh.Signer, error) {
	if s.cfg.Agent {
		return nil, nil
	}
	files, named := s.cfg.Keys, true
	if len(files) == 0 {
		named = false
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			if dir := s.sshDir(); dir != "" {
				files = append(files, filepath.Join(dir, name))
			}
		}
	}
	passphrase, err := s.reference(s.cfg.Passphrase)
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	var signers []ssh.Signer
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			if named {
				return nil, fmt.Errorf("reading private key %q: %w", file, plain(err))
			}
			continue
		}
		signer, err := ssh.ParsePrivateKey(b)
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) && !passphrase.IsZero() {
			signer, err = ssh.ParsePrivateKeyWithPassphrase(b, []byte(passphrase.Reveal()))
		}
		switch {
		case err == nil:
			signers = append(signers, signer)
		case !named:
		case errors.As(err, &locked):
			return nil, problem.New(problem.Usage, "private key %q has a passphrase", file).
				WithHint("give it by passphrase=file:PATH or passphrase=env:NAME, or use the agent: key=agent")
		case !passphrase.IsZero():
			return nil, fmt.Errorf("private key %q is not opened by the passphrase", file)
		default:
			return nil, fmt.Errorf("%q is not a private key that OpenSSH makes", file)
		}
	}
	return signers, nil
}

func (s *Store) sshDir() string {
	home, ok := s.cfg.Env("HOME")
	if !ok || home == "" {
		return ""
	}
	return filepath.Join(home, ".ssh")
}

// reference reads "file:PATH" or "env:NAME". One final newline does not count.
func (s *Store) reference(text string) (secret.String, error) {
	kind, name, _ := strings.Cut(text, ":")
	switch {
	case text == "":
		return secret.String{}, nil
	case kind == "file":
		b, err := os.ReadFile(name)
		if err != nil {
			return secret.String{}, fmt.Errorf("%q: %w", name, plain(err))
		}
		return secret.NewString(strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")), nil
	case kind == "env":
		v, ok := s.cfg.Env(name)
		if !ok || v == "" {
			return secret.String{}, fmt.Errorf("the variable %.60q is not set", name)
		}
		return secret.NewString(v), nil
	}
	return secret.String{}, errors.New(`want "file:PATH" or "env:NAME"`)
}

// knownHosts reads the files with the servers' keys.
func (s *Store) knownHosts() (ssh.HostKeyCallback, error) {
	files := s.cfg.KnownHosts
	if len(files) == 0 {
		candidates := []string{"/etc/ssh/ssh_known_hosts"}
		if dir := s.sshDir(); dir != "" {
			candidates = append([]string{filepath.Join(dir, "known_hosts")}, candidates...)
		}
		for _, f := range candidates {
			if _, err := os.Stat(f); err == nil {
				files = append(files, f)
			}
		}
	}
	host, port, _ := net.SplitHostPort(s.cfg.Addr)
	if len(files) == 0 {
		return nil, problem.New(problem.Usage, "no known_hosts file, so the server cannot be recognised").
			WithHint("make one, and compare the key with what the server's owner says: ssh-keyscan -p %s %s >> ~/.ssh/known_hosts\nor name one: known_hosts=PATH", port, host)
	}
	s.cfg.KnownHosts = files
	check, err := knownhosts.New(files...)
	if err != nil {
		var p *os.PathError
		if errors.As(err, &p) {
			return nil, fmt.Errorf("reading known_hosts %q: %w", p.Path, p.Err)
		}
		return nil, fmt.Errorf("reading known_hosts: %w", err)
	}
	return check, nil
}

// algorithms are those of the keys that known_hosts has for the server: otherwise
// the server would show its favourite key, and that may be one we do not know.
func (s *Store) algorithms(check ssh.HostKeyCallback) []string {
	for _, f := range s.cfg.KnownHosts {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "@cert-authority") {
			return nil // the server may show a certificate
		}
	}
	var k *knownhosts.KeyError
	if !errors.As(check(s.cfg.Addr, &net.TCPAddr{}, nobody{}), &k) {
		return nil
	}
	var list []string
	for _, want := range k.Want {
		switch t := want.Key.Type(); t {
		case ssh.KeyAlgoRSA:
			list = append(list, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			list = append(list, t)
		}
	}
	return list
}

// nobody is a key that no server has.
type nobody struct{}

func (nobody) Type() string                        { return "nobody" }
func (nobody) Marshal() []byte                     { return nil }
func (nobody) Verify([]byte, *ssh.Signature) error { return errors.New("nobody signs") }

func plain(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
