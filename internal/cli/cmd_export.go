package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
)

func (c *commands) exportCmd() *cobra.Command {
	var o app.ExportOptions
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write workflows as files for Git, credentials as an encrypted file",
		Long: `With --workflows: one JSON file per workflow, as n8n imports it, in a tree of
projects and folders that changes only where somebody edited something. Files of
workflows that are gone are removed; what n8keep did not write is not touched.

With --credentials: every credential, decrypted, in a file that is encrypted to
age recipients; once opened with age it is what n8n's import:credentials takes.

Exit codes: 0 done, 2 something is in the way, 3 some were left out,
12 the key opens no credential.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			doc, err := a.Export(cmd.Context(), c.instance, o)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printExport(doc) })
		},
	}
	c.instanceFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Workflows, "workflows", "", "write the workflows as files below this `FOLDER`")
	f.BoolVar(&o.Credentials, "credentials", false, "write the credentials, encrypted")
	f.StringVar(&o.Out, "out", "", "`FILE` for the credentials, which must not exist")
	f.StringArrayVarP(&o.Recipients, "recipient", "r", nil, "encrypt the credentials to this age public `KEY`, age1... (repeatable)")
	f.StringArrayVar(&o.RecipientFiles, "recipient-file", nil, "encrypt the credentials to the public keys in this `FILE` (repeatable)")
	return cmd
}

func (c *commands) printExport(doc *api.Export) {
	c.warn(doc.Warnings)
	pairs := []string{"instance", doc.Instance}
	if w := doc.Workflows; w != nil {
		pairs = append(pairs, "workflows", fmt.Sprintf("%d in %s: %d new, %d changed, %d unchanged, %d removed", w.Workflows, w.Dir, w.New, w.Changed, w.Unchanged, w.Removed))
	}
	if s := doc.Credentials; s != nil {
		pairs = append(pairs, "credentials", fmt.Sprintf("%d in %s, encrypted (%s)", s.Credentials, s.File, s.RecipientKind))
	}
	c.term.KeyValues(append(pairs, "took", seconds(doc.Seconds))...)
	if s := doc.Credentials; s != nil {
		c.printFailures(s.Failures)
	}
}
