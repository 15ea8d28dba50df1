package rotate

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndbtest"
)

// TestRefusalCodesAreDocumented: codes are part of the JSON output and do not change.
func TestRefusalCodesAreDocumented(t *testing.T) {
	files, err := filepath.Glob("plan*.go")
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`refuse\("([a-z-]+)"`).FindAllSubmatch(b, -1) {
			codes = append(codes, string(m[1]))
		}
	}
	codes = append(codes, wrongOldKey, noStorage)
	slices.Sort(codes)
	codes = slices.Compact(codes)
	manual, err := os.ReadFile(filepath.Join(n8ndbtest.Root(t), "docs", "operators.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range codes {
		if !strings.Contains(string(manual), "`"+c+"`") {
			t.Errorf("docs/operators.md does not know the refusal %q", c)
		}
	}
	if len(codes) != 18 {
		t.Errorf("%d codes: %q", len(codes), codes)
	}
}
