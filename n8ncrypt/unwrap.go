package n8ncrypt

import (
	"crypto/subtle"
	"errors"
	"fmt"
)

// WrapKind is how a key is stored in a deployment_key row.
type WrapKind uint8

const (
	// WrapGCM is the instance-key wrap, n8n >= 2.20.
	WrapGCM WrapKind = iota + 1
	// WrapCBC is CBC under the instance key, n8n 2.19.
	WrapCBC
	// WrapPlaintext is no wrap: a raw data key of n8n 2.18, or the instance key
	// itself in the legacy row. Opening it proves nothing about the instance key.
	WrapPlaintext
)

// String returns "gcm", "cbc", "plaintext" or "".
func (w WrapKind) String() string {
	switch w {
	case WrapGCM:
		return "gcm"
	case WrapCBC:
		return "cbc"
	case WrapPlaintext:
		return "plaintext"
	default:
		return ""
	}
}

// UnwrapDataKey reads the value of a deployment_key row of type
// data_encryption and algorithm aes-256-gcm, as any n8n version stored it. With
// WrapPlaintext the instance key is not used and may be zero.
func UnwrapDataKey(k InstanceKey, id, stored string) (DataKey, WrapKind, error) {
	if !ValidKeyID(id) {
		return DataKey{}, 0, errKeyID(id)
	}
	if Detect(stored) == RawHex {
		key, err := ParseDataKey(id, stored)
		return key, WrapPlaintext, err
	}
	v, err := parseWrap(stored)
	if err != nil {
		return DataKey{}, 0, err
	}
	plaintext, kind, err := k.unwrap(v, ShapeHexKey)
	if err != nil {
		return DataKey{}, kind, err
	}
	key, err := ParseDataKey(id, string(plaintext))
	return key, kind, err
}

// UnwrapLegacyKey reads the value of a deployment_key row of type
// data_encryption and algorithm aes-256-cbc. It holds an instance key, normally
// k itself. n8n before 2.39.8 and 2.40.3 could store it verbatim; such text is
// recognised only when it equals k, and is ErrNotCiphertext otherwise.
func UnwrapLegacyKey(k InstanceKey, stored string) (InstanceKey, WrapKind, error) {
	if !k.IsZero() && subtle.ConstantTimeCompare([]byte(stored), []byte(k.Reveal())) == 1 {
		return k, WrapPlaintext, nil
	}
	v, err := Parse(stored)
	if err != nil {
		return InstanceKey{}, 0, err
	}
	plaintext, kind, err := k.unwrap(v, ShapeText)
	if err != nil {
		return InstanceKey{}, kind, err
	}
	key, err := NewInstanceKey(string(plaintext))
	return key, kind, err
}

// WrapDataKey returns the text that n8n >= 2.20 stores for a data key.
func WrapDataKey(k InstanceKey, key DataKey) (string, error) {
	if key.IsZero() {
		return "", ErrNoKey
	}
	return k.Wrap([]byte(key.Reveal()))
}

// parseWrap is Parse where the place says that a key must be: a version byte
// that we do not know is then news from n8n and no stray text.
func parseWrap(stored string) (Value, error) {
	v, err := Parse(stored)
	if errors.Is(err, ErrNotCiphertext) {
		if raw, p := decodeBase64(stored); p == canonical && len(raw) >= gcmHeader {
			return Value{}, fmt.Errorf("%w: %d", ErrUnsupportedVersion, raw[0])
		}
	}
	return v, err
}

func (k InstanceKey) unwrap(v Value, shape Shape) ([]byte, WrapKind, error) {
	if k.IsZero() {
		return nil, 0, ErrNoKey
	}
	switch v.format {
	case GCM:
		plaintext, err := openGCM(k.wrapKey(), v.raw, true)
		plaintext, err = checkShape(plaintext, err, shape)
		return plaintext, WrapGCM, err
	case CBC:
		plaintext, _, err := k.openCBC(v.raw, shape, true)
		return plaintext, WrapCBC, err
	default:
		return nil, 0, fmt.Errorf("%w: a key stored under another data key", ErrMalformed)
	}
}
