package n8ndbtest

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
)

// Flatted writes a value of maps, slices, strings and other JSON values as the npm
// package flatted does: a string occurs once, members go by name.
func Flatted(root any) []byte {
	f := &flattedWriter{strings: map[string]int{}}
	f.add(root)
	for i := 0; i < len(f.queue); i++ {
		f.elements = append(f.elements, f.element(f.queue[i]))
	}
	var b bytes.Buffer
	b.WriteByte('[')
	b.Write(bytes.Join(f.elements, []byte{','}))
	b.WriteByte(']')
	return b.Bytes()
}

type flattedWriter struct {
	queue    []any
	elements [][]byte
	strings  map[string]int
}

// add queues what is kept as an element of its own and returns its number.
func (f *flattedWriter) add(v any) int {
	if s, ok := v.(string); ok {
		if i, ok := f.strings[s]; ok {
			return i
		}
		f.strings[s] = len(f.queue)
	}
	f.queue = append(f.queue, v)
	return len(f.queue) - 1
}

func (f *flattedWriter) element(v any) []byte {
	var b bytes.Buffer
	switch v := v.(type) {
	case map[string]any:
		b.WriteByte('{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(plainJSON(name))
			b.WriteByte(':')
			b.Write(f.reference(v[name]))
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(f.reference(e))
		}
		b.WriteByte(']')
	default:
		b.Write(plainJSON(v))
	}
	return b.Bytes()
}

func (f *flattedWriter) reference(v any) []byte {
	switch v.(type) {
	case map[string]any, []any, string:
		return []byte(`"` + strconv.Itoa(f.add(v)) + `"`)
	}
	return plainJSON(v)
}

func plainJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("n8ndbtest: " + err.Error()) // a test's own value
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}
