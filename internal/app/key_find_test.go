package app_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/keyring"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
)

// under makes of the desk's n8n a 1.123 with a credential under each of the keys.
func (d *desk) under(keys ...string) {
	d.t.Helper()
	f := n8ndbtest.Load(d.t, "1.123.81-sqlite")
	b, err := os.ReadFile(f.Copy(d.t))
	if err != nil {
		d.t.Fatal(err)
	}
	path := d.write("n8n/database.sqlite", string(b))
	f.Exec(d.t, path, `UPDATE "user" SET "mfaSecret" = NULL, "mfaRecoveryCodes" = NULL`)
	f.Exec(d.t, path, `DELETE FROM settings WHERE key LIKE 'feature%' OR key LIKE 'credentials%'`)
	f.Exec(d.t, path, `DELETE FROM execution_data`)
	f.Exec(d.t, path, `DELETE FROM credentials_entity`)
	for i, k := range keys {
		v, err := n8ndbtest.Key(d.t, k).EncryptCBC([]byte(`{"a":1}`))
		if err != nil {
			d.t.Fatal(err)
		}
		f.Exec(d.t, path, `INSERT INTO credentials_entity (id, name, data, type) VALUES ($1, 'n', $2, 't')`, "c"+string(rune('0'+i)), v.String())
	}
}

func (d *desk) config(key string) {
	d.t.Helper()
	d.write("n8n/config", string(n8nhome.FormatConfig(n8ndbtest.Key(d.t, key))))
}

// TestKeyFindWords: what is said, and with which exit code.
func TestKeyFindWords(t *testing.T) {
	const made = "q1W2e3R4t5Y6u7I8o9P0a1S2d3F4g5H6" // as n8n makes them
	for name, tc := range map[string]struct {
		under     []string
		config    string
		candidate string // a file of a key, "{" of a config
		kind      problem.Kind
		verdict   string
		next      string
	}{
		"in use":            {[]string{"right"}, "right", "wrong", "", `/n8n/config" encryptionKey is the instance key: all 1 encrypted values open`, "nothing has to be changed: n8n takes this key by itself, from settings file"},
		"another in config": {[]string{"right"}, "wrong", "right", "", `/candidate" is the instance key: all 1`, "n8n takes another key now, from settings file"},
		"no config":         {[]string{"right"}, "", "right", "", `/candidate" is the instance key: all 1`, "give n8n this key: in N8N_ENCRYPTION_KEY, or as encryptionKey in the file config"},
		"another host":      {[]string{made}, "wrong", `{"encryptionKey":"` + made + `"}`, "", `/candidate" line 1 encryptionKey is the instance key: all 1`, "it looks like a key that an n8n made by itself, because it was started without one"},
		"made here":         {[]string{"right"}, made, "right", "", "is the instance key", "looks like one that n8n made by itself at a start without the right one, and opens nothing"},
		"white space":       {[]string{"right\n"}, "right", "other", "", `encryptionKey is the instance key (with a line break at its end): all 1`, "white space and quotes at its ends belong to this key, and n8n from 1.116 takes them away"},
		"quotes":            {[]string{`"right"`}, "right", "other", "", `(with double quotes around it)`, "only its config file can hold it"},
		"write it":          {[]string{"right"}, "wrong", "'right'", "", `(without the quotes around it)`, "--out FILE writes the key as it has to be into a file"},
		"n8n 1.15":          {[]string{"sch\u00c3\u00bcssel"}, "schüssel", "other", "", "is the instance key: all 1", "1 values were written by n8n 1.15 or older"},
		"older data": {[]string{"right", "right", "old"}, "right", "old", problem.CheckFailed,
			`encryptionKey opens the most, and is probably the instance key: it opens 2 of 3 encrypted values; "`, "n8n itself cannot read what only that key opens"},
		"lost":    {[]string{"right", "lost"}, "right", "other", problem.CheckFailed, "it opens 1 of 2 encrypted values; 1 stay closed under every candidate", "what stays closed was written with a key that is not here"},
		"nothing": {[]string{"right"}, "", "wrong", problem.WrongKey, "the one candidate opens none of the 1 encrypted values, in any of ", "a worker or another host with the same database may have the key"},
		"empty":   {nil, "right", "wrong", "", "there is no encrypted value, so nothing can be told about any key", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, "")
			d.under(tc.under...)
			if err := os.Remove(filepath.Join(d.n8n, "config")); err != nil {
				t.Fatal(err)
			}
			if tc.config != "" {
				d.config(tc.config)
			}
			doc, err := d.app().KeyFind(t.Context(), app.InstanceOptions{N8NDir: d.n8n}, app.KeyFindOptions{Candidates: []string{d.write("candidate", tc.candidate)}})
			if problem.KindOf(err) != tc.kind || doc == nil {
				t.Fatalf("%v, %v", doc, err)
			}
			if !strings.Contains(doc.Verdict, tc.verdict) {
				t.Errorf("verdict %q", doc.Verdict)
			}
			if next := strings.Join(doc.Next, "\n"); !strings.Contains(next, tc.next) || err != nil && problem.HintOf(err) != next {
				t.Errorf("next %q, hint %q", next, problem.HintOf(err))
			}
		})
	}
}

func TestKeyFindOlderAndWeak(t *testing.T) {
	d := newDesk(t, "")
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	path := filepath.Join(d.n8n, "database.sqlite")
	old, err := n8ndbtest.Key(t, "of another host").EncryptCBC([]byte(`{"a":1}`))
	if err != nil {
		t.Fatal(err)
	}
	f.Exec(t, path, `UPDATE credentials_entity SET data = $1`, old.String())
	candidate := d.write("candidate", "of another host")
	doc, err := d.app().KeyFind(t.Context(), app.InstanceOptions{N8NDir: d.n8n}, app.KeyFindOptions{Candidates: []string{candidate}, Only: true})
	wantProblem(t, err, problem.CheckFailed, "no candidate is the instance key of ")
	if doc == nil || !strings.Contains(doc.Verdict, "opens older data, 15 of 32 encrypted values, and not what n8n reads with its key of today") ||
		!strings.Contains(problem.HintOf(err), "look for the key that replaced it") || doc.Keys[0].InUse {
		t.Errorf("%+v, %v", doc, err)
	}

	d.under()
	weak, err := n8ndbtest.Key(t, "right").EncryptCBC([]byte("pw"))
	if err != nil {
		t.Fatal(err)
	}
	f.Exec(t, path, `INSERT INTO settings (key, value, "loadOnStartup") VALUES ('features.ldap', $1, true)`, `{"bindingAdminPassword":"`+weak.String()+`"}`)
	doc, err = d.app().KeyFind(t.Context(), app.InstanceOptions{N8NDir: d.n8n}, app.KeyFindOptions{Candidates: []string{d.write("candidate", "right")}, Only: true})
	wantProblem(t, err, problem.CheckFailed, "no key is proved in ")
	if doc == nil || !strings.Contains(doc.Verdict, "opens 1 of 1 encrypted values, of a kind that a wrong key may open by chance: that is no proof") || doc.Keys[0].Role != "no_proof" ||
		!strings.Contains(problem.HintOf(err), "save a credential in n8n") {
		t.Errorf("%+v, %v", doc, err)
	}
}

// TestKeyFindSources: environment, n8keep.yaml and keyring are candidates, too.
func TestKeyFindSources(t *testing.T) {
	d := newDesk(t, "instances:\n  prod:\n    n8n_dir: DIR/n8n\n    key: file:yaml-key\n")
	d.under("today", "today", "before the rotation")
	d.config("of the config")
	d.write("yaml-key", "today")
	d.opts.StateDir = filepath.Join(d.dir, "state")
	ring := keyring.New(keyring.Config{StateDir: d.opts.StateDir})
	if _, err := ring.Activate(t.Context(), keyring.Activation{Instance: "prod",
		Old: keyring.Key{Key: n8ndbtest.Key(t, "before the rotation")}, New: keyring.Key{Key: n8ndbtest.Key(t, "today")}}); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"HOME": d.dir, "N8N_ENCRYPTION_KEY": "of the environment"}
	d.opts.Env = func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	sources := func(doc *api.KeyFind) string {
		out := ""
		for _, c := range doc.Candidates {
			out += c.Source + " " + c.Role + "; "
		}
		return out
	}
	key := d.write("key", "of the flag")
	doc, err := d.app().KeyFind(t.Context(), app.InstanceOptions{KeyFile: key}, app.KeyFindOptions{})
	wantProblem(t, err, problem.CheckFailed, "the best opens 2")
	if got, want := sources(doc), "--key-file nothing; N8N_ENCRYPTION_KEY nothing; config nothing; n8keep.yaml instance_key; keyring older_data; "; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if last := doc.Candidates[4].Candidate; !strings.HasPrefix(last, "keyring: n8k1-") || !strings.Contains(last, ` of "prod" until 2`) || doc.Closed != 0 {
		t.Errorf("%s, %d closed", last, doc.Closed)
	}
	if _, err = d.app().KeyFind(t.Context(), app.InstanceOptions{}, app.KeyFindOptions{Only: true}); problem.KindOf(err) != problem.Usage {
		t.Errorf("nothing to try: %v", err)
	}
	// A keyring that cannot be read is said, and the rest is tried.
	if err := os.WriteFile(ring.Path(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	doc, err = d.app().KeyFind(t.Context(), app.InstanceOptions{KeyFile: key}, app.KeyFindOptions{})
	wantProblem(t, err, problem.CheckFailed, "the best opens 2")
	if !strings.Contains(strings.Join(doc.Warnings, "\n"), "keyring") {
		t.Errorf("warnings %q", doc.Warnings)
	}
}

func TestKeyFindPostgres(t *testing.T) {
	d, _, u := pgDesk(t, "")
	password, _ := u.User.Password()
	d.write(".pgpass", "*:*:*:*:"+password+"\n")
	if err := os.Chmod(filepath.Join(d.dir, ".pgpass"), 0o600); err != nil {
		t.Fatal(err)
	}
	right, err := os.ReadFile(filepath.Join(d.dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	env := d.write("env", "#N8N_ENCRYPTION_KEY='"+string(right)+"'\r\nN8N_ENCRYPTION_KEY=wrong\r\n")
	out := filepath.Join(d.dir, "out")
	doc, err := d.app().KeyFind(t.Context(), app.InstanceOptions{Database: withoutPassword(u)}, app.KeyFindOptions{Candidates: []string{env}, Only: true, Out: out})
	if err != nil {
		t.Fatal(err)
	}
	if doc.Engine != "postgres" || !strings.Contains(doc.Verdict, `/env" line 1 N8N_ENCRYPTION_KEY is the instance key: all `) || doc.Candidates[1].Role != "nothing" {
		t.Errorf("%+v", doc)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != string(right) {
		t.Errorf("what was written is not the key: %v", err)
	}
}
