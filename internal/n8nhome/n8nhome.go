// Package n8nhome knows n8n's folder, usually ~/.n8n: where it is, which instance
// key n8n takes from it and from its environment, the file named config, and
// which of the other files belong into an archive.
//
// It also reads n8n's settings of PostgreSQL as n8n does ([Postgres]), and finds
// the password of an address that has none ([PostgresPassword]). Nothing here
// connects to a server, and no TLS key is put on a disk.
//
// n8n has changed three times which key wins when the config file and the
// environment name different ones, and twice what it does to the text before it
// uses it. [ResolveKey] has the rules of every version in one table and follows
// those of the version it is given, because a key that is taken by other rules
// opens nothing. It never guesses a key and never changes one beyond what n8n
// itself does; what looks like a mistake (quotes, white space, a key file that
// others can read) is said in a warning.
//
// The package refuses to follow symbolic links out of the folder, to put n8n's
// config or a database into an archive, and to replace a config file that is
// there.
//
// Old data: config files and rules of n8n 0.x to 2.41 are understood; an unknown
// version is treated as the newest.
//
// Trust boundary: the folder belongs to n8n's user, who is trusted with the key
// but not with paths: names in it decide nothing but their own entry. Keys are
// held in n8ncrypt.InstanceKey and are never part of an error or a warning.
package n8nhome

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/n8keep/n8keep/internal/problem"
)

// Env looks a variable up, as os.LookupEnv does.
type Env = func(name string) (value string, ok bool)

// DefaultDir is the folder n8n would use with this environment:
// N8N_USER_FOLDER, else HOME, and in it .n8n. It need not exist. Where neither is
// set n8n takes the current folder; DefaultDir returns "" instead, because whoever
// starts n8keep without a home, a timer or a container, is seldom in n8n's folder.
func DefaultDir(env Env) string {
	for _, name := range []string{"N8N_USER_FOLDER", "HOME"} {
		if base, ok := env(name); ok {
			if base == "" {
				return ""
			}
			return filepath.Join(base, ".n8n")
		}
	}
	return ""
}

// CheckDir returns the absolute path of a folder that a user has named as n8n's.
// A missing folder is NotFound. A file, and the folder that holds .n8n, are
// Usage, with the right path in the hint. A folder with neither config nor
// database is taken: an n8n on PostgreSQL may have neither.
func CheckDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", problem.Wrap(problem.Unexpected, err, "finding n8n folder %q", dir)
	}
	info, err := os.Stat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", problem.New(problem.NotFound, "n8n folder %q does not exist", dir).
			WithHint(`n8n's folder is usually ~/.n8n, in its Docker image "/home/node/.n8n"; give it with --n8n-dir DIR`)
	case err != nil:
		return "", problem.Wrap(problem.Unexpected, cause(err), "finding n8n folder %q", dir).
			WithHint("run as the user that runs n8n, or as root")
	case !info.IsDir():
		return "", problem.New(problem.Usage, "n8n folder %q is a file", dir).
			WithHint("give the folder that holds it: --n8n-dir %q", filepath.Dir(abs))
	}
	if inner := filepath.Join(abs, ".n8n"); !looksLikeHome(abs) && looksLikeHome(inner) {
		return "", problem.New(problem.Usage, "n8n folder %q is the one above n8n's own", dir).
			WithHint("give the folder that holds config and database.sqlite: --n8n-dir %q", inner)
	}
	return abs, nil
}

func looksLikeHome(dir string) bool {
	for _, name := range []string{configName, databaseName} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

const databaseName = "database.sqlite"

// DatabasePath is where n8n has its SQLite database: DB_SQLITE_DATABASE, which
// may be absolute, in dir; database.sqlite without it. The variable is
// normalised as n8n 1.116 and later do.
func DatabasePath(dir string, env Env) string {
	name, _ := env("DB_SQLITE_DATABASE")
	if name = normalise(name); name == "" {
		name = databaseName
	}
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(dir, name)
}

// cause drops the path, which the message around it names already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
