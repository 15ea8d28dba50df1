// Command n8keep keeps self-hosted n8n instances recoverable and their secrets
// safe. The work is in package internal/app, the command line in internal/cli.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/n8keep/n8keep/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := interruptible()
	defer stop()
	term := cli.NewTerminal(os.Stdin, os.Stdout, os.Stderr, os.LookupEnv)
	return cli.Run(ctx, cli.Config{Version: version, Term: term}, os.Args[1:])
}

// interruptible returns a context that the first signal ends. What is under way is put
// right then, which may take long; a second signal kills the process. A terminal that is
// gone often says so twice, and whoever reads along is gone with it: neither is a person
// who wants an end at once.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, func() {
		signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
		stop()
	})
	return ctx, stop
}
