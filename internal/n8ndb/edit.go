package n8ndb

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/n8keep/n8keep/n8ncrypt"
)

// ColumnValue is one value of a place, as it stands in its column.
type ColumnValue struct {
	// Suffix is what follows the key of the row in Secret.Row: "#3" of a list or of
	// flatted JSON, else "".
	Suffix string
	Text   string
	// Problem says why there is no value to be had of the column, "" when there is.
	Problem Problem

	member     string // of flatted JSON
	start, end int    // where it stands in the column, with the quotes of JSON
}

// EditColumn replaces values of places, which are all of one column and in the order
// of the catalogue, in the text of that column. Seal gets every value that a census
// counts, in the order of a census; where change is false the value stays as it is,
// byte for byte, and so does everything between values: JSON and flatted JSON are
// never serialised anew, and of members that occur twice only the last one, which n8n
// reads, counts. A value with a Problem cannot be changed.
func EditColumn(places []Place, column string, seal func(p *Place, v ColumnValue) (text string, change bool, err error)) (string, error) {
	if len(places) == 0 {
		return column, nil
	}
	var edits []splice
	container := places[0].Container
	each := func(p *Place, v ColumnValue) error {
		text, change, err := seal(p, v)
		if err != nil || !change {
			return err
		}
		if err := v.replaceable(text, container); err != nil {
			return fmt.Errorf("changing a value of %q: %w", p.ID, err)
		}
		if container == JSON || container == Flatted {
			text = string(appendJSON(nil, text))
		}
		edits = append(edits, splice{v.start, v.end, text})
		return nil
	}
	for i := range places {
		p := &places[i]
		if p.Container != container {
			return "", fmt.Errorf("the places %q and %q are not in one column", places[0].ID, p.ID)
		}
		if p.flatted() {
			break
		}
		for _, v := range p.columnValues(column) {
			if err := each(p, v); err != nil {
				return "", err
			}
		}
	}
	if places[0].flatted() {
		if err := eachFlatted(places, bytesOf(column), each); err != nil {
			return "", err
		}
	}
	if len(edits) == 1 && edits[0].start == 0 && edits[0].end == len(column) {
		return edits[0].text, nil
	}
	return splices(edits).apply(column), nil
}

var errNoValue = errors.New("there is no value that could be replaced")

func (v *ColumnValue) replaceable(text string, c Container) error {
	switch {
	case v.Problem != "":
		return errNoValue
	case text == "":
		return errors.New("the new text is empty")
	case c == List && strings.Contains(text, ","):
		return errors.New("the new text has a comma, which ends a value of a list")
	case !utf8.ValidString(text), strings.IndexByte(text, 0) >= 0:
		return errors.New("the new text is no text that a database takes")
	}
	return nil
}

// columnValues takes the text of a column apart that is not flatted JSON. Empty values
// are none.
func (p *Place) columnValues(column string) []ColumnValue {
	if column == "" {
		return nil
	}
	switch p.Container {
	case List:
		var list []ColumnValue
		at := 0
		for i, v := range strings.Split(column, ",") {
			if v != "" {
				list = append(list, ColumnValue{Suffix: "#" + strconv.Itoa(i), Text: v, start: at, end: at + len(v)})
			}
			at += len(v) + 1
		}
		return list
	case JSON:
		v, ok := jsonMember(column, p.Path)
		if !ok {
			return nil
		}
		return []ColumnValue{v}
	}
	return []ColumnValue{{Text: column, end: len(column)}}
}

// jsonMember finds a string member of the object that text is. A member that is null,
// empty or missing is none.
func jsonMember(text, name string) (v ColumnValue, ok bool) {
	data := bytesOf(text)
	if !json.Valid(data) {
		return ColumnValue{Problem: Malformed, Text: text}, true
	}
	start, end := jsonBounds(data)
	switch data[start] {
	case 'n':
		return v, false
	case '{':
	default:
		return ColumnValue{Problem: Malformed, Text: text}, true
	}
	s := flattedScanner{data: data, start: start, end: end}
	s.memberSpans(func(member, value span) {
		if raw := data[member.start:member.end]; string(raw) == name || unquoted(raw) == name {
			v, ok = ColumnValue{start: value.start, end: value.end}, true
		}
	})
	raw := data[v.start:v.end]
	switch {
	case !ok:
		return v, false
	case raw[0] == 'n':
		return v, false
	case raw[0] != '"' || json.Unmarshal(raw, &v.Text) != nil:
		return ColumnValue{Problem: NotCiphertext, Text: text}, true
	}
	return v, v.Text != ""
}

// unquoted is a member's name with its escapes undone, "" when it has none.
func unquoted(raw []byte) (name string) {
	if slices.Contains(raw, '\\') {
		_ = json.Unmarshal(slices.Concat([]byte{'"'}, raw, []byte{'"'}), &name)
	}
	return name
}

// jsonBounds are the first and the last byte of a JSON text that are no white space.
func jsonBounds(data []byte) (start, end int) {
	s := flattedScanner{data: data}
	s.space()
	for end = len(data); end > s.at && strings.IndexByte(" \t\r\n", data[end-1]) >= 0; {
		end--
	}
	return s.at, end
}

// eachFlatted calls fn for the values of places in flatted JSON, in the order of its
// elements.
func eachFlatted(places []Place, data []byte, fn func(*Place, ColumnValue) error) error {
	for _, f := range scanFlatted(data) {
		i := slices.IndexFunc(places, func(p Place) bool { return p.Path == f.member })
		if i < 0 {
			continue
		}
		value := f.text(data)
		if !f.counts(value) {
			continue
		}
		v := ColumnValue{Suffix: "#" + strconv.Itoa(f.element), Text: value, member: f.member, start: f.start, end: f.end}
		if err := fn(&places[i], v); err != nil {
			return err
		}
	}
	return nil
}

// counts reports whether the value is n8n's: of some names users have members, too.
func (f flattedValue) counts(value string) bool {
	_, contextual := flattedMember([]byte(f.member))
	return contextual || n8ncrypt.Detect(value) != n8ncrypt.None
}

type span struct{ start, end int }

// splice is text that takes the place of what stands between start and end.
type splice struct {
	start, end int
	text       string
}

type splices []splice

// apply returns s with everything replaced. Of several for one stretch the first one
// counts: flatted JSON has equal strings once, whoever refers to them.
func (edits splices) apply(s string) string {
	if len(edits) == 0 {
		return s
	}
	slices.SortStableFunc(edits, func(a, b splice) int { return a.start - b.start })
	size := len(s)
	for _, e := range edits {
		size += len(e.text)
	}
	out := make([]byte, 0, size)
	at := 0
	for _, e := range edits {
		if e.start < at {
			continue
		}
		out = append(append(out, s[at:e.start]...), e.text...)
		at = e.end
	}
	return string(append(out, s[at:]...))
}

// appendJSON appends a JSON string as JavaScript writes it.
func appendJSON(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"', c == '\\':
			dst = append(dst, '\\', c)
		case c >= ' ':
			dst = append(dst, c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c == '\b':
			dst = append(dst, '\\', 'b')
		case c == '\f':
			dst = append(dst, '\\', 'f')
		default:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
	}
	return append(dst, '"')
}
