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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// What is under way is put right first, which may take long; a second signal ends it.
	context.AfterFunc(ctx, stop)
	term := cli.NewTerminal(os.Stdin, os.Stdout, os.Stderr, os.LookupEnv)
	return cli.Run(ctx, cli.Config{Version: version, Term: term}, os.Args[1:])
}
