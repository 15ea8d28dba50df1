package pgcopy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

const (
	bufferSize = 256 << 10
	// maxRow is the longest row that PostgreSQL can write: it builds each in one string of less than this.
	maxRow = 1 << 30
)

// ReadScript reads the script to its end and gives its COPY blocks to h, in their
// order. The error names the line.
func ReadScript(r io.Reader, h Handler) error {
	s := &script{lex: newLexer(bufio.NewReaderSize(r, bufferSize)), h: h}
	if start, _ := s.lex.r.Peek(3); string(start) == "\uFEFF" {
		_, _ = s.lex.r.Discard(3)
	}
	for {
		tokens, err := s.lex.statement()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if len(tokens) == 0 {
			continue
		}
		if tokens[0].text == "set" {
			s.set(tokens)
			continue
		}
		t, hasData, err := copyStatement(tokens)
		if err != nil {
			return s.lex.errorf("%w", err)
		}
		if hasData {
			if err := s.block(t); err != nil {
				return err
			}
		}
	}
}

type script struct {
	lex    *lexer
	h      Handler
	long   []byte // a row longer than the reader's buffer
	fields [][]byte
}

// set follows the one setting that changes where strings end. pg_dump writes what
// the dumped database had.
func (s *script) set(tokens []token) {
	if len(tokens) > 1 && (tokens[1].text == "session" || tokens[1].text == "local") && tokens[1].kind == 'w' {
		tokens = tokens[1:]
	}
	if len(tokens) != 4 || tokens[1].text != "standard_conforming_strings" {
		return
	}
	switch lower(tokens[3].text) {
	case "off", "false", "0", "no":
		s.lex.plainEscapes = true
	default:
		s.lex.plainEscapes = false
	}
}

// copyStatement reads COPY name [(columns)] FROM stdin. Other forms of COPY have no
// data in the script, except one with options, which is an error.
func copyStatement(tokens []token) (t Table, hasData bool, err error) {
	p := 1
	is := func(i int, kind byte, text string) bool {
		return i < len(tokens) && tokens[i].kind == kind && tokens[i].text == text
	}
	name := func() (string, bool) {
		if p < len(tokens) && (tokens[p].kind == 'w' || tokens[p].kind == 'q') {
			p++
			return tokens[p-1].text, true
		}
		return "", false
	}
	// What a COPY reads from stands behind its name, so a form that is not understood still shows whether data follows.
	stdin := false
	for i := range tokens {
		stdin = stdin || is(i, 'w', "from") && is(i+1, 'w', "stdin")
	}
	if !stdin {
		return Table{}, false, nil
	}
	bad := func() (Table, bool, error) {
		return Table{}, false, errors.New("a COPY statement in a form that is not understood")
	}
	first, ok := name()
	if !ok {
		return bad()
	}
	t.Name = first
	if is(p, '.', "") {
		p++
		t.Schema = first
		if t.Name, ok = name(); !ok {
			return bad()
		}
	}
	if is(p, '(', "") {
		p++
		for {
			c, ok := name()
			if !ok {
				return bad()
			}
			t.Columns = append(t.Columns, c)
			p++
			if is(p-1, ')', "") {
				break
			}
			if !is(p-1, ',', "") {
				return bad()
			}
		}
	}
	if !is(p, 'w', "from") || !is(p+1, 'w', "stdin") {
		return bad()
	}
	if p+2 != len(tokens) {
		return Table{}, false, fmt.Errorf("COPY %s FROM stdin has options, which are not understood", t)
	}
	return t, true, nil
}

// block reads the rows behind a COPY statement, up to and with the line \. .
func (s *script) block(t Table) error {
	first, err := s.row()
	if err != nil {
		return s.inBlock(t, err)
	}
	if len(bytes.Trim(first, " \t\r\n")) > 0 {
		return s.inBlock(t, errors.New("something stands behind the COPY statement in its line"))
	}
	skip, err := s.h.Begin(t)
	if err != nil {
		return s.inBlock(t, err)
	}
	for rows := int64(0); ; rows++ {
		line, err := s.row()
		if err != nil {
			return s.inBlock(t, err)
		}
		if len(line) == 2 && line[0] == '\\' && line[1] == '.' {
			if err := s.h.End(rows); err != nil {
				return s.inBlock(t, err)
			}
			return nil
		}
		if skip {
			if continues(line) {
				return s.inBlock(t, errLastBackslash)
			}
			continue
		}
		if err := s.emit(t, line); err != nil {
			return s.inBlock(t, err)
		}
	}
}

func (s *script) emit(t Table, line []byte) (err error) {
	if len(line) == 0 && len(t.Columns) == 0 {
		return s.h.Row(s.fields[:0])
	}
	if s.fields, err = parseInPlace(line, s.fields[:0]); err != nil {
		return err
	}
	if n := len(t.Columns); n > 0 && len(s.fields) != n {
		return fmt.Errorf("the row has %d columns, want %d", len(s.fields), n)
	}
	return s.h.Row(s.fields)
}

// continues tells whether the line ends in a backslash that nothing precedes to
// escape: to PostgreSQL the row goes on in the next line.
func continues(line []byte) bool {
	n := 0
	for n < len(line) && line[len(line)-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// row is the next line of data without its end, valid until the next call. The mark
// of the end may lack its line end, a row may not.
func (s *script) row() ([]byte, error) {
	line, err := s.lex.r.ReadSlice('\n')
	if err == nil {
		s.lex.line++
		return line[:len(line)-1], nil
	}
	s.long = s.long[:0]
	for errors.Is(err, bufio.ErrBufferFull) {
		if s.long = append(s.long, line...); len(s.long) > maxRow {
			return nil, fmt.Errorf("a row of more than %d bytes", maxRow)
		}
		line, err = s.lex.r.ReadSlice('\n')
	}
	s.long = append(s.long, line...)
	switch {
	case err == nil:
		s.lex.line++
		return s.long[:len(s.long)-1], nil
	case err == io.EOF && string(s.long) == `\.`:
		s.lex.line++
		return s.long, nil
	case err == io.EOF:
		s.lex.line++
		return nil, ErrTruncated
	}
	return nil, fmt.Errorf("reading the script: %w", err)
}

// inBlock adds table and line; row has already counted the line it returned.
func (s *script) inBlock(t Table, err error) error {
	return fmt.Errorf("line %d, data of %q: %w", s.lex.line-1, t.String(), err)
}
