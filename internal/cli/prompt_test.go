package cli

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

// interrupting sends the interrupt that a terminal sends for Ctrl-C, and never
// answers.
type interrupting struct{ release chan struct{} }

func (r interrupting) Read([]byte) (int, error) {
	syscall.Kill(syscall.Getpid(), syscall.SIGINT)
	<-r.release
	return 0, errors.New("released")
}

func TestAskSecretWithoutTerminal(t *testing.T) {
	term, _, _ := screen()
	term.In = strings.NewReader("hunter2\n")
	s, err := term.AskSecret("passphrase")
	if err == nil || err.Error() != "no terminal to ask for passphrase" || problem.KindOf(err) != problem.Usage || !s.IsZero() ||
		problem.HintOf(err) != "run this on a terminal, or give it as a file that needs no passphrase" {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
}
