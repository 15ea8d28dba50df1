package archive

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

const (
	saltSize   = 32
	digestInfo = "n8keep/digest/v1"
)

// NewSalt returns 32 random bytes for [NewDigester]; one salt per archive.
func NewSalt() []byte {
	salt := make([]byte, saltSize)
	rand.Read(salt)
	return salt
}

// Digester computes keyed digests of plaintexts: equal plaintexts of one place
// and row have equal digests under one salt, and without the instance key a
// digest neither proves nor helps to guess anything. It is safe for concurrent
// use.
//
//	key    = HKDF-SHA-256(instance key, salt, "n8keep/digest/v1", 32 bytes)
//	digest = HMAC-SHA-256(key, len(place) || place || len(row) || row || len(plaintext) || plaintext)
//
// with lengths in bytes as 8 bytes big-endian.
type Digester struct {
	key []byte
}

// NewDigester derives the digest key. The instance key is not kept.
func NewDigester(instanceKey, salt []byte) (*Digester, error) {
	if len(instanceKey) == 0 {
		return nil, errors.New("deriving the digest key: the instance key is empty")
	}
	if len(salt) != saltSize {
		return nil, fmt.Errorf("deriving the digest key: the salt has %d bytes, want %d", len(salt), saltSize)
	}
	key, err := hkdf.Key(sha256.New, instanceKey, salt, digestInfo, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving the digest key: %w", err)
	}
	return &Digester{key: key}, nil
}

// Sum returns the digest of a plaintext as 64 lower hex digits.
func (d *Digester) Sum(place, row string, plaintext []byte) string {
	mac := hmac.New(sha256.New, d.key)
	var n [8]byte
	length := func(l int) {
		binary.BigEndian.PutUint64(n[:], uint64(l))
		mac.Write(n[:])
	}
	length(len(place))
	io.WriteString(mac, place)
	length(len(row))
	io.WriteString(mac, row)
	length(len(plaintext))
	mac.Write(plaintext)
	return hex.EncodeToString(mac.Sum(nil))
}
