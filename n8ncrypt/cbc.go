package n8ncrypt

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"crypto/rand"
	"fmt"
)

// Encoding is how an instance key became CBC password bytes. It matters only
// for keys with non-ASCII characters.
type Encoding uint8

const (
	// Latin1 is the low byte of each UTF-16 unit, n8n >= 1.16.
	Latin1 Encoding = iota + 1
	// UTF8 is what crypto-js used, n8n <= 1.15.
	UTF8
)

// String returns "latin1", "utf-8" or "".
func (e Encoding) String() string {
	switch e {
	case Latin1:
		return "latin1"
	case UTF8:
		return "utf-8"
	default:
		return ""
	}
}

// DecryptCBC opens a CBC value whose plaintext must have the given shape. For a
// non-ASCII key both password encodings are tried. It returns ErrWrongKey,
// together with ErrWrongShape when the padding was right by chance or the
// caller's shape is wrong, and ErrNotCiphertext for a Value of another format.
func (k InstanceKey) DecryptCBC(v Value, shape Shape) ([]byte, error) {
	plaintext, _, err := k.DecryptCBCEncoding(v, shape)
	return plaintext, err
}

// DecryptCBCEncoding is DecryptCBC and also says which password encoding opened
// the value: UTF8 means that n8n >= 1.16 cannot read it. An ASCII key is Latin1.
func (k InstanceKey) DecryptCBCEncoding(v Value, shape Shape) ([]byte, Encoding, error) {
	if k.IsZero() {
		return nil, 0, ErrNoKey
	}
	if v.format != CBC {
		return nil, 0, fmt.Errorf("%w: %s value where cbc is wanted", ErrNotCiphertext, v.format)
	}
	return k.openCBC(v.raw, shape, false)
}

// openCBC tries each encoding of the key. With owned set the last try decrypts
// in place and destroys raw.
func (k InstanceKey) openCBC(raw []byte, shape Shape, owned bool) ([]byte, Encoding, error) {
	err := ErrWrongKey
	key := k.secret()
	last := key.encodings()
	for enc := Latin1; enc <= last; enc++ {
		dst := raw[cbcHeader:]
		if !owned || enc != last {
			dst = make([]byte, len(raw)-cbcHeader)
		}
		plaintext, ok := decryptCBC(dst, raw, key.password(enc))
		switch {
		case !ok:
		case shape.Check(plaintext):
			return plaintext, enc, nil
		default:
			err = fmt.Errorf("%w: %w (%s)", ErrWrongKey, ErrWrongShape, shape)
		}
	}
	return nil, 0, err
}

// EncryptCBC returns what n8n >= 1.16 writes with key rotation off, under a
// random salt. n8n reads every plaintext as UTF-8.
func (k InstanceKey) EncryptCBC(plaintext []byte) (Value, error) {
	if k.IsZero() {
		return Value{}, ErrNoKey
	}
	var salt [cbcSalt]byte
	rand.Read(salt[:])
	return k.encryptCBC(plaintext, salt, Latin1), nil
}

func (k InstanceKey) encryptCBC(plaintext []byte, salt [cbcSalt]byte, enc Encoding) Value {
	pad := cbcBlock - len(plaintext)%cbcBlock
	raw := make([]byte, cbcHeader+len(plaintext)+pad)
	copy(raw, cbcMagic)
	copy(raw[len(cbcMagic):], salt[:])
	body := raw[cbcHeader:]
	copy(body, plaintext)
	for i := len(plaintext); i < len(body); i++ {
		body[i] = byte(pad)
	}
	block, iv := cbcCipher(k.secret().password(enc), salt[:])
	cipher.NewCBCEncrypter(block, iv[:]).CryptBlocks(body, body)
	return Value{format: CBC, canonical: true, raw: raw}
}

// decryptCBC decrypts the body of raw into dst, which is raw's body itself or
// as long and apart from it, and removes the padding, all of which it checks.
func decryptCBC(dst, raw []byte, password string) ([]byte, bool) {
	block, iv := cbcCipher(password, raw[len(cbcMagic):cbcHeader])
	cipher.NewCBCDecrypter(block, iv[:]).CryptBlocks(dst, raw[cbcHeader:])
	pad := int(dst[len(dst)-1])
	if pad == 0 || pad > cbcBlock {
		return nil, false
	}
	n := len(dst) - pad
	for _, c := range dst[n:] {
		if int(c) != pad {
			return nil, false
		}
	}
	return dst[:n], true
}

// cbcCipher is OpenSSL's EVP_BytesToKey with MD5 and one iteration.
func cbcCipher(password string, salt []byte) (cipher.Block, [md5.Size]byte) {
	var stack [md5.Size + 128]byte
	in := append(stack[:md5.Size], password...)
	in = append(in, salt...)
	h1 := md5.Sum(in[md5.Size:])
	copy(in, h1[:])
	h2 := md5.Sum(in)
	copy(in, h2[:])
	iv := md5.Sum(in)

	var key [2 * md5.Size]byte
	copy(key[:], h1[:])
	copy(key[md5.Size:], h2[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("n8ncrypt: " + err.Error()) // the key is always 32 bytes
	}
	return block, iv
}
