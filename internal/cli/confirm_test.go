package cli

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

func TestConfirm(t *testing.T) {
	for _, c := range []struct {
		answer string
		err    error
		kind   problem.Kind // "" for yes
		text   string
	}{
		{answer: "y\n"}, {answer: " YES \n"},
		{answer: "\n", kind: problem.Usage, text: "not confirmed, nothing was done"},
		{answer: "n\n", kind: problem.Usage, text: "not confirmed"},
		{answer: "yes please\n", kind: problem.Usage, text: "answer y, or give --yes"},
		{err: io.EOF, kind: problem.Usage, text: "not confirmed"},
		{err: errInterrupted, kind: problem.Interrupted, text: "nothing was done"},
		{err: errors.New("no more"), kind: problem.Unexpected, text: "reading the answer: no more"},
	} {
		term, _, errs := screen()
		term.readAnswer = func() (string, error) { return c.answer, c.err }
		err := term.Confirm("remove it?", "--yes")
		if problem.KindOf(err) != c.kind || err != nil && !strings.Contains(err.Error()+problem.HintOf(err), c.text) {
			t.Errorf("%q %v: got %v (hint %q)", c.answer, c.err, err, problem.HintOf(err))
		}
		if !strings.HasPrefix(errs.String(), "remove it? [y/N] ") {
			t.Errorf("asked %q", errs.String())
		}
	}
}

func TestConfirmWithoutTerminal(t *testing.T) {
	term, _, _ := screen()
	term.In = strings.NewReader("y\n")
	err := term.Confirm("remove it?", "--yes")
	if problem.KindOf(err) != problem.Usage || err.Error() != "no terminal to ask: remove it?" || problem.HintOf(err) != "give --yes to go on without being asked" {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
}
