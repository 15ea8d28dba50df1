package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/pgtest"
)

// TestKillPostgresBackup ends a backup of PostgreSQL at random moments, which are
// counted in bytes that the server sent: by kill -9 of n8keep, of pg_dump, of the
// server's backend, and by cutting the network. No half archive is visible
// afterwards, no process and no lock is left, and after the next run no temporary
// file.
func TestKillPostgresBackup(t *testing.T) {
	rounds := 2
	if os.Getenv("N8KEEP_SOAK") != "" {
		rounds = 50
	}
	bin := buildWithFailpoints(t)
	dsn := pgtest.Restore(t, "../../testdata/fixtures/2.41.1-postgres/database.dump")
	addRows(t, dsn)
	for _, engine := range []string{"pg_dump", "native"} {
		t.Run(engine, func(t *testing.T) {
			l, wire := newPostgresLab(t, bin, dsn)
			args := l.createPostgres(wire, "--engine", engine)
			var made api.Backup
			l.must(&made, args...)
			total := wire.sent.Swap(0)
			if total < 1<<20 {
				t.Fatalf("a backup moves only %d bytes", total)
			}
			kinds := []string{"n8keep", "backend", "network"}
			if engine == "pg_dump" {
				kinds = append(kinds, "pg_dump")
			}
			random := rand.New(rand.NewPCG(20261121, uint64(len(engine))))
			killed := 0
			for round := range rounds * len(kinds) {
				kind, at := kinds[round%len(kinds)], 1+random.Int64N(total)
				if l.endedAt(wire, kind, at, args) {
					killed++
				}
				l.noSessions(dsn)
				l.noOrphans(wire)
				l.onlyWholeAt(kind, at)
			}
			t.Logf("%d of %d runs were ended, over %d bytes", killed, rounds*len(kinds), total)
			if killed < rounds*len(kinds)/2 {
				t.Errorf("only %d of %d runs were ended", killed, rounds*len(kinds))
			}
			l.must(&made, args...)
			l.must(nil, "backup", "verify", made.ID, "--target", l.target, "--level", "secrets", "-i", l.identity, "--key-file", l.key)
			l.nothingLeft()
		})
	}
}

// addRows makes the database large enough that a backup has many moments.
func addRows(t *testing.T, dsn string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), `CREATE TABLE data_table_user_kill (id int PRIMARY KEY, note text);
		INSERT INTO data_table_user_kill SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 8000) i`)
	if err != nil {
		t.Fatal(err)
	}
}

// newPostgresLab is a lab whose n8n is on PostgreSQL, behind a wire that can be cut.
func newPostgresLab(t *testing.T, bin, dsn string) (*lab, *wire) {
	t.Helper()
	l := newLab(t, bin, "2.41.1-sqlite")
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	w := newWire(t, u)
	password, _ := u.User.Password()
	host, port, err := net.SplitHostPort(w.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	write(t, l.key, "lab-key-2.41.1-pg-fedcba9876543210")
	file := filepath.Join(l.dir, "pgpass")
	write(t, file, fmt.Sprintf("%s:%s:*:*:%s\n", host, port, password))
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	l.env = append(l.env, "PGPASSFILE="+file)
	return l, w
}

func (l *lab) createPostgres(w *wire, extra ...string) []string {
	return append([]string{"backup", "create", "--instance", "lab", "--n8n-dir", l.n8n, "--database", w.address(), "--key-file", l.key,
		"--recipient", l.recip, "--target", l.target, "--json"}, extra...)
}

// endedAt runs a backup and ends it after so many bytes; false when it was faster.
func (l *lab) endedAt(w *wire, kind string, at int64, args []string) bool {
	l.t.Helper()
	cmd := exec.Command(l.bin, args...)
	cmd.Env = l.env
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var ended atomic.Bool
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	w.arm(at, func() {
		ended.Store(true)
		switch kind {
		case "n8keep":
			cmd.Process.Kill()
		case "pg_dump":
			if pid := childOf(cmd.Process.Pid, "pg_dump"); pid != 0 {
				syscall.Kill(pid, syscall.SIGKILL)
			} else {
				ended.Store(false)
			}
		case "backend":
			w.terminate(l.t)
		case "network":
			w.cut()
		}
	})
	err := cmd.Wait()
	w.disarm()
	code := cmd.ProcessState.ExitCode()
	switch {
	case !ended.Load() && err != nil:
		l.t.Errorf("exit %d without being ended\n%s%s", code, out.String(), errOut.String())
	case ended.Load() && kind != "n8keep" && code == 0:
		return false // what was ended had done its work
	case kind == "pg_dump" && code == 1 && strings.Contains(out.String(), "killed"):
	case ended.Load() && kind != "n8keep" && code != 14 && code != 11:
		l.t.Errorf("%s ended at byte %d: exit %d\n%s%s", kind, at, code, out.String(), errOut.String())
	}
	return ended.Load()
}

func (l *lab) onlyWholeAt(kind string, at int64) {
	l.t.Helper()
	var list []api.Archive
	l.must(&list, "backup", "list", "--target", l.target, "--json")
	for _, a := range list {
		if a.State != "good" && a.State != "incomplete" {
			l.t.Errorf("%s at byte %d: archive %s is %s: %s", kind, at, a.ID, a.State, a.Problem)
		}
		if a.State == "good" {
			l.must(nil, "backup", "verify", a.ID, "--target", l.target, "--level", "quick")
		}
	}
}

// noSessions waits until the server has noticed that its clients are gone, and
// fails if it does not: a session of ours would hold locks.
func (l *lab) noSessions(dsn string) {
	l.t.Helper()
	conn, err := pgx.Connect(l.t.Context(), dsn)
	if err != nil {
		l.t.Fatal(err)
	}
	defer conn.Close(l.t.Context())
	const ours = `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'n8keep%'`
	for range 2000 {
		var n int
		if err := conn.QueryRow(l.t.Context(), ours).Scan(&n); err != nil {
			l.t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if _, err := conn.Exec(l.t.Context(), "SELECT pg_sleep(0.01)"); err != nil {
			l.t.Fatal(err)
		}
	}
	l.t.Error("sessions of n8keep are still there")
}

// noOrphans looks for a pg_dump that has our database's address on its command line.
func (l *lab) noOrphans(w *wire) {
	l.t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range entries {
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if _, port, _ := net.SplitHostPort(w.listener.Addr().String()); bytes.Contains(line, []byte("pg_dump")) && bytes.Contains(line, []byte(port)) {
			l.t.Errorf("process %s is left: %q", e.Name(), line)
		}
	}
}

// childOf finds a process by name below another.
func childOf(parent int, name string) int {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		if open < 0 || end < 0 {
			continue
		}
		fields := strings.Fields(string(stat[end+1:]))
		if len(fields) < 2 || string(stat[open+1:end]) != name {
			continue
		}
		if ppid, _ := strconv.Atoi(fields[1]); ppid == parent {
			pid, _ := strconv.Atoi(e.Name())
			return pid
		}
	}
	return 0
}

// wire passes bytes between n8keep and the server, and does something after so
// many.
type wire struct {
	dsn      *url.URL
	listener net.Listener
	sent     atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
	at    int64 // 0: not armed
	then  func()
}

func newWire(t *testing.T, dsn *url.URL) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{dsn: dsn, listener: l, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { w.pass(client) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.cut()
		wg.Wait()
	})
	return w
}

// address has no password.
func (w *wire) address() string {
	u := *w.dsn
	u.User = url.User(u.User.Username())
	u.Host = w.listener.Addr().String()
	return u.String()
}

func (w *wire) pass(client net.Conn) {
	server, err := net.Dial("tcp", w.dsn.Host)
	if err != nil {
		client.Close()
		return
	}
	w.mu.Lock()
	w.conns[client], w.conns[server] = true, true
	w.mu.Unlock()
	defer func() {
		client.Close()
		server.Close()
		w.mu.Lock()
		delete(w.conns, client)
		delete(w.conns, server)
		w.mu.Unlock()
	}()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(server, client)
		server.(*net.TCPConn).CloseWrite()
	})
	io.Copy(counted{client, w}, server)
	client.Close()
	wg.Wait()
}

type counted struct {
	net.Conn
	w *wire
}

func (c counted) Write(p []byte) (int, error) {
	n := c.w.sent.Add(int64(len(p)))
	c.w.mu.Lock()
	then := c.w.then
	if then == nil || n < c.w.at {
		then = nil
	} else {
		c.w.then = nil
	}
	c.w.mu.Unlock()
	if then != nil {
		then()
	}
	return c.Conn.Write(p)
}

func (w *wire) arm(at int64, then func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent.Store(0)
	w.at, w.then = at, then
}

func (w *wire) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.then = nil
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

// terminate ends the sessions that read.
func (w *wire) terminate(t *testing.T) {
	conn, err := pgx.Connect(t.Context(), w.dsn.String())
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'n8keep%' AND pid <> pg_backend_pid()`); err != nil {
		t.Error(err)
	}
}
