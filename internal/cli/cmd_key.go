package cli

import (
	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

func (c *commands) keyCmd() *cobra.Command {
	return group("key", "Make, recognise and check instance keys", c.keyGenerateCmd(), c.keyFingerprintCmd(), c.keyCheckCmd(), c.keyFindCmd())
}

func (c *commands) keyGenerateCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "generate --out FILE",
		Short: "Make a new instance key in a file: 32 random bytes as hex",
		Long: `Writes a new N8N_ENCRYPTION_KEY to a file (0600, 64 hex characters, no newline).
It is for a new n8n: one that has credentials cannot read them with a new key.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if out == "" {
				return problem.New(problem.Usage, "no file to write the key to").WithHint("give one with --out FILE; a key is never printed")
			}
			doc, err := app.KeyGenerate(out)
			if err != nil {
				return err
			}
			return c.finish(doc, nil, nil, func() {
				c.term.KeyValues("key", out, "fingerprint", doc.Fingerprint)
				c.term.Line("keep a copy where this host's backups are not; without it they are worth nothing")
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`FILE` to write, which must not exist")
	return cmd
}

func (c *commands) keyFingerprintCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fingerprint",
		Short: "Show which key is in use, without showing the key",
		Long: `Finds the instance key as n8n would (or reads --key-file) and prints its
fingerprint, n8k1-..., which is the same on every host and in every archive.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			doc, err := a.KeyFingerprint(cmd.Context(), c.instance)
			if err != nil {
				return err
			}
			return c.finish(doc, nil, nil, func() {
				c.warn(doc.Warnings)
				c.term.KeyValues("fingerprint", doc.Fingerprint, "from", keySourceText(*doc.KeySource))
				c.printOthers(doc.OtherSources)
			})
		},
	}
	c.instanceFlags(cmd)
	return cmd
}

func (c *commands) printOthers(others []api.KeySource) {
	for _, o := range others {
		same := "another key"
		if o.Same != nil && *o.Same {
			same = "the same key"
		}
		c.term.KeyValues("also", keySourceText(o)+": "+same)
	}
}

func (c *commands) keyCheckCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether a key opens an n8n's secrets",
		Long: `Tries the instance key on every encrypted value of the live database and sums
up. Exit codes: 0 every value opens, 4 some do not, 12 none does.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			doc, err := a.Census(cmd.Context(), "key check", c.instance, app.CensusOptions{NoSweep: true})
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() {
				c.warn(doc.Warnings)
				c.term.KeyValues("key", doc.KeyFingerprint+" from "+keySourceText(doc.KeySource))
				c.printOthers(doc.OtherSources)
				c.term.KeyValues("result", doc.Verdict)
			})
		},
	}
	c.instanceFlags(cmd)
	return cmd
}
