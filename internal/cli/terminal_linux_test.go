package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/n8keep/n8keep/internal/problem"
)

// openPTY returns both ends of a pseudo terminal of 100 columns.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 100}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func environment(pairs map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := pairs[name]; return v, ok }
}

func TestNewTerminal(t *testing.T) {
	_, slave := openPTY(t)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	term := NewTerminal(slave, slave, slave, environment(nil))
	if !term.InTTY || !term.OutTTY || !term.ErrTTY || !term.Color || term.Width != 100 {
		t.Errorf("on a terminal: %+v", term)
	}
	term = NewTerminal(file, file, file, environment(nil))
	if term.InTTY || term.OutTTY || term.ErrTTY || term.Width != 0 || term.width() != 80 {
		t.Errorf("on files: %+v", term)
	}
	for _, env := range []map[string]string{{"NO_COLOR": "1"}, {"TERM": "dumb"}} {
		if NewTerminal(slave, slave, slave, environment(env)).Color {
			t.Errorf("colours with %v", env)
		}
	}
	if !NewTerminal(slave, slave, slave, environment(map[string]string{"NO_COLOR": "", "TERM": "xterm"})).Color {
		t.Error("an empty NO_COLOR turns colours off")
	}
}

// answering types the answer once the terminal's echo is off, and not before; ""
// closes the terminal.
func answering(t *testing.T, master, slave *os.File, answer string) (wait func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		for {
			state, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil {
				done <- err
				return
			}
			if state.Lflag&unix.ECHO == 0 {
				break
			}
			runtime.Gosched()
		}
		if answer == "" {
			done <- master.Close()
			return
		}
		_, err := master.WriteString(answer)
		done <- err
	}()
	return func() {
		t.Helper()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestAskSecret(t *testing.T) {
	master, slave := openPTY(t)
	var errs bytes.Buffer
	tty := NewTerminal(slave, slave, slave, environment(nil))
	tty.Err = &errs
	before, err := term.GetState(int(slave.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	wait := answering(t, master, slave, "correct horse\n")
	s, err := tty.AskSecret("passphrase of \"id.age\"")
	if err != nil || s.Reveal() != "correct horse" {
		t.Errorf("%q, %v", s.Reveal(), err)
	}
	wait()
	diff(t, "passphrase of \"id.age\": \n", errs.String())
	after, err := term.GetState(int(slave.Fd()))
	if err != nil || fmt.Sprint(*before) != fmt.Sprint(*after) {
		t.Errorf("the terminal is not as it was: %v", err)
	}
}

func TestAskSecretWithoutAnswer(t *testing.T) {
	master, slave := openPTY(t)
	tty := NewTerminal(slave, slave, slave, environment(nil))
	tty.Err = io.Discard
	defer answering(t, master, slave, "")()
	if _, err := tty.AskSecret("passphrase"); err == nil || err.Error() != "no answer for passphrase" || problem.KindOf(err) != problem.Usage {
		t.Errorf("%v", err)
	}
}

func TestInterruptibleRestores(t *testing.T) {
	restored := false
	in := interrupting{make(chan struct{})}
	defer close(in.release)
	_, err := interruptible(func() bool { return false }, func() { restored = true }, func() (string, error) { _, err := in.Read(nil); return "", err })
	if !errors.Is(err, errInterrupted) || !restored {
		t.Errorf("%v, restored %v", err, restored)
	}
}

// A read that never returns does not keep a command on a terminal that is gone.
func TestInterruptibleTerminalGone(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	_, err := interruptible(func() bool { return true }, func() {}, func() (string, error) { <-release; return "", nil })
	if err != io.EOF {
		t.Error(err)
	}
}

func TestAskSecretOnAClosedTerminal(t *testing.T) {
	master, slave := openPTY(t)
	tty := NewTerminal(slave, slave, slave, environment(nil))
	tty.Err = io.Discard
	master.Close()
	if _, err := tty.AskSecret("passphrase"); err == nil || err.Error() != "preparing the terminal: input/output error" {
		t.Errorf("%v", err)
	}
}
