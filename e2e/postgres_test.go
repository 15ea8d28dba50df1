//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/labn8n"
	"github.com/n8keep/n8keep/internal/pgtest"
)

// TestPostgres is the story on PostgreSQL: with n8n's rotation of data keys off, and, where the release has it, on; the
// latter in a schema of its own.
func TestPostgres(t *testing.T) {
	for _, v := range versions() {
		t.Run(v, func(t *testing.T) { postgresStory(t, v, "public") })
		if !strings.HasPrefix(v, "1.") && !strings.HasPrefix(v, "2.0.") {
			t.Run(v+"/keyrotation", func(t *testing.T) {
				postgresStory(t, v, "automation", "N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION=true")
			})
		}
	}
}

// server is a PostgreSQL database with all that n8n and n8keep are told of it.
type database struct{ dsn, schema string }

// env is what n8n reads.
func (d database) env(t *testing.T) []string {
	u, password := d.parts(t)
	return []string{"DB_TYPE=postgresdb", "DB_POSTGRESDB_HOST=" + u.Hostname(), "DB_POSTGRESDB_PORT=" + u.Port(), "DB_POSTGRESDB_USER=" + u.User.Username(),
		"DB_POSTGRESDB_PASSWORD=" + password, "DB_POSTGRESDB_DATABASE=" + strings.TrimPrefix(u.Path, "/"), "DB_POSTGRESDB_SCHEMA=" + d.schema}
}

// address is what n8keep is told: without the password, which is in the password file of its user.
func (d database) address(t *testing.T) string {
	u, _ := d.parts(t)
	u.User = url.User(u.User.Username())
	return u.String()
}

func (d database) parts(t *testing.T) (*url.URL, string) {
	u, err := url.Parse(d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return u, password
}

// beside is another database of the same server, which need not exist.
func (d database) beside(t *testing.T, name string) database {
	u, _ := d.parts(t)
	u.Path = "/" + name
	return database{u.String(), d.schema}
}

func (d database) exec(t *testing.T, statements ...string) {
	t.Helper()
	ctx := context.Background() // also after the test's own has ended
	conn, err := pgx.Connect(ctx, d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func postgresStory(t *testing.T, version, schema string, env ...string) {
	step := stepsOf(t)
	db := database{pgtest.New(t), schema}
	if schema != "public" {
		db.exec(t, `CREATE SCHEMA "`+schema+`"`)
	}
	echo := labn8n.NewEcho(t)
	in := labn8n.NewInstance(version, t.TempDir())
	in.Env = slices.Concat(in.Env, db.env(t), env)
	server := labn8n.Start(t, in)
	facts := labn8n.Seed(t, server, echo)
	k := newKeeper(t, in, facts)
	u, password := db.parts(t)
	k.secrets = append(k.secrets, password)
	pass := fmt.Sprintf("%s:%s:*:%s:%s\n", u.Hostname(), u.Port(), u.User.Username(), password)
	if err := os.WriteFile(filepath.Join(k.home, ".pgpass"), []byte(pass), 0o600); err != nil {
		t.Fatal(err)
	}
	source := []string{"--database", db.address(t), "--schema", schema}
	before := look(t, in, server.Client(t, facts.APIKey), facts)

	step("census of a live instance", func(t *testing.T) {
		var doc api.Census
		decode(t, k.run(t, 0, append([]string{"census", "--n8n-dir", in.Dir(), "--json"}, source...)...), &doc)
		if doc.Totals.Failed != 0 || doc.Totals.Opened < int64(len(facts.Credentials)) {
			t.Errorf("census: %+v", doc.Totals)
		}
	})
	var dump, native, none, nativeNone taken
	step("backups beside a writer", func(t *testing.T) {
		w := startWriter(t, server, facts)
		dump = k.backup(t, in, w, append(source, "--engine", "pg_dump")...)
		native = k.backup(t, in, w, append(source, "--engine", "native")...)
		none = k.backup(t, in, w, append(source, "--history", "none", "--engine", "pg_dump")...)
		nativeNone = k.backup(t, in, w, append(source, "--history", "none", "--engine", "native")...)
		w.stop(t)
		k.listed(t, dump, native, none, nativeNone)
	})
	step("many backups beside a writer, each restored", func(t *testing.T) {
		many := 2
		if os.Getenv("N8KEEP_SOAK") != "" {
			many = 100
		}
		target := k.target
		defer func() { k.target = target }()
		k.target = t.TempDir()
		w := startWriter(t, server, facts)
		scratch := db.beside(t, "scratch_of_"+strings.TrimPrefix(u.Path, "/"))
		for i := range many {
			engine := []string{"pg_dump", "native"}[i%2]
			b := k.backup(t, in, w, append(source, "--engine", engine)...)
			k.verify(t, b, "secrets")
			k.run(t, 0, k.restoreArgs(b, scratch.address(t))...)
			db.exec(t, `DROP DATABASE "`+strings.TrimPrefix(mustURL(t, scratch.dsn).Path, "/")+`" WITH (FORCE)`)
		}
		w.stop(t)
	})
	step("verify", func(t *testing.T) {
		for _, b := range []taken{dump, native, none, nativeNone} {
			k.verify(t, b, "quick")
			k.verify(t, b, "full")
			k.verify(t, b, "secrets")
		}
		k.run(t, 12, "backup", "verify", dump.id, "--target", k.target, "--level", "secrets", "--identity", k.identity, "--key-file", k.wrongKey, "--json")
	})
	step("restore is refused while n8n is attached", func(t *testing.T) {
		k.run(t, 11, k.restoreArgs(dump, db.address(t), "--overwrite")...)
		if _, err := server.Client(t, "").CallWebhook(t.Context(), facts); err != nil {
			t.Errorf("n8n after the refusal: %v", err)
		}
	})
	server.Stop(t)

	for i, c := range []struct {
		name    string
		b       taken
		history string
	}{{"pg_dump", dump, "all"}, {"native", native, "all"}, {"pg_dump without history", none, "none"}, {"native without history", nativeNone, "none"}} {
		step("restore into a new database, "+c.name, func(t *testing.T) {
			fresh := db.beside(t, fmt.Sprintf("restored_%d_of_%s", i, strings.TrimPrefix(u.Path, "/")))
			again := labn8n.NewInstance(version, t.TempDir())
			again.Env = slices.Concat(again.Env, fresh.env(t), env)
			k.run(t, 0, k.restoreArgs(c.b, fresh.address(t), "--files-to", again.Dir())...)
			t.Cleanup(func() {
				db.exec(t, `DROP DATABASE "`+strings.TrimPrefix(mustURL(t, fresh.dsn).Path, "/")+`" WITH (FORCE)`)
			})
			// Each restore is proved by n8keep; an n8n is started on one archive of each engine and each history.
			if i == 0 || i == 3 || os.Getenv("N8KEEP_SOAK") != "" {
				k.works(t, labn8n.Start(t, again), c.b, before, echo, c.history)
			}
		})
	}
	step("restore over the instance", func(t *testing.T) {
		k.run(t, 2, k.restoreArgs(dump, db.address(t))...)
		k.run(t, 0, k.restoreArgs(dump, db.address(t), "--overwrite")...)
		k.works(t, labn8n.Start(t, in), dump, before, echo, "all")
	})
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		t.Fatal(err)
	}
	return u
}
