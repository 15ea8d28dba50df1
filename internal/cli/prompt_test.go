package cli

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

func TestConfirm(t *testing.T) {
	for _, tt := range []struct {
		answer, refusal string
	}{
		{"y\n", ""}, {"YES\r\n", ""}, {" yes \n", ""}, {"y", ""},
		{"n\n", "not confirmed, nothing was done"}, {"\n", "not confirmed, nothing was done"},
		{"", "not confirmed, nothing was done"}, {"yep\n", "not confirmed, nothing was done"},
	} {
		term, out, errs := screen()
		term.InTTY, term.ErrTTY, term.In = true, true, strings.NewReader(tt.answer)
		err := term.Confirm("Overwrite the database?", false)
		if tt.refusal == "" && err != nil || tt.refusal != "" && (err == nil || err.Error() != tt.refusal || problem.KindOf(err) != problem.Usage) {
			t.Errorf("%q: %v", tt.answer, err)
		}
		diff(t, "Overwrite the database? [y/N] ", strings.TrimSuffix(errs.String(), "\n"))
		diff(t, "", out.String())
	}
}

func TestConfirmReadsOneLine(t *testing.T) {
	term, _, _ := screen()
	in := strings.NewReader("y\nrest")
	term.InTTY, term.ErrTTY, term.In = true, true, in
	if err := term.Confirm("Go on?", false); err != nil || in.Len() != len("rest") {
		t.Errorf("%v, %d bytes left", err, in.Len())
	}
}

func TestConfirmWithoutTerminal(t *testing.T) {
	term, _, errs := screen()
	term.In = strings.NewReader("y\n")
	err := term.Confirm("Overwrite?", false)
	if err == nil || err.Error() != "no terminal to ask: Overwrite?" || problem.KindOf(err) != problem.Usage || problem.HintOf(err) != "pass --yes" {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
	if err := term.Confirm("Overwrite?", true); err != nil {
		t.Error(err)
	}
	diff(t, "", errs.String())
}

// interrupting sends the interrupt that a terminal sends for Ctrl-C, and never
// answers.
type interrupting struct{ release chan struct{} }

func (r interrupting) Read([]byte) (int, error) {
	syscall.Kill(syscall.Getpid(), syscall.SIGINT)
	<-r.release
	return 0, errors.New("released")
}

func TestConfirmInterrupted(t *testing.T) {
	term, _, _ := screen()
	in := interrupting{make(chan struct{})}
	defer close(in.release)
	term.InTTY, term.ErrTTY, term.In = true, true, in
	err := term.Confirm("Go on?", false)
	if err == nil || err.Error() != "interrupted at the question, nothing was done" || problem.KindOf(err) != problem.Interrupted {
		t.Errorf("%v", err)
	}
}

func TestConfirmReadError(t *testing.T) {
	term, _, _ := screen()
	released := interruptedReader{}
	term.InTTY, term.ErrTTY, term.In = true, true, released
	if err := term.Confirm("Go on?", false); err == nil || err.Error() != "reading the answer: broken" {
		t.Errorf("%v", err)
	}
}

type interruptedReader struct{}

func (interruptedReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestAskSecretWithoutTerminal(t *testing.T) {
	term, _, _ := screen()
	term.In = strings.NewReader("hunter2\n")
	s, err := term.AskSecret("passphrase")
	if err == nil || err.Error() != "no terminal to ask for passphrase" || problem.KindOf(err) != problem.Usage || !s.IsZero() ||
		problem.HintOf(err) != "run this on a terminal, or give it as a file" {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
}
