package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// Confirm returns nil when yes is true or a person at the terminal agrees to the
// question, and else the refusal that stops the command.
func (t *Terminal) Confirm(question string, yes bool) error {
	if yes {
		return nil
	}
	if !t.InTTY || !t.ErrTTY {
		return problem.New(problem.Usage, "no terminal to ask: %s", question).WithHint("pass --yes")
	}
	t.clearBar()
	fmt.Fprintf(t.Err, "%s [y/N] ", printable(question))
	answer, err := interruptible(nil, func() (string, error) { return readLine(t.In) })
	if errors.Is(err, errInterrupted) {
		fmt.Fprintln(t.Err)
		return interrupted()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return problem.Wrap(problem.Unexpected, err, "reading the answer")
	}
	if err != nil {
		fmt.Fprintln(t.Err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return problem.New(problem.Usage, "not confirmed, nothing was done").WithHint("answer y, or pass --yes")
}

// AskSecret asks on the terminal for a value that is not echoed.
func (t *Terminal) AskSecret(prompt string) (secret.String, error) {
	if t.readSecret != nil {
		return t.readSecret(prompt)
	}
	f, ok := t.In.(*os.File)
	if !ok || !t.InTTY || !t.ErrTTY {
		return secret.String{}, problem.New(problem.Usage, "no terminal to ask for %s", prompt).
			WithHint("run this on a terminal, or give it as a file")
	}
	fd := int(f.Fd())
	t.clearBar()
	fmt.Fprintf(t.Err, "%s: ", printable(prompt))
	before, err := term.GetState(fd)
	if err != nil {
		return secret.String{}, problem.Wrap(problem.Unexpected, err, "preparing the terminal")
	}
	b, err := interruptible(func() { term.Restore(fd, before) }, func() ([]byte, error) { return term.ReadPassword(fd) })
	fmt.Fprintln(t.Err)
	switch {
	case errors.Is(err, errInterrupted):
		return secret.String{}, interrupted()
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO): // Ctrl-D, or the terminal is gone
		return secret.String{}, problem.New(problem.Usage, "no answer for %s", prompt)
	case err != nil:
		return secret.String{}, problem.Wrap(problem.Unexpected, err, "reading %s", prompt)
	}
	return secret.NewString(string(b)), nil
}

var errInterrupted = errors.New("interrupted")

func interrupted() error {
	return problem.New(problem.Interrupted, "interrupted at the question, nothing was done")
}

// interruptible runs read, which blocks on the terminal, until it returns or the
// process is told to end. In the second case restore is called, and read is left
// behind: a blocked read of a terminal cannot be woken, and the process ends.
func interruptible[T any](restore func(), read func() (T, error)) (T, error) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := read()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-signals:
		if restore != nil {
			restore()
		}
		var zero T
		return zero, errInterrupted
	}
}

// readLine reads to the end of the line and not a byte further, since others
// read from r after it.
func readLine(r io.Reader) (string, error) {
	var b strings.Builder
	buf := make([]byte, 1)
	for b.Len() < 1024 {
		n, err := r.Read(buf)
		if n == 1 {
			if buf[0] == '\n' {
				return b.String(), nil
			}
			b.WriteByte(buf[0])
		}
		if err != nil {
			return b.String(), err
		}
	}
	return b.String(), nil
}
