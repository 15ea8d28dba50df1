package pgcopy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/n8keep/n8keep/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// record keeps what it gets as text.
type record struct {
	skip func(Table) bool
	fail func(event string) error
	got  []string
}

func (r *record) note(format string, args ...any) error {
	s := fmt.Sprintf(format, args...)
	r.got = append(r.got, s)
	if r.fail != nil {
		return r.fail(s)
	}
	return nil
}

func (r *record) Begin(t Table) (bool, error) {
	err := r.note("begin %q.%q %q", t.Schema, t.Name, t.Columns)
	return r.skip != nil && r.skip(t), err
}

func (r *record) Row(fields [][]byte) error {
	var list []string
	for _, f := range fields {
		if f == nil {
			list = append(list, "NULL")
		} else {
			list = append(list, string(f))
		}
	}
	err := r.note("row %q", list)
	for _, f := range fields {
		clear(f) // allowed, and must not disturb what follows
	}
	return err
}

func (r *record) End(rows int64) error { return r.note("end %d", rows) }

func TestReadScript(t *testing.T) {
	block := []string{`begin "public"."t" ["a" "b"]`, `row ["1" "x"]`, `end 1`}
	const data = "COPY public.t (a, b) FROM stdin;\n1\tx\n\\.\n"
	for _, c := range []struct {
		name, script string
		want         []string
	}{
		{"empty", "", nil},
		{"nothing", "-- only a comment\n\n", nil},
		{"block", data, block},
		{"byte order mark", "\uFEFF" + data, block},
		{"two blocks", data + "\n\n" + data, append(append([]string{}, block...), block...)},
		{"no rows", "COPY t FROM stdin;\n\\.\n", []string{`begin ""."t" []`, `end 0`}},
		{"end without line end", "COPY t FROM stdin;\nv\n\\.", []string{`begin ""."t" []`, `row ["v"]`, `end 1`}},
		{"no columns", "COPY s.t  FROM stdin;\n\n\n\\.\n", []string{`begin "s"."t" []`, `row []`, `row []`, `end 2`}},
		{"an empty text", "COPY s.t (a) FROM stdin;\n\n\\.\n", []string{`begin "s"."t" ["a"]`, `row [""]`, `end 1`}},
		{"names", "copy \"My.Sch\"\"ema\" . \"T (a\" (Aa, \"Bb;\", \"from\", größe) From STDIN ;  \n1\t2\t3\t4\n\\.\n",
			[]string{`begin "My.Sch\"ema"."T (a" ["aa" "Bb;" "from" "größe"]`, `row ["1" "2" "3" "4"]`, `end 1`}},
		{"comments in the statement", "COPY /* ; */ public.t -- x; y\n (a, b)\nFROM stdin;\n1\tx\n\\.\n", block},
		{"statement behind another", "SELECT 1; " + data, block},
		{"meta-commands", "\\restrict COPYabc;'\"\n\\connect 'x\n" + data + "\\unrestrict COPY\n", block},
		{"meta-command behind a statement", "SELECT 1 \\gset ' \n;" + data, block},
		{"rows that look like SQL", "COPY public.t (a, b) FROM stdin;\nCOPY x FROM stdin;\t'\n\\\\.\t$$\n--\t/*\n\\.\n" + data,
			append([]string{`begin "public"."t" ["a" "b"]`, `row ["COPY x FROM stdin;" "'"]`, `row ["\\." "$$"]`, `row ["--" "/*"]`, `end 3`}, block...)},
		{"literals", "SELECT '\n" + data + "', \"\n" + data + "\", '''\n" + data + "''', '\\';\n" + data, block},
		{"escape strings", "SELECT E'\\'\n" + data + "', e'\\\\';\n" + data, block},
		{"an escape string that goes on", "SELECT E'a'\n  -- x\n '\\'\n" + data + "';\n" + data, block},
		{"a string behind an escape string", "SELECT E'a', '\\';\n" + data, block},
		{"other strings", "SELECT B'1', x'ab', N'\\', U&'\\', U&\"\\\", u&'d!0061' UESCAPE '!', type'1', e, u;\n" + data, block},
		{"dollar quotes", "DO $$\n" + data + "$ $x$ $$; SELECT $tag_1$\n" + data + "$tag$ $tag_1 $ta$tag_1$, $größe$;$größe$, $1, a$b, a$$b, 1 $ 2, $x;\n" + data, block},
		{"nested comments", "/* /* */\n" + data + "*/ /**/ -- COPY\n--\n" + data, block},
		{"an operator", "SELECT 1 - 2 / 3 * 4 <- 5;\n" + data, block},
		{"old backslashes", "SET standard_conforming_strings = off;\nSELECT '\\'\n" + data + "';\nSET standard_conforming_strings = 'on';\nSELECT '\\';\n" + data, block},
		{"old backslashes in a session", "SET SESSION standard_conforming_strings TO off;\nSELECT '\\'\n" + data + "', N'\\';';\n" + data, block},
		{"parentheses", "CREATE RULE r AS ON INSERT TO x DO (SELECT 1; COPY y FROM stdin; SELECT 2);\n" + data, block},
		{"an SQL body", "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC\n SELECT CASE WHEN true THEN 1 END;\nCOPY y FROM stdin;\nEND;\n" + data, block},
		{"an SQL body of a procedure", "CREATE PROCEDURE f() BEGIN ATOMIC\nCOPY y FROM stdin;\nEND;\n" + data, block},
		{"begin", "BEGIN;\n" + data + "END;\n", block},
		{"other copies", "COPY t TO stdout;\nCOPY (SELECT 'a') TO '/tmp/x';\nCOPY t FROM '/tmp/stdin';\nCOPY t FROM PROGRAM 'x';\nSELECT copy FROM stdin;\n" + data, block},
		{"words that contain it", "copyx t FROM stdin;\n\"COPY\" t FROM stdin;\n" + data, block},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.script), iotest.OneByteReader(strings.NewReader(c.script))} {
				var h record
				if err := ReadScript(r, &h); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(c.want, h.got); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
			}
		})
	}
}

func TestReadScriptRefuses(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"cut behind a row", "SELECT 1;\nCOPY s.t (a) FROM stdin;\n1\n", `line 4, data of "s.t": the script is cut off`},
		{"cut in a row", "COPY s.t (a) FROM stdin;\n1", `line 2, data of "s.t": the script is cut off`},
		{"cut in the mark", "COPY s.t (a) FROM stdin;\n1\n\\", `line 3, data of "s.t": the script is cut off`},
		{"cut behind the statement", "COPY s.t (a) FROM stdin;", `line 1, data of "s.t": the script is cut off`},
		{"cut in a statement", "SELECT 1;\nCOPY s.t", "line 2: the script is cut off"},
		{"cut in a string", "SELECT '\n\n", "line 3: the script is cut off"},
		{"cut in an escape string", "SELECT E'\\", "line 1: the script is cut off"},
		{"cut in a dollar quote", "DO $x$\nbla $x", "line 2: the script is cut off"},
		{"cut in a comment", "/* */ /* /* */", "line 1: the script is cut off"},
		{"cut in an identifier", "SELECT \"a", "line 1: the script is cut off"},
		{"options", "\nCOPY t (a) FROM stdin WITH (FORMAT csv);\n", "line 2: COPY t FROM stdin has options, which are not understood"},
		{"old options", "COPY s.t FROM stdin WITH CSV;\n", "line 1: COPY s.t FROM stdin has options, which are not understood"},
		{"binary", "COPY BINARY t FROM stdin;\n", "line 1: a COPY statement in a form that is not understood"},
		{"three names", "COPY a.b.c FROM stdin;\n", "line 1: a COPY statement in a form that is not understood"},
		{"a bad list", "COPY a (b, ) FROM stdin;\n", "line 1: a COPY statement in a form that is not understood"},
		{"an open list", "COPY a (b c) FROM stdin;\n", "line 1: a COPY statement in a form that is not understood"},
		{"no table", "COPY . FROM stdin;\n", "line 1: a COPY statement in a form that is not understood"},
		{"no schema", "COPY a.) FROM stdin;\n", "line 1: a COPY statement in a form that is not understood"},
		{"unicode name", "COPY U&\"a\" FROM stdin;\n", "line 1: a COPY statement in a form that is not understood"},
		{"something behind", "COPY t FROM stdin; SELECT 1;\n\\.\n", `line 1, data of "t": something stands behind the COPY statement in its line`},
		{"columns", "COPY t (a, b) FROM stdin;\n1\t2\n1\t2\t3\n\\.\n", `line 3, data of "t": the row has 3 columns, want 2`},
		{"too few columns", "COPY t (a, b) FROM stdin;\n\n\\.\n", `line 2, data of "t": the row has 1 columns, want 2`},
		{"Windows", "COPY t (a) FROM stdin;\r\n1\r\n\\.\r\n", `line 2, data of "t": a carriage return that is not escaped: line ends were converted`},
		{"a row that goes on", "COPY t (a) FROM stdin;\nb\\\nc\n\\.\n", `line 2, data of "t": column 1: the line ends in a backslash`},
		{"too many columns", "COPY t (" + strings.Repeat("a,", 5000) + "b) FROM stdin;\n", `line 1: a statement that begins with "copy" is too long`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := ReadScript(strings.NewReader(c.script), &record{})
			if err == nil || err.Error() != c.want {
				t.Errorf("%v, want %s", err, c.want)
			}
			if strings.HasPrefix(c.name, "cut") != errors.Is(err, ErrTruncated) {
				t.Errorf("%v: is ErrTruncated: %v", err, errors.Is(err, ErrTruncated))
			}
		})
	}
}

// TestCutAnywhere: a script with a block in it is never taken for a whole one when the cut is inside the block.
func TestCutAnywhere(t *testing.T) {
	script := "COPY s.t (a, b) FROM stdin;\n1\tx\\\\y\n2\t\\N\n\\.\n"
	whole := strings.Index(script, "\n\\.\n") + 3
	for n := 1; n < whole; n++ {
		if err := ReadScript(strings.NewReader(script[:n]), &record{}); !errors.Is(err, ErrTruncated) {
			t.Errorf("after %d bytes, %q: %v", n, script[:n], err)
		}
	}
}

func TestReadError(t *testing.T) {
	broken := errors.New("broken")
	script := "SELECT 'a', $x$ $x$ /* b */; -- c\n\\d\nCOPY t (a) FROM stdin;\n1\n\\.\n"
	for n := range len(script) {
		err := ReadScript(io.MultiReader(strings.NewReader(script[:n]), iotest.ErrReader(broken)), &record{})
		if !errors.Is(err, broken) {
			t.Errorf("after %q: %v", script[:n], err)
		}
	}
}

func TestHandlerErrorsComeBack(t *testing.T) {
	stop := errors.New("enough")
	for event, want := range map[string]string{
		"begin": `line 1, data of "t": enough`, "row": `line 2, data of "t": enough`, "end": `line 3, data of "t": enough`,
	} {
		h := &record{fail: func(e string) error {
			if strings.HasPrefix(e, event) {
				return stop
			}
			return nil
		}}
		err := ReadScript(strings.NewReader("COPY t (a) FROM stdin;\n1\n\\.\n"), h)
		if !errors.Is(err, stop) || err.Error() != want {
			t.Errorf("%s: %v, want %s", event, err, want)
		}
	}
}

func TestSkip(t *testing.T) {
	h := &record{skip: func(t Table) bool { return t.Name == "big" }}
	script := "COPY big (a) FROM stdin;\n1\t2\n\\\\.\n\\.\nCOPY small (a) FROM stdin;\n1\n\\.\n"
	if err := ReadScript(strings.NewReader(script), h); err != nil {
		t.Fatal(err)
	}
	want := []string{`begin ""."big" ["a"]`, `end 2`, `begin ""."small" ["a"]`, `row ["1"]`, `end 1`}
	if d := cmp.Diff(want, h.got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	err := ReadScript(strings.NewReader("COPY big FROM stdin;\na\\\n\\.\n"), h)
	if want := `line 2, data of "big": the line ends in a backslash`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestLongRows(t *testing.T) {
	long := strings.Repeat("0123456789", 3*bufferSize/10)
	for _, n := range []int{bufferSize - 1, bufferSize, bufferSize + 1, 3 * bufferSize / 10 * 10} {
		var h record
		if err := ReadScript(strings.NewReader("COPY t (a) FROM stdin;\n"+long[:n]+"\nx\n\\.\n"), &h); err != nil {
			t.Fatal(err)
		}
		if want := []string{`begin ""."t" ["a"]`, fmt.Sprintf("row %q", []string{long[:n]}), `row ["x"]`, "end 2"}; !cmp.Equal(want, h.got) {
			t.Errorf("a row of %d bytes is read differently", n)
		}
	}
}

func TestConstantMemory(t *testing.T) {
	rows := benchRows(false)
	script := block("COPY t FROM stdin;", rows)
	n := testing.AllocsPerRun(3, func() {
		if err := ReadScript(bytes.NewReader(script), &discard{}); err != nil {
			t.Error(err)
		}
	})
	if n > 50 {
		t.Errorf("%v allocations for %d rows", n, bytes.Count(rows, []byte("\n")))
	}
}

// TestRandomScripts hides COPY statements in everything that may hold them, between true ones.
func TestRandomScripts(t *testing.T) {
	const decoy = "\nCOPY fake (a) FROM stdin;\n0\n\\.\n"
	hide := []string{"SELECT '" + decoy + "';\n", "SELECT E'\\'" + decoy + "';\n", "DO $$" + decoy + "$$;\n", "/*" + decoy + "*/\n", "SELECT \"" + decoy + "\";\n",
		"--" + strings.ReplaceAll(decoy, "\n", " ") + "\n", "\\echo" + strings.ReplaceAll(decoy, "\n", " ") + "\n", "SELECT $a$ $$ " + decoy + "$a$;\n", "SET x = 'a';", "SELECT 1;\n\n"}
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		var script strings.Builder
		var want []string
		for i := range r.IntN(6) {
			for range r.IntN(4) {
				script.WriteString(hide[r.IntN(len(hide))])
			}
			fmt.Fprintf(&script, "COPY s.t%d (a) FROM stdin;\n", i)
			want = append(want, fmt.Sprintf(`begin "s"."t%d" ["a"]`, i))
			rows := r.IntN(3)
			for range rows {
				value := hide[r.IntN(len(hide))]
				script.Write(AppendRow(nil, [][]byte{[]byte(value)}))
				want = append(want, fmt.Sprintf("row %q", []string{value}))
			}
			script.WriteString("\\.\n")
			want = append(want, fmt.Sprintf("end %d", rows))
		}
		var h record
		if err := ReadScript(strings.NewReader(script.String()), &h); err != nil {
			t.Fatalf("%v\n%s", err, script.String())
		}
		if d := cmp.Diff(want, h.got); d != "" {
			t.Fatalf("%s\n(-want +got):\n%s", script.String(), d)
		}
	}
}

func FuzzReadScript(f *testing.F) {
	for _, s := range []string{"COPY t (a) FROM stdin;\n1\n\\.\n", "SELECT $a$;$a$, E'\\'';", "/* /* */ */ -- x\n\\d\n", "SET standard_conforming_strings = off; SELECT '\\';'",
		"COPY \"a\"\"\".b FROM stdin;\n\\N\n\\.", "CREATE FUNCTION f() BEGIN ATOMIC CASE END; END;"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		var once, bytewise record
		err := ReadScript(bytes.NewReader(script), &once)
		err2 := ReadScript(iotest.OneByteReader(bytes.NewReader(script)), &bytewise)
		if fmt.Sprint(err) != fmt.Sprint(err2) || !cmp.Equal(once.got, bytewise.got) {
			t.Fatalf("%q is read differently in single bytes: %v, %v", script, err, err2)
		}
	})
}

// TestAgainstPostgreSQL reads what pg_dump and COPY write, with hostile names and values, and compares with what the
// server says is in the table.
func TestAgainstPostgreSQL(t *testing.T) {
	for _, strings := range []string{"on", "off"} {
		t.Run("standard_conforming_strings "+strings, func(t *testing.T) { againstPostgreSQL(t, strings) })
	}
}

func againstPostgreSQL(t *testing.T, conforming string) {
	ctx, dsn := t.Context(), pgtest.New(t)
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	const decoy = "COPY public.fake (a) FROM stdin;\n0\n\\.\n"
	const table = `"My.Sch""ema"."T (a; 'b"`
	for _, q := range []string{
		`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET standard_conforming_strings = ` + conforming + `', current_database()); END $$`,
		`CREATE SCHEMA "My.Sch""ema"`,
		`CREATE TABLE ` + table + ` (id int PRIMARY KEY, "from" text, "x\y" bytea DEFAULT '\x00', größe text DEFAULT E'\\''` + decoy + `')`,
		`COMMENT ON TABLE ` + table + ` IS E'\\''` + decoy + `\\'`,
		"CREATE FUNCTION public.f() RETURNS void LANGUAGE plpgsql AS $f$ BEGIN /*\n" + decoy + "*/ PERFORM '$$'; END $f$",
		"CREATE FUNCTION public.g() RETURNS int LANGUAGE sql BEGIN ATOMIC\n SELECT CASE WHEN true THEN 1 ELSE 2 END; SELECT '" + decoy + "\\'::text; SELECT 1; END",
		"CREATE VIEW public.v AS SELECT '" + decoy + "\\'::text AS a",
		`CREATE TABLE public.nothing ()`, `INSERT INTO public.nothing DEFAULT VALUES`, `INSERT INTO public.nothing DEFAULT VALUES`,
	} {
		if _, err := conn.Exec(ctx, "SET standard_conforming_strings = on; "+q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	want := []string{}
	for i := range 300 {
		b := []byte{}
		for range r.IntN(40) {
			b = append(b, "\b\t\n\v\f\r\\.N'\"$;x0178\x01"[r.IntN(19)])
		}
		if i%7 == 0 {
			b = []byte(decoy)
		}
		var text any = string(b)
		if i%11 == 0 {
			text = nil
		}
		if _, err := conn.Exec(ctx, `INSERT INTO `+table+` VALUES ($1, $2, $3, $4)`, i, text, b, string(b)+"größe"); err != nil {
			t.Fatal(err)
		}
		shown := "NULL"
		if text != nil {
			shown = string(b)
		}
		want = append(want, fmt.Sprintf("row %q", []string{fmt.Sprint(i), shown, fmt.Sprintf(`\x%x`, b), string(b) + "größe"}))
	}
	slices.Sort(want) // the order of the table is the server's affair
	want = append(append([]string{`begin "My.Sch\"ema"."T (a; 'b" ["id" "from" "x\\y" "größe"]`}, want...), "end 300",
		`begin "public"."nothing" []`, `row []`, `row []`, `end 2`)

	bin, err := pgtest.Program("pg_dump")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dump")
	if out, err := exec.Command(bin, "--dbname", dsn, "--file", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dump, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer dump.Close()
	var h record
	if err := ReadScript(dump, &h); err != nil {
		t.Fatal(err)
	}
	if len(h.got) > 300 {
		slices.Sort(h.got[1:301])
	}
	if d := cmp.Diff(want, h.got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}

	// The server's own bytes are what AppendRow writes for the same values.
	var raw bytes.Buffer
	if _, err := conn.PgConn().CopyTo(ctx, &raw, `COPY `+table+` TO STDOUT`); err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range bytes.Lines(raw.Bytes()) {
		row, err := ParseRow(line, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendRow(nil, row); !bytes.Equal(got, line) {
			t.Errorf("%q is written as %q", line, got)
		}
		lines++
	}
	if lines != 300 {
		t.Errorf("%d lines of 300 rows", lines)
	}
}
