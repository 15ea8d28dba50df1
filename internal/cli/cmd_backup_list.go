package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/backup"
)

func (c *commands) backupListCmd() *cobra.Command {
	var targets []string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the archives of one or several targets, newest first",
		Long: `Lists archives by what their signed sidecars say, and what was verified here.
With several targets, an archive stands once, with the targets it is missing on.
Without --target these are all targets of the configuration.

Exit codes: 3 some of several targets could not be listed; why stands on stderr,
with --json too, and the array has what the others hold.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			docs, err := a.BackupList(cmd.Context(), c.archive, targets)
			if docs == nil {
				return err
			}
			err = errors.Join(c.finish(docs, nil, nil, func() { c.printList(docs) }), err)
			c.term.JSON = false // an array has no place for the error: it is on stderr
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&targets, "target", nil, "`FOLDER` or address of the archives, or the name of a configured target (repeatable)")
	c.signerFlags(cmd)
	f.StringVar(&c.archive.Instance, "instance", "", "only this instance's `NAME`")
	return cmd
}

func (c *commands) printList(docs []api.Archive) {
	if len(docs) == 0 {
		c.term.Line("no archives")
		return
	}
	several := false
	var rows [][]string
	for _, d := range docs {
		state := d.State
		if d.Problem == "" && !d.Trusted || d.Problem != "" && state == "good" {
			state += " (?)"
		}
		row := []string{d.ID, HumanAge(c.Now().Sub(d.Time)), state, c.verifiedText(d), HumanBytes(d.Size), d.N8NVersion}
		if len(d.Copies) > 1 {
			several = true
			row = append(row, copiesText(d))
		}
		rows = append(rows, row)
	}
	headers := []string{"archive!", "age>", "state", "verified!", "size>", "n8n"}
	if several {
		headers = append(headers, "targets!")
	}
	c.term.Table(headers, rows)
	c.printListNotes(docs)
}

// verifiedText is the latest verification of any copy.
func (c *commands) verifiedText(d api.Archive) string {
	if !d.Trusted {
		return ""
	}
	var last *api.Verification
	for _, p := range d.Copies {
		if v := p.Verified; v != nil && v.Sound && (last == nil || v.Time.After(last.Time)) {
			last = v
		}
	}
	if last == nil {
		return "unverified"
	}
	return last.Level + " " + HumanAge(c.Now().Sub(last.Time))
}

func copiesText(d api.Archive) string {
	var missing []string
	there := 0
	for _, p := range d.Copies {
		switch p.State {
		case "missing":
			missing = append(missing, p.Target)
		case "unreachable":
		default:
			there++
		}
	}
	text := fmt.Sprintf("%d of %d", there, len(d.Copies))
	if len(missing) > 0 {
		text += ", missing on " + strings.Join(missing, ", ")
	}
	return text
}

// printListNotes says what the table has no room for. What is the same for many
// archives, as for all that were copied, is said once.
func (c *commands) printListNotes(docs []api.Archive) {
	differ := 0
	unreachable := []string{}
	for _, d := range docs {
		for _, p := range d.Copies {
			where := ""
			if len(d.Copies) > 1 {
				where = " in " + p.Target
			}
			switch {
			case p.State == "unreachable":
				if !slices.Contains(unreachable, p.Target) {
					unreachable = append(unreachable, p.Target)
					c.term.Line(p.Target + ": " + p.Problem)
				}
			case p.Problem != "":
				c.term.Line(d.ID + where + ": " + p.Problem)
			}
			for _, f := range p.Findings {
				if f.Code == backup.FoundTimeDiffers {
					differ++
					continue
				}
				c.term.Line(d.ID + where + ": " + strings.ReplaceAll(f.Code, "_", " ") + ": " + f.Detail)
			}
		}
	}
	if differ > 0 {
		c.term.Line(fmt.Sprintf("%s stored more than an hour before or after their own time: copied, or a clock was wrong (see --json)", Plural(int64(differ), "archive")))
	}
}
