package n8nhome

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// Connection is how n8n reaches its PostgreSQL, with n8n's own defaults filled in.
type Connection struct {
	Host        string // name or address, or the folder of a Unix socket, which begins with "/"
	Port        int
	Database    string
	User        string
	Password    secret.String // empty when the server wants none, or another place has it
	Schema      string
	TablePrefix string
	TLS         *TLS          // nil: without
	Timeout     time.Duration // for connecting; 0: none
	// Warnings are sentences for people about settings that n8n ignores too.
	Warnings []string
}

// TLS is what n8n gives Node's TLS.
type TLS struct {
	// Verify is false with DB_POSTGRESDB_SSL_REJECT_UNAUTHORIZED=false: encrypted,
	// but to whom is not checked, CA or not.
	Verify bool
	// CA, Cert and Key are PEM, as in n8n's variables, or empty. Without CA those of
	// the system hold.
	CA, Cert string
	Key      secret.String

	files [3]string // what the _FILE variables of the three name, where those were used
}

// UsesPostgres reports whether an n8n with this environment keeps its data in
// PostgreSQL, which is DB_TYPE=postgresdb. MySQL and MariaDB, which n8n before 2.0
// could use, are a Usage error. Anything else n8n takes for SQLite.
func UsesPostgres(env Env) (bool, error) {
	text, _, err := setting(env, "DB_TYPE")
	if err != nil {
		return false, err
	}
	switch normalise(text) {
	case "postgresdb":
		return true, nil
	case "mysqldb", "mariadb":
		return false, problem.New(problem.Usage, "DB_TYPE names a database that n8keep does not read: %s", normalise(text)).
			WithHint("n8n itself works with SQLite and PostgreSQL only (from 2.0); give the one that is meant with --database")
	}
	return false, nil
}

// Postgres reads DB_POSTGRESDB_* and DB_TABLE_PREFIX, each with its _FILE form, by
// the rules of n8n 1.50 to 2.41:
//
//	a variable that exists hides its _FILE form, also when it is empty
//	texts lose white space and one pair of quotes around them
//	an empty host, user, database or password is looked for in PG*, then the default
//	TLS is on with SSL_ENABLED, or any of SSL_CA, SSL_CERT, SSL_KEY, or
//	SSL_REJECT_UNAUTHORIZED=false
//
// n8n has no variable for a whole address. A _FILE that cannot be read is an error,
// as it is in n8n; a number or truth value that is none is a warning, and the
// default holds. No error and no warning shows a value that may be secret.
func Postgres(env Env) (Connection, error) {
	r := &settings{env: env}
	c := Connection{
		Host:        r.text("DB_POSTGRESDB_HOST", "localhost", "PGHOST"),
		Port:        r.number("DB_POSTGRESDB_PORT", 5432),
		Database:    r.text("DB_POSTGRESDB_DATABASE", "n8n", "PGDATABASE"),
		User:        r.text("DB_POSTGRESDB_USER", "postgres", "PGUSER"),
		Password:    secret.NewString(r.text("DB_POSTGRESDB_PASSWORD", "", "PGPASSWORD")),
		Schema:      r.text("DB_POSTGRESDB_SCHEMA", "public", ""),
		TablePrefix: r.text("DB_TABLE_PREFIX", "", ""),
		Timeout:     time.Duration(r.number("DB_POSTGRESDB_CONNECTION_TIMEOUT", 20_000)) * time.Millisecond,
	}
	if c.Port == 0 {
		c.Port = 5432
	}
	tls := &TLS{
		Verify: r.truth("DB_POSTGRESDB_SSL_REJECT_UNAUTHORIZED", true),
		CA:     r.text("DB_POSTGRESDB_SSL_CA", "", ""),
		Cert:   r.text("DB_POSTGRESDB_SSL_CERT", "", ""),
		Key:    secret.NewString(r.text("DB_POSTGRESDB_SSL_KEY", "", "")),
		files:  [3]string{r.file("DB_POSTGRESDB_SSL_CA"), r.file("DB_POSTGRESDB_SSL_CERT"), r.file("DB_POSTGRESDB_SSL_KEY")},
	}
	if r.truth("DB_POSTGRESDB_SSL_ENABLED", false) || !tls.Verify || tls.CA != "" || tls.Cert != "" || !tls.Key.IsZero() {
		c.TLS = tls
	}
	if c.TLS != nil && c.socket() {
		c.TLS = nil
		r.warn("DB_POSTGRESDB_SSL_ settings mean nothing for the Unix socket %q; n8n itself would not connect with them", c.Host)
	}
	if c.Port < 1 || c.Port > 65535 {
		return Connection{}, problem.New(problem.Usage, "DB_POSTGRESDB_PORT is %d, which is no port", c.Port).WithHint("PostgreSQL's is 5432")
	}
	c.Warnings = r.warnings
	return c, r.err
}

func (c Connection) socket() bool { return strings.HasPrefix(c.Host, "/") }

// Place is the address without password and parameters, for people.
func (c Connection) Place() string {
	u := c.url()
	u.User = url.User(c.User)
	u.RawQuery = ""
	if c.socket() {
		u.RawQuery = "host=" + c.Host
	}
	return u.String()
}

func (c Connection) url() *url.URL {
	u := &url.URL{Scheme: "postgres", User: url.User(c.User), Path: "/" + c.Database}
	if !c.Password.IsZero() {
		u.User = url.UserPassword(c.User, c.Password.Reveal())
	}
	if !c.socket() {
		u.Host = net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
	}
	return u
}

// DSN is the address for pgx and for PostgreSQL's own programs started by this
// process. Both want TLS material in files: on Linux these are files in memory
// that vanish with this process, never on a disk; elsewhere those that the _FILE
// variables name, and a Usage error where there are none.
//
// n8n compares the certificate with the host's name, as verify-full does; for a
// host that is given as an IP address it compares with "localhost", and this
// address with the address.
func (c Connection) DSN() (secret.String, error) {
	u := c.url()
	q := url.Values{}
	if c.socket() {
		q.Set("host", c.Host)
		q.Set("port", strconv.Itoa(c.Port))
	}
	if c.Timeout > 0 {
		q.Set("connect_timeout", strconv.Itoa(int(math.Ceil(c.Timeout.Seconds()))))
	}
	switch {
	case c.TLS == nil:
		q.Set("sslmode", "disable")
	case !c.TLS.Verify:
		q.Set("sslmode", "require")
	default:
		q.Set("sslmode", "verify-full")
		if c.TLS.CA == "" {
			if bundle := systemCAs(); bundle != "" {
				q.Set("sslrootcert", bundle)
			}
		}
	}
	if c.TLS != nil {
		for i, m := range []struct{ parameter, text string }{{"sslrootcert", c.TLS.CA}, {"sslcert", c.TLS.Cert}, {"sslkey", c.TLS.Key.Reveal()}} {
			if m.text == "" || m.parameter == "sslrootcert" && !c.TLS.Verify {
				continue
			}
			path, err := memoryFile("n8keep-"+m.parameter, m.text)
			if errors.Is(err, errors.ErrUnsupported) && c.TLS.files[i] != "" {
				path, err = c.TLS.files[i], nil
			}
			if err != nil {
				return secret.String{}, problem.Wrap(problem.Usage, err, "handing over the TLS material of DB_POSTGRESDB_SSL_").
					WithHint("put it into files, name them in DB_POSTGRESDB_SSL_CA_FILE, _CERT_FILE and _KEY_FILE")
			}
			q.Set(m.parameter, path)
		}
	}
	u.RawQuery = q.Encode()
	return secret.NewString(u.String()), nil
}

// systemCAs is the file of the system's certificate authorities, which n8n trusts
// without DB_POSTGRESDB_SSL_CA (it has a copy of its own of much the same list).
// libpq before 16 takes them only as a file.
func systemCAs() string {
	for _, path := range []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"} {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// settings reads n8n's variables; the first error stays.
type settings struct {
	env      Env
	err      error
	warnings []string
}

func (r *settings) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

func (r *settings) raw(name string) (string, bool) {
	s, ok, err := setting(r.env, name)
	if err != nil && r.err == nil {
		r.err = err
	}
	return s, ok
}

// text is a setting, or what n8n's driver takes for an empty one: the variable
// instead of libpq's, then the default.
func (r *settings) text(name, otherwise, instead string) string {
	s, ok := r.raw(name)
	if !ok {
		return otherwise
	}
	if s = normalise(s); s != "" || instead == "" {
		return s
	}
	if v, _ := r.env(instead); v != "" {
		return v
	}
	return otherwise
}

func (r *settings) number(name string, otherwise int) int {
	s, ok := r.raw(name)
	if s = trim(s); !ok || s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		r.warn("%s is no number: n8n ignores it, and takes %d", name, otherwise)
		return otherwise
	}
	return n
}

func (r *settings) truth(name string, otherwise bool) bool {
	s, ok := r.raw(name)
	switch strings.ToLower(s) {
	case "true", "1":
		return true
	case "false", "0":
		return false
	}
	if ok {
		r.warn("%s is neither true nor false: n8n ignores it, and takes %v", name, otherwise)
	}
	return otherwise
}

// file is the path that the _FILE form of a setting names, if it is the one used.
func (r *settings) file(name string) string {
	if _, hidden := r.env(name); hidden {
		return ""
	}
	path, _ := r.env(name + "_FILE")
	return path
}

// setting is a variable, or, if it does not exist, the text of the file that its
// _FILE form names without the white space around it.
func setting(env Env, name string) (value string, ok bool, err error) {
	if s, ok := env(name); ok {
		return s, true, nil
	}
	path, _ := env(name + "_FILE")
	if path == "" {
		return "", false, nil
	}
	b, _, err := readSmall(path, 1<<20, true)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, problem.New(problem.NotFound, "%s_FILE names %q, which does not exist", name, path).
			WithHint("correct %s_FILE or unset it; n8n does not start with it either", name)
	}
	if err != nil {
		return "", false, problem.Wrap(problem.Usage, cause(err), "%s_FILE names %q, which cannot be read", name, path).WithHint("%s", readHint(err))
	}
	return trim(string(b)), true, nil
}
