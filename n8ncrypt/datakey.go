package n8ncrypt

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
)

// Algorithm is the text of deployment_key.algorithm for data_encryption rows.
type Algorithm string

const (
	// AlgorithmGCM marks a data key.
	AlgorithmGCM Algorithm = "aes-256-gcm"
	// AlgorithmCBC marks the legacy row, which holds an instance key.
	AlgorithmCBC Algorithm = "aes-256-cbc"
)

// DataKey is one of n8n's data encryption keys (n8n >= 2.18): 32 bytes, and the
// id that values name it by. It redacts itself as InstanceKey does. The zero
// DataKey is no key.
type DataKey struct {
	// ID is deployment_key.id, see ValidKeyID.
	ID     string
	secret func() *[32]byte // a closure, as in InstanceKey
}

// ParseDataKey takes a key as 64 hexadecimal digits, the form in which n8n
// wraps it. It returns ErrInvalidKey.
func ParseDataKey(id, hexKey string) (DataKey, error) {
	if !ValidKeyID(id) {
		return DataKey{}, errKeyID(id)
	}
	if !isHex64(hexKey) {
		return DataKey{}, fmt.Errorf("%w: data key %q is not 64 hexadecimal digits", ErrInvalidKey, id)
	}
	p := new([32]byte)
	if _, err := hex.Decode(p[:], []byte(hexKey)); err != nil {
		panic("n8ncrypt: hexadecimal digits do not decode") // checked above
	}
	return newDataKey(id, p), nil
}

// NewDataKey returns a random key, as n8n makes them.
func NewDataKey(id string) (DataKey, error) {
	if !ValidKeyID(id) {
		return DataKey{}, errKeyID(id)
	}
	p := new([32]byte)
	rand.Read(p[:])
	return newDataKey(id, p), nil
}

func newDataKey(id string, p *[32]byte) DataKey {
	return DataKey{ID: id, secret: func() *[32]byte { return p }}
}

// errKeyID names only the length: a caller that mixed up its arguments must not
// print a key.
func errKeyID(id string) error {
	return fmt.Errorf("%w: key id of %d bytes is not 1 to %d of A-Z a-z 0-9 _ -", ErrInvalidKey, len(id), maxKeyID)
}

// NewKeyID returns a random id in n8n's form, 16 letters and digits.
func NewKeyID() string {
	const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	id := make([]byte, 0, 16)
	var buf [32]byte
	for {
		rand.Read(buf[:])
		for _, b := range buf {
			if b &= 63; int(b) >= len(alphabet) {
				continue
			}
			if id = append(id, alphabet[b]); len(id) == cap(id) {
				return string(id)
			}
		}
	}
}

// Algorithm returns AlgorithmGCM, the only one that data keys have.
func (k DataKey) Algorithm() Algorithm { return AlgorithmGCM }

// IsZero reports whether k holds no key.
func (k DataKey) IsZero() bool { return k.secret == nil }

// Reveal returns the key as 64 lower-case hexadecimal digits, "" for the zero
// key.
func (k DataKey) Reveal() string {
	if k.secret == nil {
		return ""
	}
	return hex.EncodeToString(k.secret()[:])
}

// Equal compares ids, then key bytes in constant time.
func (k DataKey) Equal(other DataKey) bool {
	if k.IsZero() || other.IsZero() {
		return k.IsZero() == other.IsZero() && k.ID == other.ID
	}
	return k.ID == other.ID && subtle.ConstantTimeCompare(k.secret()[:], other.secret()[:]) == 1
}

// String returns a placeholder with the id.
func (k DataKey) String() string { return "n8ncrypt.DataKey(" + k.ID + ", redacted)" }

// Format writes a placeholder under every verb.
func (k DataKey) Format(s fmt.State, _ rune) { io.WriteString(s, k.String()) }

// LogValue returns a placeholder with the id.
func (k DataKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON always fails.
func (k DataKey) MarshalJSON() ([]byte, error) { return nil, errMarshalKey() }

// MarshalText always fails.
func (k DataKey) MarshalText() ([]byte, error) { return nil, errMarshalKey() }

// Encrypt returns the Prefixed value that n8n writes with key rotation on. It
// fails only for the zero key.
func (k DataKey) Encrypt(plaintext []byte) (Value, error) {
	if k.IsZero() {
		return Value{}, ErrNoKey
	}
	return Value{format: Prefixed, canonical: true, keyID: k.ID, raw: sealGCM(k.secret(), plaintext)}, nil
}

// Decrypt opens a Prefixed value. It returns ErrUnknownKeyID when the value
// names another key, ErrWrongKey when the tag does not fit, and ErrWrongShape.
func (k DataKey) Decrypt(v Value, shape Shape) ([]byte, error) {
	return k.open(v, shape, false)
}

func (k DataKey) open(v Value, shape Shape, owned bool) ([]byte, error) {
	if k.IsZero() {
		return nil, ErrNoKey
	}
	if v.format != Prefixed {
		return nil, fmt.Errorf("%w: %s value where prefixed is wanted", ErrNotCiphertext, v.format)
	}
	if v.keyID != k.ID {
		return nil, unknownKeyID(v)
	}
	plaintext, err := openGCM(k.secret(), v.raw, owned)
	return checkShape(plaintext, err, shape)
}

func checkShape(plaintext []byte, err error, shape Shape) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	if !shape.Check(plaintext) {
		return nil, fmt.Errorf("%w (%s)", ErrWrongShape, shape)
	}
	return plaintext, nil
}

// unknownKeyID names the id only if the value is exactly what n8n writes: prose
// with a colon that happens to decode may be somebody's secret.
func unknownKeyID(v Value) error {
	if v.canonical {
		return fmt.Errorf("%w %q", ErrUnknownKeyID, v.keyID)
	}
	return ErrUnknownKeyID
}
