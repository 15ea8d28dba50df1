package main

import (
	"bytes"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/api"
)

// TestPlantedSecrets runs every command on an n8n with known secrets and then
// looks for them, in several encodings, in everything that was printed, logged
// or left behind, and in the command lines and environments of all processes
// while the commands ran. The archive's clear parts are part of what is left.
func TestPlantedSecrets(t *testing.T) {
	l := newLab(t, buildWithFailpoints(t), "2.41.1-sqlite")
	identity, err := os.ReadFile(l.identity)
	if err != nil {
		t.Fatal(err)
	}
	planted := map[string]string{
		"instance key": labKey,
		"credential":   "s3cr3t-header-value",
		"password":     "b@sic:pass/word",
		"token":        "lab-slack-bot-token",
		"identity":     strings.TrimSpace(string(identity)),
	}
	newKey, newerKey := filepath.Join(l.dir, "newkey"), filepath.Join(l.dir, "newerkey")
	planted["new key"], planted["newer key"] = "5b1d7c0e9f3a48266e0d84b1c7f2935ad06b3e91f8427c5d1ea960b73f48d2c5", "e8c05a7f1b93d64c20f7a158e3b94d6207c1f85ab39e64d0721fc8a5b04e93d6"
	write(t, newKey, planted["new key"])
	write(t, newerKey, planted["newer key"])
	watch := watchProcesses(planted)
	var out bytes.Buffer
	run := func(args ...string) {
		t.Helper()
		r := l.run("", args...)
		out.WriteString(r.stdout + r.stderr)
	}
	wrong := filepath.Join(l.dir, "wrong")
	write(t, wrong, "planted-wrong-key-0123456789")
	planted["wrong key"] = "planted-wrong-key-0123456789"
	compose := filepath.Join(l.dir, "compose.yaml")
	write(t, compose, "services:\n  n8n:\n    environment:\n      N8N_ENCRYPTION_KEY: "+labKey+"\n      DB_PASSWORD: planted-db-password\n")
	planted["deployment"] = "planted-db-password"
	quoted := filepath.Join(l.dir, "quoted")
	write(t, quoted, "\""+labKey+"\"\r\n")

	var made api.Backup
	r := l.must(&made, l.create("--deployment-file", compose)...)
	out.WriteString(r.stdout + r.stderr)
	archiveArgs := []string{made.ID, "--target", l.target, "-i", l.identity, "--key-file", l.key}
	restored := filepath.Join(l.dir, "restored")
	for _, args := range [][]string{
		{"census", "--n8n-dir", l.n8n}, {"census", "--n8n-dir", l.n8n, "--json", "--all-executions"}, {"census", "--n8n-dir", l.n8n, "--key-file", wrong},
		{"key", "check", "--n8n-dir", l.n8n}, {"key", "fingerprint", "--n8n-dir", l.n8n, "--key-file", wrong}, {"key", "fingerprint", "--n8n-dir", l.n8n},
		{"key", "find", "--n8n-dir", l.n8n, "--candidate", wrong, "--candidate", compose, "--candidate", l.n8n},
		{"key", "find", "--n8n-dir", l.n8n, "--candidate", wrong, "--candidates-only", "--json"}, {"key", "find", "--n8n-dir", l.n8n, "--candidate", quoted, "--candidates-only", "--json"},
		{"key", "generate", "--out", filepath.Join(l.dir, "generated")},
		l.create(), l.create("--key-file", wrong), l.create("--history", "none"), l.create("--recipient", planted["identity"]),
		{"backup", "list", "--target", l.target}, append([]string{"backup", "show"}, archiveArgs[:5]...),
		append([]string{"backup", "verify", "--level", "secrets"}, archiveArgs...),
		{"backup", "verify", made.ID, "--target", l.target, "-i", l.key, "--level", "full"},
		{"backup", "verify", made.ID, "--target", l.target, "-i", l.identity, "--key-file", wrong, "--level", "secrets"},
		append([]string{"restore", "--to", restored, "--dry-run"}, archiveArgs...), append([]string{"restore", "--to", restored}, archiveArgs...),
		append([]string{"restore", "--to", restored}, archiveArgs...), append([]string{"restore", "--to", restored, "--overwrite"}, archiveArgs...),
		{"status", "--n8n-dir", l.n8n, "--target", l.target}, {"init", "--n8n-dir", l.n8n, "--target", l.target, "--recipient", l.recip},
		{"demo"}, {"version"}, {"census", "--database", "postgres://u:planted-url-password@localhost/x", "--key-file", l.key},
		{"export", "--workflows", filepath.Join(l.dir, "flows"), "--n8n-dir", l.n8n}, l.exportCredentials("credentials.age", "--json"),
		l.exportCredentials("wrong.age", "--key-file", wrong), l.exportCredentials("credentials.age"), l.exportCredentials("mistaken.age", "-r", planted["identity"]),
	} {
		run(args...)
	}
	planted["url password"] = "planted-url-password"
	killed := false
	for i, point := range l.points(l.exportCredentials("points.age")...) {
		if strings.HasSuffix(point, " durable.synced") {
			killed = l.run(fmt.Sprintf("kill:%d", i+1), l.exportCredentials("killed.age")...).code == -1
		}
	}
	if left, err := filepath.Glob(filepath.Join(l.dir, ".n8keep-tmp-*")); !killed || err != nil || len(left) != 1 {
		t.Errorf("an export that is killed before its file has a name leaves %q: what it had written is not looked at (%v)", left, err)
	}
	l.plantRotations(planted, run)
	seen := watch()

	for name, secret := range planted {
		for _, form := range forms(secret) {
			if bytes.Contains(out.Bytes(), []byte(form)) {
				t.Errorf("%s printed", name)
			}
		}
	}
	// What stays: n8n's own folder, the key files and the identity are where
	// secrets belong; so is the config of the restored n8n.
	allowed := map[string]bool{l.identity: true, l.key: true, wrong: true, compose: true, quoted: true, filepath.Join(l.n8n, "config"): true, filepath.Join(restored, "config"): true, newKey: true, newerKey: true}
	staged, err := filepath.Glob(filepath.Join(l.n8n, ".n8keep-tmp-rotated-*"))
	if err != nil || len(staged) != 1 {
		t.Errorf("a rotation that is killed before its commit leaves %q beside n8n's config: %v", staged, err)
	}
	for _, path := range staged {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the config with the new key: %v %v", info, err)
		}
		allowed[path] = true
	}
	files := 0
	err = filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || allowed[path] {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for name, secret := range planted {
			// n8n itself keeps this one in clear: the echo server answered with it,
			// and the answer is execution data.
			if name == "credential" && strings.HasPrefix(filepath.Base(path), "database.sqlite") {
				continue
			}
			for _, form := range forms(secret) {
				if bytes.Contains(b, []byte(form)) {
					t.Errorf("%s found in %s", name, strings.TrimPrefix(path, l.dir))
				}
			}
		}
		return nil
	})
	if err != nil || files < 10 {
		t.Fatalf("looked through %d files: %v", files, err)
	}
	for _, s := range seen {
		// The one identity that was given as a flag's value by the user.
		if !strings.Contains(s, "identity in the command line") {
			t.Error(s)
		}
	}
}

func (l *lab) exportCredentials(out string, extra ...string) []string {
	return append([]string{"export", "--credentials", "--recipient", l.recip, "--out", filepath.Join(l.dir, out), "--n8n-dir", l.n8n}, extra...)
}

// plantRotations runs what replaces keys: a rotation there and back and there again,
// with commands that tell what they got, data keys, re-encryption; and a last one that
// is killed in the middle, so that what it leaves is looked at, too.
func (l *lab) plantRotations(planted map[string]string, run func(...string)) {
	t := l.t
	t.Helper()
	told := filepath.Join(l.dir, "told")
	tell := "env >> " + told + "; tr '\\0' ' ' < /proc/$$/cmdline >> " + told + "; tr '\\0' ' ' < /proc/$PPID/cmdline >> " + told + "; tr '\\0' ' ' < /proc/$PPID/environ >> " + told
	to := func(file string, extra ...string) []string {
		return append([]string{"rotate", "instance", "--n8n-dir", l.n8n, "--instance", "lab", "--new-key-file", filepath.Join(l.dir, file), "--recipient", l.recip, "--identity", l.identity,
			"--target", l.target, "--stop-command", tell, "--start-command", tell}, extra...)
	}
	rotation := func() string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(l.dir, "home/.local/state/n8keep/rotations/*/journal.json"))
		if err != nil || len(names) == 0 {
			t.Fatalf("no rotation: %v", err)
		}
		return filepath.Base(filepath.Dir(names[len(names)-1]))
	}
	wrong := filepath.Join(l.dir, "wrong")
	for _, args := range [][]string{
		to("newkey", "--dry-run", "--json", "--after-leak"), to("newkey"), to("key", "--yes"), to("newkey", "--key-file", wrong, "--yes"),
		to("newkey", "--recipient", planted["identity"], "--yes"), to("newkey", "--yes"),
	} {
		run(args...)
	}
	id := rotation()
	for _, args := range [][]string{
		{"rotate", "status", "--json"}, {"rotate", "status", id}, {"rotate", "rollback", id, "--key-file", wrong, "--yes"}, {"rotate", "rollback", id, "--yes", "--json"},
		to("newkey", "--yes", "--json", "--executions", "all"),
	} {
		run(args...)
	}
	id = rotation()
	for _, args := range [][]string{
		{"rotate", "resume", id, "--yes"}, {"rotate", "finalise", id, "--identity", l.identity, "--yes", "--json"}, {"census", "--n8n-dir", l.n8n},
		{"data-key", "list", "--n8n-dir", l.n8n, "--json"}, {"data-key", "list", "--n8n-dir", l.n8n, "--key-file", wrong}, {"data-key", "rotate", "--n8n-dir", l.n8n, "--yes"},
		{"data-key", "rotate", "--n8n-dir", l.n8n, "--n8n-url", "http://127.0.0.1:1", "--session-file", l.key, "--yes"},
		{"reencrypt", "--n8n-dir", l.n8n, "--to", "active", "--key-rotation-flag", "on", "--dry-run"}, {"reencrypt", "--n8n-dir", l.n8n, "--to", "active", "--key-rotation-flag", "on", "--yes"},
		{"data-key", "retire", "zMhTolQAVifoGM0K", "--n8n-dir", l.n8n, "--yes"}, {"reencrypt", "--n8n-dir", l.n8n, "--to", "legacy", "--key-rotation-flag", "off", "--yes", "--json"},
	} {
		run(args...)
	}
	if doc := new(api.Census); true {
		l.must(doc, "census", "--n8n-dir", l.n8n, "--key-file", filepath.Join(l.dir, "newkey"), "--json")
		if doc.Totals.Opened < 30 {
			t.Fatalf("not rotated: %+v", doc.Totals)
		}
	}
	if b, err := os.ReadFile(told); err != nil || bytes.Count(b, []byte("PATH=")) < 8 {
		t.Errorf("the commands told %d bytes: %v", len(b), err)
	}
	points := l.points(to("newerkey", "--yes")...)
	run("rotate", "rollback", rotation(), "--yes")
	for i, point := range points {
		if strings.HasSuffix(point, " rotate.commit") {
			if r := l.run(fmt.Sprintf("kill:%d", i+1), to("newerkey", "--yes")...); r.code != -1 {
				t.Errorf("not killed at %s: %+v", point, r)
			}
			return
		}
	}
	t.Errorf("a rotation passes no point before its commit: %q", points)
}

func forms(s string) []string {
	quoted, _ := json.Marshal(s)
	return []string{s, string(quoted), base64.StdEncoding.EncodeToString([]byte(s)), base64.RawStdEncoding.EncodeToString([]byte(s)), hex.EncodeToString([]byte(s))}
}

// watchProcesses looks at /proc until the returned function is called.
func watchProcesses(planted map[string]string) func() []string {
	watched := map[string]string{}
	for name, secret := range planted {
		watched[name] = secret
	}
	stop, done := make(chan struct{}), make(chan []string)
	go func() {
		found := map[string]bool{}
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				var list []string
				for f := range found {
					list = append(list, f)
				}
				done <- list
				return
			case <-tick.C:
			}
			dirs, _ := filepath.Glob("/proc/[0-9]*")
			for _, dir := range dirs {
				exe, _ := os.Readlink(filepath.Join(dir, "exe"))
				if filepath.Base(exe) != "n8keep" {
					continue
				}
				for file, what := range map[string]string{"cmdline": "command line", "environ": "environment"} {
					b, _ := os.ReadFile(filepath.Join(dir, file))
					for name, secret := range watched {
						if bytes.Contains(b, []byte(secret)) {
							found[name+" in the "+what] = true
						}
					}
				}
			}
		}
	}()
	return func() []string { close(stop); return <-done }
}

func execSQL(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
}

// TestStaticBinary checks that a released binary is static and small in what it needs.
func TestStaticBinary(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "n8keep")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, _ := exec.Command("ldd", bin).CombinedOutput()
	if !strings.Contains(string(out), "not a dynamic executable") {
		t.Errorf("ldd: %s", out)
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("N8KEEP_FAILPOINT")) {
		t.Error("the released binary knows the failpoints' variable")
	}
}
