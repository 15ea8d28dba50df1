package backup

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
)

// LoadSigningKey reads the Ed25519 key that signs sidecars (PKCS #8, PEM). When
// create is set and the file is missing, one is made (0600); made says so.
func LoadSigningKey(path string, create bool) (key ed25519.PrivateKey, made bool, err error) {
	pem, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		return createSigningKey(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, problem.Wrap(problem.NotFound, err, "reading the signing key").
			WithHint("it is made by \"n8keep init\" or the first backup; in a container give it with signing_key: file:PATH")
	}
	if err != nil {
		return nil, false, problem.Wrap(problem.Unexpected, err, "reading the signing key")
	}
	key, err = archive.ParseSigningKey(pem)
	if err != nil {
		return nil, false, problem.Wrap(problem.Usage, err, "signing key %q", path).
			WithHint("it must be an Ed25519 private key, PKCS #8 in PEM, as \"n8keep init\" makes it")
	}
	return key, false, nil
}

func createSigningKey(path string) (ed25519.PrivateKey, bool, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, false, problem.Wrap(problem.Unexpected, err, "making a signing key")
	}
	pem, err := archive.MarshalSigningKey(key)
	if err != nil {
		return nil, false, problem.Wrap(problem.Unexpected, err, "making a signing key")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, problem.Wrap(problem.Unexpected, err, "making the folder of the signing key")
	}
	f, err := durable.Create(path, 0o600)
	if err != nil {
		return nil, false, problem.Wrap(problem.Unexpected, err, "writing the signing key")
	}
	defer f.Abort()
	if _, err := f.Write(pem); err != nil {
		return nil, false, problem.Wrap(problem.Unexpected, err, "writing the signing key")
	}
	// Two first runs at once: the one that comes second takes the other's key.
	if err := f.CommitNew(); errors.Is(err, fs.ErrExist) {
		return LoadSigningKey(path, false)
	} else if err != nil {
		return nil, false, problem.Wrap(problem.Unexpected, err, "writing the signing key")
	}
	return key, true, nil
}

// Trust is the set of signers whose sidecars are believed.
type Trust struct {
	Signers      []archive.Signer
	Fingerprints []string // accepted by fingerprint, --accept-signer
}

// Check reports whether the sidecar was signed by somebody trusted; the error
// shows the fingerprint to compare.
func (t Trust) Check(s archive.SignedSidecar) error {
	for _, k := range t.Signers {
		if k == s.Signer {
			return nil
		}
	}
	fp := s.Signer.Fingerprint()
	for _, f := range t.Fingerprints {
		if f == fp {
			return nil
		}
	}
	return problem.New(problem.Untrusted, "archive %q is signed by %s, which is not among the trusted signers", s.Sidecar.ID, fp).
		WithHint("compare it with \"n8keep status\" on the host that takes the backups").
		WithHint("if it is the same, go on with --accept-signer %s, or put %s under signers: in n8keep.yaml", fp, s.Signer)
}
