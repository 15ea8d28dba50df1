package app

import (
	"context"
	"net/url"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/rotate"
)

// namedDatabase is what a command that changes a database knows it by. The journal of a
// rotation of another database has neither name.
type namedDatabase struct {
	// at is where it is: the real path of a file, or an address without user, password
	// and parameters.
	at string
	// same is what its server, or the file system, calls it, however it is reached; ""
	// when that is not known, with doubt saying why.
	same, doubt string
	// whole says that all schemas of it are meant.
	whole bool

	path                string
	dsn, schema, prefix string
}

func namedFile(path string) *namedDatabase { return &namedDatabase{at: realPath(path), path: path} }

// namedServer is a database of a server with everything in it.
func namedServer(dsn string) *namedDatabase {
	return &namedDatabase{at: postgresLocation(dsn), dsn: dsn, whole: true}
}

func (in *instance) named() *namedDatabase {
	if in.dsn == "" {
		return namedFile(in.database)
	}
	return &namedDatabase{at: in.identity(), dsn: in.dsn, schema: in.schema, prefix: in.prefix}
}

// recognise finds out the other name. A database that is not there has none.
func (d *namedDatabase) recognise(ctx context.Context) (err error) {
	if d.dsn == "" {
		d.same, err = n8ndb.NameFile(d.path)
		return err
	}
	d.same, d.doubt, err = n8ndb.NamePostgres(ctx, d.dsn, "n8keep")
	if problem.KindOf(err) == problem.NotFound {
		return nil
	}
	if d.same != "" && !d.whole {
		d.same = inSchema(d.same, d.schema, d.prefix)
	}
	return err
}

// doubts is the warning that goes with it.
func (d *namedDatabase) doubts() []string {
	if d.doubt == "" {
		return nil
	}
	return []string{d.doubt}
}

// is reports whether a rotation is of this database.
func (d *namedDatabase) is(j *rotate.Journal) bool {
	if !d.whole {
		return j.Is(d.at, d.same)
	}
	names := lockedDatabases([]string{d.at, d.same})
	for _, name := range lockedDatabases([]string{j.Database, j.SameDatabase}) {
		for _, mine := range names {
			if name == mine {
				return true
			}
		}
	}
	return false
}

// inSchema adds schema and prefix to the name of a database, as far as they are not n8n's
// defaults.
func inSchema(name, schema, prefix string) string {
	more := url.Values{}
	if schema != "" && schema != "public" {
		more.Set("schema", schema)
	}
	if prefix != "" {
		more.Set("prefix", prefix)
	}
	if len(more) > 0 {
		name += "?" + more.Encode()
	}
	return name
}

// changing is the instance of a command that changes its database unless dryRun says
// otherwise: until unlock nobody else does, and no rotation of it is open.
func (a *App) changing(ctx context.Context, io InstanceOptions, dryRun bool) (in *instance, unlock func(), err error) {
	if in, err = a.instance(io); err != nil {
		return nil, nil, err
	}
	in.known = in.named()
	unlock, err = a.lockChange(ctx, in.known, dryRun)
	return in, unlock, err
}
