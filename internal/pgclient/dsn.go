package pgclient

import (
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/secret"
)

// setting is a connection parameter, its name as libpq has it.
type setting struct{ name, value string }

func errDSN() error {
	// A parser's text would quote the string, and with it the password.
	return problem.New(problem.Usage, "the PostgreSQL address cannot be read").
		WithHint("write it as postgres://USER@HOST:5432/DATABASE, special characters as %%XX")
}

// SplitDSN takes the password out of a DSN, which is a URL or a list of name=value.
// Of a URL the rest stays as it was written. The error never quotes the DSN.
func SplitDSN(dsn string) (withoutPassword string, password secret.String, err error) {
	settings, err := parseDSN(dsn)
	if err != nil {
		return "", secret.String{}, err
	}
	i := slices.IndexFunc(settings, func(s setting) bool { return s.name == "password" })
	if i < 0 {
		return dsn, secret.String{}, nil
	}
	password = secret.NewString(settings[i].value)
	if isURL(dsn) {
		return cutPassword(dsn), password, nil
	}
	return format(slices.Delete(settings, i, i+1)), password, nil
}

func isURL(dsn string) bool {
	return strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://")
}

// splitURL cuts a URL at its own marks; nothing is decoded.
func splitURL(dsn string) (scheme, user, hosts, path, query string, hasUser bool) {
	scheme, rest, _ := strings.Cut(dsn, "://")
	rest, query, _ = strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		return scheme, authority[:at], authority[at+1:], path, query, true
	}
	return scheme, "", authority, path, query, false
}

func cutPassword(dsn string) string {
	scheme, user, hosts, path, query, hasUser := splitURL(dsn)
	out := scheme + "://"
	if hasUser {
		user, _, _ = strings.Cut(user, ":")
		if user != "" {
			out += user + "@"
		}
	}
	out += hosts
	if path != "" || strings.Contains(strings.TrimPrefix(dsn, scheme+"://"), "/") {
		out += "/" + path
	}
	var kept []string
	for _, p := range strings.Split(query, "&") {
		name, _, _ := strings.Cut(p, "=")
		if n, err := url.PathUnescape(name); p != "" && (err != nil || n != "password") {
			kept = append(kept, p)
		}
	}
	if len(kept) > 0 {
		out += "?" + strings.Join(kept, "&")
	}
	return out
}

// parseDSN reads both forms as pgx does, the driver of all our other connections, and
// libpq: a plus sign is one, and a later setting of the same name wins. Empty values count as not given.
func parseDSN(dsn string) ([]setting, error) {
	var list []setting
	var ok bool
	if isURL(dsn) {
		list, ok = parseURL(dsn)
	} else {
		list, ok = parseKeywords(dsn)
	}
	if !ok || slices.ContainsFunc(list, func(s setting) bool { return strings.ContainsRune(s.value, 0) }) {
		return nil, errDSN()
	}
	var settings []setting
	for _, s := range list {
		if s.name == "database" {
			s.name = "dbname"
		}
		settings = slices.DeleteFunc(settings, func(o setting) bool { return o.name == s.name })
		if s.value != "" {
			settings = append(settings, s)
		}
	}
	if slices.ContainsFunc(settings, func(s setting) bool { return s.name == "sslpassword" }) {
		return nil, problem.New(problem.Usage, "a client key with a passphrase (sslpassword) cannot be handed to PostgreSQL's programs").
			WithHint("take the passphrase off the key, with mode 0600 on the file: openssl pkey -in KEY -out NEWKEY")
	}
	return settings, nil
}

func parseURL(dsn string) (list []setting, ok bool) {
	_, user, hosts, path, query, hasUser := splitURL(dsn)
	add := func(name, value string, decode func(string) (string, error)) bool {
		v, err := decode(value)
		list = append(list, setting{name, v})
		return err == nil
	}
	if hasUser {
		name, password, has := strings.Cut(user, ":")
		if !add("user", name, url.PathUnescape) || has && !add("password", password, url.PathUnescape) {
			return nil, false
		}
	}
	var names, ports []string
	for _, h := range strings.Split(hosts, ",") {
		port := ""
		if end := strings.IndexByte(h, ']'); strings.HasPrefix(h, "[") {
			if end < 0 || end+1 < len(h) && h[end+1] != ':' {
				return nil, false
			}
			h, port = h[1:end], strings.TrimPrefix(h[end+1:], ":")
		} else {
			h, port, _ = strings.Cut(h, ":")
		}
		if strings.Trim(port, "0123456789") != "" {
			return nil, false
		}
		names, ports = append(names, h), append(ports, port)
	}
	if !add("host", strings.Join(names, ","), url.PathUnescape) || !add("dbname", path, url.PathUnescape) {
		return nil, false
	}
	if strings.Trim(strings.Join(ports, ""), ",") != "" {
		add("port", strings.Join(ports, ","), url.PathUnescape)
	}
	for _, p := range strings.Split(query, "&") {
		if p == "" {
			continue
		}
		name, value, has := strings.Cut(p, "=")
		name, err := url.PathUnescape(name)
		if err != nil || !has || !add(name, value, url.PathUnescape) {
			return nil, false
		}
	}
	return list, true
}

// parseKeywords reads libpq's name=value list: values in single quotes or without
// blanks, a backslash before what is meant literally.
func parseKeywords(s string) (list []setting, ok bool) {
	const blanks = " \t\n\r\f\v"
	for {
		s = strings.TrimLeft(s, blanks)
		if s == "" {
			return list, true
		}
		name, rest, found := strings.Cut(s, "=")
		name = strings.TrimRight(name, blanks)
		if !found || name == "" || strings.ContainsAny(name, blanks+`'\`) {
			return nil, false
		}
		s = strings.TrimLeft(rest, blanks)
		quoted := strings.HasPrefix(s, "'")
		if quoted {
			s = s[1:]
		}
		var value strings.Builder
		i, closed := 0, false
		for ; i < len(s); i++ {
			if quoted && s[i] == '\'' {
				i, closed = i+1, true
				break
			}
			if !quoted && strings.IndexByte(blanks, s[i]) >= 0 {
				break
			}
			if s[i] == '\\' {
				if i++; i == len(s) {
					break
				}
			}
			value.WriteByte(s[i])
		}
		if quoted && !closed {
			return nil, false
		}
		s = s[min(i, len(s)):]
		list = append(list, setting{name, value.String()})
	}
}

var keywordQuote = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

func format(settings []setting) string {
	var b strings.Builder
	for i, s := range settings {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(s.name + "='" + keywordQuote.Replace(s.value) + "'")
	}
	return b.String()
}

// libpqNames are the parameters that libpq knows; those after PostgreSQL 15 it
// refuses itself when it is older.
const libpqNames = ` host hostaddr port dbname user passfile channel_binding connect_timeout options keepalives
 keepalives_idle keepalives_interval keepalives_count tcp_user_timeout gssencmode sslmode sslcompression sslcert sslkey
 sslrootcert sslcrl sslcrldir sslsni requirepeer ssl_min_protocol_version ssl_max_protocol_version krbsrvname gsslib service
 target_session_attrs require_auth sslcertmode gssdelegation load_balance_hosts sslnegotiation min_protocol_version max_protocol_version `

// driverNames are parameters of the Go driver, which mean nothing to a server.
const driverNames = ` application_name fallback_application_name client_encoding password pool_max_conns pool_min_conns
 pool_max_conn_lifetime pool_max_conn_idle_time pool_health_check_period pool_max_conn_lifetime_jitter pool_min_idle_conns default_query_exec_mode
 statement_cache_capacity description_cache_capacity min_read_buffer_size krbspn servicefile `

// connection is what a program gets to connect: the argument of --dbname, without the
// password, and the variables that belong to it.
type connection struct {
	conninfo string
	env      []string
	password string // to be redacted; "" if there is none
}

// connect turns a DSN into what libpq wants. What libpq does not know is a setting of
// the session, as it is to the Go driver.
func connect(dsn, appName string) (connection, error) {
	settings, err := parseDSN(dsn)
	if err != nil {
		return connection{}, err
	}
	var c connection
	var args []setting
	var options []string
	given := func(name string) bool {
		return slices.ContainsFunc(settings, func(s setting) bool { return s.name == name })
	}
	for _, s := range settings {
		switch name := " " + s.name + " "; {
		case s.name == "password":
			c.password = s.value
		case s.name == "application_name" && appName == "":
			appName = s.value
		case s.name == "servicefile":
			c.env = append(c.env, "PGSERVICEFILE="+s.value)
		case s.name == "ssl" && s.value == "true":
			if !given("sslmode") {
				args = append(args, setting{"sslmode", "require"})
			}
		case s.name == "options":
			options = append([]string{s.value}, options...)
		case strings.Contains(flat(libpqNames), name):
			args = append(args, s)
		case strings.Contains(flat(driverNames), name):
		default:
			if strings.Trim(s.name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.") != "" {
				return connection{}, errDSN()
			}
			options = append(options, "-c "+s.name+"="+optionQuote.Replace(s.value))
		}
	}
	if len(options) > 0 {
		args = append(args, setting{"options", strings.Join(options, " ")})
	}
	if appName != "" {
		args = append(args, setting{"application_name", appName})
	}
	// A network that went away without a word must not hold a backup for hours, as the system's defaults do.
	for _, s := range []setting{{"connect_timeout", "30"}, {"keepalives_idle", "30"}, {"keepalives_interval", "10"},
		{"keepalives_count", "3"}, {"tcp_user_timeout", "60000"}} {
		if !given(s.name) {
			args = append(args, s)
		}
	}
	c.conninfo = format(args)
	if c.password == "" {
		c.password = os.Getenv("PGPASSWORD") // which the Go driver takes too
	}
	if c.password != "" {
		c.env = append(c.env, "PGPASSWORD="+c.password)
	}
	return c, nil
}

var optionQuote = strings.NewReplacer(`\`, `\\`, " ", `\ `, "\t", "\\\t", "\n", "\\\n", "\v", "\\\v", "\f", "\\\f", "\r", "\\\r")

func flat(names string) string { return strings.ReplaceAll(names, "\n", " ") }
