package n8ndb

import "bytes"

// editBundle is EditColumn for the file bundle.json, in which the flatted JSON stands
// once more escaped. Places are those of a bundle. It does not change file.
func editBundle(places []Place, file []byte, seal func(p *Place, v ColumnValue) (text string, change bool, err error)) ([]byte, error) {
	at, ok := bundleText(file)
	if !ok {
		return file, nil
	}
	raw := file[at.start:at.end]
	data := raw
	if holdsEscapes(raw) {
		data = unescape(append([]byte(nil), raw...))
	}
	var edits []splice
	err := eachFlatted(places, data, func(p *Place, v ColumnValue) error {
		text, change, err := seal(p, v)
		if err == nil && change {
			err = v.replaceable(text, Flatted)
		}
		if err != nil || !change {
			return err
		}
		// Once for the element, and once more for the member it is in.
		inner := appendJSON(nil, text)
		outer := appendJSON(nil, string(inner))
		edits = append(edits, splice{v.start, v.end, string(outer[1 : len(outer)-1])})
		return nil
	})
	if err != nil || len(edits) == 0 {
		return file, err
	}
	escapedAt(raw, edits)
	for i := range edits {
		edits[i].start += at.start
		edits[i].end += at.start
	}
	return []byte(splices(edits).apply(string(file))), nil
}

func holdsEscapes(raw []byte) bool { return bytes.IndexByte(raw, 0x5c) >= 0 }

// escapedAt turns places in the unescaped text into those in raw. Edits are in order;
// two may be of the same stretch.
func escapedAt(raw []byte, edits []splice) {
	in, out := 0, 0 // in raw, and in what unescape makes of it
	to := func(target int) int {
		for out < target && in < len(raw) {
			if raw[in] != '\\' || in+1 == len(raw) {
				in++
				out++
				continue
			}
			r, n := escaped(raw[in:])
			in += n
			out += escapedLen(r)
		}
		return in
	}
	var last splice
	var lastRaw splice
	for i, e := range edits {
		if i > 0 && e.start == last.start {
			edits[i].start, edits[i].end = lastRaw.start, lastRaw.end
			continue
		}
		last = e
		edits[i].start = to(e.start)
		edits[i].end = to(e.end)
		lastRaw = edits[i]
	}
}
