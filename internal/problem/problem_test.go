package problem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestExitCodes(t *testing.T) {
	want := map[Kind]int{Unexpected: 1, Usage: 2, Partial: 3, CheckFailed: 4, NotFound: 10, Busy: 11, WrongKey: 12,
		Damaged: 13, Unreachable: 14, NoIdentity: 15, Untrusted: 16, Interrupted: 130, "": 1, "nonsense": 1}
	for k, code := range want {
		if got := k.Exit(); got != code {
			t.Errorf("%q exits with %d, want %d", k, got, code)
		}
	}
	if len(Kinds()) != len(want)-2 {
		t.Errorf("Kinds() has %d kinds, want %d", len(Kinds()), len(want)-2)
	}
}

func TestChain(t *testing.T) {
	inner := Wrap(Damaged, io.ErrUnexpectedEOF, "entry %q", "a").WithHint("take the one before it").WithHint("or another")
	err := fmt.Errorf("restoring: %w", inner)
	if KindOf(err) != Damaged || HintOf(err) != "take the one before it\nor another" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("kind %q hint %q", KindOf(err), HintOf(err))
	}
	if got, want := err.Error(), `restoring: entry "a": unexpected EOF`; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	outer := &Error{Kind: Partial, Op: "backing up", Err: err}
	if HintOf(outer) == "" || KindOf(outer) != Partial || outer.Error() != "backing up: "+err.Error() {
		t.Errorf("outer %q", outer)
	}
	if KindOf(context.Canceled) != Interrupted || KindOf(io.EOF) != Unexpected || KindOf(nil) != "" {
		t.Error("kinds of plain errors")
	}
	if Wrap(Damaged, nil, "x") != nil {
		t.Error("wrapping nil")
	}
}
