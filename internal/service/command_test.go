package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lines are what processes write to a fifo, one at a time. The end comes when the last
// that has it open for writing is gone.
func lines(t *testing.T, path string) <-chan string {
	t.Helper()
	c := make(chan string, 100)
	go func() {
		defer close(c)
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			c <- s.Text()
		}
	}()
	return c
}

func TestCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	flag := filepath.Join(dir, "runs")
	o := &Command{StopLine: fmt.Sprintf("rm -f '%s'", flag), StartLine: fmt.Sprintf("touch '%s' && echo started", flag)}
	s := open(t, o, quick())
	exists := func() bool { _, err := os.Stat(flag); return err == nil }
	for range 2 {
		if err := s.Start(t.Context()); err != nil || !exists() {
			t.Fatal(err, exists())
		}
	}
	if err := s.Healthy(t.Context()); err != nil { // nothing is known, nothing waited for
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Stop(t.Context()); err != nil || exists() {
			t.Fatal(err, exists())
		}
	}
	if got := s.String(); got != "stop and start commands" {
		t.Error(got)
	}
	if got := strings.Join(s.Unchecked(t.Context()), "\n"); !strings.Contains(got, "whether the stop and start commands stop and start everything") || !strings.Contains(got, "--health-url") {
		t.Error(got)
	}
}

func TestCommandFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, line string
		kind       problem.Kind
		parts      []string
	}{
		{"status", "echo first; echo last >&2; exit 3", problem.Unexpected, []string{"stopping n8n: stop command ended with exit status 3; it said: first | last", "--stop-command", "succeed as well when there is nothing to do"}},
		{"silent", "false", problem.Unexpected, []string{"stop command ended with exit status 1"}},
		{"signal", "kill -9 $$", problem.Unexpected, []string{"stop command was ended by a signal (killed)"}},
		{"not found", "n8n-stop-that-is-not-there", problem.Usage, []string{"stop command was not found by the shell (exit status 127)", "n8n-stop-that-is-not-there"}},
		{"colours", `printf '\033[31mred\033[0m\007\tand\n'; exit 1`, problem.Unexpected, []string{"it said: red and"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, &Command{StopLine: tt.line, StartLine: "true"}, quick())
			fails(t, s.Stop(t.Context()), tt.kind, tt.parts...)
		})
	}
}

const (
	oldKey = "OLDkey-0123456789-abcdef"
	newKey = "NEWkey-0123456789-abcdef"
)

func TestCommandShowsNoSecrets(t *testing.T) {
	t.Parallel()
	o := &Command{
		StopLine: `
			echo "old ` + oldKey + `, again ` + oldKey + `"
			echo 'postgres://n8n:s3cretpass@db:5432/n8n'
			echo 'DB_POSTGRESDB_PASSWORD=s3cretpass'
			echo '{"apiKey": "s3cretpass", "token":"s3cretpass"}'
			echo 'Authorization: Bearer s3cretpass'
			echo '--password s3cretpass'
			exit 1`,
		StartLine: "true",
		Hide:      []secret.String{secret.NewString(oldKey), secret.NewString(newKey)},
	}
	err := open(t, o, quick()).Stop(t.Context())
	fails(t, err, problem.Unexpected, "old [redacted], again [redacted]", "postgres://[redacted]@db", "DB_POSTGRESDB_PASSWORD=[redacted]")
	for _, s := range []string{oldKey, "s3cretpass"} {
		if strings.Contains(err.Error()+problem.HintOf(err), s) {
			t.Errorf("%q is shown: %v", s, err)
		}
	}
}

// A secret that begins before what is kept of the output must not be shown from its
// middle on.
func TestCommandCutSecrets(t *testing.T) {
	t.Parallel()
	for cut := 1; cut < len(oldKey); cut += 5 {
		b := append([]byte(oldKey), strings.Repeat("x", outputLimit-len(oldKey)+cut)...)
		var kept tail
		kept.Write(b)
		got := shown(kept.b, []secret.String{secret.NewString(oldKey)})
		if strings.Contains(got, oldKey[len(oldKey)-4:]) || len(got) > shownLimit+3 {
			t.Errorf("%d: %q", cut, got)
		}
	}
}

func TestCommandEnvironment(t *testing.T) {
	t.Parallel()
	o := &Command{
		StartLine: "env >&2; exit 1", // on standard error, which is in the error
		Environ: []string{"HOME=/h", "N8N_ENCRYPTION_KEY=x", "DB_POSTGRESDB_PASSWORD=x", "PGPASSWORD=x", "N8N_ENCRYPTION_KEY_FILE=/k", "EMPTY=",
			"COPY=key is " + oldKey, "DSN=postgresql://n8n:x@h/d", "PLAIN=postgres://n8n@h/d", "KEYWORDS=host=h password=x"},
		Hide: []secret.String{secret.NewString(oldKey), secret.NewString("")},
	}
	err := open(t, o, quick()).Start(t.Context())
	fails(t, err, problem.Unexpected)
	got := variables(o.Environ, o.Hide)
	if want := "HOME=/h N8N_ENCRYPTION_KEY_FILE=/k EMPTY= PLAIN=postgres://n8n@h/d"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
	text := err.Error()
	if strings.Contains(text, "COPY") || strings.Contains(text, "PGPASSWORD") || !strings.Contains(text, "HOME=/h") {
		t.Error(text)
	}
}

// A command that goes on for ever is ended with its children when the context is
// cancelled, those that ignore SIGTERM included.
func TestCommandCancelled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, line, last string }{
		// The shell hears SIGTERM.
		{"obeys", `trap 'echo term >"%[1]s"; exit 0' TERM; exec 3>"%[1]s"; echo $$ >&3; sh -c 'echo $$ >&3; exec sleep 1000' & wait`, "term"},
		// Nobody does.
		{"ignores", `trap '' TERM; exec 3>"%[1]s"; echo $$ >&3; sh -c 'echo $$ >&3; exec sleep 1000' & while :; do wait; done`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := fifo(t)
			said := lines(t, path)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p := process{path: "/bin/sh", args: []string{"-c", fmt.Sprintf(tt.line, path)}, env: os.Environ(), grace: 100 * time.Millisecond, drain: true}
			done := make(chan error)
			go func() {
				_, err := p.run(ctx)
				done <- err
			}()
			for range 2 { // both have said their ids, so both are there
				if _, err := strconv.Atoi(<-said); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			last := ""
			for line := range said { // ends when both have ended
				last = line
			}
			if last != tt.last {
				t.Errorf("it said %q, want %q", last, tt.last)
			}
		})
	}
}

func TestCommandLimit(t *testing.T) {
	t.Parallel()
	s := open(t, &Command{StartLine: "echo waiting; exec sleep 1000"}, short())
	fails(t, s.Start(t.Context()), problem.Unexpected, "start command did not end within the time limit and was ended; it said: waiting", "belongs into the background")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s = open(t, &Command{StopLine: "true", StartLine: "true"}, quick())
	fails(t, s.Stop(ctx), problem.Interrupted, "stopping n8n by stop and start commands: context canceled")
	fails(t, s.Start(ctx), problem.Interrupted, "starting n8n")
}

// What a start command leaves in the background lives on and can write, as long as it
// likes, when the process that started it is gone.
func TestCommandInBackground(t *testing.T) {
	if path := os.Getenv("SERVICE_TEST_FIFOS"); path != "" {
		in, out, _ := strings.Cut(path, ":")
		// A daemon that writes to the output it was started with on each line it gets, and says so.
		line := fmt.Sprintf(`(exec 3<"%s" 4>"%s"; echo $$ >&4; while read l <&3; do echo "$l" && echo "wrote $l" >&4; done) & exit 0`, in, out)
		s := open(t, &Command{StartLine: line}, quick())
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	in, out := fifo(t), fifo(t)
	said := lines(t, out)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestCommandInBackground$")
	cmd.Env = append(os.Environ(), "SERVICE_TEST_FIFOS="+in+":"+out)
	ended := make(chan error)
	var text []byte
	go func() {
		var err error
		text, err = cmd.CombinedOutput()
		ended <- err
	}()
	w, err := os.OpenFile(in, os.O_WRONLY, 0) // waits for the daemon
	if err != nil {
		t.Fatal(err)
	}
	<-said // its id
	if err := <-ended; err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for i := range 3 {
		fmt.Fprintf(w, "%d %s\n", i, strings.Repeat("x", 2000))
		if got := <-said; !strings.HasPrefix(got, fmt.Sprintf("wrote %d x", i)) {
			t.Fatalf("the daemon has ended: %q", got)
		}
	}
	w.Close()
	for range said {
	}
}

func TestShownIsShort(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "line %d %s\n", i, strings.Repeat("ü", 100))
	}
	got := shown([]byte(b.String()), nil)
	if !strings.HasPrefix(got, "...") || !strings.Contains(got, "line 999") || strings.Contains(got, "line 993 ") || len([]rune(got)) > shownLimit+3 {
		t.Errorf("%d %q", len(got), got)
	}
	if got := shown(nil, nil); got != "" {
		t.Errorf("%q", got)
	}
}
