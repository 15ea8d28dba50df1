package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/n8keep/n8keep/internal/secret"
)

const (
	// grace is how long a program has to end after SIGTERM.
	grace = 10 * time.Second
	// outputLimit is what is kept of what a program prints: the end.
	outputLimit = 64 << 10
	// shownLimit is what an error shows of it, in characters.
	shownLimit = 600
	shownLines = 6
)

// process runs a program in a process group of its own.
type process struct {
	path  string
	args  []string
	env   []string
	hide  []secret.String // must not appear in what is shown of its output
	grace time.Duration   // 0 is the constant
	// drain lets what the program has started in the background keep its output,
	// after it ended well, until that ends, too, even if we end before.
	drain bool
}

// outcome is how a program ended.
type outcome struct {
	stdout []byte // the last outputLimit bytes
	stderr []byte // the last outputLimit bytes; of both streams with drain
	code   int    // -1 when a signal ended it
	signal string // its name
	left   bool   // something it started in the background still holds its output
}

func (o outcome) ok() bool { return o.code == 0 && o.signal == "" }

func (o outcome) how() string {
	if o.signal != "" {
		return "was ended by a signal (" + o.signal + ")"
	}
	return fmt.Sprintf("ended with exit status %d", o.code)
}

// run waits until the program ended. The error is the cause of ctx, after the whole
// group was ended, or a program that cannot be started.
func (p *process) run(ctx context.Context) (outcome, error) {
	if ctx.Err() != nil {
		return outcome{}, context.Cause(ctx)
	}
	cmd := exec.Command(p.path, p.args...)
	cmd.Env = p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}

	outR, outW, err := os.Pipe()
	if err != nil {
		return outcome{}, err
	}
	defer outR.Close()
	errR, errW := outR, outW
	if !p.drain {
		if errR, errW, err = os.Pipe(); err != nil {
			outW.Close()
			return outcome{}, err
		}
		defer errR.Close()
	}
	cmd.Stdout, cmd.Stderr = outW, errW
	err = cmd.Start()
	outW.Close()
	errW.Close()
	if err != nil {
		return outcome{}, err
	}

	var stdout, stderr tail
	var streams sync.WaitGroup
	streams.Go(func() { _, _ = io.Copy(&stdout, outR) })
	if !p.drain {
		streams.Go(func() { _, _ = io.Copy(&stderr, errR) })
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	var waited error
	var cancelled error
	select {
	case waited = <-ended:
	case <-ctx.Done():
		cancelled = context.Cause(ctx)
		waited = p.end(cmd.Process.Pid, ended)
	}
	// What the program has printed is in the pipes; somebody else may hold them open.
	left := false
	read := make(chan struct{})
	go func() { streams.Wait(); close(read) }()
	t := time.NewTimer(200 * time.Millisecond)
	defer t.Stop()
	select {
	case <-read:
	case <-t.C:
		left = true
		past := time.Unix(1, 0)
		_, _ = outR.SetReadDeadline(past), errR.SetReadDeadline(past)
		<-read
	}
	o := outcome{stdout: stdout.b, stderr: stderr.b, left: left}
	if p.drain {
		o.stdout, o.stderr = nil, stdout.b
	}
	var exit *exec.ExitError
	switch {
	case errors.As(waited, &exit):
		o.code = exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			o.signal = status.Signal().String()
		}
	case waited != nil && cancelled == nil:
		return o, waited
	}
	if cancelled != nil {
		return o, cancelled
	}
	if left && p.drain && o.ok() {
		return o, drainTo(outR)
	}
	return o, nil
}

// end ends the group: SIGTERM, and SIGKILL after the grace.
func (p *process) end(pid int, ended <-chan error) error {
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	g := p.grace
	if g == 0 {
		g = grace
	}
	t := time.NewTimer(g)
	defer t.Stop()
	var err error
	select {
	case err = <-ended:
	case <-t.C:
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		err = <-ended
	}
	// Its children, which the program may not have waited for.
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	return err
}

// drainTo leaves a process behind that reads until nobody writes any more: a n8n that
// a command has started in the background would end of SIGPIPE otherwise.
func drainTo(r *os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	cat := exec.Command("cat")
	cat.Stdin, cat.Stdout = r, null
	cat.Env = []string{}
	cat.Dir = "/"
	cat.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cat.Start(); err != nil {
		return fmt.Errorf("keeping the output of what was started open: %w", err)
	}
	go func() { _ = cat.Wait() }()
	return nil
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// tail keeps the last outputLimit bytes that are written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - outputLimit; over > 0 {
		t.b = slices.Delete(t.b, 0, over)
	}
	return len(p), nil
}

var (
	// An escape sequence of a terminal.
	escapes = regexp.MustCompile("\x1b(?:\\[[0-9;?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\-_])")
	// NAME=value, "name": "value", --name value, for names of secrets.
	assignment = regexp.MustCompile(`(?i)([A-Z0-9_.-]*(?:passw(?:or)?d|passphrase|secret|token|api_?key|encryption_?key|credentials?|authorization)[A-Z0-9_.-]*["']?\s*(?:[=:]|\s)\s*)("[^"]*"|'[^']*'|(?:Bearer |Basic )?[^\s"',;]+)`)
	userinfo   = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]+@`)
)

// shown is the end of what a program printed, on one line, for an error.
func shown(output []byte, hide []secret.String) string {
	// Secrets first, in the form in which they were printed: what is cut off after
	// that is longer than any of them.
	s := strings.ToValidUTF8(string(output), "")
	for _, h := range hide {
		if text := h.Reveal(); len(text) >= 4 {
			s = strings.ReplaceAll(s, text, secret.Redacted)
		}
	}
	s = escapes.ReplaceAllString(s, "")
	s = userinfo.ReplaceAllString(s, "${1}"+secret.Redacted+"@")
	s = assignment.ReplaceAllString(s, "${1}"+secret.Redacted)
	var lines []string
	for line := range strings.Lines(s) {
		line = strings.Map(func(r rune) rune {
			if r == '\t' {
				return ' '
			}
			if !unicode.IsPrint(r) {
				return -1
			}
			return r
		}, line)
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	lines = lines[max(0, len(lines)-shownLines):]
	text := []rune(strings.Join(lines, " | "))
	if over := len(text) - shownLimit; over > 0 {
		return "..." + string(text[over:])
	}
	return string(text)
}

// databaseSecrets are the variables in which n8n, libpq and n8keep take passwords of
// a database.
var databaseSecrets = regexp.MustCompile(`^(?:DB_(?:POSTGRESDB|MYSQLDB|MARIADB)_PASSWORD|PGPASSWORD|PGSSLPASSWORD|MYSQL_PWD)$`)

// variables is the environment for a program: without the instance key, passwords of
// databases, and variables in whose values one of the secrets stands.
func variables(environ []string, hide []secret.String) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		name, value, _ := strings.Cut(v, "=")
		if name == instanceKeyVariable || databaseSecrets.MatchString(name) || passwordInURL.MatchString(value) {
			return true
		}
		return slices.ContainsFunc(hide, func(h secret.String) bool { return holds(value, h) })
	})
}

func holds(value string, s secret.String) bool {
	return len(s.Reveal()) >= 4 && strings.Contains(value, s.Reveal())
}

const instanceKeyVariable = "N8N_ENCRYPTION_KEY"

// passwordInURL matches the address of a database with a password in it.
var passwordInURL = regexp.MustCompile(`(?i)\b(?:postgres(?:ql)?|mysql|mariadb)://[^/\s:@]*:[^/\s@]+@|\bpassword\s*=\s*\S`)
