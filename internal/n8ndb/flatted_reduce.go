package n8ndb

// reduceFlatted appends flatted JSON that has the same ciphertext members as data,
// in elements of the same numbers, and of everything else nothing: other elements
// become 0. It returns nil if there are none.
func reduceFlatted(dst, data []byte) []byte {
	found := scanFlatted(data)
	if len(found) == 0 {
		return nil
	}
	values := map[int]bool{}
	for _, f := range found {
		values[f.element] = true
	}
	begin := len(dst)
	dst = append(dst, '[')
	needed := len(dst) // up to here
	for s := (flattedScanner{data: data}); s.next(); {
		if s.element > 0 {
			dst = append(dst, ',')
		}
		before := len(dst)
		switch {
		case values[s.element]:
			dst = append(dst, data[s.start:s.end]...)
		case s.named && data[s.start] == '{':
			dst = reduceMembers(dst, &s)
		}
		if len(dst) > before {
			needed = len(dst)
		} else {
			dst = append(dst, '0')
		}
	}
	dst = append(dst[:needed], ']')
	if !sameFlatted(found, data, dst[begin:]) {
		return append(dst[:begin], data...)
	}
	return dst
}

// reduceMembers appends the members of an object that scanFlatted looks at; nothing
// if there are none.
func reduceMembers(dst []byte, s *flattedScanner) []byte {
	n := 0
	s.members(func(name, value []byte) {
		if member, _ := flattedMember(name); member == "" && !holdsContext(name) {
			return
		}
		if n++; n == 1 {
			dst = append(dst, '{')
		} else {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), name...), '"', ':')
		dst = append(dst, value...)
	})
	if n > 0 {
		dst = append(dst, '}')
	}
	return dst
}

func sameFlatted(found []flattedValue, data, reduced []byte) bool {
	again := scanFlatted(reduced)
	if len(again) != len(found) {
		return false
	}
	for i, f := range found {
		if a := again[i]; a.member != f.member || a.element != f.element || a.text(reduced) != f.text(data) {
			return false
		}
	}
	return true
}
