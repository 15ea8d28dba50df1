package n8ndb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
)

const holdStopHint = "stop n8n, its workers and every other program that uses the database, and try again"

func TestHoldRefusesAttached(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			dir, path := snapLedger(t, mode)
			idle := snapStart(t, "idle", path)
			before := snapListing(t, dir)
			for _, assume := range []bool{false, true} {
				_, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: assume})
				want := fmt.Sprintf("database %q is in use by process %d (%s)", path, idle.cmd.Process.Pid, holdCommand("/proc", strconv.Itoa(idle.cmd.Process.Pid)))
				if problem.KindOf(err) != problem.Busy || err.Error() != want || problem.HintOf(err) != holdStopHint {
					t.Errorf("got %v\nwant %s", err, want)
				}
			}
			if diff := cmp.Diff(before, snapListing(t, dir)); diff != "" {
				t.Errorf("changed:\n%s", diff)
			}
			idle.stop()
			h, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Release(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Where /proc shows nothing, the lock still tells about a WAL database, and about
// the other kind only --assume-stopped goes on.
func TestHoldWithoutProc(t *testing.T) {
	empty := t.TempDir()
	gap := fmt.Sprintf("there is no %s to look at open files", empty)
	_, path := snapLedger(t, "wal")
	idle := snapStart(t, "idle", path)
	_, err := Hold(t.Context(), path, HoldConfig{Proc: empty, AssumeStopped: true})
	want := fmt.Sprintf("database %q is in use by a process that cannot be seen from here (another user, container or machine)", path)
	if problem.KindOf(err) != problem.Busy || err.Error() != want {
		t.Errorf("got %v", err)
	}
	idle.cmd.Process.Kill() // so that the log stays
	idle.stop()
	h, err := Hold(t.Context(), path, HoldConfig{Proc: empty})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(h.Unchecked, []string{gap}) {
		t.Errorf("unchecked %q", h.Unchecked)
	}
	if err := h.FinishWAL(t.Context()); err != nil {
		t.Error(err)
	}
	h.Release()

	dir, path := snapLedger(t, "delete")
	before := snapListing(t, dir)
	_, err = Hold(t.Context(), path, HoldConfig{Proc: empty})
	if problem.KindOf(err) != problem.Usage || err.Error() != "it is not certain that n8n is stopped: "+gap ||
		problem.HintOf(err) != "run as root on the machine that runs n8n, or, once you have stopped n8n and all its workers, add --assume-stopped" {
		t.Errorf("got %v, %q", err, problem.HintOf(err))
	}
	if diff := cmp.Diff(before, snapListing(t, dir)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
	h, err = Hold(t.Context(), path, HoldConfig{Proc: empty, AssumeStopped: true})
	if err != nil || !slices.Equal(h.Unchecked, []string{gap}) {
		t.Fatalf("%v %+v", err, h)
	}
	h.Release()
}

// An unprivileged user does not see what others have open.
func TestHoldAsOtherUser(t *testing.T) {
	dir, path := snapLedger(t, "delete")
	if err := errors.Join(os.Chmod(path, 0o666), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	got := snapAsOther(t, "hold", path, dir)
	if !strings.HasPrefix(got, "it is not certain that n8n is stopped: the open files of ") || !strings.Contains(got, " processes of other users cannot be seen") ||
		!strings.Contains(got, "--assume-stopped") {
		t.Errorf("got %q", got)
	}
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	got = snapAsOther(t, "hold", path, dir)
	if want := fmt.Sprintf("locking database %q: permission denied\nhint: run as the user that runs n8n, or as root\n", path); got != want {
		t.Errorf("got %q", got)
	}
}

func TestHoldGaps(t *testing.T) {
	_, path := snapLedger(t, "delete")
	proc := t.TempDir()
	for _, dir := range []string{"1/fd", "7/fd", "self/ns"} {
		if err := os.MkdirAll(filepath.Join(proc, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to string) {
		os.Remove(filepath.Join(proc, "self/ns/pid"))
		if err := os.Symlink(to, filepath.Join(proc, "self/ns/pid")); err != nil {
			t.Fatal(err)
		}
	}
	link(holdHostNamespace)
	if openers, gaps, err := holdOpeners(proc, path); err != nil || len(openers)+len(gaps) != 0 {
		t.Errorf("%v %q %v", openers, gaps, err)
	}
	link("pid:[4026532001]")
	if _, gaps, _ := holdOpeners(proc, path); !slices.Equal(gaps, []string{"processes outside this container cannot be seen"}) {
		t.Errorf("%q", gaps)
	}
	link(holdHostNamespace)
	if err := os.Rename(filepath.Join(proc, "1"), filepath.Join(proc, "8")); err != nil {
		t.Fatal(err)
	}
	if _, gaps, _ := holdOpeners(proc, path); !slices.Equal(gaps, []string{"processes of other users are hidden"}) {
		t.Errorf("%q", gaps)
	}
	// Another name for the same file, as a container has it, and a hostile command name.
	other := filepath.Join(t.TempDir(), "elsewhere")
	if err := errors.Join(os.Link(path, other), os.Symlink(other, filepath.Join(proc, "7/fd/12")),
		os.WriteFile(filepath.Join(proc, "7/comm"), []byte("no\x1bde\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	openers, _, err := holdOpeners(proc, path)
	if err != nil || len(openers) != 1 || openers[0].String() != "process 7 (no?de)" {
		t.Errorf("%v %v", openers, err)
	}
	for pid := 100; pid < 110; pid++ {
		fd := filepath.Join(proc, strconv.Itoa(pid), "fd")
		if err := errors.Join(os.MkdirAll(fd, 0o700), os.Symlink(path, filepath.Join(fd, "3"))); err != nil {
			t.Fatal(err)
		}
	}
	_, err = Hold(t.Context(), path, HoldConfig{Proc: proc})
	if err == nil || !strings.HasSuffix(err.Error(), "process 102 (unknown), process 103 (unknown), 6 more") {
		t.Errorf("got %v", err)
	}
}

func TestHoldHealth(t *testing.T) {
	dir, path := snapLedger(t, "wal")
	before := snapListing(t, dir)
	status := http.StatusUnauthorized
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) }))
	url := strings.Replace(server.URL, "http://", "http://user:secret@", 1) + "/healthz"
	_, err := Hold(t.Context(), path, HoldConfig{HealthURL: url, AssumeStopped: true})
	if problem.KindOf(err) != problem.Busy || err.Error() != "n8n answers at "+strings.Replace(url, "secret", "xxxxx", 1) ||
		problem.HintOf(err) != "stop n8n and all its workers, and try again" {
		t.Errorf("got %v, %q", err, problem.HintOf(err))
	}
	// A proxy that says that n8n is not there; n8n's own address is asked, not that of the proxy's first page.
	for _, status = range []int{502, 503, 504} {
		h, err := Hold(t.Context(), path, HoldConfig{HealthURL: url})
		if err != nil {
			t.Fatalf("%d: %v", status, err)
		}
		h.Release()
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/n8n/healthz" {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer front.Close()
	h, err := Hold(t.Context(), path, HoldConfig{HealthURL: front.URL + "/n8n/"})
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
	sealed := httptest.NewUnstartedServer(http.NotFoundHandler())
	sealed.Config.ErrorLog = log.New(io.Discard, "", 0)
	sealed.StartTLS()
	defer sealed.Close()
	_, err = Hold(t.Context(), path, HoldConfig{HealthURL: sealed.URL, AssumeStopped: true})
	if problem.KindOf(err) != problem.Busy || err.Error() != "somebody listens at "+sealed.URL+"/healthz, and the TLS connection fails" || !strings.Contains(problem.HintOf(err), "--health-url") {
		t.Errorf("got %v, %q", err, problem.HintOf(err))
	}
	server.Close()
	h, err = Hold(t.Context(), path, HoldConfig{HealthURL: url})
	if err != nil || slices.ContainsFunc(h.Unchecked, func(s string) bool { return strings.Contains(s, "asked") }) {
		t.Fatalf("after the stop: %v", err)
	}
	h.Release()
	unreachable := &http.Client{Transport: holdTransport{}}
	_, err = Hold(t.Context(), path, HoldConfig{HealthURL: url, HTTP: unreachable})
	if problem.KindOf(err) != problem.Usage || !strings.HasPrefix(err.Error(), "it is not certain that n8n is stopped: n8n at http://user:xxxxx@") ||
		!strings.HasSuffix(err.Error(), " could not be asked") {
		t.Errorf("got %v", err)
	}
	h, err = Hold(t.Context(), path, HoldConfig{HealthURL: url, HTTP: unreachable, AssumeStopped: true})
	if err != nil || len(h.Unchecked) == 0 {
		t.Fatalf("%v", err)
	}
	h.Release()
	for bad, shown := range map[string]string{"localhost:5678": "localhost:5678", "http://": "http://", "::": "::",
		"user:secret@localhost:5678": "xxxxx@localhost:5678", "http://user:secret@local host/": "xxxxx@local host/"} {
		_, err := Hold(t.Context(), path, HoldConfig{HealthURL: bad})
		if problem.KindOf(err) != problem.Usage || err.Error() != fmt.Sprintf("health URL %q is not a URL", shown) {
			t.Errorf("got %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Hold(ctx, path, HoldConfig{HealthURL: url}); problem.KindOf(err) != problem.Interrupted {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, snapListing(t, dir)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
}

type holdTransport struct{}

func (holdTransport) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no route to host")
}

// A held database lets nobody in, and is the same byte by byte when let go.
func TestHoldKeepsOthersOut(t *testing.T) {
	for _, fixture := range []string{"2.41.1-sqlite/raw-hot", "1.123.81-sqlite"} {
		dir, path := snapCopyFixture(t, fixture)
		before := snapListing(t, dir)
		h, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: true})
		if err != nil {
			t.Fatal(err)
		}
		// Copying the file in this process, as a swap does, must not let go of it.
		if _, err := os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		cmd := snapCommand(t, os.Args[0], "idle", path)
		if err := cmd.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if out := cmd.stop(); !strings.Contains(out, "database is locked") {
			t.Errorf("%s: another process got: %q", fixture, out)
		}
		if _, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: true}); problem.KindOf(err) != problem.Busy {
			t.Errorf("%s: held twice: %v", fixture, err)
		}
		if err := errors.Join(h.Release(), h.Release()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, snapListing(t, dir)); diff != "" {
			t.Errorf("%s changed:\n%s", fixture, diff)
		}
		snapStart(t, "idle", path).stop()
	}
}

func holdFinish(t *testing.T, path string) *Held {
	t.Helper()
	h, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Release() })
	if err := h.FinishWAL(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if _, err := os.Lstat(path + suffix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", suffix)
		}
	}
	return h
}

// The trap of decisions.md: a new file renamed beside an old log shows the old
// rows. With the log finished it shows the new ones.
func TestFinishWALBeforeSwap(t *testing.T) {
	fresh, _ := historyTakeFixture(t)
	swap := func(finish bool) (names []string) {
		_, path := snapCopyFixture(t, "2.41.1-sqlite/raw-hot")
		if finish {
			h := holdFinish(t, path)
			defer h.Release()
		}
		b := snapMust(os.ReadFile(fresh))
		if err := errors.Join(os.WriteFile(path+".new", b, 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		db := snapMust(sql.Open("sqlite", snapURI(path, "mode=rw")))
		defer db.Close()
		rows := snapMust(db.Query("SELECT name FROM credentials_entity"))
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
		return names
	}
	if trapped := swap(false); slices.Contains(trapped, "only in the new file") {
		t.Fatal("the trap is not there: the test proves nothing")
	}
	if got := swap(true); !slices.Equal(got, []string{"only in the new file"}) {
		t.Errorf("got %q", got)
	}
}

// historyTakeFixture is a database of n8n with one known credential.
func historyTakeFixture(t *testing.T) (path string, report SnapshotReport) {
	_, source := snapCopyFixture(t, "2.41.1-sqlite")
	historyExec(t, source, "DELETE FROM credentials_entity WHERE id <> (SELECT min(id) FROM credentials_entity)",
		"UPDATE credentials_entity SET name = 'only in the new file'")
	return historyTake(t, source, SnapshotConfig{})
}

func TestFinishWALKeepsContent(t *testing.T) {
	for _, fixture := range []string{"2.41.1-sqlite/raw-hot", "2.41.1-sqlite", "1.123.81-sqlite"} {
		_, path := snapCopyFixture(t, fixture)
		_, twin := snapCopyFixture(t, fixture)
		want := snapDump(t, snapURI(twin, "mode=ro"))
		h := holdFinish(t, path)
		cmd := snapCommand(t, os.Args[0], "idle", path)
		if err := cmd.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if out := cmd.stop(); !strings.Contains(out, "database is locked") {
			t.Errorf("%s: not held any more: %q", fixture, out)
		}
		if err := h.FinishWAL(t.Context()); err != nil {
			t.Errorf("%s: a second time: %v", fixture, err)
		}
		if diff := cmp.Diff(want, snapDump(t, snapURI(path, "mode=ro&immutable=1"))); diff != "" {
			t.Errorf("%s:\n%s", fixture, diff)
		}
		if head := snapMust(readHeader(path)); head.wal() {
			t.Errorf("%s is still in WAL mode", fixture)
		}
	}
}

// A log that lost its index, which a copy by hand does, and a transaction that a
// crash cut off.
func TestFinishWALAfterCrash(t *testing.T) {
	_, path := snapCopyFixture(t, "2.41.1-sqlite/raw-hot")
	os.Remove(path + "-shm")
	holdFinish(t, path).Release()
	if len(snapDump(t, snapURI(path, "mode=ro&immutable=1"))["table credentials_entity"]) == 0 {
		t.Error("the log was lost")
	}
	_, path = snapLedger(t, "delete")
	snapCrash(t, path)
	holdFinish(t, path).Release()
	snapBalanced(t, path)
}

// A log that cannot be finished is no reason to let others in.
func TestFinishWALOfDamaged(t *testing.T) {
	_, path := snapLedger(t, "wal")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 300), 100); err != nil { // all but the header of the first page
		t.Fatal(err)
	}
	f.Close()
	h, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.FinishWAL(t.Context()); problem.KindOf(err) != problem.Damaged {
		t.Fatalf("got %v (%s)", err, problem.KindOf(err))
	}
	for range 2 {
		if err := h.Retake(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: true}); problem.KindOf(err) != problem.Busy {
		t.Errorf("not held: %v", err)
	}
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
	other, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: true})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	if err := h.Retake(); problem.KindOf(err) != problem.Busy {
		t.Errorf("taken from another: %v", err)
	}
}

// Somebody comes in the moment in which the lock changes hands.
func TestFinishWALMeetsIntruder(t *testing.T) {
	dir, path := snapLedger(t, "wal")
	h, err := Hold(t.Context(), path, HoldConfig{AssumeStopped: true})
	if err != nil {
		t.Fatal(err)
	}
	h.lock.release() // as FinishWAL does first
	idle := snapStart(t, "idle", path)
	before := snapListing(t, dir)
	err = h.FinishWAL(t.Context())
	if problem.KindOf(err) != problem.Busy || !strings.HasPrefix(err.Error(), fmt.Sprintf("finishing the log of database %q: ", path)) {
		t.Errorf("got %v (%s)", err, problem.KindOf(err))
	}
	if diff := cmp.Diff(before, snapListing(t, dir)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
	idle.stop()
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
	err = h.FinishWAL(t.Context())
	if err == nil || err.Error() != fmt.Sprintf("finishing the log of database %q: it is not held", path) {
		t.Errorf("got %v", err)
	}
}

func TestHoldWhatIsNoDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 200)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Hold(t.Context(), path, HoldConfig{}); problem.KindOf(err) != problem.Damaged {
		t.Errorf("got %v", err)
	}
	if _, err := Hold(t.Context(), path+"-missing", HoldConfig{}); problem.KindOf(err) != problem.NotFound {
		t.Errorf("got %v", err)
	}
}
