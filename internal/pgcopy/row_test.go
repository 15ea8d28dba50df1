package pgcopy

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func fields(values ...any) [][]byte {
	list := [][]byte{}
	for _, v := range values {
		if v == nil {
			list = append(list, nil)
		} else {
			list = append(list, []byte(v.(string)))
		}
	}
	return list
}

func TestParseRow(t *testing.T) {
	for _, c := range []struct {
		line string
		want [][]byte
	}{
		{"", fields("")},
		{"a", fields("a")},
		{"a\tb", fields("a", "b")},
		{"\t\t", fields("", "", "")},
		{`\N`, fields(nil)},
		{"\\N\t\t\\N", fields(nil, "", nil)},
		{`\\N`, fields(`\N`)},
		{`\NN`, fields(`NN`)},
		{`a\N`, fields(`aN`)},
		{`\b\f\n\r\t\v`, fields("\b\f\n\r\t\v")},
		{`a\\b`, fields(`a\b`)},
		{`\\`, fields(`\`)},
		{`\\.`, fields(`\.`)},
		{`\a\q\"`, fields(`aq"`)},
		{`\1\12\123\1234`, fields("\001\012\123\1234")},
		{`\8`, fields("8")},
		{`\18`, fields("\0018")},
		{`\777`, fields("\xff")},
		{`\x4\x41\x411\xg\x`, fields("\x04A" + "A1xgx")},
		{`\xaF`, fields("\xaf")},
		{"größe\t東京", fields("größe", "東京")},
		{`{"a":"x\\"y\\\\z"}`, fields(`{"a":"x\"y\\z"}`)},
	} {
		line := []byte(c.line)
		for _, end := range []string{"", "\n"} {
			got, err := ParseRow(append(line, end...), nil)
			if err != nil {
				t.Errorf("%q: %v", c.line, err)
			} else if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("%q (-want +got):\n%s", c.line, d)
			}
		}
		if string(line) != c.line {
			t.Errorf("%q was changed to %q", c.line, line)
		}
	}
}

func TestParseRowRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"a\rb":   "a carriage return that is not escaped: line ends were converted",
		"a\r":    "a carriage return that is not escaped: line ends were converted",
		"a\nb":   "two lines in one row",
		"a\tb\\": "column 2: the line ends in a backslash",
		"a\\.b":  `column 1: the mark of the end, \., inside a row`,
	} {
		if _, err := ParseRow([]byte(line), nil); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", line, err, want)
		}
	}
}

func TestAppendRow(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for want, row := range map[string][][]byte{
		"\n":                              {},
		"\\N\n":                           fields(nil),
		"\\N\t\ta\n":                      fields(nil, "", "a"),
		"\\\\N\t\\\\.\n":                  fields(`\N`, `\.`),
		"a\\tb\\nc\\r\\b\\f\\v\\\\\x01\n": fields("a\tb\nc\r\b\f\v\\\x01"),
	} {
		if got := string(AppendRow([]byte("x"), row)); got != "x"+want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	got, err := ParseRow(AppendRow(nil, [][]byte{all, nil, all}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([][]byte{all, nil, all}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestParseRowReusesFields(t *testing.T) {
	line := []byte(strings.Repeat("value\t", 40) + "last")
	reused := make([][]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() {
		reused, _ = ParseRow(line, reused)
	}); n != 0 {
		t.Errorf("%v allocations for a row without escapes", n)
	}
}

func FuzzRow(f *testing.F) {
	for _, s := range []string{"", "a\tb", `\N`, `\\N`, `\x41\101`, "a\\\tb", `\.`, "\\\\\t\\N\t"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		before := bytes.Clone(line)
		row, err := ParseRow(line, nil)
		if !bytes.Equal(line, before) {
			t.Fatalf("%q was changed", before)
		}
		if err != nil {
			return
		}
		written := AppendRow(nil, row)
		again, err := ParseRow(written, nil)
		if err != nil {
			t.Fatalf("%q was written as %q, which cannot be read: %v", line, written, err)
		}
		if d := cmp.Diff(row, again); d != "" {
			t.Fatalf("%q is read differently after writing:\n%s", line, d)
		}
		if !bytes.Equal(AppendRow(nil, again), written) {
			t.Fatalf("%q is not written the same twice", line)
		}
	})
}

// benchRows are like n8n's: executions with a long JSON text, entities with many short columns.
func benchRows(long bool) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var out []byte
	for len(out) < 8<<20 {
		var row [][]byte
		if long {
			doc := strings.Repeat(`{"id":"4f2a9c","note":"please \"deliver\" before noon","path":"a\\b","total":12.5},`, 50+r.IntN(400))
			row = fields("12345", "["+doc+"]", `{"nodes":[],"connections":{}}`)
		} else {
			row = fields("12345", "t", "webhook", nil, "success", "2026-10-01 00:00:00.123+00", "2026-10-01 00:00:01.5+00", nil, "Zk3xY81mQpLs7TtB", "2026-10-01 00:00:00+00", nil, "db", "0")
		}
		out = AppendRow(out, row)
	}
	return out
}

type discard struct{ rows int64 }

func (*discard) Begin(Table) (bool, error)   { return false, nil }
func (d *discard) Row(fields [][]byte) error { return nil }
func (d *discard) End(n int64) error         { d.rows += n; return nil }

func BenchmarkReadScript(b *testing.B) {
	for name, long := range map[string]bool{"documents": true, "entities": false} {
		b.Run(name, func(b *testing.B) {
			script := block(`COPY public.t FROM stdin;`, benchRows(long))
			b.SetBytes(int64(len(script)))
			b.ReportAllocs()
			for b.Loop() {
				var d discard
				if err := ReadScript(bytes.NewReader(script), &d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendRow(b *testing.B) {
	for name, long := range map[string]bool{"documents": true, "entities": false} {
		b.Run(name, func(b *testing.B) {
			var rows [][][]byte
			data := benchRows(long)
			for line := range bytes.Lines(data) {
				row, err := ParseRow(line, nil)
				if err != nil {
					b.Fatal(err)
				}
				rows = append(rows, row)
			}
			b.SetBytes(int64(len(data)))
			var out []byte
			for b.Loop() {
				out = out[:0]
				for _, row := range rows {
					out = AppendRow(out, row)
				}
			}
		})
	}
}

func block(statement string, rows []byte) []byte {
	return append(append([]byte(statement+"\n"), rows...), "\\.\n"...)
}
