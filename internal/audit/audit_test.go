package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func TestMain(m *testing.M) { os.Exit(failtest.Main(m.Run, recording.do)) }

// recording is what another process records.
type recording struct {
	Dir   string
	Times int
}

func (j recording) do() error {
	l, err := Open(Config{Dir: j.Dir})
	for i := 0; err == nil && i < j.Times; i++ {
		var r Receipt
		if r, err = l.Begin(context.Background(), "os:test", Event{Command: "census"}, FailClosed); err == nil {
			err = l.End(r, nil, map[string]int64{"n": int64(i)})
		}
	}
	return err
}

func noEnv(string) (string, bool) { return "", false }

func open(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Open(Config{Dir: dir, Env: noEnv, Now: func() time.Time { return time.Unix(1785549600, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func begin(t *testing.T, l *Log) Receipt {
	t.Helper()
	r, err := l.Begin(context.Background(), "os:test", Event{Command: "restore", Instance: "prod"}, FailClosed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func verified(t *testing.T, l *Log, want int) {
	t.Helper()
	n, err := Verify(l.Path())
	if err != nil || n != want {
		b, _ := os.ReadFile(l.Path())
		t.Fatalf("Verify = %d, %v; want %d good lines of\n%s", n, err, want, b)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBeginEnd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "state")
	l, err := Open(Config{
		Dir: dir,
		Now: func() time.Time { return time.Unix(1785549600, 0) },
		Env: func(k string) (string, bool) { return "alice", k == "SUDO_USER" },
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Begin(context.Background(), "os:root", Event{
		Command: "restore", Instance: "prod",
		Detail: map[string]any{"archive": "20260801T020000Z-prod-abc234", "overwrite": true, "n": 3, "places": []string{"a.b"}},
	}, FailClosed)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Valid() || !r.Recorded() || r.Actor() != "os:root" || len(r.Run()) != 16 {
		t.Errorf("receipt %+v", r)
	}
	if err := l.End(r, problem.New(problem.WrongKey, "secret text"), map[string]int64{"opened": 9}); err != nil {
		t.Fatal(err)
	}
	verified(t, l, 2)

	var got []record
	for line := range bytes.Lines(read(t, l.Path())) {
		var rec record
		if err := json.Unmarshal(line, &rec); err != nil {
			t.Fatal(err)
		}
		if len(rec.Prev) != 64 {
			t.Errorf("prev %q", rec.Prev)
		}
		rec.Prev = ""
		got = append(got, rec)
	}
	want := []record{
		{V: 1, Seq: 1, Time: "2026-08-01T02:00:00.000Z", Run: r.Run(), Phase: "begin", Actor: "os:root", SudoUser: "alice",
			Command: "restore", Instance: "prod",
			Detail: map[string]any{"archive": "20260801T020000Z-prod-abc234", "overwrite": true, "n": 3.0, "places": []any{"a.b"}}},
		{V: 1, Seq: 2, Time: "2026-08-01T02:00:00.000Z", Run: r.Run(), Phase: "end", Actor: "os:root", SudoUser: "alice",
			Command: "restore", Instance: "prod", Outcome: "wrong_key", Detail: map[string]any{"opened": 9.0}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, l.Path(): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, %v; want %v", path, info.Mode().Perm(), err, mode)
		}
	}
}

func TestZeroReceiptIsNotValid(t *testing.T) {
	var r Receipt
	if r.Valid() || r.Recorded() {
		t.Error("the zero receipt is valid")
	}
	if err := open(t, t.TempDir()).End(r, nil, nil); err == nil || !strings.Contains(err.Error(), "receipt is not valid") {
		t.Errorf("End of the zero receipt: %v", err)
	}
}

func TestBeginDemandsActorAndCommand(t *testing.T) {
	l := open(t, t.TempDir())
	for _, p := range []Policy{FailClosed, WarnOnly} {
		if r, err := l.Begin(context.Background(), "", Event{Command: "x"}, p); err == nil || r.Valid() {
			t.Errorf("no actor: %v, %v", r, err)
		}
		if r, err := l.Begin(context.Background(), "os:x", Event{}, p); err == nil || r.Valid() {
			t.Errorf("no command: %v, %v", r, err)
		}
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("Open without a folder")
	}
}

func TestDetailRefusesSecrets(t *testing.T) {
	secrets := map[string]any{
		"identity":   "AGE-SECRET-KEY-1QQPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQ",
		"pem":        "-----BEGIN PRIVATE KEY-----",
		"ciphertext": "U2FsdGVkX19pbGxlZ2libGU=",
		"dsn":        "postgres://n8n:hunter2@db/n8n",
		"dsn_words":  "host=db password=hunter2",
		"bundle":     strings.Repeat("Qk1", 40),
		"long":       strings.Repeat("a ", 400),
		"lines":      "a\nb",
		"map":        map[string]string{"a": "hunter2"},
		"bytes":      []byte("hunter2"),
		"list":       []string{"fine", "postgres://n8n:hunter2@db/n8n"},
	}
	l := open(t, t.TempDir())
	if _, err := l.Begin(context.Background(), "os:x", Event{Command: "x", Detail: secrets}, FailClosed); err != nil {
		t.Fatal(err)
	}
	b := string(read(t, l.Path()))
	if n := strings.Count(b, refused); n != len(secrets) {
		t.Errorf("%d refused, want %d: %s", n, len(secrets), b)
	}
	for _, s := range []string{"hunter2", "AGE-SECRET", "BEGIN", "U2Fsd", "Qk1"} {
		if strings.Contains(b, s) {
			t.Errorf("%q was recorded", s)
		}
	}
	verified(t, l, 1)
}

func TestCurrentActor(t *testing.T) {
	t.Setenv("USER", "somebody-else")
	a := CurrentActor()
	if !strings.HasPrefix(string(a), "os:") || len(a) < 4 || strings.Contains(string(a), "somebody-else") {
		t.Errorf("actor %q", a)
	}
	if got := cleanName("al ice\n\"x\"" + strings.Repeat("é", 80)); strings.ContainsAny(got, " \n\"") || len(got) > 64 {
		t.Errorf("cleanName: %q", got)
	}
}

func TestTwoProcessesAppendAtOnce(t *testing.T) {
	dir := t.TempDir()
	const processes, times = 3, 20
	var running []*exec.Cmd
	for range processes {
		c := failtest.Command(t, recording{dir, times})
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, c)
	}
	for _, c := range running {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	verified(t, open(t, dir), processes*times*2)
}

// TestTampering changes a good record in every way there is to change lines.
func TestTampering(t *testing.T) {
	l := open(t, t.TempDir())
	for range 3 {
		l.End(begin(t, l), nil, nil)
	}
	good := read(t, l.Path())
	lines := bytes.SplitAfter(good, []byte("\n"))[:6]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	forged, _, err := record{V: 1, Seq: 3, Phase: "begin", Actor: "os:x", Prev: noHash}.seal()
	if err != nil {
		t.Fatal(err)
	}
	future, _, _ := record{V: 2, Seq: 1, Phase: "begin", Actor: "os:x", Prev: noHash}.seal()
	for name, c := range map[string]struct {
		file []byte
		good int
		text string
	}{
		"word changed":       {bytes.Replace(good, []byte(`"instance":"prod"`), []byte(`"instance":"test"`), 1), 0, "at line 1: it was changed: its hash differs"},
		"hash changed":       {join(lines[0], flip(lines[1], len(lines[1])-10), lines[2]), 1, "at line 2: it was changed: its hash differs"},
		"line removed":       {join(lines[0], lines[2], lines[3]), 1, "at line 2: it has number 3, so lines were removed, added or moved"},
		"first line removed": {join(lines[1:]...), 0, "at line 1: it has number 2, so lines were removed"},
		"line doubled":       {join(lines[0], lines[1], lines[1]), 2, "at line 3: it has number 2, so lines were removed, added or moved"},
		"lines swapped":      {join(lines[0], lines[2], lines[1]), 1, "at line 2: it has number 3"},
		"line replaced":      {join(lines[0], lines[1], forged, lines[3]), 2, "at line 3: it does not follow the line before it"},
		"text added":         {join(lines[0], []byte("hello\n"), lines[1]), 1, "at line 2: it is not a line of an audit log"},
		"empty line added":   {join(lines[0], []byte("\n"), lines[1]), 1, "at line 2: it is not a line of an audit log"},
		"long line added":    {join(lines[0], bytes.Repeat([]byte("x"), 3*maxLine), []byte("\n")), 1, "at line 2: it is not a line of an audit log"},
		"cut inside a line":  {good[:len(good)-5], 5, "at line 6: it is cut off"},
		"newer version":      {future, 0, "at line 1: it has version 2, newer than this n8keep knows"},
	} {
		path := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(path, c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := Verify(path)
		if n != c.good || err == nil || problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %d good lines, %v; want %d, %q", name, n, err, c.good, c.text)
		}
	}

	// Every bit of the file counts.
	path := filepath.Join(t.TempDir(), FileName)
	for i := range good {
		if err := os.WriteFile(path, flip(good, i), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(path); err == nil {
			t.Fatalf("a flipped bit in byte %d is not found", i)
		}
	}
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

func TestVerifyMissing(t *testing.T) {
	_, err := Verify(filepath.Join(t.TempDir(), "none"))
	if problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), "there is no audit log at") {
		t.Errorf("%v", err)
	}
}

// TestTornLine cuts the last line at every byte, as a power loss may, and goes on.
func TestTornLine(t *testing.T) {
	l := open(t, t.TempDir())
	begin(t, l)
	one := read(t, l.Path())
	begin(t, l)
	two := read(t, l.Path())
	parts := [][]byte{make([]byte, 4096)} // a file grown, but its pages never written
	for i := len(one) + 1; i < len(two); i++ {
		parts = append(parts, two[len(one):i])
	}
	for _, part := range parts {
		l := open(t, t.TempDir())
		if err := os.WriteFile(l.Path(), append(bytes.Clone(one), part...), 0o600); err != nil {
			t.Fatal(err)
		}
		begin(t, l)
		begin(t, l)
		verified(t, l, 4)
		checkAside(t, l, part)
	}
}

func checkAside(t *testing.T, l *Log, part []byte) {
	t.Helper()
	names, err := filepath.Glob(l.Path() + ".torn-2-*")
	if err != nil || len(names) != 1 {
		t.Fatalf("files put aside: %v, %v", names, err)
	}
	if info, _ := os.Stat(names[0]); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if got := read(t, names[0]); !bytes.Equal(got, part) {
		t.Errorf("put aside %q, want %q", got, part)
	}
	notes := 0
	for line := range bytes.Lines(read(t, l.Path())) {
		if bytes.Contains(line, []byte(`"phase":"note"`)) && bytes.Contains(line, []byte(filepath.Base(names[0]))) {
			notes++
		}
	}
	if notes != 1 {
		t.Errorf("%d notes name the file, want 1", notes)
	}
}

// TestKilled kills a recording process at every point of an append, with and
// without a cut-off line before it, and lets the next one go on.
func TestKilled(t *testing.T) {
	l := open(t, t.TempDir())
	begin(t, l)
	one := read(t, l.Path())
	for name, start := range map[string][]byte{
		"new":  nil,
		"one":  one,
		"torn": append(bytes.Clone(one), one[:40]...),
	} {
		points := 0
		for {
			l := open(t, t.TempDir())
			if err := os.WriteFile(l.Path(), start, 0o600); err != nil {
				t.Fatal(err)
			}
			killed := failtest.Kill(t, recording{filepath.Dir(l.Path()), 1}, points+1)
			before := read(t, l.Path())
			begin(t, l)
			if _, err := Verify(l.Path()); err != nil {
				t.Errorf("%s: killed at point %d: %v", name, points+1, err)
			}
			if i := bytes.LastIndexByte(before, '\n'); !bytes.HasPrefix(read(t, l.Path()), before[:i+1]) {
				t.Errorf("%s: killed at point %d: lines were lost", name, points+1)
			}
			if name == "torn" {
				checkAside(t, l, one[:40])
			}
			if !killed {
				break
			}
			points++
		}
		if points < 8 {
			t.Errorf("%s: only %d points", name, points)
		}
	}
}

func TestBrokenLastLineStopsFailClosed(t *testing.T) {
	l := open(t, t.TempDir())
	begin(t, l)
	broken := flip(read(t, l.Path()), 30)
	if err := os.WriteFile(l.Path(), broken, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := l.Begin(context.Background(), "os:test", Event{Command: "restore"}, FailClosed)
	if problem.KindOf(err) != problem.Damaged || !strings.Contains(err.Error(), "cannot be written: its last line is broken: it was changed") ||
		!strings.Contains(problem.HintOf(err), "mv "+l.Path()) {
		t.Errorf("%v / %s", err, problem.HintOf(err))
	}
	if !bytes.Equal(read(t, l.Path()), broken) {
		t.Error("the evidence was changed")
	}
}

func TestWarnOnlyGoesOn(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	l, err := Open(Config{Dir: dir, Env: noEnv, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.Path(), []byte("rubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := l.Begin(context.Background(), "os:test", Event{Command: "backup create"}, WarnOnly)
	if err != nil || !r.Valid() || r.Recorded() {
		t.Errorf("Begin: %+v, %v", r, err)
	}
	if err := l.End(r, nil, nil); err != nil {
		t.Errorf("End: %v", err)
	}
	if n := strings.Count(log.String(), "audit event not recorded"); n != 2 {
		t.Errorf("%d warnings: %s", n, log.String())
	}
}

func TestFolderThatCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, filepath.Join(file, "state"))
	if _, err := l.Begin(context.Background(), "os:test", Event{Command: "restore"}, FailClosed); err == nil ||
		!strings.Contains(err.Error(), "cannot be written: not a directory") {
		t.Errorf("FailClosed: %v", err)
	}
	if r, err := l.Begin(context.Background(), "os:test", Event{Command: "census"}, WarnOnly); err != nil || !r.Valid() {
		t.Errorf("WarnOnly: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	l := open(t, t.TempDir())
	f, err := l.lock(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, p := range []Policy{FailClosed, WarnOnly} {
		if r, err := l.Begin(ctx, "os:test", Event{Command: "restore"}, p); !errors.Is(err, context.Canceled) || r.Valid() {
			t.Errorf("Begin: %+v, %v", r, err)
		}
	}
}

func TestLockHeld(t *testing.T) {
	l := open(t, t.TempDir())
	f, err := l.lock(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	synctest.Test(t, func(t *testing.T) {
		_, err := l.Begin(t.Context(), "os:test", Event{Command: "restore"}, FailClosed)
		if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "another process has held its lock for 10 seconds") {
			t.Errorf("%v", err)
		}
	})
}

// TestMovedAway: a record that was moved while a writer waited is left alone.
func TestMovedAway(t *testing.T) {
	l := open(t, t.TempDir())
	f, err := l.lock(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := l.Begin(context.Background(), "os:test", Event{Command: "restore"}, FailClosed)
		done <- err
	}()
	if err := os.Rename(l.Path(), l.Path()+".old"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	verified(t, l, 1)
	if b := read(t, l.Path()+".old"); len(b) != 0 {
		t.Errorf("the old file got %q", b)
	}
}

func TestErrorTexts(t *testing.T) {
	l := open(t, t.TempDir())
	for name, c := range map[string]struct {
		err        error
		kind       problem.Kind
		text, hint string
	}{
		"full":       {&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, problem.Unexpected, "cannot be written: no space left on device", "free some space there (df -h "},
		"quota":      {syscall.EDQUOT, problem.Unexpected, "cannot be written: disk quota exceeded", "free some space there"},
		"permission": {&os.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, problem.Unexpected, "cannot be written: permission denied", "as the user who owns that folder"},
		"read-only":  {syscall.EROFS, problem.Unexpected, "read-only file system", "choose another folder with --state-dir"},
		"other":      {syscall.EIO, problem.Unexpected, "input/output error", "choose another folder with --state-dir"},
	} {
		err := l.explain(c.err)
		if problem.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) || !strings.Contains(problem.HintOf(err), c.hint) {
			t.Errorf("%s: %v / %s", name, err, problem.HintOf(err))
		}
	}
}

func TestSymbolicLinkRefused(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, FileName)); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir)
	_, err := l.Begin(context.Background(), "os:test", Event{Command: "restore"}, FailClosed)
	if err == nil || !strings.Contains(problem.HintOf(err), "it is a symbolic link, which is refused") {
		t.Errorf("%v / %s", err, problem.HintOf(err))
	}
}

// TestDiskFull lets the system refuse the second half of a line (by a limit on
// file size, which needs no full disk): nothing of the line stays. The limit holds
// for the whole process, and with that for files of the test's own machinery, so
// the test is a process of its own.
func TestDiskFull(t *testing.T) {
	const inside = "N8KEEP_TEST_DISK_FULL"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestDiskFull$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestDiskFull")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	l := open(t, t.TempDir())
	begin(t, l)
	before := read(t, l.Path())
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limit := old
	limit.Cur = uint64(len(before)) + 50
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	_, err := l.Begin(context.Background(), "os:test", Event{Command: "restore"}, FailClosed)
	if err2 := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err2 != nil {
		t.Fatal(err2)
	}
	if err == nil || !strings.Contains(err.Error(), "cannot be written: file too large") {
		t.Errorf("%v", err)
	}
	if got := read(t, l.Path()); !bytes.Equal(got, before) {
		t.Errorf("a part of the line stayed: %q", got[len(before):])
	}
	begin(t, l)
	verified(t, l, 2)
}

func FuzzUnseal(f *testing.F) {
	line, _, err := record{V: 1, Seq: 1, Phase: "begin", Actor: "os:x", Prev: noHash}.seal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line[:len(line)-1])
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, hash, err := unseal(b)
		if err != nil {
			return
		}
		if len(hash) != 64 || r.V != 1 {
			t.Errorf("%+v %q", r, hash)
		}
	})
}
