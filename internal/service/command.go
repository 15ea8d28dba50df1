package service

import (
	"context"
	"errors"
	"os"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// Command stops and starts n8n by commands of the user, each run by `sh -c` in a
// process group of its own. A command has done its work when it exits with 0; it has
// to do so, too, when there is nothing to do. Its output is shown only when it fails.
//
// A start command may leave n8n in the background (`n8n start &`): its output then
// goes nowhere, and it lives on when n8keep ends. A command that is cancelled, or
// reaches the limit, is ended with all its children: SIGTERM, SIGKILL ten seconds later.
type Command struct {
	// StopLine and StartLine are given to sh. StopLine may be empty: n8n has been
	// stopped by the user, and only that is checked.
	StopLine, StartLine string
	// Environ is the environment they get, less instance keys and passwords of
	// databases; nil is ours.
	Environ []string
	// Hide are secrets that the caller knows: not shown, and no part of the environment.
	Hide []secret.String
}

func (c *Command) String() string {
	if c.StopLine == "" {
		return "the user and a start command"
	}
	return "stop and start commands"
}

// Logs is in words: nobody knows where the log is.
func (c *Command) Logs() string { return "where the start command sends it" }

// State: a command says nothing about n8n.
func (c *Command) State(context.Context) ([]Part, error) { return nil, nil }

// Stop runs the stop command.
func (c *Command) Stop(ctx context.Context) error {
	if c.StopLine == "" {
		return nil
	}
	return c.run(ctx, c.StopLine, "stop command", "--stop-command")
}

// Start runs the start command.
func (c *Command) Start(ctx context.Context) error {
	return c.run(ctx, c.StartLine, "start command", "--start-command")
}

func (c *Command) run(ctx context.Context, line, name, flag string) error {
	environ := c.Environ
	if environ == nil {
		environ = os.Environ()
	}
	// By its path: a shell is there, whatever PATH says.
	p := process{path: "/bin/sh", args: []string{"-c", line}, env: variables(environ, c.Hide), hide: c.Hide, drain: true}
	o, err := p.run(ctx)
	said := ""
	if text := shown(o.stderr, c.Hide); text != "" {
		said = "; it said: " + text
	}
	switch {
	case errors.Is(err, errLimit):
		return problem.New(problem.Unexpected, "%s did not end within the time limit and was ended%s", name, said).
			WithHint("a command must return when n8n is stopped or started; what runs on belongs into the background, as in: %s 'systemctl start n8n'", flag)
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		return problem.Wrap(problem.Unexpected, err, "running the %s", name)
	case o.ok():
		return nil
	case o.code == 127:
		return problem.New(problem.Usage, "%s was not found by the shell (exit status 127)%s", name, said).
			WithHint("try it first: sh -c, with what you gave to %s", flag)
	}
	return problem.New(problem.Unexpected, "%s %s%s", name, o.how(), said).
		WithHint("try it first: sh -c, with what you gave to %s; it must succeed as well when there is nothing to do", flag)
}
