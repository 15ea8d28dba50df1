package pgcopy

import (
	"bytes"
	"errors"
	"fmt"
)

var (
	errCarriageReturn = errors.New("a carriage return that is not escaped: line ends were converted")
	errLastBackslash  = errors.New("the line ends in a backslash")
	errMarker         = errors.New(`the mark of the end, \., inside a row`)
)

// AppendRow appends the line of a row to dst, its line end included, and returns
// the longer slice. A nil field is NULL; an empty one that is not nil is the empty
// text. The bytes are those that PostgreSQL itself would write.
func AppendRow(dst []byte, fields [][]byte) []byte {
	for i, f := range fields {
		if i > 0 {
			dst = append(dst, '\t')
		}
		if f == nil {
			dst = append(dst, '\\', 'N')
			continue
		}
		dst = appendField(dst, f)
	}
	return append(dst, '\n')
}

func appendField(dst, f []byte) []byte {
	start := 0
	for i, c := range f {
		var e byte
		switch c {
		case '\b':
			e = 'b'
		case '\t':
			e = 't'
		case '\n':
			e = 'n'
		case '\v':
			e = 'v'
		case '\f':
			e = 'f'
		case '\r':
			e = 'r'
		case '\\':
			e = '\\'
		default:
			continue
		}
		dst = append(dst, f[start:i]...)
		dst = append(dst, '\\', e)
		start = i + 1
	}
	return append(dst, f[start:]...)
}

// ParseRow splits a line into its fields and decodes their escapes. One line end
// at the end of line is ignored. The result uses the array of fields[:0]; a nil
// element is NULL. The line is not changed; fields without escapes are parts of it.
//
// An empty line is a row with one empty field: only who knows the table can tell
// it from a row of a table without columns.
func ParseRow(line []byte, fields [][]byte) ([][]byte, error) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		return nil, errors.New("two lines in one row")
	}
	if bytes.IndexByte(line, '\\') >= 0 {
		line = bytes.Clone(line)
	}
	return parseInPlace(line, fields[:0])
}

// parseInPlace is ParseRow for a line without its end that may be overwritten:
// decoding never makes a field longer.
func parseInPlace(line []byte, fields [][]byte) ([][]byte, error) {
	if bytes.IndexByte(line, '\r') >= 0 {
		return nil, errCarriageReturn
	}
	escapes := bytes.IndexByte(line, '\\') >= 0
	for {
		tab := bytes.IndexByte(line, '\t')
		f := line
		if tab >= 0 {
			f = line[:tab:tab]
		}
		if escapes {
			if len(f) == 2 && f[0] == '\\' && f[1] == 'N' {
				f = nil
			} else if i := bytes.IndexByte(f, '\\'); i >= 0 {
				var err error
				if f, err = unescape(f, i); err != nil {
					return nil, fmt.Errorf("column %d: %w", len(fields)+1, err)
				}
			}
		}
		fields = append(fields, f)
		if tab < 0 {
			return fields, nil
		}
		line = line[tab+1:]
	}
}

// unescape decodes f within its own memory; the first backslash is at i.
func unescape(f []byte, i int) ([]byte, error) {
	w := i
	for {
		i++ // behind the backslash
		if i == len(f) {
			return nil, errLastBackslash
		}
		c := f[i]
		i++
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'v':
			c = '\v'
		case '.':
			return nil, errMarker
		case '0', '1', '2', '3', '4', '5', '6', '7':
			c -= '0'
			for n := 1; n < 3 && i < len(f) && f[i] >= '0' && f[i] <= '7'; n++ {
				c = c<<3 | (f[i] - '0')
				i++
			}
		case 'x':
			if i < len(f) && unhex(f[i]) < 16 {
				c = unhex(f[i])
				i++
				if i < len(f) && unhex(f[i]) < 16 {
					c = c<<4 | unhex(f[i])
					i++
				}
			}
		}
		f[w] = c
		w++
		next := bytes.IndexByte(f[i:], '\\')
		if next < 0 {
			w += copy(f[w:], f[i:])
			return f[:w:w], nil
		}
		w += copy(f[w:], f[i:i+next])
		i += next
	}
}

// unhex is the value of a hexadecimal digit, 16 for anything else.
func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}
