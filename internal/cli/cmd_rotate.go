package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

func (c *commands) rotateCmd() *cobra.Command {
	return group("rotate", "Replace the instance key, provably, with a way back",
		c.rotateInstanceCmd(), c.rotateStatusCmd(), c.rotateResumeCmd(), c.rotateRollbackCmd(), c.rotateFinaliseCmd())
}

func (c *commands) rotateInstanceCmd() *cobra.Command {
	var o app.RotateOptions
	yes := false
	cmd := &cobra.Command{
		Use:   "instance --new-key-file FILE",
		Short: "Replace n8n's encryption key in every place that holds a secret",
		Long: `Prints the plan and asks. Then: a backup, verified to every secret; n8n stops;
everything is encrypted with the new key in one transaction, in which each value
is compared with what it was; n8n starts; everything is proved again. A kill at
any point leaves the old state or the new one: "rotate resume" goes on, "rotate
rollback" goes back, also after n8n has run with the new key.

It ends as "verified" and can be rolled back until "rotate finalise". Without
commands that stop and start n8n, stop it before and start it afterwards.

With --after-leak the old key counts as known to somebody: nothing that was
derived from it is kept, sessions and API keys end, and what was exposed is
listed.

Exit codes: 2 not confirmed, 3 done but values were left as they are, 4 the plan
must not be carried out, 11 n8n is attached or a rotation is not ended, 12 wrong
instance key.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			if o.NewKeyFile == "" {
				return problem.New(problem.Usage, "no new key").WithHint("make one with \"n8keep key generate --out FILE\", and give it with --new-key-file FILE")
			}
			if err := c.mustBeSure(yes || o.DryRun); err != nil {
				return err
			}
			if len(c.ids) > 0 {
				if err := c.identities(); err != nil {
					return err
				}
				o.Identities = c.archive.Identities
			}
			shown := false
			o.Confirm = func(plan *api.RotationPlan) error {
				c.printRotationPlan(plan)
				shown = true
				if yes {
					return nil
				}
				return c.term.Confirm(fmt.Sprintf("replace the key of %q (%s get new bytes)?", plan.Instance, Plural(plan.Change, "value")), "--yes")
			}
			plan, done, err := a.RotateInstance(cmd.Context(), c.instance, o)
			switch {
			case done != nil:
				return c.finish(done, err, func(e *api.Error) { done.Error = e }, func() { c.printRotation(done) })
			case plan != nil:
				return c.finish(plan, err, func(e *api.Error) { plan.Error = e }, func() {
					if !shown {
						c.printRotationPlan(plan)
					}
				})
			}
			return err
		},
	}
	c.instanceFlags(cmd)
	c.identityFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&o.NewKeyFile, "new-key-file", "", "`FILE` with the new instance key")
	f.StringArrayVar(&o.Targets, "target", nil, "`FOLDER` or address of the backup, or the name of a configured target (repeatable)")
	f.StringArrayVarP(&o.Recipients, "recipient", "r", nil, "encrypt the backup to this age public `KEY`, age1... (repeatable)")
	f.StringArrayVar(&o.RecipientFiles, "recipient-file", nil, "encrypt the backup to the public keys in this `FILE` (repeatable)")
	f.BoolVar(&o.DryRun, "dry-run", false, "print the plan, change nothing")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.StringVar(&o.Executions, "executions", "waiting", "execution data to encrypt anew: waiting (all that are not finished) or all")
	f.BoolVar(&o.Quarantine, "quarantine", false, "go on although values open under no key: they stay as they are, and are listed")
	f.StringArrayVar(&o.AcceptUnlisted, "accept-unlisted", nil, "leave this `TABLE.COLUMN` alone although it holds secrets (repeatable)")
	f.BoolVar(&o.AfterLeak, "after-leak", false, "somebody may have the old key: keep nothing that was derived from it")
	f.BoolVar(&o.Finalise, "finalise", false, "finalise at once: there is no way back afterwards")
	f.DurationVar(&o.BackupYoungerThan, "backup-younger-than", 0, "accept a backup that was verified at level secrets and is younger than `DURATION`")
	f.BoolVar(&o.NoBackup, "no-backup-i-accept-the-risk", false, "rotate without any backup")
	f.BoolVar(&o.KeySetByUser, "i-will-set-the-key", false, "I set the new key myself in the places that n8keep cannot change")
	f.BoolVar(&o.AssumeStopped, "assume-stopped", false, "go on where it cannot be seen whether n8n runs")
	c.hookFlags(cmd, &o.Hooks)
	return cmd
}

// mustBeSure refuses before any work what could only end at a question that nobody
// is asked.
func (c *commands) mustBeSure(sure bool) error {
	if sure || !c.term.JSON {
		return nil
	}
	return problem.New(problem.Usage, "with --json nobody is asked").WithHint("look at the plan with --dry-run, carry it out with --yes")
}

func (c *commands) hookFlags(cmd *cobra.Command, o *app.HookOptions) {
	f := cmd.Flags()
	f.StringVar(&o.StopCommand, "stop-command", "", "`COMMAND` that stops all of n8n, run by sh")
	f.StringVar(&o.StartCommand, "start-command", "", "`COMMAND` that starts n8n with the new key, run by sh")
	f.StringArrayVar(&o.SystemdUnits, "systemd", nil, "n8n is this systemd `UNIT` (repeatable)")
	f.StringVar(&o.ComposeFile, "compose", "", "n8n is in this docker compose `FILE`")
	f.StringArrayVar(&o.ComposeServices, "compose-service", nil, "with --compose: only this `NAME` (repeatable; default all of them)")
	f.StringVar(&o.HealthURL, "health-url", "", "n8n's health `URL`, to see whether it runs")
}

func (c *commands) rotateStatusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [ID]",
		Short: "Show rotations and what can be done with them",
		Long: `Without an ID: all rotations that the state folder knows, newest first. With
one: its steps, and the commands that are possible now. Reads the journals only.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return nil
			}
			return noArgs(cmd, args[1:])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				doc, err := a.RotationStatus(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.finish(doc, nil, nil, func() { c.printRotation(doc) })
			}
			doc, err := a.Rotations(cmd.Context())
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printRotations(doc) })
		},
	}
	return cmd
}

// What a command on a journal may have to do, and has flags for.
type journalWork struct{ backup, service bool }

// journalled is a command that works from a rotation's journal.
func (c *commands) journalled(cmd *cobra.Command, work journalWork, question string, do func(*app.App, *cobra.Command, app.JournalOptions) (*api.Rotation, error)) *cobra.Command {
	var o app.JournalOptions
	yes := false
	cmd.Args = oneArg("the rotation's id (\"n8keep rotate status\" lists them)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a, err := c.app()
		if err != nil {
			return err
		}
		if err := c.mustBeSure(yes); err != nil {
			return err
		}
		if len(c.ids) > 0 {
			if err := c.identities(); err != nil {
				return err
			}
			o.Identities = c.archive.Identities
		}
		o.ID, o.KeyFile, o.Database, o.N8NDir = args[0], c.instance.KeyFile, c.instance.Database, c.instance.N8NDir
		o.Confirm = func(doc *api.Rotation) error {
			if yes {
				return nil
			}
			c.printRotation(doc)
			return c.term.Confirm(fmt.Sprintf(question, doc.ID, doc.Instance), "--yes")
		}
		doc, err := do(a, cmd, o)
		if doc == nil {
			return err
		}
		return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printRotation(doc) })
	}
	f := cmd.Flags()
	f.StringVar(&c.instance.KeyFile, "key-file", "", "`FILE` with the old instance key (default: the one in the journal)")
	f.StringVar(&o.NewKeyFile, "new-key-file", "", "`FILE` with the new instance key (default: the one in the journal)")
	f.StringVar(&c.instance.Database, "database", "", "the database, if the one in the journal is reached differently now: a `FILE` or postgres://...")
	f.StringVar(&c.instance.N8NDir, "n8n-dir", "", "n8n's `FOLDER`, if it is elsewhere now")
	f.BoolVar(&yes, "yes", false, "do not ask")
	if work.backup {
		c.identityFlag(cmd)
		f.StringArrayVar(&o.Targets, "target", nil, "`FOLDER` or address of backups, or the name of a configured target (repeatable)")
		f.StringArrayVarP(&o.Recipients, "recipient", "r", nil, "encrypt a backup to this age public `KEY`, age1... (repeatable)")
		f.StringArrayVar(&o.RecipientFiles, "recipient-file", nil, "encrypt a backup to the public keys in this `FILE` (repeatable)")
		f.BoolVar(&o.NoBackup, "no-backup-i-accept-the-risk", false, "go on without any backup")
	}
	if work.service {
		f.BoolVar(&o.AssumeStopped, "assume-stopped", false, "go on where it cannot be seen whether n8n runs")
		c.hookFlags(cmd, &o.Hooks)
	}
	return cmd
}

func (c *commands) rotateResumeCmd() *cobra.Command {
	return c.journalled(&cobra.Command{
		Use:   "resume ID",
		Short: "Go on with a rotation that was interrupted",
		Long: `Looks at the database, which decides what was done, and goes on from there to
"verified". What was done already is not done twice; a rotation whose start of
n8n failed is started again.

The key files, the database and the commands that stop and start n8n are those
of the journal, unless they are given.

Exit codes: 2 not confirmed, 3 done but values were left as they are, 11 n8n is
attached, 12 neither key can be read, 13 the database is neither old nor new.`,
	}, journalWork{backup: true, service: true}, "go on with rotation %s of %q?", func(a *app.App, cmd *cobra.Command, o app.JournalOptions) (*api.Rotation, error) {
		return a.RotateResume(cmd.Context(), o)
	})
}

func (c *commands) rotateRollbackCmd() *cobra.Command {
	return c.journalled(&cobra.Command{
		Use:   "rollback ID",
		Short: "Go back to the old key, at any time before finalise",
		Long: `n8n stops; what still is as the rotation wrote it gets its old bytes back; what
n8n has written since is encrypted with the old key, so no change is lost; the
old key stands in n8n's config again; n8n starts.

Exit codes: 2 not confirmed, 11 n8n is attached, 12 neither key can be read.`,
	}, journalWork{service: true}, "roll back rotation %s of %q, to the old key?", func(a *app.App, cmd *cobra.Command, o app.JournalOptions) (*api.Rotation, error) {
		return a.RotateRollback(cmd.Context(), o)
	})
}

func (c *commands) rotateFinaliseCmd() *cobra.Command {
	return c.journalled(&cobra.Command{
		Use:     "finalise ID",
		Aliases: []string{"finalize"},
		Short:   "End a rotation: the new key is the key, the way back is destroyed",
		Long: `The new key becomes the active one of n8keep's keyring, the old one is kept as
retired, for older backups, which are listed. A fresh backup is taken. What the
values were before is destroyed: there is no rollback afterwards.`,
	}, journalWork{backup: true}, "finalise rotation %s of %q? there is no way back afterwards", func(a *app.App, cmd *cobra.Command, o app.JournalOptions) (*api.Rotation, error) {
		return a.RotateFinalise(cmd.Context(), o)
	})
}
