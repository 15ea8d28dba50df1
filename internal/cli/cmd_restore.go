package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/app"
	"github.com/n8keep/n8keep/internal/problem"
)

func (c *commands) restoreCmd() *cobra.Command {
	var o app.RestoreOptions
	cmd := &cobra.Command{
		Use:   "restore ID --to FOLDER|ADDRESS",
		Short: "Put an archive back, after proving all of it",
		Long: `ID is an archive's id, the beginning of one, or "latest".

Everything is decrypted and proved beside the target before the target is
touched. A folder that holds a database is replaced only with --overwrite, and a
copy of the old database stays beside it. When anything fails, the old state is
put back. n8n must be stopped.

An archive of a PostgreSQL database goes to a server: --to
postgres://USER@HOST:5432/DATABASE. It is loaded under a name of its own, proved
there, and gets the name last. A database that holds an n8n is replaced only
with --overwrite, and kept under another name. The password is looked for in
DB_POSTGRESDB_PASSWORD, PGPASSWORD and the file that PGPASSFILE names.

Exit codes: 2 the target is not empty, 11 n8n is attached, 12 wrong instance
key, 13 damaged, 15 no identity opens it, 16 signature forged or signer unknown.`,
		Args: oneArg("the archive's id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := c.app()
			if err != nil {
				return err
			}
			c.archive.ID = args[0]
			if o.To == "" {
				return problem.New(problem.Usage, "no folder to restore to").WithHint("give n8n's folder with --to DIR, or a server with --to postgres://USER@HOST:5432/DATABASE")
			}
			if err := c.identities(); err != nil {
				return err
			}
			doc, err := a.Restore(cmd.Context(), c.archive, c.instance, o)
			if doc == nil {
				return err
			}
			return c.finish(doc, err, func(e *api.Error) { doc.Error = e }, func() { c.printRestore(doc) })
		},
	}
	c.archiveFlags(cmd)
	c.identityFlag(cmd)
	c.keyFlag(cmd)
	c.retiredFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&o.To, "to", "", "the n8n `FOLDER` to restore to, made when missing; or the address of a PostgreSQL database")
	f.StringVar(&o.AdminDatabase, "admin-database", "", "PostgreSQL: the `ADDRESS` of a login that may create databases")
	f.StringVar(&o.FilesTo, "files-to", "", "PostgreSQL: n8n's `FOLDER`, for the files of the archive and the config with the key")
	f.StringVar(&o.PgBin, "pg-bin", "", "PostgreSQL: the `FOLDER` with pg_restore")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace the database that is there, keeping a copy of it")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be done, and check all that can be checked, without writing")
	f.BoolVar(&o.NoConfig, "no-config", false, "do not write n8n's config file with the key")
	f.BoolVar(&o.AssumeStopped, "assume-stopped", false, "go on where it cannot be seen whether n8n runs")
	f.StringVar(&o.Owner, "owner", "", "`UID:GID` of the restored files (default that of the folder)")
	f.StringVar(&o.HealthURL, "health-url", "", "n8n's health `URL`, to see whether it runs")
	f.StringVar(&c.archive.Instance, "instance", "", "with \"latest\": this instance's `NAME`")
	return cmd
}

func (c *commands) printRestore(doc *api.Restore) {
	c.warn(doc.Warnings)
	if doc.DryRun {
		c.term.Line("would restore " + doc.ID + " to " + doc.Target + ":")
	} else {
		c.term.Line("restored " + doc.ID + " to " + doc.Target + ":")
	}
	for i, s := range doc.Steps {
		c.term.Line(fmt.Sprintf("%3d. %s", i+1, s))
	}
	c.printFindings(doc.Findings)
	c.printFailures(doc.Failures)
	if doc.DryRun {
		return
	}
	c.term.KeyValues("database", doc.Database, "secrets", fmt.Sprintf("%d open, each with the digest it had", doc.SecretsOpened), "took", seconds(doc.Seconds))
	if doc.SetBeforeStart != "" {
		c.term.KeyValues("before n8n starts", doc.SetBeforeStart)
	}
	if doc.SafetyFolder != "" {
		c.term.KeyValues("old files", doc.SafetyFolder+" (delete it when n8n works)")
	}
	switch {
	case doc.DropWith != "":
		c.term.KeyValues("old database", doc.SafetyCopy+" (when n8n works: "+doc.DropWith+")")
	case doc.SafetyCopy != "":
		c.term.KeyValues("old database", doc.SafetyCopy+" (delete it when n8n works)")
	}
}
