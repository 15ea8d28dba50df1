package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
)

func (c *commands) censusCmd() *cobra.Command {
	var o app.CensusOptions
	cmd := &cobra.Command{
		Use:   "census",
		Short: "Open every secret of an n8n and say which do, place by place",
		Long: `Reads the live database without changing or blocking it, opens every value that
n8n keeps encrypted, and looks through all other columns for ciphertext that
n8keep does not know of. Nothing is decrypted onto a disk or a screen.

Exit codes: 0 every value opens, 4 some do not, 12 none does.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			doc, err := a.Census(cmd.Context(), "census", c.instance, o)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printCensus(doc) })
		},
	}
	c.instanceFlags(cmd)
	cmd.Flags().BoolVar(&o.AllExecutions, "all-executions", false, "look into the data of finished executions, too")
	cmd.Flags().BoolVar(&o.NoSweep, "no-sweep", false, "do not look for ciphertext outside the known places")
	return cmd
}

func (c *commands) printCensus(doc *api.Census) {
	c.warn(doc.Warnings)
	c.term.KeyValues(
		"instance", doc.Instance+" ("+doc.Engine+", "+n8nText(doc.N8NVersion)+")",
		"key", doc.KeyFingerprint+" from "+keySourceText(doc.KeySource),
	)
	var rows [][]string
	for _, p := range doc.Places {
		if p.Values == 0 {
			continue
		}
		rows = append(rows, []string{p.Place, number(p.Values), number(p.Opened), number(p.Failed), number(p.Plaintext), keysText(p.ByKey)})
	}
	if len(rows) > 0 {
		c.term.Line("")
		c.term.Table([]string{"place!", "values>", "open>", "fail>", "plain>", "keys"}, rows)
	}
	c.printUnlisted(doc.Unlisted)
	c.printFailures(doc.Failures)
	c.term.Line("")
	c.term.Line(doc.Verdict)
}

func (c *commands) printUnlisted(unlisted []api.Unlisted) {
	for _, u := range unlisted {
		kind := "like n8n's ciphertext"
		if u.Opened > 0 {
			kind += fmt.Sprintf(", of which a known key opens %d", u.Opened)
		}
		c.term.Line(fmt.Sprintf("outside the known places: %s.%s: %s %s", u.Table, u.Column, Plural(u.Values, "value"), kind))
	}
}

func (c *commands) printFailures(failures []api.Secret) {
	if len(failures) == 0 {
		return
	}
	c.term.Line("")
	rows := [][]string{}
	for _, f := range failures {
		rows = append(rows, []string{f.Place, f.Row, f.Format, f.Problem})
	}
	c.term.Table([]string{"does not open!", "row!", "format", "why"}, rows)
}

func keysText(byKey map[string]int64) string {
	if len(byKey) == 1 {
		for k := range byKey {
			return k
		}
	}
	var parts []string
	for k, n := range byKey {
		parts = append(parts, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func keySourceText(k api.KeySource) string {
	if k.Where == "" {
		return k.Source
	}
	return k.Source + " " + k.Where
}

func n8nText(version string) string {
	if version == "" {
		return "n8n version unknown"
	}
	return "n8n " + version
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
