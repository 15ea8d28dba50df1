package n8ndb_test

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestNamePostgres: an ordinary role of every server gets the same name on every way to
// a database, and another one for another database. A role that may not ask is told so.
func TestNamePostgres(t *testing.T) {
	ctx := t.Context()
	name := func(dsn string) (string, string) {
		t.Helper()
		got, doubt, err := n8ndb.NamePostgres(ctx, dsn, "")
		if err != nil {
			t.Fatal(err)
		}
		return got, doubt
	}
	for _, major := range pgtest.Versions() {
		super := pgtest.NewVersion(t, major)
		role := pgtest.Role(t, super, "")
		first, doubt := name(role)
		if !regexp.MustCompile(`^server:[0-9a-f]{32}$`).MatchString(first) || doubt != "" {
			t.Errorf("PostgreSQL %d: %q %q", major, first, doubt)
		}
		u, err := url.Parse(role)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.Connect(ctx, super)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		var dir string
		if err := conn.QueryRow(ctx, "SHOW unix_socket_directories").Scan(&dir); err != nil {
			t.Fatal(err)
		}
		host, socket := *u, *u
		host.Host = "localhost:" + u.Port()
		socket.Host, socket.RawQuery = "", "sslmode=disable&host="+url.QueryEscape(dir)+"&port="+u.Port()
		for _, way := range []string{super, host.String(), socket.String()} {
			if got, _ := name(way); got != first {
				t.Errorf("PostgreSQL %d: %q, want %q", major, got, first)
			}
		}
		if other, _ := name(pgtest.NewVersion(t, major)); other == first {
			t.Errorf("PostgreSQL %d: two databases have the name %q", major, other)
		}
		if _, err := conn.Exec(ctx, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"); err != nil {
			t.Fatal(err)
		}
		if got, doubt := name(role); got != "" || !strings.Contains(doubt, "GRANT EXECUTE ON FUNCTION pg_control_system()") || !strings.Contains(doubt, "known by its address only") {
			t.Errorf("PostgreSQL %d: %q %q", major, got, doubt)
		}
		gone := *u
		gone.Path = "/nosuch"
		if _, _, err := n8ndb.NamePostgres(ctx, gone.String(), ""); problem.KindOf(err) != problem.NotFound {
			t.Errorf("PostgreSQL %d: %v", major, err)
		}
	}
	if _, _, err := n8ndb.NamePostgres(ctx, "postgres://u:hunter2@127.0.0.1:1/d?connect_timeout=5", ""); problem.KindOf(err) != problem.Unreachable || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

// TestNameFile: links are the same file, a copy is not.
func TestNameFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"a", "copy"} {
		if err := os.WriteFile(at(name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(at("a"), at("hard")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", at("soft")); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, file := range []string{"a", "copy", "hard", "soft", "nosuch", "a/below"} {
		got, err := n8ndb.NameFile(at(file))
		if err != nil {
			t.Fatal(err)
		}
		names[file] = got
	}
	if names["a"] == "" || names["hard"] != names["a"] || names["soft"] != names["a"] || names["copy"] == names["a"] || names["nosuch"]+names["a/below"] != "" {
		t.Error(names)
	}
	// Another file that gets the number of one that is gone is another file, once the
	// clock of the file system has gone on.
	for end := time.Now().Add(2 * time.Second); ; {
		if err := os.Remove(at("copy")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at("copy"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := n8ndb.NameFile(at("copy"))
		if err != nil {
			t.Fatal(err)
		}
		if got != names["copy"] {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a new file has the name of the old one, %q", got)
		}
	}
}
