package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/problem"
)

const again = "n8keep: hint: run the command again; nothing is left half-written\n"

func TestFail(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		exit int
		want string
	}{
		{"hints", problem.New(problem.CheckFailed, `instance key does not open 3 of 212 credentials in "prod"`).
			WithHint("the other 209 opened; these 3 were probably written with an older key").
			WithHint(`find it with "n8keep key find --n8n-dir ~/.n8n --candidate FILE"`), 4,
			`n8keep: error: instance key does not open 3 of 212 credentials in "prod"
n8keep: hint: the other 209 opened; these 3 were probably written with an older key
n8keep: hint: find it with "n8keep key find --n8n-dir ~/.n8n --candidate FILE"
`},
		{"plain", io.ErrUnexpectedEOF, 1, "n8keep: error: unexpected EOF\n"},
		{"wrapped", fmt.Errorf("restoring: %w", problem.New(problem.Damaged, "entry 14 of 212: checksum differs")), 13,
			"n8keep: error: restoring: entry 14 of 212: checksum differs\n"},
		{"joined", errors.Join(errors.New("first"), errors.New("second")), 1, "n8keep: error: first; second\n"},
		{"control characters", problem.New(problem.NotFound, "no archive a\x1b[2J\u202e").WithHint("try \x07"), 10,
			`n8keep: error: no archive a\x1b[2J\u202e` + "\n" + `n8keep: hint: try \a` + "\n"},
		{"interrupted", context.Canceled, 130, "n8keep: error: interrupted\n" + again},
		{"interrupted inside", fmt.Errorf("reading: %w", context.Canceled), 130, "n8keep: error: reading: interrupted\n" + again},
		{"interrupted with words", problem.New(problem.Interrupted, "stopped before the swap"), 130, "n8keep: error: stopped before the swap\n" + again},
		{"nothing", nil, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			term, out, errs := screen()
			if exit := term.Fail(tt.err); exit != tt.exit {
				t.Errorf("exit %d, want %d", exit, tt.exit)
			}
			diff(t, tt.want, errs.String())
			diff(t, "", out.String())
		})
	}
}

func TestFailColour(t *testing.T) {
	term, _, errs := screen()
	term.Color, term.ErrTTY = true, true
	term.Fail(io.EOF)
	diff(t, "n8keep: \x1b[31;1merror:\x1b[0m EOF\n", errs.String())
}

func TestFailJSON(t *testing.T) {
	for _, kind := range problem.Kinds() {
		term, out, errs := screen()
		term.JSON = true
		exit := term.Fail(problem.New(kind, "went <wrong>").WithHint("one").WithHint("two"))
		diff(t, "", errs.String())
		d := json.NewDecoder(out)
		d.DisallowUnknownFields()
		var doc api.Failure
		if err := d.Decode(&doc); err != nil {
			t.Fatal(err)
		}
		if want := (api.Error{Kind: string(kind), Message: "went <wrong>", Hint: "one\ntwo", Exit: kind.Exit()}); doc.Error != want || exit != kind.Exit() {
			t.Errorf("%+v, exit %d", doc.Error, exit)
		}
		if d.More() {
			t.Error("more than one document")
		}
	}
}

func TestFailPrinted(t *testing.T) {
	term, out, errs := screen()
	term.JSON = true
	if exit := term.FailPrinted(problem.New(problem.Partial, "x")); exit != 3 || out.Len()+errs.Len() != 0 {
		t.Errorf("exit %d, %q, %q", exit, out, errs)
	}
	if exit := term.FailPrinted(nil); exit != 0 {
		t.Errorf("exit %d", exit)
	}
}
