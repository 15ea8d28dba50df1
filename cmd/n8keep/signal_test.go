package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wayBack is a command that is interrupted and puts something right, which takes until
// it has read to the end.
func wayBack() {
	ctx, stop := interruptible()
	defer stop()
	fmt.Println("begun")
	<-ctx.Done()
	for end := time.Now().Add(10 * time.Second); !signal.Ignored(syscall.SIGHUP) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	fmt.Println("on the way back")
	io.Copy(io.Discard, os.Stdin)
	fmt.Println("nobody reads this")
	fmt.Fprintln(os.Stderr, "put right")
}

// TestSecondSignal: the first signal asks for an end, the second one kills, unless it
// says only that a terminal is gone.
func TestSecondSignal(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		first, second syscall.Signal
		kills         bool
	}{
		{syscall.SIGHUP, syscall.SIGHUP, false},
		{syscall.SIGINT, syscall.SIGHUP, false},
		{syscall.SIGHUP, syscall.SIGTERM, true},
		{syscall.SIGTERM, syscall.SIGINT, true},
	} {
		t.Run(c.first.String()+", "+c.second.String(), func(t *testing.T) {
			cmd := &exec.Cmd{Path: self, Args: []string{"n8keep-way-back"}, Env: os.Environ()}
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var said strings.Builder
			cmd.Stderr = &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			lines := bufio.NewScanner(out)
			for _, step := range []struct {
				want string
				send syscall.Signal
			}{{"begun", c.first}, {"on the way back", c.second}} {
				if !lines.Scan() || lines.Text() != step.want {
					t.Fatalf("%q, want %q: %v, %s", lines.Text(), step.want, lines.Err(), &said)
				}
				if err := cmd.Process.Signal(step.send); err != nil {
					t.Fatal(err)
				}
			}
			if c.kills {
				// Stdin stays open: only the signal can end it, which is heard again a moment later.
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				for end := time.After(10 * time.Second); ; {
					select {
					case err := <-ended:
						var exit *exec.ExitError
						if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != c.second {
							t.Fatalf("not killed: %v", err)
						}
						return
					case <-time.After(5 * time.Millisecond):
						cmd.Process.Signal(c.second)
					case <-end:
						t.Fatal("not killed")
					}
				}
			}
			out.Close() // whoever read along is gone
			in.Close()
			if err := cmd.Wait(); err != nil || said.String() != "put right\n" {
				t.Fatalf("%v, said %q", err, &said)
			}
		})
	}
}
