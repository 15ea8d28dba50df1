package pgclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// grace is how long a program may take to cancel its query on the server.
const grace = 3 * time.Second

// stderrLimit bounds what is kept of a program's messages: so much of the beginning
// and of the end.
const stderrLimit = 32 << 10

// process is one run of a program.
type process struct {
	program string
	args    []string
	env     []string  // beside what [environment] passes on
	in      io.Reader // nil: nothing
	out     io.Writer // nil: thrown away
	hide    string    // a password that must not appear in its messages
}

// outcome is how a run ended; the zero value with code 0 is success.
type outcome struct {
	stderr string // without the password
	code   int    // exit code; -1 if a signal ended it
	signal string // its name
	outErr error  // writing to out failed
	inErr  error  // reading from in failed
}

// run starts the program and waits until it, everything it started and both streams
// are done. The error is the cause of ctx, or a program that cannot be started.
func (p *process) run(ctx context.Context) (outcome, error) {
	if err := ctx.Err(); err != nil {
		return outcome{}, context.Cause(ctx)
	}
	cmd := exec.Command(p.program, p.args...)
	cmd.Env = environment(p.env...)
	cmd.SysProcAttr = ownGroup()

	stdout, err := newPipe(&cmd.Stdout)
	if err != nil {
		return outcome{}, err
	}
	stderr, err := newPipe(&cmd.Stderr)
	if err != nil {
		stdout.close()
		return outcome{}, err
	}
	var stdin *pipe
	if p.in != nil {
		if stdin, err = newPipe(&cmd.Stdin); err != nil {
			stdout.close()
			stderr.close()
			return outcome{}, err
		}
	}

	started, exited := make(chan error), make(chan error, 1)
	go func() {
		// The kernel ends the program when the thread that started it ends, so this one must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- wait(cmd)
		}
	}()
	if err := <-started; err != nil {
		for _, pp := range []*pipe{stdin, stdout, stderr} {
			pp.close()
		}
		return outcome{}, fmt.Errorf("starting %s: %w", filepath.Base(p.program), err)
	}
	for _, pp := range []*pipe{stdin, stdout, stderr} {
		pp.closeTheirs()
	}

	var o outcome
	var messages tail
	var streams sync.WaitGroup
	stop := make(chan struct{}) // our side failed: end the program at once
	stopOnce := sync.OnceFunc(func() { close(stop) })
	streams.Go(func() { _, _ = io.Copy(&messages, stderr.ours) })
	streams.Go(func() {
		if o.outErr = drain(p.out, stdout.ours); o.outErr != nil {
			stopOnce()
		}
	})
	inDone := make(chan struct{})
	go func() {
		defer close(inDone)
		if stdin == nil {
			return
		}
		_, err := io.Copy(stdin.ours, onlyReader{p.in, &o.inErr})
		if o.inErr != nil {
			stopOnce()
		}
		_, _ = err, stdin.ours.Close() // a program that needs no more input closes the pipe
	}()

	watched := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-done:
			return
		case <-stop:
			killGroup(cmd.Process.Pid)
			return
		case <-ctx.Done():
		}
		terminateGroup(cmd.Process.Pid)
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			killGroup(cmd.Process.Pid)
		}
	}()

	err = <-exited
	close(done)
	<-watched
	streams.Wait()
	_ = stdout.ours.Close()
	_ = stderr.ours.Close()
	<-inDone
	o.stderr = redact(messages.String(), p.hide)
	if ctx.Err() != nil {
		return o, context.Cause(ctx)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		o.code, o.signal = exit.ExitCode(), signalName(exit.ProcessState)
	case err != nil:
		return o, fmt.Errorf("waiting for %s: %w", filepath.Base(p.program), err)
	}
	return o, nil
}

// onlyReader keeps apart an input that cannot be read and an output that is closed.
type onlyReader struct {
	r   io.Reader
	err *error
}

func (o onlyReader) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && err != io.EOF {
		*o.err = err
	}
	return n, err
}

// drain reads to the end; after w failed nothing more is read, so that the program
// notices too.
func drain(w io.Writer, r *os.File) error {
	if w == nil {
		w = io.Discard
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				_ = r.Close()
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// pipe is between us and the program.
type pipe struct{ ours, theirs *os.File }

// newPipe makes one and hands the program's end to end, a field of exec.Cmd.
func newPipe(end any) (*pipe, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	widen(w)
	switch end := end.(type) {
	case *io.Writer:
		*end = w
		return &pipe{ours: r, theirs: w}, nil
	case *io.Reader:
		*end = r
	}
	return &pipe{ours: w, theirs: r}, nil
}

func (p *pipe) closeTheirs() {
	if p != nil {
		_ = p.theirs.Close()
	}
}

func (p *pipe) close() {
	if p != nil {
		_ = p.theirs.Close()
		_ = p.ours.Close()
	}
}

// tail keeps the beginning and the end of what is written to it.
type tail struct {
	head, end []byte
	dropped   bool
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if room := stderrLimit - len(t.head); room > 0 {
		room = min(room, len(p))
		t.head = append(t.head, p[:room]...)
		p = p[room:]
	}
	t.end = append(t.end, p...)
	if over := len(t.end) - stderrLimit; over > 0 {
		t.end = append(t.end[:0], t.end[over:]...)
		t.dropped = true
	}
	return n, nil
}

func (t *tail) String() string {
	if t.dropped {
		return string(t.head) + "\n...\n" + string(t.end)
	}
	return string(t.head) + string(t.end)
}

// redact takes a password out of a text. One of three letters would be found in
// ordinary words and so be shown by its absence.
func redact(text, password string) string {
	if len(password) < 4 {
		return text
	}
	return strings.ReplaceAll(text, password, "[redacted]")
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
