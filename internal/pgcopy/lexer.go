package pgcopy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A COPY or SET statement of a script is short: 1600 columns of 63 bytes at most.
const (
	maxTokens     = 8192
	maxTokenBytes = 1 << 20
)

// token is a part of a COPY or SET statement.
type token struct {
	kind byte // w word (in lower case), q quoted identifier, s string, u anything with U&, or the character itself
	text string
}

// lexer walks through SQL as psql's own lexer does, as far as it takes to know
// where statements end.
type lexer struct {
	r    *bufio.Reader
	line int64 // of the next byte

	plainEscapes bool // standard_conforming_strings is off: a backslash escapes in '...' too

	tokens     []token
	tokenBytes int
	keep       bool // this statement's tokens are wanted
	empty      bool // no token of the statement was seen
	words      int  // identifiers so far
	initials   [4]byte
	parens     int
	begins     int // depth of BEGIN ATOMIC ... END and CASE ... END inside it
	buf        []byte
}

func newLexer(r *bufio.Reader) *lexer {
	return &lexer{r: r, line: 1}
}

// next is the next byte; io.EOF at the end.
func (l *lexer) next() (byte, error) {
	c, err := l.r.ReadByte()
	if c == '\n' && err == nil {
		l.line++
	}
	return c, err
}

// peek is the byte after the next n bytes, 0 at the end.
func (l *lexer) peek(n int) byte {
	b, _ := l.r.Peek(n + 1)
	if len(b) <= n {
		return 0
	}
	return b[n]
}

// statement reads to the semicolon that ends the next statement and returns its
// tokens, if it is one of those that matter. At the end of the script it returns
// io.EOF, inside a statement ErrTruncated.
func (l *lexer) statement() ([]token, error) {
	l.tokens, l.tokenBytes, l.keep, l.empty, l.words, l.parens, l.begins = l.tokens[:0], 0, false, true, 0, 0, 0
	l.initials = [4]byte{}
	// Two string constants that only a line break separates are one, and the second continues in the manner of the first.
	const none, closed, broken = 0, 1, 2
	extended := none
	for {
		c, err := l.next()
		if err == io.EOF && l.empty {
			return nil, io.EOF
		} else if err != nil {
			return nil, l.cut(err)
		}
		switch {
		case c == '\n':
			if extended == closed {
				extended = broken
			}
			continue
		case c == ' ', c == '\t', c == '\r', c == '\f', c == '\v':
			continue
		case c == '-' && l.peek(0) == '-':
			if err := l.restOfLine(); err != nil {
				return nil, err
			}
			continue
		case c == '/' && l.peek(0) == '*':
			if err := l.blockComment(); err != nil {
				return nil, err
			}
			continue
		case c == '\\': // a meta-command of psql
			if err := l.restOfLine(); err != nil {
				return nil, err
			}
			continue
		case c == ';' && l.parens <= 0 && l.begins == 0:
			return l.tokens, nil
		}
		wasExtended := extended
		extended = none
		first := l.empty
		l.empty = false
		switch {
		case c == '\'':
			escapes := l.plainEscapes || wasExtended == broken
			if err := l.quoted('\'', escapes); err != nil {
				return nil, err
			}
			if escapes && !l.plainEscapes {
				extended = closed
			}
			err = l.add('s', string(l.buf))
		case c == '"':
			if err := l.quoted('"', false); err != nil {
				return nil, err
			}
			l.words++
			err = l.add('q', string(l.buf))
		case c == '$' && !isDigit(l.peek(0)):
			if err := l.dollar(); err != nil {
				return nil, err
			}
			err = l.add('s', "")
		case isIdentStart(c):
			escaped, e := l.word(c, first)
			if escaped {
				extended = closed
			}
			err = e
		case c == '(':
			l.parens++
			err = l.add('(', "")
		case c == ')':
			l.parens--
			err = l.add(')', "")
		default:
			err = l.add(c, "")
		}
		if err != nil {
			return nil, err
		}
	}
}

// word reads an identifier or keyword that begins with c, or the string whose
// prefix it is; then it tells whether that string has escapes.
func (l *lexer) word(c byte, first bool) (escaped bool, err error) {
	switch quote := l.peek(0); {
	case quote == '\'' && strings.IndexByte("eEbBxXnN", c) >= 0:
		escaped = c == 'e' || c == 'E'
		_, _ = l.next()
		if err := l.quoted('\'', escaped || l.plainEscapes && (c == 'n' || c == 'N')); err != nil {
			return false, err
		}
		return escaped, l.add('s', string(l.buf))
	case quote == '&' && (c == 'u' || c == 'U') && (l.peek(1) == '\'' || l.peek(1) == '"'):
		_, _ = l.next()
		q, _ := l.next()
		if err := l.quoted(q, false); err != nil {
			return false, err
		}
		return false, l.add('u', "")
	}
	l.buf = append(l.buf[:0], c)
	for {
		n := l.peek(0)
		if !isIdentStart(n) && !isDigit(n) && n != '$' {
			break
		}
		_, _ = l.next()
		if len(l.buf) < maxTokenBytes {
			l.buf = append(l.buf, n)
		}
	}
	text := lower(string(l.buf))
	if first {
		l.keep = text == "copy" || text == "set"
	}
	l.body(text)
	return false, l.add('w', text)
}

// body keeps count of the SQL-standard bodies of functions, whose semicolons do not
// end the statement, with psql's own rule.
func (l *lexer) body(word string) {
	if l.words < len(l.initials) {
		switch word {
		case "create", "function", "procedure", "or", "replace":
			l.initials[l.words] = word[0]
		}
	}
	l.words++
	if l.parens != 0 {
		return
	}
	i := l.initials
	routine := i[0] == 'c' && (i[1] == 'f' || i[1] == 'p' || i[1] == 'o' && i[2] == 'r' && (i[3] == 'f' || i[3] == 'p'))
	if !routine {
		return
	}
	switch {
	case word == "begin", word == "case" && l.begins > 0:
		l.begins++
	case word == "end" && l.begins > 0:
		l.begins--
	}
}

// quoted reads to the closing quote; a doubled one stands for itself. The content
// is in l.buf if the statement's tokens are wanted.
func (l *lexer) quoted(quote byte, escapes bool) error {
	l.buf = l.buf[:0]
	for {
		c, err := l.next()
		if err != nil {
			return l.cut(err)
		}
		switch {
		case c == quote && l.peek(0) == quote:
			_, _ = l.next()
		case c == quote:
			return nil
		case c == '\\' && escapes:
			if c, err = l.next(); err != nil {
				return l.cut(err)
			}
		}
		if l.keep && len(l.buf) < maxTokenBytes {
			l.buf = append(l.buf, c)
		}
	}
}

// dollar reads a dollar-quoted string whose first $ was read. What is not one after
// all, as in a$b behind an operator, is one character.
func (l *lexer) dollar() error {
	tag := []byte{'$'}
	for n := 0; ; n++ {
		c := l.peek(n)
		if c == '$' {
			tag = append(tag, '$')
			break
		}
		if !isIdentStart(c) && (n == 0 || !isDigit(c)) || n > 1000 {
			return nil
		}
		tag = append(tag, c)
	}
	if _, err := l.r.Discard(len(tag) - 1); err != nil {
		return l.cut(err)
	}
	for matched := 0; ; {
		c, err := l.next()
		switch {
		case err != nil:
			return l.cut(err)
		case c == tag[matched]:
			if matched++; matched == len(tag) {
				return nil
			}
		case c == '$': // $ stands only at both ends of a tag, so this may begin one
			matched = 1
		default:
			matched = 0
		}
	}
}

// blockComment reads a comment, with those nested in it, whose first slash was read.
func (l *lexer) blockComment() error {
	_, _ = l.next()
	for depth := 1; depth > 0; {
		c, err := l.next()
		switch {
		case err != nil:
			return l.cut(err)
		case c == '*' && l.peek(0) == '/':
			depth--
			_, _ = l.next()
		case c == '/' && l.peek(0) == '*':
			depth++
			_, _ = l.next()
		}
	}
	return nil
}

// restOfLine reads up to the line end, which stays.
func (l *lexer) restOfLine() error {
	for {
		_, err := l.r.ReadSlice('\n')
		switch {
		case err == nil:
			return l.r.UnreadByte()
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF:
			return nil
		default:
			return fmt.Errorf("reading the script: %w", err)
		}
	}
}

func (l *lexer) add(kind byte, text string) error {
	if !l.keep {
		return nil
	}
	l.tokenBytes += len(text)
	if len(l.tokens) == maxTokens || l.tokenBytes > maxTokenBytes {
		return l.errorf("a statement that begins with %q is too long", l.tokens[0].text)
	}
	l.tokens = append(l.tokens, token{kind, text})
	return nil
}

func (l *lexer) cut(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("line %d: %w", l.line, ErrTruncated)
	}
	return fmt.Errorf("reading the script: %w", err)
}

func (l *lexer) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d: %w", l.line, fmt.Errorf(format, args...))
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isIdentStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

// lower folds ASCII alone, as a server with a multi-byte encoding does.
func lower(s string) string {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if b[j] >= 'A' && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
