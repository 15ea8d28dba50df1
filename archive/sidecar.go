package archive

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Sidecar is what anybody who can read a target may know about an archive. It
// holds counts and fingerprints, never names of credentials, hosts or digests.
type Sidecar struct {
	Format         int       `json:"format"`
	ID             ID        `json:"id"`
	Instance       string    `json:"instance"`
	Created        time.Time `json:"created"`
	State          State     `json:"state"`
	Unproved       bool      `json:"unproved"`
	Engine         string    `json:"engine"`
	N8NVersion     string    `json:"n8n_version"`
	LastMigration  string    `json:"last_migration"`
	KeyFingerprint string    `json:"key_fingerprint"`
	RecipientKind  string    `json:"recipient_kind"` // see [RecipientKind]
	History        string    `json:"history"`
	Size           int64     `json:"size"`       // bytes of the archive as stored
	PlainSize      int64     `json:"plain_size"` // bytes of its entries unpacked, see [Summary]
	SHA256         string    `json:"sha256"`     // of the archive as stored, lower hex
	Entries        int64     `json:"entries"`
	Secrets        int64     `json:"secrets"`
	SecretsOpened  int64     `json:"secrets_opened"`
	SecretsFailed  int64     `json:"secrets_failed"`
	Workflows      int64     `json:"workflows"`
	Findings       int64     `json:"findings"`
}

// SignedSidecar is a sidecar whose signature is right. Whether Signer is to be
// trusted is the caller's question.
type SignedSidecar struct {
	Sidecar
	Signer Signer
}

// MaxSidecar is the largest size of a signed sidecar in bytes. Nothing longer is
// written or accepted, so nobody has to read more.
const MaxSidecar = 64 << 10

const (
	sidecarDomain = "n8keep sidecar v1\n"

	sidecarOpen   = `{"sidecar":`
	sidecarSigner = `,"signer":"` + signerPrefix
	sidecarSig    = `","signature":"`
	sidecarClose  = "\"}\n"
)

// SignSidecar returns the signed document, one line of JSON:
//
//	{"sidecar":{...},"signer":"ed25519:BASE64","signature":"BASE64"}
//
// The signature is Ed25519 over "n8keep sidecar v1\n" and the exact bytes of the
// value of "sidecar". Created is stored in UTC, to the second. What is longer than
// [MaxSidecar] is refused.
func SignSidecar(s Sidecar, key ed25519.PrivateKey) ([]byte, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, errors.New("signing the sidecar: no signing key")
	}
	s.Format = FormatVersion
	s.Created = wholeSeconds(s.Created)
	clean(&s.Engine, &s.N8NVersion, &s.LastMigration, &s.KeyFingerprint, &s.RecipientKind, &s.History)
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("signing the sidecar of %q: %w", s.ID, err)
	}
	value, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("signing the sidecar of %q: %w", s.ID, err)
	}
	b := assembleSidecar(value, SignerOf(key), ed25519.Sign(key, sidecarMessage(value)))
	if len(b) > MaxSidecar {
		return nil, fmt.Errorf("signing the sidecar of %q: it has %d bytes, more than %d", s.ID, len(b), MaxSidecar)
	}
	return b, nil
}

// ParseSidecar checks that b is exactly what [SignSidecar] writes: one
// assembly, canonical JSON without unknown or repeated keys, and a right
// signature. Anything else is [ErrSignature], except a rightly signed sidecar
// of a newer format, which is [ErrFormat].
func ParseSidecar(b []byte) (SignedSidecar, error) {
	value, signer, err := openSidecar(b)
	if err != nil {
		return SignedSidecar{}, fmt.Errorf("%w: %s", ErrSignature, err)
	}
	var format struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(value, &format); err != nil {
		return SignedSidecar{}, fmt.Errorf("%w: the sidecar is not JSON", ErrSignature)
	}
	if format.Format > FormatVersion {
		return SignedSidecar{}, newerFormat("the sidecar", format.Format)
	}
	signed := SignedSidecar{Signer: signer}
	if err := unmarshalCanonical(value, &signed.Sidecar); err != nil {
		return SignedSidecar{}, fmt.Errorf("%w: the sidecar %s", ErrSignature, err)
	}
	if err := signed.Sidecar.check(); err != nil {
		return SignedSidecar{}, fmt.Errorf("%w: %s", ErrSignature, err)
	}
	return signed, nil
}

func openSidecar(b []byte) (value []byte, signer Signer, err error) {
	signerLen := base64.StdEncoding.EncodedLen(ed25519.PublicKeySize)
	sigLen := base64.StdEncoding.EncodedLen(ed25519.SignatureSize)
	tail := len(sidecarSigner) + signerLen + len(sidecarSig) + sigLen + len(sidecarClose)
	if len(b) > MaxSidecar {
		return nil, Signer{}, fmt.Errorf("the sidecar has %d bytes, more than %d", len(b), MaxSidecar)
	}
	if len(b) < len(sidecarOpen)+tail {
		return nil, Signer{}, errors.New("the sidecar is cut short or not signed")
	}
	value = b[len(sidecarOpen) : len(b)-tail]
	rest := b[len(b)-tail+len(sidecarSigner):]
	signer, err = ParseSigner(signerPrefix + string(rest[:signerLen]))
	if err != nil {
		return nil, Signer{}, errors.New("the sidecar names no signer in the expected place")
	}
	signature := make([]byte, ed25519.SignatureSize+2)
	rest = rest[signerLen:]
	n, err := base64.StdEncoding.Strict().Decode(signature, rest[min(len(sidecarSig), len(rest)):len(rest)-len(sidecarClose)])
	if err != nil || n != ed25519.SignatureSize {
		return nil, Signer{}, errors.New("the sidecar has no signature in the expected place")
	}
	signature = signature[:n]
	if !bytes.Equal(assembleSidecar(value, signer, signature), b) {
		return nil, Signer{}, errors.New("the sidecar is not in the form that n8keep writes")
	}
	if !signer.verify(sidecarMessage(value), signature) {
		return nil, Signer{}, errors.New("the sidecar was changed after it was signed")
	}
	return value, signer, nil
}

func assembleSidecar(value []byte, signer Signer, signature []byte) []byte {
	var b bytes.Buffer
	b.WriteString(sidecarOpen)
	b.Write(value)
	b.WriteString(`,"signer":"` + signer.String())
	b.WriteString(sidecarSig + base64.StdEncoding.EncodeToString(signature))
	b.WriteString(sidecarClose)
	return b.Bytes()
}

func sidecarMessage(value []byte) []byte {
	return append([]byte(sidecarDomain), value...)
}

func (s *Sidecar) check() error {
	if id, err := ParseID(string(s.ID)); err != nil {
		return err
	} else if id.Instance() != s.Instance {
		return fmt.Errorf("the id %q is not of instance %q", s.ID, s.Instance)
	}
	if s.Format != FormatVersion {
		return fmt.Errorf("unknown format %d", s.Format)
	}
	if s.State != StateGood && s.State != StateDegraded {
		return fmt.Errorf("unknown state %q", s.State)
	}
	if sum, err := hex.DecodeString(s.SHA256); err != nil || len(sum) != 32 || hex.EncodeToString(sum) != s.SHA256 {
		return errors.New("sha256 is not 64 lower hex digits")
	}
	if !isWholeUTC(s.Created) {
		return errors.New("the time is not in UTC and whole seconds")
	}
	for _, n := range []int64{s.Size, s.PlainSize, s.Entries, s.Secrets, s.SecretsOpened, s.SecretsFailed, s.Workflows, s.Findings} {
		if n < 0 {
			return errors.New("a count is negative")
		}
	}
	return nil
}

func wholeSeconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// unmarshalCanonical fills v and fails unless encoding v gives b again, which
// rules out unknown and repeated keys, other spellings and trailing data.
func unmarshalCanonical(b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return errors.New("is not JSON of the expected fields")
	}
	again, err := json.Marshal(v)
	if err != nil || !bytes.Equal(again, b) {
		return errors.New("is not canonical JSON")
	}
	return nil
}
