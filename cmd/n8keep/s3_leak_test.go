package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/s3test"
)

// TestPlantedStoreSecrets runs the commands that talk to a bucket, with right and
// wrong keys, and looks for the keys in everything that was printed, logged,
// left behind or stored, and in command lines and environments meanwhile.
func TestPlantedStoreSecrets(t *testing.T) {
	server := s3test.New(t)
	bucket := server.Bucket(t, s3test.Versioned)
	l := newLab(t, buildWithFailpoints(t), "2.41.1-sqlite")
	planted := map[string]string{"secret key": server.Root.Secret, "wrong secret key": "planted-wrong-s3-secret-key", "secret key in the URL": "planted-url-s3-secret-key"}
	keys := func(name, secret string) string {
		path := filepath.Join(l.dir, name)
		write(t, path, fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", server.Root.Access, secret))
		return path
	}
	good, wrong := keys("good.keys", server.Root.Secret), keys("wrong.keys", planted["wrong secret key"])
	target := func(file string) string {
		return bucket.URL("n8n", "credentials", "file:"+file).String()
	}
	config := filepath.Join(l.dir, "n8keep.yaml")
	write(t, config, "targets:\n  bucket:\n    url: "+target(good)+"\n")
	withKey := bucket.URL("n8n", "secret_access_key", planted["secret key in the URL"])
	withPassword := *withKey
	withPassword.User, withPassword.RawQuery = url.UserPassword("root", planted["secret key in the URL"]), ""

	// Nobody but a user who was told not to puts a secret into a command line.
	watched := map[string]string{"secret key": planted["secret key"], "wrong secret key": planted["wrong secret key"]}
	watch := watchProcesses(watched)
	var out bytes.Buffer
	l.target = target(good)
	var made api.Backup
	r := l.must(&made, l.create()...)
	out.WriteString(r.stdout + r.stderr)
	archive := []string{made.ID, "--target", target(good), "-i", l.identity, "--key-file", l.key}
	commands := 0
	for _, args := range [][]string{
		{"backup", "list", "--target", target(good)}, {"backup", "list", "--target", target(wrong)}, {"backup", "list", "--target", "bucket", "--config", config, "--json"},
		append([]string{"backup", "show"}, archive[:5]...), append([]string{"backup", "verify", "--level", "secrets"}, archive...),
		{"backup", "verify", made.ID, "--target", target(wrong)},
		append([]string{"restore", "--to", filepath.Join(l.dir, "restored")}, archive...),
		{"status", "--n8n-dir", l.n8n, "--target", target(good)}, {"status", "--n8n-dir", l.n8n, "--target", target(wrong), "--json"},
		{"target", "check", target(good)}, {"target", "check", target(wrong)}, {"target", "check", "bucket", "--config", config, "--json"},
		{"target", "policy", target(good)}, {"target", "policy", target(wrong), "--role", "pruner", "--json"},
		{"target", "check", withKey.String()}, {"target", "policy", withPassword.String()}, {"backup", "list", "--target", withKey.String()},
	} {
		r := l.run("", args...)
		out.WriteString(r.stdout + r.stderr)
		commands++
	}
	l.target = target(wrong)
	r = l.run("", l.create()...)
	out.WriteString(r.stdout + r.stderr)
	if r.code != 14 {
		t.Errorf("a backup with a wrong key: exit %d\n%s", r.code, r.stderr)
	}
	for _, s := range watch() {
		t.Error(s)
	}
	if commands < 15 || !strings.Contains(out.String(), "SignatureDoesNotMatch") || !strings.Contains(out.String(), made.ID) {
		t.Fatalf("%d commands did not do what they were to:\n%s", commands, out.String())
	}
	look := func(where string, content []byte) {
		for name, secret := range planted {
			for _, form := range forms(secret) {
				if bytes.Contains(content, []byte(form)) {
					t.Errorf("%s found in %s", name, where)
				}
			}
		}
	}
	look("what was printed", out.Bytes())
	files := 0
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == good || path == wrong {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		look(strings.TrimPrefix(path, l.dir), b)
		return err
	})
	if err != nil || files < 6 {
		t.Fatalf("looked through %d files: %v", files, err)
	}
}
