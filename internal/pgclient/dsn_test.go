package pgclient

import (
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func TestSplitDSN(t *testing.T) {
	for _, c := range []struct{ dsn, without, password string }{
		{"postgres://u@h/d", "postgres://u@h/d", ""},
		{"postgres://u:p@h:5432/d?sslmode=require", "postgres://u@h:5432/d?sslmode=require", "p"},
		{"postgresql://u:p%40%2F%3A%25@[::1]:5433/a%20b", "postgresql://u@[::1]:5433/a%20b", "p@/:%"},
		{"postgres://u:a:b@c@h/d", "postgres://u@h/d", "a:b@c"},
		{"postgres://:p@h", "postgres://h", "p"},
		{"postgres://u:@h/", "postgres://u:@h/", ""},
		{"postgres://h/d?user=u&password=p+q%26&sslmode=disable", "postgres://h/d?user=u&sslmode=disable", "p+q&"},
		{"postgres://u:first@h/d?p%61ssword=second", "postgres://u@h/d", "second"},
		{"postgres:///d?host=/run/postgresql&password=x", "postgres:///d?host=/run/postgresql", "x"},
		{"host=h user=u password='a b\\'c\\\\' dbname=d", `host='h' user='u' dbname='d'`, `a b'c\`},
		{"host = h password=x\\ y", `host='h'`, "x y"},
		{"host=h dbname=d", "host=h dbname=d", ""},
		{"", "", ""},
	} {
		without, password, err := SplitDSN(c.dsn)
		if err != nil || without != c.without || password.Reveal() != c.password {
			t.Errorf("%s: %q, %q, %v, want %q, %q", c.dsn, without, password.Reveal(), err, c.without, c.password)
		}
		if again, p, err := SplitDSN(without); err != nil || !p.IsZero() || again != without {
			t.Errorf("%s: splitting the rest again: %q, %v", c.dsn, again, err)
		}
	}
}

func TestDSNThatCannotBeRead(t *testing.T) {
	for _, dsn := range []string{"postgres://u:hush%zz@h/d", "postgres://u:hush@[::1/d", "postgres://u:hush@[::1]x/d", "postgres://u:hush@h:port/d", "postgres://u:hush@h/d?sslmode",
		"postgres://u:hush@h/d?x=%zz", "postgres://u:hush%00@h/d", "password='hush", "password=hush host", "=hush", "'a'=hush", "hush"} {
		_, _, err := SplitDSN(dsn)
		wantProblem(t, err, problem.Usage, "the PostgreSQL address cannot be read", "postgres://USER@HOST:5432/DATABASE")
	}
	_, err := connect("host=h a-b=c", "")
	wantProblem(t, err, problem.Usage, "the PostgreSQL address cannot be read", "special characters")
}

func TestConnect(t *testing.T) {
	t.Setenv("PGPASSWORD", "")
	const keep = ` connect_timeout='30' keepalives_idle='30' keepalives_interval='10' keepalives_count='3' tcp_user_timeout='60000'`
	for _, c := range []struct {
		dsn, app, want string
		env            []string
	}{
		{"postgres://u:p%40ss@h:5432/d", "n8keep-x", `user='u' host='h' dbname='d' port='5432' application_name='n8keep-x'` + keep, []string{"PGPASSWORD=p@ss"}},
		{"postgres://o%27neil@[fe80::1%25eth0]:5433/my%2Fdb?sslmode=verify-full&sslrootcert=/etc/my%20ca.pem&sslcert=/c&sslkey=/k", "",
			`user='o\'neil' host='fe80::1%eth0' dbname='my/db' port='5433' sslmode='verify-full' sslrootcert='/etc/my ca.pem' sslcert='/c' sslkey='/k'` + keep, nil},
		{"postgres:///d?host=/run/postgresql&port=5433&user=u", "", `dbname='d' host='/run/postgresql' port='5433' user='u'` + keep, nil},
		{"postgres://u@%2Frun%2Fpostgresql/d", "", `user='u' host='/run/postgresql' dbname='d'` + keep, nil},
		{"postgres://u@a:1,b,[::1]:2/d?target_session_attrs=any", "", `user='u' host='a,b,::1' dbname='d' port='1,,2' target_session_attrs='any'` + keep, nil},
		{"postgres://h?service=s&servicefile=/etc/s.conf&passfile=/p", "", `host='h' service='s' passfile='/p'` + keep, []string{"PGSERVICEFILE=/etc/s.conf"}},
		{"postgres://h/?ssl=true", "", `host='h' sslmode='require'` + keep, nil},
		{"postgres://h/?ssl=true&sslmode=verify-ca", "", `host='h' sslmode='verify-ca'` + keep, nil},
		{"postgres://h/?search_path=a,b%20c&options=-c%20geqo%3Doff&statement_timeout=5&pool_max_conns=3&default_query_exec_mode=exec&client_encoding=LATIN1", "",
			`host='h' options='-c geqo=off -c search_path=a,b\\ c -c statement_timeout=5'` + keep, nil},
		{"postgres://h/?application_name=mine", "", `host='h' application_name='mine'` + keep, nil},
		{"postgres://h/?application_name=mine", "ours", `host='h' application_name='ours'` + keep, nil},
		{"postgres://h/?connect_timeout=5&keepalives_idle=1&keepalives_interval=2&keepalives_count=4&tcp_user_timeout=0", "",
			`host='h' connect_timeout='5' keepalives_idle='1' keepalives_interval='2' keepalives_count='4' tcp_user_timeout='0'`, nil},
		{`host=h database=d user=u password=x`, "", `host='h' dbname='d' user='u'` + keep, []string{"PGPASSWORD=x"}},
		{`dbname=a=b dbname='c\\d'`, "", `dbname='c\\d'` + keep, nil},
	} {
		got, err := connect(c.dsn, c.app)
		if err != nil {
			t.Errorf("%s: %v", c.dsn, err)
			continue
		}
		if got.conninfo != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.dsn, got.conninfo, c.want)
		}
		if d := cmp.Diff(c.env, got.env); d != "" {
			t.Errorf("%s: environment (-want +got):\n%s", c.dsn, d)
		}
	}
	t.Setenv("PGPASSWORD", "ambient")
	if got, err := connect("postgres://h", ""); err != nil || !cmp.Equal(got.env, []string{"PGPASSWORD=ambient"}) || got.password != "ambient" {
		t.Errorf("the password of our environment: %v, %v", got.env, err)
	}
}

// TestSameServer: libpq gets to where the Go driver gets with the same DSN, and as whom.
func TestSameServer(t *testing.T) {
	dsn := pgtest.New(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	hostile := `we"ird 'na\me/%@:?=`
	execute(t, dsn, `CREATE ROLE `+quotePattern(hostile)+` LOGIN SUPERUSER PASSWORD 'p@:/?%&= \''x'`)
	t.Cleanup(func() { execute(t, dsn, `DROP ROLE `+quotePattern(hostile)) })
	socket := pgtest.SocketDSN(t, dsn)
	for _, d := range []string{
		dsn, socket,
		as(t, dsn, hostile, `p@:/?%&= \'x`), as(t, socket, hostile, `p@:/?%&= \'x`),
		param(t, dsn, "search_path", `"a b",\c'd`),
		"host=127.0.0.1 port=" + u.Port() + " user=postgres dbname=" + u.Path[1:] + " password='" + password + "' sslmode=disable",
	} {
		const sql = `SELECT concat_ws('|', current_user, current_database(), coalesce(host(inet_server_addr()), 'socket'), current_setting('search_path'))`
		conn, err := pgx.Connect(t.Context(), d)
		if err != nil {
			t.Error(err)
			continue
		}
		var want string
		if err := conn.QueryRow(t.Context(), sql).Scan(&want); err != nil {
			t.Fatal(err)
		}
		conn.Close(t.Context())
		c, err := connect(d, "n8keep-x")
		if err != nil {
			t.Error(err)
			continue
		}
		psql, err := pgtest.Program("psql")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(psql, "-XAtw", "-d", c.conninfo, "-c", sql)
		cmd.Env = environment(c.env...)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s: psql says %s, the driver %s (%v)", c.conninfo, out, want, err)
		}
	}
}

// TestEnvironment: the programs get libpq's variables, and none that may hold n8n's secrets.
func TestEnvironment(t *testing.T) {
	for name, value := range map[string]string{"N8N_ENCRYPTION_KEY": "key", "DB_POSTGRESDB_PASSWORD": "pw", "AWS_SECRET_ACCESS_KEY": "aws", "PGSSLROOTCERT": "/ca", "PGPASSFILE": "/pass",
		"PGPASSWORD": "ambient", "PGAPPNAME": "other", "LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"} {
		t.Setenv(name, value)
	}
	env := environment("PGPASSWORD=given")
	joined := "\n" + strings.Join(env, "\n") + "\n"
	for _, want := range []string{"PGSSLROOTCERT=/ca", "PGPASSFILE=/pass", "LC_ALL=C", "PGPASSWORD=given", "PATH=" + os.Getenv("PATH")} {
		if !strings.Contains(joined, "\n"+want+"\n") {
			t.Errorf("%s is missing in %q", want, env)
		}
	}
	for _, not := range []string{"N8N_", "DB_POST", "AWS_", "ambient", "PGAPPNAME", "de_DE"} {
		if strings.Contains(joined, not) {
			t.Errorf("%s stands in %q", not, env)
		}
	}
}

func FuzzDSN(f *testing.F) {
	for _, s := range []string{"postgres://u:p@h:1/d?a=b", "host=h password='x\\'y'", "postgres://u:p@[::1]:5432,h/d?password=x", "postgres:///?host=/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, dsn string) {
		without, _, err := SplitDSN(dsn)
		if err != nil {
			return
		}
		rest, password, err := SplitDSN(without)
		if err != nil || !password.IsZero() || rest != without {
			t.Fatalf("%q leaves %q, which still has a password: %v", dsn, without, err)
		}
		a, errA := connect(dsn, "")
		b, errB := connect(without, "")
		if (errA == nil) != (errB == nil) || a.conninfo != b.conninfo {
			t.Fatalf("%q: %q with and %q without its password", dsn, a.conninfo, b.conninfo)
		}
	})
}
