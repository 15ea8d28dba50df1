package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/config"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// InstanceOptions say which n8n a command is about. All are optional; N8NDir and
// Database may both be given, an n8n on PostgreSQL having both.
type InstanceOptions struct {
	Name        string // --instance
	N8NDir      string // --n8n-dir: the folder that holds config and database.sqlite
	Database    string // --database: a SQLite file elsewhere, or postgres://... without a password
	TablePrefix string // --table-prefix
	Schema      string // --schema, PostgreSQL
	KeyFile     string // --key-file
}

// instance is an n8n with everything about it resolved but its key.
type instance struct {
	name     string
	dir      string // "" when only a database is known
	database string // SQLite path, or ""
	dsn      string // PostgreSQL URL with its password, or ""
	address  string // the database as an option gave it, or ""
	fromEnv  bool   // dsn is that of DB_POSTGRESDB_*
	conf     config.Instance
	prefix   string
	schema   string
	keyFile  string
	given    InstanceOptions
	// keyOption is the option that named keyFile; "" is --key-file.
	keyOption string
	known     *namedDatabase // of a command that changes the database
}

func (a *App) instance(o InstanceOptions) (*instance, error) {
	name, conf, err := a.configured(o)
	if err != nil {
		return nil, err
	}
	in := &instance{name: name, conf: conf, dir: first(o.N8NDir, conf.N8NDir), prefix: first(o.TablePrefix, conf.TablePrefix),
		schema: first(o.Schema, conf.Schema), keyFile: o.KeyFile, address: o.Database, given: o}
	address := conf.Database
	if o.Database != "" {
		if address, err = config.ParseAddress(o.Database); err != nil {
			return nil, err
		}
	}
	db, err := a.databaseAddress(address)
	if err != nil {
		return nil, err
	}
	switch {
	case isPostgres(db):
		if in.dsn, err = a.postgresAddress(db); err != nil {
			return nil, err
		}
	case strings.Contains(db, "://"):
		return nil, problem.New(problem.Usage, "--database takes a SQLite file or postgres://..., not %q", db[:strings.Index(db, "://")]+"://...").
			WithHint("n8n itself works with SQLite and PostgreSQL only (from 2.0)")
	case db != "":
		in.database = db
	default:
		if err := a.environmentDatabase(in); err != nil {
			return nil, err
		}
	}
	if in.dir == "" && db == "" {
		switch dir := n8nhome.DefaultDir(a.Env); {
		case isDir(dir):
			in.dir = dir
		case in.dsn != "": // the database is enough
		case dir == "":
			return nil, problem.New(problem.Usage, "no n8n named, and neither HOME nor N8N_USER_FOLDER says where one could be").
				WithHint("give the folder that holds n8n's config and database.sqlite with --n8n-dir DIR")
		default:
			return nil, problem.New(problem.Usage, "no n8n found: neither --n8n-dir nor a configuration names one, and %q does not exist", dir).
				WithHint("give the folder that holds n8n's config and database.sqlite with --n8n-dir DIR").
				WithHint("or, for an n8n on PostgreSQL, --database postgres://USER@HOST/DB")
		}
	}
	if in.dir != "" {
		if in.dir, err = n8nhome.CheckDir(in.dir); err != nil {
			return nil, err
		}
	}
	if in.dsn == "" && in.database == "" {
		in.database = n8nhome.DatabasePath(in.dir, a.Env)
	}
	if in.name == "" {
		in.name = defaultName(first(in.database, postgresLocation(in.dsn)))
	}
	return in, nil
}

func (a *App) databaseAddress(address config.Address) (string, error) {
	if address.IsZero() {
		return "", nil
	}
	s, err := address.Resolve(a.Env, os.ReadFile)
	if err != nil {
		return "", err
	}
	db := s.Reveal()
	if address.IsReference() {
		// What is behind a reference may be secret, so it must not end up in a message as if it were a path.
		if db = strings.TrimSpace(db); !isPostgres(db) && !filepath.IsAbs(db) {
			return "", problem.New(problem.Usage, "the database at %q is no address (it is not shown here)", address.String()).
				WithHint("postgres://USER:PASSWORD@HOST:5432/DATABASE is expected there, or the whole path of a SQLite file")
		}
	}
	return db, nil
}

// configured finds the instance's part of the configuration: the one named, or
// the only one when nothing else says which n8n is meant.
func (a *App) configured(o InstanceOptions) (string, config.Instance, error) {
	if o.Name != "" {
		// A name that the configuration does not have is a name for what the
		// other options describe.
		if conf, ok := a.conf.Instances[o.Name]; ok || o.N8NDir != "" || o.Database != "" {
			return o.Name, conf, nil
		}
		return a.conf.Instance(o.Name)
	}
	if o.N8NDir != "" || o.Database != "" {
		for name, c := range a.conf.Instances {
			if o.N8NDir != "" && sameFile(c.N8NDir, o.N8NDir) {
				return name, c, nil
			}
		}
		return "", config.Instance{}, nil
	}
	return a.conf.Instance("")
}

// defaultName is the host's name and six characters of a hash of where the
// database is, so that two instances of one host do not get one name.
func defaultName(location string) string {
	if abs, err := filepath.Abs(location); err == nil && !strings.Contains(location, "://") {
		if real, err := filepath.EvalSymlinks(abs); err == nil {
			abs = real
		}
		location = abs
	}
	host, err := os.Hostname()
	if err != nil {
		host = "n8n"
	}
	if host = strings.Trim(notInName.ReplaceAllString(strings.ToLower(host), "-"), "-."); host == "" {
		host = "n8n"
	}
	if len(host) > 40 {
		host = host[:40]
	}
	sum := sha256.Sum256([]byte(location))
	return host + "-" + hex.EncodeToString(sum[:3])
}

var notInName = regexp.MustCompile(`[^a-z0-9.-]+`)

// flag is how another command is told that this n8n is meant: the options that this one
// was given, but for the key.
func (in *instance) flag() string {
	o := in.given
	var flags []string
	for _, f := range []struct{ name, value string }{{"--instance", o.Name}, {"--n8n-dir", o.N8NDir}, {"--database", o.Database}, {"--schema", o.Schema}, {"--table-prefix", o.TablePrefix}} {
		if f.value != "" {
			flags = append(flags, fmt.Sprintf("%s %q", f.name, f.value))
		}
	}
	switch {
	case len(flags) > 0:
		return strings.Join(flags, " ")
	case in.dir != "":
		return fmt.Sprintf("--n8n-dir %q", in.dir)
	case in.database != "":
		return fmt.Sprintf("--database %q", in.database)
	}
	return "--instance " + in.name
}

// flags is flag with the file of the key, if one was given.
func (in *instance) flags() string {
	if in.keyFile == "" {
		return in.flag()
	}
	return in.flag() + fmt.Sprintf(" --key-file %q", in.keyFile)
}

// openDB opens the instance's live database, read-only.
func (in *instance) openDB(ctx context.Context) (*n8ndb.DB, error) {
	if in.dsn != "" {
		return n8ndb.OpenPostgres(ctx, n8ndb.PostgresConfig{DSN: in.dsn, Schema: in.schema, TablePrefix: in.prefix})
	}
	return n8ndb.OpenSQLite(ctx, n8ndb.SQLiteConfig{Path: in.database, TablePrefix: in.prefix})
}

// resolvedKey is an instance key and how it was found.
type resolvedKey struct {
	key      n8ncrypt.InstanceKey
	source   api.KeySource
	others   []api.KeySource
	keys     []n8ncrypt.InstanceKey // those of others
	warnings []string
}

// key resolves the instance key as the n8n of that version would, an explicit
// key file first.
func (a *App) key(in *instance, n8nVersion string) (resolvedKey, error) {
	sources := n8nhome.KeySources{KeyFile: in.keyFile, Named: in.keyOption, Env: a.Env, Dir: in.dir, N8NVersion: n8nVersion}
	if in.keyFile == "" && !in.conf.Key.IsZero() {
		if path, ok := in.conf.Key.File(); ok {
			sources.KeyFile, sources.Named = path, "n8keep.yaml"
		} else {
			return a.keyFromReference(in.conf.Key)
		}
	}
	res, err := n8nhome.ResolveKey(sources)
	if err != nil {
		return resolvedKey{}, err
	}
	out := resolvedKey{key: res.Key, source: api.KeySource{Source: res.Winner.Name, Where: res.Winner.Where}, warnings: res.Warnings}
	for _, o := range res.Others {
		same := o.Same
		out.keys = append(out.keys, o.Key)
		out.others = append(out.others, api.KeySource{Source: o.Source.Name, Where: o.Source.Where, Same: &same})
	}
	return out, nil
}

func (a *App) keyFromReference(ref config.Reference) (resolvedKey, error) {
	b, err := ref.Resolve(a.Env, os.ReadFile)
	if err != nil {
		return resolvedKey{}, err
	}
	key, err := n8ncrypt.NewInstanceKey(string(b.Reveal()))
	if err != nil {
		return resolvedKey{}, problem.Wrap(problem.Usage, err, "key of the instance in n8keep.yaml")
	}
	return resolvedKey{key: key, source: api.KeySource{Source: "n8keep.yaml", Where: ref.String()}}, nil
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if errors.Is(err, fs.ErrNotExist) || err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
