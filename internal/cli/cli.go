// Package cli is the command line: it parses flags, calls package app, and
// prints what comes back, as text for people or, with --json, as exactly one
// document of package api. It decides nothing: what a command does, and with
// which exit code it fails, comes from below.
//
// No flag takes a secret. Keys, identities and passphrases come from files, the
// environment, or a prompt on the terminal.
package cli

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

// Config is what the command line runs in.
type Config struct {
	Version string
	Term    *Terminal
	Env     func(string) (string, bool) // nil: os.LookupEnv
	Now     func() time.Time            // nil: time.Now
}

// Run runs one command and returns the exit code.
func Run(ctx context.Context, cfg Config, args []string) int {
	c := newCommands(cfg)
	json := wantsJSON(args)
	root := c.root()
	c.term.JSON, c.text.json = json, json
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		c.term.JSON = json // the flag may not have been reached
		return problem.New(problem.Usage, "%v", err).WithHint("see \"%s --help\"", cmd.CommandPath())
	})
	root.SetArgs(args)
	c.term.flags = c.globals
	err := root.ExecuteContext(ctx)
	if c.opened != nil {
		c.opened.Close() // what it holds can be learnt again
	}
	if err == nil {
		err = c.text.finish()
	}
	if err == nil && c.term.outErr != nil {
		err = problem.Wrap(problem.Unexpected, c.term.outErr, "printing the result").
			WithHint("the command itself was carried out; run it with its output going elsewhere to see what it says")
	}
	if err == nil {
		return 0
	}
	if c.printed { // the document with the error inside is out already
		return c.term.FailPrinted(err)
	}
	return c.term.Fail(err)
}

// globals are the flags that say which n8keep this is: where its configuration and its
// state are.
func (c *commands) globals() (flags []string) {
	for _, f := range []struct{ name, value string }{{"--config", c.options.ConfigFile}, {"--state-dir", c.options.StateDir}} {
		if f.value != "" {
			flags = append(flags, f.name, f.value)
		}
	}
	return flags
}

// New returns the root command, for tests and for the documentation's check.
func New(cfg Config) *cobra.Command { return newCommands(cfg).root() }

type commands struct {
	Config
	term     *Terminal
	text     *plainText
	options  app.Options
	instance app.InstanceOptions
	archive  app.ArchiveOptions
	ids      []string // --identity
	printed  bool
	opened   *app.App // nil before a command opens it
}

func newCommands(cfg Config) *commands {
	if cfg.Env == nil {
		cfg.Env = os.LookupEnv
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &commands{Config: cfg, term: cfg.Term, text: &plainText{term: cfg.Term}}
}

func (c *commands) root() *cobra.Command {
	version := c.versionCmd()
	showVersion := false
	root := &cobra.Command{
		Use:   "n8keep",
		Short: "Keeps self-hosted n8n instances recoverable and their secrets safe",
		Long: `n8keep takes encrypted, signed backups of an n8n in which every secret was
proved to open, verifies them, and restores them.

Start with "n8keep demo", or on your own n8n with "n8keep census --n8n-dir DIR".`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if showVersion {
				return version.RunE(version, nil)
			}
			return showHelp(cmd, args)
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetOut(c.text)
	root.SetErr(c.term.Err)
	root.SetUsageFunc(usage)
	root.Flags().BoolVar(&showVersion, "version", false, "print the version")
	f := root.PersistentFlags()
	f.StringVar(&c.options.ConfigFile, "config", "", "read this `FILE` instead of searching for n8keep.yaml")
	f.StringVar(&c.options.StateDir, "state-dir", "", "`FOLDER` of the audit log and locks (default $XDG_STATE_HOME/n8keep)")
	f.StringVar(&c.options.WorkDir, "work-dir", "", "`FOLDER` for the private copy of a database (default work in the state folder)")
	f.StringVar(&c.options.SigningKey, "signing-key", "", "`FILE` with the key that signs archives (default signing.key in the configuration folder)")
	f.BoolVar(&c.term.JSON, "json", false, "print exactly one JSON document")
	f.BoolVarP(&c.term.Quiet, "quiet", "q", false, "no progress, no warnings")
	root.AddCommand(c.initCmd(), c.demoCmd(), c.censusCmd(), c.keyCmd(), c.backupCmd(), c.restoreCmd(), c.exportCmd(), c.rotateCmd(), c.dataKeyCmd(), c.reencryptCmd(), c.targetCmd(), c.statusCmd(), version)
	root.SetHelpCommand(helpCmd(root))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strictCompletion(root)
	return root
}

// noArgs and exactArgs are cobra's checks with our kind of error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		e := problem.New(problem.Usage, "unknown command %q for %q", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return e.WithHint("did you mean %q?", cmd.CommandPath()+" "+near[0])
		}
		return e.WithHint("see \"%s --help\"", cmd.CommandPath())
	}
	return problem.New(problem.Usage, "unexpected argument %q", args[0]).WithHint("see \"%s --help\"", cmd.CommandPath())
}

func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return problem.New(problem.Usage, "%q takes one argument: %s", cmd.CommandPath(), what).WithHint("see \"%s --help\"", cmd.CommandPath())
	}
}

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: noArgs, RunE: showHelp}
	cmd.AddCommand(subs...)
	return cmd
}

// app opens the program for one command.
func (c *commands) app() (*app.App, error) {
	o := c.options
	o.Env, o.Now, o.Version = c.Env, c.Now, c.Version
	o.Logger = newLogger(c.term)
	bars := newBars(c.term)
	o.Progress = bars.update
	a, err := app.Open(o)
	c.opened = a
	return a, err
}

// finish prints a document that a command returned, together with its error if
// it has one, and returns the error for the exit code. doc must be a pointer
// with an Error field set by set; text prints the document for people.
func (c *commands) finish(doc any, err error, set func(*api.Error), text func()) error {
	if c.term.JSON {
		if err != nil && set != nil {
			set(app.APIError(err))
			c.printed = true
		}
		if perr := c.term.PrintJSON(doc); perr != nil {
			return errors.Join(err, perr)
		}
		return err
	}
	text()
	return err
}

func (c *commands) warn(warnings []string) {
	if c.term.Quiet {
		return
	}
	for _, w := range warnings {
		c.term.Warn(w)
	}
}

func (c *commands) instanceFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.instance.Name, "instance", "", "`NAME` of the instance (default host name and a hash of the database's place)")
	f.StringVar(&c.instance.N8NDir, "n8n-dir", "", "n8n's `FOLDER`, with config and database.sqlite in it")
	f.StringVar(&c.instance.Database, "database", "", "the database, where it is elsewhere: a SQLite `FILE` or postgres://USER@HOST/DB")
	f.StringVar(&c.instance.TablePrefix, "table-prefix", "", "n8n's DB_TABLE_PREFIX")
	f.StringVar(&c.instance.Schema, "schema", "", "n8n's DB_POSTGRESDB_SCHEMA (default public)")
	c.keyFlag(cmd)
}

func (c *commands) keyFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.instance.KeyFile, "key-file", "", "`FILE` with the instance key (default: as n8n finds it)")
}

func (c *commands) archiveFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.archive.Target, "target", "", "`FOLDER` of the archives, or the name of a configured target")
	c.signerFlags(cmd)
}

func (c *commands) signerFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&c.archive.Signers, "signer", nil, "trust archives signed by this public key, ed25519:... (repeatable)")
	f.Var((*fingerprints)(&c.archive.AcceptSigners), "accept-signer", "trust the signer with this `FINGERPRINT`, n8s1-... (repeatable)")
}

// fingerprints is a flag of signers' fingerprints.
type fingerprints []string

var fingerprintPattern = regexp.MustCompile(`^n8s1-[a-z2-7]{32}$`)

// Set adds one.
func (f *fingerprints) Set(s string) error {
	if !fingerprintPattern.MatchString(s) {
		return errors.New("a signer's fingerprint is n8s1- and 32 letters a to z and digits 2 to 7")
	}
	*f = append(*f, s)
	return nil
}

func (f *fingerprints) String() string { return strings.Join(*f, " ") }

// Type is shown in help where the text names none.
func (f *fingerprints) Type() string { return "FINGERPRINT" }

func (c *commands) identityFlag(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&c.ids, "identity", "i", nil, "`FILE` with an age identity that opens the archive (repeatable)")
}

func (c *commands) retiredFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.archive.RetiredKey, "retired-key", false, "an archive of before a rotation: open it with the key that the keyring has kept")
}

func (c *commands) identities() error {
	ids, err := app.Identities(c.ids, c.term.AskSecret)
	c.archive.Identities = ids
	return err
}
