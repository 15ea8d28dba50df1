package deploy

import (
	"encoding/base64"
	"math"
	"regexp"
	"strings"
)

// scan redacts what is secret inside of a value that as a whole is none.
func (r *redactor) scan(l leaf) {
	r.privateKeys(l)
	r.shapes(l)
	r.urls(l)
	r.authorizations(l)
	r.assignments(l)
	r.flags(l)
	r.randoms(l)
}

var (
	pemBegin = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----`)
	pemEnd   = regexp.MustCompile(`-----END [A-Z0-9 ]*-----`)
)

func (r *redactor) privateKeys(l leaf) {
	s := l.txt.s
	for at := 0; ; {
		m := pemBegin.FindStringIndex(s[at:])
		if m == nil {
			return
		}
		from, to := at+m[0], len(s)
		if end := pemEnd.FindStringIndex(s[at+m[1]:]); end != nil {
			to = at + m[1] + end[1]
		}
		r.edit(l.row, l.txt.slice(from, to).trim(), PrivateKey)
		at = to
	}
}

var (
	// What services make recognisable on purpose, so that it is found when leaked,
	// and what n8n and OpenSSL make of a secret.
	tokenShape = regexp.MustCompile(`AGE-SECRET-KEY-[A-Z0-9-]{20,}` +
		`|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)?` +
		`|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}` +
		`|\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\bsk-[A-Za-z0-9_-]{20,}|\b[rs]k_(?:live|test)_\w{10,}` +
		`|\bhvs\.[\w-]{20,}|\bAIza[\w-]{30,}|\bn8n_api_\w{16,}|\bdckr_pat_[\w-]{16,}|\bnpm_\w{30,}` +
		`|\bU2FsdGVkX1[A-Za-z0-9+/]{8,}={0,2}` +
		`|hooks\.slack\.com/(?:services|workflows|triggers)/([\w/-]+)|discord(?:app)?\.com/api/webhooks/(\d+/[\w-]+)|api\.telegram\.org/bot(\d+:[\w-]+)`)
	hashShape = regexp.MustCompile(`\$?\$(?:apr1|1|2[abxy]|5|6|y|argon2(?:id|i|d)?|scrypt)\$[./A-Za-z0-9$=,+-]{8,}|\{SSHA\}[A-Za-z0-9+/=]{8,}|\{SHA\}[A-Za-z0-9+/=]{8,}`)
)

func (r *redactor) shapes(l leaf) {
	for _, m := range tokenShape.FindAllStringSubmatchIndex(l.txt.s, -1) {
		from, to := m[0], m[1]
		for g := 2; g < len(m); g += 2 {
			if m[g] >= 0 {
				from, to = m[g], m[g+1]
			}
		}
		if !strings.HasPrefix(l.txt.s[from:to], "REDACTED") {
			r.edit(l.row, l.txt.slice(from, to), TokenShape)
		}
	}
	for _, m := range hashShape.FindAllStringIndex(l.txt.s, -1) {
		r.edit(l.row, l.txt.slice(m[0], m[1]), HashShape)
	}
}

var (
	driverDSN = regexp.MustCompile(`(?:^|[\s"'=])[^\s:@/"'=]+:([^\s"']+)@(?:tcp|unix)\(`)
	noScheme  = regexp.MustCompile(`^[\w.+-]+:([^\s@]+)@[A-Za-z0-9.-]+(?::[0-9]+)?(?:/\S*)?$`)
	imageAt   = regexp.MustCompile(`@sha(?:256|512):`)
	portThen  = regexp.MustCompile(`^[0-9]+(?:/[^?]*\?|\?|/(?:.*/)?$)`)
)

// urls redacts the password of scheme://user:password@host.
func (r *redactor) urls(l leaf) {
	s := l.txt.s
	for at := 0; ; {
		n := strings.Index(s[at:], "://")
		if n < 0 {
			break
		}
		at += n + 3
		r.userinfo(l, at)
	}
	if m := driverDSN.FindStringSubmatchIndex(s); m != nil {
		r.secret(l, l.txt.slice(m[2], m[3]), URLPassword)
	}
	if m := noScheme.FindStringSubmatchIndex(s); m != nil && !imageAt.MatchString(s) && !strings.Contains(s, "://") {
		r.secret(l, l.txt.slice(m[2], m[3]), URLPassword)
	}
}

// userinfo redacts the password in what stands between from, which is behind
// "://", and a host. People do not always escape passwords, so the last "@" that
// a host could follow ends it, not the first "/".
func (r *redactor) userinfo(l leaf, from int) {
	s := l.txt.s
	colon, last := -1, -1
	for i := from; i < len(s); {
		if ref, ok := referenceAt(s, i, l.refs); ok {
			i = ref.to
			continue
		}
		c := s[i]
		if strings.IndexByte(" \t\r\n\"'<>`", c) >= 0 || strings.HasPrefix(s[i:], "://") {
			break
		}
		if c == ':' && colon < 0 {
			colon = i
		}
		if c == '@' && i+1 < len(s) && (isAlnum(s[i+1]) || strings.IndexByte("[${/%_", s[i+1]) >= 0) {
			last = i
		}
		i++
	}
	switch {
	case last < 0:
	case colon >= 0 && colon < last:
		if !portThen.MatchString(s[colon+1 : last]) {
			r.secret(l, l.txt.slice(colon+1, last), URLPassword)
		}
	case last-from >= 16 && !strings.ContainsAny(s[from:last], "/?#"): // a token instead of a user
		r.secret(l, l.txt.slice(from, last), URLPassword)
	}
}

var (
	scheme   = regexp.MustCompile(`(?i)\b(bearer|basic)[ \t]+([A-Za-z0-9._~+/=-]{6,})`)
	header   = regexp.MustCompile(`(?i)authorization["']?[ \t]*[:=][ \t]*["']?(?:(?:bearer|basic|token|apikey|digest|negotiate)[ \t]+)?([^\s"']+)`)
	digit    = regexp.MustCompile(`[0-9]`)
	isScheme = regexp.MustCompile(`^(?i:bearer|basic|token|apikey|digest|negotiate)$`)
)

// authorizations redacts what stands behind "Bearer" and "Basic", when it is no
// prose, and in an Authorization header.
func (r *redactor) authorizations(l leaf) {
	s := l.txt.s
	for _, m := range scheme.FindAllStringSubmatchIndex(s, -1) {
		value := s[m[4]:m[5]]
		if strings.EqualFold(s[m[2]:m[3]], "basic") {
			b, err := base64.StdEncoding.DecodeString(value)
			if err != nil || !strings.Contains(string(b), ":") {
				continue
			}
		} else if len(value) < 16 && !digit.MatchString(value) || strings.HasPrefix(value, "REDACTED") {
			continue
		}
		r.secret(l, l.txt.slice(m[4], m[5]), Authorization)
	}
	for _, m := range header.FindAllStringSubmatchIndex(s, -1) {
		if !isScheme.MatchString(s[m[2]:m[3]]) {
			r.secret(l, l.txt.slice(m[2], m[3]), Authorization)
		}
	}
}

var (
	assignment = regexp.MustCompile("([A-Za-z_][A-Za-z0-9_.-]*)([\"'`]?\\]?[ \\t]*(?:=>|:=|=|:)[ \\t]*)")
	lineStart  = regexp.MustCompile("^[\\s#;]*(?:- )?[\\s\"'`{]*(?i:(?:export|set|env|arg|local|const|let|var|declare(?: -x)?) +)?[\"'`]?$")
	versionTag = regexp.MustCompile(`^v?[0-9]+(?:\.|$)`)
	blockStart = regexp.MustCompile(`^[|>][0-9+-]*$`)
)

// maxWord bounds how far is looked for the end of a thing that has one nearby.
const maxWord = 1024

// assignments redacts the values of "name=value" and "name: value".
func (r *redactor) assignments(l leaf) {
	s := l.txt.s
	lined := l.words || strings.Contains(s, "\n")
	start, seen := 0, 0
	for at := 0; at < len(s); {
		m := assignment.FindStringSubmatchIndex(s[at:])
		if m == nil {
			return
		}
		for i := range m {
			m[i] += at
		}
		at = m[1]
		name, sep := s[m[2]:m[3]], s[m[4]:m[5]]
		if m[2] > 0 && isAlnum(s[m[2]-1]) {
			continue
		}
		if ref, ok := referenceAt(s, max(0, m[2]-2), l.refs); ok && m[2] >= 2 && ref.to > m[2] {
			// In ${PASSWORD:-x} only the x is one.
			for _, d := range ref.defaults {
				if t := l.txt.slice(d[0], d[1]); namesSecret(name, t.s) {
					r.secret(l, t, ByName)
				}
			}
			continue
		}
		if n := strings.LastIndexByte(s[seen:m[2]], '\n'); n >= 0 {
			start = seen + n + 1
		}
		seen = m[2]
		v := judge(name)
		if v <= exempt {
			from, to := assigned(s[:min(len(s), m[1]+maxWord)], m[1], false)
			r.needle(l.row+"."+name, l.txt.slice(from, to))
			continue
		}
		whole := lined && m[2]-start < maxWord && lineStart.MatchString(s[start:m[2]])
		from, to := assigned(s, m[1], whole)
		value := s[from:to]
		r.needle(l.row+"."+name, l.txt.slice(from, to))
		equals := strings.Contains(sep, "=")
		quoted := strings.ContainsAny(sep, "\"'`") || from > m[1]
		switch {
		case isSwitch(value) || isScheme.MatchString(value) && !whole:
			continue
		case v == bareKey && !looksRandom(value):
			continue
		case v == weak && !equals && !quoted && !(whole && !l.words):
			continue
		case !equals && !quoted && strings.TrimRight(sep, " \t") == sep && !glued(value):
			continue
		case !namesSecret(name, value):
			continue
		}
		if whole && blockStart.MatchString(strings.TrimSpace(value)) {
			from, to = indented(s, start, to)
		}
		r.secret(leaf{row: l.row + "." + name, txt: l.txt, refs: l.refs}, l.txt.slice(from, to), ByName)
		at = max(at, to)
	}
}

// glued reports whether what follows a colon without a space looks like a
// secret, and not like the tag of an image or a path.
func glued(value string) bool {
	return len(value) > maxWord || len(value) >= 8 && !versionTag.MatchString(value) && value[0] != '/' && value[0] != '.' && digit.MatchString(value) &&
		strings.ContainsFunc(value, func(r rune) bool { return r|0x20 >= 'a' && r|0x20 <= 'z' })
}

// assigned is the span of the value that begins at s[at]: what is in quotes, or
// the rest of the line when the assignment has a line to itself, or a word.
func assigned(s string, at int, whole bool) (from, to int) {
	end := len(s)
	if n := strings.IndexByte(s[at:], '\n'); n >= 0 {
		end = at + n
	}
	if at < end && strings.IndexByte("\"'`", s[at]) >= 0 {
		if n := closing(s[at+1:], s[at]); n >= 0 && (at+1+n <= end || whole) {
			return at + 1, at + 1 + n
		}
		return at + 1, end
	}
	if whole {
		return at, at + len(strings.TrimRight(s[at:end], " \t\r,;\\\"'"))
	}
	to = at
	for to < end && strings.IndexByte(" \t\r\"'`&", s[to]) < 0 {
		if strings.HasPrefix(s[to:end], "${") || strings.HasPrefix(s[to:end], "{{") || strings.HasPrefix(s[to:end], "$(") {
			if ref, ok := referenceAt(s[:end], to, braced); ok {
				to = ref.to
				continue
			}
		}
		to++
	}
	return at, to
}

// closing is the offset of the quote that ends a quoted text, or -1.
func closing(s string, quote byte) int {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote != '\'':
			i++
		case s[i] == quote:
			return i
		}
	}
	return -1
}

// indented is the span of the lines after the one at start that are indented
// deeper; to is the end of that line.
func indented(s string, start, to int) (int, int) {
	depth := len(s[start:]) - len(strings.TrimLeft(s[start:], " "))
	eol := strings.IndexByte(s[to:], '\n')
	if eol < 0 {
		return to, to
	}
	from := to + eol + 1
	end := from
	for at := from; at < len(s); {
		next := len(s)
		if n := strings.IndexByte(s[at:], '\n'); n >= 0 {
			next = at + n + 1
		}
		line := s[at:next]
		if text := strings.TrimLeft(line, " "); strings.TrimSpace(text) != "" {
			if len(line)-len(text) <= depth {
				break
			}
			end = next
		}
		at = next
	}
	return from, end
}

var (
	flagged = regexp.MustCompile(`(?:^|[\s"'\x60=(])--?([A-Za-z][A-Za-z0-9_.-]*)(?:[ \t]+|[ \t]*\\?\r?\n[ \t]*)(?:"([^"\n]+)"|'([^'\n]+)'|([^\s"']+))`)
	// Flags and settings whose name alone does not tell.
	commands = regexp.MustCompile(`\b(?:redis-cli|valkey-cli)\b[^\n;&|]*?\s(?:-a|--pass)[ \t]+["']?([^\s"']+)` +
		`|\bsshpass[ \t]+-p[ \t]*["']?([^\s"']+)` +
		`|\b(?:mysql|mysqladmin|mysqldump|mariadb|mariadb-admin|mariadb-dump)\b[^\n;&|]*?\s-p["']?([^\s"']+)` +
		`|\bcurl\b[^\n;&|]*?\s(?:-u|--user)[ \t]+["']?[^\s"':]*:([^\s"']+)` +
		`|(?:^|\n)[ \t#]*(?:requirepass|masterauth)[ \t]+["']?([^\s"']+)`)
)

// flags redacts the word after a command line flag that is named like a secret.
func (r *redactor) flags(l leaf) {
	s := l.txt.s
	if !strings.Contains(s, "-") && !strings.Contains(s, "requirepass") && !strings.Contains(s, "masterauth") {
		return
	}
	for at := 0; at < len(s); {
		m := flagged.FindStringSubmatchIndex(s[at:])
		if m == nil {
			break
		}
		name := s[at+m[2] : at+m[3]]
		for g := 4; g < len(m); g += 2 {
			if m[g] < 0 {
				continue
			}
			from, to := at+m[g], at+m[g+1]
			if value := s[from:to]; isFlagForSecret(name) && value[0] != '-' && namesSecret(name, value) {
				r.secret(l, l.txt.slice(from, to), Flag)
			}
		}
		// The word after it may be a flag itself.
		at += m[3]
	}
	for _, m := range commands.FindAllStringSubmatchIndex(s, -1) {
		for g := 2; g < len(m); g += 2 {
			if m[g] >= 0 {
				r.secret(l, l.txt.slice(m[g], m[g+1]), Flag)
			}
		}
	}
}

func isFlagForSecret(name string) bool { return judge(name) >= weak }

var (
	randomWord = regexp.MustCompile(`[A-Za-z0-9+/_-]{20,}={0,2}`)
	uuid       = regexp.MustCompile(`^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)
	checksum   = regexp.MustCompile(`(?i:sha(?:1|256|384|512)[:-]|md5:)$`)
)

// randoms reports what looks random.
func (r *redactor) randoms(l leaf) {
	if r.cfg.KeepSecrets {
		return
	}
	for _, m := range randomWord.FindAllStringIndex(l.txt.s, -1) {
		if looksRandom(l.txt.s[m[0]:m[1]]) && !checksum.MatchString(l.txt.s[max(0, m[0]-8):m[0]]) {
			r.report(l.row, l.txt.slice(m[0], m[1]), Random)
		}
	}
}

// looksRandom reports a word of at least 20 characters that holds letters and
// digits in no order. A UUID is an identifier and does not count.
func looksRandom(s string) bool {
	w := randomWord.FindString(s)
	if len(w) != len(s) || uuid.MatchString(s) || strings.Count(s, "/") > len(s)/10+1 || !digit.MatchString(s) {
		return false
	}
	var counts [256]int
	letters := 0
	for i := range len(s) {
		counts[s[i]]++
		if c := s[i] | 0x20; c >= 'a' && c <= 'z' {
			letters++
		}
	}
	bits := 0.0
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / float64(len(s))
			bits -= p * math.Log2(p)
		}
	}
	// Random hexadecimal digits have nearly 4 bits each, words in English about as
	// many as that, but hardly a digit.
	return letters > 0 && bits >= 3 && strings.Count(s, "-") <= 2 && len(digit.FindAllString(s, -1)) >= 3
}

// distinct reports a value that is certainly nothing but the secret it is.
func distinct(s string) bool {
	if strings.ContainsAny(s, "\n") || len(s) > 4096 || redactedPart.MatchString(s) {
		return false
	}
	var digits, lower, upper, other bool
	for _, c := range s {
		switch {
		case c >= '0' && c <= '9':
			digits = true
		case c >= 'a' && c <= 'z':
			lower = true
		case c >= 'A' && c <= 'Z':
			upper = true
		case c != '-' && c != '_' && c != '.' && c != '/':
			other = true
		}
	}
	if len(s) >= 16 {
		return digits && (lower || upper) || lower && upper || other
	}
	return len(s) >= 8 && digits && (lower || upper) && (lower && upper || other)
}
