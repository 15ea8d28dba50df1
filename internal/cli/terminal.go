package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/n8keep/n8keep/internal/secret"
)

// defaultWidth is what output is fitted to where nobody says how wide it may be.
const defaultWidth = 80

// Terminal is where commands print and ask. Results go to Out; errors,
// warnings, questions and progress go to Err. With JSON, Out gets documents
// only: Line, KeyValues and Table print nothing.
//
// Everything printed as text has its control characters escaped, so that a name
// read from a database or an archive cannot move the cursor or fake a line.
//
// A Terminal prints for one goroutine at a time; a [Progress] is updated by any
// number.
type Terminal struct {
	In                    io.Reader
	Out, Err              io.Writer
	InTTY, OutTTY, ErrTTY bool             // whether each is a terminal
	Color                 bool             // colours may be used where the stream is a terminal
	JSON                  bool             // print one JSON document instead of text
	Quiet                 bool             // no progress, no warnings
	Width                 int              // columns that text may take; 0 means 80
	Now                   func() time.Time // nil: time.Now

	// flags, if any, stand in every command that is printed as a next step, so that it
	// leads to the same state folder and configuration as the command that printed it.
	flags func() []string

	outErr     error                                      // the first error of writing to Out
	bar        atomic.Pointer[Progress]                   // the bar that is on the screen
	readSecret func(prompt string) (secret.String, error) // nil: reads from In without echo
	readAnswer func() (string, error)                     // nil: reads a line from In
}

// NewTerminal returns the Terminal of the three streams. NO_COLOR with any value
// but the empty one, and TERM=dumb, turn colours off.
func NewTerminal(stdin, stdout, stderr *os.File, env func(string) (string, bool)) *Terminal {
	t := &Terminal{In: stdin, Out: stdout, Err: stderr, InTTY: isTTY(stdin), OutTTY: isTTY(stdout), ErrTTY: isTTY(stderr)}
	noColor, _ := env("NO_COLOR")
	kind, _ := env("TERM")
	t.Color = noColor == "" && kind != "dumb"
	for _, f := range []*os.File{stdout, stderr} {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			t.Width = w
			break
		}
	}
	return t
}

func isTTY(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

func (t *Terminal) width() int {
	if t.Width <= 0 {
		return defaultWidth
	}
	return t.Width
}

func (t *Terminal) now() time.Time {
	if t.Now == nil {
		return time.Now()
	}
	return t.Now()
}

// print writes to Out; after an error nothing more is written, so that what is
// there is the beginning of the whole.
func (t *Terminal) print(s string) {
	if t.outErr == nil {
		_, t.outErr = io.WriteString(t.Out, s)
	}
}

// Line prints one line of text.
func (t *Terminal) Line(s string) {
	if t.JSON {
		return
	}
	t.clearBar()
	t.print(strings.TrimRight(printable(t.again(s)), " ") + "\n")
}

// again gives the commands in a text the flags that this one was given. A command
// begins with a quote and the name of the program.
func (t *Terminal) again(s string) string {
	if t.flags == nil || !strings.Contains(s, aCommand) {
		return s
	}
	given := ""
	for _, f := range t.flags() {
		if strings.ContainsFunc(f, unquotable) {
			f = strconv.Quote(f)
		}
		given += f + " "
	}
	return strings.ReplaceAll(s, aCommand, aCommand+given)
}

const aCommand = `"n8keep `

// unquotable reports what a shell would not take as it is.
func unquotable(r rune) bool {
	return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:=@%+,", r)
}

// Warn prints a warning to Err, unless Quiet.
func (t *Terminal) Warn(s string) {
	if t.Quiet {
		return
	}
	t.clearBar()
	fmt.Fprintf(t.Err, "n8keep: %s %s\n", t.paint(t.ErrTTY, yellow, "warning:"), printable(t.again(s)))
}

// PrintJSON prints v as one indented document, without HTML escaping.
func (t *Terminal) PrintJSON(v any) error {
	t.clearBar()
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	if err == nil {
		_, err = io.WriteString(t.Out, t.againJSON(text.String()))
	}
	if err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	return nil
}

// againJSON is again for the text of a document, in which a quote is escaped.
func (t *Terminal) againJSON(text string) string {
	const escaped = `\"n8keep `
	if !strings.Contains(text, escaped) {
		return text
	}
	command, err := json.Marshal(t.again(aCommand))
	if err != nil {
		return text
	}
	return strings.ReplaceAll(text, escaped, string(command[1:len(command)-1]))
}

const (
	red    = "31;1"
	yellow = "33;1"
	bold   = "1"
)

func (t *Terminal) paint(tty bool, code, s string) string {
	if !t.Color || !tty {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// printable escapes what a terminal would act on or show out of order: control
// and format characters, and bytes that are not UTF-8.
func printable(s string) string {
	clean := true
	for _, r := range s {
		if r == utf8.RuneError || unsafeRune(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unsafeRune(r):
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unsafeRune reports a rune that is not shown as itself. The zero width joiner
// is left alone, names with emoji need it.
func unsafeRune(r rune) bool {
	const joiner = '\u200d'
	return r != joiner && (unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029')
}
