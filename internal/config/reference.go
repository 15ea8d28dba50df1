package config

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// Reference says where a secret is, never what it is. The zero value refers to
// nothing.
type Reference struct {
	scheme string // "file" or "env"
	name   string
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// ParseReference takes file:PATH or env:NAME. Its errors never repeat s, which
// may be the secret itself.
func ParseReference(s string) (Reference, error) {
	scheme, name, _ := strings.Cut(s, ":")
	switch {
	case scheme == "file" && name != "":
		return Reference{scheme, name}, nil
	case scheme == "env" && envName.MatchString(name):
		return Reference{scheme, name}, nil
	case scheme == "env":
		return Reference{}, problem.New(problem.Usage, "after env: the name of a variable is expected (it is not shown here, in case it is the secret itself)")
	}
	return Reference{}, problem.New(problem.Usage, "a reference is expected, file:PATH or env:NAME, not the secret itself (it is not shown here)")
}

// FileReference refers to the file at path.
func FileReference(path string) Reference { return Reference{"file", path} }

// IsZero reports whether r refers to nothing.
func (r Reference) IsZero() bool { return r.scheme == "" }

// String is the reference as written in the file; it is no secret.
func (r Reference) String() string {
	if r.IsZero() {
		return ""
	}
	return r.scheme + ":" + r.name
}

// File is the path of a file reference.
func (r Reference) File() (path string, ok bool) { return r.name, r.scheme == "file" }

// Env is the variable of an environment reference.
func (r Reference) Env() (name string, ok bool) { return r.name, r.scheme == "env" }

// Resolve reads the secret. One newline at the end of a file is removed, nothing
// else; an empty secret is an error.
func (r Reference) Resolve(env func(string) (string, bool), readFile func(string) ([]byte, error)) (secret.Bytes, error) {
	var b []byte
	switch r.scheme {
	case "":
		return secret.Bytes{}, fmt.Errorf("reading a secret: the reference is empty")
	case "env":
		s, ok := env(r.name)
		if !ok {
			return secret.Bytes{}, problem.New(problem.NotFound, "the secret %q: the variable is not set", r).
				WithHint("set %s for n8keep, or refer to a file with file:PATH", r.name)
		}
		b = []byte(s)
	default:
		var err error
		if b, err = readFile(r.name); err != nil {
			return secret.Bytes{}, problem.Wrap(problem.NotFound, err, "the secret %q", r)
		}
		b = []byte(strings.TrimSuffix(string(b), "\n"))
	}
	if len(b) == 0 {
		return secret.Bytes{}, problem.New(problem.Usage, "the secret %q is empty", r)
	}
	return secret.NewBytes(b), nil
}

// Address says where a database is: a path, a PostgreSQL address without a
// password, or a reference to an address that may have one.
type Address struct {
	plain string
	ref   Reference
}

// ParseAddress takes PATH, postgres://..., file:PATH or env:NAME. An address with
// a password in it is refused without being repeated.
func ParseAddress(s string) (Address, error) {
	if strings.HasPrefix(s, "file:") || strings.HasPrefix(s, "env:") {
		r, err := ParseReference(s)
		return Address{ref: r}, err
	}
	if scheme, rest, ok := strings.Cut(s, "://"); ok {
		s = strings.ToLower(scheme) + "://" + rest
	}
	if strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://") {
		u, err := url.Parse(s)
		if err != nil {
			return Address{}, problem.New(problem.Usage, "the PostgreSQL address is malformed (it is not shown here, in case it holds a password)")
		}
		_, inUser := u.User.Password()
		if inUser || u.Query().Has("password") || u.Query().Has("sslpassword") {
			return Address{}, problem.New(problem.Usage, "the address holds a password; put it in a file and write file:PATH, or env:NAME, or use ~/.pgpass").
				WithHint("leave the password out; it is looked for in DB_POSTGRESDB_PASSWORD, DB_POSTGRESDB_PASSWORD_FILE, PGPASSWORD, and PGPASSFILE or ~/.pgpass").
				WithHint("or write the whole address with its password into a file that only you can read, and give file:PATH instead")
		}
	} else if looksSecret(s) || likeLogin.MatchString(s) || likeConninfo.MatchString(s) {
		return Address{}, problem.New(problem.Usage, "the address of the database is not understood (it is not shown here, in case it holds a password)").
			WithHint("it is the path of an SQLite file, or postgres://USER@HOST:5432/DATABASE without the password").
			WithHint("the password is looked for in DB_POSTGRESDB_PASSWORD, DB_POSTGRESDB_PASSWORD_FILE, PGPASSWORD, and PGPASSFILE or ~/.pgpass")
	}
	return Address{plain: s}, nil
}

// Addresses that somebody meant for PostgreSQL: user:password@host, and libpq's
// list of names and values.
var (
	likeLogin    = regexp.MustCompile(`^[^/\s]*:[^/\s]*@`)
	likeConninfo = regexp.MustCompile(`(^|\s)(host|hostaddr|user|password|dbname)\s*=`)
)

// IsZero reports whether there is no address.
func (a Address) IsZero() bool { return a.plain == "" && a.ref.IsZero() }

// IsReference reports whether the address itself is elsewhere.
func (a Address) IsReference() bool { return !a.ref.IsZero() }

// String is the address as written in the file; it is no secret.
func (a Address) String() string {
	if a.plain != "" {
		return a.plain
	}
	return a.ref.String()
}

// Resolve is the address itself, with its password if it has one.
func (a Address) Resolve(env func(string) (string, bool), readFile func(string) ([]byte, error)) (secret.String, error) {
	if a.plain != "" {
		return secret.NewString(a.plain), nil
	}
	b, err := a.ref.Resolve(env, readFile)
	if err != nil {
		return secret.String{}, err
	}
	return secret.NewString(string(b.Reveal())), nil
}

var errSecret = fmt.Errorf("the value looks like a secret, which does not belong into this file (it is not shown here)")

var (
	secretPart = regexp.MustCompile(`(?i)AGE-SECRET-KEY-|-----BEGIN|U2FsdGVkX1|://[^/\s@]*:[^/\s@]*@|\bpass(word|wd)?=`)
	// 32 base64 characters are what n8n makes, 64 hexadecimal what we make.
	secretWhole = regexp.MustCompile(`^([0-9A-Fa-f]{32,}|[A-Za-z0-9+/_-]{32,}={0,2})$`)
)

// looksSecret is a net for mistakes, not a proof: it knows keys, ciphertexts and
// addresses with passwords. Absolute paths and age recipients are let through.
func looksSecret(s string) bool {
	if secretPart.MatchString(s) {
		return true
	}
	return secretWhole.MatchString(s) && !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "age1")
}
