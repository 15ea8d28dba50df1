package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// maxFailures bounds the list of secrets that are named one by one.
const maxFailures = 100

// pair is what a manifest says of one secret in 32 bytes, so that 100,000 take a
// few megabytes: a hash of place and row, and one of what was proved.
type pair struct {
	key, value [16]byte
	bundle     bool // it lies outside the database
}

func pairOf(s archive.Secret) pair {
	return pair{short(s.Place, s.Row), short(s.KeyID, s.Format, fmt.Sprint(s.Opens), s.Digest), isBundle(s.Place)}
}

// matcher compares a census with a manifest's list. Both are in the same order
// unless another version of n8keep made the archive: then the rest of the list is
// looked up by key.
type matcher struct {
	list []pair // of the manifest
	next int
	rest map[[16]byte][16]byte // nil as long as the orders agree
}

// match reports whether the secret stands in the list as it is.
func (m *matcher) match(p pair) bool {
	if m.rest == nil {
		if m.next < len(m.list) && m.list[m.next].key == p.key {
			m.next++
			return m.list[m.next-1].value == p.value
		}
		m.rest = make(map[[16]byte][16]byte, len(m.list)-m.next)
		for _, q := range m.list[m.next:] {
			m.rest[q.key] = q.value
		}
	}
	value, listed := m.rest[p.key]
	delete(m.rest, p.key)
	return listed && value == p.value
}

// missing is how many secrets of the list were not met.
func (m *matcher) missing() int {
	if m.rest != nil {
		return len(m.rest)
	}
	return len(m.list) - m.next
}

func short(parts ...string) (out [16]byte) {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	copy(out[:], h.Sum(nil))
	return out
}

// readSecrets keeps what the manifest says of every secret, and checks that the
// manifest's own counts agree with it.
func (v *verifier) readSecrets(r *archive.Reader) error {
	var opened, failed, values int64
	for s, err := range r.Secrets() {
		if err != nil {
			return v.readProblem(err)
		}
		v.result.list = append(v.result.list, pairOf(s))
		values++
		switch {
		case s.Opens:
			opened++
		case s.Problem != "":
			failed++
			if len(v.result.Failed) < maxFailures {
				v.result.Failed = append(v.result.Failed, s)
			}
		}
	}
	v.result.FailedTotal = failed
	if side := v.result.Sidecar; !hasFinding(v.result.Manifest, FindingIntegrity) && (values != side.Secrets || opened != side.SecretsOpened || failed != side.SecretsFailed) {
		return v.damaged(errors.New("sidecar and manifest differ in the number of secrets"))
	}
	return nil
}

// proveSecrets opens every secret again and compares each with the manifest: none
// missing, none new, every digest the same. storage is where execution data
// outside the database was unpacked to; without it such secrets are left out.
func (v *verifier) proveSecrets(ctx context.Context, db *n8ndb.DB, storage string) error {
	digester, err := archive.NewDigester([]byte(v.Key.Reveal()), v.result.Manifest.DigestSalt)
	if err != nil {
		return v.damaged(err)
	}
	m := &matcher{list: v.result.list}
	if storage == "" {
		m.list = slices.DeleteFunc(slices.Clone(m.list), func(p pair) bool { return p.bundle })
	}
	keys, err := db.Keyset(ctx, v.Receipt, v.Key)
	if err != nil {
		return err
	}
	v.result.Opened = 0
	var differ []string
	var total int64
	_, err = db.Census(ctx, n8ndb.CensusConfig{Keys: keys, Receipt: v.Receipt, Executions: n8ndb.Unfinished, BundleDir: storage, Digest: digester.Sum,
		Visit: func(s n8ndb.Secret) error {
			now := archiveSecret(s)
			if !m.match(pairOf(now)) {
				if total++; len(differ) < maxFailures {
					differ = append(differ, now.Place+" row "+now.Row)
				}
			} else if s.Opens {
				v.result.Opened++
			}
			return nil
		}})
	damaged := err != nil
	if err := v.tolerate(err); err != nil {
		return err
	}
	missing := m.missing()
	if damaged {
		missing = 0 // the census stopped where it had stopped before
	}
	if total > 0 || missing > 0 {
		return v.differ(differ, total, missing)
	}
	return nil
}

// tolerate is take.tolerate for an archive whose manifest says that its database
// is damaged.
func (v *verifier) tolerate(err error) error {
	if err != nil && hasFinding(v.result.Manifest, FindingIntegrity) && problem.KindOf(err) == problem.Damaged {
		return nil
	}
	return err
}

func (v *verifier) differ(differ []string, total int64, missing int) error {
	var parts []string
	if total > 0 {
		parts = append(parts, fmt.Sprintf("%s other than in the manifest (%s)", count(total, "secret"), strings.Join(firstOf(differ, 3), ", ")))
	}
	if missing > 0 {
		parts = append(parts, fmt.Sprintf("%s of the manifest not in the database", count(int64(missing), "secret")))
	}
	return problem.New(problem.Damaged, "archive %q: %s", v.ID, strings.Join(parts, "; ")).
		WithHint("the key is the one the archive was made with, so the archive does not hold what was proved then; take another archive")
}
