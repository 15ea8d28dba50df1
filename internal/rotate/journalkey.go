package rotate

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"filippo.io/age"

	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	wrapInfo   = "n8keep/rotation-journal/v1"
	digestInfo = "n8keep/rotation-digest/v1"
)

// WrappedKey is the journal key, twice: AES-256-GCM of the age identity's text, key
// from HKDF-SHA-256(instance key, Salt, "n8keep/rotation-journal/v1"), 12 bytes of
// nonce in front, the rotation's id as additional data.
type WrappedKey struct {
	Salt []byte `json:"salt"` // 32 bytes
	Old  []byte `json:"old"`
	New  []byte `json:"new"`
}

// journalKey encrypts what undoes a rotation.
type journalKey struct {
	identity *age.X25519Identity
	digest   []byte // key of the digests
}

func newJournalKey() (*journalKey, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("making the journal key: %w", err)
	}
	return withDigests(identity)
}

func withDigests(identity *age.X25519Identity) (*journalKey, error) {
	digest, err := hkdf.Key(sha256.New, []byte(identity.String()), nil, digestInfo, 32)
	if err != nil {
		return nil, fmt.Errorf("making the journal key: %w", err)
	}
	return &journalKey{identity: identity, digest: digest}, nil
}

// wrap seals the key under both instance keys.
func (k *journalKey) wrap(id string, before, after n8ncrypt.InstanceKey) (*WrappedKey, error) {
	w := &WrappedKey{Salt: make([]byte, 32)}
	rand.Read(w.Salt)
	for _, s := range []struct {
		key  n8ncrypt.InstanceKey
		into *[]byte
	}{{before, &w.Old}, {after, &w.New}} {
		aead, err := w.cipher(s.key)
		if err != nil {
			return nil, err
		}
		nonce := make([]byte, aead.NonceSize())
		rand.Read(nonce)
		*s.into = aead.Seal(nonce, nonce, []byte(k.identity.String()), []byte(id))
	}
	return w, nil
}

func (w *WrappedKey) cipher(key n8ncrypt.InstanceKey) (cipher.AEAD, error) {
	okm, err := hkdf.Key(sha256.New, []byte(key.Reveal()), w.Salt, wrapInfo, 32)
	if err != nil {
		return nil, fmt.Errorf("sealing the journal key: %w", err)
	}
	block, err := aes.NewCipher(okm)
	if err != nil {
		return nil, fmt.Errorf("sealing the journal key: %w", err)
	}
	return cipher.NewGCM(block)
}

var errNotThisKey = errors.New("the journal key does not open")

// open opens one of the copies. A key that is not the one it was sealed under gives
// errNotThisKey.
func (w *WrappedKey) open(id string, sealed []byte, key n8ncrypt.InstanceKey) (*journalKey, error) {
	if key.IsZero() {
		return nil, errNotThisKey
	}
	aead, err := w.cipher(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < aead.NonceSize() {
		return nil, errNotThisKey
	}
	text, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(id))
	if err != nil {
		return nil, errNotThisKey
	}
	identity, err := age.ParseX25519Identity(string(text))
	clear(text)
	if err != nil {
		return nil, errNotThisKey
	}
	return withDigests(identity)
}
