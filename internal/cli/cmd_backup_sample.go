package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/backup"
)

func (c *commands) verifySample(cmd *cobra.Command, a *app.App, sample string, level backup.Level) error {
	doc, err := a.BackupSample(cmd.Context(), c.archive, c.instance, sample, level)
	if doc == nil {
		return err
	}
	return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printSampled(doc) })
}

// printSampled prints one line per archive, for the mail that a schedule sends.
func (c *commands) printSampled(doc *api.Sampled) {
	c.warn(doc.Warnings)
	for _, d := range doc.Archives {
		line := fmt.Sprintf("%s %s at level %s in %s", d.ID, d.Outcome, d.Level, seconds(d.Seconds))
		if d.Problem != "" {
			line += ": " + d.Problem
		}
		c.term.Line(line)
	}
	c.term.KeyValues("sound", fmt.Sprintf("%d of %d verified; the target has %s", doc.Sound, len(doc.Archives), Plural(int64(doc.Total), "archive")), "took", seconds(doc.Seconds))
}
