package layers

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

func manual(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestExitCodesStandInTheManual compares the manual's table with package problem.
func TestExitCodesStandInTheManual(t *testing.T) {
	_, section, ok := strings.Cut(manual(t), "\n## Exit codes\n")
	if !ok {
		t.Fatal("docs/operators.md has no section \"Exit codes\"")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var got []string
	for _, m := range regexp.MustCompile("(?m)^\\| ([0-9]+) \\| (?:`([a-z_]+)`)? ?\\|").FindAllStringSubmatch(section, -1) {
		got = append(got, m[1]+" "+m[2])
	}
	want := []string{"0 "}
	for _, k := range problem.Kinds() {
		want = append(want, fmt.Sprintf("%d %s", k.Exit(), k))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the table says %q, package problem %q", got, want)
	}
}

// TestJSONFieldsStandInTheManual: the documents of package api are the promise
// that scripts rely on, and each field of them is written down.
func TestJSONFieldsStandInTheManual(t *testing.T) {
	_, section, ok := strings.Cut(manual(t), "\n## JSON output\n")
	if !ok {
		t.Fatal("docs/operators.md has no section \"JSON output\"")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	files, err := filepath.Glob("../api/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var src []byte
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		src = append(src, b...)
	}
	fields := regexp.MustCompile("`json:\"([a-z0-9_]+)").FindAllStringSubmatch(string(src), -1)
	if len(fields) < 50 {
		t.Fatalf("only %d fields", len(fields))
	}
	for _, f := range fields {
		if !strings.Contains(section, "`"+f[1]+"`") && !strings.Contains(section, `"`+f[1]+`"`) {
			t.Errorf("the section does not have the field %q", f[1])
		}
	}
}

// TestFindingsStandInTheManual: scripts and people look the codes up.
func TestFindingsStandInTheManual(t *testing.T) {
	src, err := os.ReadFile("../backup/backup.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`(?m)^\tFinding[A-Za-z]+ += "([a-z_]+)"`).FindAllStringSubmatch(string(src), -1)
	if len(codes) < 5 {
		t.Fatalf("only %d codes", len(codes))
	}
	text := manual(t)
	for _, c := range codes {
		if !strings.Contains(text, "\n| `"+c[1]+"` | ") {
			t.Errorf("the manual's table of findings does not have %q", c[1])
		}
	}
}

// TestPromisesNameTestsThatExist: ARCHITECTURE.md says which test shows what.
func TestPromisesNameTestsThatExist(t *testing.T) {
	b, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(b), -1)
	if len(named) < 10 {
		t.Fatalf("only %d tests are named", len(named))
	}
	var tests strings.Builder
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		tests.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range named {
		if !strings.Contains(tests.String(), "\nfunc "+m[1]+"(t *testing.T)") {
			t.Errorf("ARCHITECTURE.md names %s, which does not exist", m[1])
		}
	}
}

// TestLinksInsideTheDocumentsLead: every link to a heading or a file of ours does.
func TestLinksInsideTheDocumentsLead(t *testing.T) {
	links := 0
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "HACKING.md", "CHANGELOG.md", "docs/operators.md"} {
		b, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		dir := "../../" + strings.TrimSuffix(name, name[strings.LastIndexByte(name, '/')+1:])
		for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			file, heading, _ := strings.Cut(m[1], "#")
			text := b
			if file != "" {
				if text, err = os.ReadFile(dir + file); err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
			}
			if heading != "" && !slices.Contains(headings(string(text)), heading) {
				t.Errorf("%s: no heading for %s", name, m[1])
			}
		}
	}
	if links < 10 {
		t.Errorf("only %d links", links)
	}
}

// headings are the names that links use, as GitHub and GitLab make them.
func headings(text string) []string {
	drop := regexp.MustCompile(`[^a-z0-9 _-]`)
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		all = append(all, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return all
}
