package app_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

// pgVault is a pgDesk with a place for archives and what opens them.
type pgVault struct {
	*desk
	env      map[string]string
	source   *url.URL
	identity *age.X25519Identity
	instance app.InstanceOptions
}

func newVault(t *testing.T) *pgVault {
	t.Helper()
	d, env, u := pgDesk(t, "")
	password, _ := u.User.Password()
	env["PGPASSWORD"] = password
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	v := &pgVault{d, env, u, id, app.InstanceOptions{Name: "prod", Database: withoutPassword(u), N8NDir: d.n8n, KeyFile: filepath.Join(d.dir, "key")}}
	t.Cleanup(func() {
		// Whatever restores made beside.
		for _, name := range v.databases() {
			if name != v.name() {
				v.run("postgres", `DROP DATABASE "`+name+`" WITH (FORCE)`)
			}
		}
	})
	return v
}

func (v *pgVault) name() string { return strings.TrimPrefix(v.source.Path, "/") }

// at is the address of a database of the server, without password.
func (v *pgVault) at(name string) string {
	u := *v.source
	u.Path = "/" + name
	return withoutPassword(&u)
}

func (v *pgVault) run(database, sql string) string {
	v.t.Helper()
	ctx := context.Background()
	u := *v.source
	u.Path = "/" + database
	c, err := pgx.Connect(ctx, u.String())
	if err != nil {
		v.t.Fatal(err)
	}
	defer c.Close(ctx)
	var text string
	rows, err := c.Query(ctx, sql)
	if err == nil {
		if rows.Next() {
			err = rows.Scan(&text)
		}
		rows.Close()
		if err == nil {
			err = rows.Err()
		}
	}
	if err != nil {
		v.t.Errorf("%s: %v", sql, err)
	}
	return text
}

func (v *pgVault) databases() []string {
	v.t.Helper()
	return strings.Fields(v.run("postgres", fmt.Sprintf(`SELECT coalesce(string_agg(datname, ' '), '') FROM pg_database WHERE starts_with(datname, '%s')`, v.name())))
}

func (v *pgVault) backup(engine, history string) string {
	v.t.Helper()
	doc, err := v.app().BackupCreate(v.t.Context(), v.instance, app.BackupOptions{Targets: []string{filepath.Join(v.dir, "archives")},
		Recipients: []string{v.identity.Recipient().String()}, Engine: engine, History: history})
	if err != nil {
		v.t.Fatalf("%v\n%s\n%s", err, problem.HintOf(err), v.log.String())
	}
	return doc.ID
}

func (v *pgVault) archive(id string) app.ArchiveOptions {
	return app.ArchiveOptions{Target: filepath.Join(v.dir, "archives"), ID: id, Identities: []age.Identity{v.identity}}
}

func (v *pgVault) key() app.InstanceOptions {
	return app.InstanceOptions{KeyFile: filepath.Join(v.dir, "key")}
}

// TestRestorePostgres: both engines, into a database that does not exist and over one
// that does. N8KEEP_SOAK=1 adds every history.
func TestRestorePostgres(t *testing.T) {
	v := newVault(t)
	if err := os.MkdirAll(filepath.Join(v.n8n, "nodes"), 0o755); err != nil {
		t.Fatal(err)
	}
	v.write("n8n/nodes/package.json", `{"name":"nodes"}`)
	const look = `SELECT md5(string_agg(id || name || data, ',' ORDER BY id)) FROM credentials_entity`
	want := v.run(v.name(), look)
	for engine, histories := range map[string][]string{"pg_dump": {"none"}, "native": {"all"}} {
		if os.Getenv("N8KEEP_SOAK") != "" {
			histories = []string{"all", "none", "30d"}
		}
		for _, history := range histories {
			id := v.backup(engine, history)
			to := v.name() + "_" + engine + "_" + history
			files := filepath.Join(v.dir, to)
			doc, err := v.app().Restore(t.Context(), v.archive(id), v.key(), app.RestoreOptions{To: v.at(to), FilesTo: files})
			if err != nil {
				t.Fatalf("%s %s: %v\n%s", engine, history, err, problem.HintOf(err))
			}
			if doc.SecretsOpened < 15 || doc.Database != to || doc.SafetyCopy != "" || !doc.ConfigWritten || doc.Files < 1 || len(doc.Warnings) > 0 {
				t.Errorf("%s %s: %+v", engine, history, doc)
			}
			if b, err := os.ReadFile(filepath.Join(files, "nodes/package.json")); err != nil || string(b) != `{"name":"nodes"}` {
				t.Errorf("%q, %v", b, err)
			}
			if got := v.run(to, look); got != want {
				t.Errorf("%s %s: credentials differ", engine, history)
			}
			census, err := v.app().Census(t.Context(), "census", app.InstanceOptions{Name: "x", Database: v.at(to), N8NDir: files}, app.CensusOptions{})
			if err != nil || census.Totals.Opened < 15 {
				t.Errorf("%s %s: census of what was restored: %v", engine, history, err)
			}
		}
	}
	// Over the original.
	v.run(v.name(), `UPDATE credentials_entity SET name = 'broken'`)
	id := v.backup("native", "all")
	v.run(v.name(), `DELETE FROM credentials_entity`)
	if _, err := v.app().Restore(t.Context(), v.archive(id), v.key(), app.RestoreOptions{To: v.at(v.name())}); problem.KindOf(err) != problem.Usage || !strings.Contains(problem.HintOf(err), "--overwrite") {
		t.Error(err)
	}
	dry, err := v.app().Restore(t.Context(), v.archive(id), v.key(), app.RestoreOptions{To: v.at(v.name()), Overwrite: true, DryRun: true})
	if err != nil || len(dry.Steps) < 4 || dry.SecretsOpened < 15 {
		t.Fatalf("%+v, %v", dry, err)
	}
	doc, err := v.app().Restore(t.Context(), v.archive(id), v.key(), app.RestoreOptions{To: v.at(v.name()), Overwrite: true})
	if err != nil {
		t.Fatalf("%v\n%s", err, problem.HintOf(err))
	}
	if !strings.HasPrefix(doc.SafetyCopy, v.name()+"_before_") || doc.DropWith != `DROP DATABASE "`+doc.SafetyCopy+`";` || doc.SetBeforeStart == "" {
		t.Errorf("%+v", doc)
	}
	if now, before := v.run(v.name(), `SELECT count(*)::text FROM credentials_entity WHERE name = 'broken'`), v.run(doc.SafetyCopy, `SELECT count(*)::text FROM credentials_entity`); now == "0" || before != "0" {
		t.Errorf("%s now, %s before", now, before)
	}
	left, err := os.ReadDir(filepath.Join(v.dir, ".local/state/n8keep/work"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the work folder: %v, %v", left, err)
	}
}

func TestRestorePostgresRefused(t *testing.T) {
	v := newVault(t)
	id := v.backup("native", "none")
	for name, c := range map[string]struct {
		o    app.RestoreOptions
		io   app.InstanceOptions
		kind problem.Kind
		text string
	}{
		"a folder":       {app.RestoreOptions{To: filepath.Join(v.dir, "x")}, v.key(), problem.Usage, "--to postgres://"},
		"another scheme": {app.RestoreOptions{To: "mysql://u@h/db"}, v.key(), problem.Usage, `--to takes a folder or postgres://..., not "mysql://..."`},
		"a password":     {app.RestoreOptions{To: "postgres://u:hunter2secret@h/db"}, v.key(), problem.Usage, "the address holds a password"},
		"for a server":   {app.RestoreOptions{To: v.n8n, FilesTo: v.n8n}, v.key(), problem.Usage, "are for a restore to a server"},
		"no address":     {app.RestoreOptions{To: "file:" + v.write("address", "/var/lib/x.sqlite")}, v.key(), problem.Usage, "--to names no PostgreSQL server"},
		"admin password": {app.RestoreOptions{To: v.at("x"), AdminDatabase: "postgres://u:hunter2secret@h/db"}, v.key(), problem.Usage, "the address holds a password"},
		"wrong key":      {app.RestoreOptions{To: v.at("x")}, app.InstanceOptions{KeyFile: v.write("other", "another-key-0123456789")}, problem.WrongKey, "wrong instance key"},
	} {
		_, err := v.app().Restore(t.Context(), v.archive(id), c.io, c.o)
		wantProblem(t, err, c.kind, c.text)
		if err != nil && strings.Contains(err.Error()+problem.HintOf(err), "hunter2") {
			t.Errorf("%s: the password is in %v", name, err)
		}
	}
	if got := v.databases(); len(got) != 1 {
		t.Errorf("made %q", got)
	}
}

// TestRestoreWithAdmin: n8n's own role may not create databases; another one may.
func TestRestoreWithAdmin(t *testing.T) {
	v := newVault(t)
	id := v.backup("pg_dump", "none")
	role := "app_" + v.name()
	v.run("postgres", `CREATE ROLE `+role+` LOGIN PASSWORD 'n8ns'`)
	t.Cleanup(func() {
		for _, name := range v.databases() {
			if name != v.name() {
				v.run("postgres", `DROP DATABASE "`+name+`" WITH (FORCE)`)
			}
		}
		v.run("postgres", `DROP ROLE `+role)
	})
	to := strings.Replace(v.at(v.name()+"_own"), "postgres@", role+"@", 1)
	password := v.env["PGPASSWORD"]
	v.env["PGPASSWORD"] = "n8ns"
	_, err := v.app().Restore(t.Context(), v.archive(id), v.key(), app.RestoreOptions{To: to})
	wantProblem(t, err, problem.Usage, "ALTER ROLE \""+role+"\" CREATEDB")
	// The password file knows the administrator.
	v.env["PGPASSFILE"] = v.write("passfile", "*:*:*:postgres:"+password+"\n")
	doc, err := v.app().Restore(t.Context(), v.archive(id), v.key(), app.RestoreOptions{To: to, AdminDatabase: v.at("postgres")})
	if err != nil {
		t.Fatalf("%v\n%s", err, problem.HintOf(err))
	}
	owners := v.run(doc.Database, `SELECT string_agg(DISTINCT tableowner, ',') || ' ' || (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()) FROM pg_tables WHERE schemaname = 'public'`)
	if owners != role+" "+role {
		t.Errorf("tables and database belong to %q", owners)
	}
}

// TestRestoreKeepsOwner: an administrator restores, and n8n's tables stay n8n's.
func TestRestoreKeepsOwner(t *testing.T) {
	for _, engine := range []string{"pg_dump", "native"} {
		t.Run(engine, func(t *testing.T) {
			v := newVault(t)
			role := "its_" + v.name()
			v.run("postgres", `CREATE ROLE `+role)
			t.Cleanup(func() {
				for _, name := range v.databases() {
					v.run(name, `DROP OWNED BY `+role+` CASCADE`)
				}
				v.run("postgres", `DROP ROLE `+role)
			})
			v.run(v.name(), `GRANT CREATE ON SCHEMA public TO `+role)
			v.run(v.name(), `DO $$ DECLARE t text; BEGIN FOR t IN SELECT format('%I', tablename) FROM pg_tables WHERE schemaname = 'public' LOOP EXECUTE 'ALTER TABLE ' || t || ' OWNER TO `+role+`'; END LOOP; END $$`)
			id := v.backup(engine, "none")
			doc, err := v.app().Restore(t.Context(), v.archive(id), v.key(), app.RestoreOptions{To: v.at(v.name()), Overwrite: true})
			if err != nil {
				t.Fatalf("%v\n%s", err, problem.HintOf(err))
			}
			const look = `SELECT string_agg(DISTINCT tableowner, ',') || ' ' || count(*) FROM pg_tables WHERE schemaname = 'public'`
			if was, is := v.run(doc.SafetyCopy, look), v.run(v.name(), look); was != is || !strings.HasPrefix(is, role+" ") {
				t.Errorf("tables of %q, and now of %q", was, is)
			}
		})
	}
}
