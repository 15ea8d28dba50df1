package pgclient

import (
	"context"
	"errors"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func TestMain(m *testing.M) {
	// The child of TestKilledWithUs talks to its parent's server.
	if os.Getenv("PGCLIENT_CHILD") != "" {
		os.Exit(m.Run())
	}
	os.Exit(pgtest.Main(m))
}

const fixture = "../../testdata/fixtures/2.41.1-postgres/database.dump"

// programs are those of the test server's release.
func programs(t testing.TB) Programs {
	t.Helper()
	bin, err := pgtest.Program("pg_dump")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Find(t.Context(), FindConfig{Dir: filepath.Dir(bin)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func connectTo(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // it serves in cleanups too
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(ctx) })
	return conn
}

func execute(t testing.TB, dsn string, statements ...string) {
	t.Helper()
	conn := connectTo(t, dsn)
	for _, s := range statements {
		if _, err := conn.Exec(context.WithoutCancel(t.Context()), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	if err := conn.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func query(t testing.TB, dsn, sql string, args ...any) string {
	t.Helper()
	conn := connectTo(t, dsn)
	defer conn.Close(t.Context())
	var s *string
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if s == nil {
		return ""
	}
	return *s
}

// with is the DSN with something changed.
func with(t testing.TB, dsn string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	change(u)
	return u.String()
}

func param(t testing.TB, dsn, name, value string) string {
	return with(t, dsn, func(u *url.URL) {
		q := u.Query()
		q.Set(name, value)
		u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	})
}

func passwordOf(t testing.TB, dsn string) string {
	t.Helper()
	_, password, err := SplitDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	if password.IsZero() {
		t.Fatal("the test server's address has no password")
	}
	return password.Reveal()
}

// dumpTo writes a dump of the DSN to a file and returns its name.
func dumpTo(t testing.TB, cfg DumpConfig) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "dump")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Programs, cfg.Out = programs(t), f
	if err := errors.Join(Dump(t.Context(), cfg), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

// schemaOf is the definition of everything in the database, as text to compare.
func schemaOf(t testing.TB, dsn string, more ...string) string {
	t.Helper()
	cmd := exec.Command(programs(t).Dump, append([]string{"--schema-only", "--no-owner", "--no-acl", "--restrict-key=n8keep", "--dbname", dsn}, more...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// wantProblem checks an error's kind and text; hint must be in its hint.
func wantProblem(t testing.TB, err error, kind problem.Kind, text, hint string) {
	t.Helper()
	if problem.KindOf(err) != kind || err.Error() != text {
		t.Errorf("got  %s: %v\nwant %s: %s", problem.KindOf(err), err, kind, text)
	}
	if h := problem.HintOf(err); hint == "" && h != "" || !strings.Contains(h, hint) {
		t.Errorf("hint %q, want one with %q", h, hint)
	}
}
