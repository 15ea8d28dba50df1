package rotate

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// otherKey names the key that is not the first of a key set: the new one going
// forward, the old one going back.
const otherKey = "n8keep-other"

// sealing decides what each value becomes when the instance key becomes to.
type sealing struct {
	to      n8ncrypt.InstanceKey
	version n8ndb.Version
	back    bool // only what is under the first key of the set is touched
	leak    bool
	data    n8ncrypt.DataKey // with leak, n8n >= 2.39: what V2 values get
	utf8    bool             // n8n makes the password for CBC of the bytes of to in UTF-8
}

// seal is the n8ndb.Sealer.
func (s *sealing) seal(p n8ndb.Place, v n8ndb.Secret, plaintext []byte) (string, bool, error) {
	switch {
	case p.Encoding == n8ndb.Clear, !v.Opens && !v.Plain:
		return "", false, nil
	case p.ID == legacyPlace:
		return s.legacy(v, plaintext)
	case v.Plain && p.Encoding == n8ndb.Pinned && s.leak:
		text, err := freshSecret(p.Key)
		return text, err == nil, err
	case v.Plain:
		return "", false, nil
	case p.Encoding == n8ndb.V2 && !s.data.IsZero():
		if v.KeyRef == s.data.ID {
			return "", false, nil
		}
		sealed, err := s.data.Encrypt(plaintext)
		return sealed.String(), err == nil, err
	case v.Format == n8ncrypt.Prefixed.String() && !(s.leak && p.Encoding == n8ndb.V2):
		return "", false, nil // its key does not change; after a leak it becomes CBC (n8n < 2.39)
	case s.leak && p.Encoding == n8ndb.Pinned:
		text, err := freshSecret(p.Key)
		if err != nil {
			return "", false, err
		}
		return s.under(v.Format, []byte(text))
	case v.KeyRef == otherKey, s.back && v.KeyRef != n8ndb.KeyInstance:
		return "", false, nil
	}
	return s.under(v.Format, plaintext)
}

// under encrypts under the instance key in the format that the value had.
func (s *sealing) under(format string, plaintext []byte) (string, bool, error) {
	if format == n8ncrypt.GCM.String() {
		text, err := s.to.Wrap(plaintext)
		return text, err == nil, err
	}
	key, err := s.readKey()
	if err != nil {
		return "", false, err
	}
	sealed, err := key.EncryptCBC(plaintext)
	return sealed.String(), err == nil, err
}

// readKey is the key whose password for CBC is what this n8n makes of to.
func (s *sealing) readKey() (n8ncrypt.InstanceKey, error) {
	if !s.utf8 {
		return s.to, nil
	}
	text := s.to.Reveal()
	bytes := make([]rune, len(text))
	for i := range len(text) {
		bytes[i] = rune(text[i])
	}
	return n8ncrypt.NewInstanceKey(string(bytes))
}

// oldEncoding reports whether values that go back to the old key need the password for CBC
// that n8n before 1.16 makes of characters beyond ASCII: their bytes in UTF-8, where later
// ones take one byte per character. Databases as old as that do not say which n8n they are
// of. The values that are under the old key again do.
func (e *engine) oldEncoding(ctx context.Context, w *n8ndb.Writer, version n8ndb.Version) (bool, error) {
	if !version.Before(1, 16) || isASCII(e.cfg.Old.Key.Reveal()) {
		return false, nil
	}
	keys, err := w.KeysetOf(ctx, e.cfg.Receipt, e.cfg.Old.Key)
	if err != nil {
		return false, err
	}
	var before, since int
	_, err = w.Census(ctx, n8ndb.CensusConfig{Keys: keys, Receipt: e.cfg.Receipt, Executions: n8ndb.AllExecutions, Visit: func(v n8ndb.Secret) error {
		switch {
		case !v.Opens, v.Format != n8ncrypt.CBC.String(), v.KeyRef != n8ndb.KeyInstance:
		case v.OldEncoding:
			before++
		default:
			since++
		}
		return nil
	}})
	return before > 0 && since == 0, err
}

func isASCII(text string) bool {
	for _, r := range text {
		if r > 0x7f {
			return false
		}
	}
	return true
}

// legacy: n8n >= 2.39 reads un-prefixed values with the key in this row and writes them
// with the live one, so the row has to hold the live one.
func (s *sealing) legacy(v n8ndb.Secret, content []byte) (string, bool, error) {
	same := string(content) == s.to.Reveal()
	switch {
	case s.back && (v.Plain && same || !v.Plain && v.KeyRef != n8ndb.KeyInstance):
		return "", false, nil // as it was
	case v.Plain && s.version.Before(2, 20):
		return s.to.Reveal(), !same, nil
	case v.Plain:
		text, err := s.to.Wrap([]byte(s.to.Reveal()))
		return text, err == nil, err
	case v.KeyRef == otherKey && same:
		return "", false, nil
	}
	return s.under(v.Format, []byte(s.to.Reveal()))
}

// freshSecret makes a signing secret in the form in which n8n derives it.
func freshSecret(kind string) (string, error) {
	b := make([]byte, 32)
	rand.Read(b)
	switch kind {
	case "signing.jwt", "signing.hmac":
		return hex.EncodeToString(b), nil
	case "signing.binary_data":
		return base64.StdEncoding.EncodeToString(b), nil
	}
	return "", problem.New(problem.Unexpected, "the form of the secret %q is not known", kind)
}

// checkNewKey refuses a key that this version would turn into other bytes than we do.
func (s *sealing) checkNewKey() error {
	if !s.version.Before(1, 16) || isASCII(s.to.Reveal()) {
		return nil
	}
	return problem.New(problem.Usage, "the new key holds characters beyond ASCII, which n8n before 1.16 reads in another way than later versions").
		WithHint("choose a new key of ASCII characters")
}
