package app_test

import (
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// pgDesk is a desk without any n8n folder, beside a PostgreSQL with an n8n in it.
// env is the environment, to be changed by tests.
func pgDesk(t *testing.T, config string) (d *desk, env map[string]string, dsn *url.URL) {
	t.Helper()
	raw := pgtest.Restore(t, "../../testdata/fixtures/2.41.1-postgres/database.dump")
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	d = newDesk(t, config)
	b, err := os.ReadFile("../../testdata/fixtures/2.41.1-postgres/config")
	if err != nil {
		t.Fatal(err)
	}
	d.write("n8n/config", string(b))
	home, err := n8nhome.ReadConfig(d.n8n)
	if err != nil {
		t.Fatal(err)
	}
	d.write("key", home.Key.Reveal())
	env = map[string]string{"HOME": d.dir}
	d.opts.Env = func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	return d, env, u
}

func withoutPassword(u *url.URL) string {
	c := *u
	c.User = url.User(u.User.Username())
	return c.String()
}

func TestPostgresPasswords(t *testing.T) {
	d, env, u := pgDesk(t, "instances:\n  conf:\n    database: file:address\n  user:\n    database: env:ADDRESS\n")
	key := filepath.Join(d.dir, "key")
	password, _ := u.User.Password()
	d.write("address", u.String()+"\n")
	d.write("pw", password+"\n")
	d.write(".pgpass", u.Hostname()+":*:*:postgres:"+password+"\n")
	d.write("passfile", "*:*:*:*:"+password+"\n")
	plain := app.InstanceOptions{Name: "x", Database: withoutPassword(u), KeyFile: key}
	for name, c := range map[string]struct {
		env map[string]string
		io  app.InstanceOptions
	}{
		"n8n's variable":    {map[string]string{"DB_POSTGRESDB_PASSWORD": password, "HOME": filepath.Join(d.dir, "empty")}, plain},
		"n8n's file":        {map[string]string{"DB_POSTGRESDB_PASSWORD_FILE": filepath.Join(d.dir, "pw"), "HOME": filepath.Join(d.dir, "empty")}, plain},
		"libpq's variable":  {map[string]string{"PGPASSWORD": password, "HOME": filepath.Join(d.dir, "empty")}, plain},
		"password file":     {nil, plain},
		"named file":        {map[string]string{"PGPASSFILE": filepath.Join(d.dir, "passfile")}, plain},
		"reference":         {map[string]string{"HOME": filepath.Join(d.dir, "empty")}, app.InstanceOptions{Name: "conf", KeyFile: key}},
		"reference to env":  {map[string]string{"HOME": filepath.Join(d.dir, "empty"), "ADDRESS": u.String()}, app.InstanceOptions{Name: "user", KeyFile: key}},
		"reference by flag": {map[string]string{"HOME": filepath.Join(d.dir, "empty")}, app.InstanceOptions{Name: "x", Database: "file:" + filepath.Join(d.dir, "address"), KeyFile: key}},
		"in the parameters": {map[string]string{"HOME": filepath.Join(d.dir, "empty"), "ADDRESS": withoutPassword(u) + "&password=" + url.QueryEscape(password)}, app.InstanceOptions{Name: "user", KeyFile: key}},
		"both":              {nil, app.InstanceOptions{Name: "x", Database: plain.Database, N8NDir: d.n8n}},
	} {
		clear(env)
		env["HOME"] = d.dir
		maps.Copy(env, c.env)
		// Reads the database, and computes no fingerprint, which takes half a second.
		doc, err := d.app().Export(t.Context(), c.io, app.ExportOptions{Workflows: filepath.Join(d.dir, "flows")})
		if err != nil || doc.Workflows.Workflows != 5 {
			t.Errorf("%s: %+v %v", name, doc, err)
		}
	}
	if strings.Contains(d.log.String(), password) {
		t.Error("the password was logged")
	}

	clear(env)
	env["HOME"] = filepath.Join(d.dir, "empty")
	_, err := d.app().Census(t.Context(), "census", plain, app.CensusOptions{})
	wantProblem(t, err, problem.Unreachable, "refuses the login of postgres")
	withIt := plain
	withIt.Database = u.String()
	_, err = d.app().Census(t.Context(), "census", withIt, app.CensusOptions{})
	wantProblem(t, err, problem.Usage, "the address holds a password")
	wantProblem(t, err, problem.Usage, "DB_POSTGRESDB_PASSWORD, DB_POSTGRESDB_PASSWORD_FILE, PGPASSWORD, and PGPASSFILE or ~/.pgpass")
	if strings.Contains(err.Error()+problem.HintOf(err), password) {
		t.Error("the error shows the password")
	}
	for _, odd := range []string{"host=db password=planted-password", "planted-password", "mysql://u:planted-password@h/d", "postgres://u:planted-password@h:x/d"} {
		env["ADDRESS"] = odd
		_, err = d.app().Census(t.Context(), "census", app.InstanceOptions{Name: "user", KeyFile: key}, app.CensusOptions{})
		if problem.KindOf(err) != problem.Usage || strings.Contains(err.Error()+problem.HintOf(err), "planted") {
			t.Errorf("%s: %v / %s", odd, err, problem.HintOf(err))
		}
	}
}

func TestPostgresOfTheEnvironment(t *testing.T) {
	d, env, u := pgDesk(t, "")
	key := filepath.Join(d.dir, "key")
	password, _ := u.User.Password()
	database := map[string]string{"DB_TYPE": "postgresdb", "DB_POSTGRESDB_HOST": u.Hostname(), "DB_POSTGRESDB_PORT": u.Port(), "DB_POSTGRESDB_DATABASE": u.Path[1:], "DB_POSTGRESDB_PASSWORD": password}
	maps.Copy(env, database)

	// Without a folder, and with one.
	status := func(io app.InstanceOptions) string {
		t.Helper()
		doc, err := d.app().InstanceStatus(t.Context(), io, app.ArchiveOptions{Target: d.dir})
		if err != nil || doc.KeyFingerprint == "" {
			t.Fatalf("%+v %v", doc, err)
		}
		return doc.Engine + " " + doc.Database
	}
	want := "postgres postgres://postgres@" + u.Host + u.Path + " (DB_TYPE=postgresdb in the environment)"
	if got := status(app.InstanceOptions{KeyFile: key}); got != want {
		t.Errorf("%s; want %s", got, want)
	}
	if got := status(app.InstanceOptions{N8NDir: d.n8n}); got != want {
		t.Errorf("%s; want %s", got, want)
	}
	// What is said wins over the environment.
	if got, want := status(app.InstanceOptions{Database: filepath.Join(d.n8n, "database.sqlite"), N8NDir: d.n8n}), "sqlite "+filepath.Join(d.n8n, "database.sqlite"); got != want {
		t.Errorf("%s; want %s", got, want)
	}
	// The folder that n8n would use has the key.
	if err := os.Mkdir(filepath.Join(d.dir, ".n8n"), 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(d.n8n, "config"))
	if err != nil {
		t.Fatal(err)
	}
	d.write(".n8n/config", string(b))
	if got := status(app.InstanceOptions{}); got != want {
		t.Errorf("%s; want %s", got, want)
	}
	// Its name does not depend on how it is reached.
	a, err := d.app().InstanceStatus(t.Context(), app.InstanceOptions{KeyFile: key}, app.ArchiveOptions{Target: d.dir})
	if err != nil {
		t.Fatal(err)
	}
	env["DB_POSTGRESDB_SSL_REJECT_UNAUTHORIZED"] = "true"
	env["DB_POSTGRESDB_CONNECTION_TIMEOUT"] = "1000"
	b2, err := d.app().InstanceStatus(t.Context(), app.InstanceOptions{KeyFile: key}, app.ArchiveOptions{Target: d.dir})
	if err != nil || a.Instance != b2.Instance {
		t.Errorf("%s, %s, %v", a.Instance, b2.Instance, err)
	}
	// n8n's schema and prefix come along.
	env["DB_POSTGRESDB_SCHEMA"] = "elsewhere"
	_, err = d.app().Census(t.Context(), "census", app.InstanceOptions{KeyFile: key}, app.CensusOptions{})
	wantProblem(t, err, problem.Usage, `the schema "elsewhere" has no tables`)
	delete(env, "DB_POSTGRESDB_SCHEMA")
	env["DB_TABLE_PREFIX"] = "n8n_"
	_, err = d.app().Census(t.Context(), "census", app.InstanceOptions{KeyFile: key}, app.CensusOptions{})
	wantProblem(t, err, problem.Usage, "its tables have no prefix")
	if _, err = d.app().Census(t.Context(), "census", app.InstanceOptions{KeyFile: key, Database: withoutPassword(u)}, app.CensusOptions{}); err != nil {
		t.Errorf("the prefix of the environment was used for another database: %v", err)
	}

	// Settings that n8n ignores are said.
	delete(env, "DB_TABLE_PREFIX")
	env["DB_POSTGRESDB_SSL_ENABLED"] = "yes"
	if got := status(app.InstanceOptions{KeyFile: key}); got != want || !strings.Contains(d.log.String(), "DB_POSTGRESDB_SSL_ENABLED is neither true nor false") {
		t.Errorf("%s, %s", got, d.log.String())
	}
	env["DB_TYPE"] = "mysqldb"
	_, err = d.app().Census(t.Context(), "census", app.InstanceOptions{KeyFile: key}, app.CensusOptions{})
	wantProblem(t, err, problem.Usage, "DB_TYPE names a database that n8keep does not read: mysqldb")
	env["DB_TYPE"], env["DB_POSTGRESDB_PASSWORD_FILE"] = "postgresdb", "/nowhere/pw"
	delete(env, "DB_POSTGRESDB_PASSWORD")
	_, err = d.app().Census(t.Context(), "census", app.InstanceOptions{KeyFile: key}, app.CensusOptions{})
	wantProblem(t, err, problem.NotFound, `DB_POSTGRESDB_PASSWORD_FILE names "/nowhere/pw", which does not exist`)
	if strings.Contains(d.log.String(), password) {
		t.Error("the password was logged")
	}
}
