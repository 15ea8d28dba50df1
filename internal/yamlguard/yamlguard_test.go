package yamlguard

import (
	"errors"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
)

func TestExceeded(t *testing.T) {
	limits := Limits{Depth: 3, PerLine: 5}
	for text, want := range map[string]int{
		"a: [[[x]]]":                     0,
		"a: 1\nb: [[[[x]]]]":             2,
		"a: {b: {c: [{d: e}]}}":          1,
		"- - - - - x":                    0,
		"- x\n- - - - - - y":             2,
		strings.Repeat("- x\n", 50):      0,
		strings.Repeat("!a ", 6) + "x":   1,
		strings.Repeat("&a ", 6) + "x":   1,
		strings.Repeat("? ", 6) + "x":    1,
		"[" + strings.Repeat("!a ", 6):   1,
		"[x, x, x, x, x, x, x, x, x, x]": 0,
		"[] []\n[] []":                   0,
		"":                               0,
	} {
		if got := limits.Exceeded(lexer.Tokenize(text)); got != want {
			t.Errorf("%q: line %d, want %d", text, got, want)
		}
	}
}

func TestErrorLine(t *testing.T) {
	_, err := parser.ParseBytes([]byte("a: b\nc: [d\n"), 0)
	if err == nil || ErrorLine(err) != 2 {
		t.Errorf("line %d of %v", ErrorLine(err), err)
	}
	if got := ErrorLine(errors.New("no line")); got != 0 {
		t.Errorf("line %d", got)
	}
}
