package pgclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// fake makes a folder with programs that say they are of this version.
func fake(t testing.TB, dir, dump, restore string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, version := range map[string]string{"pg_dump": dump, "pg_restore": restore} {
		if version != "" {
			shell(t, filepath.Join(dir, name), "echo '"+version+"'")
		}
	}
	return dir
}

func shell(t testing.TB, path, body string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func both(v string) (string, string) {
	return "pg_dump (PostgreSQL) " + v, "pg_restore (PostgreSQL) " + v
}

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]int{
		"pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": 150018,
		"pg_restore (PostgreSQL) 17.0\n":                        170000,
		"pg_dump (PostgreSQL) 18beta1":                          180000,
		"pg_dump (PostgreSQL) 19devel":                          190000,
		"pg_dump (PostgreSQL) 9.6.24":                           90624,
		"pg_dump (PostgreSQL) 10.23 (Ubuntu)":                   100023,
		"mysqldump 8.0":                                         0,
		"":                                                      0,
		"pg_dump (PostgreSQL) 999999":                           0,
	} {
		if got, ok := parseVersion(s); got != want || ok != (want > 0) {
			t.Errorf("%q: %d %v, want %d", s, got, ok, want)
		}
	}
	for num, want := range map[int]string{150018: "15.18", 170000: "17.0", 90624: "9.6.24"} {
		if got := (Programs{Version: num}).Release(); got != want {
			t.Errorf("%d is %s, want %s", num, got, want)
		}
	}
}

func TestFindOnThisMachine(t *testing.T) {
	bin, err := pgtest.Program("pg_dump")
	if err != nil {
		t.Fatal(err)
	}
	version, err := strconv.Atoi(query(t, pgtest.New(t), `SELECT current_setting('server_version_num')`))
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]FindConfig{"configured": {Dir: filepath.Dir(bin), Server: version}, "looked for": {Server: version}, "on the path": {Server: version, Path: filepath.Dir(bin), Folders: []string{}}} {
		p, err := Find(t.Context(), cfg)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if p.Dump != bin || p.Restore != filepath.Join(filepath.Dir(bin), "pg_restore") || series(p.Version) != series(version) {
			t.Errorf("%s: %+v, want %s", name, p, bin)
		}
	}
	// On Debian this is the wrapper, which would look for the version of a cluster.
	if p, err := Find(t.Context(), FindConfig{Path: "/usr/bin"}); err != nil || strings.HasPrefix(p.Dump, "/usr/bin/") {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestFindChooses(t *testing.T) {
	root := t.TempDir()
	for _, v := range []string{"13.2", "15.3", "15.18", "16.4", "18beta1"} {
		d, r := both(v)
		fake(t, filepath.Join(root, v, "bin"), d, r)
	}
	d, _ := both("17.1")
	fake(t, filepath.Join(root, "half", "bin"), d, "")
	_, r := both("17.2")
	fake(t, filepath.Join(root, "mixed", "bin"), d, r)
	fake(t, filepath.Join(root, "other", "bin"), "mysqldump", "mysqldump")
	if err := os.Symlink(filepath.Join(root, "15.18", "bin"), filepath.Join(root, "15")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		server, archive int
		want            string
	}{
		{0, 0, "18beta1"},
		{130001, 0, "13.2"},
		{140000, 0, "15.18"},
		{150003, 0, "15.18"},
		{150099, 0, "15.18"},
		{160000, 0, "16.4"},
		{170000, 0, "18beta1"},
		{0, 150018, "15.18"},
		{130000, 150000, "15.18"},
		{160000, 150000, "16.4"},
	} {
		for _, cfg := range []FindConfig{
			{Path: "/nowhere", Folders: []string{filepath.Join(root, "*", "bin")}},
			{Path: strings.Join([]string{"relative", filepath.Join(root, "15"), filepath.Join(root, "mixed", "bin"), filepath.Join(root, "13.2", "bin"), filepath.Join(root, "15.3", "bin"),
				filepath.Join(root, "16.4", "bin"), filepath.Join(root, "18beta1", "bin"), ""}, ":"), Folders: []string{}},
		} {
			cfg.Server, cfg.Archive = c.server, c.archive
			p, err := Find(t.Context(), cfg)
			if err != nil {
				t.Errorf("server %d, archive %d: %v", c.server, c.archive, err)
			} else if d, _ := both(c.want); !strings.HasSuffix(d, p.Release()) && c.want != "18beta1" || c.want == "18beta1" && p.Version != 180000 {
				t.Errorf("server %d, archive %d: %s, want %s", c.server, c.archive, p.Release(), c.want)
			}
		}
	}
}

func TestFindRefuses(t *testing.T) {
	root := t.TempDir()
	d, r := both("15.18 (Debian 15.18-0+deb12u1)")
	fifteen := fake(t, filepath.Join(root, "15"), d, r)
	noRestore := fake(t, filepath.Join(root, "half"), d, "")
	_, other := both("16.1")
	mixed := fake(t, filepath.Join(root, "mixed"), d, other)
	odd := fake(t, filepath.Join(root, "odd"), "hello", "hello")
	broken := t.TempDir()
	shell(t, filepath.Join(broken, "pg_dump"), "exit 3")
	shell(t, filepath.Join(broken, "pg_restore"), "exit 3")
	none := FindConfig{Path: "/nowhere", Folders: []string{"/nowhere/*"}}
	for _, c := range []struct {
		name       string
		cfg        FindConfig
		text, hint string
	}{
		{"none", none, "no pg_dump was found on this machine", "apt-get install postgresql-client "},
		{"none for a server", FindConfig{Server: 170010, Path: none.Path, Folders: none.Folders}, "no pg_dump was found on this machine; the server is PostgreSQL 17.10", "postgresql-client-17 (Debian, Ubuntu"},
		{"none for an archive", FindConfig{Archive: 160014, Server: 150001, Path: none.Path, Folders: none.Folders}, "no pg_restore was found on this machine; the dump was made by pg_dump 16.14", "postgresql16 (RPM"},
		{"too old", FindConfig{Server: 180004, Path: fifteen, Folders: none.Folders}, fmt.Sprintf("pg_dump 15.18 in %q is too old: the server is PostgreSQL 18.4", fifteen), "postgresql18-client (Alpine)"},
		{"configured too old", FindConfig{Server: 160014, Dir: fifteen}, fmt.Sprintf("pg_dump 15.18 in %q is too old: the server is PostgreSQL 16.14", fifteen), "postgresql-client-16"},
		{"too old for the archive", FindConfig{Archive: 170002, Server: 160000, Dir: fifteen}, fmt.Sprintf("pg_restore 15.18 in %q is too old: the dump was made by pg_dump 17.2", fifteen), "postgresql-client-17"},
		{"configured wrong", FindConfig{Dir: root}, fmt.Sprintf("the configured folder of PostgreSQL's programs, %q: there is no pg_dump", root), "name the folder that holds pg_dump and pg_restore"},
		{"configured as a file", FindConfig{Dir: fifteen + "/pg_dump"}, fmt.Sprintf("the configured folder of PostgreSQL's programs, %q: there is no pg_dump", fifteen+"/pg_dump"), "name the folder"},
		{"no pg_restore", FindConfig{Dir: noRestore}, fmt.Sprintf("the configured folder of PostgreSQL's programs, %q: there is no pg_restore", noRestore), "name the folder"},
		{"two releases", FindConfig{Dir: mixed}, fmt.Sprintf("the configured folder of PostgreSQL's programs, %q: pg_dump is 15.18, but pg_restore 16.1", mixed), "name the folder"},
		{"not PostgreSQL's", FindConfig{Dir: odd}, fmt.Sprintf("the configured folder of PostgreSQL's programs, %q: pg_dump does not tell its version", odd), "name the folder"},
		{"broken", FindConfig{Dir: broken}, fmt.Sprintf("the configured folder of PostgreSQL's programs, %q: pg_dump cannot be run: exit status 3", broken), "name the folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Find(t.Context(), c.cfg)
			wantProblem(t, err, problem.Usage, c.text, c.hint)
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Find(ctx, FindConfig{Path: fifteen, Folders: none.Folders}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestNewerServers: this machine's pg_dump is older than these servers. Find says so before anything runs; who runs it
// nevertheless hears it from pg_dump.
func TestNewerServers(t *testing.T) {
	old := programs(t)
	source := pgtest.New(t)
	execute(t, source, `CREATE TABLE t (a text)`, `INSERT INTO t VALUES ('x')`)
	file := dumpTo(t, DumpConfig{DSN: source})
	for _, major := range []int{16, 17, 18} {
		dsn := pgtest.NewVersion(t, major)
		server, err := strconv.Atoi(query(t, dsn, `SELECT current_setting('server_version_num')`))
		if err != nil || series(server) != major {
			t.Fatalf("server %d is %d, %v", major, server, err)
		}
		if series(old.Version) >= major {
			t.Fatalf("pg_dump is %s: this test needs one older than the servers", old.Release())
		}
		_, err = Find(t.Context(), FindConfig{Dir: filepath.Dir(old.Dump), Server: server})
		wantProblem(t, err, problem.Usage, fmt.Sprintf("pg_dump %s in %q is too old: the server is PostgreSQL %s", old.Release(), filepath.Dir(old.Dump), release(server)),
			fmt.Sprintf("postgresql-client-%d", major))
		err = Dump(t.Context(), DumpConfig{Programs: old, DSN: dsn, Out: io.Discard})
		wantProblem(t, err, problem.Usage, "dumping the database: aborting because of server version mismatch", "postgresql-client-NN")

		// Restoring an older dump into a newer server is how a server is upgraded.
		if _, err := Restore(t.Context(), RestoreConfig{Programs: old, DSN: dsn, File: file}); err != nil {
			t.Errorf("PostgreSQL %d: %v", major, err)
		}
		if got := query(t, dsn, `SELECT string_agg(a, ',') FROM t`); got != "x" {
			t.Errorf("PostgreSQL %d: restored %q", major, got)
		}
	}
}
