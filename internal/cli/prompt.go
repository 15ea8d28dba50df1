package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// AskSecret asks on the terminal for a value that is not echoed.
func (t *Terminal) AskSecret(prompt string) (secret.String, error) {
	if t.readSecret != nil {
		return t.readSecret(prompt)
	}
	f, ok := t.In.(*os.File)
	if !ok || !t.InTTY || !t.ErrTTY {
		return secret.String{}, problem.New(problem.Usage, "no terminal to ask for %s", prompt).
			WithHint("%s", asFile)
	}
	fd := int(f.Fd())
	t.clearBar()
	fmt.Fprintf(t.Err, "%s: ", printable(prompt))
	before, err := term.GetState(fd)
	if err != nil {
		return secret.String{}, problem.Wrap(problem.Unexpected, err, "preparing the terminal").WithHint("%s", asFile)
	}
	gone := func() bool { _, err := term.GetState(fd); return err != nil }
	b, err := interruptible(gone, func() { term.Restore(fd, before) }, func() ([]byte, error) { return term.ReadPassword(fd) })
	fmt.Fprintln(t.Err)
	switch {
	case errors.Is(err, errInterrupted):
		return secret.String{}, interrupted()
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO): // Ctrl-D, or the terminal is gone
		return secret.String{}, problem.New(problem.Usage, "no answer for %s", prompt).WithHint("%s", asFile)
	case err != nil:
		return secret.String{}, problem.Wrap(problem.Unexpected, err, "reading %s", prompt).WithHint("%s", asFile)
	}
	return secret.NewString(string(b)), nil
}

const asFile = "run this on a terminal, or give it as a file that needs no passphrase"

var errInterrupted = errors.New("interrupted")

func interrupted() error {
	return problem.New(problem.Interrupted, "interrupted at the question, nothing was done").WithHint("run the command again")
}

// interruptible runs read, which blocks on the terminal, until it returns or the
// process is told to end. In the second case restore is called, and read is left
// behind: a blocked read of a terminal cannot be woken, and the process ends. A
// terminal that is gone counts as the end of its input: reading one that was hung
// up may return nothing for ever.
func interruptible[T any](gone func() bool, restore func(), read func() (T, error)) (T, error) {
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
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var zero T
	for {
		select {
		case r := <-done:
			return r.value, r.err
		case <-signals:
			restore()
			return zero, errInterrupted
		case <-tick.C:
			if gone() {
				return zero, io.EOF
			}
		}
	}
}
