package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/blob"
)

func (c *commands) targetCmd() *cobra.Command {
	return group("target", "See what an identity may do where archives are kept", c.targetCheckCmd(), c.targetPolicyCmd())
}

func roleFlag(cmd *cobra.Command, role *string) {
	cmd.Flags().StringVar(role, "role", string(blob.Writer), "what the identity is for: `writer`, restorer or pruner")
}

func (c *commands) targetCheckCmd() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "check TARGET",
		Short: "Try out what this host's identity may do at a target",
		Long: `Puts a small canary object into a target and tries to get, list, overwrite,
delete and hide it, and to shorten its retention. It touches no other object.
What it cannot remove again it names. Exit codes: 0 the identity fits its role,
4 it can do more, or less, 14 the target was not reached.`,
		Args: oneArg("a folder, an address such as s3://bucket/prefix, or the name of a configured target"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			doc, err := a.TargetCheck(cmd.Context(), args[0], role)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printTrials(doc) })
		},
	}
	roleFlag(cmd, &role)
	return cmd
}

func (c *commands) printTrials(doc *api.TargetCheck) {
	should := map[string]string{string(blob.Required): "must", string(blob.Harmless): "may", string(blob.Excess): "must not"}
	c.term.KeyValues("target", doc.Target)
	var rows [][]string
	for _, t := range doc.Trials {
		answer := t.Answer
		if t.Answer == string(blob.NotApplicable) {
			answer = "-"
		}
		verdict := ""
		if t.Wrong {
			verdict = "wrong"
		}
		rows = append(rows, []string{t.Capability, answer, should[t.Need], verdict})
	}
	c.term.Table([]string{"capability!", "this identity!", "a " + doc.Role + "!", "!"}, rows)
	for _, t := range doc.Trials {
		c.term.KeyValues(t.Capability, t.Detail)
	}
	if doc.Fits {
		c.term.KeyValues("result", "the identity fits a "+doc.Role)
	}
}

func (c *commands) targetPolicyCmd() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "policy TARGET",
		Short: "Print the least that an identity needs at a target",
		Long: `Prints what to give to an identity of a role, in the target's own language:
IAM policies for S3, roles and conditions for Google Cloud Storage and Azure,
a section of sshd_config for SFTP. Nothing is asked of the target.`,
		Args: oneArg("a folder, an address such as s3://bucket/prefix, or the name of a configured target"),
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			doc, err := a.TargetPolicy(args[0], role)
			if err != nil {
				return err
			}
			return c.finish(doc, nil, nil, func() {
				for line := range strings.Lines(doc.Policy) {
					c.term.Line(strings.TrimSuffix(line, "\n"))
				}
			})
		},
	}
	roleFlag(cmd, &role)
	return cmd
}
