// Package app puts the parts together: it reads the configuration, resolves
// which instance, key, target and identities a command means, records the
// command in the audit log, and hands everything to the engine that does the
// work. It is the only package that knows all others; the command line above it
// only parses flags and prints what comes back.
//
// Everything the configuration says about an instance can also be said by an
// option; an option wins. Nothing here writes to an n8n's folder or database.
package app

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/config"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/state"
)

// Options are what every command has.
type Options struct {
	ConfigFile string                      // --config; "" searches
	StateDir   string                      // --state-dir; "" is the configuration's or the default
	WorkDir    string                      // --work-dir; "" is <state>/work
	Env        func(string) (string, bool) // nil: os.LookupEnv
	SigningKey string                      // --signing-key: path of the key that signs sidecars
	Now        func() time.Time            // nil: time.Now
	Logger     *slog.Logger
	Progress   backup.Progress
	Version    string // of n8keep
}

// App is the program with its configuration read. It is used by one command.
type App struct {
	Options
	conf  *config.Config
	host  config.Host
	audit *audit.Log
	state *state.DB // nil until memory opens it
	// stateNamed: an option says where the state folder is.
	stateNamed bool
}

// Open reads the configuration, and removes private copies that a killed run has
// left in the work folder. It makes no file and no folder.
func Open(o Options) (*App, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	a := &App{Options: o, stateNamed: o.StateDir != "", host: config.Host{Env: o.Env}}
	var err error
	if a.conf, err = config.Load(o.ConfigFile, a.host); err != nil {
		return nil, err
	}
	if a.StateDir = first(a.StateDir, a.conf.StateDir); a.StateDir == "" {
		if a.StateDir, err = a.host.StateDir(); err != nil {
			return nil, err
		}
	}
	a.WorkDir = first(a.WorkDir, a.conf.WorkDir, filepath.Join(a.StateDir, "work"))
	backup.SweepWork(a.WorkDir, a.Logger)
	return a, nil
}

// Close ends what was opened on the way.
func (a *App) Close() error {
	if a.state == nil {
		return nil
	}
	return a.state.Close()
}

// lockDir holds one lock file per instance.
func (a *App) lockDir() string { return filepath.Join(a.StateDir, "locks") }

// signingKeyPath is where the key that signs sidecars is.
func (a *App) signingKeyPath() (string, error) {
	if a.SigningKey != "" {
		return a.SigningKey, nil
	}
	if path, ok := a.conf.SigningKey.File(); ok {
		return path, nil
	}
	if !a.conf.SigningKey.IsZero() {
		return "", problem.New(problem.Usage, "signing_key must be a file: reference").WithHint("write signing_key: file:/path/to/signing.key")
	}
	dir, err := a.host.ConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "signing.key"), nil
}

// begin records the command before it does anything. The returned function
// records how it ended and gives the error back.
func (a *App) begin(ctx context.Context, command, instance string, policy audit.Policy, detail map[string]any) (audit.Receipt, func(error, map[string]int64) error, error) {
	if a.audit == nil {
		log, err := audit.Open(audit.Config{Dir: a.StateDir, Now: a.Now, Logger: a.Logger})
		if err != nil {
			return audit.Receipt{}, nil, err
		}
		a.audit = log
	}
	receipt, err := a.audit.Begin(ctx, audit.CurrentActor(), audit.Event{Command: command, Instance: instance, Detail: detail}, policy)
	if err != nil {
		return receipt, nil, err
	}
	return receipt, func(outcome error, counts map[string]int64) error {
		if err := a.audit.End(receipt, outcome, counts); err != nil {
			a.Logger.Warn("end of command not recorded in the audit log", "error", err)
		}
		return outcome
	}, nil
}

// APIError is the api form of an error; nil for nil.
func APIError(err error) *api.Error {
	if err == nil {
		return nil
	}
	k := problem.KindOf(err)
	return &api.Error{Kind: string(k), Message: err.Error(), Hint: problem.HintOf(err), Exit: k.Exit()}
}
