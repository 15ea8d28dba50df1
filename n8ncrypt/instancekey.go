package n8ncrypt

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// InstanceKey is an N8N_ENCRYPTION_KEY. It prints as a placeholder everywhere
// and refuses to be marshalled; Reveal is the only way to its text. Keys cannot
// be compared with ==, use Equal. The zero InstanceKey is no key.
type InstanceKey struct {
	// A closure, because fmt and every other printer that reflects into
	// unexported fields follows pointers and stops at functions.
	secret func() *instanceKey
}

type instanceKey struct {
	text   string
	latin1 string
}

// NewInstanceKey takes the key exactly as given: whoever read it from a file or
// variable has removed what n8n removes. It returns ErrInvalidKey for an empty
// string, for one that is not valid UTF-8, where n8n sees replacement characters,
// and for one with a NUL byte. No n8n can have such a key from a variable, and
// HMAC fills short keys up with zeros: a key and the same key with NULs behind it
// have one fingerprint, although they open different secrets. A key with half a
// surrogate pair, which only a JSON escape in n8n's config file could hold, cannot
// be given.
func NewInstanceKey(s string) (InstanceKey, error) {
	if s == "" {
		return InstanceKey{}, fmt.Errorf("%w: the instance key is empty", ErrInvalidKey)
	}
	if !utf8.ValidString(s) {
		return InstanceKey{}, fmt.Errorf("%w: the instance key is not valid UTF-8", ErrInvalidKey)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return InstanceKey{}, fmt.Errorf("%w: the instance key holds a NUL byte, which ends a variable in /proc/PID/environ and is no part of the key", ErrInvalidKey)
	}
	p := &instanceKey{text: s, latin1: latin1(s)}
	return InstanceKey{secret: func() *instanceKey { return p }}, nil
}

// latin1 is Node's Buffer.from(s, "latin1").
func latin1(s string) string {
	ascii := true
	for i := range len(s) {
		ascii = ascii && s[i] < utf8.RuneSelf
	}
	if ascii {
		return s
	}
	units := utf16.Encode([]rune(s))
	out := make([]byte, len(units))
	for i, u := range units {
		out[i] = byte(u)
	}
	return string(out)
}

func (p *instanceKey) password(enc Encoding) string {
	if enc == UTF8 {
		return p.text
	}
	return p.latin1
}

// encodings returns the last encoding worth trying.
func (p *instanceKey) encodings() Encoding {
	if p.latin1 == p.text {
		return Latin1
	}
	return UTF8
}

// Reveal returns the key itself, "" for the zero key.
func (k InstanceKey) Reveal() string {
	if k.secret == nil {
		return ""
	}
	return k.secret().text
}

// IsZero reports whether k holds no key.
func (k InstanceKey) IsZero() bool { return k.secret == nil }

// Equal compares in time that depends on the lengths only. Two zero keys are
// equal.
func (k InstanceKey) Equal(other InstanceKey) bool {
	return subtle.ConstantTimeCompare([]byte(k.Reveal()), []byte(other.Reveal())) == 1
}

const redactedInstanceKey = "n8ncrypt.InstanceKey(redacted)"

// String returns a placeholder.
func (k InstanceKey) String() string { return redactedInstanceKey }

// Format writes a placeholder under every verb.
func (k InstanceKey) Format(s fmt.State, _ rune) { io.WriteString(s, redactedInstanceKey) }

// LogValue returns a placeholder.
func (k InstanceKey) LogValue() slog.Value { return slog.StringValue(redactedInstanceKey) }

// MarshalJSON always fails.
func (k InstanceKey) MarshalJSON() ([]byte, error) { return nil, errMarshalKey() }

// MarshalText always fails, which covers XML, YAML and map keys.
func (k InstanceKey) MarshalText() ([]byte, error) { return nil, errMarshalKey() }

func errMarshalKey() error { return errors.New("n8ncrypt: keys are not marshalled") }

func (k InstanceKey) wrapKey() *[32]byte {
	sum := sha256.Sum256([]byte(k.secret().text))
	return &sum
}

// Wrap encrypts plaintext under the instance key in the un-prefixed GCM format
// of deployment_key rows, n8n >= 2.20. It fails only for the zero key.
func (k InstanceKey) Wrap(plaintext []byte) (string, error) {
	if k.IsZero() {
		return "", ErrNoKey
	}
	return base64.StdEncoding.EncodeToString(sealGCM(k.wrapKey(), plaintext)), nil
}

// Unwrap opens what Wrap made. Other formats, CBC among them, are
// ErrNotCiphertext; [Decrypt] takes them all. Base64 of a wrap's length that
// begins with another version byte is ErrUnsupportedVersion.
func (k InstanceKey) Unwrap(stored string) ([]byte, error) {
	if k.IsZero() {
		return nil, ErrNoKey
	}
	v, err := parseWrap(stored)
	if err != nil {
		return nil, err
	}
	if v.format != GCM {
		return nil, fmt.Errorf("%w: %s value where an instance-key wrap is wanted", ErrNotCiphertext, v.format)
	}
	return openGCM(k.wrapKey(), v.raw, true)
}
