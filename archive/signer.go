package archive

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

const (
	signerPrefix      = "ed25519:"
	signerDomain      = "n8keep signer v1\n"
	fingerprintPrefix = "n8s1-"
)

// Signer is the public key of a host that signs sidecars. Signers can be
// compared with ==; the zero value signs nothing.
type Signer struct {
	key [ed25519.PublicKeySize]byte
}

// SignerOf is the public half of a signing key.
func SignerOf(key ed25519.PrivateKey) Signer {
	var s Signer
	copy(s.key[:], key.Public().(ed25519.PublicKey))
	return s
}

// ParseSigner accepts exactly what [Signer.String] returns.
func ParseSigner(s string) (Signer, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimPrefix(s, signerPrefix))
	if err != nil || len(b) != ed25519.PublicKeySize {
		return Signer{}, fmt.Errorf("signer %q: want %q and the base64 of 32 bytes", s, signerPrefix)
	}
	var signer Signer
	copy(signer.key[:], b)
	if signer.String() != s {
		return Signer{}, fmt.Errorf("signer %q: want %q and the base64 of 32 bytes", s, signerPrefix)
	}
	return signer, nil
}

// String is "ed25519:" and the standard base64 of the 32 bytes.
func (s Signer) String() string {
	return signerPrefix + base64.StdEncoding.EncodeToString(s.key[:])
}

// IsZero says whether s is the zero value.
func (s Signer) IsZero() bool { return s == Signer{} }

// Fingerprint is short enough to read aloud: "n8s1-" and 32 base32 characters,
// which are the first 20 bytes of SHA-256("n8keep signer v1\n" || public key).
func (s Signer) Fingerprint() string {
	sum := sha256.Sum256(append([]byte(signerDomain), s.key[:]...))
	return fingerprintPrefix + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:20]))
}

func (s Signer) verify(message, signature []byte) bool {
	return !s.IsZero() && ed25519.Verify(s.key[:], message, signature)
}

// MarshalSigningKey encodes a signing key as PKCS#8 in PEM ("PRIVATE KEY"), the
// form that `openssl genpkey -algorithm ed25519` writes.
func MarshalSigningKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the signing key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseSigningKey reads what [MarshalSigningKey] writes. Its errors never quote
// the input.
func ParseSigningKey(text []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New(`signing key: want one PEM block "PRIVATE KEY"`)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("signing key: the PEM block is not PKCS#8")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("signing key: not an Ed25519 key")
	}
	return key, nil
}
