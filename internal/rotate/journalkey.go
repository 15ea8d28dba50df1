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

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	wrapInfo   = "n8keep/rotation-journal/v1"
	oldKeyInfo = "n8keep/rotation-old-key/v1"
	digestInfo = "n8keep/rotation-digest/v1"
)

// WrappedKey is the journal key, twice: AES-256-GCM of the age identity's text, key
// from HKDF-SHA-256(instance key, Salt, "n8keep/rotation-journal/v1"), 12 bytes of
// nonce in front, the rotation's id as additional data.
type WrappedKey struct {
	Salt []byte `json:"salt"` // 32 bytes
	Old  []byte `json:"old"`
	New  []byte `json:"new"`
	// OldKey is the old instance key, AES-256-GCM as above, the key from
	// HKDF-SHA-256(age identity's text, Salt, "n8keep/rotation-old-key/v1"): where it was
	// read from may hold the new one by now. The new key is not kept so, because after a
	// leak the old one opens this journal for others, too.
	OldKey []byte `json:"old_key"`
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
	identity := k.identity.String()
	for _, s := range []struct {
		under, info, text string
		into              *[]byte
	}{
		{before.Reveal(), wrapInfo, identity, &w.Old},
		{after.Reveal(), wrapInfo, identity, &w.New},
		{identity, oldKeyInfo, before.Reveal(), &w.OldKey},
	} {
		aead, err := w.cipher(s.under, s.info)
		if err != nil {
			return nil, err
		}
		nonce := make([]byte, aead.NonceSize())
		rand.Read(nonce)
		*s.into = aead.Seal(nonce, nonce, []byte(s.text), []byte(id))
	}
	return w, nil
}

func (w *WrappedKey) cipher(secret, info string) (cipher.AEAD, error) {
	okm, err := hkdf.Key(sha256.New, []byte(secret), w.Salt, info, 32)
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
	text, err := w.unseal(id, sealed, key.Reveal(), wrapInfo)
	if err != nil {
		return nil, err
	}
	identity, err := age.ParseX25519Identity(string(text))
	clear(text)
	if err != nil {
		return nil, errNotThisKey
	}
	return withDigests(identity)
}

// unseal opens what wrap has sealed.
func (w *WrappedKey) unseal(id string, sealed []byte, secret, info string) ([]byte, error) {
	aead, err := w.cipher(secret, info)
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
	return text, nil
}

// OldKey is the old instance key of a rotation that has not ended, found with the new
// one: the file that it was read from may hold the new key by now. A key that is not
// the rotation's new one is WrongKey.
func (j *Journal) OldKey(newKey n8ncrypt.InstanceKey) (n8ncrypt.InstanceKey, error) {
	var none n8ncrypt.InstanceKey
	w := j.Wrapped
	if w == nil {
		return none, problem.New(problem.NotFound, "the journal of rotation %q keeps no key any more: it is %s", j.ID, j.State)
	}
	k, err := w.open(j.ID, w.New, newKey)
	if err == nil {
		var text []byte
		if text, err = w.unseal(j.ID, w.OldKey, k.identity.String(), oldKeyInfo); err == nil {
			defer clear(text)
			return n8ncrypt.NewInstanceKey(string(text))
		}
	}
	return none, problem.New(problem.WrongKey, "the key is not the new one of rotation %q, which has the fingerprint %s", j.ID, j.New.Fingerprint).
		WithHint("nothing was touched")
}
