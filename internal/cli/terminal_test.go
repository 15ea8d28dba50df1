package cli

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// screen is a Terminal that writes to buffers.
func screen() (*Terminal, *bytes.Buffer, *bytes.Buffer) {
	var out, err bytes.Buffer
	return &Terminal{In: bytes.NewReader(nil), Out: &out, Err: &err}, &out, &err
}

func diff(t *testing.T, want, got string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

func TestLineEscapes(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                   "plain\n",
		"":                        "\n",
		"Zürich 日本 👩‍💻":           "Zürich 日本 👩‍💻\n",
		"a\x1b[2Jb\rc\nd\te\x00f": `a\x1b[2Jb\rc\nd\te\x00f` + "\n",
		"bad \xff byte":           `bad \xff byte` + "\n",
		"kept \ufffd":             "kept \ufffd\n",
		"right\u202eleft":         `right\u202eleft` + "\n",
		"trail   ":                "trail\n",
	} {
		term, out, _ := screen()
		term.Line(in)
		diff(t, want, out.String())
	}
}

func TestWarn(t *testing.T) {
	term, out, err := screen()
	term.Warn("key file is readable by everyone")
	diff(t, "n8keep: warning: key file is readable by everyone\n", err.String())
	diff(t, "", out.String())
	term, _, err = screen()
	term.Quiet = true
	term.Warn("x")
	diff(t, "", err.String())
	term, _, err = screen()
	term.Color, term.ErrTTY = true, true
	term.Warn("x")
	diff(t, "n8keep: \x1b[33;1mwarning:\x1b[0m x\n", err.String())
}

func TestJSONPrintsOneDocument(t *testing.T) {
	term, out, _ := screen()
	term.JSON = true
	term.Line("text")
	term.KeyValues("name", "value")
	term.Table([]string{"a"}, [][]string{{"b"}})
	if err := term.PrintJSON(map[string]any{"url": "https://x/?a=1&b=<2>"}); err != nil {
		t.Fatal(err)
	}
	diff(t, "{\n  \"url\": \"https://x/?a=1&b=<2>\"\n}\n", out.String())
	if err := term.PrintJSON(func() {}); err == nil || err.Error() != "printing JSON: json: unsupported type: func()" {
		t.Errorf("error %v", err)
	}
}
