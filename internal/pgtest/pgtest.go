// Package pgtest gives tests a private PostgreSQL server.
//
// The first New of a test binary makes a cluster in a temporary directory (initdb, no fsync, loopback and a unix socket,
// scram passwords) from the newest Debian PostgreSQL on the machine, and every New makes one empty database in it. The
// server is stopped and its directory removed when the last test that uses it ends; a package with many such tests calls
// Main from its TestMain, which keeps one server for all of them:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
// NewVersion does the same on a server of another major version, from scripts/install-servers; Versions lists them.
// Those servers come without pg_dump, pg_restore and psql. Role is for code that must do without a superuser.
//
// The kernel kills the server when the test binary dies, however it dies; the directory a killed binary left is removed
// by the next one. PostgreSQL refuses to run as root, so for root everything runs as the system user postgres.
//
// A machine without PostgreSQL fails the test: nothing here skips.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// User is the superuser that every DSN of this package logs in as.
const User = "postgres"

// shared holds the servers of a test binary by major version; refs counts who needs one. With keep, each server stays
// until Main ends.
var shared struct {
	sync.Mutex
	keep    bool
	servers map[int]*server
}

type server struct {
	refs int
	c    *cluster
}

var databases, roles atomic.Int64

// New returns the URL of a fresh, empty UTF-8 database, dropped when the test ends.
// It may be called from several tests at once.
func New(t testing.TB) string {
	t.Helper()
	_, major, err := programs()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return NewVersion(t, major)
}

// NewVersion is New on a server of the given major version, one of Versions.
func NewVersion(t testing.TB, major int) string {
	t.Helper()
	return use(t, major).database(t, "")
}

func (c *cluster) database(t testing.TB, options string) string {
	t.Helper()
	name := fmt.Sprintf("n8k_%d", databases.Add(1))
	if err := c.admin(`CREATE DATABASE ` + name + options); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := c.admin(`DROP DATABASE IF EXISTS ` + name + ` WITH (FORCE)`); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return c.dsn(name)
}

// Versions lists the major versions that NewVersion takes, ascending: that of Debian, which New uses, and those of
// scripts/install-servers.
func Versions() []int {
	all := packaged()
	if _, major, err := programs(); err == nil {
		all = append(all, major)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Role makes a login role without any power but the options of CREATE ROLE that are given ("CREATEDB"), hands it the
// database of dsn and the schema public in it, as providers of managed servers do, and returns the URL with which it
// logs in. The role lives as long as the server.
func Role(t testing.TB, dsn string, options string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("pgtest: parsing own address: %v", err)
	}
	name, password := fmt.Sprintf("role_%d", roles.Add(1)), rand.Text()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("pgtest: connecting to the test server: %v", err)
	}
	defer conn.Close(ctx)
	for _, statement := range []string{
		`CREATE ROLE ` + name + ` LOGIN NOSUPERUSER PASSWORD '` + password + `' ` + options,
		`ALTER DATABASE ` + pgx.Identifier{u.Path[1:]}.Sanitize() + ` OWNER TO ` + name,
		`ALTER SCHEMA public OWNER TO ` + name,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatalf("pgtest: making a role: %v", err)
		}
	}
	u.User = url.UserPassword(name, password)
	return u.String()
}

// Restore returns the URL of a fresh database that holds the pg_dump file dump (custom, directory or tar format), loaded
// by pg_restore without its owners and grants.
func Restore(t testing.TB, dump string) string {
	t.Helper()
	_, major, err := programs()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	c := use(t, major)
	return c.database(t, c.restored(t, dump))
}

// Prepared returns the URL of a fresh database that holds the dump and what prepare has done to it. The server
// keeps a copy by the name, so that prepare runs once; it has to leave no session behind.
func Prepared(t testing.TB, dump, name string, prepare func(dsn string)) string {
	t.Helper()
	_, major, err := programs()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	c := use(t, major)
	return c.database(t, c.template(t, dump+" "+name, c.restored(t, dump), prepare))
}

// restored is the template of a dump.
func (c *cluster) restored(t testing.TB, dump string) string {
	t.Helper()
	return c.template(t, dump, "", func(dsn string) {
		if err := c.restore(dsn, dump); err != nil {
			t.Fatalf("pgtest: restoring %s: %v", dump, err)
		}
	})
}

// template are the options of CREATE DATABASE for a copy of the database of the name, which is made with options of
// its own when it is first asked for: copying it is several times faster than loading a dump. Nobody connects to it
// again, so that it can be copied at any time.
func (c *cluster) template(t testing.TB, name, options string, fill func(dsn string)) string {
	t.Helper()
	c.loading.Lock()
	defer c.loading.Unlock()
	if c.templates[name] == "" {
		database := fmt.Sprintf("n8k_template_%d", databases.Add(1))
		if err := c.admin(`CREATE DATABASE ` + database + options); err != nil {
			t.Fatalf("pgtest: %v", err)
		}
		fill(c.dsn(database))
		if c.templates == nil {
			c.templates = map[string]string{}
		}
		c.templates[name] = database
	}
	return ` TEMPLATE ` + c.templates[name] + ` STRATEGY file_copy`
}

// restore loads a dump into a database.
func (c *cluster) restore(dsn, dump string) error {
	bin, err := Program("pg_restore")
	if err != nil {
		return err
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return fmt.Errorf("parsing own address: %w", err)
	}
	u.User = url.User(User)
	cmd := exec.Command(bin, "--exit-on-error", "--no-owner", "--no-privileges", "--dbname", u.String(), dump)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+c.password, "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// SocketDSN is New's dsn by way of the unix socket, for code that must work with one.
func SocketDSN(t testing.TB, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("pgtest: parsing %q: %v", dsn, err)
	}
	shared.Lock()
	defer shared.Unlock()
	dir := ""
	for _, s := range shared.servers {
		if strconv.Itoa(s.c.port) == u.Port() {
			dir = s.c.dir
		}
	}
	if dir == "" {
		t.Fatal("pgtest: SocketDSN of no server that runs")
	}
	q := u.Query()
	q.Set("host", dir)
	q.Set("port", u.Port())
	u.Host, u.RawQuery = "", q.Encode()
	return u.String()
}

// Program is the path of a PostgreSQL program (pg_dump, psql, ...) of the same release as the server of New.
func Program(name string) (string, error) {
	dir, _, err := programs()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, name), nil
}

// Main runs the tests of m on servers that outlive each of them, and returns the code for os.Exit.
func Main(m *testing.M) int {
	shared.Lock()
	shared.keep = true
	shared.Unlock()
	code := m.Run()
	shared.Lock()
	kept := slices.Collect(maps.Keys(shared.servers))
	shared.Unlock()
	for _, major := range kept {
		if err := release(major); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	return code
}

func use(t testing.TB, major int) *cluster {
	t.Helper()
	c, err := acquire(major)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := release(major); err != nil {
			t.Error(err)
		}
	})
	return c
}

func acquire(major int) (*cluster, error) {
	shared.Lock()
	defer shared.Unlock()
	s := shared.servers[major]
	if s == nil {
		c, err := start(major)
		if err != nil {
			return nil, fmt.Errorf("pgtest: %w", err)
		}
		if shared.servers == nil {
			shared.servers = map[int]*server{}
		}
		s = &server{c: c}
		if shared.keep {
			s.refs++
		}
		shared.servers[major] = s
	}
	s.refs++
	return s.c, nil
}

func release(major int) error {
	shared.Lock()
	defer shared.Unlock()
	s := shared.servers[major]
	s.refs--
	if s.refs > 0 {
		return nil
	}
	delete(shared.servers, major)
	return s.c.stop()
}

// admin runs one statement in the maintenance database.
func (c *cluster) admin(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.dsn("postgres"))
	if err != nil {
		return fmt.Errorf("connecting to the test server: %w", err)
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}
