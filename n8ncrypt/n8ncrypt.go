// Package n8ncrypt reads and writes the ciphertext that n8n keeps in its
// database, and derives the secrets that n8n derives from N8N_ENCRYPTION_KEY.
// It needs the standard library only, so that a stored value can be opened by
// hand when neither n8n nor n8keep is at hand.
//
// Every encoding is base64 text (standard alphabet, padded) over these bytes:
//
//	CBC (every n8n version)
//	  "Salted__"[8] | salt[8] | AES-256-CBC(PKCS#7)
//	  h1 = MD5(password | salt), h2 = MD5(h1 | password | salt), h3 = MD5(h2 | password | salt)
//	  key = h1 | h2, iv = h3
//	  password = low byte of each UTF-16 unit of the instance key (n8n >= 1.16),
//	             UTF-8 bytes of the instance key (n8n <= 1.15)
//	GCM (n8n >= 2.18)
//	  0x01 | salt[32] | tag[16] | AES-256-GCM, no additional data
//	  HKDF-SHA-256(key, salt, "n8n-encryption-v1", 44) = AES key[32] | nonce[12]
//	  key = a data key, or SHA-256(UTF-8 instance key) for the instance-key wrap
//	Prefixed (n8n >= 2.18)
//	  key id [A-Za-z0-9_-]{1,36} ":" base64(GCM under that data key)
//	RawHex (data keys of n8n 2.18)
//	  64 hexadecimal digits in clear, not ciphertext
//
// CBC has no integrity: of wrong keys one in 255 leaves a valid padding. Every
// decryption therefore takes the [Shape] its plaintext must have, and a CBC
// plaintext of another shape counts as a wrong key. A value opened with
// [ShapeAny] proves nothing about the key, and no CBC value proves that it was
// not altered. GCM proves both. The weakest case is [ShapeText] with a secret
// below 16 bytes, which one wrong key in 1.5 million opens.
//
// Parsing is as lenient as Node's base64 decoder, because n8n is: what n8n
// opens is opened here, and [Value.String] gives the canonical text. Three
// things that n8n does are refused. CBC data below 32 bytes is malformed, where
// n8n returns an empty string without a word. [Parse] and [Detect] want the
// "Salted__" header, which n8n writes but never checks; [ParseCBC] reads as n8n
// does. A key that is not valid UTF-8 is not accepted, because n8n itself sees
// replacement characters there.
//
// Keys redact themselves in fmt, log/slog and encoding/json. Errors hold
// lengths, versions and key ids, never plaintext or key bytes. Keys stay in
// memory in clear as long as they are referenced; nothing is wiped, because the
// garbage collector may have copied it. Whoever can read this process's memory
// can read the keys. Nothing here is written for an attacker who submits
// ciphertext and watches the answers: CBC without integrity is a padding
// oracle. CBC needs MD5, which Go refuses under GODEBUG=fips140=only.
//
// Formats once readable stay readable: a later version of this package opens
// everything this one opens. All functions are safe for concurrent use.
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
