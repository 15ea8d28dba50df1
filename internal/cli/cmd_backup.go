package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/problem"
)

func (c *commands) backupCmd() *cobra.Command {
	return group("backup", "Take, list, show, verify, copy and prune backups",
		c.backupCreateCmd(), c.backupListCmd(), c.backupShowCmd(), c.backupVerifyCmd(), c.backupCopyCmd(), c.backupPruneCmd())
}

func (c *commands) backupCreateCmd() *cobra.Command {
	var o app.BackupOptions
	redact := true
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Take an encrypted, signed backup and prove every secret in it",
		Long: `Copies the database in one step while n8n runs, checks the copy, opens every
secret in it with the instance key, and streams it, encrypted to the recipients,
to the target. The instance key is never in the archive.

Exit codes: 0 good, 3 kept but degraded, 12 the key opens nothing (no archive).`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			o.KeepSecrets = !redact
			doc, err := a.BackupCreate(cmd.Context(), c.instance, o)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printBackup(doc) })
		},
	}
	c.instanceFlags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&o.Targets, "target", nil, "`FOLDER` or address to write to, or the name of a configured target (repeatable)")
	f.StringArrayVarP(&o.Recipients, "recipient", "r", nil, "encrypt to this age public `KEY`, age1... (repeatable)")
	f.StringArrayVar(&o.RecipientFiles, "recipient-file", nil, "encrypt to the public keys in this `FILE` (repeatable)")
	f.StringVar(&o.History, "history", "", "finished executions to keep: all, none, or a `DURATION` such as 30d (default all)")
	f.BoolVar(&o.DropWaiting, "drop-waiting", false, "with --history none or a duration: leave out waiting executions, too")
	f.BoolVar(&o.Binary, "binary-data", false, "include the binary data in n8n's folder")
	f.StringArrayVar(&o.DeploymentFiles, "deployment-file", nil, "include this compose, env or manifest `FILE` (repeatable)")
	f.BoolVar(&redact, "redact", true, "replace secret values in deployment files by fingerprints")
	f.BoolVar(&o.Unproved, "unproved", false, "keep a backup even when the key opens no secret in it")
	f.StringVar(&o.Only, "only", "", "archive only this `PART`: workflows")
	f.StringVar(&o.Engine, "engine", "", "PostgreSQL: dump with auto, pg_dump or native (`ENGINE`, default auto)")
	f.StringVar(&o.PgBin, "pg-bin", "", "PostgreSQL: `FOLDER` with pg_dump and pg_restore")
	f.BoolVar(&o.FromReplica, "from-replica", false, "PostgreSQL: allow a standby as the source")
	f.DurationVar(&o.YieldAfter, "yield-after", 0, "PostgreSQL: give way when somebody waits for us for this `TIME` (default 30s)")
	f.BoolVar(&o.WholeDatabase, "whole-database", false, "PostgreSQL: also archive what is not n8n's")
	f.StringVar(&o.WhenRunning, "when-running", "", "while n8n executes something: continue, wait or fail (`WHAT`, default continue)")
	f.DurationVar(&o.WaitLimit, "wait-limit", 0, "with --when-running wait: for at most this `TIME` (default 10m)")
	f.StringVar(&o.APIURL, "api-url", "", "`URL` of n8n's public API, asked what is running")
	f.StringVar(&o.APIKeyFile, "api-key-file", "", "`FILE` with a key of n8n's public API")
	return cmd
}

func (c *commands) printBackup(doc *api.Backup) {
	c.warn(doc.Warnings)
	proved := fmt.Sprintf("%d of %d open", doc.SecretsOpened, doc.SecretsOpened+doc.SecretsFailed)
	lines := []string{
		"backup", doc.ID,
		"state", doc.State,
		"instance", doc.Instance + " (" + doc.Engine + ", " + n8nText(doc.N8NVersion) + ")",
	}
	if doc.Engine != backup.EngineWorkflows {
		lines = append(lines, "secrets", proved)
	}
	lines = append(lines,
		"workflows", number(doc.Workflows),
		"key", doc.KeyFingerprint+" from "+keySourceText(doc.KeySource),
		"size", HumanBytes(doc.Size),
		"took", seconds(doc.Seconds))
	for _, t := range doc.Targets {
		if t.Problem != "" {
			t.Target += ": not stored"
		}
		lines = append(lines, "target", t.Target)
	}
	for _, n := range doc.Notes {
		lines = append(lines, "note", n)
	}
	c.term.KeyValues(lines...)
	c.printFindings(doc.Findings)
	c.printFailures(doc.Failures)
}

func (c *commands) printFindings(findings []api.Finding) {
	for _, f := range findings {
		c.term.KeyValues("finding", strings.TrimSpace(f.Place+" "+f.Detail))
	}
}

func (c *commands) backupShowCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one archive; with --identity also what is inside",
		Long:  "ID is an archive's id, the beginning of one, or \"latest\".",
		Args:  oneArg("the archive's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			c.archive.ID = args[0]
			if len(c.ids) > 0 {
				if err := c.identities(); err != nil {
					return err
				}
			}
			doc, err := a.BackupShow(cmd.Context(), c.archive)
			if err != nil {
				return err
			}
			return c.finish(doc, nil, nil, func() { c.printShown(doc) })
		},
	}
	c.archiveFlags(cmd)
	c.identityFlag(cmd)
	cmd.Flags().StringVar(&c.archive.Instance, "instance", "", "with \"latest\": this instance's `NAME`")
	return cmd
}

func (c *commands) printShown(doc *api.Shown) {
	c.warn(doc.Warnings)
	c.term.KeyValues(
		"archive", doc.ID,
		"state", doc.State,
		"time", doc.Time.UTC().Format(time.RFC3339),
		"instance", doc.Instance+" ("+doc.Engine+", "+n8nText(doc.N8NVersion)+")",
		"last migration", doc.LastMigration,
		"secrets", fmt.Sprintf("%d of %d opened", doc.SecretsOpened, doc.SecretsOpened+doc.SecretsFailed),
		"workflows", number(doc.Workflows),
		"history", doc.History,
		"key", doc.KeyFingerprint,
		"recipients", doc.RecipientKind,
		"signer", doc.Signer,
		"size", HumanBytes(doc.Size),
		"sha256", doc.SHA256,
	)
	c.printFindings(doc.Findings)
	var rows [][]string
	for _, e := range doc.Entries {
		rows = append(rows, []string{e.Name, HumanBytes(e.Size)})
	}
	if len(rows) > 0 {
		c.term.Line("")
		c.term.Table([]string{"entry!", "size>"}, rows)
	}
}

func (c *commands) backupVerifyCmd() *cobra.Command {
	var level, sample, scratch string
	cmd := &cobra.Command{
		Use:   "verify ID | --sample SIZE",
		Short: "Verify archives: stored bytes, contents, or every secret",
		Long: `ID is an archive's id, the beginning of one, or "latest".

quick    signature, signer, and checksum of the stored bytes; no private key
full     also decrypts it, reads every entry, and checks the database
secrets  also opens every secret and compares it with what was proved

With --sample some archives are verified, those first that were not looked at
for the longest time; archives of another key than the one given at level full.

With --scratch an archive of a PostgreSQL database is also loaded into a
temporary database of that server, proved there, and the database is dropped.

Exit codes: 0 sound, 4 sound but degraded, or sound but altered in the target,
12 wrong instance key, 13 damaged, 15 no identity opens it, 16 signature forged
or signer unknown. With --sample it is that of the worst archive, and 12 when
the key fits none of them, or not the newest archive.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if sample != "" {
				return noArgs(cmd, args)
			}
			return oneArg("the archive's id (or give --sample)")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			lvl, err := backup.ParseLevel(level)
			if err != nil {
				return err
			}
			switch {
			case scratch != "" && sample != "":
				return problem.New(problem.Usage, "--scratch is for one archive, not for --sample").WithHint("give the archive's id: n8keep backup verify ID --level secrets --scratch postgres://USER@HOST:5432/DATABASE")
			case scratch != "" && lvl != backup.Secrets:
				return problem.New(problem.Usage, "--scratch proves every secret on the server, and --level is %s", lvl).WithHint("add --level secrets")
			}
			a, err := c.app()
			if err != nil {
				return err
			}
			if lvl > backup.Quick {
				if err := c.identities(); err != nil {
					return err
				}
			}
			if sample != "" {
				return c.verifySample(cmd, a, sample, lvl)
			}
			c.archive.ID = args[0]
			var doc *api.Verified
			if scratch != "" {
				doc, err = a.BackupVerifyScratch(cmd.Context(), c.archive, c.instance, scratch)
			} else {
				doc, err = a.BackupVerify(cmd.Context(), c.archive, c.instance, lvl)
			}
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printVerified(doc) })
		},
	}
	c.archiveFlags(cmd)
	c.identityFlag(cmd)
	c.keyFlag(cmd)
	c.retiredFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&level, "level", "quick", "how deep: quick, full or secrets")
	f.StringVar(&sample, "sample", "", "verify this `SIZE` of the target instead of one archive: a number, or a share such as 5%")
	f.StringVar(&scratch, "scratch", "", "PostgreSQL: also load it into a temporary database of the server at this `ADDRESS`, and prove it there")
	f.StringVar(&c.archive.Instance, "instance", "", "with \"latest\" and --sample: this instance's `NAME`")
	f.StringVar(&c.instance.N8NDir, "n8n-dir", "", "n8n's `FOLDER`, to find the instance key in")
	return cmd
}

func (c *commands) printVerified(doc *api.Verified) {
	c.warn(doc.Warnings)
	pairs := []string{"archive", doc.ID, "level", doc.Level, "state", doc.State, "signer", doc.Signer, "size", HumanBytes(doc.Size)}
	if doc.Entries > 0 {
		pairs = append(pairs, "entries", fmt.Sprintf("all %d as in the manifest", doc.Entries))
	}
	if doc.Level == "secrets" {
		pairs = append(pairs, "secrets", fmt.Sprintf("%d open, each with the digest it had", doc.SecretsOpened))
	}
	if doc.Scratch != "" {
		pairs = append(pairs, "scratch", "loaded and proved on "+doc.Scratch+", and dropped")
	}
	c.term.KeyValues(append(pairs, "took", seconds(doc.Seconds))...)
	c.printFindings(doc.Findings)
	c.printFailures(doc.Failures)
}

func seconds(s float64) string {
	return (time.Duration(s * float64(time.Second))).Round(time.Millisecond).String()
}
