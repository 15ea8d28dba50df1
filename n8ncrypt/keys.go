package n8ncrypt

import (
	"errors"
	"fmt"
)

// Keys is everything that may open a stored value. Fields may be left zero.
type Keys struct {
	// Instance is the instance key.
	Instance InstanceKey
	// Legacy holds further instance keys for un-prefixed values, tried in order
	// after Instance: the content of deployment_key rows with algorithm
	// aes-256-cbc, or older keys. One equal to Instance is skipped.
	Legacy []InstanceKey
	// Data finds a data key by id; nil knows none.
	Data func(id string) (DataKey, bool)
}

// KeyKind says which field of Keys a key came from.
type KeyKind uint8

const (
	// KeyNone: no key opened the value.
	KeyNone KeyKind = iota
	// KeyInstance is Keys.Instance.
	KeyInstance
	// KeyLegacy is one of Keys.Legacy.
	KeyLegacy
	// KeyData came from Keys.Data.
	KeyData
)

// KeyRef names the key that opened a value. Of a value that did not open, a
// Prefixed one still has Kind and ID, and one of the wrong shape under GCM has
// the Kind of the key whose tag fitted.
type KeyRef struct {
	Kind KeyKind
	// Format is that of the value, None if it did not parse.
	Format Format
	// ID is the data key id of a Prefixed value.
	ID string
	// Index is the position in Keys.Legacy for KeyLegacy.
	Index int
	// Encoding is set for CBC; UTF8 means that n8n >= 1.16 cannot read the value.
	Encoding Encoding
}

// String returns "instance key", "legacy key N", `data key "ID"` or "no key".
func (r KeyRef) String() string {
	switch r.Kind {
	case KeyInstance:
		return "instance key"
	case KeyLegacy:
		return fmt.Sprintf("legacy key %d", r.Index)
	case KeyData:
		return fmt.Sprintf("data key %q", r.ID)
	default:
		return "no key"
	}
}

// Decrypt opens a stored value of any format with whichever key fits, and says
// which one did. n8n looks only at the legacy row for CBC when there is one, and
// does not read un-prefixed GCM outside deployment_key: callers that ask "will
// n8n open this" must look at the KeyRef as well. Errors are those of
// Parse, ErrWrongKey, ErrUnknownKeyID, ErrWrongShape, and ErrNoKey when Keys has
// no instance key for an un-prefixed value.
func Decrypt(k Keys, stored string, shape Shape) ([]byte, KeyRef, error) {
	v, err := Parse(stored)
	if err != nil {
		return nil, KeyRef{}, err
	}
	ref := KeyRef{Format: v.format, ID: v.keyID}
	switch v.format {
	case Prefixed:
		ref.Kind = KeyData
		if k.Data == nil {
			return nil, ref, unknownKeyID(v)
		}
		key, ok := k.Data(v.keyID)
		if !ok {
			return nil, ref, unknownKeyID(v)
		}
		plaintext, err := key.open(v, shape, true)
		return plaintext, ref, err
	default:
		return k.decryptUnprefixed(v, shape, ref)
	}
}

// decryptUnprefixed tries the instance key, then every other legacy key. n8n
// stores the instance key itself in the legacy row, so equal ones are skipped.
func (k Keys) decryptUnprefixed(v Value, shape Shape, ref KeyRef) ([]byte, KeyRef, error) {
	last := len(k.Legacy) - 1
	for last >= 0 && (k.Legacy[last].IsZero() || k.Legacy[last].Equal(k.Instance)) {
		last--
	}
	result := ErrNoKey
	for i := -1; i <= last; i++ {
		key, kind := k.Instance, KeyInstance
		if i >= 0 {
			key, kind = k.Legacy[i], KeyLegacy
		}
		if key.IsZero() || i >= 0 && key.Equal(k.Instance) {
			continue
		}
		var plaintext []byte
		var enc Encoding
		var err error
		if v.format == CBC {
			plaintext, enc, err = key.openCBC(v.raw, shape, i == last)
		} else {
			plaintext, err = openGCM(key.wrapKey(), v.raw, i == last)
			plaintext, err = checkShape(plaintext, err, shape)
		}
		switch {
		case err == nil:
			ref.Kind, ref.Index, ref.Encoding = kind, max(i, 0), enc
			return plaintext, ref, nil
		case !errors.Is(err, ErrWrongKey):
			// The tag fitted, only the shape is wrong: no other key will do.
			ref.Kind, ref.Index = kind, max(i, 0)
			return nil, ref, err
		case result == ErrNoKey || result == ErrWrongKey:
			result = err // a wrong shape says more than a wrong key, so the first one stays
		}
	}
	return nil, ref, result
}
