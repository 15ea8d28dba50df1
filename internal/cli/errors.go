package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/problem"
)

// Fail prints err and returns the exit code of the process; 0 for nil. As text
// it is one line "n8keep: error: ..." and a line "n8keep: hint: ..." for each
// hint, on Err. With JSON it is one document on Out and nothing on Err.
func (t *Terminal) Fail(err error) int {
	if err == nil {
		return 0
	}
	doc := failure(err)
	if t.JSON {
		if perr := t.PrintJSON(doc); perr != nil {
			fmt.Fprintf(t.Err, "n8keep: error: %s\n", printable(perr.Error()))
		}
		return doc.Error.Exit
	}
	t.clearBar()
	fmt.Fprintf(t.Err, "n8keep: %s %s\n", t.paint(t.ErrTTY, red, "error:"), printable(t.again(oneLine(doc.Error.Message))))
	for hint := range strings.SplitSeq(doc.Error.Hint, "\n") {
		if hint != "" {
			fmt.Fprintf(t.Err, "n8keep: hint: %s\n", printable(t.again(hint)))
		}
	}
	return doc.Error.Exit
}

// FailPrinted returns the exit code for an error that is already out, inside of
// a command's own document.
func (t *Terminal) FailPrinted(err error) int {
	if err == nil {
		return 0
	}
	t.clearBar()
	return problem.KindOf(err).Exit()
}

func failure(err error) api.Failure {
	kind := problem.KindOf(err)
	msg := err.Error()
	// A person who pressed Ctrl-C knows nothing of contexts.
	var p *problem.Error
	if kind == problem.Interrupted && !errors.As(err, &p) {
		msg = strings.TrimSuffix(strings.TrimSuffix(msg, context.Canceled.Error()), ": ")
		if msg == "" {
			msg = "interrupted"
		} else {
			msg += ": interrupted"
		}
	}
	hint := problem.HintOf(err)
	if kind == problem.Interrupted && hint == "" {
		hint = "run the command again; nothing is left half-written"
	}
	return api.Failure{Error: api.Error{Kind: string(kind), Message: msg, Hint: hint, Exit: kind.Exit()}}
}

// oneLine joins the lines of several errors.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
