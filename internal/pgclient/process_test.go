package pgclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// running are the processes whose arguments hold the text, beside this one.
func running(t testing.TB, text string) (pids []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(found) == 0 {
		t.Fatalf("no processes under /proc: %v", err)
	}
	for _, name := range found {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		// One that ends while we look is not running.
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(text)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unique is a name that no other run of these tests uses at the same time.
func unique(name string) string { return fmt.Sprintf("n8keep-%s-%d", name, os.Getpid()) }

// await polls until the condition holds, for two minutes at most: these machines are busy.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for !holds() {
		select {
		case <-limit.C:
			t.Fatalf("waiting for %s: it does not happen", what)
		case <-tick.C:
		}
	}
}

func sessions(t testing.TB, dsn, app string) string {
	return query(t, dsn, `SELECT count(*)::text FROM pg_stat_activity WHERE application_name = $1`, app)
}

// TestCancelDump: the process, its group and its session are gone, and the error says why.
func TestCancelDump(t *testing.T) {
	app := unique("cancel")
	dsn := bigTable(t)
	why := problem.New(problem.Busy, "somebody waits")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := Dump(ctx, DumpConfig{Programs: programs(t), DSN: dsn, AppName: app, Out: &once{do: func() {
		if pids := running(t, app); len(pids) != 1 {
			t.Errorf("%d processes while it runs", len(pids))
		}
		cancel(why)
	}}})
	if !errors.Is(err, why) {
		t.Errorf("%v, want the cause", err)
	}
	if pids := running(t, app); len(pids) > 0 {
		t.Errorf("left behind: %v", pids)
	}
	await(t, "the session to end", func() bool { return sessions(t, dsn, app) == "0" })

	if err := Dump(ctx, DumpConfig{Programs: programs(t), DSN: dsn, Out: io.Discard}); !errors.Is(err, why) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// TestCancelWaiting: a dump that waits for somebody's lock is cancelled on the server too.
func TestCancelWaiting(t *testing.T) {
	app := unique("waits")
	dsn := pgtest.New(t)
	execute(t, dsn, `CREATE TABLE held (a int)`)
	tx, err := connectTo(t, dsn).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	if _, err := tx.Exec(t.Context(), `LOCK TABLE held`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Dump(ctx, DumpConfig{Programs: programs(t), DSN: dsn, AppName: app, Out: io.Discard})
	}()
	await(t, "the dump to wait", func() bool {
		return query(t, dsn, `SELECT count(*)::text FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'`, app) == "1"
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	await(t, "the session to end", func() bool { return sessions(t, dsn, app) == "0" })
}

// waitingRestore starts a restore whose workers wait for locks, in this process or another, and returns the database.
func waitingRestore(t testing.TB) (target, file string) {
	t.Helper()
	source := pgtest.New(t)
	target = pgtest.New(t)
	var tables []string
	for _, dsn := range []string{source, target} {
		for i := range 3 {
			table := fmt.Sprintf("t%d", i)
			execute(t, dsn, `CREATE TABLE `+table+` (a text)`)
			if dsn == source {
				execute(t, dsn, `INSERT INTO `+table+` SELECT md5(i::text) FROM generate_series(1, 1000) i`)
				tables = append(tables, table)
			}
		}
	}
	tx, err := connectTo(t, target).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	if _, err := tx.Exec(t.Context(), `LOCK TABLE `+strings.Join(tables, ", ")); err != nil {
		t.Fatal(err)
	}
	return target, dumpTo(t, DumpConfig{DSN: source})
}

func awaitWorkers(t testing.TB, dsn, app string) {
	t.Helper()
	await(t, "three workers to wait", func() bool {
		return query(t, dsn, `SELECT count(*)::text FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'`, app) == "3"
	})
}

func TestCancelRestore(t *testing.T) {
	app := unique("restores")
	target, file := waitingRestore(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := Restore(ctx, RestoreConfig{Programs: programs(t), DSN: target, File: file, Sections: []string{"data"}, Jobs: 3, AppName: app})
		done <- err
	}()
	awaitWorkers(t, target, app)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if pids := running(t, app); len(pids) > 0 {
		t.Errorf("left behind: %v", pids)
	}
	await(t, "the sessions to end", func() bool { return sessions(t, target, app) == "0" })
}

// TestKilledWithUs: when this program is killed, what it runs dies with it, and so do the sessions on the server.
func TestKilledWithUs(t *testing.T) {
	if what := os.Getenv("PGCLIENT_CHILD"); what != "" {
		dsn, app := os.Getenv("PGCLIENT_DSN"), os.Getenv("PGCLIENT_APP")
		if what == "dump" {
			err := Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: dsn, AppName: app, Out: &once{do: func() { select {} }}})
			t.Fatalf("the dump ended: %v", err)
		}
		_, err := Restore(t.Context(), RestoreConfig{Programs: programs(t), DSN: dsn, File: what, Sections: []string{"data"}, Jobs: 3, AppName: app})
		t.Fatalf("the restore ended: %v", err)
	}
	child := func(t *testing.T, what, dsn, app string) *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledWithUs$")
		cmd.Env = append(os.Environ(), "PGCLIENT_CHILD="+what, "PGCLIENT_DSN="+dsn, "PGCLIENT_APP="+app)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(t *testing.T, cmd *exec.Cmd, dsn, app string) {
		pids := running(t, "application_name='"+app+"'")
		if len(pids) == 0 {
			t.Fatal("no process to watch")
		}
		var fds []int
		for _, pid := range pids {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			fds = append(fds, fd)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		for _, fd := range fds {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil {
				t.Fatal(err)
			}
		}
		await(t, "the sessions to end", func() bool { return sessions(t, dsn, app) == "0" })
	}
	t.Run("dump", func(t *testing.T) {
		dsn, app := bigTable(t), unique("kill1")
		cmd := child(t, "dump", dsn, app)
		await(t, "the dump to run", func() bool { return sessions(t, dsn, app) == "1" })
		kill(t, cmd, dsn, app)
	})
	t.Run("restore", func(t *testing.T) {
		target, file := waitingRestore(t)
		app := unique("kill2")
		cmd := child(t, file, target, app)
		awaitWorkers(t, target, app)
		if pids := running(t, "application_name='"+app+"'"); len(pids) != 4 {
			t.Errorf("%d processes, want a leader and three workers", len(pids))
		}
		kill(t, cmd, target, app)
	})
}

// TestProgramKilled: somebody, such as the kernel for want of memory, kills pg_dump.
func TestProgramKilled(t *testing.T) {
	app := unique("victim")
	err := Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: bigTable(t), AppName: app, Out: &once{do: func() {
		for _, pid := range running(t, "application_name='"+app+"'") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}}})
	wantProblem(t, err, problem.Unexpected, "dumping the database: pg_dump was ended by SIGKILL", "want of memory")
}

// TestPasswordsAreUnseen looks at every process of the machine while the programs run.
func TestPasswordsAreUnseen(t *testing.T) {
	app := unique("look")
	t.Setenv("N8N_ENCRYPTION_KEY", "planted instance key")
	t.Setenv("DB_POSTGRESDB_PASSWORD", "planted password of n8n")
	dsn := bigTable(t)
	password := passwordOf(t, dsn)
	look := func(want int) {
		ours := map[string]bool{}
		for _, pid := range running(t, "application_name='"+app+"'") {
			ours[strconv.Itoa(pid)] = true
		}
		if len(ours) != want {
			t.Errorf("%d processes, want %d", len(ours), want)
		}
		looked, hasIt := 0, 0
		for _, kind := range []string{"cmdline", "environ"} {
			names, _ := filepath.Glob("/proc/[0-9]*/" + kind)
			for _, name := range names {
				b, err := os.ReadFile(name)
				if err != nil {
					continue
				}
				looked++
				pid := filepath.Base(filepath.Dir(name))
				if ours[pid] && (bytes.Contains(b, []byte("planted")) || bytes.Contains(b, []byte("N8N_"))) {
					t.Errorf("%s holds n8n's secrets", name)
				}
				if !bytes.Contains(b, []byte(password)) {
					continue
				}
				if kind == "cmdline" || !ours[pid] {
					t.Errorf("%s holds the password", name)
				}
				hasIt++
			}
		}
		if looked < 4 || hasIt != want {
			t.Errorf("%d files looked at, %d environments with the password, want %d", looked, hasIt, want)
		}
	}
	if err := Dump(t.Context(), DumpConfig{Programs: programs(t), DSN: dsn, AppName: app, Out: &once{do: func() { look(1) }}}); err != nil {
		t.Error(err)
	}
	target, file := waitingRestore(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := Restore(ctx, RestoreConfig{Programs: programs(t), DSN: target, File: file, Sections: []string{"data"}, Jobs: 3, AppName: app})
		done <- err
	}()
	awaitWorkers(t, target, app)
	look(4)
	cancel()
	<-done
}

// TestFakePrograms: what a real pg_dump cannot be made to do.
func TestFakePrograms(t *testing.T) {
	dsn := "postgres://u:hush%20hush@127.0.0.1/d"
	for _, c := range []struct {
		name, body string
		kind       problem.Kind
		text, hint string
	}{
		{"no message", "exit 3", problem.Unexpected, "pg_dump ended with exit code 3 and no message", ""},
		{"an error in spite of success", "echo 'pg_dump: error: something odd' >&2", problem.Unexpected, "something odd", ""},
		{"errors ignored", "echo 'pg_restore: warning: errors ignored on restore: 3' >&2", problem.Unexpected, "errors ignored on restore: 3", ""},
		{"a message beside others", `printf 'noise\npg_dump: warning: old\npg_dump: error: first\nof two\nDETAIL:  Key (a)=(secret) is bad.\nCONTEXT:  COPY x, line 1: "secret"\npg_dump: error: second\n' >&2; exit 1`, problem.Unexpected, "first of two", ""},
		{"the password", `echo "pg_dump: error: it is $PGPASSWORD" >&2; exit 1`, problem.Unexpected, "it is [redacted]", ""},
		{"a signal", "kill -SEGV $$", problem.Unexpected, "pg_dump was ended by SIGSEGV", ""},
		{"a long message", `printf 'pg_dump: error: ' >&2; head -c 300000 /dev/zero | tr '\0' x >&2; echo >&2; exit 1`, problem.Unexpected, strings.Repeat("x", 400) + "...", ""},
		{"too many connections", "echo 'pg_dump: error: connection to server failed: FATAL:  sorry, too many clients already' >&2; exit 1", problem.Busy, "connection to server failed: FATAL: sorry, too many clients already", "max_connections"},
		{"recovery", `printf 'pg_dump: error: Dumping the contents of table "t" failed: PQgetResult() failed.\npg_dump: detail: Error message from server: ERROR:  canceling statement due to conflict with recovery\nDETAIL:  User query might have needed to see row versions that must be removed.\npg_dump: detail: Command was: COPY t TO stdout;\n' >&2; exit 1`,
			problem.Busy, `Dumping the contents of table "t" failed: PQgetResult() failed. ERROR: canceling statement due to conflict with recovery`, "hot_standby_feedback"},
		{"a newer snapshot message", `echo 'pg_dump: error: query failed: ERROR:  snapshot "00000003-1" does not exist' >&2; exit 1`, problem.Unreachable, `query failed: ERROR: snapshot "00000003-1" does not exist`, "run it again"},
		{"the server's disk", "echo 'pg_restore: error: could not execute query: ERROR:  could not extend file \"x\": No space left on device' >&2; exit 1", problem.Unexpected, `could not execute query: ERROR: could not extend file "x": No space left on device`, "a disk is full"},
		{"an extension", "echo 'pg_restore: error: could not execute query: ERROR:  permission denied to create extension \"x\"' >&2; exit 1", problem.Unreachable, `could not execute query: ERROR: permission denied to create extension "x"`, "CREATE EXTENSION"},
		{"ownership", "echo 'pg_restore: error: could not execute query: ERROR:  must be owner of table x' >&2; exit 1", problem.Unreachable, `could not execute query: ERROR: must be owner of table x`, "use the owner"},
		{"another release", "echo 'pg_restore: error: unsupported version (1.16) in file header' >&2; exit 1", problem.Usage, `unsupported version (1.16) in file header`, "different PostgreSQL releases"},
		{"a host", "echo 'pg_dump: error: could not translate host name \"x\" to address: Name or service not known' >&2; exit 1", problem.Unreachable, `could not translate host name "x" to address: Name or service not known`, "check host"},
		{"a locked table", "echo 'pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout' >&2; exit 1", problem.Busy, `query failed: ERROR: canceling statement due to lock timeout`, "try again later"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Programs{Dump: shell(t, filepath.Join(t.TempDir(), "pg_dump"), c.body)}
			err := Dump(t.Context(), DumpConfig{Programs: p, DSN: dsn, Out: io.Discard})
			wantProblem(t, err, c.kind, "dumping the database: "+c.text, c.hint)
		})
	}
	err := Dump(t.Context(), DumpConfig{Programs: Programs{Dump: "/nowhere/pg_dump"}, DSN: dsn, Out: io.Discard})
	wantProblem(t, err, problem.Unexpected, "dumping the database: starting pg_dump: fork/exec /nowhere/pg_dump: no such file or directory", "")
}

// TestNothingIsLeftBehind: what a program started itself dies with it, even if it holds our pipes open, and so does one
// that does not listen to SIGTERM.
func TestNothingIsLeftBehind(t *testing.T) {
	grandchild, deaf := unique("grandchild"), unique("deaf")
	p := Programs{Dump: shell(t, filepath.Join(t.TempDir(), "pg_dump"), "sh -c 'sleep 1000; : "+grandchild+"' & exit 0")}
	if err := Dump(t.Context(), DumpConfig{Programs: p, DSN: "postgres://h", Out: io.Discard}); err != nil {
		t.Error(err)
	}
	await(t, "the grandchild to end", func() bool { return len(running(t, grandchild)) == 0 })

	p.Dump = shell(t, filepath.Join(t.TempDir(), "pg_dump"), "trap '' TERM; sh -c 'sleep 1000; : "+deaf+"' & echo started; wait; wait")
	ctx, cancel := context.WithCancel(t.Context())
	err := Dump(ctx, DumpConfig{Programs: p, DSN: "postgres://h", Out: writer(func([]byte) { cancel() })})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	await(t, "the deaf to end", func() bool { return len(running(t, deaf)) == 0 })
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestTail(t *testing.T) {
	var w tail
	for i := range 20000 {
		fmt.Fprintf(&w, "line %d\n", i)
	}
	s := w.String()
	if len(s) > 2*stderrLimit+10 || !strings.HasPrefix(s, "line 0\n") || !strings.HasSuffix(s, "line 19999\n") || !strings.Contains(s, "\n...\n") {
		t.Errorf("%d bytes, %q ... %q", len(s), s[:20], s[len(s)-20:])
	}
}

func TestWanted(t *testing.T) {
	const contents = `;
; Archive created at 2026-11-21 05:00:00 UTC
5; 2615 2200 SCHEMA - public pg_database_owner
6; 2615 16390 SCHEMA - My n8n n8n
7; 2615 16391 SCHEMA - other n8n
5187; 0 0 COMMENT - SCHEMA public pg_database_owner
5190; 0 0 COMMENT - SCHEMA "My n8n" n8n
2; 3079 16386 EXTENSION - uuid-ossp 
5188; 0 0 COMMENT - EXTENSION "uuid-ossp" 
215; 1259 16397 TABLE public SCHEMA - public n8n
5189; 0 0 COMMENT public COLUMN t.a n8n
`
	const want = `;
; Archive created at 2026-11-21 05:00:00 UTC
7; 2615 16391 SCHEMA - other n8n
2; 3079 16386 EXTENSION - uuid-ossp 
215; 1259 16397 TABLE public SCHEMA - public n8n
5189; 0 0 COMMENT public COLUMN t.a n8n
`
	if got := wanted(contents, []string{"public", "My n8n"}); got != want {
		t.Errorf("%s", got)
	}
}
