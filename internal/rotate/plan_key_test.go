package rotate

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/n8ncrypt"
)

func planKey(t testing.TB, text string) n8ncrypt.InstanceKey {
	t.Helper()
	k, err := n8ncrypt.NewInstanceKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestRandomKeysAreStrong: every usual way to make a key.
func TestRandomKeysAreStrong(t *testing.T) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	pick := func(n int, from string) string {
		b := make([]byte, n)
		rand.Read(b)
		for i := range b {
			b[i] = from[int(b[i])%len(from)]
		}
		return string(b)
	}
	raw := func(n int) []byte {
		b := make([]byte, n)
		rand.Read(b)
		return b
	}
	for name, generate := range map[string]func() string{
		"n8keep key generate":     func() string { return hex.EncodeToString(raw(32)) },
		"n8n":                     func() string { return base64.StdEncoding.EncodeToString(raw(24)) },
		"openssl rand -hex 16":    func() string { return hex.EncodeToString(raw(16)) },
		"openssl rand -hex 24":    func() string { return strings.ToUpper(hex.EncodeToString(raw(24))) },
		"openssl rand -base64 32": func() string { return base64.StdEncoding.EncodeToString(raw(32)) },
		"url base64 18":           func() string { return base64.RawURLEncoding.EncodeToString(raw(18)) },
		"uuid": func() string {
			h := hex.EncodeToString(raw(16))
			return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-" + h[16:20] + "-" + h[20:]
		},
		"pwgen -s 32":      func() string { return pick(32, letters) },
		"pwgen -s 24":      func() string { return pick(24, letters) },
		"lower and digits": func() string { return pick(32, letters[:26]+"0123456789") },
		"lower only":       func() string { return pick(32, letters[:26]) },
		"with punctuation": func() string { return pick(24, letters+"!%&()*+,-./:;<=>?@[]^_{|}~") },
	} {
		t.Run(name, func(t *testing.T) {
			for range 1000 {
				text := generate()
				if why, bits := weakness(text); bits < leastBits {
					t.Fatalf("%q counts as weak: %s, %d bits", text, why, bits)
				}
			}
		})
	}
}

func TestHumanKeysAreWeak(t *testing.T) {
	for text, want := range map[string]string{
		"lab-key-2.41.1-0123456789abcdef":                                          "",
		"my-secret-encryption-key-for-n8n-2024":                                    "it is made of words",
		"correct horse battery staple":                                             "it is made of words",
		"CorrectHorseBatteryStaple":                                                "it is made of words",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":                                   "it repeats itself",
		"changeme-changeme-changeme-changeme-":                                     "it repeats itself",
		"0123456789abcdef0123456789abcdef":                                         "it repeats itself",
		"12345678901234567890123456789012":                                         "it repeats itself",
		"abcdefghijklmnopqrstuvwxyz012345":                                         "it has runs of equal or consecutive characters",
		"your-encryption-key-here-please-change":                                   "it is made of words",
		"20240101202402022024030320240404":                                         "it has few different characters",
		"n8n_Pr0duction!Key":                                                       "",
		base64.StdEncoding.EncodeToString([]byte("my secret key for n8n in prod")): "it is base64 of readable text",
		hex.EncodeToString([]byte("my secret key for n8n in prod")):                "it is the hexadecimal form of readable text",
	} {
		why, bits := weakness(text)
		if bits >= leastBits {
			t.Errorf("%q counts as strong with %d bits", text, bits)
		}
		if want != "" && why != want {
			t.Errorf("%q: %s (%d bits), want %s", text, why, bits, want)
		}
	}
}

const strongKey = "Zq3v8Yw1LkT5nXb7Rf2HsJd9GcPm4QeA"

func TestNewKey(t *testing.T) {
	v := func(s string) n8ndb.Version { return n8ndb.Version{N8N: s} }
	const characters, weak, same = "new-key-characters", "new-key-weak", "new-key-same"
	for i, c := range []struct {
		old, to, version string
		code, message    string
		hint             string
	}{
		{"old-key", strongKey, "2.41.1", "", "", ""},
		{strongKey, strongKey, "2.41.1", same, "the new key is the old one", makeKey},
		{"short", "short", "2.41.1", same, "the new key is the old one", makeKey},
		{strongKey, "\"" + strongKey + "\"", "2.41.1", same, "the new key is the old one but for white space or quotes around it", makeKey},
		{strongKey + "\n", " " + strongKey, "1.15.1", same, "the new key is the old one but for white space or quotes around it", makeKey},
		{"'" + strongKey + "'", strongKey, "2.41.1", same, "the new key is the old one but for white space or quotes around it", makeKey},
		{"old", "x", "2.41.1", weak, "the new key has only 1 character: it could be guessed", makeKey},
		{"old", "tooshort", "2.41.1", weak, "the new key has only 8 characters: it could be guessed", makeKey},
		{"old", "  \"\"  ", "2.41.1", weak, "the new key is nothing but white space and quotes", makeKey},
		{"old", "this-is-my-n8n-encryption-key", "2.41.1", weak, "the new key could be guessed: it is made of words (about ", makeKey},
		{"old", strongKey + "\n", "2.41.1", characters, "the new key begins or ends with white space, which n8n removes when the key is in a variable and keeps when it is in the config file",
			"write the key without white space around it; one line end at the end of the file does not count"},
		{"old", strongKey + "\r", "1.115.2", characters, "the new key begins or ends with white space, which counts as part of it in this n8n and is removed from the variable from n8n 1.116 on",
			"write the key without white space around it"},
		{"old", "\uFEFF" + strongKey, "2.0.3", characters, "the new key begins or ends with white space, which n8n removes", "write the key without white space around it; one line end at the end of the file does not count"},
		{"old", "'" + strongKey + "'", "2.41.1", characters, "the new key stands in quotes, which n8n removes when the key is in a variable and keeps when it is in the config file", "write the key without quotes"},
		{"old", "'" + strongKey + "'", "1.100.1", characters, "the new key stands in quotes, which count as part of it in this n8n and are removed from the variable from n8n 1.116 on", "write the key without quotes"},
		{"old", "'" + strongKey + "\"", "2.41.1", "", "", ""},
		{"old", strongKey[:10] + "\n" + strongKey[10:], "2.41.1", characters, "the new key holds line ends or other control characters, which no environment file can carry", makeKey},
		{"old", strongKey + "ä", "1.15.1", characters, "the new key holds characters beyond ASCII, which n8n before 1.16 reads in another way than later versions", makeKey},
		{"old", strongKey + "ä", "", characters, "the new key holds characters beyond ASCII, which n8n before 1.16 reads in another way than later versions", makeKey},
		{"old", strongKey + "ä", "1.16.0", "", "", ""},
		{"old", strongKey + "日", "2.41.1", characters, "the new key holds characters beyond Latin-1, of which n8n uses one byte only", makeKey},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			refusals, warnings := checkNewKey(planKey(t, c.old), planKey(t, c.to), v(c.version))
			found := c.code == "" && len(refusals) == 0
			for _, r := range refusals {
				found = found || r.Code == c.code && strings.HasPrefix(r.Message, c.message) && r.Hint == c.hint
				if text := r.Message + r.Hint; strings.Contains(text, strongKey) {
					t.Errorf("the key is in %q", text)
				}
			}
			if !found {
				t.Errorf("%q at %q: %+v", c.to, c.version, refusals)
			}
			t.Log(warnings)
		})
	}
	for text, want := range map[string]string{
		strongKey + "ä":   "the new key holds characters beyond ASCII: files and shells in another encoding make another key of it",
		strongKey + "$HO": "the new key holds characters that compose files, systemd units and shells change unless they are quoted (one of space $ # \" ' ` \\)",
	} {
		if _, warnings := checkNewKey(planKey(t, "old"), planKey(t, text), v("2.41.1")); len(warnings) != 1 || warnings[0] != want {
			t.Errorf("%q: %q", text, warnings)
		}
	}
}
