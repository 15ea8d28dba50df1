package pgserver

import (
	"cmp"
	"context"
	"errors"

	"github.com/n8keep/n8keep/internal/problem"
)

const infixScratch = "_verify"

// OpenScratch is OpenTarget for a database that is only looked at and then
// dropped: nothing takes anything's place. cfg.DSN names where to connect, which
// stays as it is; AdminDSN is not used. It refuses a standby, and a role that may
// not create databases. Busy while another verification is connected there.
func OpenScratch(ctx context.Context, cfg DestConfig) (*Target, error) {
	c, err := parse(cfg.DSN)
	if err != nil {
		return nil, err
	}
	entry := cmp.Or(c.Database, c.User)
	cfg.AdminDSN = cfg.DSN
	if cfg.DSN, err = WithDatabase(cfg.DSN, affixed(entry, infixScratch)); err != nil {
		return nil, err
	}
	t, err := newTarget(ctx, cfg)
	if err != nil {
		return nil, err
	}
	// The lock counts in the database of the session only: the mark, the comment
	// and the name all say which that is.
	t.scratch = entry
	if err = t.mayCreate(ctx); err == nil {
		err = t.lock(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Target) mayCreate(ctx context.Context) error {
	s, err := serverOf(ctx, t.admin)
	if err != nil {
		return err
	}
	if s.Replica {
		return problem.New(problem.Usage, "the server %s is a standby, which cannot be written to", s.Host).WithHint("name a server for trying things out, or its primary")
	}
	var may bool
	if err := t.admin.QueryRow(ctx, `SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user`).Scan(&may); err != nil {
		return explain(ctx, err, "asking whether %q may create databases", s.User)
	}
	if !may {
		return problem.New(problem.Usage, "role %q may not create databases, and the archive is loaded into a temporary one", s.User).
			WithHint("allow it: ALTER ROLE %s CREATEDB", quote(s.User)).
			WithHint("or name a login that may, best on a server for trying things out")
	}
	return nil
}

// CreateScratch makes an empty database in UTF-8 that belongs to this login. It is
// to be removed with Drop; else Recover of the next [OpenScratch] does it.
func (t *Target) CreateScratch(ctx context.Context, id string) (*Temporary, error) {
	s, err := serverOf(ctx, t.admin)
	if err != nil {
		return nil, err
	}
	return t.Create(ctx, Dest{Name: t.name, Login: s.User, Server: s}, id)
}

// purpose is what the database is for, in words.
func (t *Target) purpose() string {
	if t.scratch != "" {
		return "verification"
	}
	return "restore"
}
