package cli

import (
	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

func (c *commands) initCmd() *cobra.Command {
	var o app.InitOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write n8keep.yaml and make what a first backup needs",
		Long: `Writes a configuration for one n8n and makes the key that signs its archives.

The identity that opens archives should not be on the host that makes them. Make
it elsewhere with age-keygen and give its public key with --recipient. Without
--recipient an identity is made here: --identity-out writes it to a file, else
it is shown once on the terminal and kept nowhere.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			o.Instance = c.instance
			if len(o.Recipients) == 0 && o.IdentityOut == "" && (!c.term.OutTTY || c.term.JSON) {
				return problem.New(problem.Usage, "no recipient, and no terminal to show a new identity on").
					WithHint("give a public key with --recipient age1..., or let a new identity be written with --identity-out FILE")
			}
			doc, identity, err := a.Init(cmd.Context(), o)
			if err != nil {
				return err
			}
			return c.finish(doc, nil, nil, func() {
				c.warn(doc.Warnings)
				c.term.KeyValues("config", doc.Config, "recipient", doc.Recipient, "signer", doc.Signer, "public key", doc.SignerKey)
				if doc.IdentityOut != "" {
					c.term.KeyValues("identity", doc.IdentityOut)
				}
				if !identity.IsZero() && doc.IdentityOut == "" {
					c.term.Line("")
					c.term.Line("This identity opens your archives. It is kept nowhere: store it now, not on this host.")
					c.term.Line("")
					c.term.Line(identity.Reveal())
				}
				c.term.Line("")
				for _, n := range doc.Next {
					c.term.Line(n)
				}
			})
		},
	}
	c.instanceFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Target, "target", "", "`FOLDER` for the archives")
	f.StringArrayVarP(&o.Recipients, "recipient", "r", nil, "age public `KEY` that archives are encrypted to, age1... (repeatable)")
	f.StringVar(&o.IdentityOut, "identity-out", "", "make an identity and write it to this `FILE` (0600)")
	f.BoolVar(&o.PostQuantum, "post-quantum", false, "make a hybrid post-quantum identity; only age 1.3 and later read its archives")
	f.StringVar(&o.Out, "out", "", "`FILE` to write (default n8keep.yaml in the configuration folder)")
	return cmd
}
