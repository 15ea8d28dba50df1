package n8nhome

import (
	"errors"
	"io/fs"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// PostgresPassword looks for the password of an address that has none, in this
// order: DB_POSTGRESDB_PASSWORD and its _FILE form, unless DB_POSTGRESDB_USER
// names another user; PGPASSWORD; the file that PGPASSFILE names, else ~/.pgpass.
// An empty result is no error: the server may want none. As libpq does, it
// leaves a password file that others can read alone, with a warning.
func PostgresPassword(env Env, host, port, database, login string) (password secret.String, warnings []string, err error) {
	r := &settings{env: env}
	if n8ns := r.text("DB_POSTGRESDB_USER", login, ""); n8ns == login || login == "" {
		if s := r.text("DB_POSTGRESDB_PASSWORD", "", ""); s != "" || r.err != nil {
			return secret.NewString(s), nil, r.err
		}
	}
	if s, _ := env("PGPASSWORD"); s != "" {
		return secret.NewString(s), nil, nil
	}
	path, named := env("PGPASSFILE")
	if path == "" {
		home, _ := env("HOME")
		if home == "" {
			return secret.String{}, nil, nil
		}
		path, named = filepath.Join(home, ".pgpass"), false
	}
	b, info, err := readSmall(path, 1<<20, false)
	switch {
	case errors.Is(err, fs.ErrNotExist) && named:
		return secret.String{}, []string{"PGPASSFILE names " + strconv.Quote(path) + ", which does not exist"}, nil
	case errors.Is(err, fs.ErrNotExist):
		return secret.String{}, nil, nil
	case err != nil:
		return secret.String{}, nil, problem.Wrap(problem.Usage, cause(err), "password file %q cannot be read", path).WithHint("%s", readHint(err))
	case info.Mode().Perm()&0o077 != 0:
		return secret.String{}, []string{"password file " + strconv.Quote(path) + " can be read by others and is therefore not used: chmod 600 " + strconv.Quote(path)}, nil
	}
	if login == "" {
		if u, err := user.Current(); err == nil {
			login = u.Username
		}
	}
	return passfile(string(b), host, port, database, login), nil, nil
}

// passfile finds the first line host:port:database:user:password whose first four
// fit. "*" fits everything; a backslash takes the meaning from ":" and "\".
func passfile(text, host, port, database, login string) secret.String {
	if host == "" || host == "/var/run/postgresql" || host == "/tmp" {
		host = "localhost"
	}
	if port == "" {
		port = "5432"
	}
	if database == "" {
		database = login
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		if f := passfields(line); len(f) >= 5 && fits(f[0], host) && fits(f[1], port) && fits(f[2], database) && fits(f[3], login) {
			return secret.NewString(f[4])
		}
	}
	return secret.String{}
}

func fits(pattern, s string) bool { return pattern == "*" || pattern == s }

func passfields(line string) []string {
	var list []string
	var b strings.Builder
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			b.WriteByte(line[i])
		case c == ':' && len(list) < 4:
			list = append(list, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(list, b.String())
}
