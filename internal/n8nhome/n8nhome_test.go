package n8nhome

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
)

func envOf(pairs ...string) Env {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func TestDefaultDir(t *testing.T) {
	for _, tt := range []struct {
		env  Env
		want string
	}{
		{envOf(), ""},
		{envOf("HOME", ""), ""},
		{envOf("HOME", "/home/node", "N8N_USER_FOLDER", ""), ""},
		{envOf("HOME", "/home/node"), "/home/node/.n8n"},
		{envOf("HOME", "/home/node", "N8N_USER_FOLDER", "/data"), "/data/.n8n"},
	} {
		if got := DefaultDir(tt.env); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestDatabasePath(t *testing.T) {
	for _, tt := range []struct {
		env  Env
		want string
	}{
		{envOf(), "/d/.n8n/database.sqlite"},
		{envOf("DB_SQLITE_DATABASE", ""), "/d/.n8n/database.sqlite"},
		{envOf("DB_SQLITE_DATABASE", ` "my.db" `), "/d/.n8n/my.db"},
		{envOf("DB_SQLITE_DATABASE", "../x/my.db"), "/d/x/my.db"},
		{envOf("DB_SQLITE_DATABASE", "/var/lib/n8n.sqlite"), "/var/lib/n8n.sqlite"},
	} {
		if got := DatabasePath("/d/.n8n", tt.env); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestCheckDir(t *testing.T) {
	home := t.TempDir()
	inner := filepath.Join(home, ".n8n")
	if err := errors.Join(os.Mkdir(inner, 0o700), os.WriteFile(filepath.Join(inner, "config"), []byte("{}"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := CheckDir(inner); err != nil || got != inner {
		t.Errorf("%q %v", got, err)
	}
	empty := t.TempDir()
	if got, err := CheckDir(empty); err != nil || got != empty {
		t.Errorf("%q %v", got, err)
	}
	t.Chdir(home)
	if got, err := CheckDir(".n8n"); err != nil || got != inner {
		t.Errorf("%q %v", got, err)
	}
	for _, tt := range []struct {
		dir        string
		kind       problem.Kind
		text, hint string
	}{
		{home, problem.Usage, fmt.Sprintf("n8n folder %q is the one above n8n's own", home), fmt.Sprintf("give the folder that holds config and database.sqlite: --n8n-dir %q", inner)},
		{filepath.Join(inner, "config"), problem.Usage, fmt.Sprintf("n8n folder %q is a file", filepath.Join(inner, "config")), fmt.Sprintf("give the folder that holds it: --n8n-dir %q", inner)},
		{"/nonexistent/.n8n", problem.NotFound, `n8n folder "/nonexistent/.n8n" does not exist`,
			`n8n's folder is usually ~/.n8n, in its Docker image "/home/node/.n8n"; give it with --n8n-dir DIR`},
		{filepath.Join(inner, "config", "x"), problem.Unexpected, fmt.Sprintf("finding n8n folder %q: not a directory", filepath.Join(inner, "config", "x")), "run as the user that runs n8n, or as root"},
	} {
		_, err := CheckDir(tt.dir)
		if err == nil || err.Error() != tt.text || problem.KindOf(err) != tt.kind || problem.HintOf(err) != tt.hint {
			t.Errorf("got %v (%s) %q", err, problem.KindOf(err), problem.HintOf(err))
		}
	}
}

// What we write is what real n8n wrote, byte for byte.
func TestWriteConfigLikeN8N(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/fixtures/*/config")
	if err != nil || len(paths) < 9 {
		t.Fatalf("%d fixtures, %v", len(paths), err)
	}
	for _, path := range paths {
		config, err := ReadConfig(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		old := syscall.Umask(0)
		err = WriteConfig(dir, config.Key, &Owner{os.Getuid(), os.Getgid()})
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := os.ReadFile(path)
		got, _ := os.ReadFile(filepath.Join(dir, "config"))
		if len(want) == 0 || !bytes.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		info, err := os.Stat(filepath.Join(dir, "config"))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v %v", info.Mode(), err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("left: %v", entries)
		}
	}
}

func TestFormatConfigEscapes(t *testing.T) {
	const text = "a\"b\\c\b\f\n\r\t\x01\x1f\x7f<>&ü\u2028☃😀"
	got := FormatConfig(mustKey(t, text))
	const want = "{\n\t\"encryptionKey\": \"a\\\"b\\\\c\\b\\f\\n\\r\\t\\u0001\\u001f\x7f<>&ü\u2028☃😀\"\n}"
	if string(got) != want {
		t.Errorf("%q", got)
	}
	var back struct{ EncryptionKey string }
	if err := json.Unmarshal(got, &back); err != nil || back.EncryptionKey != text {
		t.Errorf("%q %v", back.EncryptionKey, err)
	}
}

func TestWriteConfigRefusals(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	if err := os.WriteFile(path, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := WriteConfig(dir, mustKey(t, keyA), nil)
	if !errors.Is(err, fs.ErrExist) || problem.KindOf(err) != problem.Usage || err.Error() != fmt.Sprintf("writing n8n's settings file %q: file already exists", path) {
		t.Error(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Error("replaced")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
	err = WriteConfig("/nonexistent", mustKey(t, keyA), nil)
	if err == nil || err.Error() != `writing n8n's settings file: creating "/nonexistent/config": no such file or directory` {
		t.Error(err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(path, content string, mode fs.FileMode) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	sqlite := "SQLite format 3\x00" + strings.Repeat("x", 84)
	for _, left := range []string{"config", "crash.journal", "n8nEventLog.log", "n8nEventLog-1.log", "n8nEventLog-worker-2.log", "database.sqlite", "database.sqlite-wal",
		"database.sqlite-shm", "database.sqlite.before-20260801", "mine.db-wal", durable.TempPrefix + "1", "nodes/" + durable.TempPrefix + "2"} {
		put(left, "left out", 0o600)
	}
	put("mine.db", sqlite, 0o600)
	put("nodes/package.json", "{}", 0o644)
	put("nodes/node_modules/x/run.sh", "#!", 0o755)
	put("custom/a.node.js", "js", 0o640)
	put("ssh/key", "k", 0o600)
	put("git/.git/config", "[core]", 0o644)
	put("git/database.sqlite", sqlite, 0o644)
	put("notes.txt", "mine", 0o600)
	put("binaryData/workflows/1/f", "bin", 0o600)
	put("storage/workflows/1/executions/2/execution_data/bundle.json", "{}", 0o600)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "empty"), 0o700), os.Symlink("/etc/passwd", filepath.Join(dir, "custom/link")),
		os.Symlink("..", filepath.Join(dir, "up")), os.MkdirAll(filepath.Join(dir, "nodes/node_modules/.bin"), 0o755),
		os.Symlink("../x/run.sh", filepath.Join(dir, "nodes/node_modules/.bin/run")), syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	collect := func(cfg FilesConfig) (lines []string) {
		for f, err := range Files(dir, cfg) {
			if err != nil {
				t.Fatal(err)
			}
			if f.Skipped == "" && f.ModTime.IsZero() {
				t.Errorf("%s has no time", f.Path)
			}
			lines = append(lines, fmt.Sprintf("%s %d %v %s", f.Path, f.Size, f.Mode.Perm(), f.Skipped))
		}
		return lines
	}
	want := []string{
		"custom/a.node.js 2 -rw-r----- ",
		"custom/link 0 -rwxrwxrwx symbolic link to /etc/passwd",
		"git/.git/config 6 -rw-r--r-- ",
		"git/database.sqlite 100 -rw-r--r-- ",
		"nodes/node_modules/x/run.sh 2 -rwxr-xr-x ",
		"nodes/package.json 2 -rw-r--r-- ",
		"notes.txt 4 -rw------- ",
		"pipe 0 -rw------- named pipe",
		"socket 0 -rwxr-xr-x socket",
		"ssh/key 1 -rw------- ",
		"up 0 -rwxrwxrwx symbolic link to ..",
	}
	if diff := cmp.Diff(want, collect(FilesConfig{})); diff != "" {
		t.Error(diff)
	}
	withBinary := append([]string{"binaryData/workflows/1/f 3 -rw------- "}, want...)
	withBinary = append(withBinary[:len(withBinary)-1], "storage/workflows/1/executions/2/execution_data/bundle.json 2 -rw------- ", want[len(want)-1])
	if diff := cmp.Diff(withBinary, collect(FilesConfig{Binary: true})); diff != "" {
		t.Error(diff)
	}
	for range Files(dir, FilesConfig{}) {
		break
	}
}

func TestFilesOfMissingFolder(t *testing.T) {
	for _, err := range Files("/nonexistent/.n8n", FilesConfig{}) {
		if err == nil || err.Error() != `reading n8n folder "/nonexistent/.n8n": no such file or directory` || problem.HintOf(err) != "run as the user that runs n8n, or as root" {
			t.Errorf("got %v", err)
		}
		return
	}
	t.Error("no error")
}
