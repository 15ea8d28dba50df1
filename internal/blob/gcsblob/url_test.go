package gcsblob

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/problem"
)

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// counter counts what was read.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func parse(t *testing.T, text string, env ...string) (Config, error) {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return Parse(u, cloudtest.Env(env...))
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Config{
		"gcs://bucket":                {Bucket: "bucket"},
		"gs://bucket/":                {Bucket: "bucket"},
		"gcs://my-bucket.example/a/b": {Bucket: "my-bucket.example", Prefix: "a/b/"},
		"gcs://b/a?endpoint=http://127.0.0.1:4443/&credentials=none":                                 {Bucket: "b", Prefix: "a/", Endpoint: "http://127.0.0.1:4443", Credentials: "none"},
		"gcs://b?credentials=file:/etc/key.json&retain=30d&lock=compliance":                          {Bucket: "b", Credentials: "file:/etc/key.json", Retain: 30 * 24 * time.Hour, Lock: "compliance"},
		"gcs://b?storage_class=nearline&kms_key=projects/p/locations/l/k&retain=12h&lock=governance": {Bucket: "b", StorageClass: "NEARLINE", KMSKey: "projects/p/locations/l/k", Retain: 12 * time.Hour, Lock: "governance"},
	} {
		got, err := parse(t, text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Config{}, "Env", "Now", "Retry", "HTTP")); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
	got, err := parse(t, "gcs://b", "STORAGE_EMULATOR_HOST", "127.0.0.1:4443")
	if err != nil || got.Endpoint != "http://127.0.0.1:4443" || !got.Emulator {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"gcs:///prefix":                 "target gcs://...: no bucket",
		"gcs://user:geheim@b/p":         "target gcs://...: a password inside the URL",
		"gcs://user@b/p":                "target gcs://...: a user inside the URL",
		"gcs://b/p?token=geheim":        `target gcs://...: the secret parameter "token" inside the URL`,
		"gcs://b/p?colour=geheim":       `target gcs://...: unknown parameter "colour"`,
		"gcs://b/p?retain=30d":          `target gcs://...: "retain" without "lock"`,
		"gcs://b/p?lock=compliance":     `target gcs://...: "lock" without "retain"`,
		"gcs://b/p?lock=geheim":         `target gcs://...: parameter "lock": want governance or compliance`,
		"gcs://b/p?retain=geheim":       `target gcs://...: parameter "retain": want a time like "30d" or "12h"`,
		"gcs://b/p?retain=99999d":       `target gcs://...: parameter "retain": want 100 years at most`,
		"gcs://b/p?retain=1d&retain=2d": `target gcs://...: parameter "retain" stands 2 times`,
		"gcs://b/p?endpoint=geheim":     `target gcs://...: parameter "endpoint": want a URL like "https://storage.example.com", without user and parameters`,
		"gcs://b/p?endpoint=":           `target gcs://...: parameter "endpoint" is empty`,
		"gcs://b/p?credentials=geheim":  `target gcs://...: parameter "credentials": want "env", "none" or "file:PATH"`,
		"gcs://b/p?a=%zz":               "target gcs://...: its parameters are not name=value pairs joined by &",
		"gcs://b/p#geheim":              `target gcs://...: a "#" in the URL`,
		"gcs://b/../geheim":             `target gcs://...: a path element that is empty, ".", "..", or holds a quote or one of \#*?[]`,
	} {
		_, err := parse(t, text)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
		if problem.KindOf(err) != problem.Usage || strings.Contains(problem.HintOf(err)+err.Error(), "geheim") {
			t.Errorf("%s: kind %s, hint %q", text, problem.KindOf(err), problem.HintOf(err))
		}
	}
	_, err := parse(t, "gcs://b/p?private_key=geheim")
	if !strings.Contains(problem.HintOf(err), "credentials=file:PATH") {
		t.Errorf("hint %q", problem.HintOf(err))
	}
}

func TestLocation(t *testing.T) {
	for text, want := range map[string]string{
		"gs://b/a/b?credentials=file:/x": "gcs://b/a/b",
		"gcs://b?endpoint=https://e":     "gcs://b?endpoint=https://e",
	} {
		cfg, err := parse(t, text)
		cfg.Credentials = "none"
		if err != nil || open(t, cfg).Properties().Location != want {
			t.Errorf("%s: %q, %v", text, cfg.location(), err)
		}
	}
}

func TestCredentialErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	missing := filepath.Join(dir, "missing")
	other := write("other", "geheim")
	odd := write("odd", `{"type":"odd","private_key":"geheim"}`)
	broken := write("broken", `{"type":"service_account","client_email":"a@b","private_key":"geheim","token_uri":"http://127.0.0.1:1"}`)
	for path, want := range map[string]string{
		missing: `opening "gcs://b": reading credentials "` + missing + `": no such file or directory`,
		other:   `opening "gcs://b": reading credentials "` + other + `": it is not a Google credentials file`,
		odd:     `opening "gcs://b": reading credentials "` + odd + `": a file of type "odd" is not complete or not supported`,
	} {
		for _, cfg := range []Config{
			{Bucket: "b", Credentials: "file:" + path, Env: cloudtest.Env()},
			{Bucket: "b", Env: cloudtest.Env("GOOGLE_APPLICATION_CREDENTIALS", path)},
		} {
			_, err := New(t.Context(), cfg)
			if err == nil || err.Error() != want || problem.KindOf(err) != problem.Usage || problem.HintOf(err) == "" {
				t.Errorf("%v, want %s", err, want)
			}
		}
	}
	s, err := New(t.Context(), Config{Bucket: "b", Credentials: "file:" + broken, Env: cloudtest.Env(), Retry: config(cloudtest.NewGCS(t, false)).Retry})
	if err == nil {
		_, err = s.Stat(t.Context(), "a")
	}
	if err == nil || strings.Contains(err.Error(), "geheim") {
		t.Errorf("broken key: %v", err)
	}
}

// A service account's token is asked for and sent along; a refused one is told apart.
func TestServiceAccount(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	tokens := 0
	refuse := ""
	g.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if r.URL.Path == "/token" {
			tokens++
			if refuse != "" {
				return &cloudtest.Fault{Status: 400, Body: refuse, Header: http.Header{"Content-Type": {"application/json"}}}
			}
			return &cloudtest.Fault{Status: 200, Body: `{"access_token":"tok","token_type":"Bearer","expires_in":3600}`, Header: http.Header{"Content-Type": {"application/json"}}}
		}
		if r.Header.Get("Authorization") != "Bearer tok" {
			t.Errorf("%s %s without the token", r.Method, r.URL.Path)
		}
		return nil
	}
	path := filepath.Join(t.TempDir(), "key.json")
	writeAccount(t, path, g.URL+"/token")
	cfg := config(g)
	cfg.Credentials = "file:" + path
	if _, err := open(t, cfg).Put(t.Context(), "a", strings.NewReader("x")); err != nil || tokens != 1 {
		t.Errorf("%d tokens, %v", tokens, err)
	}
	for body, want := range map[string]string{
		`{"error":"invalid_grant","error_description":"Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."}`: "the credentials are refused (invalid_grant): this machine's clock is wrong",
		`{"error":"unauthorized_client"}`: "the credentials are refused (unauthorized_client)",
	} {
		refuse = body
		_, err := open(t, cfg).Put(t.Context(), "b", strings.NewReader("x"))
		if err == nil || !strings.Contains(err.Error(), want) || problem.HintOf(err) != whereSecretsBelong {
			t.Errorf("%v, hint %q", err, problem.HintOf(err))
		}
	}
}

// Refusals have texts and hints.
func TestErrorTexts(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	cfg := config(g)
	nowhere := cfg
	nowhere.Bucket = "no-such-bucket"
	s := open(t, nowhere)
	_, err := s.Put(t.Context(), "a", strings.NewReader("x"))
	if err == nil || !strings.Contains(err.Error(), `storing "a" in "gcs://no-such-bucket/backups/n8n?endpoint=`+g.URL+`": the server answers 404`) || !strings.Contains(problem.HintOf(err), "make the bucket first") {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
	if _, err := s.Stat(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "looking for") {
		t.Errorf("Stat: %v", err)
	}
	g.May = func(string) bool { return false }
	s = open(t, cfg)
	for op, err := range map[string]error{
		"storing":  func() error { _, err := s.Put(t.Context(), "a", strings.NewReader("x")); return err }(),
		"looking":  func() error { _, err := s.Stat(t.Context(), "a"); return err }(),
		"opening":  func() error { _, _, err := s.Get(t.Context(), "a"); return err }(),
		"deleting": s.Delete(t.Context(), "a"),
	} {
		if problem.KindOf(err) != problem.Unreachable || !strings.HasPrefix(err.Error(), op) || !strings.Contains(err.Error(), "does not have storage.objects.") || !strings.HasPrefix(problem.HintOf(err), "see what this identity may do: n8keep target check 'gcs://") {
			t.Errorf("%s: %v, hint %q", op, err, problem.HintOf(err))
		}
	}
	g.May = nil
	g.Rule = func(int, *http.Request) *cloudtest.Fault {
		return &cloudtest.Fault{Status: 200, Body: "<html>welcome</html>"}
	}
	if _, err := s.Stat(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "is the endpoint right?") {
		t.Errorf("a web page: %v", err)
	}
	if _, err := s.Put(t.Context(), "a", strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "without saying where to") {
		t.Errorf("no session: %v", err)
	}
	g.Rule = func(int, *http.Request) *cloudtest.Fault {
		return &cloudtest.Fault{Status: 200, Header: http.Header{"Location": {"http://evil.example/upload"}}}
	}
	if _, err := s.Put(t.Context(), "a", strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), `another host, "evil.example"`) {
		t.Errorf("elsewhere: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	cfg, err := parse(t, "gcs://b/a?retain=1d&lock=governance")
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[blob.Role][]string{
		blob.Writer:   {"--permissions=storage.objects.create,storage.objects.setRetention\n", `--condition='^#^title=n8keep#expression=resource.name.startsWith("projects/_/buckets/b/objects/a/")'`, "n8keepWriter", "overrideUnlockedRetention"},
		blob.Restorer: {"--permissions=storage.objects.get,storage.objects.list\n", `objectListPrefix", "").startsWith("a/")`},
		blob.Pruner:   {"storage.objects.delete"},
	} {
		got, err := Policy(cfg, role)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s lacks %q:\n%s", role, w, got)
			}
		}
	}
	if _, err := Policy(cfg, "king"); err == nil || err.Error() != `no role is called "king"` || problem.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

// What a probe finds for identities of several kinds. Permissions and locks are the front's.
func TestProbe(t *testing.T) {
	create := func(p string) bool { return p == "storage.objects.create" || p == "storage.objects.setRetention" }
	for name, tc := range map[string]struct {
		versions bool
		retain   time.Duration
		may      func(string) bool
		want     string // put get list overwrite delete hide shorten
		stays    bool
	}{
		"all rights":                 {want: "yes yes yes yes yes not applicable/not applicable"},
		"all rights, versions":       {versions: true, want: "yes yes yes no yes yes/not applicable"},
		"create only":                {may: create, want: "yes no no no no no/not applicable", stays: true},
		"create only, lock":          {may: create, retain: time.Hour, want: "yes no no no no no/no", stays: true},
		"nothing":                    {may: func(string) bool { return false }, want: "no no no unknown unknown unknown/not applicable"},
		"all rights, lock, versions": {versions: true, retain: time.Hour, want: "yes yes yes no no yes/yes", stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := cloudtest.NewGCS(t, tc.versions)
			g.May = tc.may
			cfg := config(g)
			if cfg.Retain = tc.retain; tc.retain > 0 {
				cfg.Lock = "governance"
			}
			s := open(t, cfg)
			trials, err := s.Probe(t.Context(), "canary")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			detail := ""
			for i, c := range blob.Capabilities() {
				if trials[i].Capability != c {
					t.Errorf("trial %d is of %q", i, trials[i].Capability)
				}
				got = append(got, string(trials[i].Answer))
				if c == blob.CanDelete {
					detail = trials[i].Detail
				}
			}
			text := strings.Join(got[:6], " ") + "/" + got[6]
			if text != tc.want {
				t.Errorf("got  %s\nwant %s\n%+v", text, tc.want, trials)
			}
			g.May = nil
			_, err = s.Stat(t.Context(), "canary")
			if (err == nil) != tc.stays || strings.Contains(detail, "the canary canary stays") != tc.stays {
				t.Errorf("stays: %v; detail %q", err == nil, detail)
			}
		})
	}
	s := open(t, config(cloudtest.NewGCS(t, false)))
	s.cfg.Bucket = "no-such-bucket"
	if _, err := s.Probe(t.Context(), "canary"); err == nil || !strings.Contains(err.Error(), "trying out") {
		t.Errorf("without a bucket: %v", err)
	}
}
