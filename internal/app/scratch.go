package app

import (
	"context"
	"net/url"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/restore"
)

// BackupVerifyScratch is BackupVerify at level secrets that then loads the archive
// into a temporary database of the server that address names, proves it there, and
// drops it. The database of the address is only where to connect.
func (a *App) BackupVerifyScratch(ctx context.Context, o ArchiveOptions, io InstanceOptions, address string) (*api.Verified, error) {
	dsn, err := a.serverAddress("--scratch", address)
	if err != nil {
		return nil, err
	}
	arc, err := a.open(ctx, o)
	if err != nil {
		return nil, err
	}
	signed, err := backup.ReadSidecar(ctx, arc.store, arc.id, arc.trust)
	if err != nil {
		return nil, err
	}
	if signed.Sidecar.Engine != string(n8ndb.Postgres) {
		what := "holds no database"
		if signed.Sidecar.Engine == string(n8ndb.SQLite) {
			what = "holds an SQLite database"
		}
		return nil, problem.New(problem.Usage, "archive %q %s, and --scratch is for PostgreSQL", arc.id, what).
			WithHint("leave --scratch out: --level secrets opens everything that is in it")
	}
	s := &scratchRun{app: a, dsn: dsn, place: serverOf(dsn)}
	recovered, err := restore.CheckScratch(ctx, restore.ScratchConfig{DSN: dsn, Now: a.Now, Logger: a.Logger})
	if err != nil {
		return nil, err
	}
	if s.work, err = backup.OpenWork(a.WorkDir, a.Logger); err != nil {
		return nil, err
	}
	defer s.work.Close()
	if err := s.work.NeedToUnpack(signed.Sidecar.PlainSize); err != nil {
		return nil, err
	}
	doc, err := a.verifyIn(ctx, arc, o, io, backup.Secrets, s)
	if doc != nil {
		doc.Warnings = append(doc.Warnings, recovered...)
	}
	return doc, err
}

// scratchRun is the part of a verification that needs a server.
type scratchRun struct {
	app   *App
	dsn   string
	place string // the server, without password
	work  *backup.Work
}

// serverOf is a server for people: the address without password and database.
func serverOf(dsn string) string {
	if u, err := url.Parse(dsn); err == nil {
		u.Path, u.RawPath = "", ""
		dsn = u.String()
	}
	return (&instance{dsn: dsn}).place()
}

// verify is backup.Verify that leaves the dump in the work folder. Without a server
// it is that.
func (s *scratchRun) verify(ctx context.Context, cfg backup.VerifyConfig) (*backup.Verified, error) {
	if s == nil {
		return backup.Verify(ctx, cfg)
	}
	return backup.Unpack(ctx, cfg, s.work.Dir)
}

// prove loads what verify left.
func (s *scratchRun) prove(ctx context.Context, cfg backup.VerifyConfig, v *backup.Verified) error {
	if s == nil {
		return nil
	}
	return restore.Scratch(ctx, restore.ScratchConfig{Manifest: v.Manifest, Dir: s.work.Dir, DSN: s.dsn, Now: s.app.Now, Logger: s.app.Logger,
		Load: func(ctx context.Context, dsn, dir string, m archive.Manifest) error {
			return s.app.load(ctx, dsn, dir, cfg.Programs, m)
		},
		Prove: func(ctx context.Context, dsn string, _ archive.Manifest) error {
			return backup.ProvePostgres(ctx, cfg, v, dsn)
		}})
}

// detail adds the server to what the audit log says of the command.
func (s *scratchRun) detail(d map[string]any) map[string]any {
	if s != nil {
		d["scratch"] = s.place
	}
	return d
}

func (s *scratchRun) server() string {
	if s == nil {
		return ""
	}
	return s.place
}
