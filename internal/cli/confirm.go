package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/n8keep/n8keep/internal/problem"
)

// Confirm asks a question on the terminal and returns nil for "y" or "yes". Any
// other answer, and none, is an error that says that nothing was done. flag is what
// answers the question without a terminal.
func (t *Terminal) Confirm(question, flag string) error {
	read := t.readAnswer
	if read == nil {
		f, ok := t.In.(*os.File)
		if !ok || !t.InTTY || !t.ErrTTY {
			return problem.New(problem.Usage, "no terminal to ask: %s", question).WithHint("give %s to go on without being asked", flag)
		}
		read = func() (string, error) {
			gone := func() bool { _, err := term.GetState(int(f.Fd())); return err != nil }
			return interruptible(gone, func() {}, func() (string, error) { return bufio.NewReader(f).ReadString('\n') })
		}
	}
	t.clearBar()
	fmt.Fprintf(t.Err, "%s [y/N] ", printable(question))
	answer, err := read()
	switch {
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(t.Err)
		return interrupted()
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO): // Ctrl-D, or the terminal is gone
		fmt.Fprintln(t.Err)
	case err != nil:
		return problem.Wrap(problem.Unexpected, err, "reading the answer").WithHint("give %s to go on without being asked", flag)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return problem.New(problem.Usage, "not confirmed, nothing was done").WithHint("answer y, or give %s", flag)
}
