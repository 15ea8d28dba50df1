package keyfind

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// variant is a text that a candidate may stand for, and what was done to it.
type variant struct {
	steps []string // none: as it stands
	text  string
}

// step is one half-known case: what happens to keys on their way between files,
// shells, compose, Kubernetes and n8n.
type step struct {
	name string
	do   func(string) []string
}

const (
	maxVariants  = 6000
	maxVaryBytes = 4 << 10 // longer texts are no keys, and only taken as they stand
)

// variants are the texts that a candidate may stand for, the simplest first, each
// once: as it stands, cleaned, and after one or two further steps.
func variants(text string) []variant {
	out := []variant{{nil, text}}
	if len(text) > maxVaryBytes {
		return out
	}
	seen := map[string]bool{text: true}
	grow := func(from int, steps []step) (to int) {
		to = len(out)
		for i := from; i < to; i++ {
			for _, s := range steps {
				for _, t := range s.do(out[i].text) {
					if t == "" || len(t) > 4*maxVaryBytes || seen[t] || len(out) >= maxVariants {
						continue
					}
					seen[t] = true
					out = append(out, variant{append(out[i].steps[:len(out[i].steps):len(out[i].steps)], s.name), t})
				}
			}
		}
		return to
	}
	clean := cleaning()
	grow(grow(0, clean), clean)
	all := append(clean, changing()...)
	grow(grow(0, all), all)
	return out
}

func one(f func(string) string) func(string) []string {
	return func(s string) []string { return []string{f(s)} }
}

func cleaning() []step {
	return []step{
		{"without the white space around it", one(trim)},
		{"without the quotes around it", unquote},
		{"without the byte order mark", one(func(s string) string { return strings.TrimPrefix(s, bom) })},
	}
}

const bom = "\ufeff"

// changing are the steps in the order of how likely they are.
func changing() []step {
	return []step{
		{"with a line break at its end", one(func(s string) string { return s + "\n" })},
		{"with a Windows line break at its end", one(func(s string) string { return s + "\r\n" })},
		{"with a carriage return at its end", one(func(s string) string { return s + "\r" })},
		{"with double quotes around it", one(func(s string) string { return `"` + s + `"` })},
		{"with single quotes around it", one(func(s string) string { return "'" + s + "'" })},
		{"with a space at its end", one(func(s string) string { return s + " " })},
		{"with a space before it", one(func(s string) string { return " " + s })},
		{"with a tab at its end", one(func(s string) string { return s + "\t" })},
		{"with a byte order mark", one(func(s string) string { return bom + s })},
		{"decoded from base64", fromBase64(textOf)},
		{"as hex instead of base64", fromBase64(func(b []byte) []string {
			return []string{hex.EncodeToString(b), strings.ToUpper(hex.EncodeToString(b))}
		})},
		{"as base64 instead of hex", fromHex(base64Forms)},
		{"decoded from hex", fromHex(textOf)},
		{"encoded in base64", func(s string) []string { return base64Forms([]byte(s)) }},
		{"encoded in base64 together with a line break", func(s string) []string { return base64Forms([]byte(s + "\n")) }},
		{"encoded in hex", one(func(s string) string { return hex.EncodeToString([]byte(s)) })},
		{"in lower case", inCase(strings.ToLower)},
		{"in upper case", inCase(strings.ToUpper)},
		{"without = at its end", one(func(s string) string { return strings.TrimRight(s, "=") })},
		{"with = at its end", func(s string) []string { return []string{s + "=", s + "=="} }},
		{"in the other alphabet of base64", func(s string) []string {
			return []string{strings.NewReplacer("-", "+", "_", "/").Replace(s), strings.NewReplacer("+", "-", "/", "_").Replace(s)}
		}},
		{"with $$ read as $", one(func(s string) string { return strings.ReplaceAll(s, "$$", "$") })},
		{"with $ written as $$", one(func(s string) string { return strings.ReplaceAll(s, "$", "$$") })},
		{"with its variables ($NAME) replaced by nothing", one(func(s string) string { return shellVariable.ReplaceAllString(s, "") })},
		{"with the shell's escapes read", func(s string) []string {
			return []string{quotedEscape.ReplaceAllString(s, "$1"), bareEscape.ReplaceAllString(s, "$1")}
		}},
		{"with the shell's escapes written", func(s string) []string {
			return []string{toEscape.ReplaceAllString(s, `\$0`), strings.ReplaceAll(s, "$", `\$`), strings.ReplaceAll(s, `\`, `\\`)}
		}},
		{"with the escapes of JSON or YAML read", one(jsonText)},
		{"with the escapes of JSON or YAML written", one(func(s string) string {
			b, _ := json.Marshal(s)
			return strings.Trim(string(b), `"`)
		})},
		{"percent-decoded", func(s string) (out []string) {
			for _, f := range []func(string) (string, error){url.PathUnescape, url.QueryUnescape} {
				if t, err := f(s); err == nil {
					out = append(out, t)
				}
			}
			return out
		}},
		{"percent-encoded", func(s string) []string {
			return []string{url.QueryEscape(s), strings.ReplaceAll(url.QueryEscape(s), "+", "%20"), url.PathEscape(s)}
		}},
		{"with HTML entities read", one(html.UnescapeString)},
		{"up to its first #", cutAt("#", " #")},
		{"up to its first space", cutAt(" ", "\t")},
		{"its first line", cutAt("\r\n", "\n", "\r")},
		{"with plain quotes, dashes and spaces", one(plain)},
		{"read as Latin-1", one(latin1)},
		{"read as Windows-1252", one(windows1252)},
		{"written as Latin-1 and read as UTF-8", unLatin1},
		{"written as Windows-1252 and read as UTF-8", unWindows1252},
		{"with U+FFFD for what is no UTF-8", one(replaced)},
		{"with U+FFFD for all but ASCII", func(s string) []string { return []string{masked(s, "\ufffd"), masked(s, "?")} }},
		{"with composed letters (NFC)", one(norm.NFC.String)},
		{"with decomposed letters (NFD)", one(norm.NFD.String)},
	}
}

var (
	shellVariable = regexp.MustCompile(`\$(\{[A-Za-z_][A-Za-z0-9_]*[^}]*\}|[A-Za-z_][A-Za-z0-9_]*|[0-9#?!@*-])`)
	quotedEscape  = regexp.MustCompile("\\\\([$`\"\\\\])")
	bareEscape    = regexp.MustCompile(`\\(.)`)
	toEscape      = regexp.MustCompile("[$`\"\\\\]")
)

// trim is what n8n from 1.116 does to its variables.
func trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return r == '\ufeff' || r != '\u0085' && unicode.IsSpace(r) })
}

func unquote(s string) []string {
	var out []string
	if len(s) >= 2 && strings.IndexByte("\"'`", s[0]) >= 0 && s[0] == s[len(s)-1] {
		out = append(out, s[1:len(s)-1])
	}
	return append(out, strings.Trim(s, "\"'`"), strings.Trim(s, "“”„‟‘’‚‛«»"))
}

func base64Forms(b []byte) []string {
	return []string{base64.StdEncoding.EncodeToString(b), base64.RawStdEncoding.EncodeToString(b),
		base64.URLEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b)}
}

func fromBase64(f func([]byte) []string) func(string) []string {
	plus := strings.NewReplacer("-", "+", "_", "/")
	return func(s string) []string {
		b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(plus.Replace(s), "="))
		if err != nil || len(b) == 0 {
			return nil
		}
		return f(b)
	}
}

func fromHex(f func([]byte) []string) func(string) []string {
	return func(s string) []string {
		b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
		if err != nil || len(b) == 0 {
			return nil
		}
		return f(b)
	}
}

// textOf are bytes as a key: as the text they are, or each byte a character.
func textOf(b []byte) []string {
	if utf8.Valid(b) {
		return []string{string(b)}
	}
	return []string{latin1(string(b)), replaced(string(b))}
}

// inCase leaves text alone that is not UTF-8: the standard library repairs it.
func inCase(f func(string) string) func(string) []string {
	return func(s string) []string {
		if !utf8.ValidString(s) {
			return nil
		}
		return []string{f(s)}
	}
}

func cutAt(marks ...string) func(string) []string {
	return func(s string) (out []string) {
		for _, m := range marks {
			if before, _, found := strings.Cut(s, m); found {
				out = append(out, before)
			}
		}
		return out
	}
}

func jsonText(s string) string {
	var out string
	if !strings.Contains(s, `\`) || json.Unmarshal([]byte(`"`+s+`"`), &out) != nil {
		return s
	}
	return out
}

// plain takes back what word processors and chats do to text.
func plain(s string) string {
	return strings.NewReplacer("“", `"`, "”", `"`, "„", `"`, "‘", "'", "’", "'", "–", "-", "—", "--", "…", "...",
		"\u00a0", " ", "\u200b", "", "\u200c", "", "\u200d", "", "\u2060", "", "\ufeff", "", "\u00ad", "").Replace(s)
}

func latin1(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}

// upper1252 are the characters of 0x80 to 0x9f; 0 where there is none.
const upper1252 = "€\x00‚ƒ„…†‡ˆ‰Š‹Œ\x00Ž\x00\x00‘’“”•–—˜™š›œ\x00žŸ"

func windows1252(s string) string {
	upper := []rune(upper1252)
	var b strings.Builder
	for _, c := range []byte(s) {
		if r := rune(c); c >= 0x80 && c < 0xa0 && upper[c-0x80] != 0 {
			b.WriteRune(upper[c-0x80])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unLatin1 takes a text apart that was UTF-8 and taken for Latin-1.
func unLatin1(s string) []string {
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r > 0xff {
			return nil
		}
		b = append(b, byte(r))
	}
	if !utf8.Valid(b) {
		return nil
	}
	return []string{string(b)}
}

func unWindows1252(s string) []string {
	back := map[rune]byte{}
	for i, r := range []rune(upper1252) {
		if r != 0 {
			back[r] = byte(0x80 + i)
		}
	}
	b := make([]byte, 0, len(s))
	for _, r := range s {
		c, ok := back[r]
		switch {
		case ok:
			b = append(b, c)
		case r <= 0xff:
			b = append(b, byte(r))
		default:
			return nil
		}
	}
	if !utf8.Valid(b) {
		return nil
	}
	return []string{string(b)}
}

// replaced is what Node makes of a variable that is no UTF-8.
func replaced(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s { // an invalid byte is U+FFFD
		b.WriteRune(r)
	}
	return b.String()
}

func masked(s, by string) string {
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
		} else {
			b.WriteString(by)
		}
	}
	return b.String()
}
