package cli

import (
	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/app"
)

func (c *commands) demoCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the whole story on a sample database, in under a minute",
		Long: `Takes a database that a real n8n 2.41 wrote, in a temporary folder, and shows a
census, a backup, a damaged archive caught, a wrong key refused, a restore, and
every secret proved equal. Nothing of yours is read or changed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := app.DemoOptions{Version: c.Version, Say: func(s string) {
				if !c.term.JSON {
					c.term.Line(s)
				}
			}}
			doc, err := app.Demo(cmd.Context(), o)
			if err != nil {
				return err
			}
			return c.finish(doc, nil, nil, func() {})
		},
	}
}
