package keyfind

import (
	"slices"
	"strings"
	"testing"
)

// TestVariants: what stands in a file, what n8n has, and how it is said.
func TestVariants(t *testing.T) {
	for name, tc := range map[string]struct{ file, key, steps string }{
		"as it stands":              {"my-key", "my-key", ""},
		"white space":               {" my-key\t\r\n", "my-key", "without the white space around it"},
		"quotes":                    {`"my-key"`, "my-key", "without the quotes around it"},
		"back quotes":               {"`my-key`", "my-key", "without the quotes around it"},
		"half a quote":              {`my-key'`, "my-key", "without the quotes around it"},
		"typographic quotes":        {`“my-key”`, "my-key", "without the quotes around it"},
		"quotes and a line break":   {"'my-key'\r\n", "my-key", "without the white space around it, without the quotes around it"},
		"byte order mark":           {"\ufeffmy-key", "my-key", "without the white space around it"},
		"n8n has the mark":          {"my-key", "\ufeffmy-key", "with a byte order mark"},
		"n8n has the line break":    {"my-key", "my-key\n", "with a line break at its end"},
		"a Windows line break":      {"my-key", "my-key\r\n", "with a Windows line break at its end"},
		"a carriage return":         {"my-key", "my-key\r", "with a carriage return at its end"},
		"n8n has the quotes":        {"my-key", `"my-key"`, "with double quotes around it"},
		"single quotes":             {"my-key", "'my-key'", "with single quotes around it"},
		"n8n has a space":           {"my-key", "my-key ", "with a space at its end"},
		"a space before":            {"my-key", " my-key", "with a space before it"},
		"secret of Kubernetes":      {"bXktc2VjcmV0LWtleQ==", "my-secret-key", "decoded from base64"},
		"the same with echo":        {"bXktc2VjcmV0LWtleQo=", "my-secret-key\n", "decoded from base64"},
		"echo, then trimmed":        {"bXktc2VjcmV0LWtleQo=", "my-secret-key", "decoded from base64, without the white space around it"},
		"base64 given as key":       {"my-secret-key", "bXktc2VjcmV0LWtleQ==", "encoded in base64"},
		"base64 of echo":            {"my-secret-key", "bXktc2VjcmV0LWtleQo=", "encoded in base64 together with a line break"},
		"hex of the same bytes":     {"AAECAwQFBgcICf8=", "00010203040506070809ff", "as hex instead of base64"},
		"upper hex":                 {"AAECAwQFBgcICf8=", "00010203040506070809FF", "as hex instead of base64"},
		"base64 of the same bytes":  {"00010203040506070809ff", "AAECAwQFBgcICf8=", "as base64 instead of hex"},
		"unpadded":                  {"00010203040506070809ff", "AAECAwQFBgcICf8", "as base64 instead of hex"},
		"hex of text":               {"6d792d6b6579", "my-key", "decoded from hex"},
		"upper case":                {"abcdef0123", "ABCDEF0123", "in upper case"},
		"lower case":                {"ABCDEF0123", "abcdef0123", "in lower case"},
		"padding lost":              {"AAECAwQFBgcICf8", "AAECAwQFBgcICf8=", "with = at its end"},
		"padding too much":          {"AAECAwQFBgcICf8=", "AAECAwQFBgcICf8", "without = at its end"},
		"alphabets":                 {"a-b_c-d_", "a+b/c+d/", "in the other alphabet of base64"},
		"compose doubles":           {"a$$b", "a$b", "with $$ read as $"},
		"compose is not used":       {"a$b", "a$$b", "with $ written as $$"},
		"compose replaced":          {"ab$cd-ef", "ab-ef", "with its variables ($NAME) replaced by nothing"},
		"with braces":               {"ab${cd:-x}ef", "abef", "with its variables ($NAME) replaced by nothing"},
		"shell":                     {`a\$b\"c`, `a$b"c`, "with the shell's escapes read"},
		"written for a shell":       {`a$b`, `a\$b`, "with the shell's escapes written"},
		"JSON":                      {`a\u00fcb\/c`, `aüb/c`, "with the escapes of JSON or YAML read"},
		"percent":                   {"a%2Fb%3D", "a/b=", "percent-decoded"},
		"plus":                      {"a+b%2F", "a b/", "percent-decoded"},
		"n8n has the percent":       {"a/b=", "a%2Fb%3D", "percent-encoded"},
		"entities":                  {"a&amp;b", "a&b", "with HTML entities read"},
		"dotenv cut it":             {"ab#cd", "ab", "up to its first #"},
		"a comment":                 {"ab #cd", "ab", "up to its first #"},
		"a word":                    {"ab cd", "ab", "up to its first space"},
		"a line":                    {"ab\ncd", "ab", "its first line"},
		"word processor":            {"a–b\u00a0c", "a-b c", "with plain quotes, dashes and spaces"},
		"latin-1":                   {"k\xfcy", "küy", "read as Latin-1"},
		"windows":                   {"k\x80y", "k€y", "read as Windows-1252"},
		"no UTF-8 for Node":         {"k\xfcy", "k\ufffdy", "with U+FFFD for what is no UTF-8"},
		"mojibake":                  {"kÃ¼y", "küy", "written as Latin-1 and read as UTF-8"},
		"mojibake the other way":    {"küy", "kÃ¼y", "read as Latin-1"},
		"mojibake of Windows":       {"kâ‚¬y", "k€y", "written as Windows-1252 and read as UTF-8"},
		"composed":                  {"ku\u0308y", "küy", "with composed letters (NFC)"},
		"decomposed":                {"küy", "ku\u0308y", "with decomposed letters (NFD)"},
		"question mark":             {"küy", "k?y", "with U+FFFD for all but ASCII"},
		"two steps":                 {`"a%2Fb"`, "a/b", "without the quotes around it, percent-decoded"},
		"three, two to clean":       {" \"bXktc2VjcmV0LWtleQ==\"\r\n", "my-secret-key", "without the white space around it, without the quotes around it, decoded from base64"},
		"a secret of quoted things": {"Im15LWtleSI=", "my-key", "decoded from base64, without the quotes around it"},
	} {
		t.Run(name, func(t *testing.T) {
			list := variants(tc.file)
			i := slices.IndexFunc(list, func(v variant) bool { return v.text == tc.key })
			if i < 0 {
				t.Fatalf("%q is not among %d variants of %q", tc.key, len(list), tc.file)
			}
			if got := strings.Join(list[i].steps, ", "); got != tc.steps {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestVariantsAreBounded(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range variants(" \"k\xfc$$y%2F \\u0041 #x\"\r\n") {
		if seen[v.text] || v.text == "" {
			t.Fatalf("%q twice or empty", v.text)
		}
		seen[v.text] = true
	}
	if n := len(seen); n < 200 || n > maxVariants {
		t.Errorf("%d variants", n)
	}
	if n := len(variants(strings.Repeat("x", maxVaryBytes+1))); n != 1 {
		t.Errorf("a text that is no key has %d variants", n)
	}
}

func FuzzVariants(f *testing.F) {
	f.Add("my-key")
	f.Add("\ufeff \"k\xfcy\"\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		if list := variants(s); len(list) == 0 || list[0].text != s || len(list) > maxVariants {
			t.Errorf("%d variants", len(list))
		}
	})
}
