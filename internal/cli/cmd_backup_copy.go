package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
)

func (c *commands) backupCopyCmd() *cobra.Command {
	var o app.CopyOptions
	cmd := &cobra.Command{
		Use:   "copy ID --to TARGET | copy --all --to TARGET",
		Short: "Copy archives from one target to another, byte for byte",
		Long: `ID is an archive's id, the beginning of one, or "latest"; --all copies those
that the other target does not have. The bytes are compared with the signed
sidecar as they pass. No private key is needed. What is there already stays as
it is, so a copy that was interrupted can be run again.

Exit codes: 3 some of --all could not be copied, 13 damaged, or other data is
there under the same id, 16 signature forged or signer unknown.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.All {
				return noArgs(cmd, args)
			}
			return oneArg("the archive's id (or give --all)")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			if !o.All {
				c.archive.ID = args[0]
			}
			doc, err := a.BackupCopy(cmd.Context(), c.archive, o)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printCopied(doc) })
		},
	}
	c.archiveFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.To, "to", "", "`FOLDER` or address to copy to, or the name of a configured target")
	f.BoolVar(&o.All, "all", false, "copy every archive that is missing there")
	f.StringVar(&c.archive.Instance, "instance", "", "with \"latest\" and --all: this instance's `NAME`")
	return cmd
}

func (c *commands) printCopied(doc *api.Copied) {
	for _, d := range doc.Archives {
		line := d.ID + " " + d.Outcome
		switch d.Outcome {
		case "copied":
			line += ", " + HumanBytes(d.Size)
		case "there":
			line = d.ID + " is there already"
		case "failed":
			line += ": " + d.Problem
		}
		c.term.Line(line)
	}
	c.term.KeyValues("copied", fmt.Sprintf("%s (%s)", Plural(doc.Copied, "archive"), HumanBytes(doc.Bytes)), "from", doc.From, "to", doc.To, "took", seconds(doc.Seconds))
}
