package rotate

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
)

// TestObtain runs the commands that people are shown and compares with n8ncrypt, whose
// values are those of real n8n.
func TestObtain(t *testing.T) {
	for i, text := range []string{"n8n-test-key-0123456789abcdef", "an even number of characters", "odd", "it's \"quoted\" \\ $HOME `id`", "schlüssel-日本-🔐-z", "🔐🔐🔐 astral"} {
		key := planKey(t, text)
		dir := filepath.Join(t.TempDir(), "a folder that isn't plain")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		plain, config := filepath.Join(dir, "key"), filepath.Join(dir, "config")
		escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
		for path, content := range map[string]string{plain: text, plain + "nl": text + "\n", config: "{\n\t\"encryptionKey\": \"" + escaped + "\",\n\t\"tunnelSubdomain\": \"x\"\n}"} {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		paths := []string{plain, plain + "nl", config, ""}
		if i > 2 { // these start node, which takes its time
			paths = []string{config}
		}
		tried := 0
		for _, d := range derivations() {
			if d.variable == "" {
				continue
			}
			for _, path := range paths {
				command := obtain(d, Key{Key: key, Path: path})
				if strings.Contains(command, text) || strings.Contains(command, d.value(key)) {
					t.Errorf("%s shows the key or the value: %s", d.secret, command)
				}
				cmd := exec.Command("sh", "-c", command)
				cmd.Env = append(os.Environ(), "N8N_ENCRYPTION_KEY="+text)
				out, err := cmd.CombinedOutput()
				if err != nil || strings.TrimSuffix(string(out), "\n") != d.value(key) {
					t.Errorf("%s of %q from %q: %s\n%s\nwant %s (%v)", d.secret, text, path, command, out, d.value(key), err)
				}
				tried++
			}
		}
		if tried != 4*len(paths) {
			t.Errorf("%d commands", tried)
		}
	}
}

// TestDerivedVectors: the table's values are those of n8n 2.41.1.
func TestDerivedVectors(t *testing.T) {
	key := planKey(t, "n8n-test-key-0123456789abcdef")
	want := map[string]string{
		"instance.id":         "7df3f4a41a33805596be85c781cac3b43b5dd245ccee4ba9d91d957aca344b31",
		"signing.jwt":         "e0608d12658ee4cba751fa6cb50ced3ccaa4f79cc8a18a36fbe0f325acb487c1",
		"signing.hmac":        "b448001fdaf00f462350bb734a00ddaab9673559430fd3f45d0301e63a28509a",
		"signing.binary_data": "2pIXKpzlWJUJje1elvcpyS9awpGXewnk35NzPWXMEmM=",
	}
	got := map[string]string{}
	for _, d := range derivations() {
		if d.row != "" {
			got[d.row] = d.value(key)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDerived(t *testing.T) {
	rows := func(types ...string) (list []n8ndb.KeyRow) {
		for _, kind := range types {
			list = append(list, n8ndb.KeyRow{Type: kind})
		}
		return list
	}
	all := rows("signing.jwt", "signing.hmac", "signing.binary_data", "instance.id")
	env := func(pairs ...string) func(string) (string, bool) {
		return func(name string) (string, bool) {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == name {
					return pairs[i+1], true
				}
			}
			return "", false
		}
	}
	const jwt, hmac, binary, id, telegram = "signing.jwt", "signing.hmac", "signing.binary_data", "instance.id", "telegram.webhook"
	for name, c := range map[string]struct {
		facts derivedFacts
		want  map[string]string
	}{
		"1.45":    {derivedFacts{version: n8ndb.Version{N8N: "1.45.1"}}, map[string]string{jwt: ByEnvironment, id: Cannot}},
		"1.94":    {derivedFacts{version: n8ndb.Version{N8N: "1.94.1"}}, map[string]string{jwt: ByEnvironment, binary: ByEnvironment, id: Cannot}},
		"1.123":   {derivedFacts{version: n8ndb.Version{N8N: "1.123.x"}}, map[string]string{jwt: ByEnvironment, hmac: ByEnvironment, binary: ByEnvironment, id: Cannot}},
		"unknown": {derivedFacts{}, map[string]string{jwt: ByEnvironment, hmac: ByEnvironment, binary: ByEnvironment, id: Cannot}},
		"2.17":    {derivedFacts{version: n8ndb.Version{N8N: "2.7 to 2.17"}}, map[string]string{jwt: ByEnvironment, hmac: ByEnvironment, binary: ByEnvironment, id: Cannot}},
		"2.38":    {derivedFacts{version: n8ndb.Version{N8N: "2.38.7"}, rows: all}, map[string]string{jwt: ByRows, hmac: ByRows, binary: ByRows, id: ByRows, telegram: Cannot}},
		"2.41 without rows": {derivedFacts{version: n8ndb.Version{N8N: "2.41.1"}, rows: rows("signing.jwt", "data_encryption")},
			map[string]string{jwt: ByRows, hmac: ByEnvironment, binary: ByEnvironment, id: ByEnvironment, telegram: Cannot}},
		"set": {derivedFacts{version: n8ndb.Version{N8N: "2.41.1"}, rows: all, env: env("N8N_HMAC_SIGNATURE_SECRET", "x", "N8N_USER_MANAGEMENT_JWT_SECRET", "", "N8N_INSTANCE_ID", "short")},
			map[string]string{jwt: ByRows, hmac: BySet, binary: ByRows, id: BySet, telegram: Cannot}},
		"set too early": {derivedFacts{version: n8ndb.Version{N8N: "1.123.x"}, env: env("N8N_INSTANCE_ID", "x")},
			map[string]string{jwt: ByEnvironment, hmac: ByEnvironment, binary: ByEnvironment, id: Cannot}},
		"leak 1.123": {derivedFacts{version: n8ndb.Version{N8N: "1.123.x"}, leak: true}, map[string]string{jwt: Ends, hmac: Ends, binary: Ends, id: Cannot}},
		"leak 2.41":  {derivedFacts{version: n8ndb.Version{N8N: "2.41.1"}, rows: all, leak: true}, map[string]string{jwt: Ends, hmac: Ends, binary: Ends, id: ByRows, telegram: Cannot}},
		"leak, set": {derivedFacts{version: n8ndb.Version{N8N: "2.41.1"}, rows: all, leak: true, env: env("N8N_USER_MANAGEMENT_JWT_SECRET", "x")},
			map[string]string{jwt: BySet, hmac: Ends, binary: Ends, id: ByRows, telegram: Cannot}},
	} {
		t.Run(name, func(t *testing.T) {
			c.facts.old = Key{Key: planKey(t, "old-key-text"), Path: "/etc/n8n.key"}
			list, warnings := planDerived(c.facts)
			got := map[string]string{}
			for _, d := range list {
				got[d.Secret] = d.How
				if d.Effect == "" || (d.How == ByEnvironment) != (d.Obtain != "") || (d.How == ByEnvironment || d.How == BySet) != (d.Variable != "") {
					t.Errorf("%+v", d)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if name == "leak, set" && (len(warnings) != 1 || warnings[0] != "N8N_USER_MANAGEMENT_JWT_SECRET is set in n8n's environment, where n8keep cannot change it: set a new value there if it may have leaked, too") {
				t.Errorf("%q", warnings)
			}
		})
	}
}

func TestDerivedEffects(t *testing.T) {
	d := n8ndb.Dependents{Users: 3, MFAUsers: 1, APIKeys: 2, OAuthTokens: 1, Licence: true, TelegramAgents: 2}
	f := derivedFacts{version: n8ndb.Version{N8N: "1.123.x"}, dependents: d, old: Key{Key: planKey(t, "old-key-text")}}
	list, _ := planDerived(f)
	want := map[string]string{
		"signing.jwt": "with the value of before, to be printed before the rotation and set before n8n starts: people stay logged in; 2 API keys stay valid; 1 OAuth token stays valid; links of invitations and password resets, too. " +
			"Without: everybody has to log in again; 2 API keys end and have to be made anew; 1 OAuth token ends; open links of invitations and password resets are void",
		"instance.id": "n8n becomes another instance: its licence has to be activated again (have the activation key at hand; the old instance keeps a seat until it is released)",
	}
	for _, d := range list {
		if w := want[d.Secret]; w != "" && d.Effect != w {
			t.Errorf("%s: %s", d.Secret, d.Effect)
		}
	}
	f.version.N8N, f.env = "2.41.1", func(name string) (string, bool) { return "short", name == "N8N_INSTANCE_ID" }
	list, warnings := planDerived(f)
	if len(warnings) != 1 || !strings.HasPrefix(warnings[0], "N8N_INSTANCE_ID has fewer than 32 characters") {
		t.Errorf("%q", warnings)
	}
	if e := list[len(list)-1].Effect; e != "messages from Telegram to 2 agents are refused until n8n has connected again, which it does when it starts" {
		t.Error(e)
	}
}
