package rotate

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const (
	// leastCharacters and leastBits are what a new key must have. n8n itself makes keys
	// of 32 characters and 192 bits, "openssl rand -hex 16" has 128.
	leastCharacters = 16
	leastBits       = 96

	makeKey = `make one: "n8keep key generate --out FILE", and give it with --new-key-file FILE`
)

// checkNewKey is a pure function of both keys and the version: what speaks against
// the new key, and what to know about it. No text shows any of either key.
func checkNewKey(old, to n8ncrypt.InstanceKey, version n8ndb.Version) (refusals []Refusal, warnings []string) {
	refuse := func(code, hint, format string, args ...any) {
		refusals = append(refusals, Refusal{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint})
	}
	text := to.Reveal()
	bare := normaliseKey(text)
	switch {
	case to.Equal(old):
		refuse("new-key-same", makeKey, "the new key is the old one")
		return refusals, nil // everything else was true before
	case bare == normaliseKey(old.Reveal()):
		refuse("new-key-same", makeKey, "the new key is the old one but for white space or quotes around it")
	}
	switch why, bits := weakness(text); {
	case bare == "":
		refuse("new-key-weak", makeKey, "the new key is nothing but white space and quotes")
	case utf8.RuneCountInString(text) < leastCharacters:
		refuse("new-key-weak", makeKey, "the new key has only %s: it could be guessed", counted(int64(utf8.RuneCountInString(text)), "character"))
	case bits < leastBits:
		refuse("new-key-weak", makeKey, "the new key could be guessed: %s (about %d bits, of at least %d)", why, bits, leastBits)
	}
	switch trimmed := trimKey(text); {
	case bare == "":
	case trimmed != text && version.Before(1, 116):
		refuse("new-key-characters", "write the key without white space around it",
			"the new key begins or ends with white space, which counts as part of it in this n8n and is removed from the variable from n8n 1.116 on")
	case trimmed != text:
		refuse("new-key-characters", "write the key without white space around it; one line end at the end of the file does not count",
			"the new key begins or ends with white space, which n8n removes when the key is in a variable and keeps when it is in the config file")
	case bare != text && version.Before(1, 116):
		refuse("new-key-characters", "write the key without quotes",
			"the new key stands in quotes, which count as part of it in this n8n and are removed from the variable from n8n 1.116 on")
	case bare != text:
		refuse("new-key-characters", "write the key without quotes",
			"the new key stands in quotes, which n8n removes when the key is in a variable and keeps when it is in the config file")
	}
	if strings.ContainsFunc(bare, unicode.IsControl) {
		refuse("new-key-characters", makeKey, "the new key holds line ends or other control characters, which no environment file can carry")
	}
	switch beyond := func(r rune) bool { return r > 0x7e }; {
	case !strings.ContainsFunc(bare, beyond):
	case version.Before(1, 16):
		refuse("new-key-characters", makeKey, "the new key holds characters beyond ASCII, which n8n before 1.16 reads in another way than later versions")
	case strings.ContainsFunc(bare, func(r rune) bool { return r > 0xff }):
		refuse("new-key-characters", makeKey, "the new key holds characters beyond Latin-1, of which n8n uses one byte only")
	default:
		warnings = append(warnings, "the new key holds characters beyond ASCII: files and shells in another encoding make another key of it")
	}
	if strings.ContainsAny(bare, " $#\"'`\\") {
		warnings = append(warnings, "the new key holds characters that compose files, systemd units and shells change unless they are quoted (one of space $ # \" ' ` \\)")
	}
	return refusals, warnings
}

// normaliseKey is what n8n 1.116 and later do to the variable: String.prototype.trim,
// then one pair of quotes.
func normaliseKey(s string) string {
	s = trimKey(s)
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[0] == s[len(s)-1] {
		return s[1 : len(s)-1]
	}
	return s
}

// trimKey is JavaScript's trim: U+FEFF is white space and U+0085 is not.
func trimKey(s string) string {
	return strings.TrimFunc(s, func(r rune) bool { return r == '\uFEFF' || r != '\u0085' && unicode.IsSpace(r) })
}

// weakness estimates how many bits whoever wrote the text chose at random, and says
// what makes it few. It is meant to be wrong on one side only: text that a random
// generator made, of 128 bits and more, is never weak, but a clever human may pass.
func weakness(text string) (why string, bits int) {
	if inner, form := encodedText(text); inner != "" {
		if _, bits := weakness(inner); bits < leastBits {
			return "it is " + form + " of readable text", bits
		}
		return "it is " + form + " of readable text", min(bits, 13*len(inner)/5)
	}
	runes := []rune(text)
	period := shortestPeriod(runes)
	if period < len(runes) && period <= len(runes)/2 {
		_, bits := weakness(string(runes[:period]))
		return "it repeats itself", bits
	}
	distinct := map[rune]bool{}
	for _, r := range runes {
		distinct[r] = true
	}
	per := alphabetBits(text)
	if parts := phrase(text); len(parts) > 0 && per > 4 {
		for _, p := range parts {
			bits += min(13, int(per*float64(len(p))))
		}
		return "it is made of words", bits
	}
	var total float64
	steps, words := 0, 0
	for i := 0; i < len(runes); {
		n := 1
		switch w, r := usualWord(runes[i:]), sequence(runes[i:]); {
		case w > 0:
			words, n = words+w, w
			total += 3
		case r > 0: // as good as its begin and its length
			steps, n = steps+r, r
			total += per + 2
		default:
			total += per
		}
		i += n
	}
	// A random text has many different characters, too.
	total = math.Min(total, float64(len(runes))*math.Log2(float64(len(distinct))+0.5)*1.15)
	bits = int(total)
	switch {
	case steps > 0 && steps >= words:
		why = "it has runs of equal or consecutive characters"
	case words > 0:
		why = "it is made of words"
	case len(distinct) < len(runes)/3:
		why = "it has few different characters"
	default:
		why = "it is short for the characters that it is made of"
	}
	return why, bits
}

// sequence is the length of the run of equal or consecutive characters, such as 0000
// or 4567, that the text begins with; 0 for less than four.
func sequence(s []rune) int {
	if len(s) < 4 {
		return 0
	}
	step := s[1] - s[0]
	if step < -1 || step > 1 {
		return 0
	}
	n := 2
	for n < len(s) && s[n]-s[n-1] == step {
		n++
	}
	if n < 4 {
		return 0
	}
	return n
}

var phrasePart = regexp.MustCompile(`[A-Z]?[a-z]+|[A-Z]+|[0-9]+`)

// phrase takes a text apart that is words with separators or capitals between. Random
// text is not: its parts are short.
func phrase(text string) []string {
	separators := 0
	joined := strings.Map(func(r rune) rune {
		if strings.ContainsRune(" -_.,:", r) {
			separators++
			return -1
		}
		return r
	}, text)
	var parts []string
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" -_.,:", r) }) {
		found := phrasePart.FindAllString(word, -1)
		if separators >= 2 && len(found) > 2 {
			return nil
		}
		parts = append(parts, found...)
	}
	digits := strings.ContainsAny(text, "0123456789")
	if len(parts) < 2 || strings.Join(parts, "") != joined || len(joined) < 3*len(parts) || separators < 2 && digits {
		return nil
	}
	if separators < 2 && len(joined) < 5*len(parts) {
		return nil
	}
	for _, p := range parts {
		if len(p) >= 4 && !pronounceable(p) {
			return nil
		}
	}
	return parts
}

// pronounceable reports whether a part has vowels as often as words have, or is a
// number.
func pronounceable(part string) bool {
	vowels, run := 0, 0
	for _, r := range strings.ToLower(part) {
		switch {
		case r >= '0' && r <= '9':
			return len(part) <= 8
		case strings.ContainsRune("aeiouy", r):
			vowels, run = vowels+1, 0
		default:
			if run++; run > 4 {
				return false
			}
		}
	}
	return vowels*5 >= len(part) && vowels*4 <= 3*len(part)
}

// usualWord is the length of a word at the begin of the text that people put into keys.
func usualWord(s []rune) int {
	head := strings.ToLower(string(s[:min(len(s), 12)]))
	for _, w := range []string{"encryption", "production", "password", "changeme", "example", "private", "default", "secret", "change", "random",
		"string", "please", "master", "docker", "server", "super", "admin", "token", "local", "hello", "world", "qwerty", "asdf", "test", "your",
		"prod", "this", "here", "pass", "n8n", "key"} {
		if strings.HasPrefix(head, w) {
			return len(w)
		}
	}
	return 0
}

// encodedText is the readable text that was made into base64 or hexadecimal digits.
func encodedText(text string) (inner, form string) {
	readable := func(b []byte) bool {
		if len(b) < 8 || !utf8.Valid(b) {
			return false
		}
		letters := 0
		for _, r := range string(b) {
			if !unicode.IsPrint(r) && r != '\n' {
				return false
			}
			if unicode.IsLetter(r) || unicode.IsDigit(r) || r == ' ' {
				letters++
			}
		}
		return letters*5 >= 4*len(b)
	}
	if b, err := hex.DecodeString(text); err == nil && readable(b) {
		return string(b), "the hexadecimal form"
	}
	raw := strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(text), "=")
	if b, err := base64.RawStdEncoding.DecodeString(raw); err == nil && readable(b) {
		return string(b), "base64"
	}
	return "", ""
}

// shortestPeriod is the length of the shortest beginning of which the text is a
// repetition, the last one perhaps cut.
func shortestPeriod(s []rune) int {
	for p := 1; p < len(s); p++ {
		same := true
		for i := p; i < len(s) && same; i++ {
			same = s[i] == s[i-p]
		}
		if same {
			return p
		}
	}
	return len(s)
}

// alphabetBits is how much one random character of such a text is worth.
func alphabetBits(text string) float64 {
	var lower, upper, digit, other bool
	hexed := true
	for _, r := range text {
		switch {
		case r >= '0' && r <= '9':
			digit = true
		case r >= 'a' && r <= 'z':
			lower = true
			hexed = hexed && r <= 'f'
		case r >= 'A' && r <= 'Z':
			upper = true
			hexed = hexed && r <= 'F'
		case r == '-':
		default:
			other, hexed = true, false
		}
	}
	if hexed && !(lower && upper) {
		if !lower && !upper {
			return math.Log2(10)
		}
		return 4
	}
	size := 0.0
	for _, c := range []struct {
		has bool
		n   float64
	}{{lower, 26}, {upper, 26}, {digit, 10}, {other, 8}} {
		if c.has {
			size += c.n
		}
	}
	return math.Log2(size)
}
