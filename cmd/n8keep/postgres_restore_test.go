package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/pgtest"
)

// TestPostgresCommandLine takes a backup of PostgreSQL, proves it on a server, kills
// such a proof, and restores beside and over the original, all by the command line.
func TestPostgresCommandLine(t *testing.T) {
	bin := buildWithFailpoints(t)
	dsn := pgtest.Restore(t, "../../testdata/fixtures/2.41.1-postgres/database.dump")
	l, wire := newPostgresLab(t, bin, dsn)
	name := strings.TrimPrefix(wire.dsn.Path, "/")
	t.Cleanup(func() {
		for _, made := range databasesLike(t, dsn, name) {
			if made != name {
				onServer(t, dsn, `DROP DATABASE "`+made+`" WITH (FORCE)`)
			}
		}
	})
	only := func(when string) {
		t.Helper()
		if got := databasesLike(t, dsn, name); len(got) != 1 {
			t.Errorf("%s: databases %q", when, got)
		}
	}
	var made api.Backup
	l.must(&made, l.createPostgres(wire)...)
	open := []string{made.ID, "--target", l.target, "-i", l.identity, "--key-file", l.key}
	verify := append([]string{"backup", "verify", "--level", "secrets", "--scratch", wire.address()}, open...)

	var proved api.Verified
	l.must(&proved, append(verify, "--json")...)
	server := "postgres://" + wire.dsn.User.Username() + "@" + wire.listener.Addr().String()
	if proved.Scratch != server || proved.SecretsOpened < 15 || len(proved.Warnings) > 0 {
		t.Errorf("%+v", proved)
	}
	list := filepath.Join(l.dir, "points")
	if r := l.run("list:"+list, verify...); r.code != 0 || !strings.Contains(r.stdout, "loaded and proved on "+server+", and dropped") {
		t.Errorf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	only("proved twice")

	// Killed with the rows in it: the next one drops it.
	points, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for i, point := range strings.Split(string(points), "\n") {
		if strings.HasSuffix(point, " restore.proved") {
			at = i + 1
		}
	}
	if r := l.run(fmt.Sprintf("kill:%d", at), verify...); at == 0 || r.code != -1 {
		t.Fatalf("not killed at %d: exit %d\n%s", at, r.code, r.stderr)
	}
	if got := databasesLike(t, dsn, name); len(got) != 2 || !strings.HasPrefix(got[1], name+"_verify_n8keep_") {
		t.Errorf("killed: databases %q", got)
	}
	l.must(&proved, append(verify, "--json")...)
	if len(proved.Warnings) != 1 || !strings.Contains(proved.Warnings[0], "which a killed verification had left") {
		t.Errorf("warnings %q", proved.Warnings)
	}
	only("after a kill")

	for _, c := range []struct {
		args []string
		text string
	}{
		{append([]string{"backup", "verify", "--scratch", wire.address()}, open...), "add --level secrets"},
		{[]string{"backup", "verify", "--sample", "1", "--level", "secrets", "--scratch", wire.address(), "--target", l.target, "-i", l.identity}, "--scratch is for one archive"},
	} {
		if r := l.run("", c.args...); r.code != 2 || !strings.Contains(r.stderr, c.text) {
			t.Errorf("exit %d, want %q\n%s", r.code, c.text, r.stderr)
		}
	}

	restore := func(to string, extra ...string) api.Restore {
		t.Helper()
		u, err := url.Parse(wire.address())
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/" + to
		var doc api.Restore
		l.must(&doc, append(append([]string{"restore", "--to", u.String(), "--json"}, extra...), open...)...)
		if doc.Database != to || doc.SecretsOpened != proved.SecretsOpened || doc.SetBeforeStart == "" {
			t.Errorf("%+v", doc)
		}
		return doc
	}
	if doc := restore(name + "_new"); doc.SafetyCopy != "" {
		t.Errorf("%+v", doc)
	}
	doc := restore(name, "--overwrite")
	if want := []string{name, doc.SafetyCopy, name + "_new"}; fmt.Sprint(databasesLike(t, dsn, name)) != fmt.Sprint(want) {
		t.Errorf("databases %q, want %q", databasesLike(t, dsn, name), want)
	}
	l.nothingLeft()
}

// onServer runs a statement in the database postgres and returns the strings it gives.
func onServer(t *testing.T, dsn, statement string, args ...any) []string {
	t.Helper()
	ctx := context.Background() // also in a cleanup
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/postgres"
	conn, err := pgx.Connect(ctx, u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func databasesLike(t *testing.T, dsn, prefix string) []string {
	t.Helper()
	return onServer(t, dsn, `SELECT datname::text FROM pg_database WHERE starts_with(datname, $1) ORDER BY datname`, prefix)
}
