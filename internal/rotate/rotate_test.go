package rotate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// engines are the fixtures of both.
func engines() map[string]string {
	return map[string]string{"sqlite": "2.41.1-sqlite", "postgres": "2.41.1-postgres"}
}

// TestThereAndBack rotates a database with a value in every place, and rolls it back
// to the bytes it had.
func TestThereAndBack(t *testing.T) {
	for name, fixture := range engines() {
		t.Run(name, func(t *testing.T) {
			b := newBase(t, fixture)
			for _, leak := range []bool{false, true} {
				if leak && name == "postgres" && !soak() {
					continue // TestKilled and TestRollbackAfterN8N have it
				}
				j := b.world(t)
				j.Leak = leak
				before := b.rowsOf(t, j)
				r, err := j.do()
				if err != nil {
					t.Fatalf("%v: %+v", err, r)
				}
				if b.check(t, j, "rotated") != newWorld {
					t.Error("not rotated")
				}
				if r.Journal.Values < 40 || r.Journal.Bundles != 1 || len(r.Journal.ChangedSince) > 0 || r.Journal.State != Verified || len(r.Warnings) > 0 {
					t.Errorf("%+v, warnings %q", r.Journal, r.Warnings)
				}
				j.Do = "rollback"
				if r, err = j.do(); err != nil {
					t.Fatal(err)
				}
				if b.check(t, j, "rolled back") != oldWorld {
					t.Error("not rolled back")
				}
				if after := b.rowsOf(t, j); after != before && !leak {
					t.Error("the rows have other bytes than before")
				}
				if r.Journal.Undone.Changed != 0 || r.Journal.Undone.Gone != 0 || r.Journal.Undone.Restored == 0 {
					t.Errorf("%+v", r.Journal.Undone)
				}
			}
		})
	}
}

// TestEveryFixture rotates what real n8n releases wrote, in both ways in a soak and in
// turn else, and rolls it back to the bytes it had. Those that TestThereAndBack has, with
// more in them, are left to the soak.
func TestEveryFixture(t *testing.T) {
	for i, name := range n8ndbtest.Names(t) {
		if !soak() && slices.Contains(slices.Collect(maps.Values(engines())), name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			b := newPlainBase(t, name)
			for k, leak := range []bool{false, true} {
				if !soak() && i%2 != k {
					continue // every other fixture each way
				}
				j := b.world(t)
				j.Leak = leak
				before := b.rowsOf(t, j)
				if _, err := j.do(); err != nil {
					t.Fatal(err)
				}
				b.check(t, j, "rotated")
				if b.rowsOf(t, j) == before {
					t.Error("no row was changed")
				}
				j.Do = "rollback"
				if _, err := j.do(); err != nil {
					t.Fatal(err)
				}
				b.check(t, j, "rolled back")
				if after := b.rowsOf(t, j); after != before && !leak {
					t.Error("the rows have other bytes than before")
				}
			}
		})
	}
}

// TestRollbackAfterN8N: what n8n has written since with the new key is kept, and comes
// under the old one; what it has deleted stays deleted.
func TestRollbackAfterN8N(t *testing.T) {
	for name, fixture := range engines() {
		for _, leak := range []bool{false, true} {
			if !soak() && leak != (name == "postgres") {
				continue
			}
			t.Run(fmt.Sprintf("%s, leak %t", name, leak), func(t *testing.T) {
				b := newBase(t, fixture)
				j := b.world(t)
				j.Leak = leak
				if _, err := j.do(); err != nil {
					t.Fatal(err)
				}
				b.n8nWrites(t, j)
				j.Do = "rollback"
				r, err := j.do()
				if err != nil {
					t.Fatal(err)
				}
				u := r.Journal.Undone
				rewritten := int64(3)
				if leak {
					rewritten++ // the data key that the rotation has made
				}
				if u.Changed != 1 || u.Gone != 1 || u.Rewritten != rewritten || u.Restored == 0 {
					t.Errorf("%+v", u)
				}
				at := j.DSN
				if at == "" {
					at = j.path("home", "database.sqlite")
				}
				db, err := b.open(at)
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				now := reading(t, db, mustKey(j.Old), nil, j.path("storage"))
				if len(now.closed) > 0 {
					t.Errorf("%v do not open", now.closed)
				}
				for id, value := range b.values {
					have, ok := now.values[id]
					switch {
					case strings.HasPrefix(id, "dynamic_credential_entry.data"):
						if ok {
							t.Errorf("%s is there again", id)
						}
					case strings.HasPrefix(id, "settings[features.oidc]"): // below
					case have != value:
						t.Errorf("%s has another plaintext", id)
					}
				}
				for id, want := range map[string]string{
					"credentials_entity.data saved0000000001":                      `{"since":"cbc"}`,
					"credentials_entity.data saved0000000002":                      `{"since":"prefixed"}`,
					"settings[features.oidc].clientSecret features.oidc":           "changed since",
					"deployment_key[data_encryption/aes-256-gcm] sinceDataKey0001": strings.Repeat("77", 32),
				} {
					if now.values[id] != want {
						t.Errorf("%s is %q, want %q", id, now.values[id], want)
					}
				}
				if now.keys["credentials_entity.data saved0000000001"] != n8ndb.KeyInstance {
					t.Error("a new credential is not under the old key")
				}
				b.tidy(t, j, "rolled back", r.Journal)
			})
		}
	}
}

// n8nWrites is what n8n does with the new key: a credential is made, one is deleted, a
// setting is saved, a data key is made and used.
func (b *base) n8nWrites(t *testing.T, j job) {
	t.Helper()
	key := mustKey(newText)
	cbc := func(plaintext string) string {
		v, err := key.EncryptCBC([]byte(plaintext))
		if err != nil {
			t.Fatal(err)
		}
		return v.String()
	}
	data, err := n8ncrypt.ParseDataKey("sinceDataKey0001", strings.Repeat("77", 32))
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := n8ncrypt.WrapDataKey(key, data)
	if err != nil {
		t.Fatal(err)
	}
	prefixed, err := data.Encrypt([]byte(`{"since":"prefixed"}`))
	if err != nil {
		t.Fatal(err)
	}
	b.exec(t, j, `INSERT INTO deployment_key (id, type, value, algorithm, status) VALUES ($1, 'data_encryption', $2, 'aes-256-gcm', 'inactive')`, data.ID, wrapped)
	insert := `INSERT INTO credentials_entity (id, name, type, data) VALUES ($1, 'since', 'x', $2)`
	b.exec(t, j, insert, "saved0000000001", cbc(`{"since":"cbc"}`))
	b.exec(t, j, insert, "saved0000000002", prefixed.String())
	b.exec(t, j, `DELETE FROM dynamic_credential_entry`)
	b.exec(t, j, `UPDATE settings SET value = $1 WHERE key = 'features.oidc'`, `{"clientSecret":"`+cbc("changed since")+`"}`)
}
