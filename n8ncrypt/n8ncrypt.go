// Package n8ncrypt reads and writes the ciphertext that n8n keeps in its
// database, and derives the secrets that n8n derives from N8N_ENCRYPTION_KEY. It
// needs the standard library only, so that a stored value can be opened by hand
// when neither n8n nor n8keep is there. Stored text is padded base64 of:
//
//	CBC (every n8n version)
//	  "Salted__"[8] | salt[8] | AES-256-CBC(PKCS#7)
//	  key[32] | iv[16] = h1 | h2 | h3, where h1 = MD5(password | salt),
//	  h2 = MD5(h1 | password | salt), h3 = MD5(h2 | password | salt)
//	  password = low byte of each UTF-16 unit of the instance key (n8n >= 1.16),
//	             UTF-8 bytes of the instance key (n8n <= 1.15)
//	GCM (n8n >= 2.18)
//	  0x01 | salt[32] | tag[16] | AES-256-GCM, no additional data
//	  AES key[32] | nonce[12] = HKDF-SHA-256(key, salt, "n8n-encryption-v1", 44)
//	  key = a data key, or SHA-256(UTF-8 instance key) for the instance-key wrap
//	Prefixed (n8n >= 2.18): key id [A-Za-z0-9_-]{1,36} ":" base64(GCM, that data key)
//	RawHex (data keys of n8n 2.18): 64 hexadecimal digits in clear
//
// CBC has no integrity: of wrong keys one in 255 leaves a valid padding. Every
// decryption therefore takes the [Shape] its plaintext must have, and a CBC
// plaintext of another shape counts as a wrong key. The weakest case, [ShapeText]
// with a secret below 16 bytes, is opened by one wrong key in 1.5 million;
// [ShapeAny] proves nothing. No CBC value proves that it was not altered.
//
// Base64 is read as leniently as Node reads it, because n8n does; [Value.String]
// gives the canonical text. Refused is CBC data below 32 bytes, which n8n turns
// into an empty string without a word, and, outside [ParseCBC], data without the
// "Salted__" header, which n8n always writes and never checks.
//
// Keys redact themselves in fmt, log/slog and encoding/json. Errors hold lengths,
// versions and key ids, never plaintext or keys. Nothing is wiped from memory:
// whoever reads this process's memory reads the keys. Do not let strangers submit
// CBC values and watch the answers, that is a padding oracle. CBC needs MD5,
// which GODEBUG=fips140=only forbids.
//
// What one version of this package opens, every later one opens. All functions
// are safe for concurrent use.
package n8ncrypt

import "errors"

// Format says how a stored string is encoded.
type Format uint8

const (
	// None is anything that is not n8n ciphertext.
	None Format = iota
	// CBC is un-prefixed AES-256-CBC under an instance key.
	CBC
	// GCM is un-prefixed AES-256-GCM: the instance-key wrap of deployment_key
	// rows. n8n never reads it from any other place.
	GCM
	// Prefixed is AES-256-GCM under the data key named before the colon.
	Prefixed
	// RawHex is a data key in clear, as n8n 2.18 stored it.
	RawHex
)

// String returns "none", "cbc", "gcm", "prefixed" or "raw-hex".
func (f Format) String() string {
	switch f {
	case CBC:
		return "cbc"
	case GCM:
		return "gcm"
	case Prefixed:
		return "prefixed"
	case RawHex:
		return "raw-hex"
	default:
		return "none"
	}
}

// Sentinels, to be tested with errors.Is. Every failed Parse and Decrypt
// satisfies exactly one of them, except that a CBC plaintext of the wrong shape
// satisfies ErrWrongKey and ErrWrongShape: there a wrong shape is how a wrong
// key shows.
var (
	// ErrNotCiphertext: the string is nothing that n8n's cipher wrote.
	ErrNotCiphertext = errors.New("not n8n ciphertext")
	// ErrMalformed: n8n ciphertext, but cut short or of an impossible length.
	ErrMalformed = errors.New("malformed n8n ciphertext")
	// ErrUnsupportedVersion: GCM layout with a version byte other than 1.
	ErrUnsupportedVersion = errors.New("unsupported ciphertext version")
	// ErrWrongKey: no given key opens the value. A damaged value gives the same
	// error, since neither format can tell the two apart.
	ErrWrongKey = errors.New("wrong key or damaged value")
	// ErrUnknownKeyID: the value names a data key that the caller does not have.
	ErrUnknownKeyID = errors.New("unknown data key id")
	// ErrWrongShape: the plaintext is not what the caller said it must be.
	ErrWrongShape = errors.New("plaintext has an unexpected shape")

	// ErrNoKey: a zero InstanceKey or DataKey was used.
	ErrNoKey = errors.New("no key given")
	// ErrInvalidKey: text that cannot be an instance key, data key or key id.
	ErrInvalidKey = errors.New("invalid key")
)
