package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
)

func (c *commands) keyFindCmd() *cobra.Command {
	var o app.KeyFindOptions
	cmd := &cobra.Command{
		Use:   "find --candidate FILE...",
		Short: "Say which of several keys opens which of an n8n's secrets",
		Long: `Takes keys out of files (key files, n8n's config, env and compose files, YAML,
JSON, shell scripts), the environment, n8n's config and the keyring, and tries
each on the live database: as it stands, and in the forms that keys take on
their way to n8n (quotes, white space, line breaks, base64 and hex, escapes,
variables, encodings of text). Keys are named by file and line, never shown.

Exit codes: 0 one key opens everything, 4 some values stay closed, 12 none opens
any.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			doc, err := a.KeyFind(cmd.Context(), c.instance, o)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printKeyFind(doc, err != nil) })
		},
	}
	c.instanceFlags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&o.Candidates, "candidate", nil, "`FILE` that may hold the key, or n8n's folder of another host (repeatable)")
	f.BoolVar(&o.Only, "candidates-only", false, "do not try the keys of environment, n8n's config, n8keep.yaml and keyring")
	f.BoolVar(&o.AllExecutions, "all-executions", false, "look into the data of finished executions, too")
	f.StringVar(&o.Out, "out", "", "`FILE` to write the instance key to when it is found, which must not exist")
	return cmd
}

func (c *commands) printKeyFind(doc *api.KeyFind, failed bool) {
	c.warn(doc.Warnings)
	c.term.KeyValues(
		"instance", doc.Instance+" ("+doc.Engine+", "+n8nText(doc.N8NVersion)+")",
		"tried", fmt.Sprintf("%s in %s on %s", Plural(int64(len(doc.Candidates)), "candidate"), Plural(doc.Tried, "form"), Plural(doc.Encrypted, "encrypted value")),
	)
	c.term.Line("")
	opened := map[string]api.FoundKey{}
	for _, k := range doc.Keys {
		opened[k.KeyFingerprint] = k
	}
	var rows [][]string
	for _, cand := range doc.Candidates {
		if len(cand.Keys) == 0 {
			rows = append(rows, []string{cand.Candidate, "0", "", "opens nothing"})
		}
		for _, form := range cand.Keys {
			k := opened[form.KeyFingerprint]
			rows = append(rows, []string{cand.Candidate, number(k.Opened), k.KeyFingerprint, roleText(k.Role) + stepsText(form.Steps)})
		}
	}
	c.term.Table([]string{"candidate!", "opens>", "key!", "what it is!"}, rows)
	for _, k := range doc.Keys {
		c.term.Line("")
		c.term.KeyValues("key", k.KeyFingerprint+", "+roleText(k.Role))
		var rows [][]string
		for _, p := range k.Places {
			if p.Opened+p.Failed > 0 {
				rows = append(rows, []string{p.Place, number(p.Opened), number(p.Failed)})
			}
		}
		c.term.Table([]string{"place!", "open>", "closed>"}, rows)
	}
	c.term.Line("")
	c.term.Line(doc.Verdict)
	if !failed { // else they are the hints of the error
		for _, n := range doc.Next {
			c.term.Line("- " + n)
		}
	}
}

func roleText(role string) string {
	switch role {
	case "instance_key":
		return "the instance key"
	case "older_data":
		return "opens older data"
	case "no_proof":
		return "opens what proves nothing"
	}
	return "opens nothing"
}

func stepsText(steps []string) string {
	if len(steps) == 0 {
		return ""
	}
	return ", " + strings.Join(steps, ", ")
}
