// Package secret holds values that must not be seen: a [String] or [Bytes]
// prints as [redacted] under every fmt verb, in slog, and refuses to be
// marshalled. The value sits inside a closure, because fmt does not call the
// methods of unexported fields and follows pointers to slices: a string or byte
// field still leaks under %v and %s. Reveal is the only way to read it, which
// makes every use easy to find.
package secret

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what stands wherever a secret would have been printed.
const Redacted = "[redacted]"

var errMarshal = errors.New("a secret cannot be marshalled")

// String is a secret text. The zero value is empty.
type String struct{ reveal func() string }

// NewString returns s as a secret.
func NewString(s string) String { return String{func() string { return s }} }

// Reveal returns the text.
func (s String) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// IsZero reports whether the secret is empty.
func (s String) IsZero() bool { return s.Reveal() == "" }

// Format implements fmt.Formatter for all verbs.
func (s String) Format(f fmt.State, _ rune) { io.WriteString(f, Redacted) }

// LogValue implements slog.LogValuer.
func (s String) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText fails, and with it JSON and YAML encoding.
func (s String) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalJSON fails.
func (s String) MarshalJSON() ([]byte, error) { return nil, errMarshal }

// Bytes is a secret byte string. The zero value is empty.
type Bytes struct{ reveal func() []byte }

// NewBytes takes ownership of b.
func NewBytes(b []byte) Bytes { return Bytes{func() []byte { return b }} }

// Reveal returns the bytes, not a copy.
func (s Bytes) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// IsZero reports whether the secret is empty.
func (s Bytes) IsZero() bool { return len(s.Reveal()) == 0 }

// Wipe overwrites the bytes with zeros. Copies made by others stay.
func (s Bytes) Wipe() { clear(s.Reveal()) }

// Format implements fmt.Formatter for all verbs.
func (s Bytes) Format(f fmt.State, _ rune) { io.WriteString(f, Redacted) }

// LogValue implements slog.LogValuer.
func (s Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText fails, and with it JSON and YAML encoding.
func (s Bytes) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalJSON fails.
func (s Bytes) MarshalJSON() ([]byte, error) { return nil, errMarshal }
