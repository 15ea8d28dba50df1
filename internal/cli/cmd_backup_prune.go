package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

func (c *commands) backupPruneCmd() *cobra.Command {
	var o app.PruneOptions
	yes := false
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove the archives that the retention policy does not keep",
		Long: `Prints what goes and what stays, each with its reason, and asks. The policy
stands in n8keep.yaml under "retention"; by default one archive of each of 30
days and of each of 14 weeks stays, per instance and signer.

Always kept: the newest good archive, which is read and found sound before
anything goes; the newest of each instance key; what is locked; and what was
altered, is damaged, or has an unknown signer.

Exit codes: 2 the clock cannot be right, or nobody confirmed, 3 some could not
be removed, or an archive there was found damaged.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			if !yes && !o.DryRun && c.term.JSON {
				return problem.New(problem.Usage, "with --json nobody is asked").WithHint("look at the plan with --dry-run, carry it out with --yes")
			}
			shown := false
			o.Confirm = func(doc *api.Prune) error {
				c.printPrunePlan(doc)
				shown = true
				if yes {
					return nil
				}
				return c.term.Confirm(fmt.Sprintf("remove %s (%s) from %s?", Plural(doc.Removed, "archive"), HumanBytes(doc.Bytes), doc.Target), "--yes")
			}
			doc, err := a.BackupPrune(cmd.Context(), c.archive, o)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() {
				if !shown {
					c.printPrunePlan(doc)
				}
				c.printPruned(doc)
			})
		},
	}
	c.archiveFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&c.archive.Instance, "instance", "", "only this instance's `NAME`")
	f.BoolVar(&o.DryRun, "dry-run", false, "print the plan, remove nothing")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&o.AcceptClock, "accept-clock", false, "the clock is right, although it does not look so")
	f.StringArrayVar(&o.ForgetKeys, "forget-key", nil, "let the last archive go that the key with this `FINGERPRINT` opens, n8k1-... (repeatable)")
	return cmd
}

func (c *commands) printPrunePlan(doc *api.Prune) {
	c.warn(doc.Warnings)
	if len(doc.Archives) == 0 {
		c.term.Line("no archives")
		return
	}
	var rows [][]string
	for _, d := range doc.Archives {
		what := "remove"
		if d.Keep {
			what = "keep"
		}
		rows = append(rows, []string{what, d.ID, HumanAge(c.Now().Sub(d.Stored)), HumanBytes(d.Size), d.Reason})
	}
	c.term.Table([]string{"plan!", "archive!", "age>", "size>", "reason!"}, rows)
	c.printGrouped(doc.Findings)
	for _, id := range doc.ToProve {
		c.term.Line("before anything goes: " + id + " is read and verified")
	}
}

// printGrouped prints a few findings of each code and counts the others.
func (c *commands) printGrouped(findings []api.Finding) {
	const few = 3
	count := map[string]int{}
	var order []string
	for _, f := range findings {
		if count[f.Code]++; count[f.Code] == 1 {
			order = append(order, f.Code)
		}
		if count[f.Code] <= few {
			c.term.KeyValues("finding", f.Place+" "+f.Detail)
		}
	}
	for _, code := range order {
		if n := count[code] - few; n > 0 {
			c.term.KeyValues("finding", fmt.Sprintf("%s: %d more", strings.ReplaceAll(code, "_", " "), n))
		}
	}
}

func (c *commands) printPruned(doc *api.Prune) {
	if doc.DryRun {
		c.term.Line(fmt.Sprintf("would remove %s (%s) and keep %d", Plural(doc.Removed, "archive"), HumanBytes(doc.Bytes), doc.Kept))
		return
	}
	for _, d := range doc.Archives {
		if d.Problem != "" {
			c.term.Line(d.ID + ": " + d.Reason + ": " + d.Problem)
		}
	}
	c.term.KeyValues("removed", fmt.Sprintf("%s (%s)", Plural(doc.Removed, "archive"), HumanBytes(doc.Bytes)), "kept", number(doc.Kept), "verified", strings.Join(doc.Proved, ", "), "took", seconds(doc.Seconds))
}
