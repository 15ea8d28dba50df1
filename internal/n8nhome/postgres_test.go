package n8nhome

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

func mapEnv(m map[string]string) Env {
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

func TestPostgresSettings(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	standard := func(change func(*Connection)) Connection {
		c := Connection{Host: "localhost", Port: 5432, Database: "n8n", User: "postgres", Schema: "public", Timeout: 20 * time.Second}
		change(&c)
		return c
	}
	for _, tt := range []struct {
		name string
		env  map[string]string
		want Connection
	}{
		{"nothing", nil, standard(func(*Connection) {})},
		{"all", map[string]string{"DB_POSTGRESDB_HOST": "db", "DB_POSTGRESDB_PORT": "5433", "DB_POSTGRESDB_DATABASE": "data", "DB_POSTGRESDB_USER": "me",
			"DB_POSTGRESDB_PASSWORD": "pw", "DB_POSTGRESDB_SCHEMA": "s", "DB_TABLE_PREFIX": "n8n_", "DB_POSTGRESDB_CONNECTION_TIMEOUT": "1500"},
			Connection{Host: "db", Port: 5433, Database: "data", User: "me", Password: secret.NewString("pw"), Schema: "s", TablePrefix: "n8n_", Timeout: 1500 * time.Millisecond}},
		{"files", map[string]string{"DB_POSTGRESDB_HOST_FILE": file("host", " db\n"), "DB_POSTGRESDB_PORT_FILE": file("port", "5433\n"), "DB_POSTGRESDB_PASSWORD_FILE": file("pw", "'pw'\n")},
			standard(func(c *Connection) { c.Host, c.Port, c.Password = "db", 5433, secret.NewString("pw") })},
		{"variable hides file", map[string]string{"DB_POSTGRESDB_PASSWORD": "", "DB_POSTGRESDB_PASSWORD_FILE": file("hidden", "pw")}, standard(func(*Connection) {})},
		{"quotes and space", map[string]string{"DB_POSTGRESDB_HOST": ` "db" `, "DB_POSTGRESDB_PASSWORD": `"p'w"`},
			standard(func(c *Connection) { c.Host, c.Password = "db", secret.NewString("p'w") })},
		{"empty falls to libpq's", map[string]string{"DB_POSTGRESDB_HOST": "", "PGHOST": "pg", "DB_POSTGRESDB_PASSWORD": "", "PGPASSWORD": "pgpw", "PGUSER": "ignored"},
			standard(func(c *Connection) { c.Host, c.Password = "pg", secret.NewString("pgpw") })},
		{"no number", map[string]string{"DB_POSTGRESDB_PORT": "54x"}, standard(func(c *Connection) {
			c.Warnings = []string{"DB_POSTGRESDB_PORT is no number: n8n ignores it, and takes 5432"}
		})},
		{"empty number", map[string]string{"DB_POSTGRESDB_PORT": " "}, standard(func(*Connection) {})},
		{"no truth", map[string]string{"DB_POSTGRESDB_SSL_ENABLED": "yes"}, standard(func(c *Connection) {
			c.Warnings = []string{"DB_POSTGRESDB_SSL_ENABLED is neither true nor false: n8n ignores it, and takes false"}
		})},
		{"TLS", map[string]string{"DB_POSTGRESDB_SSL_ENABLED": "TRUE"}, standard(func(c *Connection) { c.TLS = &TLS{Verify: true} })},
		{"TLS unverified", map[string]string{"DB_POSTGRESDB_SSL_REJECT_UNAUTHORIZED": "false"}, standard(func(c *Connection) { c.TLS = &TLS{} })},
		{"TLS by CA alone", map[string]string{"DB_POSTGRESDB_SSL_CA": "PEM"}, standard(func(c *Connection) { c.TLS = &TLS{Verify: true, CA: "PEM"} })},
		{"TLS by files", map[string]string{"DB_POSTGRESDB_SSL_CERT_FILE": file("cert", "CERT\n"), "DB_POSTGRESDB_SSL_KEY_FILE": file("key", "KEY\n"), "DB_POSTGRESDB_SSL_ENABLED": "0"},
			standard(func(c *Connection) {
				c.TLS = &TLS{Verify: true, Cert: "CERT", Key: secret.NewString("KEY"), files: [3]string{"", filepath.Join(dir, "cert"), filepath.Join(dir, "key")}}
			})},
		{"socket", map[string]string{"DB_POSTGRESDB_HOST": "/run/pg", "DB_POSTGRESDB_SSL_ENABLED": "1"}, standard(func(c *Connection) {
			c.Host = "/run/pg"
			c.Warnings = []string{`DB_POSTGRESDB_SSL_ settings mean nothing for the Unix socket "/run/pg"; n8n itself would not connect with them`}
		})},
	} {
		got, err := Postgres(mapEnv(tt.env))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		reveal := cmp.Comparer(func(a, b secret.String) bool { return a.Reveal() == b.Reveal() })
		if d := cmp.Diff(tt.want, got, reveal, cmp.AllowUnexported(TLS{})); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

func TestPostgresErrors(t *testing.T) {
	for _, tt := range []struct {
		env        map[string]string
		kind       problem.Kind
		text, hint string
	}{
		{map[string]string{"DB_POSTGRESDB_PASSWORD_FILE": "/nowhere/pw"}, problem.NotFound, `DB_POSTGRESDB_PASSWORD_FILE names "/nowhere/pw", which does not exist`,
			"correct DB_POSTGRESDB_PASSWORD_FILE or unset it; n8n does not start with it either"},
		{map[string]string{"DB_POSTGRESDB_SSL_CA_FILE": "/"}, problem.Usage, `DB_POSTGRESDB_SSL_CA_FILE names "/", which cannot be read: it is a folder`, "name the file itself, not the folder"},
		{map[string]string{"DB_POSTGRESDB_PORT": "70000"}, problem.Usage, "DB_POSTGRESDB_PORT is 70000, which is no port", "PostgreSQL's is 5432"},
	} {
		_, err := Postgres(mapEnv(tt.env))
		if problem.KindOf(err) != tt.kind || err.Error() != tt.text || problem.HintOf(err) != tt.hint {
			t.Errorf("%v: %v / %s", tt.env, err, problem.HintOf(err))
		}
	}
	for typ, want := range map[string]string{"": "false", "sqlite": "false", "postgresdb": "true", ` "postgresdb" `: "true", "postgres": "false",
		"mysqldb": "DB_TYPE names a database that n8keep does not read: mysqldb", "mariadb": "DB_TYPE names a database that n8keep does not read: mariadb"} {
		uses, err := UsesPostgres(mapEnv(map[string]string{"DB_TYPE": typ}))
		if got := map[bool]string{true: "true", false: "false"}[uses]; err == nil && got != want || err != nil && err.Error() != want {
			t.Errorf("DB_TYPE=%q: %v %v", typ, uses, err)
		}
	}
	if uses, err := UsesPostgres(mapEnv(map[string]string{"DB_TYPE_FILE": "/nowhere/type"})); uses || problem.KindOf(err) != problem.NotFound {
		t.Errorf("%v %v", uses, err)
	}
}

func TestDSN(t *testing.T) {
	for _, tt := range []struct {
		c           Connection
		want, place string
	}{
		{Connection{Host: "db", Port: 5432, Database: "n8n", User: "n8n", Password: secret.NewString("a:b@/ ?&#%")},
			"postgres://n8n:a%3Ab%40%2F%20%3F&%23%25@db:5432/n8n?sslmode=disable", "postgres://n8n@db:5432/n8n"},
		{Connection{Host: "::1", Port: 5432, Database: "a/b", User: "u", Timeout: 1500 * time.Millisecond},
			"postgres://u@[::1]:5432/a/b?connect_timeout=2&sslmode=disable", "postgres://u@[::1]:5432/a/b"},
		{Connection{Host: "/run/pg", Port: 5433, Database: "n8n", User: "u"}, "postgres://u@/n8n?host=%2Frun%2Fpg&port=5433&sslmode=disable", "postgres://u@/n8n?host=/run/pg"},
		{Connection{Host: "db", Port: 1, Database: "n8n", User: "u", TLS: &TLS{CA: "ignored"}}, "postgres://u@db:1/n8n?sslmode=require", "postgres://u@db:1/n8n"},
	} {
		got, err := tt.c.DSN()
		if err != nil || got.Reveal() != tt.want || tt.c.Place() != tt.place {
			t.Errorf("%s\n%s\n%s %v", got.Reveal(), tt.want, tt.c.Place(), err)
		}
	}
	got, err := Connection{Host: "db", Port: 1, Database: "n8n", User: "u", TLS: &TLS{Verify: true, Cert: "CERT", Key: secret.NewString("KEY")}}.DSN()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(got.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if q.Get("sslmode") != "verify-full" || q.Get("sslrootcert") != systemCAs() {
		t.Error(got.Reveal())
	}
	for parameter, want := range map[string]string{"sslcert": "CERT", "sslkey": "KEY"} {
		path := q.Get(parameter)
		b, err := os.ReadFile(path)
		if err != nil || string(b) != want {
			t.Errorf("%s: %q %v", path, b, err)
		}
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info, err)
		}
		if link, err := os.Readlink(path); err != nil || !strings.HasPrefix(link, "/memfd:") {
			t.Errorf("%s is not in memory: %s %v", path, link, err)
		}
	}
}

func TestPostgresPassword(t *testing.T) {
	dir := t.TempDir()
	pass := filepath.Join(dir, ".pgpass")
	text := "# comment:x:x:x:no\n\nother:5432:n8n:n8n:wrong\ndb:5432:n8n:n8n:from\\:file\\\\\n*:5433:*:n8n:by:port\nlocalhost:*:n8n:n8n:socket\r\n/run/pg:*:*:*:own\nshort:line\n"
	if err := os.WriteFile(pass, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	loose := filepath.Join(dir, "loose")
	if err := os.WriteFile(loose, []byte("*:*:*:*:loose"), 0o644); err != nil {
		t.Fatal(err)
	}
	pw := filepath.Join(dir, "pw")
	if err := os.WriteFile(pw, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name             string
		env              map[string]string
		host, port, user string
		want, warning    string
	}{
		{"n8n's", map[string]string{"DB_POSTGRESDB_PASSWORD": "n8ns", "PGPASSWORD": "pg"}, "db", "", "n8n", "n8ns", ""},
		{"n8n's file", map[string]string{"DB_POSTGRESDB_PASSWORD_FILE": pw}, "db", "", "n8n", "secret", ""},
		{"n8n's, same user", map[string]string{"DB_POSTGRESDB_PASSWORD": "n8ns", "DB_POSTGRESDB_USER": "n8n"}, "db", "", "n8n", "n8ns", ""},
		{"n8n's, another user", map[string]string{"DB_POSTGRESDB_PASSWORD": "n8ns", "DB_POSTGRESDB_USER": "n8n", "PGPASSWORD": "pg"}, "db", "", "backup", "pg", ""},
		{"libpq's", map[string]string{"PGPASSWORD": "pg", "HOME": dir}, "db", "", "n8n", "pg", ""},
		{"home", map[string]string{"HOME": dir}, "db", "", "n8n", `from:file\`, ""},
		{"wildcards", map[string]string{"HOME": dir}, "any", "5433", "n8n", "by:port", ""},
		{"default socket", map[string]string{"PGPASSFILE": pass}, "/var/run/postgresql", "", "n8n", "socket", ""},
		{"no host", map[string]string{"PGPASSFILE": pass}, "", "", "n8n", "socket", ""},
		{"own socket", map[string]string{"PGPASSFILE": pass}, "/run/pg", "", "n8n", "own", ""},
		{"no line", map[string]string{"PGPASSFILE": pass}, "elsewhere", "", "n8n", "", ""},
		{"none", map[string]string{"HOME": filepath.Join(dir, "no")}, "db", "", "n8n", "", ""},
		{"no home", nil, "db", "", "n8n", "", ""},
		{"loose", map[string]string{"PGPASSFILE": loose}, "db", "", "n8n", "", `password file "` + loose + `" can be read by others and is therefore not used: chmod 600 "` + loose + `"`},
		{"missing", map[string]string{"PGPASSFILE": "/nowhere"}, "db", "", "n8n", "", `PGPASSFILE names "/nowhere", which does not exist`},
	} {
		got, warnings, err := PostgresPassword(mapEnv(tt.env), tt.host, tt.port, "n8n", tt.user)
		if err != nil || got.Reveal() != tt.want || strings.Join(warnings, "\n") != tt.warning {
			t.Errorf("%s: %q %q %v", tt.name, got.Reveal(), warnings, err)
		}
	}
	if _, _, err := PostgresPassword(mapEnv(map[string]string{"PGPASSFILE": dir}), "db", "", "n8n", "n8n"); problem.KindOf(err) != problem.Usage ||
		err.Error() != `password file "`+dir+`" cannot be read: it is a folder` {
		t.Error(err)
	}
	if _, _, err := PostgresPassword(mapEnv(map[string]string{"DB_POSTGRESDB_PASSWORD_FILE": "/nowhere"}), "db", "", "n8n", "n8n"); problem.KindOf(err) != problem.NotFound {
		t.Error(err)
	}
}
