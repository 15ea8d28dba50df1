package cli

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/rivo/uniseg"
)

var listing = [][]string{
	{"credentials_entity.data", "212", "209", "3", "8Kf3Vn2qLx0aZt7P 200, instance 12"},
	{"settings[features.oidc].clientSecret", "1", "1", "0", "instance"},
	{"user.mfaSecret", "12345", "12345", "0", ""},
}

func TestTable(t *testing.T) {
	headers := []string{"place", "values>", "open>", "fail>", "keys"}
	for _, tt := range []struct {
		name  string
		width int
		want  string
	}{
		{"80 columns", 80, `
place                         values   open  fail  keys
credentials_entity.data          212    209     3  8Kf3Vn2qLx0aZt7P 200, instan…
settings[features.oidc].cli…       1      1     0  instance
user.mfaSecret                 12345  12345     0
`},
		{"wide", 200, `
place                                 values   open  fail  keys
credentials_entity.data                  212    209     3  8Kf3Vn2qLx0aZt7P 200, instance 12
settings[features.oidc].clientSecret       1      1     0  instance
user.mfaSecret                         12345  12345     0
`},
		{"narrow", 44, `
place       values   open  fail  keys
credentia…     212    209     3  8Kf3Vn2qLx…
settings[…       1      1     0  instance
user.mfaS…   12345  12345     0
`},
		{"too narrow", 10, `
place     values   open  fail  keys
credent…     212    209     3  8Kf3Vn2…
setting…       1      1     0  instance
user.mf…   12345  12345     0
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			term, out, _ := screen()
			term.Width = tt.width
			term.Table(headers, listing)
			diff(t, strings.TrimPrefix(tt.want, "\n"), out.String())
			for line := range strings.Lines(out.String()) {
				line = strings.TrimSuffix(line, "\n")
				if w := uniseg.StringWidth(line); tt.width > 40 && w > tt.width {
					t.Errorf("%d columns: %q", w, line)
				}
				if strings.HasSuffix(line, " ") {
					t.Errorf("ends in a space: %q", line)
				}
			}
		})
	}
}

func TestTableIsEightyColumnsByDefault(t *testing.T) {
	term, out, _ := screen()
	term.Table([]string{"name"}, [][]string{{strings.Repeat("x", 100)}})
	diff(t, "name\n"+strings.Repeat("x", 79)+"…\n", out.String())
}

func TestTableKeepsWhatIsCopied(t *testing.T) {
	term, out, _ := screen()
	term.Width = 60
	term.Table([]string{"archive!", "age>", "note"}, [][]string{
		{"20260801T020000Z-n8n.example.com-abc234", "2 h", "kept for the auditor until the end of the year"},
	})
	diff(t, `archive                                  age  note
20260801T020000Z-n8n.example.com-abc234  2 h  kept for the…
`, out.String())
}

func TestTableUnicode(t *testing.T) {
	term, out, _ := screen()
	term.Width = 30
	term.Table([]string{"credential", "rows>"}, [][]string{
		{"Zürich Büro", "1"},
		{"日本語の資格情報のとても長い名前", "2"},
		{"👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻", "3"},
		{"evil\x1b[31m\nname", "4"},
	})
	diff(t, `credential                rows
Zürich Büro                  1
日本語の資格情報のとて…      2
👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻👩‍💻…      3
evil\x1b[31m\nname           4
`, out.String())
}

func TestTableColour(t *testing.T) {
	term, out, _ := screen()
	term.Color, term.OutTTY = true, true
	term.Table([]string{"name", "n>"}, [][]string{{"a", "1"}})
	diff(t, "\x1b[1mname  n\x1b[0m\na     1\n", out.String())
	term, out, _ = screen()
	term.OutTTY = true
	term.Table([]string{"name", "n>"}, [][]string{{"a"}})
	diff(t, "name  n\na\n", out.String())
}

func TestKeyValues(t *testing.T) {
	term, out, _ := screen()
	term.KeyValues("backup", "20260801T020000Z-prod-abc234", "state", "good", "a long empty name", "", "Größe", "12 MB\n")
	diff(t, `backup: 20260801T020000Z-prod-abc234
state:  good
Größe:  12 MB\n
`, out.String())
}

func TestKeyValuesWrap(t *testing.T) {
	pairs := []string{"finding", "workflow_holds_key: the file was left out of the archive", "path", "/var/lib/docker/volumes/n8n_data/_data/database.sqlite kept"}
	term, out, _ := screen()
	term.Width, term.OutTTY = 40, true
	term.KeyValues(pairs...)
	diff(t, `finding: workflow_holds_key: the file
         was left out of the archive
path:    /var/lib/docker/volumes/n8n_data/_data/database.sqlite
         kept
`, out.String())
	for _, narrow := range []*Terminal{{Width: 40}, {Width: 25, OutTTY: true}} {
		narrow.Out = out
		out.Reset()
		narrow.KeyValues(pairs...)
		diff(t, "finding: "+pairs[1]+"\npath:    "+pairs[3]+"\n", out.String())
	}
}

func TestHumanBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 1499: "1.5 kB", 9949: "9.9 kB", 9950: "10 kB", 12345: "12 kB", 999_499: "999 kB", 999_500: "1.0 MB",
		50_000_000: "50 MB", 1_234_567_890: "1.2 GB", math.MaxInt64: "9.2 EB", -1500: "-1.5 kB", math.MinInt64: "-9.2 EB",
	} {
		if got := HumanBytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestHumanAge(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		-time.Hour: "0 s", 0: "0 s", 59 * time.Second: "59 s", time.Minute: "1 min", 59*time.Minute + 59*time.Second: "59 min",
		time.Hour: "1 h", 47 * time.Hour: "47 h", 48 * time.Hour: "2 d", 400 * day: "400 d", 731 * day: "2 y",
	} {
		if got := HumanAge(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestPlural(t *testing.T) {
	for _, tt := range []struct {
		n          int64
		noun, want string
	}{
		{1, "credential", "1 credential"}, {0, "credential", "0 credentials"}, {3, "entry", "3 entries"}, {2, "key", "2 keys"},
		{2, "match", "2 matches"}, {1, "entry", "1 entry"}, {5, "address", "5 addresses"},
	} {
		if got := Plural(tt.n, tt.noun); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}
