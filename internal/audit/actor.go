package audit

import (
	"os"
	"os/user"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Actor is who acts, with where the name comes from: "os:root", or
// "os:uid-1000" for a user without a name, as in containers.
type Actor string

// CurrentActor is the user this process runs as. The name is the system's own
// for the real user id, never $USER, which anybody can set.
func CurrentActor() Actor {
	uid := strconv.Itoa(os.Getuid())
	u, err := user.LookupId(uid)
	if err != nil || u.Username == "" {
		return Actor("os:uid-" + uid)
	}
	return Actor("os:" + cleanName(u.Username))
}

// cleanName keeps an account name readable and in one piece: sudo's variable is
// a claim of the environment and could hold anything.
func cleanName(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(`._-@\$`, r) {
			return r
		}
		return '_'
	}, s)
	if len(s) > 64 {
		s = strings.ToValidUTF8(s[:64], "")
	}
	return s
}

const refused = "[refused]"

// looksSecret knows the shapes that must never be recorded, whatever the caller
// believes: age identities, PEM keys, crypto-js and GCM ciphertexts, addresses
// with a password.
var looksSecret = regexp.MustCompile(`(?i)AGE-SECRET-KEY-|-----BEGIN|U2FsdGVkX1|://[^/\s]*:[^/\s]*@|password=|^[A-Za-z0-9+/]{80,}={0,2}$`)

// clean returns a copy of detail with ids and counts only.
func (l *Log) clean(detail map[string]any) map[string]any {
	out := make(map[string]any, len(detail))
	for k, v := range detail {
		switch v := v.(type) {
		case bool, int, int64, int32, uint64, uint32, uint:
			out[k] = v
		case string:
			out[k] = cleanText(v)
		case []string:
			list := make([]string, len(v))
			for i, s := range v {
				list[i] = cleanText(s)
			}
			out[k] = list
		default:
			out[k] = refused
		}
		if s, ok := out[k].(string); ok && s == refused {
			l.logger.Warn("audit detail refused", "detail", k)
		}
	}
	return out
}

func cleanText(s string) string {
	if len(s) > 512 || looksSecret.MatchString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return refused
	}
	return s
}
