package n8ncrypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
)

const gcmInfo = "n8n-encryption-v1"

// openGCM opens raw, which has passed Parse. With owned set it decrypts in place
// and destroys raw.
func openGCM(key *[32]byte, raw []byte, owned bool) ([]byte, error) {
	aead, nonce := gcmCipher(key, raw[1:1+gcmSalt])

	// n8n puts the tag before the ciphertext, Go wants it after.
	var tag [gcmTag]byte
	copy(tag[:], raw[1+gcmSalt:])
	buf := raw[1+gcmSalt:]
	if !owned {
		buf = make([]byte, len(raw)-1-gcmSalt)
	}
	n := copy(buf, raw[gcmHeader:])
	copy(buf[n:], tag[:])

	plaintext, err := aead.Open(buf[:0], nonce, buf, nil)
	if err != nil {
		return nil, ErrWrongKey
	}
	return plaintext, nil
}

func sealGCM(key *[32]byte, plaintext []byte) []byte {
	var salt [gcmSalt]byte
	rand.Read(salt[:])
	return sealGCMWith(key, salt, plaintext)
}

func sealGCMWith(key *[32]byte, salt [gcmSalt]byte, plaintext []byte) []byte {
	aead, nonce := gcmCipher(key, salt[:])
	raw := make([]byte, 1+gcmSalt, gcmHeader+len(plaintext))
	raw[0] = gcmVersion
	copy(raw[1:], salt[:])
	raw = aead.Seal(raw, nonce, plaintext, nil)

	body := raw[1+gcmSalt:]
	var tag [gcmTag]byte
	copy(tag[:], body[len(plaintext):])
	copy(body[gcmTag:], body[:len(plaintext)])
	copy(body, tag[:])
	return raw
}

// gcmCipher derives a key and nonce of one use from a random salt, so that the
// nonce never repeats under a key.
func gcmCipher(key *[32]byte, salt []byte) (cipher.AEAD, []byte) {
	okm, err := hkdf.Key(sha256.New, key[:], salt, gcmInfo, 32+12)
	if err != nil {
		panic("n8ncrypt: " + err.Error()) // 44 bytes are far below HKDF's limit
	}
	block, err := aes.NewCipher(okm[:32])
	if err != nil {
		panic("n8ncrypt: " + err.Error())
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("n8ncrypt: " + err.Error())
	}
	return aead, okm[32:]
}
