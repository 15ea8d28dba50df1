package cli

import (
	"bytes"
	"testing"
)

// TestAgain: what is printed as a next step leads to the same state folder.
func TestAgain(t *testing.T) {
	const said = `go on with "n8keep rotate resume ID", n8keep says`
	for _, c := range []struct {
		flags      []string
		text, json string
	}{
		{nil, said, `go on with \"n8keep rotate resume ID\", n8keep says`},
		{[]string{"--state-dir", "/srv/n8keep"}, `go on with "n8keep --state-dir /srv/n8keep rotate resume ID", n8keep says`,
			`go on with \"n8keep --state-dir /srv/n8keep rotate resume ID\", n8keep says`},
		{[]string{"--state-dir", "/my state"}, `go on with "n8keep --state-dir "/my state" rotate resume ID", n8keep says`,
			`go on with \"n8keep --state-dir \"/my state\" rotate resume ID\", n8keep says`},
	} {
		var out, err bytes.Buffer
		term := &Terminal{Out: &out, Err: &err, Width: 200, flags: func() []string { return c.flags }}
		term.Line(said)
		term.KeyValues("next", said)
		term.Warn(said)
		if want := c.text + "\nnext: " + c.text + "\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
		if want := "n8keep: warning: " + c.text + "\n"; err.String() != want {
			t.Errorf("%q, want %q", err.String(), want)
		}
		out.Reset()
		if err := term.PrintJSON([]string{said}); err != nil || out.String() != "[\n  \""+c.json+"\"\n]\n" {
			t.Errorf("%s, %v", out.String(), err)
		}
	}
}
