package n8ncrypt

import "fmt"

// Keys is everything that may open a stored value. Fields may be left zero.
type Keys struct {
	// Instance is the instance key.
	Instance InstanceKey
	// Legacy holds further instance keys for un-prefixed values, tried in order
	// after Instance: the content of deployment_key rows with algorithm
	// aes-256-cbc, or older keys.
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

// KeyRef names the key that opened a value. For a Prefixed value Kind and ID are
// set on failure too.
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
// n8n open this" must look at the KeyRef as well. Errors are the first six
// sentinels, or ErrNoKey when Keys has none for the format.
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
	case GCM:
		if k.Instance.IsZero() {
			return nil, ref, ErrNoKey
		}
		plaintext, err := openGCM(k.Instance.wrapKey(), v.raw, true)
		if err == nil {
			ref.Kind = KeyInstance
		}
		plaintext, err = checkShape(plaintext, err, shape)
		return plaintext, ref, err
	default:
		return k.decryptCBC(v, shape, ref)
	}
}

func (k Keys) decryptCBC(v Value, shape Shape, ref KeyRef) ([]byte, KeyRef, error) {
	result := ErrNoKey
	try := func(key InstanceKey, last bool) ([]byte, bool) {
		if key.IsZero() {
			return nil, false
		}
		plaintext, enc, err := key.openCBC(v.raw, shape, last)
		// A wrong shape says more than a wrong key, so it is kept.
		if result == ErrNoKey || result == ErrWrongKey {
			result = err
		}
		ref.Encoding = enc
		return plaintext, err == nil
	}
	if plaintext, ok := try(k.Instance, len(k.Legacy) == 0); ok {
		ref.Kind = KeyInstance
		return plaintext, ref, nil
	}
	for i, key := range k.Legacy {
		if plaintext, ok := try(key, i == len(k.Legacy)-1); ok {
			ref.Kind, ref.Index = KeyLegacy, i
			return plaintext, ref, nil
		}
	}
	return nil, ref, result
}
