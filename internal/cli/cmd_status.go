package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
)

func (c *commands) statusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show instances, their keys and last good backups",
		Long: `Looks at what n8keep knows on this host: its instances, their keys and last good
backups, and its signer. Nothing is decrypted. Problems are
listed; the exit code is 0 when the question could be answered.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			doc, err := a.Status(cmd.Context())
			if err != nil {
				return err
			}
			for _, in := range a.Instances(c.instance) {
				s, err := a.InstanceStatus(cmd.Context(), in, c.archive)
				if err != nil {
					doc.Warnings = append(doc.Warnings, err.Error())
					continue
				}
				doc.Instances = append(doc.Instances, *s)
			}
			return c.finish(doc, nil, nil, func() { c.printStatus(doc) })
		},
	}
	c.instanceFlags(cmd)
	c.archiveFlags(cmd)
	return cmd
}

func (c *commands) printStatus(doc *api.Status) {
	c.warn(doc.Warnings)
	config, signer := doc.Config, doc.Signer
	if config == "" {
		config = "none"
	}
	if signer == "" {
		signer = "none yet: the first backup makes it"
	}
	c.term.KeyValues("n8keep", doc.Version, "config", config, "state", doc.StateDir, "signer", signer, "public key", doc.SignerKey)
	for _, in := range doc.Instances {
		c.term.Line("")
		last := "none"
		if in.LastGood != nil {
			last = in.LastGood.ID + ", " + HumanAge(time.Duration(in.AgeSeconds)*time.Second) + " ago"
		}
		key := in.KeyFingerprint
		if in.KeySource != nil {
			key += " from " + keySourceText(*in.KeySource)
		}
		c.term.KeyValues("instance", in.Instance, "database", in.Database, "n8n", in.N8NVersion, "key", key,
			"target", in.Target, "archives", fmt.Sprint(in.Archives), "last good", last)
		for _, p := range in.Problems {
			c.term.KeyValues("problem", p)
		}
	}
}
