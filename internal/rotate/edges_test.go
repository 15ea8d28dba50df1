package rotate

import (
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// TestUnlistedAfterALeak: after a leak the sweep looks for values under the data keys of
// before, too, active or not.
func TestUnlistedAfterALeak(t *testing.T) {
	b := newPlainBase(t, "2.41.1-sqlite")
	for _, status := range []string{"active", "inactive"} {
		for _, leak := range []bool{true, false} {
			j := b.world(t)
			j.Leak = leak
			made, err := n8ncrypt.ParseDataKey("strayDataKey0001", strings.Repeat("77", 32))
			if err != nil {
				t.Fatal(err)
			}
			wrapped, err := n8ncrypt.WrapDataKey(mustKey(j.Old), made)
			if err != nil {
				t.Fatal(err)
			}
			stray, err := made.Encrypt([]byte(`{"hidden":true}`))
			if err != nil {
				t.Fatal(err)
			}
			b.exec(t, j, `UPDATE deployment_key SET status = 'inactive' WHERE type = 'data_encryption'`)
			b.exec(t, j, `INSERT INTO deployment_key (id, type, value, algorithm, status) VALUES ($1, 'data_encryption', $2, 'aes-256-gcm', $3)`, made.ID, wrapped, status)
			b.exec(t, j, `INSERT INTO variables (id, key, value) VALUES ('v1', 'hidden', $1)`, stray.String())
			before := b.rowsOf(t, j)
			r, err := j.do()
			if !leak { // it opens with what stays
				if err != nil {
					t.Fatal(err)
				}
				continue
			}
			says(t, status, err, problem.CheckFailed, "variables.value", "--accept-unlisted variables.value", "nothing was changed")
			if r.Journal.State != Abandoned || b.rowsOf(t, j) != before {
				t.Errorf("%s: %+v", status, r.Journal)
			}
		}
	}
}

// TestClearValueChanges: a value in clear that is another one afterwards is noticed as
// one that was encrypted is.
func TestClearValueChanges(t *testing.T) {
	b := newPlainBase(t, "2.38.7-sqlite")
	j := b.world(t)
	const signing = "deployment_key[signing.hmac]"
	b.exec(t, j, `UPDATE deployment_key SET algorithm = NULL, value = 'aaaa' WHERE type = 'signing.hmac'`)
	r, err := j.do()
	if err != nil || r.Journal.Places[signing].Plain != 1 || len(r.Journal.ChangedSince) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	b.exec(t, j, `UPDATE deployment_key SET value = 'bbbb' WHERE type = 'signing.hmac'`)
	j.Do = "finalise"
	if r, err = j.do(); err != nil || fmt.Sprint(r.Journal.ChangedSince) != "["+signing+"]" {
		t.Fatalf("%+v, %v", r, err)
	}

	// Within the transaction that is an error.
	before, after := map[n8ndb.PlaceID]PlaceProof{}, map[n8ndb.PlaceID]PlaceProof{}
	for text, into := range map[string]map[n8ndb.PlaceID]PlaceProof{"aaaa": before, "bbbb": after} {
		key, err := newJournalKey()
		if err != nil {
			t.Fatal(err)
		}
		key.digest = []byte("the same for both")
		e := &engine{j: &Journal{}, key: key}
		p := e.newProof()
		p.digest(signing, "r1", []byte(text))
		if err := p.visit(n8ndb.Secret{Place: signing, Row: "r1", Plain: true}); err != nil {
			t.Fatal(err)
		}
		into[signing] = p.sums()[signing]
	}
	if places := differ(before, after); fmt.Sprint(places) != "["+signing+"]" {
		t.Errorf("%v: %+v, %+v", places, before, after)
	}
}

// column reads one text.
func (b *base) column(t *testing.T, j job, query string) (text string) {
	t.Helper()
	return b.columnAt(t, j.path("home", "database.sqlite"), query)
}

func (b *base) columnAt(t *testing.T, path, query string) (text string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

// TestBackToOldEncoding: n8n before 1.16 makes another password for CBC of a key beyond
// ASCII than later ones. What comes back under such a key is written as what was there.
func TestBackToOldEncoding(t *testing.T) {
	b := newPlainBase(t, "1.123.81-sqlite")
	for _, c := range []struct {
		name   string
		before []bool // of values, whether they are in UTF-8
		want   n8ncrypt.Encoding
	}{
		{"n8n 1.15", []bool{true, true}, n8ncrypt.UTF8},
		{"n8n 1.122", []bool{false, false}, n8ncrypt.Latin1},
		{"n8n 1.122 that was an older one", []bool{true, true, false}, n8ncrypt.Latin1},
		{"nothing tells", nil, n8ncrypt.Latin1},
	} {
		j := b.world(t)
		j.Old = "alter-schlüssel-0123456789-äöü"
		for name, text := range map[string]string{"config": fmt.Sprintf(configText, j.Old), "key-file": j.Old + "\n"} {
			if err := os.WriteFile(j.path("home", name), []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		for _, stmt := range []string{"DELETE FROM migrations", "DELETE FROM credentials_entity", `UPDATE "user" SET "mfaSecret" = NULL, "mfaRecoveryCodes" = NULL`, "DELETE FROM settings", "DELETE FROM execution_data"} {
			b.exec(t, j, stmt)
		}
		insert := `INSERT INTO credentials_entity (id, name, type, data) VALUES ($1, 'x', 'x', $2)`
		var before []string
		for i, utf8 := range c.before {
			s := &sealing{to: mustKey(j.Old), utf8: utf8}
			text, _, err := s.under(n8ncrypt.CBC.String(), []byte(`{"from":"before"}`))
			if err != nil {
				t.Fatal(err)
			}
			b.exec(t, j, insert, fmt.Sprintf("before%010d", i), text)
			before = append(before, text)
		}
		if _, err := j.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		v, err := mustKey(newText).EncryptCBC([]byte(`{"from":"since"}`))
		if err != nil {
			t.Fatal(err)
		}
		b.exec(t, j, insert, "since00000000001", v.String())
		j.Do = "rollback"
		if r, err := j.do(); err != nil || r.Journal.Undone.Rewritten != 1 {
			t.Fatalf("%s: %+v, %v", c.name, r, err)
		}
		for i, want := range before {
			if now := b.column(t, j, fmt.Sprintf(`SELECT data FROM credentials_entity WHERE id = 'before%010d'`, i)); now != want {
				t.Errorf("%s: what was there before has other bytes", c.name)
			}
		}
		now, err := n8ncrypt.ParseCBC(b.column(t, j, `SELECT data FROM credentials_entity WHERE id = 'since00000000001'`))
		if err != nil {
			t.Fatal(err)
		}
		text, how, err := mustKey(j.Old).DecryptCBCEncoding(now, n8ncrypt.ShapeJSONObject)
		if err != nil || how != c.want || string(text) != `{"from":"since"}` {
			t.Errorf("%s: %s, %q, %v", c.name, how, text, err)
		}
	}
}
