package keyfind

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
	"github.com/n8keep/n8keep/n8ncrypt"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func candidates(texts ...string) []Candidate {
	var list []Candidate
	for i, text := range texts {
		list = append(list, Candidate{Source: FromFile, File: "old-keys", Line: i + 1, Text: secret.NewString(text)})
	}
	return list
}

func find(t *testing.T, db *n8ndb.DB, list []Candidate, change ...func(*Config)) *Result {
	t.Helper()
	cfg := Config{DB: db, Receipt: n8ndbtest.Receipt(t), Candidates: list}
	for _, c := range change {
		c(&cfg)
	}
	r, err := Find(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// said is a result in short: "role candidate+steps opened/failed" for each key, then
// what is closed.
func said(r *Result) string {
	var b strings.Builder
	for _, x := range r.Found {
		fmt.Fprintf(&b, "%s %d", x.Role, r.Candidates[x.Candidate].Candidate.Line)
		for _, s := range x.Steps {
			b.WriteString("+" + s)
		}
		if x.Census.Failed == 0 {
			b.WriteString(" all")
		}
		b.WriteString("; ")
	}
	if r.Closed > 0 {
		fmt.Fprintf(&b, "closed %d", r.Closed)
	}
	return strings.TrimSpace(b.String())
}

// TestFixtures: the key of every release opens everything, wrong ones nothing.
func TestFixtures(t *testing.T) {
	for _, name := range n8ndbtest.Few(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := n8ndbtest.Load(t, name)
			db := f.Open(t, f.Copy(t))
			right := f.Key.Reveal()
			r := find(t, db, candidates("wrong-one", right, "another wrong one"))
			if got := said(r); got != "instance_key 2 all;" {
				t.Errorf("right and wrong: %s", got)
			}
			if len(r.Candidates[0].Found) != 0 || len(r.Candidates[1].Found) != 1 || r.Encrypted == 0 {
				t.Errorf("%d values, %+v", r.Encrypted, r.Candidates)
			}
			r = find(t, db, candidates(`"`+strings.ToUpper(hex.EncodeToString([]byte(right)))+`"`))
			if got := said(r); got != "instance_key 1+without the quotes around it+decoded from hex all;" {
				t.Errorf("in quotes and hex: %s", got)
			}
			r = find(t, db, candidates("wrong-one"))
			if len(r.Found) != 0 || r.Closed != r.Encrypted || r.Closed == 0 || r.Tried < 300 || r.Instance() != nil {
				t.Errorf("wrong ones: %s of %d, %d tried", said(r), r.Encrypted, r.Tried)
			}
		})
	}
}

// TestFormsOfTheRightKey: a candidate that is nearly the key is named beside the
// one that is.
func TestFormsOfTheRightKey(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	right := f.Key.Reveal()
	r := find(t, f.Open(t, f.Copy(t)), candidates(right+"\r\n", right, `'`+right+`'`, right, "wrong"))
	if got := said(r); got != "instance_key 2 all;" {
		t.Error(got)
	}
	for i, want := range []string{"[[without the white space around it]]", "[[]]", "[[without the quotes around it]]", "[[]]", "[]"} {
		if got := fmt.Sprint(r.Candidates[i].Steps); got != want {
			t.Errorf("candidate %d: %s, want %s", i+1, got, want)
		}
	}
}

// plainOld makes of a 1.123 a database with nothing but credentials, each under the
// key of its place in the list.
func plainOld(t *testing.T, stored ...string) *n8ndb.DB {
	t.Helper()
	f := n8ndbtest.Load(t, "1.123.81-sqlite")
	path := f.Copy(t)
	f.Exec(t, path, `UPDATE "user" SET "mfaSecret" = NULL, "mfaRecoveryCodes" = NULL`)
	f.Exec(t, path, `DELETE FROM settings WHERE key LIKE 'feature%' OR key LIKE 'credentials%'`)
	f.Exec(t, path, `DELETE FROM execution_entity`)
	f.Exec(t, path, `DELETE FROM execution_data`)
	f.Exec(t, path, `DELETE FROM shared_credentials`)
	f.Exec(t, path, `DELETE FROM credentials_entity`)
	for i, s := range stored { // several times the same, with spaces between
		values := strings.Fields(s)
		f.Exec(t, path, `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $3)
			INSERT INTO credentials_entity (id, name, data, type) SELECT $1 || '-' || i, 'n', $2, 't' FROM n`, fmt.Sprintf("c%06d", i), values[0], len(values))
	}
	return f.Open(t, path)
}

func cbc(t *testing.T, key, plaintext string) string {
	t.Helper()
	v, err := n8ndbtest.Key(t, key).EncryptCBC([]byte(plaintext))
	if err != nil {
		t.Fatal(err)
	}
	return v.String()
}

func TestKeysThatAreNotASCII(t *testing.T) {
	const key = "schlüssel-€-0123456789"
	// What n8n to 1.15 wrote: the key's UTF-8 bytes, each a character of Latin-1.
	old := cbc(t, latin1(key), `{"a":"old"}`)
	for name, tc := range map[string]struct {
		stored    []string
		candidate string
		want      string
		old       int64
	}{
		"as it stands":            {[]string{cbc(t, key, `{"a":1}`)}, key, "instance_key 1 all;", 0},
		"n8n 1.15":                {[]string{old}, key, "instance_key 1 all;", 1},
		"both":                    {[]string{cbc(t, key, `{"a":1}`), old, old}, key, "instance_key 1 all;", 2},
		"file in Windows-1252":    {[]string{cbc(t, key, `{"a":1}`)}, "schl\xfcssel-\x80-0123456789", "instance_key 1+read as Windows-1252 all;", 0},
		"mojibake in the file":    {[]string{cbc(t, key, `{"a":1}`)}, windows1252(key), "instance_key 1+written as Windows-1252 and read as UTF-8 all;", 0},
		"mojibake in n8n":         {[]string{cbc(t, windows1252(key), `{"a":1}`)}, key, "instance_key 1+read as Windows-1252 all;", 0},
		"decomposed":              {[]string{cbc(t, "schl\u0075\u0308ssel", `{"a":1}`)}, "schlüssel", "instance_key 1+with decomposed letters (NFD) all;", 0},
		"what Node makes of it":   {[]string{cbc(t, "schl\ufffdssel", `{"a":1}`)}, "schl\xfcssel", "instance_key 1+with U+FFFD for what is no UTF-8 all;", 0},
		"byte order mark":         {[]string{cbc(t, "plain-key", `{"a":1}`)}, "\ufeffplain-key", "instance_key 1+without the white space around it all;", 0},
		"escaped in compose":      {[]string{cbc(t, "pa$word", `{"a":1}`)}, "pa$$word", "instance_key 1+with $$ read as $ all;", 0},
		"replaced by compose":     {[]string{cbc(t, "pa-word", `{"a":1}`)}, "pa$s-word", "instance_key 1+with its variables ($NAME) replaced by nothing all;", 0},
		"line break of a secret":  {[]string{cbc(t, "plain-key\n", `{"a":1}`)}, "plain-key", "instance_key 1+with a line break at its end all;", 0},
		"the key of another case": {[]string{cbc(t, "00ff", `{"a":1}`)}, "00FF", "instance_key 1+in lower case all;", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := find(t, plainOld(t, tc.stored...), candidates(tc.candidate))
			if got := said(r); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			if len(r.Found) > 0 && r.Found[0].OldEncoding != tc.old {
				t.Errorf("%d values of n8n 1.15, want %d", r.Found[0].OldEncoding, tc.old)
			}
		})
	}
}

// TestOlderData: a few values in many are under other keys, some of which nobody has.
func TestOlderData(t *testing.T) {
	stored := []string{strings.Repeat(cbc(t, "today", `{"a":1}`)+" ", 600)}
	stored = append(stored, cbc(t, "yesterday", `{"a":1}`), cbc(t, "before\n", `{"a":1}`), cbc(t, "lost", `{"a":1}`), "U2FsdGVkX18BAgMEBQYHCDbcm9YRK+oY9J3mYg==")
	r := find(t, plainOld(t, stored...), candidates("before", "wrong", "yesterday", "today"))
	if got := said(r); got != "instance_key 4; older_data 3; older_data 1+with a line break at its end; closed 2" {
		t.Error(got)
	}
	if r.Broken != 1 || r.Encrypted != 604 || r.Found[0].Census.Opened != 600 {
		t.Errorf("%d of %d broken, %d open", r.Broken, r.Encrypted, r.Found[0].Census.Opened)
	}
}

// TestWrapsDecide: with rows of deployment_key the key that opens them is the
// instance key, however few values it opens.
func TestWrapsDecide(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	path := f.Copy(t)
	f.Exec(t, path, `UPDATE credentials_entity SET data = $1`, cbc(t, "the key of another host", `{"a":1}`))
	db := f.Open(t, path)
	r := find(t, db, candidates("the key of another host", f.Key.Reveal()))
	if len(r.Found) != 2 || r.Found[0].Role != InstanceKey || r.Found[0].Candidate != 1 || r.Found[1].Role != OlderData || r.Found[1].Wraps != 0 || r.Wrapped == 0 || r.Closed != 0 {
		t.Errorf("both: %s; %+v", said(r), r)
	}
	r = find(t, db, candidates("the key of another host"))
	if len(r.Found) != 1 || r.Found[0].Role != OlderData || r.Instance() != nil || r.Closed == 0 {
		t.Errorf("the older one alone: %s", said(r))
	}
}

// TestWeakIsNoProof: a short value of any text opens by chance.
func TestWeakIsNoProof(t *testing.T) {
	f := n8ndbtest.Load(t, "1.123.81-sqlite")
	db := plainOld(t)
	db.Close()
	path := f.Copy(t)
	f.Exec(t, path, `UPDATE "user" SET "mfaSecret" = NULL, "mfaRecoveryCodes" = NULL`)
	f.Exec(t, path, `DELETE FROM credentials_entity`)
	f.Exec(t, path, `DELETE FROM execution_data`)
	f.Exec(t, path, `DELETE FROM settings WHERE key LIKE 'feature%' OR key LIKE 'credentials%'`)
	f.Exec(t, path, `INSERT INTO settings (key, value, "loadOnStartup") VALUES ('features.ldap', $1, true)`, `{"bindingAdminPassword":"`+cbc(t, "right", "pw")+`"}`)
	db = f.Open(t, path)
	r := find(t, db, candidates("right"))
	if got := said(r); got != "no_proof 1 all;" || r.Instance() != nil || r.Found[0].Proofs != 0 {
		t.Errorf("as it stands: %s", got)
	}
	if r = find(t, db, candidates("'right'")); len(r.Found) != 0 || r.Closed != 1 {
		t.Errorf("a form of it: %s", said(r))
	}
}

// TestKeyInTheDatabase: n8n 2.18 to 2.40.2 could store the key in clear.
func TestKeyInTheDatabase(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	path := f.Copy(t)
	f.Exec(t, path, `UPDATE deployment_key SET value = $1 WHERE algorithm = 'aes-256-cbc'`, f.Key.Reveal())
	r := find(t, f.Open(t, path), candidates("wrong"))
	if x := r.Instance(); x == nil || x.Census.Failed != 0 || r.Candidates[x.Candidate].Candidate.Source != FromDatabase {
		t.Errorf("%s", said(r))
	}
}

// TestMore: a key that is found opens a keyring, and so on.
func TestMore(t *testing.T) {
	db := plainOld(t, cbc(t, "today", `{"a":1}`), cbc(t, "today", `{"a":1}`), cbc(t, "yesterday", `{"a":1}`), cbc(t, "before", `{"a":1}`))
	more := func(cfg *Config) {
		cfg.More = func(keys []n8ncrypt.InstanceKey) ([]Candidate, error) {
			var list []Candidate
			for _, k := range keys {
				switch k.Reveal() {
				case "today":
					list = append(list, Candidate{Source: FromKeyring, Known: "yesterday's", Line: 7, Text: secret.NewString("yesterday")})
				case "yesterday":
					list = append(list, Candidate{Source: FromKeyring, Known: "one before", Line: 8, Text: secret.NewString("before")})
				}
			}
			return list, nil
		}
	}
	if got := said(find(t, db, candidates("'today'"), more)); got != "instance_key 1+without the quotes around it; older_data 7; older_data 8;" {
		t.Error(got)
	}
	failing := errors.New("the keyring is damaged")
	_, err := Find(t.Context(), Config{DB: db, Receipt: n8ndbtest.Receipt(t), Candidates: candidates("x"),
		More: func([]n8ncrypt.InstanceKey) ([]Candidate, error) { return nil, failing }})
	if !errors.Is(err, failing) {
		t.Errorf("%v", err)
	}
}

func TestNothingThere(t *testing.T) {
	c := n8ndbtest.Census(t, plainOld(t), n8ndbtest.Key(t, "x"), n8ndb.CensusConfig{})
	for _, s := range c.Secrets {
		if !s.Plain {
			t.Errorf("the test's empty n8n has %s row %s", s.Place, s.Row)
		}
	}
	r := find(t, plainOld(t), candidates("x"))
	if len(r.Found) != 0 || r.Encrypted != 0 || r.Closed != 0 {
		t.Errorf("an empty n8n: %+v", r)
	}
	r = find(t, plainOld(t, cbc(t, "k", "{}")), nil)
	if r.Encrypted != 1 || r.Closed != 1 {
		t.Errorf("no candidates: %+v", r)
	}
	if _, err := Find(t.Context(), Config{DB: plainOld(t), Receipt: audit.Receipt{}}); problem.KindOf(err) != problem.Unexpected {
		t.Errorf("no receipt: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	db := plainOld(t, cbc(t, "k", "{}"))
	_, err := Find(ctx, Config{DB: db, Receipt: n8ndbtest.Receipt(t), Candidates: candidates("x"), Progress: func(string, int64) { cancel() }})
	cancel()
	if problem.KindOf(err) != problem.Interrupted {
		t.Errorf("cancelled: %v", err)
	}
}
