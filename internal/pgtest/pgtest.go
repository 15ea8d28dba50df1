// Package pgtest gives tests a private PostgreSQL server.
//
// The first New of a test binary makes a cluster in a temporary directory (initdb, no fsync, loopback and a unix socket,
// scram passwords) from the newest Debian PostgreSQL on the machine, and every New makes one empty database in it. The
// server is stopped and its directory removed when the last test that uses it ends; a package with many such tests calls
// Main from its TestMain, which keeps one server for all of them:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
// The kernel kills the server when the test binary dies, however it dies; the directory a killed binary left is removed
// by the next one. PostgreSQL refuses to run as root, so for root everything runs as the system user postgres.
//
// A machine without PostgreSQL fails the test: nothing here skips.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// User is the superuser that every DSN of this package logs in as.
const User = "postgres"

// shared is the one server of a test binary; refs counts who needs it.
var shared struct {
	sync.Mutex
	refs int
	c    *cluster
}

var databases atomic.Int64

// New returns the URL of a fresh, empty UTF-8 database, dropped when the test ends.
// It may be called from several tests at once.
func New(t testing.TB) string {
	t.Helper()
	c := use(t)
	name := fmt.Sprintf("n8k_%d", databases.Add(1))
	if err := c.admin(`CREATE DATABASE ` + name); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := c.admin(`DROP DATABASE IF EXISTS ` + name + ` WITH (FORCE)`); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return c.dsn(name)
}

// Restore returns the URL of a fresh database that holds the pg_dump file dump (custom, directory or tar format), loaded
// by pg_restore without its owners and grants.
func Restore(t testing.TB, dump string) string {
	t.Helper()
	dsn := New(t)
	bin, err := Program("pg_restore")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("pgtest: parsing own address: %v", err)
	}
	password, _ := u.User.Password()
	u.User = url.User(User)
	cmd := exec.CommandContext(t.Context(), bin, "--exit-on-error", "--no-owner", "--no-privileges", "--dbname", u.String(), dump)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password, "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pgtest: restoring %s: %v\n%s", dump, err, out)
	}
	return dsn
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
	if shared.c == nil {
		t.Fatal("pgtest: SocketDSN before New")
	}
	q := u.Query()
	q.Set("host", shared.c.dir)
	q.Set("port", u.Port())
	u.Host, u.RawQuery = "", q.Encode()
	return u.String()
}

// Program is the path of a PostgreSQL program (pg_dump, psql, ...) of the same release as the server.
func Program(name string) (string, error) {
	dir, err := programs()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, name), nil
}

// Main runs the tests of m on one server that outlives each of them, and returns the code for os.Exit.
func Main(m *testing.M) int {
	c, err := acquire()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer release(c)
	return m.Run()
}

func use(t testing.TB) *cluster {
	t.Helper()
	c, err := acquire()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := release(c); err != nil {
			t.Error(err)
		}
	})
	return c
}

func acquire() (*cluster, error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.c == nil {
		c, err := start()
		if err != nil {
			return nil, fmt.Errorf("pgtest: %w", err)
		}
		shared.c = c
	}
	shared.refs++
	return shared.c, nil
}

func release(c *cluster) error {
	shared.Lock()
	defer shared.Unlock()
	shared.refs--
	if shared.refs > 0 {
		return nil
	}
	shared.c = nil
	return c.stop()
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
