package config

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
)

var compare = cmp.AllowUnexported(Reference{}, Address{})

const whole = `
instances:
  prod:
    n8n_dir: /home/node/.n8n
    key: file:/run/secrets/n8n-key
    table_prefix: n8n_
    database: env:N8KEEP_DATABASE
    schema: public
    health_url: http://127.0.0.1:5678/healthz
    binary_data: true
    deployment_files: [compose.yaml, ~/n8n.env]
    redact: false
    targets: [local, bucket]
    engine: native
    pg_bin: /usr/lib/postgresql/17/bin
    from_replica: true
    yield_after: 45s
    when_running: wait
    wait_limit: 1h30m
    api_url: http://127.0.0.1:5678
    api_key: file:api.key
  small:
    n8n_dir: ../n8n   # a comment
  pg:
    database: postgres://n8n@db/n8n
  empty:
targets:
  local:
    path: /var/backups/n8n
  other: {url: "file:///mnt/n8n"}
  bucket:
    url: s3://backups/n8n?endpoint=https://s3.example&lock=compliance&retain=30d&credentials=file:/run/secrets/s3
recipients:
  - age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
recipient_files: [recipients.txt]
signing_key: file:keys/signing.key
signers:
  - ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
state_dir: /var/lib/n8keep
work_dir: ~/work
history: 30d
retention:
  archives:
    last: 3
    daily: 7
    monthly: 12
  workflows: {yearly: 10, weekly: 4, hourly: 24}
`

func TestParse(t *testing.T) {
	got, err := Parse([]byte(whole), "/etc/n8keep/n8keep.yaml", "/root")
	if err != nil {
		t.Fatal(err)
	}
	no := false
	want := &Config{
		Path: "/etc/n8keep/n8keep.yaml",
		Instances: map[string]Instance{
			"prod": {
				N8NDir: "/home/node/.n8n", Key: Reference{"file", "/run/secrets/n8n-key"}, TablePrefix: "n8n_",
				Database: Address{ref: Reference{"env", "N8KEEP_DATABASE"}}, Schema: "public",
				HealthURL: "http://127.0.0.1:5678/healthz", BinaryData: true,
				DeploymentFiles: []string{"/etc/n8keep/compose.yaml", "/root/n8n.env"}, Redact: &no,
				Targets: []string{"local", "bucket"}, Engine: "native", PgBin: "/usr/lib/postgresql/17/bin", FromReplica: true,
				YieldAfter: 45 * time.Second, WhenRunning: "wait", WaitLimit: 90 * time.Minute,
				APIURL: "http://127.0.0.1:5678", APIKey: Reference{"file", "/etc/n8keep/api.key"},
			},
			"small": {N8NDir: "/etc/n8n"},
			"pg":    {Database: Address{plain: "postgres://n8n@db/n8n"}},
			"empty": {},
		},
		Targets: map[string]Target{"local": {Path: "/var/backups/n8n"}, "other": {URL: "file:///mnt/n8n"},
			"bucket": {URL: "s3://backups/n8n?endpoint=https://s3.example&lock=compliance&retain=30d&credentials=file:/run/secrets/s3"}},
		Recipients:     []string{"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"},
		RecipientFiles: []string{"/etc/n8keep/recipients.txt"},
		SigningKey:     Reference{"file", "/etc/n8keep/keys/signing.key"},
		Signers:        []string{"ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="},
		StateDir:       "/var/lib/n8keep", WorkDir: "/root/work", History: "30d",
		Retention: Retention{Archives: RetentionPolicy{Last: 3, Daily: 7, Monthly: 12}, Workflows: RetentionPolicy{Yearly: 10, Weekly: 4, Hourly: 24}},
	}
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Error(d)
	}
	if got.Instances["prod"].Redacts() || !got.Instances["small"].Redacts() {
		t.Error("redact: false is not kept, or true is not the default")
	}
	if d := cmp.Diff(*want, got.Redact(), compare); d != "" {
		t.Errorf("Redact changed what is no secret: %s", d)
	}
	for _, empty := range []string{"", "\n", "# nothing\n", "---\n", "instances:\ntargets:\n"} {
		c, err := Parse([]byte(empty), "/x", "")
		if err != nil || len(c.Instances) != 0 {
			t.Errorf("%q: %+v, %v", empty, c, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const hex = "7e3f0c9d2b1a4e5f60718293a4b5c6d77e3f0c9d2b1a4e5f60718293a4b5c6d7"
	const base64 = "q0Vb1S9Ck7Yd3mPzX5tRw8LhJ2NfGa+E"
	for name, c := range map[string]struct{ text, msg, hint string }{
		"unknown key":           {"recipient:\n  - age1x\n", `config file "/c/n8keep.yaml", line 1: the key "recipient" is not known`, "line 1 is: recipient:\ndid you mean \"recipients\"?"},
		"unknown nested":        {"instances:\n  prod:\n    n8n_dir: /x\n    encryption_key: " + hex, `line 4, instances.prod: the key "encryption_key" is not known`, "line 4 is: encryption_key: …\nknown here: n8n_dir, key, table_prefix"},
		"secret as key":         {"instances:\n  prod:\n    " + hex + ": x\n", "line 3, instances.prod: the key is not known (it is not shown here)", "line 3 is: …"},
		"key value":             {"instances:\n  prod:\n    key: " + base64 + "\n", "line 3, instances.prod.key: a reference is expected, file:PATH or env:NAME, not the secret itself (it is not shown here)", "line 3 is: key: …"},
		"short key value":       {"instances:\n  prod:\n    key: hunter2\n", "a reference is expected", "line 3 is: key: …"},
		"number as key":         {"instances:\n  prod:\n    key: 12345678\n", "a reference is expected", "line 3 is: key: …"},
		"env with a secret":     {"signing_key: env:" + base64, "after env: the name of a variable is expected", "line 1 is: signing_key: …"},
		"pem in the file":       {"signing_key: |\n  -----BEGIN PRIVATE KEY-----\n  MC4CAQAwBQYDK2VwBCIEIHunter2\n  -----END PRIVATE KEY-----\n", "a reference is expected", "…"},
		"identity as recipient": {"recipients:\n  - AGE-SECRET-KEY-1QQPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQ\n", "line 2, recipients: the value looks like a secret", "line 2 is: - …"},
		"odd recipient":         {"recipients: [ssh-rsa]\n", "an age public key, age1..., is expected", "line 1 is: recipients: …"},
		"secret as folder":      {"state_dir: " + hex, "line 1, state_dir: the value looks like a secret", "state_dir: …"},
		"password in address":   {"instances:\n  prod:\n    database: postgres://n8n:hunter2@db/n8n\n", "instances.prod.database: the address holds a password; put it in a file and write file:PATH", "database: …"},
		"password in query":     {"instances:\n  prod:\n    database: postgres://db/n8n?password=hunter2\n", "the address holds a password", "database: …"},
		"malformed address":     {"instances:\n  prod:\n    database: \"postgres://n8n:hunter2@db:x%%/n8n\"\n", "the PostgreSQL address is malformed (it is not shown here", "database: …"},
		"secret as database":    {"instances:\n  prod:\n    database: " + base64, "the address of the database is not understood", "database: …"},
		"health with password":  {"instances:\n  prod:\n    health_url: https://a:hunter2@n8n/\n", "the value looks like a secret", "health_url: …"},
		"health with user":      {"instances:\n  prod:\n    health_url: https://hunter2@n8n/\n", "an address without user and password is expected", "health_url: …"},
		"health not http":       {"instances:\n  prod:\n    health_url: ftp://n8n/\n", "an http or https address is expected", "health_url: …"},
		"bool":                  {"instances:\n  prod:\n    redact: maybe\n", "instances.prod.redact: true or false is expected", "redact: …"},
		"history":               {"history: 30 days\n", "line 1, history: all, none or a time like 12h, 30d or 2w is expected", "history: …"},
		"prefix":                {"instances:\n  prod:\n    table_prefix: a b\n", "a name of letters, digits and underscores is expected", "table_prefix: …"},
		"signer":                {"signers: [ed25519:abc]\n", "a public key, ed25519: and 44 characters of base64, is expected", "signers: …"},
		"instance name":         {"instances:\n  Prod:\n    n8n_dir: /x\n", "line 2, instances: a name is expected here: lower-case letters", "line 2 is: Prod:"},
		"instances as list":     {"instances:\n  - prod\n", "instances: a name and, indented below it, keys and values are expected here", "- …"},
		"instance as text":      {"instances:\n  prod: /x\n", "line 2, instances.prod: keys and values are expected here", "prod: …"},
		"file as text":          {"hunter2\n", "line 1: keys and values are expected here", "line 1 is: …"},
		"list as text":          {"recipients: age1x\n", `recipients: a list is expected: each item on its own line after "- "`, "recipients: …"},
		"text as list":          {"state_dir:\n  - /x\n", "a single text is expected, not a list or a group of keys", "- …"},
		"empty item":            {"recipients:\n  -\n", "an item of the list is empty", ""},
		"no target":             {"targets:\n  local:\n", "line 2, targets.local: a target has exactly one of path and url", "local:"},
		"two targets":           {"targets:\n  local:\n    path: /x\n    url: file:///x\n", "a target has exactly one of path and url", ""},
		"scheme":                {"targets:\n  s:\n    url: ftp://bucket\n", "line 3, targets.s.url: ftp:// is no kind of target; known are file, s3, gcs, gs, azure, sftp", "url: …"},
		"secret as scheme":      {"targets:\n  s:\n    url: " + base64 + "://bucket\n", "…:// is no kind of target", "url: …"},
		"no address":            {"targets:\n  s:\n    url: /var/backups\n", "the address of a target is expected, like s3://BUCKET/PREFIX; a folder is given with path", "url: …"},
		"no bucket":             {"targets:\n  s:\n    url: s3:///prefix\n", "s3://BUCKET/PREFIX is expected", "url: …"},
		"no account":            {"targets:\n  s:\n    url: azure://\n", "azure://ACCOUNT/CONTAINER/PREFIX is expected", "url: …"},
		"no host":               {"targets:\n  s:\n    url: sftp:///x\n", "sftp://USER@HOST/FOLDER is expected", "url: …"},
		"two slashes":           {"targets:\n  s:\n    url: file://var/backups\n", "file:///FOLDER is expected, with three slashes", "url: …"},
		"key in the bucket":     {"targets:\n  s:\n    url: s3://AKIAX:hunter2@bucket/x\n", "the address holds a secret or a user, which does not belong into it: use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or credentials=file:PATH", "url: …"},
		"key id in the bucket":  {"targets:\n  s:\n    url: gcs://hunter2@bucket/x\n", "the address holds a secret or a user, which does not belong into it: use GOOGLE_APPLICATION_CREDENTIALS", "url: …"},
		"sftp password":         {"targets:\n  s:\n    url: sftp://n8n:hunter2@host/x\n", "the address holds a secret or a user, which does not belong into it: use the SSH agent, or key=file:PATH", "url: …"},
		"s3 secret parameter":   {"targets:\n  s:\n    url: s3://bucket?secret_access_key=hunter2\n", "the address holds a secret, which does not belong into it: use AWS_ACCESS_KEY_ID", "url: …"},
		"azure signature":       {"targets:\n  s:\n    url: azure://account/box?sv=2024&sig=hunter2\n", "the address holds a secret, which does not belong into it: use the AZURE_ variables", "url: …"},
		"target not readable":   {"targets:\n  s:\n    url: s3://bucket/%zz?x=hunter2\n", "the address is malformed (it is not shown here", "url: …"},
		"parameters unreadable": {"targets:\n  s:\n    url: s3://bucket/?x=%zzhunter2\n", "the parameters of the address are malformed (they are not shown here", "url: …"},
		"engine":                {"instances:\n  prod:\n    engine: mysqldump\n", "instances.prod.engine: auto, pg_dump or native is expected", "engine: …"},
		"when running":          {"instances:\n  prod:\n    when_running: stop\n", "continue, wait or fail is expected", "when_running: …"},
		"unit":                  {"instances:\n  prod:\n    systemd_units: [\"n8n; rm\"]\n", "the name of a unit or service: letters, digits and any of _.@:- is expected", "systemd_units: …"},
		"secret in a command":   {"instances:\n  prod:\n    stop_command: " + hex, "the value looks like a secret", "stop_command: …"},
		"duration":              {"instances:\n  prod:\n    yield_after: 30\n", "a time of at least one second is expected, like 30s, 10m or 2h", "yield_after: …"},
		"short duration":        {"instances:\n  prod:\n    wait_limit: 0s\n", "a time of at least one second is expected", "wait_limit: …"},
		"api key itself":        {"instances:\n  prod:\n    api_key: eyJhbGciOiJIUzI1NiJ9.hunter2.x\n", "a reference is expected", "api_key: …"},
		"target not defined":    {"instances:\n  prod:\n    targets: [local, other]\ntargets:\n  local: {path: /x}\n", `line 3, instances.prod.targets: there is no target "other" in this file`, "define it under targets:"},
		"target not a name":     {"instances:\n  prod:\n    targets: [s3://x]\n", "the name of a target is expected", "targets: …"},
		"retention of zero":     {"retention:\n  archives:\n    daily: 0\n", "line 3, retention.archives.daily: a number from 1 to 100000 is expected; leave the key out to keep none for its sake", "daily: …"},
		"retention of days":     {"retention:\n  workflows:\n    daily: 30d\n", "a number from 1 to 100000 is expected", "daily: …"},
		"retention misspelt":    {"retention:\n  archives:\n    dayly: 3\n", `retention.archives: the key "dayly" is not known`, `did you mean "daily"?`},
		"retention flat":        {"retention:\n  daily: 3\n", `retention: the key "daily" is not known`, "known here: archives, workflows"},
		"key twice":             {"history: all\nhistory: none\n", "line 2: the key stands there a second time", "history: …"},
		"anchor":                {"history: &a all\nstate_dir: *a\n", "anchors, aliases, merges and tags are not understood here", ""},
		"merge":                 {"instances:\n  prod:\n    <<: {n8n_dir: /x}\n", "anchors, aliases, merges and tags are not understood here", ""},
		"two documents":         {"history: all\n---\nhistory: none\n", "a second document begins here", ""},
		"syntax":                {"instances:\n  prod:\n   key: hunter2\n  n8n_dir: \"hunter2\n", "it is not YAML", "look at the indentation"},
		"tab":                   {"instances:\n\tprod:\n", "it is not YAML", "indented with spaces; a tab stands in the file"},
	} {
		conf, err := Parse([]byte(c.text), "/c/n8keep.yaml", "/root")
		if err == nil {
			t.Errorf("%s: accepted: %+v", name, conf)
			continue
		}
		hint := problem.HintOf(err)
		if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), c.msg) || !strings.Contains(hint, c.hint) {
			t.Errorf("%s:\n got %v\n     %s\nwant %s\n     %s", name, err, hint, c.msg, c.hint)
		}
		if !strings.Contains(err.Error(), "line ") {
			t.Errorf("%s: no line in %v", name, err)
		}
		for _, s := range []string{"hunter2", hex, base64, "AGE-SECRET", "MC4CAQ", "Hunter2"} {
			if strings.Contains(err.Error()+hint, s) {
				t.Errorf("%s: the message repeats %q: %v / %s", name, s, err, hint)
			}
		}
	}
}

func TestTargetURLs(t *testing.T) {
	for _, good := range []string{"file:///var/backups", "s3://bucket", "s3://bucket/a/b?region=eu-central-1&sse=aws:kms&kms_key=1234abcd-12ab-34cd-56ef-1234567890ab",
		"gcs://bucket/n8n", "gs://bucket", "azure://account/container/prefix?endpoint=http://127.0.0.1:10000", "azure://account/box?account_key=file:/run/secrets/azure",
		"sftp://n8n@host:22/backups?key=file:/home/n8n/.ssh/id&known_hosts=/etc/ssh/known_hosts", "sftp://host/x?passphrase=env:PASSPHRASE"} {
		if err := CheckTargetURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

func TestDefaults(t *testing.T) {
	if got := (RetentionPolicy{}).OrDefault(); got != (RetentionPolicy{Daily: 30, Weekly: 14}) {
		t.Errorf("%+v", got)
	}
	if got := (RetentionPolicy{Last: 1}).OrDefault(); got != (RetentionPolicy{Last: 1}) {
		t.Errorf("%+v", got)
	}
	if y, w := (Instance{}).Yield(), (Instance{}).Wait(); y != 30*time.Second || w != 10*time.Minute {
		t.Errorf("%v %v", y, w)
	}
	if y, w := (Instance{YieldAfter: 1}).Yield(), (Instance{WaitLimit: 2}).Wait(); y != 1 || w != 2 {
		t.Errorf("%v %v", y, w)
	}
}

func TestReferenceResolve(t *testing.T) {
	env := func(k string) (string, bool) {
		v, ok := map[string]string{"KEY": "hunter2\n", "EMPTY": ""}[k]
		return v, ok
	}
	files := func(p string) ([]byte, error) {
		if b, ok := map[string]string{"/k": "hunter2\n\n", "/e": "\n"}[p]; ok {
			return []byte(b), nil
		}
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	for ref, c := range map[string]struct{ want, err string }{
		"env:KEY":   {"hunter2\n", ""},
		"env:NONE":  {"", `the secret "env:NONE": the variable is not set`},
		"env:EMPTY": {"", `the secret "env:EMPTY" is empty`},
		"file:/k":   {"hunter2\n", ""},
		"file:/e":   {"", `the secret "file:/e" is empty`},
		"file:/x":   {"", `the secret "file:/x": open /x: file does not exist`},
	} {
		r, err := ParseReference(ref)
		if err != nil || r.String() != ref {
			t.Fatalf("%s: %v, %v", ref, r, err)
		}
		got, err := r.Resolve(env, files)
		if c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) || string(got.Reveal()) != c.want {
			t.Errorf("%s: %q, %v", ref, got.Reveal(), err)
		}
	}
	if _, err := (Reference{}).Resolve(env, files); err == nil {
		t.Error("the empty reference was resolved")
	}
	if p, ok := FileReference("/k").File(); p != "/k" || !ok {
		t.Error("File")
	}
	if n, ok := (Reference{"env", "KEY"}).Env(); n != "KEY" || !ok {
		t.Error("Env")
	}
	for addr, want := range map[string]string{"env:KEY": "hunter2\n", "/a/b.sqlite": "/a/b.sqlite", "postgres://u@h/d": "postgres://u@h/d"} {
		a, err := ParseAddress(addr)
		if err != nil || a.String() != addr || a.IsZero() {
			t.Fatalf("%s: %v, %v", addr, a, err)
		}
		if got, err := a.Resolve(env, files); err != nil || got.Reveal() != want {
			t.Errorf("%s: %q, %v", addr, got.Reveal(), err)
		}
	}
	a, err := ParseAddress("env:NONE")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Resolve(env, files); err == nil {
		t.Error("an address in a variable that is not set was resolved")
	}
}

func TestRedact(t *testing.T) {
	c := Config{
		StateDir:   "7e3f0c9d2b1a4e5f60718293a4b5c6d7",
		Recipients: []string{"AGE-SECRET-KEY-1QQ", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"},
		Instances:  map[string]Instance{"prod": {HealthURL: "http://a:hunter2@b/", Database: Address{plain: "postgres://a:hunter2@b/c"}, Key: Reference{"file", "/k"}}},
	}
	got := c.Redact()
	want := Config{
		StateDir:   "[redacted]",
		Recipients: []string{"[redacted]", c.Recipients[1]},
		Instances:  map[string]Instance{"prod": {HealthURL: "[redacted]", Database: Address{plain: "[redacted]"}, Key: Reference{"file", "/k"}}},
	}
	if d := cmp.Diff(want, got, compare); d != "" {
		t.Error(d)
	}
	if c.Recipients[0] == "[redacted]" || c.Instances["prod"].HealthURL == "[redacted]" {
		t.Error("the original was changed")
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSearch removes the file that won until none is left.
func TestSearch(t *testing.T) {
	root := t.TempDir()
	env := map[string]string{}
	h := Host{
		Env:  func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		Dir:  filepath.Join(root, "cwd"),
		Home: filepath.Join(root, "home"),
		Etc:  filepath.Join(root, "etc"),
	}
	given := write(t, filepath.Join(root, "given.yaml"), "history: 1d")
	env[EnvFile] = write(t, filepath.Join(root, "env.yaml"), "history: 2d")
	here := write(t, filepath.Join(h.Dir, FileName), "history: 3d")
	home := write(t, filepath.Join(h.Home, ".config", "n8keep", FileName), "history: 4d")
	write(t, filepath.Join(h.Etc, "n8keep", FileName), "history: 5d")

	check := func(flag, want string) {
		t.Helper()
		c, err := Load(flag, h)
		if err != nil || c.History != want {
			t.Fatalf("history %+v, %v; want %q", c, err, want)
		}
	}
	check(given, "1d")
	check("", "2d")
	delete(env, EnvFile)
	check("", "3d")
	os.Remove(here)
	check("", "4d")
	xdg := filepath.Join(root, "xdg")
	write(t, filepath.Join(xdg, "n8keep", FileName), "history: 6d")
	env["XDG_CONFIG_HOME"] = xdg
	check("", "6d")
	delete(env, "XDG_CONFIG_HOME")
	os.Remove(home)
	check("", "5d")
	os.Remove(filepath.Join(h.Etc, "n8keep", FileName))
	c, err := Load("", h)
	if err != nil || c.Path != "" || c.String() != "no config file" {
		t.Errorf("without a file: %+v, %v", c, err)
	}
	env[EnvFile] = "/nowhere/x.yaml"
	if _, err := Load("", h); problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), `there is no config file "/nowhere/x.yaml"`) {
		t.Errorf("a named file that is missing: %v", err)
	}
	if _, err := Load(root, h); err == nil || !strings.Contains(err.Error(), "reading the config file: read "+root) {
		t.Errorf("a folder: %v", err)
	}
}

func TestFileOfAnotherUserInCurrentFolder(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can give a file away; the check of the owner alone is tested")
	}
	h := Host{Dir: t.TempDir(), Home: "/nowhere", Etc: "/nowhere", Env: func(string) (string, bool) { return "", false }}
	path := write(t, filepath.Join(h.Dir, FileName), "history: none")
	if err := os.Chown(path, 4242, -1); errors.Is(err, fs.ErrPermission) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	_, err := Load("", h)
	if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "in the current folder belongs to another user") ||
		!strings.Contains(problem.HintOf(err), "--config "+path) {
		t.Errorf("%v / %s", err, problem.HintOf(err))
	}
	if c, err := Load(path, h); err != nil || c.History != "none" {
		t.Errorf("with --config: %+v, %v", c, err)
	}
}

func TestFolders(t *testing.T) {
	env := map[string]string{"HOME": "/home/a"}
	h := Host{Env: func(k string) (string, bool) { v, ok := env[k]; return v, ok }}
	check := func(f func() (string, error), want string) {
		t.Helper()
		if got, err := f(); got != want || err != nil {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	check(h.StateDir, "/home/a/.local/state/n8keep")
	check(h.ConfigDir, "/home/a/.config/n8keep")
	env["XDG_STATE_HOME"], env["XDG_CONFIG_HOME"] = "/s", "relative"
	check(h.StateDir, "/s/n8keep")
	check(h.ConfigDir, "/home/a/.config/n8keep")
	delete(env, "HOME")
	if h.home() == "" {
		t.Error("the home folder of the account was not found without HOME")
	}
}

func TestPick(t *testing.T) {
	c, err := Parse([]byte("instances:\n  a: {n8n_dir: /a}\n  b: {n8n_dir: /b}\ntargets:\n  t: {path: /t}\n"), "/f", "")
	if err != nil {
		t.Fatal(err)
	}
	if name, i, err := c.Instance("b"); name != "b" || i.N8NDir != "/b" || err != nil {
		t.Errorf("%q %+v %v", name, i, err)
	}
	if _, _, err := c.Instance(""); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), `"/f" has 2 instances`) || !strings.Contains(problem.HintOf(err), "--instance: a, b") {
		t.Errorf("%v", err)
	}
	if _, _, err := c.Instance("c"); problem.KindOf(err) != problem.NotFound || !strings.Contains(problem.HintOf(err), "there are: a, b") {
		t.Errorf("%v", err)
	}
	if name, target, err := c.Target(""); name != "t" || target.Location() != "/t" || err != nil {
		t.Errorf("%q %+v %v", name, target, err)
	}
	none := &Config{}
	if _, _, err := none.Instance(""); err != nil {
		t.Errorf("no instances: %v", err)
	}
	if got, err := c.BackupTargets(c.Instances["a"]); err != nil || len(got) != 1 || got[0] != "t" {
		t.Errorf("%v %v", got, err)
	}
	if got, err := c.BackupTargets(Instance{Targets: []string{"x", "y"}}); err != nil || len(got) != 2 {
		t.Errorf("%v %v", got, err)
	}
	two := &Config{Path: "/f", Targets: map[string]Target{"a": {}, "b": {}}}
	if _, err := two.BackupTargets(Instance{}); problem.KindOf(err) != problem.Usage || err.Error() != `"/f" has 2 targets, and none is named for this instance` ||
		problem.HintOf(err) != "say which with --target: a, b\nor once and for all in the config: targets: [a, b]" {
		t.Errorf("%v / %s", err, problem.HintOf(err))
	}
	if _, err := none.BackupTargets(Instance{}); problem.KindOf(err) != problem.Usage || err.Error() != "no target given" {
		t.Errorf("no targets: %v", err)
	}
	if _, _, err := none.Target(""); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "no target given") {
		t.Errorf("no targets: %v", err)
	}
	if got := (Target{URL: "file:///x"}).Location(); got != "file:///x" {
		t.Error(got)
	}
}

// TestFieldsAreDocumented reads this package's source: each field has a comment
// that says whether it is optional, and stands in the manual with its flag.
func TestFieldsAreDocumented(t *testing.T) {
	docs := map[string]string{}
	for _, name := range []string{"config.go", "retention.go"} {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					docs[spec.Name.Name+"."+f.Names[0].Name] = f.Doc.Text()
				}
			}
			return true
		})
	}
	manual, err := os.ReadFile("../../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	all := Fields()
	if len(all) < 40 {
		t.Fatalf("only %d fields", len(all))
	}
	for _, f := range all {
		doc := docs[f.Struct]
		if doc == "" || !strings.Contains(doc, "Optional") && !strings.Contains(doc, "Required") {
			t.Errorf("%s: the comment does not say whether it is optional: %q", f.Struct, doc)
		}
		if f.Group {
			continue
		}
		// How much is kept is a matter of policy, not of one command.
		if f.Flag == "" != strings.HasPrefix(f.Path, "retention.") || f.Example == "" {
			t.Errorf("%s: flag %q, example %q", f.Path, f.Flag, f.Example)
		}
		row := "| `" + f.Path + "` | `--" + f.Flag + "` |"
		if f.Flag == "" {
			row = "| `" + f.Path + "` | |"
		}
		if !strings.Contains(string(manual), row) {
			t.Errorf("docs/operators.md has no line that begins with %s", row)
		}
	}
}

// TestExamplesParse puts every example into a file.
func TestExamplesParse(t *testing.T) {
	for _, f := range Fields() {
		if f.Example == "" {
			continue
		}
		value := f.Example
		if f.List {
			value = "[" + value + "]"
		}
		text, indent := "", ""
		for part := range strings.SplitSeq(strings.Replace(f.Path, "NAME", "name", 1), ".") {
			text, indent = text+"\n"+indent+part+":", indent+"  "
		}
		text += " " + value
		if strings.HasSuffix(f.Path, ".NAME.targets") {
			text += "\ntargets: {" + f.Example + ": {path: /x}}"
		}
		if _, err := Parse([]byte(text), "/f", ""); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(whole)
	f.Add("instances: {a: {redact: true}}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text), "/f", "/h")
		if (c == nil) == (err == nil) {
			t.Errorf("%v, %v", c, err)
		}
		if err != nil && problem.KindOf(err) != problem.Usage {
			t.Errorf("%v", err)
		}
	})
}
