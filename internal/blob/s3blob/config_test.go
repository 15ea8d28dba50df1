package s3blob

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/s3test"
)

func parse(t *testing.T, s string) (Config, error) {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return Parse(u, nil)
}

func TestParse(t *testing.T) {
	for in, want := range map[string]Config{
		"s3://bucket":        {Bucket: "bucket"},
		"s3://bucket/":       {Bucket: "bucket"},
		"s3://bucket/a/b/":   {Bucket: "bucket", Prefix: "a/b/"},
		"s3://My_old.Bucket": {Bucket: "My_old.Bucket"},
		"s3://b3t/n8n?endpoint=https://s3.example.com/&region=eu-central-1&path_style=true&lock=compliance&retain=30d&sse=aws:kms&kms_key=alias/n8n&storage_class=STANDARD_IA&credentials=file:/etc/keys&profile=n8n&checksum=sha256&part_size=64MiB": {
			Bucket: "b3t", Prefix: "n8n/", Endpoint: "https://s3.example.com", Region: "eu-central-1", PathStyle: true, Lock: "compliance", Retain: 30 * 24 * time.Hour,
			SSE: "aws:kms", KMSKey: "alias/n8n", StorageClass: "STANDARD_IA", Credentials: "file:/etc/keys", Profile: "n8n", Checksum: "sha256", PartSize: 64 << 20},
	} {
		got, err := parse(t, in)
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Config{}, "Env", "Now", "Retry")); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", in, err, diff)
		}
	}
	for in, want := range map[string]string{
		"s3:///n8n":                                           "no bucket: want s3://BUCKET/PREFIX",
		"s3://bucket/a/../b":                                  `".."`,
		"s3://user@bucket":                                    "a user in the URL",
		"s3://user:planted@bucket":                            "a password inside the URL",
		"s3://bucket?secret_key=planted":                      `the secret parameter "secret_key" inside the URL`,
		"s3://bucket?colour=planted":                          `unknown parameter "colour"`,
		"s3://bucket?region=a&region=b":                       `parameter "region" stands 2 times`,
		"s3://bucket?retain=30d":                              `"retain" without "lock"`,
		"s3://bucket?lock=governance":                         `"lock" without "retain"`,
		"s3://bucket?lock=planted&retain=1d":                  `parameter "lock": want governance or compliance`,
		"s3://bucket?lock=governance&retain=1d&checksum=none": "checksum=none with lock",
		"s3://bucket?endpoint=planted":                        `parameter "endpoint"`,
		"s3://bucket?kms_key=planted":                         `"kms_key" without sse=aws:kms`,
		"s3://bucket?sse=planted":                             `parameter "sse"`,
		"s3://bucket?path_style=planted":                      `parameter "path_style": want true or false`,
		"s3://bucket?credentials=planted":                     `parameter "credentials": want "env" or "file:PATH"`,
		"s3://bucket?part_size=planted":                       `parameter "part_size": want 5MiB to 5120MiB`,
		"s3://bucket?part_size=1MiB":                          `parameter "part_size": want 5MiB to 5120MiB`,
		"s3://bucket?checksum=planted":                        `parameter "checksum"`,
	} {
		_, err := parse(t, in)
		if err == nil || !strings.Contains(err.Error(), want) || problem.KindOf(err) != problem.Usage {
			t.Errorf("%s: %v, want %q", in, err, want)
		} else if strings.Contains(err.Error()+problem.HintOf(err), "planted") {
			t.Errorf("%s: the error repeats a value: %v", in, err)
		}
	}
}

// TestCredentials: where keys come from, and what is said when they do not; no
// error shows any.
func TestCredentials(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"} {
		t.Setenv(name, "") // and put back afterwards
		os.Unsetenv(name)
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	keys := func(name, profile string, i s3test.Identity) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprintf("[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", profile, i.Access, i.Secret)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	planted := s3test.Identity{Access: "planted-access", Secret: "planted-secret"}
	good, half := keys("good", "default", server.Root), filepath.Join(dir, "half")
	other := keys("other", "n8n", server.Root)
	if err := os.WriteFile(half, []byte("[default]\naws_access_key_id = planted-access\nplanted-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	none := func(string) (string, bool) { return "", false }
	for name, tc := range map[string]struct {
		query []string
		env   func(string) (string, bool)
		text  string
		hint  string
	}{
		"env":                    {[]string{"credentials", "env"}, server.Root.Env, "", ""},
		"env, empty":             {[]string{"credentials", "env"}, none, "AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set", "leave credentials=env out of the URL"},
		"file":                   {[]string{"credentials", "file:" + good}, none, "", ""},
		"file, not the env":      {[]string{"credentials", "file:" + good}, planted.Env, "", ""},
		"file, profile":          {[]string{"credentials", "file:" + other, "profile", "n8n"}, none, "", ""},
		"file, no such profile":  {[]string{"credentials", "file:" + good, "profile", "n8n"}, none, `has no keys in profile "n8n"`, "aws_access_key_id"},
		"file, missing":          {[]string{"credentials", "file:" + dir + "/missing"}, none, "no such file or directory", ""},
		"file, half":             {[]string{"credentials", "file:" + half}, none, `has no keys in profile "default"`, "its lines are [default]"},
		"chain, env":             {nil, server.Root.Env, "", ""},
		"chain, nothing":         {nil, none, "no credentials were found", "AWS_ACCESS_KEY_ID"},
		"chain, missing profile": {[]string{"profile", "n8n"}, none, `there is no profile "n8n" in ~/.aws`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			u := b.URL("", tc.query...)
			if tc.query == nil || tc.query[0] == "profile" {
				q := u.Query()
				q.Del("credentials")
				u.RawQuery = q.Encode()
			}
			cfg, err := Parse(u, tc.env)
			if err != nil {
				t.Fatal(err)
			}
			s, err := New(t.Context(), cfg)
			if err == nil {
				for _, err = range s.List(t.Context(), "") {
					break
				}
			}
			if tc.text == "" && err != nil {
				t.Fatal(err)
			}
			if tc.text != "" {
				wantError(t, err, tc.text, tc.hint)
				if strings.Contains(fmt.Sprintf("%v %+v %s", err, err, problem.HintOf(err)), "planted-") {
					t.Errorf("the error shows a key: %v", err)
				}
			}
		})
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", keys(".aws/credentials", "default", server.Root))
	u := b.URL("")
	u.RawQuery = url.Values{"endpoint": {server.Endpoint()}, "path_style": {"true"}}.Encode()
	s := open(t, u, s3test.Identity{}, func(c *Config) { c.Env = none })
	put(t, s, "a", "by way of ~/.aws/credentials")
}

func TestProperties(t *testing.T) {
	server := s3test.New(t)
	s := open(t, server.Bucket(t, s3test.Locked).URL("a/b", "lock", "compliance", "retain", "1d"), server.Root)
	p := s.Properties()
	if !p.AtomicPut || !p.Versioned || p.Caveat != "" || !strings.HasPrefix(p.Location, "s3://n8k-") || !strings.HasSuffix(p.Location, "/a/b?endpoint="+server.Endpoint()) {
		t.Errorf("%+v", p)
	}
}

func TestChecksums(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	for _, checksum := range []string{"crc32", "sha256", "md5", "none"} {
		s := open(t, b.URL(checksum, "checksum", checksum, "part_size", "5MiB", "storage_class", "STANDARD"), server.Root)
		put(t, s, "small", "x")
		if _, err := s.Put(t.Context(), "large", strings.NewReader(strings.Repeat("x", 11<<20))); err != nil {
			t.Errorf("%s: %v", checksum, err)
		}
	}
}

func TestErrorsOfWrongKeysAndBuckets(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	_, err := open(t, b.URL(""), s3test.Identity{Access: "root", Secret: "planted-secret"}).Stat(t.Context(), "a")
	wantError(t, err, `looking for "a" in "s3://`, "the access key is wrong, or its secret, or it has expired")
	_, err = open(t, b.URL("", "lock", "compliance", "retain", "1d"), server.Root).Put(t.Context(), "a", strings.NewReader("x"))
	wantError(t, err, `storing "a"`, "the bucket was made without object lock; turn it on, or leave lock and retain out of the URL")
	_, err = open(t, b.URL(""), server.Nobody).Put(t.Context(), "a", strings.NewReader("x"))
	wantError(t, err, "AccessDenied", `see what this identity may do with "n8keep target check"`)
	b.Name = "not-there"
	_, err = open(t, b.URL(""), server.Root).Put(t.Context(), "a", strings.NewReader("x"))
	wantError(t, err, "NoSuchBucket", "make the bucket")
	if problem.KindOf(err) != problem.NotFound {
		t.Errorf("kind %s", problem.KindOf(err))
	}
	start := time.Now()
	_, err = open(t, b.URL("", "endpoint", "http://127.0.0.1:1"), server.Root, func(c *Config) { c.Retry.Attempts = 1000; c.Retry.First = time.Microsecond }).Stat(t.Context(), "a")
	wantError(t, err, "connection refused", "check the endpoint, the network and any proxy in between")
	if time.Since(start) > 5*time.Second {
		t.Error("a service that never answered is tried for ever")
	}
}

// TestPrivateAuthority: AWS_CA_BUNDLE counts whatever the credentials come from.
func TestPrivateAuthority(t *testing.T) {
	seen := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen++
		w.Header().Set("ETag", `"x"`)
	}))
	t.Cleanup(server.Close)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	u, _ := url.Parse("s3://bucket/n8n?path_style=true&credentials=env&region=x&endpoint=" + server.URL)
	who := s3test.Identity{Access: "a", Secret: "s"}
	_, err := open(t, u, who).Put(t.Context(), "a", strings.NewReader("x"))
	wantError(t, err, "x509: certificate signed by unknown authority", "set AWS_CA_BUNDLE to its file")

	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(path string) func(*Config) {
		return func(c *Config) {
			c.Env = func(name string) (string, bool) {
				if name == "AWS_CA_BUNDLE" {
					return path, true
				}
				return who.Env(name)
			}
		}
	}
	if _, err := open(t, u, who, with(bundle)).Put(t.Context(), "a", strings.NewReader("x")); err != nil || seen != 1 {
		t.Errorf("Put: %v, the server saw %d requests", err, seen)
	}
	for path, want := range map[string]string{bundle + "x": "no such file", os.Args[0]: "holds no certificate"} {
		cfg, err := Parse(u, who.Env)
		if err != nil {
			t.Fatal(err)
		}
		with(path)(&cfg)
		_, err = New(t.Context(), cfg)
		wantError(t, err, want, "")
	}
}
