package pgtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	// The killed child of TestKilledBinary must have its own server.
	if os.Getenv("PGTEST_CHILD") != "" {
		os.Exit(m.Run())
	}
	os.Exit(Main(m))
}

func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var s string
	if err := conn.QueryRow(t.Context(), sql).Scan(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNew(t *testing.T) {
	a, b := New(t), New(t)
	if a == b {
		t.Fatalf("two databases with the address %q", a)
	}
	const tables = `SELECT count(*)::text FROM pg_tables WHERE schemaname='public'`
	if got := query(t, a, tables); got != "0" {
		t.Errorf("a new database has %s tables", got)
	}
	if got := query(t, a, `SELECT current_setting('server_encoding')||' '||current_setting('fsync')`); got != "UTF8 off" {
		t.Errorf("settings are %q", got)
	}
	if got := query(t, SocketDSN(t, a), `SELECT coalesce(host(inet_server_addr()),'socket')||' '||current_database()`); !strings.HasPrefix(got, "socket n8k_") {
		t.Errorf("connected by %q", got)
	}
}

func TestVersions(t *testing.T) {
	if len(Versions()) < 3 {
		t.Fatalf("only the versions %v", Versions())
	}
	for _, major := range Versions() {
		dsn := NewVersion(t, major)
		if got, want := query(t, dsn, `SELECT current_setting('server_version')`), strconv.Itoa(major)+"."; !strings.HasPrefix(got, want) {
			t.Errorf("version %d is %s", major, got)
		}
	}
	_, major, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	if got := query(t, New(t), `SELECT current_setting('server_version')`); !strings.HasPrefix(got, strconv.Itoa(major)) {
		t.Errorf("New is on %s", got)
	}
}

func TestMissingVersion(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("N8KEEP_CACHE", cache)
	_, err := start(99)
	want := "no PostgreSQL 99 in " + cache + "/servers: run \"scripts/install-servers postgres99\""
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestRole(t *testing.T) {
	admin := New(t)
	dsn := Role(t, admin, "CREATEDB")
	const powers = `SELECT concat(rolsuper, rolcreatedb, rolcreaterole, rolreplication) FROM pg_roles WHERE rolname=current_user`
	if got := query(t, dsn, powers); got != "ftff" {
		t.Errorf("superuser, createdb, createrole, replication: %s", got)
	}
	if got := query(t, dsn, `SELECT has_schema_privilege('public', 'CREATE')::text`); got != "true" {
		t.Error("the owner of the database may not make tables")
	}
}

func TestRestore(t *testing.T) {
	dumps, _ := filepath.Glob("../../testdata/fixtures/*/database.dump")
	if len(dumps) == 0 {
		t.Fatal("no PostgreSQL dump under testdata/fixtures")
	}
	for _, d := range dumps {
		t.Run(filepath.Base(filepath.Dir(d)), func(t *testing.T) {
			if got := query(t, Restore(t, d), `SELECT count(*)::text FROM credentials_entity`); got == "0" {
				t.Error("the restored database has no credentials")
			}
		})
	}
}

func TestDropped(t *testing.T) {
	var dsn string
	t.Run("inner", func(t *testing.T) { dsn = New(t) })
	if conn, err := pgx.Connect(t.Context(), dsn); err == nil {
		conn.Close(t.Context())
		t.Error("the database is still there after its test")
	}
}

// TestKilledBinary proves that a killed test binary leaves no server behind, and its directory only until the next start.
func TestKilledBinary(t *testing.T) {
	if os.Getenv("PGTEST_CHILD") != "" {
		dsn := New(t)
		query(t, dsn, `SELECT 'up'`)
		shared.Lock()
		for _, s := range shared.servers {
			os.Stdout.WriteString(s.c.dir + "\n")
		}
		select {}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledBinary$")
	cmd.Env = append(os.Environ(), "PGTEST_CHILD=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.TrimSpace(string(buf[:n]))
	pidFile, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(pidFile), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// Readable once the server has ended; if it never does, the test binary's own timeout says so.
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1); err != nil {
		t.Fatal(err)
	}
	removeStale()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("directory of a killed binary: %v, want it removed", err)
	}
}
