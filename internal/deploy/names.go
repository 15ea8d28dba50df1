package deploy

import (
	"regexp"
	"strings"
	"unicode"
)

// verdict is what a name says about its value.
type verdict int

const (
	harmless verdict = iota
	exempt           // about a secret, but not one: PASSWORD_FILE, TOKEN_TTL, existingSecret
	bareKey          // just "key", which is a secret or the name of something
	weak             // a secret unless the value is plainly something else
	strong           // a secret
)

var (
	strongPart = regexp.MustCompile(`password|passwd|passphrase|passcode|secret|credential|apikey|requirepass|htpasswd|connectionstring|privatekey|encryptionkey|authtoken|accesstoken|masterauth|basicauth`)
	keyPart    = regexp.MustCompile(`^(access|auth|admin|account|aes|app|cipher|client|crypt|crypto|hmac|host|jwt|license|licence|master|rsa|server|service|session|shared|signing|ssh|ssl|storage|tls|user|webhook)key$`)
	strongWord = regexp.MustCompile(`^(?:token|tokens|pass|pwd|dsn|authorization|pgpass|pat)$`)
	weakWord   = regexp.MustCompile(`^(?:key|keys|auth|private|salt|jwt|basicauth|license|licence|activation)$`)
	// A key of one of these kinds is a secret without a doubt.
	keyKind = regexp.MustCompile(`^(?:` + `api|access|encryption|master|signing|private|session|account|storage|shared|license|licence|` +
		`activation|webhook` + `)$`)
	// Settings about a secret end in one of these.
	exemptLast = regexp.MustCompile(`^(?:` + `file|files|path|paths|dir|directory|folder|name|names|type|kind|method|methods|mode|algorithm|` +
		`alg|url|uri|urls|endpoint|endpoints|host|hostname|port|address|user|username|email|enabled|` +
		`enable|disabled|disable|active|required|length|size|ttl|expiry|expires|expiration|` +
		`expirationseconds|duration|timeout|age|hours|minutes|seconds|days|interval|count|limit|min|max|` +
		`version|prefix|suffix|header|namespace|claim|issuer|audience|scope|scopes|ref|refs|realm|` +
		`provider|strategy|policy|format|encoding|pattern|regex|field|fields|offset|class|permissions|` +
		`attempts|retries|rounds|cost|rotation|store|driver|usersfile` + `)$`)
	aboutNumber = regexp.MustCompile(`^(?:max|min|limit|length|count|num|number|size|per)$`)
	// Leaves below a secret's name that refer to it instead of holding it.
	referenceLeaf = regexp.MustCompile(`^(?:` + `name|key|file|path|mode|defaultmode|optional|external|environment|source|target|uid|gid|type|` +
		`enabled|create|driver|items|namespace|kind|apiversion|property|version|algorithm|size|` +
		`template_driver` + `)$`)
)

// judge says what a name says about its value.
func judge(name string) verdict {
	all := words(name)
	if len(all) == 0 {
		return harmless
	}
	last := all[len(all)-1]
	joined := strings.Join(all, "")
	if all[0] == "existing" || strings.HasSuffix(joined, "pullsecrets") || strings.HasSuffix(joined, "secretproviderclass") {
		return exempt
	}
	v := harmless
	for i, w := range all {
		switch {
		case strongWord.MatchString(w), strongPart.MatchString(w), keyPart.MatchString(w):
			v = max(v, strong)
		case strings.HasSuffix(w, "token"), strings.HasSuffix(w, "pass") && w != "compass" && w != "bypass":
			v = max(v, strong)
		case (w == "key" || w == "keys") && i > 0 && keyKind.MatchString(all[i-1]):
			v = max(v, strong)
		case (w == "string" || w == "strings") && i > 0 && (all[i-1] == "connection" || all[i-1] == "conn"):
			v = max(v, strong)
		}
	}
	// In names with dots, such as labels, the front is what people chose.
	end := all
	if parts := strings.Split(name, "."); len(parts) > 2 {
		end = words(strings.Join(parts[len(parts)-2:], "."))
	}
	for i, w := range end {
		if weakWord.MatchString(w) && !(w == "key" && i > 0 && (end[i-1] == "public" || end[i-1] == "pub" || end[i-1] == "publishable")) {
			v = max(v, weak)
		}
	}
	switch {
	case v == harmless:
		return harmless
	case last == "id" || last == "ids":
		// AppRole's secret_id is one, and so, to most people, is an access key's id.
		if strings.Contains(joined, "secret") || strings.Contains(joined, "accesskey") {
			return weak
		}
		return exempt
	case exemptLast.MatchString(last), strings.HasSuffix(last, "file"), strings.HasSuffix(last, "path"), strings.HasSuffix(last, "dir"):
		return exempt
	case len(all) == 1 && (last == "key" || last == "keys"):
		return bareKey
	case len(all) == 1 && (last == "license" || last == "licence"), strings.HasSuffix(joined, "licenses"):
		return exempt
	}
	return v
}

// aboutCount reports a name such as MAX_TOKENS, whose number is no secret.
func aboutCount(name string) bool {
	for _, w := range words(name) {
		if aboutNumber.MatchString(w) {
			return true
		}
	}
	return false
}

// words splits a name at separators and where its case changes, in lower case.
func words(name string) []string {
	var out []string
	var cur []rune
	flush := func() {
		if len(cur) > 0 {
			out = append(out, strings.ToLower(string(cur)))
			cur = nil
		}
	}
	rs := []rune(name)
	for i, r := range rs {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			flush()
			continue
		}
		if i > 0 && unicode.IsUpper(r) && (unicode.IsLower(rs[i-1]) || unicode.IsUpper(rs[i-1]) && i+1 < len(rs) && unicode.IsLower(rs[i+1])) {
			flush()
		}
		cur = append(cur, r)
	}
	flush()
	return out
}
