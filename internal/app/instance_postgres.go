package app

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/internal/problem"
)

func isPostgres(address string) bool {
	return strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://")
}

// environmentDatabase takes the PostgreSQL of n8n's variables when they say that
// n8n uses one. Schema and table prefix come with it, unless an option or the
// configuration says otherwise.
func (a *App) environmentDatabase(in *instance) error {
	uses, err := n8nhome.UsesPostgres(a.Env)
	if err != nil || !uses {
		return err
	}
	c, err := n8nhome.Postgres(a.Env)
	if err != nil {
		return err
	}
	warnings := c.Warnings
	if c.Password.IsZero() {
		var more []string
		if c.Password, more, err = n8nhome.PostgresPassword(a.Env, c.Host, strconv.Itoa(c.Port), c.Database, c.User); err != nil {
			return err
		}
		warnings = append(warnings, more...)
	}
	for _, w := range warnings {
		a.Logger.Warn(w)
	}
	dsn, err := c.DSN()
	if err != nil {
		return err
	}
	in.dsn, in.fromEnv = dsn.Reveal(), true
	in.schema, in.prefix = first(in.schema, c.Schema), first(in.prefix, c.TablePrefix)
	return nil
}

// postgresAddress completes the address of a database with its password, if it has
// none: from n8n's variables, PGPASSWORD, or the password file. The result goes to
// the server only, and into no message.
func (a *App) postgresAddress(address string) (dsn string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", problem.New(problem.Usage, "the PostgreSQL address is malformed (it is not shown here, in case it holds a password)").
			WithHint("postgres://USER@HOST:5432/DATABASE is expected; characters such as @ and / in a password are written %%40 and %%2F")
	}
	q := u.Query()
	if password := q.Get("password"); password != "" {
		q.Del("password")
		u.RawQuery, u.User = q.Encode(), url.UserPassword(first(u.User.Username(), q.Get("user")), password)
	}
	if _, ok := u.User.Password(); ok {
		return u.String(), nil
	}
	pguser, _ := a.Env("PGUSER")
	user := first(u.User.Username(), q.Get("user"), pguser)
	host, port := first(u.Hostname(), q.Get("host")), first(u.Port(), q.Get("port"))
	password, warnings, err := n8nhome.PostgresPassword(a.Env, host, port, strings.TrimPrefix(u.Path, "/"), user)
	if err != nil {
		return "", err
	}
	for _, w := range warnings {
		a.Logger.Warn(w)
	}
	if !password.IsZero() && user != "" {
		u.User = url.UserPassword(user, password.Reveal())
	}
	return u.String(), nil
}

// postgresLocation names a database without user and parameters, so that a
// default name of an instance does not depend on how it is reached.
func postgresLocation(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil || dsn == "" {
		return ""
	}
	q := u.Query()
	return "postgres://" + first(u.Hostname(), q.Get("host"), "localhost") + ":" + first(u.Port(), q.Get("port"), "5432") + u.Path
}

// place is where the instance's data is, for people: a path, or an address
// without password and parameters.
func (in *instance) place() string {
	if in.dsn == "" {
		return in.database
	}
	text := "postgres://..."
	if u, err := url.Parse(in.dsn); err == nil {
		shown := url.URL{Scheme: "postgres", Host: u.Host, Path: u.Path}
		if name := u.User.Username(); name != "" {
			shown.User = url.User(name)
		}
		if host := u.Query().Get("host"); host != "" {
			shown.RawQuery = "host=" + host
		}
		text = shown.String()
	}
	if in.fromEnv {
		text += " (DB_TYPE=postgresdb in the environment)"
	}
	return text
}
