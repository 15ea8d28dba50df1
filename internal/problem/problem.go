// Package problem is the program's error for people: what went wrong, in which
// operation, what to do next, and with which exit code the process ends.
//
// Every error that a user can meet travels as an [*Error]. Its Kind is the only
// thing that decides the exit code (and, for the HTTP API, the status), so that
// scripts can rely on it: the table in this package is the one in
// docs/operators.md, and a test keeps them equal.
//
// The package refuses to carry secrets: Msg and Hint are shown, logged and
// returned by APIs as they are. Callers put identifiers in them, never values.
package problem

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Kind says what sort of failure it is. The string is part of the JSON output
// and does not change.
type Kind string

// The kinds, each with the exit code that [Kind.Exit] returns.
const (
	Unexpected  Kind = "unexpected"       // 1: a bug, or the system failed in a way nobody foresaw
	Usage       Kind = "usage"            // 2: wrong flags, or a refusal that a flag would allow
	Partial     Kind = "partial"          // 3: finished, but some items failed
	CheckFailed Kind = "check_failed"     // 4: a check found problems
	NotFound    Kind = "not_found"        // 10
	Busy        Kind = "busy"             // 11: n8n attached, lock held, rotation not finalised
	WrongKey    Kind = "wrong_key"        // 12: the instance key does not fit
	Damaged     Kind = "damaged"          // 13: damaged or truncated data
	Unreachable Kind = "unreachable"      // 14: the remote side refused or was not reached
	NoIdentity  Kind = "no_identity"      // 15: no identity opens the archive
	Untrusted   Kind = "untrusted_signer" // 16: signature missing, forged, or signer unknown
	Interrupted Kind = "interrupted"      // 130
)

// Kinds returns every kind in the order of its exit code.
func Kinds() []Kind {
	return []Kind{Unexpected, Usage, Partial, CheckFailed, NotFound, Busy, WrongKey,
		Damaged, Unreachable, NoIdentity, Untrusted, Interrupted}
}

// Exit is the process exit code of the kind; an unknown kind exits with 1.
func (k Kind) Exit() int {
	switch k {
	case Usage:
		return 2
	case Partial:
		return 3
	case CheckFailed:
		return 4
	case NotFound:
		return 10
	case Busy:
		return 11
	case WrongKey:
		return 12
	case Damaged:
		return 13
	case Unreachable:
		return 14
	case NoIdentity:
		return 15
	case Untrusted:
		return 16
	case Interrupted:
		return 130
	}
	return 1
}

// Error is an error for a person. The zero Kind counts as Unexpected.
type Error struct {
	Kind Kind
	Op   string // what was being done, as in `restoring "20260801T..."`; optional
	Msg  string // lower case, no period, no secrets
	Hint string // next step: a command or an exact setting; several lines are several hints
	Err  error  // cause, for errors.Is and errors.As; its text is shown only if Msg is empty
}

// New returns an error of the kind; the format follows fmt.Sprintf.
func New(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...)}
}

// Wrap returns an error of the kind whose text is the message, a colon and the
// text of err. It returns nil for a nil err.
func Wrap(k Kind, err error, format string, args ...any) *Error {
	if err == nil {
		return nil
	}
	return &Error{Kind: k, Msg: fmt.Sprintf(format, args...) + ": " + err.Error(), Err: err}
}

// WithHint adds a line to the hint and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	if e.Hint != "" {
		e.Hint += "\n"
	}
	e.Hint += fmt.Sprintf(format, args...)
	return e
}

// WithOp sets the operation and returns e.
func (e *Error) WithOp(format string, args ...any) *Error {
	e.Op = fmt.Sprintf(format, args...)
	return e
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	switch {
	case e.Msg != "":
		b.WriteString(e.Msg)
	case e.Err != nil:
		b.WriteString(e.Err.Error())
	default:
		b.WriteString(string(e.Kind))
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the outermost Error in err's chain. A cancelled context
// is Interrupted, anything else Unexpected; "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) && e.Kind != "" {
		return e.Kind
	}
	if errors.Is(err, context.Canceled) {
		return Interrupted
	}
	return Unexpected
}

// HintOf is the hint of the outermost Error in err's chain that has one.
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
