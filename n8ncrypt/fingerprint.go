package n8ncrypt

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"fmt"
	"strings"
	"sync"
)

// Fingerprint names an instance key in manifests and messages: "n8k1-" and 16
// lower-case base32 characters (80 bits). It may be published as far as the key
// is random; a guessable key can be guessed at 600,000 rounds a try.
type Fingerprint string

const (
	fingerprintPrefix = "n8k1-"
	fingerprintSalt   = "n8keep.fingerprint.v1"
	fingerprintRounds = 600_000
	fingerprintChars  = 16
)

// Fingerprint computes the key's fingerprint: the first 16 base32 characters of
// PBKDF2-HMAC-SHA-512 over the UTF-8 key with a fixed salt, so that hosts and
// archives agree without shared state. The first time in a process it takes about
// half a second. "" for the zero key.
func (k InstanceKey) Fingerprint() Fingerprint {
	if k.IsZero() {
		return ""
	}
	return fingerprints.of(k.secret().text)
}

// fingerprints is shared by all keys, because a process reads the same key from
// several places.
var fingerprints fingerprintMemo

// fingerprintMemo remembers by a hash of the key: nothing in it opens anything.
type fingerprintMemo struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]func() Fingerprint
}

const maxRemembered = 256 // keys; a fleet's

func (m *fingerprintMemo) of(text string) Fingerprint {
	id := sha256.Sum256([]byte(text))
	m.mu.Lock()
	f := m.known[id]
	if f == nil {
		if m.known == nil || len(m.known) == maxRemembered {
			m.known = map[[sha256.Size]byte]func() Fingerprint{}
		}
		f = sync.OnceValue(func() Fingerprint { return fingerprintOf(text) })
		m.known[id] = f
	}
	m.mu.Unlock()
	return f()
}

func fingerprintOf(text string) Fingerprint {
	sum, err := pbkdf2.Key(sha512.New, text, []byte(fingerprintSalt), fingerprintRounds, 32)
	if err != nil {
		panic("n8ncrypt: " + err.Error()) // fixed length; only FIPS-only mode could refuse
	}
	letters := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum)
	return Fingerprint(fingerprintPrefix + strings.ToLower(letters[:fingerprintChars]))
}

// ParseFingerprint takes a fingerprint as printed; upper case is accepted.
func ParseFingerprint(s string) (Fingerprint, error) {
	lower := strings.ToLower(s)
	body, ok := strings.CutPrefix(lower, fingerprintPrefix)
	if !ok || len(body) != fingerprintChars || strings.Trim(body, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		// Not echoed: people paste the key where its fingerprint is wanted.
		return "", fmt.Errorf("not an instance key fingerprint: want %s and %d characters of a-z 2-7", fingerprintPrefix, fingerprintChars)
	}
	return Fingerprint(lower), nil
}
