package cli

import (
	"runtime"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/n8ndb"
)

func (c *commands) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			doc := &api.Version{Version: c.Version, Go: runtime.Version(), Newest: n8ndb.NewestKnown, Format: archive.FormatVersion}
			return c.finish(doc, nil, nil, func() {
				c.term.Line("n8keep " + doc.Version + " (" + doc.Go + "), knows n8n up to " + doc.Newest)
			})
		},
	}
}
