package deploy

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
)

// Each case is a file in which only what stands between « and » is redacted.
func TestRedacts(t *testing.T) {
	for _, tt := range []struct{ file, content string }{
		{"a.yml", "password: «hunter2» # why\nother: x\n"},
		{"a.yml", "password: '«it''s»'\n"},
		{"a.yml", "password: \"«a\\\"b\\u0041»\"\n"},
		{"a.yml", "password: «12345»\n"},
		{"a.yml", "password: true\npasswd: ~\ntoken:\nsecret: ''\n"},
		{"a.yml", "password: |-\n  «two\n   lines»\nother: >\n  folded\n  text\n"},
		{"a.yml", "password: |2\n    «indented»\n\nnext: 1\n"},
		{"a.yml", "password: «plain\n  over lines»\nnext: 1\n"},
		{"a.yml", "password: \"«quoted\n  over lines»\"\nnext: 1\n"},
		{"a.yml", "password: !!str «tagged»\nx: !reset null\n"},
		{"a.yml", "a: &p «hunter2»\npassword: *p\n"},
		{"a.yml", "a: &p hunter2\nhost: *p\n"},
		{"a.yml", "a: &m {x: «deep», name: n}\nsecret: *m\n"},
		{"a.yml", "{password: «flow», list: [PASSWORD=«x», TOKEN]}\n"},
		{"a.yml", "a: [80:80, postgres://u:«p»@h/d, TOKEN=«a:b:c»]\nb: {url: http://u:«p»@h, password: «x:y»}\n"},
		{"a.yml", "a: {\"password\":\"«x»\",b: 1}\n"},
		{"a.yml", "passwords: [«a», «b»]\n"},
		{"a.yml", "a: postgres://u:«p»@h/db\nb: postgres://u@h/db\nc: https://h:8080/x?y=a@b\nd: git@github.com:a/b.git\n"},
		{"a.yml", "a: mongodb://u:«p@/?#w»@h1:1,h2:2/db\n"},
		{"a.yml", "a: http://u:«1»@x,http://v:«2»@y\n"},
		{"a.yml", "a: https://«ghtoken0123456789x»@github.com/a\n"},
		{"a.yml", "proxy: user:«pw»@proxy.example.com:3128\nimage: repo:tag@sha256:abc\n"},
		{"a.yml", "a: postgres://${U}:${P}@h\nb: postgres://${U:-n8n}:${P:-«x»}@h\n"},
		{"a.yml", "password: ${PW}\npasswd: ${PW:?say so}\ntoken: ${A}${B}\n"},
		{"a.yml", "password: ${PW:-«hunter2»}\ntoken: ${PW-${OTHER}}\n"},
		{"a.yml", "password: «${PW}x»\ntoken: «$$ecret»\nsecret: $PW\n"},
		{"a.yml", "password: '{{ .Values.pw }}'\ntoken: '{{ .Values.t | default \"«dflt»\" }}'\n"},
		{"a.yml", "password: op://vault/n8n/pw\ntoken: ref+vault://x/y\nsecret: file:/run/x\n"},
		{"a.yml", "password_file: /run/secrets/x\nssl_key: /certs/tls.key\npublic_key: abc\nsecretName: x\nexistingSecret: y\n"},
		{"a.yml", "max_tokens: 4096\ntoken_ttl: 3600\npassword_min_length: 8\nkeyboard: de\nmonkey: 1\n"},
		{"a.yml", "key: encryption-key\nnested:\n  key: «4f1c9b2e7a6d3058b1e2f4a7c9d0e3b6»\n"},
		{"a.yml", "run: docker run -e DB_PASSWORD=«x1» -e PORT=1 --name x\n"},
		{"a.yml", "run: tool --password «x1» --token=«x2» --token-file /x --secret \"«x3 y»\" --key /a/b.pem\n"},
		{"a.yml", "run: mysqladmin ping -uroot -p«pw» -h db\n"},
		{"a.yml", "run: redis-cli -a «pw» ping\n"},
		{"a.yml", "run: sshpass -p «pw» ssh h\n"},
		{"a.yml", "run: curl -u admin:«pw» https://x\n"},
		{"a.yml", "run: 'curl -H \"Authorization: Bearer «abc»\" -H \"X-API-Key: «k1»\" https://x'\n"},
		{"a.yml", "note: uses basic authentication and a bearer token\n"},
		{"a.yml", "image: registry/token-service:1.2.3\nvolume: ./secrets:/run/secrets:ro\n"},
		{"a.yml", "jwt_like: «eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.sig-nature_1»\n"},
		{"a.yml", "data: «U2FsdGVkX1+abcdefgh0123456789==»\n"},
		{"a.yml", "id: «AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQ»\n"},
		{"a.yml", "hook: https://discord.com/api/webhooks/«1234/abc-DEF»\n"},
		{"a.yml", "a: «-----BEGIN PRIVATE KEY-----\n  abc\n  -----END PRIVATE KEY-----»\nb: '-----BEGIN PUBLIC KEY----- x -----END PUBLIC KEY-----'\n"},
		{"a.yml", "env:\n  - name: A_TOKEN\n    value: «x»\n  - name: PLAIN\n    value: y\n  - {key: SECRET_X, value: «z»}\n"},
		{"a.yml", "# token: «x»\n# see the password file\na: 1 # PASSWORD=«two words»\n"},
		{"a.yml", "password: «Hunter2!Hunter2»\nother: prefix «Hunter2!Hunter2» suffix # «Hunter2!Hunter2»\nHunter2!Hunter2: 1\n"},
		{"a.yml", "password: «postgres»\nimage: postgres\n"},
		{"a.yml", "? password\n: «x»\n"},
		{"a.yml", "\ufeffpassword: «x»\n"},
		{"a.yml", "%YAML 1.2\n---\npassword: «x»\n...\n---\ntoken: «y»\n"},
		{"a.yml", "- password: «x»\n- - token: «y»\n"},
		{"a.yml", "# nothing\n"},
		{"a.yml", ""},
		{"a.json", `{"password":"«x»","n":1,"a":[{"name":"TOKEN","value":"«y»"}],"k":{"secret":["«z»",null,true]}}`},
		{"a.json", "{\"password\":\"«\\ud83d\\ude00\\n\\\"»\",\"u\":\"http://a:«\\u0062»@c\"}"},
		{"a.json", "[]"},
		{"a.json", "\"text\""},
		{".env", "A_TOKEN=«x y»  # note\nB=1\n\nexport C_SECRET='«x»'\nD_PASSWORD: «x»\nE_KEY=\"«a\nb»\"\n"},
		{".env", "PASSWORD=\"«a\\\"b»\"\nQUOTED='it'\\''s'\nSECRET=«'a'b»\n"},
		{"prod.env", "TOKEN=`«x»`\nTOKEN_FILE=/x\nTOKEN2=\n"},
		{"dot-env", "TOKEN=«x»\r\nB=2\r\n"},
		{"2-dot-env.local", "TOKEN=«x»"},
		{"settings", "TOKEN=«x»\nB=1\n"},
		{"compose", "services:\n  a:\n    environment:\n      TOKEN: «x»\n"},
		{"config", "{\"encryptionKey\": \"«x»\"}\n"},
		{"x.service", "[Service]\nEnvironment=A=1 \"B_TOKEN=«x y»\" C_TOKEN=«a\\x20b»\nEnvironment=D_TOKEN=«\"q\"r»\n"},
		{"x.service", "# note\n\n[Service]\nEnvironment=\nSetCredential=a:«b»\nLoadCredential=token:/x\nPrivateTmp=disconnected\n"},
		{"n8n.container", "[Container]\nSecret=n8n_key,type=env\nEnvironment=PW_TOKEN=«x»\n"},
		{"app.ini", "[db]\nhost = x\npassword = \"«x»\"\nurl = postgres://u:«p»@h/d\n"},
		{"n8n.conf", "N8N_TOKEN=«x»\n"},
		{"traefik.toml", "[api]\ntoken = '«x»'\n[[b]]\nn = 1\n"},
	} {
		t.Run(tt.content, func(t *testing.T) {
			content := strings.NewReplacer("«", "", "»", "").Replace(tt.content)
			res, err := Redact(tt.file, []byte(content), config)
			if err != nil {
				t.Fatal(err)
			}
			var want strings.Builder
			for rest := tt.content; ; {
				before, after, found := strings.Cut(rest, "«")
				want.WriteString(before)
				if !found {
					break
				}
				_, rest, _ = strings.Cut(after, "»")
				want.WriteString("REDACTED")
			}
			got := redactedPart.ReplaceAllString(string(res.Content), "REDACTED")
			if strings.HasSuffix(tt.file, ".json") {
				got = strings.ReplaceAll(got, `"12`, `12`)
			}
			if d := cmp.Diff(want.String(), got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestRowsAndDigests(t *testing.T) {
	type call struct{ Row, Plain string }
	var calls []call
	cfg := Config{Needle: find(""), Digest: func(row string, b []byte) string {
		calls = append(calls, call{row, string(b)})
		return strings.Repeat("ab", 32)
	}}
	res, err := Redact("docker-compose.yml", []byte(`services:
  n8n:
    environment:
      DB_POSTGRESDB_PASSWORD: "a\"b"
    command: ["--token", "t"]
  w:
    environment: ["A_SECRET=it's"]
`), cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := []call{
		{"services.n8n.environment.DB_POSTGRESDB_PASSWORD", `a"b`},
		{"services.n8n.command.token", "t"},
		{"services.w.environment.A_SECRET", "it's"},
	}
	if d := cmp.Diff(want, calls); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]Redaction{{want[0].Row, 4, ByName}, {want[1].Row, 5, ByName}, {want[2].Row, 7, ByName}}, res.Redacted); d != "" {
		t.Error(d)
	}
	if !strings.Contains(string(res.Content), `"REDACTED:abababababababab"`) {
		t.Errorf("%s", res.Content)
	}
}

func TestReports(t *testing.T) {
	res, err := Redact("a.yml", []byte("salted: 1\nvalue: 9f3c1b7e5a2d4860c1e2b4f7a9d0e3b6\nimage: x@sha256:9f3c1b7e5a2d4860c1e2b4f7a9d0e3b69f3c1b7e5a2d4860c1e2b4f7a9d0e3b6\n"+
		"id: 0b3f1c1e-98aa-4c3f-8d6a-0a7c55e1b2c3\npath: /var/lib/docker/volumes/n8n\nword: internationalization-of-everything\n"), config)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Redaction{{"value", 2, Random}}, res.Reported); d != "" || len(res.Redacted) > 0 {
		t.Errorf("%s\n%v", d, res.Redacted)
	}
}

const instanceKey = "Zx81-instance-key/0123456789"

func TestInstanceKey(t *testing.T) {
	for _, tt := range []struct{ file, content string }{
		{"a.yml", "N8N_HOST: x\nharmless: KEY # KEY\nlist: [a, 'x KEY y']\nKEY: 1\n"},
		{"a.yml", "a: &KEY 1\nb: *KEY\n"},
		{"a.yml", "a: \"Zx81-instance-key\\/0123456789\"\nb: \"Zx81-instance\\x2dkey/0123456789\"\n"},
		{"a.json", `{"a":"KEY","KEY":2,"b":"Zx81-instance-key\/0123456789"}`},
		{".env", "A=KEY\n#KEY\nB=\"KEY\"\nC=xKEYx\n"},
		{"a.service", "[Service]\nEnvironment=A=KEY \"B=Zx81-instance-key\\x2f0123456789\"\nExecStart=/x KEY\n"},
		{"broken.yml", "a: [KEY\n\tKEY: }\n"},
		{"notes.txt", "write down: KEY\n"},
	} {
		for _, keep := range []bool{false, true} {
			content := strings.ReplaceAll(tt.content, "KEY", instanceKey)
			res, err := Redact(tt.file, []byte(content), Config{Digest: digest, Needle: find(instanceKey), KeepSecrets: keep})
			if err != nil {
				if !keep && (tt.file == "broken.yml" || tt.file == "notes.txt") {
					continue
				}
				t.Errorf("%q keep %v: %v", tt.content, keep, err)
				continue
			}
			if strings.Contains(string(res.Content), instanceKey) || strings.Contains(string(res.Content), "0123456789") {
				t.Errorf("%q keep %v: the key is in\n%s", tt.content, keep, res.Content)
			}
			for _, r := range res.Redacted {
				if r.Reason != Needle && keep {
					t.Errorf("%q: %v", tt.content, r)
				}
			}
		}
	}
}

// A key that is too short to be looked for anywhere is found as a whole value.
func TestShortInstanceKey(t *testing.T) {
	whole := func(b []byte) [][2]int {
		if string(b) == "short" {
			return [][2]int{{0, 5}}
		}
		return nil
	}
	for _, tt := range []struct{ file, content, want string }{
		{"a.yml", "a: short\nb: shorter\nc: [A=short, x]\nd: '{\"k\":\"short\"}'\ne: http://u:short@h\nshort: 1\n",
			"a: R\nb: shorter\nc: [A=R, x]\nd: '{\"k\":\"R\"}'\ne: http://u:short@h\nR: 1\n"},
		{".env", "A=short\nB='short'\nC=shorts\n", "A=R\nB='R'\nC=shorts\n"},
		{"a.json", `{"a":"short","b":["shorts"]}`, `{"a":"R","b":["shorts"]}`},
		{"broken.yml", "a: [short\nb: short}\n: short\n", "a: [short\nb: short}\n: R\n"},
	} {
		res, err := Redact(tt.file, []byte(tt.content), Config{Digest: digest, Needle: whole, KeepSecrets: true})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.want, redactedPart.ReplaceAllString(string(res.Content), "R")); d != "" {
			t.Errorf("%s: %s", tt.file, d)
		}
	}
}

func TestKeepSecrets(t *testing.T) {
	for name, content := range files(t) {
		res, err := Redact(name, content, Config{Digest: digest, Needle: find(instanceKey), KeepSecrets: true})
		if err != nil || string(res.Content) != string(content) || len(res.Redacted)+len(res.Reported) > 0 {
			t.Errorf("%s: %v %v", name, err, res.Redacted)
		}
	}
}

func TestRefusals(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	for _, tt := range []struct {
		name, content, want string
	}{
		{"a.yml", "a: b\n\tc: [d\n", `deployment file "a.yml" cannot be redacted: line 2 is not valid YAML`},
		{"a.yml", "just text\n", `deployment file "a.yml" cannot be redacted: it is plain text and no YAML mapping or list`},
		{"a.yml", "a: " + deep, `deployment file "a.yml" cannot be redacted: line 1 is nested too deep`},
		{"a.yml", strings.Repeat("- ", 300), `deployment file "a.yml" cannot be redacted: line 1 is nested too deep`},
		{"a.yml", "a: \xff\n", `deployment file "a.yml" cannot be redacted: it is not UTF-8 text`},
		{"a.json", "{\n\"a\": hunter2}", `deployment file "a.json" cannot be redacted: line 2 is not valid JSON`},
		{".env", "A=1\nnot a setting\n", `deployment file ".env" cannot be redacted: line 2 is no NAME=VALUE`},
		{".env", "A=1\nB=\"open\n", `deployment file ".env" cannot be redacted: line 2: its quote is not closed`},
		{"x.service", "[Service]\nEnvironment=\"A=1\n", `deployment file "x.service" cannot be redacted: line 2: its quote is not closed`},
		{"x.service", "[Service]\nwhat\n", `deployment file "x.service" cannot be redacted: line 2 is no Key=Value`},
		{"Dockerfile", "FROM x\nRUN y\n", `deployment file "Dockerfile" cannot be redacted: it is no compose, env, Kubernetes, systemd or JSON file`},
		{"a.yml", "a: \x00", `deployment file "a.yml" is binary`},
		{"a.yml", strings.Repeat("#", MaxSize+1), `deployment file "a.yml" has 4194305 bytes, over the limit of 4194304`},
	} {
		res, err := Redact(tt.name, []byte(tt.content), config)
		if err == nil || err.Error() != tt.want || problem.KindOf(err) != problem.Usage || problem.HintOf(err) == "" || len(res.Content) > 0 {
			t.Errorf("%.40q: %v", tt.content, err)
		}
		if strings.Contains(tt.want, "cannot be redacted") && problem.HintOf(err) != "leave it out, or keep it with all its secrets by --redact=false" {
			t.Errorf("hint %q", problem.HintOf(err))
		}
	}
}

func TestMisuse(t *testing.T) {
	if _, err := Redact("a.yml", nil, Config{Digest: digest}); err == nil || err.Error() != `redacting "a.yml": no digest or no needle` {
		t.Error(err)
	}
	short := func(string, []byte) string { return "abc" }
	if _, err := Redact("a.yml", []byte("password: x"), Config{Digest: short, Needle: find("")}); err == nil ||
		err.Error() != `redacting "a.yml": the digest is not made of hexadecimal digits` {
		t.Error(err)
	}
	stubborn := func(b []byte) [][2]int { return [][2]int{{0, min(1, len(b))}} }
	if _, err := Redact("a.yml", []byte("a: x"), Config{Digest: digest, Needle: stubborn}); problem.KindOf(err) != problem.Damaged ||
		err.Error() != `the instance key is still in deployment file "a.yml" after its redaction` {
		t.Error(err)
	}
}

// The structure, as parsers that know nothing of this package see it, is the
// same before and after.
func TestStructure(t *testing.T) {
	seen := 0
	for name, content := range files(t) {
		var decode func([]byte) any
		switch {
		case strings.HasSuffix(name, ".json"):
			decode = func(b []byte) any { return decodeJSON(t, b) }
		case strings.HasSuffix(name, "ml"):
			decode = func(b []byte) any { return decodeYAML(t, b) }
		default:
			continue
		}
		seen++
		res, err := Redact(name, content, config)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(outline(decode(content)), outline(decode(res.Content))); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	if seen < 5 {
		t.Errorf("only %d files", seen)
	}
}

func decodeJSON(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func decodeYAML(t *testing.T, b []byte) any {
	t.Helper()
	var all []any
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	for {
		var v any
		if err := d.Decode(&v); err != nil {
			break
		}
		all = append(all, v)
	}
	if len(all) == 0 {
		t.Fatal("no document")
	}
	return all
}

// outline is the paths of all values, without the values.
func outline(v any) []string {
	var out []string
	var down func(path string, v any)
	down = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, kid := range v {
				down(path+"."+k, kid)
			}
		case []any:
			for i, kid := range v {
				down(fmt.Sprintf("%s[%d]", path, i), kid)
			}
		default:
			out = append(out, path)
		}
	}
	down("", v)
	sort.Strings(out)
	return out
}

func TestNames(t *testing.T) {
	for name, want := range map[string]verdict{
		"PASSWORD": strong, "DB_POSTGRESDB_PASSWORD": strong, "dbPassword": strong, "passwd": strong, "PGPASSWORD": strong, "SMTP_PASS": strong, "smtpPass": strong,
		"N8N_ENCRYPTION_KEY": strong, "encryptionKey": strong, "encryption-key": strong, "API_KEY": strong, "apikey": strong, "APIKey": strong, "X-API-Key": strong,
		"clientSecret": strong, "SECRET": strong, "token": strong, "accessToken": strong, "CREDENTIALS_OVERWRITE_DATA": strong, "SENTRY_DSN": strong,
		"AZURE_CONNECTION_STRING": strong, "N8N_LICENSE_ACTIVATION_KEY": strong, "PRIVATE_KEY": strong, "Authorization": strong, "VAULT_SECRET_ID": weak,
		"N8N_LICENSE_CERT": weak, "PRIVATE": weak, "N8N_BASIC_AUTH_HASH": weak, "AWS_ACCESS_KEY_ID": weak, "SOME_KEY": weak, "key": bareKey,
		"N8N_ENCRYPTION_KEY_FILE": exempt, "PASSWORD_MIN_LENGTH": exempt, "TOKEN_TTL": exempt, "secretKeyRef": exempt, "secretName": exempt, "existingSecret": exempt,
		"AUTH_URL": exempt, "imagePullSecrets": exempt, "POSTGRES_HOST_AUTH_METHOD": exempt, "KEY_ID": exempt, "license": exempt, "N8N_LICENSE_SERVER_URL": exempt,
		"PUBLIC_KEY": harmless, "keyboard": harmless, "MONKEY": harmless, "KEYCLOAK_HOST": harmless, "compass": harmless, "author": harmless, "N8N_HOST": harmless,
		"tokenizer": harmless, "": harmless, "--": harmless,
	} {
		if got := judge(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
}
