package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
)

func (c *commands) dataKeyCmd() *cobra.Command {
	return group("data-key", "List, rotate and retire the keys in n8n's own database", c.dataKeyListCmd(), c.dataKeyRotateCmd(), c.dataKeyRetireCmd())
}

func (c *commands) dataKeyListCmd() *cobra.Command {
	var o app.DataKeyOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show n8n's data keys and how many values each opens",
		Long: `Reads the live database, opens every value, and counts by data key. From n8n
2.18 on; no key is shown. Exit codes: 4 a key or a value does not open.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			doc, err := a.DataKeyList(cmd.Context(), c.instance, o)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printDataKeys(doc) })
		},
	}
	c.instanceFlags(cmd)
	cmd.Flags().BoolVar(&o.AllExecutions, "all-executions", false, "look into the data of finished executions, too")
	return cmd
}

func (c *commands) dataKeyRotateCmd() *cobra.Command {
	var o app.DataKeyOptions
	yes := false
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new data key, which n8n encrypts with from now on",
		Long: `Through n8n's own endpoint when a session is given (--n8n-url, --session-file),
else in the database with n8n's own guarantee: exactly one key is active. n8n
may run; its processes take the new key up within seconds. What is encrypted
already stays as it is: "reencrypt --to active" finishes that.

Exit codes: 2 not confirmed, 4 this n8n has no data keys, 11 a rotation is not
ended, 12 wrong instance key.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.changeDataKey(cmd, yes, &o, "make a new data key for %q?", func(a *app.App) (*api.DataKeyChange, error) {
				return a.DataKeyRotate(cmd.Context(), c.instance, o)
			})
		},
	}
	c.instanceFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.N8NURL, "n8n-url", "", "where n8n's editor answers, an `URL`: ask n8n itself to make the key")
	f.StringVar(&o.SessionFile, "session-file", "", "`FILE` with the n8n-auth cookie of a user who may manage encryption keys")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be done, change nothing")
	f.BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (c *commands) dataKeyRetireCmd() *cobra.Command {
	var o app.DataKeyOptions
	yes := false
	cmd := &cobra.Command{
		Use:   "retire ID",
		Short: "Record that nothing uses an inactive data key any more",
		Long: `Opens every value, those of finished executions, too. Only when none is under
the key it is marked as retired, in n8keep's state: n8n's row stays, because n8n
3.0 forbids its removal and older backups need it.

Exit codes: 2 not confirmed, or the key is active, 4 values still use it, 10 no
such key, 11 a rotation is not ended.`,
		Args: oneArg("the data key's id (\"n8keep data-key list\" shows it)"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.ID = args[0]
			return c.changeDataKey(cmd, yes, &o, "retire data key "+args[0]+" of %q?", func(a *app.App) (*api.DataKeyChange, error) {
				return a.DataKeyRetire(cmd.Context(), c.instance, o)
			})
		},
	}
	c.instanceFlags(cmd)
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "look whether anything uses it, record nothing")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func (c *commands) changeDataKey(cmd *cobra.Command, yes bool, o *app.DataKeyOptions, question string, do func(*app.App) (*api.DataKeyChange, error)) error {
	a, err := c.app()
	if err != nil {
		return err
	}
	if err := c.mustBeSure(yes || o.DryRun); err != nil {
		return err
	}
	o.Confirm = func(doc *api.DataKeyChange) error {
		if yes {
			return nil
		}
		return c.term.Confirm(fmt.Sprintf(question, doc.Instance), "--yes")
	}
	doc, err := do(a)
	if doc == nil {
		return err
	}
	return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() {
		c.warn(doc.Warnings)
		c.term.KeyValues("instance", doc.Instance, "data key", doc.ID, "before", doc.Previous, "through", doc.Through)
		if doc.Values > 0 {
			c.term.KeyValues("still used by", Plural(doc.Values, "value"))
		}
		if doc.DryRun {
			c.term.Line("nothing was changed")
		}
		for _, n := range doc.Next {
			c.term.KeyValues("next", n)
		}
	})
}

func (c *commands) printDataKeys(doc *api.DataKeys) {
	c.warn(doc.Warnings)
	c.term.KeyValues("instance", doc.Instance+" ("+doc.Engine+", "+n8nText(doc.N8NVersion)+")")
	var rows [][]string
	for _, k := range doc.Keys {
		state := k.Status
		if k.Retired != nil {
			state += ", retired"
		}
		age := ""
		if k.Created != nil {
			age = HumanAge(time.Duration(k.AgeSeconds * float64(time.Second)))
		}
		opens := "yes"
		if !k.Opens {
			opens = "no"
		}
		rows = append(rows, []string{k.ID, k.Algorithm, state, age, number(k.Values), opens})
	}
	if len(rows) > 0 {
		c.term.Line("")
		c.term.Table([]string{"data key!", "algorithm!", "status!", "age>", "values>", "opens"}, rows)
	}
	c.term.Line("")
	c.term.Line(fmt.Sprintf("%s under the instance key itself", Plural(doc.Legacy, "value")))
	if doc.Unopened > 0 {
		c.term.Line(fmt.Sprintf("%s opened by no key", Plural(doc.Unopened, "value")))
	}
}
