package keyfind

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestParse: "line NAME=text" for each candidate, then the notes.
func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		text  string
		want  []string
		notes string
	}{
		"key file":         {"my-key", []string{"0 =my-key"}, ""},
		"with line break":  {"my-key\n", []string{"0 =my-key"}, ""},
		"Windows":          {"my-key\r\n", []string{"0 =my-key\r"}, ""},
		"several keys":     {"one\n\ntwo\r\n", []string{"0 =one\n\ntwo\r", "1 =one", "3 =two"}, ""},
		"UTF-16":           {"\xff\xfem\x00y\x00\n\x00", []string{"0 =my"}, ""},
		"UTF-16 big":       {"\xfe\xff\x00m\x00y", []string{"0 =my"}, ""},
		"n8n's config":     {"{\n\t\"encryptionKey\": \"k\\\"ü\",\n\t\"tunnelSubdomain\": \"x\"\n}", []string{"2 encryptionKey=k\"ü"}, ""},
		"config with mark": {"\ufeff{\"encryptionKey\":\"k\"}", []string{"1 encryptionKey=k"}, ""},
		"docker inspect":   {"[{\"Config\":{\"Env\":[\"PATH=/\",\n\"N8N_ENCRYPTION_KEY=k=1\"]}}]", []string{"2 N8N_ENCRYPTION_KEY=k=1"}, ""},
		"task definition":  {`{"environment":[{"name":"N8N_ENCRYPTION_KEY","value":"k"},{"name":"X","value":"y"}]}`, []string{"1 N8N_ENCRYPTION_KEY=k"}, ""},
		"environment":      {"# n8n\nexport N8N_ENCRYPTION_KEY='a b'  # mine\nDB_TYPE=sqlite\n", []string{"2 N8N_ENCRYPTION_KEY=a b"}, ""},
		"old one":          {"N8N_ENCRYPTION_KEY=new\n#N8N_ENCRYPTION_KEY=old\n", []string{"1 N8N_ENCRYPTION_KEY=new", "2 N8N_ENCRYPTION_KEY=old"}, ""},
		"unquoted":         {"N8N_ENCRYPTION_KEY=a#b c # no\r\n", []string{"1 N8N_ENCRYPTION_KEY=a#b c"}, ""},
		"open quote":       {"N8N_ENCRYPTION_KEY=\"ab\n", []string{"1 N8N_ENCRYPTION_KEY=\"ab"}, ""},
		"escaped quote":    {`N8N_ENCRYPTION_KEY="a\"b"`, []string{`1 N8N_ENCRYPTION_KEY=a\"b`}, ""},
		"PowerShell":       {`$env:N8N_ENCRYPTION_KEY = "ab"`, []string{"1 N8N_ENCRYPTION_KEY=ab"}, ""},
		"unit":             {"[Service]\nEnvironment=\"N8N_ENCRYPTION_KEY=a b\" \"X=y\"\n", []string{"2 N8N_ENCRYPTION_KEY=a b"}, ""},
		"docker run":       {"docker run -e N8N_ENCRYPTION_KEY=ab -p 5678:5678 n8n", []string{"1 N8N_ENCRYPTION_KEY=ab"}, ""},
		"Dockerfile":       {"FROM n8n\nENV N8N_ENCRYPTION_KEY ab\n", []string{"2 N8N_ENCRYPTION_KEY=ab"}, ""},
		"compose map":      {"services:\n  n8n:\n    environment:\n      N8N_ENCRYPTION_KEY: \"a$$b\\n\" # c\n      # N8N_ENCRYPTION_KEY: old\n", []string{"4 N8N_ENCRYPTION_KEY=a$$b\n", "5 N8N_ENCRYPTION_KEY=old"}, ""},
		"compose list":     {"services:\n  n8n:\n    environment:\n      - N8N_ENCRYPTION_KEY=ab\n      - 'N8N_ENCRYPTION_KEY=c d'\n", []string{"4 N8N_ENCRYPTION_KEY=ab", "5 N8N_ENCRYPTION_KEY=c d"}, ""},
		"anchor":           {"x-env: &e\n  N8N_ENCRYPTION_KEY: &k ab\nservices: {n8n: {environment: *e}}\n", []string{"2 N8N_ENCRYPTION_KEY=ab"}, ""},
		"digits":           {"env:\n  N8N_ENCRYPTION_KEY: 0123456789\n", []string{"2 N8N_ENCRYPTION_KEY=0123456789"}, ""},
		"Kubernetes":       {"spec:\n  containers:\n  - env:\n    - name: N8N_ENCRYPTION_KEY\n      value: ab\n    - name: X\n      value: y\n", []string{"5 N8N_ENCRYPTION_KEY=ab"}, ""},
		"secret":           {"kind: Secret\ndata:\n  N8N_ENCRYPTION_KEY: YWI=\n---\nstringData:\n  encryptionKey: cd\n", []string{"3 N8N_ENCRYPTION_KEY=YWI=", "6 encryptionKey=cd"}, ""},
		"default":          {"N8N_ENCRYPTION_KEY=${KEY:-ab}\n", []string{"1 N8N_ENCRYPTION_KEY=ab"}, ""},
		"reference":        {"a:\n  N8N_ENCRYPTION_KEY: ${KEY}\n", nil, "line 2 refers to the key, which is elsewhere"},
		"template":         {"N8N_ENCRYPTION_KEY={{ vault.key }}\n", nil, "line 1 refers to the key"},
		"file variable":    {"N8N_ENCRYPTION_KEY_FILE=/run/secrets/key\n", nil, "line 1 names a file that has the key"},
		"another variable": {"XN8N_ENCRYPTION_KEY=no\nN8N_ENCRYPTION_KEY=yes\n", []string{"2 N8N_ENCRYPTION_KEY=yes"}, ""},
		"broken YAML":      {"a: [\n  N8N_ENCRYPTION_KEY: ab\n", []string{"2 N8N_ENCRYPTION_KEY=ab"}, ""},
		"empty":            {" \r\n", nil, "is empty"},
		"only a mark":      {"\ufeff", []string{"0 =\ufeff"}, ""},
		"nested":           {strings.Repeat("[", 5000) + "N8N_ENCRYPTION_KEY=a" + strings.Repeat("]", 5000), []string{"1 N8N_ENCRYPTION_KEY=a" + strings.Repeat("]", 5000)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			list, notes := parse("f", []byte(tc.text))
			var got []string
			for _, c := range list {
				got = append(got, strings.Join([]string{digits(c.Line), " ", c.Name, "=", c.Text.Reveal()}, ""))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if joined := strings.Join(notes, "\n"); tc.notes == "" && joined != "" || !strings.Contains(joined, tc.notes) {
				t.Errorf("notes %q", joined)
			}
		})
	}
}

func digits(n int) string { return string(rune('0' + n)) }

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(dir, "bare")
	if err := os.Mkdir(bare, 0o700); err != nil {
		t.Fatal(err)
	}
	file("home/config", `{"encryptionKey":"c2VjcmV0IGJ5dGVzIG9mIG44biE="}`)
	list, _, err := ReadFile(home)
	if err != nil || len(list) != 1 || list[0].String() != `"`+home+`/config" line 1 encryptionKey` || list[0].Generated() {
		t.Errorf("a folder: %v, %v", list, err)
	}
	list, _, err = ReadFile(file("own", `{"encryptionKey":"`+strings.Repeat("Abc1", 8)+`"}`))
	if err != nil || !list[0].Generated() {
		t.Errorf("a key that n8n made: %v, %v", list, err)
	}
	for name, tc := range map[string]struct {
		path string
		kind problem.Kind
		text string
		hint string
	}{
		"missing":   {filepath.Join(dir, "none"), problem.NotFound, "does not exist", "--candidate FILE"},
		"no config": {bare, problem.NotFound, "is a folder without a file named config", "n8n's folder"},
		"empty":     {file("empty", "\n"), problem.Usage, "holds nothing that could be a key", "is empty"},
		"elsewhere": {file("env", "N8N_ENCRYPTION_KEY=$KEY\n"), problem.Usage, "holds nothing that could be a key", "refers to the key"},
		"large":     {file("large", strings.Repeat("x", maxFile+1)), problem.Usage, "cannot be read: it has more than 4194304 bytes", "regular file"},
		"device":    {"/dev/zero", problem.Usage, "cannot be read: it is neither a file nor a folder", "regular file"},
	} {
		_, _, err := ReadFile(tc.path)
		if problem.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.text) || !strings.Contains(problem.HintOf(err), tc.hint) {
			t.Errorf("%s: %v, hint %q", name, err, problem.HintOf(err))
		}
	}
	var lines strings.Builder
	for range maxPerFile + 5 {
		lines.WriteString("#N8N_ENCRYPTION_KEY=k\n")
	}
	list, notes, err := ReadFile(file("many", lines.String()))
	if err != nil || len(list) != maxPerFile || len(notes) != 1 || !strings.Contains(notes[0], "more than 200 candidates") {
		t.Errorf("many: %d, %q, %v", len(list), notes, err)
	}
}

func TestNames(t *testing.T) {
	for want, c := range map[string]Candidate{
		"N8N_ENCRYPTION_KEY":                   FromSettings(n8nhome.Source{Name: n8nhome.FromEnv}, "k"),
		`"/x/config" encryptionKey`:            FromSettings(n8nhome.Source{Name: n8nhome.FromConfig, Where: "/x/config"}, "k"),
		`"/run/key"`:                           FromSettings(n8nhome.Source{Name: n8nhome.FromEnvFile, Where: "/run/key"}, "k"),
		"keyring: n8k1-x of prod":              {Source: FromKeyring, Known: "n8k1-x of prod"},
		"the database: deployment_key row abc": {Source: FromDatabase, Name: "abc"},
	} {
		if got := c.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("services:\n  n8n:\n    environment:\n      - N8N_ENCRYPTION_KEY=ab\n"))
	f.Add([]byte(`{"a":[{"name":"N8N_ENCRYPTION_KEY","value":"k"}]}`))
	f.Add([]byte("Environment=\"N8N_ENCRYPTION_KEY=a b\" X"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := parse("f", b)
		if len(list) > maxPerFile {
			t.Errorf("%d candidates", len(list))
		}
	})
}
