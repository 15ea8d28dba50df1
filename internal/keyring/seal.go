package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"strings"
	"time"

	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	info     = "n8keep/keyring/v1"
	saltSize = 32
	tagSize  = 16
)

var errSealed = errors.New("the key does not open it, or it was altered")

// seal puts key into the record, under another one.
func (r *retired) seal(key n8ncrypt.InstanceKey, under Key) {
	r.Under = under.Fingerprint
	salt := make([]byte, saltSize)
	rand.Read(salt)
	aead, nonce := box(under.Key, salt)
	r.Sealed = aead.Seal(salt, nonce, []byte(key.Reveal()), r.bound())
}

// unseal opens the record. That the fingerprint is the key's was true when it was
// sealed, and is authenticated since.
func (r *retired) unseal(key n8ncrypt.InstanceKey) (n8ncrypt.InstanceKey, error) {
	if key.IsZero() || len(r.Sealed) < saltSize+tagSize {
		return n8ncrypt.InstanceKey{}, errSealed
	}
	aead, nonce := box(key, r.Sealed[:saltSize])
	plaintext, err := aead.Open(nil, nonce, r.Sealed[saltSize:], r.bound())
	if err != nil {
		return n8ncrypt.InstanceKey{}, errSealed
	}
	return n8ncrypt.NewInstanceKey(string(plaintext))
}

// bound is what belongs to the key and is not secret.
func (r *retired) bound() []byte {
	text := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	return []byte(strings.Join([]string{info, string(r.Fingerprint), text(r.From), text(r.To), r.Rotation, string(r.Under)}, "\x00"))
}

// box uses each derived key and nonce for one message, because each has its salt.
func box(key n8ncrypt.InstanceKey, salt []byte) (cipher.AEAD, []byte) {
	okm, err := hkdf.Key(sha256.New, []byte(key.Reveal()), salt, info, 32+12)
	if err != nil {
		panic("keyring: " + err.Error()) // the length is fixed
	}
	block, err := aes.NewCipher(okm[:32])
	if err != nil {
		panic("keyring: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("keyring: " + err.Error())
	}
	return aead, okm[32:]
}
