// Package remote is what the targets on other machines have in common: the
// parameters of their URLs, trying again, and reading a stream of unknown length
// in pieces of bounded size.
//
// A target's URL may stand in configurations, process lists, logs and audit
// records. So it may not hold a secret: [ParseOptions] refuses passwords,
// signatures and keys with a hint where they belong, and none of its errors
// repeats a value, because a value might be one.
//
// [Retry] tries again what the caller marked with [Again], and nothing else: only
// the caller knows whether a request that failed can have done its work. It
// makes no promise about old data and stores none.
package remote

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
)

// Options are the parameters of a target's URL.
type Options struct {
	scheme string
	values map[string]string
}

// secretNames are parameters that somebody pastes from elsewhere and that hold,
// or accompany, a secret.
var secretNames = []string{
	"sig", "sas", "sv", "se", "sp", "st", "sr", "ss", "srt", "spr", "skoid", "sktid", // a shared access signature
	"password", "passwd", "pass", "pwd", "passphrase", "secret", "token", "access_token", "auth",
	"access_key", "access_key_id", "secret_key", "secret_access_key", "session_token", "api_key",
	"account_key", "accountkey", "sharedaccesssignature", "private_key", "x-goog-signature", "x-amz-signature",
}

// ParseOptions reads the parameters of u, each of which must be one of the known
// names, stand once, and not be empty. Where says where secrets of this kind of
// target belong; it becomes the hint when the URL holds one.
//
// Every error is a [problem.Error] of kind Usage without any value of the URL.
func ParseOptions(u *url.URL, where string, known ...string) (Options, error) {
	o := Options{scheme: u.Scheme, values: map[string]string{}}
	bad := func(format string, args ...any) error {
		return problem.New(problem.Usage, "target %s: "+format, append([]any{o.scheme + "://..."}, args...)...)
	}
	secretive := func(what string) error {
		return problem.New(problem.Usage, "target %s: %s inside the URL", o.scheme+"://...", what).WithHint("%s", where)
	}
	if u.User != nil {
		if _, has := u.User.Password(); has {
			return o, secretive("a password")
		}
	}
	if u.Fragment != "" {
		return o, bad(`a "#" in the URL`)
	}
	for name := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ = strings.Cut(name, "=")
		if plain, err := url.QueryUnescape(name); err == nil && !slices.Contains(known, plain) && slices.Contains(secretNames, strings.ToLower(plain)) {
			return o, secretive(fmt.Sprintf("the secret parameter %q", plain))
		}
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		// The library's error quotes the query.
		return o, bad("its parameters are not name=value pairs joined by &")
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		v := values[name]
		switch {
		case !slices.Contains(known, name):
			e := problem.New(problem.Usage, "target %s: unknown parameter %.40q", o.scheme+"://...", name)
			return o, e.WithHint("known are: %s", strings.Join(known, ", "))
		case len(v) > 1:
			return o, bad("parameter %q stands %d times", name, len(v))
		case v[0] == "":
			return o, bad("parameter %q is empty", name)
		}
		o.values[name] = v[0]
	}
	return o, nil
}

// Text is the parameter's value, "" when it was not given.
func (o Options) Text(name string) string { return o.values[name] }

// Choice is the parameter's value, which must be one of the given ones; "" when
// it was not given.
func (o Options) Choice(name string, among ...string) (string, error) {
	v, ok := o.values[name]
	if ok && !slices.Contains(among, v) {
		return "", o.Bad(name, "want "+strings.Join(among, " or "))
	}
	return v, nil
}

// Duration is the parameter's value: "30d", "12h", or what time.ParseDuration
// takes; zero when it was not given.
func (o Options) Duration(name string) (time.Duration, error) {
	v, ok := o.values[name]
	if !ok {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if days, isDays := strings.CutSuffix(v, "d"); isDays {
		var n int
		n, err = strconv.Atoi(days)
		if n > 36500 {
			return 0, o.Bad(name, "want 100 years at most")
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, o.Bad(name, `want a time like "30d" or "12h"`)
	}
	return d, nil
}

// Endpoint is the parameter's value: an http or https URL without user,
// parameters and final slash; "" when it was not given.
func (o Options) Endpoint(name string) (string, error) {
	v, ok := o.values[name]
	if !ok {
		return "", nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", o.Bad(name, `want a URL like "https://storage.example.com", without user and parameters`)
	}
	return strings.TrimSuffix(v, "/"), nil
}

// File is the path in a reference "file:PATH"; "" when it was not given.
func (o Options) File(name string) (string, error) {
	v, ok := o.values[name]
	if !ok {
		return "", nil
	}
	path, isFile := strings.CutPrefix(v, "file:")
	if !isFile || path == "" {
		return "", o.Bad(name, `want "file:PATH"`)
	}
	return path, nil
}

// Bad is the error of a parameter whose value is not as it must be.
func (o Options) Bad(name, want string) error {
	return problem.New(problem.Usage, "target %s: parameter %q: %s", o.scheme+"://...", name, want)
}

// Retention reads "retain" and "lock", of which neither goes without the other.
// The lock is "governance" (who holds a special permission may shorten it) or
// "compliance" (nobody can).
func (o Options) Retention() (time.Duration, string, error) {
	retain, err := o.Duration("retain")
	if err != nil {
		return 0, "", err
	}
	lock, err := o.Choice("lock", "governance", "compliance")
	if err != nil {
		return 0, "", err
	}
	switch {
	case retain != 0 && lock == "":
		return 0, "", problem.New(problem.Usage, `target %s: "retain" without "lock"`, o.scheme+"://...").
			WithHint("add lock=compliance (nobody can shorten it) or lock=governance (an administrator can)")
	case retain == 0 && lock != "":
		return 0, "", problem.New(problem.Usage, `target %s: "lock" without "retain"`, o.scheme+"://...").
			WithHint("add retain=30d, or what your policy wants")
	}
	return retain, lock, nil
}

// Prefix is a URL's path as the beginning of object names: "" or ending in a
// slash, without empty, "." and ".." elements and without characters that mean
// something to a shell or a policy.
func Prefix(scheme, path string) (string, error) {
	path = strings.Trim(path, "/")
	if path == "" {
		return "", nil
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\"'`\\#*?[]") || strings.ContainsFunc(part, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", problem.New(problem.Usage, `target %s: a path element that is empty, ".", "..", or holds a quote or one of \#*?[]`, scheme+"://...")
		}
	}
	return path + "/", nil
}
