package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

func (c *commands) reencryptCmd() *cobra.Command {
	var o app.ReencryptOptions
	yes := false
	cmd := &cobra.Command{
		Use:   "reencrypt --to active|ID|legacy",
		Short: "Encrypt all with one data key now, or go back from data keys",
		Long: `n8n encrypts a value with the active data key when it is next saved. This
finishes it now, while n8n runs: row by row, only where the value still is what
was read, so that what n8n saves at the same time always wins and is looked at
again by the next pass. It ends when a pass finds nothing, and proves it.

--to legacy is the way back that n8n lacks: everything returns to the instance
key, so that the rotation flag can be switched off or an older n8n started.

What is allowed depends on n8n's version, on the flag and on whether n8n runs;
--dry-run prints the table. An interrupted run is simply run again.

Exit codes: 2 not confirmed, 3 values are left that are not under the key, 4
this n8n could not read the result, 11 a rotation is not ended, 12 wrong key.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			if o.To == "" {
				return problem.New(problem.Usage, "nothing to encrypt to").WithHint("give --to active, --to ID of a data key, or --to legacy")
			}
			if err := c.mustBeSure(yes || o.DryRun); err != nil {
				return err
			}
			shown := false
			o.Confirm = func(doc *api.Reencryption) error {
				c.printReencryption(doc)
				shown = true
				if yes {
					return nil
				}
				return c.term.Confirm(fmt.Sprintf("encrypt %s of %q with %s?", Plural(doc.Change, "value"), doc.Instance, doc.To), "--yes")
			}
			doc, err := a.Reencrypt(cmd.Context(), c.instance, o)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() {
				if !shown {
					c.printReencryption(doc)
				}
				c.printReencrypted(doc)
			})
		},
	}
	c.instanceFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.To, "to", "", "`KEY`: active, the id of a data key, or legacy")
	f.StringVar(&o.Flag, "key-rotation-flag", "", "on or off: `STATE` of N8N_ENV_FEAT_ENCRYPTION_KEY_ROTATION in n8n (default: as in this environment)")
	f.BoolVar(&o.AssumeStopped, "assume-stopped", false, "n8n does not run, although that cannot be seen")
	f.StringVar(&o.HealthURL, "health-url", "", "n8n's health `URL`, to see whether it runs")
	f.StringVar(&o.Executions, "executions", "waiting", "execution data to encrypt anew: waiting (all that are not finished) or all")
	f.IntVar(&o.Rate, "rate", 0, "at most that many `ROWS` per second (default unlimited)")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be done and what is allowed, change nothing")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (c *commands) printReencryption(doc *api.Reencryption) {
	c.warn(doc.Warnings)
	c.term.KeyValues("instance", doc.Instance+" ("+n8nText(doc.N8NVersion)+")", "to", doc.To)
	c.printPlaces(doc.Places)
	c.printFailures(doc.Failures)
	if doc.DryRun || len(doc.Refusals) > 0 {
		var rows [][]string
		for _, a := range doc.Allowed {
			here := ""
			if a.Here {
				here = "*"
			}
			rows = append(rows, []string{here, a.Versions, a.Flag, a.Running, a.To, a.Answer, a.Why})
		}
		if len(rows) > 0 {
			c.term.Line("")
			c.term.Table([]string{"", "n8n!", "flag!", "n8n runs!", "to!", "answer!", "why"}, rows)
		}
	}
	if doc.MFA > 0 {
		c.term.Line(Plural(doc.MFA, "user") + " with a second factor will have to log in again")
	}
	c.list("in the way of an older n8n", doc.Obstacles)
	for _, r := range doc.Refusals {
		c.term.Line("")
		c.term.KeyValues("refused", r.Message, "do", r.Hint)
	}
}

func (c *commands) printReencrypted(doc *api.Reencryption) {
	if len(doc.Refusals) > 0 {
		return
	}
	c.term.Line("")
	if doc.DryRun {
		c.term.Line(fmt.Sprintf("would encrypt %d of %s anew; nothing was changed", doc.Change, Plural(doc.Values, "value")))
		return
	}
	c.term.KeyValues(
		"changed", number(doc.Changed),
		"saved by n8n first", number(doc.Lost),
		"left", number(doc.Left),
		"passes", number(int64(len(doc.Passes))),
		"took", seconds(doc.Seconds),
	)
	for _, n := range doc.Next {
		c.term.KeyValues("next", n)
	}
}
