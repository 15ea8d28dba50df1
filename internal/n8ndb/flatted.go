package n8ndb

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// n8n keeps execution data in flatted JSON: one array, whose elements are the
// objects, arrays and strings of a graph, the root first. Inside an element every
// string is the decimal index of another element, and nothing is nested:
//
//	[{"executionData":"1"},{"runtimeData":"2"},{"version":1,"credentials":"3"},"U2FsdGVkX1..."]
//
// An element is found without building the graph: one pass notes which members
// named as wanted point where, a second one picks up the strings.

// contextual members hold ciphertext only in an execution context, which is what
// members of these names refer to. "credentials" is also a common name of other data.
func holdsContext(name []byte) bool {
	return string(name) == "runtimeData" || string(name) == "executionContext"
}

// flattedMember is the ciphertext members of the catalogue.
func flattedMember(name []byte) (member string, contextual bool) {
	switch string(name) {
	case "credentials":
		return "credentials", true
	case "secureArtifacts":
		return "secureArtifacts", true
	case "encryptedMetadata":
		return "encryptedMetadata", false
	}
	return "", false
}

// flattedValue is a string that a member refers to. Start and end bound its JSON
// text with quotes in the scanned bytes.
type flattedValue struct {
	member     string
	element    int
	start, end int
}

// text is the string itself.
func (f flattedValue) text(data []byte) string {
	raw := data[f.start:f.end]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return string(raw)
	}
	return s
}

// scanFlatted returns the ciphertext members of flatted JSON in order of their
// elements, each element once per member name. What is not flatted JSON, or ends
// early, gives what could be read: n8n cannot read it either.
func scanFlatted(data []byte) []flattedValue {
	if !mayHoldMembers(data) {
		return nil
	}
	type reference struct {
		member  string
		from    int // the object; -1 if that does not matter
		element int
	}
	var wanted []reference
	contexts := map[int]bool{}
	s := flattedScanner{data: data}
	for s.next() {
		if !s.named || s.data[s.start] != '{' {
			continue
		}
		s.members(func(name, value []byte) {
			index, ok := elementIndex(value)
			if !ok {
				return
			}
			if holdsContext(name) {
				contexts[index] = true
			}
			if member, contextual := flattedMember(name); member != "" {
				from := -1
				if contextual {
					from = s.element
				}
				wanted = append(wanted, reference{member, from, index})
			}
		})
	}
	targets := map[int][]string{}
	for _, r := range wanted {
		if r.from >= 0 && !contexts[r.from] {
			continue
		}
		if names := targets[r.element]; len(names) == 0 || names[len(names)-1] != r.member {
			targets[r.element] = append(names, r.member)
		}
	}
	if len(targets) == 0 {
		return nil
	}
	var found []flattedValue
	s = flattedScanner{data: data}
	for left := len(targets); left > 0 && s.next(); {
		names := targets[s.element]
		if names == nil {
			continue
		}
		left--
		if s.data[s.start] != '"' {
			continue
		}
		for i, name := range names {
			if !contains(names[:i], name) && s.end-s.start > 2 {
				found = append(found, flattedValue{name, s.element, s.start, s.end})
			}
		}
	}
	return found
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// mayHoldMembers spares the scan of data without any member of interest.
func mayHoldMembers(data []byte) bool {
	return bytes.Contains(data, []byte(`"credentials"`)) || bytes.Contains(data, []byte(`"secureArtifacts"`)) ||
		bytes.Contains(data, []byte(`"encryptedMetadata"`))
}

// elementIndex reads a member's value, with quotes, as a reference.
func elementIndex(value []byte) (int, bool) {
	if len(value) < 3 || len(value) > 12 || value[0] != '"' {
		return 0, false
	}
	n, err := strconv.Atoi(string(value[1 : len(value)-1]))
	return n, err == nil && n >= 0
}

// flattedScanner walks the elements of the outer array.
type flattedScanner struct {
	data       []byte
	element    int // number of the current one
	start, end int // its JSON text
	at         int
	begun      bool
	named      bool // the current one has a string as long as a name of interest
}

func (s *flattedScanner) next() bool {
	s.space()
	if !s.begun {
		if s.at >= len(s.data) || s.data[s.at] != '[' {
			return false
		}
		s.at++
		s.begun, s.element = true, -1
	} else {
		if s.at >= len(s.data) || s.data[s.at] != ',' {
			return false
		}
		s.at++
	}
	s.space()
	s.start, s.named = s.at, false
	if !s.value() || s.at == s.start {
		return false
	}
	s.element++
	s.end = s.at
	return true
}

func (s *flattedScanner) space() {
	for s.at < len(s.data) && (s.data[s.at] == ' ' || s.data[s.at] == '\n' || s.data[s.at] == '\t' || s.data[s.at] == '\r') {
		s.at++
	}
}

// value moves behind one JSON value, whatever it holds.
func (s *flattedScanner) value() bool {
	depth := 0
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case '"':
			from := s.at
			if !s.text() {
				return false
			}
			switch s.at - from - len(`""`) {
			case len("credentials"), len("secureArtifacts"), len("executionContext"), len("encryptedMetadata"):
				s.named = true
			}
			if depth == 0 {
				return true
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return true // the end of the outer array, after a bare number or word
			}
			if depth == 0 {
				s.at++
				return true
			}
		case ',':
			if depth == 0 {
				return true
			}
		}
		s.at++
	}
	return false
}

// text moves behind a string.
func (s *flattedScanner) text() bool {
	s.at++
	for {
		i := bytes.IndexByte(s.data[s.at:], '"')
		if i < 0 {
			return false
		}
		s.at += i + 1
		slashes := 0
		for s.data[s.at-2-slashes] == '\\' {
			slashes++ // ends at the opening quote at the latest
		}
		if slashes%2 == 0 {
			return true
		}
	}
}

// members calls fn for every member of the current object: its name without and
// its value with quotes. Names are compared as they stand: n8n's have no escapes.
func (s *flattedScanner) members(fn func(name, value []byte)) {
	s.memberSpans(func(name, value span) {
		fn(s.data[name.start:name.end], s.data[value.start:value.end])
	})
}

// memberSpans is members, by their places in the data.
func (s *flattedScanner) memberSpans(fn func(name, value span)) {
	m := flattedScanner{data: s.data[:s.end-1], at: s.start + 1}
	for {
		m.space()
		name := m.at
		if m.at >= len(m.data) || m.data[m.at] != '"' || !m.text() {
			return
		}
		nameEnd := m.at
		m.space()
		if m.at >= len(m.data) || m.data[m.at] != ':' {
			return
		}
		m.at++
		m.space()
		start := m.at
		// The last value of an object may be a bare word that ends with the data.
		if !m.value() && m.at < len(m.data) {
			return
		}
		fn(span{name + 1, nameEnd - 1}, span{start, m.at})
		m.space()
		if m.at >= len(m.data) || m.data[m.at] != ',' {
			return
		}
		m.at++
	}
}
