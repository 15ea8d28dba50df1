package pgserver

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// standby makes a real standby of the server that dsn names, and returns the
// address of the same database there.
func standby(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	dir, err := os.MkdirTemp("", "n8keep-pgserver-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var cred *syscall.Credential
	if os.Geteuid() == 0 {
		pg, err := user.Lookup("postgres")
		if err != nil {
			t.Fatalf(`%v: run "scripts/setup"`, err)
		}
		uid, _ := strconv.Atoi(pg.Uid)
		gid, _ := strconv.Atoi(pg.Gid)
		cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	program := func(name string, args ...string) *exec.Cmd {
		path, err := pgtest.Program(name)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, args...)
		cmd.Dir, cmd.Env = dir, []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", "PGPASSWORD=" + password}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Pdeathsig: syscall.SIGQUIT}
		return cmd
	}
	data := filepath.Join(dir, "data")
	copying := program("pg_basebackup", "-h", u.Hostname(), "-p", u.Port(), "-U", pgtest.User, "-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	var log bytes.Buffer
	server := program("postgres", "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+dir, "-c", "fsync=off", "-c", "shared_buffers=16MB",
		"-c", "max_connections=60", "-c", "max_standby_streaming_delay=200ms", "-c", "max_standby_archive_delay=200ms")
	server.Stdout, server.Stderr = &log, &log
	started, exited := make(chan error), make(chan struct{})
	go func() {
		// Pdeathsig fires when the starting thread ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := server.Start()
		started <- err
		if err == nil {
			server.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGQUIT)
		<-exited
	})
	u.Host = net.JoinHostPort("127.0.0.1", port)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := pgx.Connect(ctx, u.String())
		if err == nil {
			c.Close(ctx)
			return u.String()
		}
		select {
		case <-exited:
			t.Fatalf("the standby ended at once\n%s", &log)
		case <-ctx.Done():
			t.Fatalf("the standby does not answer: %v", err)
		case <-tick.C:
		}
	}
}

// replayed waits until the standby shows n rows of t.
func replayed(t *testing.T, c *pgx.Conn, n int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for value[int](t, c, `SELECT count(*) FROM t`) != n {
		if time.Now().After(deadline) {
			t.Fatalf("the standby does not show %d rows", n)
		}
		run(t, c, `SELECT pg_sleep(0.02)`)
	}
}

func TestStandby(t *testing.T) {
	dsn := pgtest.New(t)
	admin := session(t, dsn)
	run(t, admin, `CREATE TABLE t (n int)`, `INSERT INTO t VALUES (1)`)
	there := standby(t, dsn)

	_, err := OpenSource(t.Context(), SourceConfig{DSN: there, AppName: app})
	if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "is a standby") || !strings.Contains(problem.HintOf(err), "--from-replica") {
		t.Fatalf("%v\n%s", err, problem.HintOf(err))
	}
	reader := session(t, there)
	replayed(t, reader, 1)
	s := open(t, SourceConfig{DSN: there, FromReplica: true})
	if !s.Server().Replica {
		t.Errorf("%+v", s.Server())
	}
	notes := strings.Join(s.Notes(), "\n")
	for _, want := range []string{"read from a standby", "hot_standby_feedback is off on the standby", "there is no point-in-time recovery"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes %q, want %q", s.Notes(), want)
		}
	}
	ctx, stop := s.Watch(t.Context(), 200*time.Millisecond)
	defer stop()
	run(t, admin, `INSERT INTO t VALUES (2)`)
	replayed(t, reader, 2)
	run(t, reader, `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`, `SET TRANSACTION SNAPSHOT '`+s.Snapshot()+`'`)
	if n := value[int](t, reader, `SELECT count(*) FROM t`); n != 1 {
		t.Errorf("the standby's snapshot shows %d rows", n)
	}
	run(t, reader, `COMMIT`)
	if ctx.Err() != nil {
		t.Fatal(context.Cause(ctx))
	}
	// The primary removes rows that the snapshot still shows: the standby cannot wait for us for ever.
	run(t, admin, `DELETE FROM t`, `VACUUM t`)
	if err := ended(t, ctx); problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "recovery") || !strings.Contains(problem.HintOf(err), "hot_standby_feedback = on") {
		t.Errorf("%v\n%s", err, problem.HintOf(err))
	}
}
