package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// seal exports the credentials of a bench and returns what an identity opens.
func (b *bench) seal(key n8ncrypt.InstanceKey, out string) (*Sealed, []byte, error) {
	b.t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		b.t.Fatal(err)
	}
	db := b.fixture.Open(b.t, b.location)
	receipt := n8ndbtest.Receipt(b.t)
	keys, err := db.Keyset(b.t.Context(), receipt, key)
	if err != nil {
		b.t.Fatal(err)
	}
	res, err := Credentials(b.t.Context(), CredentialsConfig{DB: db, Keys: keys, Receipt: receipt, Recipients: []age.Recipient{id.Recipient()}, Out: out})
	if err != nil {
		return res, nil, err
	}
	f, err := os.Open(out)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	r, err := age.Decrypt(f, id)
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		b.t.Fatal(err)
	}
	return res, text, nil
}

// TestCredentialsOfEveryFixture compares with n8n's own export of the same database.
func TestCredentialsOfEveryFixture(t *testing.T) {
	for _, name := range n8ndbtest.Names(t) {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, name)
			out := filepath.Join(t.TempDir(), "c.age")
			res, text, err := b.seal(b.fixture.Key, out)
			if err != nil || res.Credentials == 0 || len(res.Failures) != 0 {
				t.Fatalf("%+v %v", res, err)
			}
			var got, want []map[string]any
			if err := json.Unmarshal(text, &got); err != nil || len(got) != res.Credentials {
				t.Fatalf("%d, %v", len(got), err)
			}
			info, err := os.Stat(out)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v %v", info, err)
			}
			byID := map[any]map[string]any{}
			for _, c := range got {
				byID[c["id"]] = c
			}
			for id, plaintext := range b.fixture.Credentials {
				var data any
				if err := json.Unmarshal([]byte(plaintext), &data); err != nil || byID[id] == nil {
					t.Fatalf("%s: %v", id, err)
				}
				if d := cmp.Diff(data, byID[id]["data"]); d != "" {
					t.Errorf("%s: %s", id, d)
				}
			}
			if len(b.fixture.Credentials) != len(got) {
				t.Errorf("%d credentials, %d expected", len(got), len(b.fixture.Credentials))
			}
			raw, err := os.ReadFile(filepath.Join(b.fixture.Dir, "credentials-decrypted.json"))
			if errors.Is(err, fs.ErrNotExist) && name == "2.38.7-sqlite-keyrotation" {
				return // n8n 2.38 with the rotation flag cannot export its own credentials
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &want); err != nil || len(want) != len(got) {
				t.Fatalf("n8n exported %d, we %d: %v", len(want), len(got), err)
			}
			for _, c := range want {
				delete(c, "shared")
				if d := cmp.Diff(c, byID[c["id"]]); d != "" {
					t.Errorf("%v: %s", c["id"], d)
				}
			}
			if members := strings.Join(order(t, text), " "); !strings.HasPrefix(members, "updatedAt createdAt id name ") {
				t.Errorf("members stand in another order than n8n's: %s", members)
			}
		})
	}
}

// order is the names of the first object's members.
func order(t *testing.T, array []byte) []string {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(array))
	for range 2 {
		if _, err := dec.Token(); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, fmt.Sprint(name))
		var skip json.RawMessage
		if err := dec.Decode(&skip); err != nil {
			t.Fatal(err)
		}
	}
	return names
}

func TestCredentialsThatDoNotOpen(t *testing.T) {
	b := newBench(t, "2.41.1-sqlite")
	b.sql(`UPDATE credentials_entity SET data = 'U2FsdGVkX18BAgMEBQYHCDbcm9YRK+oY9J3mYohVtRStCPaXwnR4pOofgnD1Hw0hAxnJoGtKq+lO2UkF2+PLFQ==' WHERE name = 'Slack bot'`,
		`UPDATE credentials_entity SET data = '' WHERE name = 'GitHub token'`)
	dir := t.TempDir()
	res, text, err := b.seal(b.fixture.Key, filepath.Join(dir, "c.age"))
	if err != nil || res.Credentials != 13 || len(res.Failures) != 2 {
		t.Fatalf("%+v %v", res, err)
	}
	var list []map[string]any
	if err := json.Unmarshal(text, &list); err != nil || len(list) != 13 {
		t.Errorf("%d %v", len(list), err)
	}
	problems := map[string]n8ndb.Problem{}
	for _, f := range res.Failures {
		problems[f.Row] = f.Problem
	}
	if problems["Wzf3rgUWBXxHv0cv"] != n8ndb.WrongKey || len(problems) != 2 {
		t.Errorf("%v", problems)
	}

	wrong := n8ndbtest.Key(t, "another key altogether 0123456789")
	res, _, err = b.seal(wrong, filepath.Join(dir, "none.age"))
	if problem.KindOf(err) != problem.WrongKey || err.Error() != "the instance key opens none of 15 credentials" || problem.HintOf(err) != "nothing was written" || len(res.Failures) != 15 {
		t.Errorf("%v", err)
	}
	b.sql(`DELETE FROM credentials_entity`)
	res, text, err = b.seal(b.fixture.Key, filepath.Join(dir, "empty.age"))
	if err != nil || res.Credentials != 0 || string(text) != "[]\n" {
		t.Errorf("%+v %q %v", res, text, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("files %v %v", entries, err)
	}
}

func TestCredentialsRefusals(t *testing.T) {
	b := newBench(t, "2.41.1-sqlite")
	dir := t.TempDir()
	out := filepath.Join(dir, "c.age")
	if _, _, err := b.seal(b.fixture.Key, out); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("file %q exists already", out)
	if _, _, err := b.seal(b.fixture.Key, out); problem.KindOf(err) != problem.Usage || err.Error() != want {
		t.Error(err)
	}
	if err := CheckOut(out); problem.KindOf(err) != problem.Usage || err.Error() != want || problem.HintOf(err) != "name a new file: an export of credentials is never overwritten" {
		t.Error(err)
	}
	if err := CheckOut(filepath.Join(dir, "new")); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(out); err != nil || !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
	if _, _, err := b.seal(b.fixture.Key, filepath.Join(dir, "no", "c.age")); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "writing the credentials: creating") {
		t.Error(err)
	}

	db := b.fixture.Open(t, b.location)
	receipt := n8ndbtest.Receipt(t)
	keys, err := db.Keyset(t.Context(), receipt, b.fixture.Key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := CredentialsConfig{DB: db, Keys: keys, Out: filepath.Join(dir, "new")}
	if _, err := Credentials(t.Context(), cfg); problem.KindOf(err) != problem.Usage || err.Error() != "no recipient: nobody could open the credentials" {
		t.Error(err)
	}
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	h, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Recipients = []age.Recipient{x.Recipient(), h.Recipient()}
	cfg.Receipt = receipt
	if _, err := Credentials(t.Context(), cfg); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "encrypting the credentials") {
		t.Error(err)
	}
	// Without a receipt nothing is opened and nothing is written.
	cfg.Recipients, cfg.Receipt = cfg.Recipients[:1], audit.Receipt{}
	if _, err := Credentials(t.Context(), cfg); err == nil || err.Error() != "no secret is opened before the audit event of the command is recorded" {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("files %v %v", entries, err)
	}
}
