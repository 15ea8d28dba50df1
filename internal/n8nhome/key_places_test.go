package n8nhome

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
)

// spot is a place in one line, with DIR for the folder of the test.
func spot(p KeyPlace, dir string) string {
	s := fmt.Sprintf("%s %s %s %s", strings.ReplaceAll(string(p.Kind), " ", "-"), p.Where(), p.Name, p.Holds)
	if p.In != "" {
		s += " in=" + p.In
	}
	if p.Follows != "" {
		s += " follows=" + p.Follows
	}
	if p.Ignored != "" {
		s += " ignored=" + p.Ignored
	}
	if p.CanChange() {
		s += " can"
	}
	if p.ByHand() {
		s += " hand"
	}
	if p.Recreate {
		s += " recreate"
	}
	return strings.ReplaceAll(s, dir, "DIR")
}

// OLD and NEW in the files of a case are the keys.
func withKeys(s string) string {
	return strings.NewReplacer("OLD", wasKey, "NEW", isKey).Replace(s)
}

func TestFindKeyPlaces(t *testing.T) {
	for _, tt := range []struct {
		name     string
		files    map[string]string // by path; DIR is the folder in contents
		env      []string
		version  string
		dir      bool // n8n's folder is DIR/n8n
		compose  []string
		envFiles []string
		units    []string
		want     []string
		warnings []string
	}{
		{name: "nothing", dir: true},
		{name: "config", dir: true, files: map[string]string{"n8n/config": `{"a":1,` + "\n" + `"encryptionKey":"OLD"}`},
			want: []string{"config DIR/n8n/config:2 encryptionKey same can"}},
		{name: "config with another key", dir: true, files: map[string]string{"n8n/config": `{"encryptionKey":"third-key-0123456"}`},
			want: []string{"config DIR/n8n/config:1 encryptionKey other hand"}},
		{name: "config with the new key", dir: true, files: map[string]string{"n8n/config": `{"encryptionKey":"NEW"}`},
			want: []string{"config DIR/n8n/config:1 encryptionKey new can"}},
		{name: "config that cannot be edited", dir: true, files: map[string]string{"n8n/config": `{"encryptionKey":"OLD","encryptionKey":"OLD"}`},
			want: []string{"config DIR/n8n/config encryptionKey unknown hand"}},
		{name: "variable and config", dir: true, files: map[string]string{"n8n/config": `{"encryptionKey":"OLD"}`}, env: []string{FromEnv, " OLD\n"},
			want: []string{"config DIR/n8n/config:1 encryptionKey same can", "environment  N8N_ENCRYPTION_KEY same hand"}},
		{name: "variable that holds the new key", env: []string{FromEnv, "NEW"}, want: []string{"environment  N8N_ENCRYPTION_KEY new"}},
		{name: "file of a variable", files: map[string]string{"key": "OLD\n"}, env: []string{FromEnvFile, "DIR/key"},
			want: []string{"key-file DIR/key N8N_ENCRYPTION_KEY_FILE same in=N8N_ENCRYPTION_KEY_FILE in n8n's environment can"}},
		{name: "file of a variable, ignored", files: map[string]string{"key": "OLD\n"}, env: []string{FromEnvFile, "DIR/key", FromEnv, ""}, version: "2.41.1",
			want: []string{"key-file DIR/key N8N_ENCRYPTION_KEY_FILE same in=N8N_ENCRYPTION_KEY_FILE in n8n's environment ignored=n8n ignores it because N8N_ENCRYPTION_KEY exists can"}},
		{name: "file of a variable, before 1.116", files: map[string]string{"key": "third-key-01234567"}, env: []string{FromEnvFile, "DIR/key"}, version: "1.115.3",
			want: []string{"key-file DIR/key N8N_ENCRYPTION_KEY_FILE other in=N8N_ENCRYPTION_KEY_FILE in n8n's environment ignored=n8n 1.115.3 ignores N8N_ENCRYPTION_KEY_FILE"}},
		{name: "file of a variable, missing", env: []string{FromEnvFile, "DIR/none"},
			want: []string{"key-file DIR/none N8N_ENCRYPTION_KEY_FILE unknown in=N8N_ENCRYPTION_KEY_FILE in n8n's environment hand"}},
		{name: "file of a variable, missing and ignored", env: []string{FromEnvFile, "DIR/none"}, version: "1.0.0",
			want: []string{"key-file DIR/none N8N_ENCRYPTION_KEY_FILE unknown in=N8N_ENCRYPTION_KEY_FILE in n8n's environment ignored=n8n 1.0.0 ignores N8N_ENCRYPTION_KEY_FILE"}},

		{name: "env file", envFiles: []string{"a.env"}, env: []string{FromEnv, "OLD"}, files: map[string]string{"a.env": "# N8N_ENCRYPTION_KEY=OLD\nexport N8N_ENCRYPTION_KEY=\"OLD\" # the key\nX=y\n"},
			want: []string{
				"env-file DIR/a.env:2 N8N_ENCRYPTION_KEY same hand",
				`environment  N8N_ENCRYPTION_KEY same follows=N8N_ENCRYPTION_KEY in line 2 of env-file "DIR/a.env"`,
				"env-file DIR/a.env:1 the key same ignored=it is a comment"}},
		{name: "env files, forms", envFiles: []string{"1", "2", "3", "4", "5", "6", "7", "8"}, files: map[string]string{
			"1": "N8N_ENCRYPTION_KEY=OLD # comment\r\n", "2": "N8N_ENCRYPTION_KEY = 'OLD'", "3": "N8N_ENCRYPTION_KEY=\nN8N_ENCRYPTION_KEY=NEW", "4": "\ufeffN8N_ENCRYPTION_KEY=OLD",
			"5": "N8N_ENCRYPTION_KEY=\"other\nlines\"\nN8N_ENCRYPTION_KEY_FILE=DIR/key", "6": "N8N_ENCRYPTION_KEY=\"unclosed", "7": "N8N_ENCRYPTION_KEY_FILE='DIR/key'\n", "8": "NOT_N8N_ENCRYPTION_KEY=x\nN8N_ENCRYPTION_KEY_2=x\n",
			"key": "OLD"},
			want: []string{"env-file DIR/1:1 N8N_ENCRYPTION_KEY same hand", "env-file DIR/2:1 N8N_ENCRYPTION_KEY same hand", "env-file DIR/3:1 N8N_ENCRYPTION_KEY nothing", "env-file DIR/3:2 N8N_ENCRYPTION_KEY new",
				"env-file DIR/4:1 N8N_ENCRYPTION_KEY same hand", "env-file DIR/5:1 N8N_ENCRYPTION_KEY other hand",
				`key-file DIR/key N8N_ENCRYPTION_KEY_FILE same in=line 3 of "DIR/5" ignored=n8n ignores it because N8N_ENCRYPTION_KEY exists can`,
				"env-file DIR/6:1 N8N_ENCRYPTION_KEY other hand"}},

		{name: "unit", units: []string{"n8n.service"}, files: map[string]string{"n8n.service": "[Unit]\nDescription=x\nEnvironment=N8N_ENCRYPTION_KEY=no\n[Service]\n# Environment=N8N_ENCRYPTION_KEY=OLD\nEnvironment=A=b \"N8N_ENCRYPTION_KEY=OLD\" 'C=d e'\nExecStart=/usr/bin/n8n\n"},
			want: []string{"systemd-unit DIR/n8n.service:6 N8N_ENCRYPTION_KEY same in=Environment= hand", "systemd-unit DIR/n8n.service:5 the key same ignored=it is a comment"}},
		{name: "unit, lines that go on, drop-ins, escapes", units: []string{"n8n.service"}, files: map[string]string{
			"n8n.service":            "[Service]\nEnvironment=\\\n  A=b \\\n# in between\n  N8N_ENCRYPTION_KEY=o\\x6cd-key-0123456789-abc\\144ef\n",
			"n8n.service.d/a.conf":   "[Service]\nEnvironment=N8N_ENCRYPTION_KEY=NEW\n",
			"n8n.service.d/README":   "Environment=N8N_ENCRYPTION_KEY=OLD",
			"other.service.d/a.conf": "[Service]\nEnvironment=N8N_ENCRYPTION_KEY=OLD"},
			want: []string{"systemd-unit DIR/n8n.service:2 N8N_ENCRYPTION_KEY same in=Environment= hand", "systemd-unit DIR/n8n.service.d/a.conf:2 N8N_ENCRYPTION_KEY new in=Environment="}},
		{name: "unit with files", units: []string{"n8n.service"}, files: map[string]string{
			"n8n.service": "[Service]\nEnvironmentFile=-DIR/none\nEnvironmentFile=DIR/gone\nEnvironmentFile=DIR/e*.env\nEnvironmentFile=%h/x\nEnvironmentFile=\n",
			"e1.env":      "N8N_ENCRYPTION_KEY=OLD", "e2.env": "X=OLD"},
			want:     []string{"env-file DIR/e1.env:1 N8N_ENCRYPTION_KEY same hand", "env-file DIR/e2.env:1 the key same ignored=nothing is known that takes it from there"},
			warnings: []string{`line 3 of "DIR/n8n.service" names "DIR/gone", which does not exist`, `line 5 of "DIR/n8n.service": EnvironmentFile=%h/x has a specifier of systemd in it and was not followed`}},
		{name: "files that cannot be read", units: []string{"n8n.service"}, compose: []string{"compose.yaml"}, files: map[string]string{
			"n8n.service": "[Service]\nEnvironmentFile=DIR/folder\n", "compose.yaml": "services: {n8n: {env_file: other}}", "folder/x": "", "other/x": ""},
			want: []string{"env-file DIR/folder N8N_ENCRYPTION_KEY unknown hand", "env-file DIR/other N8N_ENCRYPTION_KEY unknown hand recreate"}},
		{name: "unit with credentials", units: []string{"n8n.service"}, files: map[string]string{
			"n8n.service": "[Service]\nLoadCredential=key:DIR/key\nEnvironment=N8N_ENCRYPTION_KEY_FILE=%d/key\nSetCredential=x:OLD\nSetCredential=y:unknown\n", "key": "OLD\n"},
			want: []string{`key-file DIR/key N8N_ENCRYPTION_KEY_FILE same in=line 3 of "DIR/n8n.service" can`, "systemd-unit DIR/n8n.service:4 credential x same in=SetCredential= hand"}},
		{name: "unit with encrypted credential", units: []string{"n8n.service"}, files: map[string]string{
			"n8n.service": "[Service]\nLoadCredentialEncrypted=key:DIR/key\nEnvironment=N8N_ENCRYPTION_KEY_FILE=%d/key\n"},
			want: []string{"systemd-unit DIR/n8n.service:3 N8N_ENCRYPTION_KEY_FILE unknown in=Environment= hand"}},
		{name: "unit that passes it on, and runs it", units: []string{"n8n.service"}, files: map[string]string{
			"n8n.service": "[Service]\nPassEnvironment=A N8N_ENCRYPTION_KEY\nExecStart=/usr/bin/env N8N_ENCRYPTION_KEY=OLD n8n start\nEnvironment=N8N_ENCRYPTION_KEY_FILE=%t/x\nEnvironment=alone\n"},
			want:     []string{"systemd-unit DIR/n8n.service:2 N8N_ENCRYPTION_KEY unknown in=PassEnvironment= hand", "systemd-unit DIR/n8n.service:3 the key same hand"},
			warnings: []string{`line 4 of "DIR/n8n.service": N8N_ENCRYPTION_KEY_FILE has a specifier of systemd in it and was not followed`}},

		{name: "compose", compose: []string{"compose.yaml"}, files: map[string]string{"compose.yaml": `
x-shared: &shared
  image: n8nio/n8n
  environment: &env
    - DB_TYPE=postgresdb
    - N8N_ENCRYPTION_KEY=OLD
services:
  n8n:
    <<: *shared
  worker:
    <<: *shared
    command: worker
  hook:
    environment:
      N8N_ENCRYPTION_KEY: "third-key-0123456"
`}, want: []string{"docker-compose-file DIR/compose.yaml:6 N8N_ENCRYPTION_KEY same in=x-shared.environment hand recreate",
			"docker-compose-file DIR/compose.yaml:15 N8N_ENCRYPTION_KEY other in=services.hook.environment hand recreate"}},
		{name: "compose with variables", compose: []string{"compose.yaml"}, env: []string{"SHELL_KEY", "OLD"}, files: map[string]string{"compose.yaml": `services:
  a: {environment: {N8N_ENCRYPTION_KEY: "${N8N_ENCRYPTION_KEY:?must be set}"}}
  b: {environment: [N8N_ENCRYPTION_KEY=$OTHER_NAME]}
  c: {environment: [N8N_ENCRYPTION_KEY]}
  d: {environment: {N8N_ENCRYPTION_KEY: }}
  e: {environment: {N8N_ENCRYPTION_KEY: "${NOWHERE:-OLD}"}}
  f: {environment: {N8N_ENCRYPTION_KEY: "${NOWHERE}"}}
  g: {environment: {N8N_ENCRYPTION_KEY: "${SHELL_KEY}"}}
  h: {environment: {N8N_ENCRYPTION_KEY: "a${OTHER_NAME}b"}}
  i: {environment: {N8N_ENCRYPTION_KEY: "pa$$word-0123456789"}}
`, ".env": "N8N_ENCRYPTION_KEY=OLD\nOTHER_NAME='OLD'\nUNUSED=OLD\n"},
			want: []string{
				`env-file DIR/.env:1 N8N_ENCRYPTION_KEY same hand recreate`,
				`docker-compose-file DIR/compose.yaml:2 N8N_ENCRYPTION_KEY same in=services.a.environment follows=N8N_ENCRYPTION_KEY in line 1 of "DIR/.env" recreate`,
				`env-file DIR/.env:2 OTHER_NAME same hand recreate`,
				`docker-compose-file DIR/compose.yaml:3 N8N_ENCRYPTION_KEY same in=services.b.environment follows=OTHER_NAME in line 2 of "DIR/.env" recreate`,
				`docker-compose-file DIR/compose.yaml:4 N8N_ENCRYPTION_KEY same in=services.c.environment follows=N8N_ENCRYPTION_KEY in line 1 of "DIR/.env" recreate`,
				`docker-compose-file DIR/compose.yaml:5 N8N_ENCRYPTION_KEY same in=services.d.environment follows=N8N_ENCRYPTION_KEY in line 1 of "DIR/.env" recreate`,
				`docker-compose-file DIR/compose.yaml:6 N8N_ENCRYPTION_KEY same in=services.e.environment hand recreate`,
				`docker-compose-file DIR/compose.yaml:7 N8N_ENCRYPTION_KEY unknown in=services.f.environment hand recreate`,
				`docker-compose-file DIR/compose.yaml:8 N8N_ENCRYPTION_KEY same in=services.g.environment hand recreate`,
				`docker-compose-file DIR/compose.yaml:9 N8N_ENCRYPTION_KEY unknown in=services.h.environment hand recreate`,
				`docker-compose-file DIR/compose.yaml:10 N8N_ENCRYPTION_KEY other in=services.i.environment hand recreate`,
				`env-file DIR/.env:3 the key same ignored=nothing is known that takes it from there`}},
		{name: "compose with env files", compose: []string{"d/compose.yaml"}, files: map[string]string{"d/compose.yaml": `services:
  a: {env_file: n8n.env}
  b: {env_file: [../more.env, "none.env"]}
  c: {env_file: [{path: ./n8n.env}, {path: maybe.env, required: false}]}
`, "d/n8n.env": "A=b\nN8N_ENCRYPTION_KEY=OLD\n", "more.env": "N8N_ENCRYPTION_KEY\n"},
			want:     []string{"env-file DIR/d/n8n.env:2 N8N_ENCRYPTION_KEY same hand recreate", "env-file DIR/more.env:1 N8N_ENCRYPTION_KEY unknown hand recreate"},
			warnings: []string{`line 3 of "DIR/d/compose.yaml": env file "DIR/d/none.env" does not exist`}},
		{name: "compose with secrets", compose: []string{"compose.yaml"}, files: map[string]string{"compose.yaml": `services:
  a:
    environment: {N8N_ENCRYPTION_KEY_FILE: /run/secrets/n8n_key}
    secrets: [n8n_key, {source: db, target: db_password}]
  b:
    environment: ["N8N_ENCRYPTION_KEY_FILE=/run/secrets/other"]
    secrets: [{source: n8n_key2, target: other}]
  c:
    environment: ["N8N_ENCRYPTION_KEY_FILE=/etc/n8n/keys/k"]
    volumes: [data:/home/node/.n8n, "./keys:/etc/n8n/keys:ro", {type: bind, source: /nowhere, target: /etc/n8n}, {type: volume, source: v, target: /x}, alone]
  d:
    environment: ["N8N_ENCRYPTION_KEY_FILE=/run/secrets/ext"]
    secrets: [ext]
  e:
    environment: ["N8N_ENCRYPTION_KEY_FILE=/run/secrets/from_env"]
    secrets: [from_env]
  f:
    environment: ["N8N_ENCRYPTION_KEY_FILE=/elsewhere"]
  g:
    environment: ["N8N_ENCRYPTION_KEY_FILE=/conf"]
    configs: [{source: conf}]
  h:
    environment: ["N8N_ENCRYPTION_KEY_FILE=${KEY_FILE:-/run/secrets/n8n_key}"]
configs:
  conf: {file: keys/conf}
secrets:
  n8n_key: {file: ./keys/one}
  n8n_key2: {file: keys/two}
  ext: {external: true}
  from_env: {environment: SECRET_VARIABLE}
`, "keys/one": "OLD\n", "keys/two": "NEW", "keys/k": "\"OLD\"", "keys/conf": "", ".env": "SECRET_VARIABLE=OLD"},
			want: []string{
				`key-file DIR/keys/one N8N_ENCRYPTION_KEY_FILE same in=line 3 of "DIR/compose.yaml" can`,
				`key-file DIR/keys/two N8N_ENCRYPTION_KEY_FILE new in=line 6 of "DIR/compose.yaml" can`,
				`key-file DIR/keys/k N8N_ENCRYPTION_KEY_FILE same in=line 9 of "DIR/compose.yaml" can`,
				`docker-compose-file DIR/compose.yaml:12 N8N_ENCRYPTION_KEY_FILE unknown in=services.d.environment hand`,
				`env-file DIR/.env:1 SECRET_VARIABLE same hand recreate`,
				`docker-compose-file DIR/compose.yaml:30 N8N_ENCRYPTION_KEY_FILE same in=secrets.from_env follows=SECRET_VARIABLE in line 1 of "DIR/.env"`,
				`docker-compose-file DIR/compose.yaml:18 N8N_ENCRYPTION_KEY_FILE unknown in=services.f.environment hand`,
				`key-file DIR/keys/conf N8N_ENCRYPTION_KEY_FILE unknown in=line 20 of "DIR/compose.yaml" hand`}},
		{name: "compose with includes", compose: []string{"compose.yaml", "compose.yaml"}, files: map[string]string{
			"compose.yaml": "include:\n  - sub/a.yaml\n  - path: [sub/b.yaml, compose.yaml]\nservices:\n  x: {extends: {file: base.yml, service: n8n}}\n",
			"sub/a.yaml":   "services: {n8n: {environment: {N8N_ENCRYPTION_KEY: OLD}}}", "sub/b.yaml": "services: {}",
			"base.yml": "services: {n8n: {command: [sh, -c, \"N8N_ENCRYPTION_KEY=OLD n8n\"]}}"},
			want: []string{"docker-compose-file DIR/sub/a.yaml:1 N8N_ENCRYPTION_KEY same in=services.n8n.environment hand recreate",
				"docker-compose-file DIR/base.yml:1 the key same hand recreate"}},
		{name: "compose with both", compose: []string{"compose.yaml"}, files: map[string]string{"compose.yaml": `services:
  n8n:
    environment: {N8N_ENCRYPTION_KEY: "OLD", N8N_ENCRYPTION_KEY_FILE: /run/secrets/gone}
`}, want: []string{"docker-compose-file DIR/compose.yaml:3 N8N_ENCRYPTION_KEY same in=services.n8n.environment hand recreate",
			"docker-compose-file DIR/compose.yaml:3 N8N_ENCRYPTION_KEY_FILE unknown in=services.n8n.environment ignored=n8n ignores it because N8N_ENCRYPTION_KEY exists"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			at := func(names []string) []string {
				var list []string
				for _, n := range names {
					list = append(list, filepath.Join(dir, n))
				}
				return list
			}
			for name, text := range tt.files {
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(strings.ReplaceAll(withKeys(text), "DIR", dir)), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			var env []string
			for _, v := range tt.env {
				env = append(env, strings.ReplaceAll(withKeys(v), "DIR", dir))
			}
			cfg := KeyPlacesConfig{Key: instanceKey(t, wasKey), New: instanceKey(t, isKey), NewKeyFile: "/root/new.key", Env: envOf(env...), N8NVersion: tt.version,
				ComposeFiles: at(tt.compose), EnvFiles: at(tt.envFiles), UnitFiles: at(tt.units)}
			if tt.dir {
				cfg.Dir = filepath.Join(dir, "n8n")
			}
			got, err := FindKeyPlaces(cfg)
			if err != nil {
				t.Fatal(err)
			}
			var list []string
			for _, p := range got.Places {
				list = append(list, spot(p, dir))
				if p.ByHand() && !strings.Contains(p.Change, "/root/new.key") {
					t.Errorf("%s: where is the new key? %q", p, p.Change)
				}
				if shown := fmt.Sprintf("%v %+v %s", p, p, p); strings.Contains(shown, wasKey) || strings.Contains(shown, isKey) {
					t.Errorf("a key is shown: %s", shown)
				}
				if p.ByHand() && (p.CanChange() || p.Follows != "" || p.Ignored != "") {
					t.Errorf("%s: by whom?", p)
				}
				if !p.ByHand() && !p.CanChange() && p.Follows == "" && p.Ignored == "" && p.Holds != HoldsReplace && p.Holds != HoldsNothing {
					t.Errorf("%s: nobody changes it", p)
				}
			}
			if diff := cmp.Diff(tt.want, list); diff != "" {
				t.Error(diff)
			}
			var warnings []string
			for _, w := range got.Warnings {
				warnings = append(warnings, strings.ReplaceAll(w, dir, "DIR"))
			}
			if diff := cmp.Diff(tt.warnings, warnings); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestKeyPlacesForARotation(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"config": `{"encryptionKey":"OLD"}`, "key": "OLD", "compose.yaml": "services: {n8n: {environment: {N8N_ENCRYPTION_KEY: OLD}}}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(withKeys(text)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg := KeyPlacesConfig{Key: instanceKey(t, wasKey), Dir: dir, Env: envOf(FromEnvFile, filepath.Join(dir, "key"))}
	got, err := FindKeyPlaces(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := []KeyFile{PlainKeyFile(filepath.Join(dir, "key")), ConfigKeyFile(dir)}
	if diff := cmp.Diff(want, got.Files()); diff != "" {
		t.Error(diff)
	}
	if len(got.ByHand()) != 0 || got.Recreate() {
		t.Errorf("%+v", got)
	}
	cfg.ComposeFiles = []string{filepath.Join(dir, "compose.yaml")}
	if got, err = FindKeyPlaces(cfg); err != nil {
		t.Fatal(err)
	}
	if hand := got.ByHand(); len(hand) != 1 || !got.Recreate() ||
		hand[0].Change != fmt.Sprintf("in line 1 of %q, set N8N_ENCRYPTION_KEY to the new key; then docker compose up -d makes the container anew", cfg.ComposeFiles[0]) ||
		hand[0].String() != fmt.Sprintf("N8N_ENCRYPTION_KEY in line 1 of docker compose file %q", cfg.ComposeFiles[0]) {
		t.Errorf("%+v", hand)
	}
}

func TestKeyPlacesRefusals(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	none := filepath.Join(dir, "none")
	for _, tt := range []struct {
		cfg  KeyPlacesConfig
		kind problem.Kind
		want string
	}{
		{KeyPlacesConfig{ComposeFiles: []string{none}}, problem.NotFound, `docker compose file "` + none + `" does not exist`},
		{KeyPlacesConfig{EnvFiles: []string{none}}, problem.NotFound, `env file "` + none + `" does not exist`},
		{KeyPlacesConfig{UnitFiles: []string{none}}, problem.NotFound, `systemd unit "` + none + `" does not exist`},
		{KeyPlacesConfig{UnitFiles: []string{dir}}, problem.Usage, "cannot be read: it is a folder"},
		{KeyPlacesConfig{ComposeFiles: []string{write("bad.yaml", "a: b\nservices: [x: {\n  N8N_ENCRYPTION_KEY: "+wasKey+"\n")}}, problem.Usage, "is not valid YAML"},
		{KeyPlacesConfig{ComposeFiles: []string{write("deep.yaml", strings.Repeat("[", 100000))}}, problem.Usage, "is not valid YAML in line 1"},
		{KeyPlacesConfig{ComposeFiles: []string{write("keys.yaml", strings.Repeat("- ", 100000))}}, problem.Usage, "is not valid YAML in line 1"},
		{KeyPlacesConfig{EnvFiles: []string{write("big.env", strings.Repeat("#", deploymentLimit+1))}}, problem.Usage, "it is too large"},
	} {
		tt.cfg.Key = instanceKey(t, wasKey)
		_, err := FindKeyPlaces(tt.cfg)
		if err == nil || problem.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) || problem.HintOf(err) == "" || strings.Contains(err.Error(), wasKey) {
			t.Errorf("want %q: %v", tt.want, err)
		}
		if tt.kind == problem.NotFound && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

func TestUnitWords(t *testing.T) {
	for text, want := range map[string][]string{
		``:                          nil,
		`a  b`:                      {"a", "b"},
		`"a b" 'c "d'`:              {"a b", `c "d`},
		`A="b c"d`:                  {"A=b cd"},
		`a\x41\101\u00e9\U0001f600`: {"aAAé😀"},
		`a\sb\tc\qd ""`:             {"a b\tc\\qd", ""},
		`"unclosed a`:               {"unclosed a"},
		`end\`:                      {`end\`},
	} {
		if diff := cmp.Diff(want, unitWords(text)); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func FuzzKeyPlaces(f *testing.F) {
	f.Add("services: {n8n: {environment: {N8N_ENCRYPTION_KEY: OLD}, env_file: [a, {path: b}]}}")
	f.Add("[Service]\nEnvironment=\"N8N_ENCRYPTION_KEY=OLD\\x20\" \\\n a\nEnvironmentFile=-/x\n")
	f.Add("export N8N_ENCRYPTION_KEY=\"a\\\nb\" # c\nX")
	f.Add("x: &a {<<: *a, secrets: [*a]}\n? [N8N_ENCRYPTION_KEY]\n: !!str |\n  x")
	f.Fuzz(func(t *testing.T, text string) {
		p := &placeFinder{KeyPlacesConfig: KeyPlacesConfig{Key: instanceKey(t, wasKey), Env: envOf()}, texts: map[string]string{}, rules: rulesOf("")}
		c := &composeFile{placeFinder: p, path: "/x/compose.yaml", dir: "/x", secrets: map[string]composeFrom{}}
		if c.parse(text) == nil {
			c.report()
		}
		for _, d := range directivesOf(text) {
			unitWords(d.value)
		}
		for _, v := range settingsOf(text) {
			if !v.bare && len(v.readings) == 0 {
				t.Errorf("%q has no value", v.name)
			}
		}
	})
}
