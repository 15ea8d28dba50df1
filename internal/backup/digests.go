package backup

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"strings"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// maxFailures bounds the list of secrets that are named one by one.
const maxFailures = 100

// proved is the manifest's list of secrets as 32 bytes a secret, so that
// 100,000 of them take a few megabytes: the key is a hash of place and row, the
// value a hash of what was proved of it.
type proved map[[16]byte][16]byte

func slot(s archive.Secret) (key, value [16]byte) {
	key = short(s.Place, s.Row)
	value = short(s.KeyID, s.Format, fmt.Sprint(s.Opens), s.Digest)
	return key, value
}

func short(parts ...string) (out [16]byte) {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	copy(out[:], h.Sum(nil))
	return out
}

// readSecrets keeps what the manifest says of every secret.
func (v *verifier) readSecrets(r *archive.Reader) error {
	v.result.list = proved{}
	for s, err := range r.Secrets() {
		if err != nil {
			return v.readProblem(err)
		}
		key, value := slot(s)
		v.result.list[key] = value
		if !s.Opens && s.Problem != "" && len(v.result.Failed) < maxFailures {
			v.result.Failed = append(v.result.Failed, s)
		}
	}
	return nil
}

// proveSecrets opens every secret of the database again and compares each with
// the manifest: none missing, none new, every digest the same.
func (v *verifier) proveSecrets(ctx context.Context, db *n8ndb.DB) error {
	digester, err := archive.NewDigester([]byte(v.Key.Reveal()), v.result.Manifest.DigestSalt)
	if err != nil {
		return v.damaged(err)
	}
	list := maps.Clone(v.result.list)
	keys, err := db.Keyset(ctx, v.Receipt, v.Key)
	if err != nil {
		return err
	}
	var differ []string
	_, err = db.Census(ctx, n8ndb.CensusConfig{Keys: keys, Receipt: v.Receipt, Executions: n8ndb.Unfinished, Digest: digester.Sum,
		Visit: func(s n8ndb.Secret) error {
			now := archiveSecret(s)
			key, value := slot(now)
			was, listed := list[key]
			delete(list, key)
			if !listed || was != value {
				differ = append(differ, now.Place+" row "+now.Row)
				if len(differ) >= maxFailures {
					return v.differ(differ, len(list))
				}
				return nil
			}
			if s.Opens {
				v.result.Opened++
			}
			return nil
		}})
	if err != nil {
		return err
	}
	if len(differ) > 0 || len(list) > 0 {
		return v.differ(differ, len(list))
	}
	return nil
}

func (v *verifier) differ(differ []string, missing int) error {
	var parts []string
	if len(differ) > 0 {
		parts = append(parts, fmt.Sprintf("%s differ from the manifest (%s)", count(int64(len(differ)), "secret"), strings.Join(firstOf(differ, 3), ", ")))
	}
	if missing > 0 {
		parts = append(parts, fmt.Sprintf("%s of the manifest are not in the database", count(int64(missing), "secret")))
	}
	return problem.New(problem.Damaged, "archive %q: %s", v.ID, strings.Join(parts, "; ")).
		WithHint("the key is the right one, so the archive does not hold what was proved when it was made; take another archive")
}
