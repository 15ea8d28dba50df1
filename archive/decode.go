package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

func (r *Reader) readManifest() (Manifest, error) {
	m, err := parseManifest(r.tar, r.header, r.entries, r.spool)
	var source *sourceError
	if errors.As(err, &source) {
		return Manifest{}, r.damage(source.err)
	}
	return m, err
}

// sourceError is trouble of the layers below.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }

// parseManifest parses manifest.json as it streams by, compares its entries with
// those that were read, spools the secrets, and then encodes everything again:
// only the canonical text is accepted, so that nothing hides in repeated keys.
func parseManifest(text io.Reader, header Header, entries []Entry, spool *spool) (Manifest, error) {
	raw := sha256.New()
	p := &manifestParser{input: &budget{r: io.TeeReader(text, raw)}, spool: spool, entries: entries}
	p.dec = json.NewDecoder(p.input)
	m, err := p.parse()
	if err == nil {
		_, p.input.err = io.Copy(io.Discard, p.input.r)
	}
	switch {
	case p.input.err != nil:
		return Manifest{}, &sourceError{p.input.err}
	case p.local != nil:
		return Manifest{}, p.local
	case err != nil:
		return Manifest{}, &DamagedError{Name: manifestName, Reason: "the manifest " + err.Error()}
	case p.mismatch != nil:
		p.mismatch.Total = p.total
		return Manifest{}, p.mismatch
	}
	// The same entries: what was read has been compared with what is listed.
	m.Entries = entries
	again := sha256.New()
	if err := m.encode(again, spool.lines()); err != nil {
		return Manifest{}, err
	}
	if !bytes.Equal(again.Sum(nil), raw.Sum(nil)) {
		return Manifest{}, &DamagedError{Name: manifestName, Reason: "the manifest is not canonical JSON"}
	}
	if err := m.check(); err != nil {
		return Manifest{}, &DamagedError{Name: manifestName, Reason: "the manifest: " + err.Error()}
	}
	if !m.header().equal(header) {
		return Manifest{}, &DamagedError{Name: manifestName, Reason: "the manifest and header.json do not agree"}
	}
	return m, nil
}

func (h Header) equal(o Header) bool {
	same := h.Created.Equal(o.Created)
	h.Created = o.Created
	return same && h == o
}

// budget ends a reader that yields more than was allowed, so that a single
// value cannot fill the memory.
type budget struct {
	r    io.Reader
	left int
	err  error // of r, not io.EOF
}

var errTooLong = errors.New("has a value that is too long")

func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

type manifestParser struct {
	input   *budget
	dec     *json.Decoder
	spool   *spool
	entries []Entry // read from the archive

	scalars  bytes.Buffer
	weight   int // of the lists that stay in memory
	total    int // entries listed
	mismatch *DamagedError
	local    error // trouble of this machine, not of the archive
}

var errShape = errors.New("is not JSON of the expected fields")

func (p *manifestParser) parse() (Manifest, error) {
	var m Manifest
	if err := p.delim('{'); err != nil {
		return m, err
	}
	p.scalars.WriteByte('{')
	for p.more() {
		key, err := p.token()
		if err != nil {
			return m, err
		}
		switch name, _ := key.(string); name {
		case "findings":
			err = parseList(p, func(f Finding) error { m.Findings = append(m.Findings, f); return p.weigh(f.weight()) })
		case "census":
			err = parseList(p, func(c PlaceCount) error { m.Census = append(m.Census, c); return p.weigh(c.weight()) })
		case "tables":
			err = parseList(p, func(t TableCount) error { m.Tables = append(m.Tables, t); return p.weigh(t.weight()) })
		case "entries":
			err = parseList(p, p.entry)
			p.missing()
		case "secrets":
			err = parseList(p, p.secret)
		default:
			err = p.scalar(name)
		}
		if err != nil {
			return m, err
		}
	}
	if err := p.delim('}'); err != nil {
		return m, err
	}
	p.scalars.WriteByte('}')
	var scalars manifestScalars
	if err := json.Unmarshal(p.scalars.Bytes(), &scalars); err != nil {
		return m, errShape
	}
	scalars.Findings, scalars.Census, scalars.Tables = m.Findings, m.Census, m.Tables
	return Manifest(scalars), nil
}

func (p *manifestParser) weigh(weight int) error {
	if p.weight += weight; p.weight > maxLists {
		return errHeavy
	}
	return nil
}

// What is read for one value: the value, and punctuation around it.
const maxRead = maxValue + 4096

func (p *manifestParser) more() bool {
	p.input.left = maxRead
	return p.dec.More()
}

func (p *manifestParser) token() (json.Token, error) {
	p.input.left = maxRead
	t, err := p.dec.Token()
	return t, p.explain(err)
}

func (p *manifestParser) delim(want json.Delim) error {
	t, err := p.token()
	if err == nil && t != want {
		err = errShape
	}
	return err
}

// explain keeps what is worth saying; the JSON package quotes its input.
func (p *manifestParser) explain(err error) error {
	if err == nil || errors.Is(err, errTooLong) {
		return err
	}
	return errShape
}

func (p *manifestParser) scalar(name string) error {
	var value json.RawMessage
	if err := p.dec.Decode(&value); err != nil {
		return p.explain(err)
	}
	if p.scalars.Len()+len(name)+len(value) > maxValue {
		return errTooLong
	}
	if p.scalars.Len() > 1 {
		p.scalars.WriteByte(',')
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		return errShape
	}
	p.scalars.Write(quoted)
	p.scalars.WriteByte(':')
	p.scalars.Write(value)
	return nil
}

func parseList[T any](p *manifestParser, add func(T) error) error {
	if err := p.delim('['); err != nil {
		return err
	}
	for p.more() {
		var element T
		if err := p.dec.Decode(&element); err != nil {
			return p.explain(err)
		}
		if err := add(element); err != nil {
			return err
		}
	}
	return p.delim(']')
}

// entry compares one listed entry with the one that was read in its place. The
// first difference is kept until the list was counted.
func (p *manifestParser) entry(listed Entry) error {
	i := p.total
	p.total++
	if p.mismatch != nil {
		return nil
	}
	if i >= len(p.entries) {
		p.mismatch = &DamagedError{Index: i + 1, Name: shortName(listed.Name), Reason: "the entry is missing"}
		return nil
	}
	got := p.entries[i]
	reason := ""
	switch {
	case got.Name != listed.Name:
		reason = fmt.Sprintf("found %q where the manifest lists %q", got.Name, shortName(listed.Name))
	case got.Size != listed.Size:
		reason = "size differs"
	case got.SHA256 != listed.SHA256:
		reason = "checksum differs"
	case got.Mode != listed.Mode:
		reason = "mode differs"
	case !got.ModTime.Equal(listed.ModTime):
		reason = "time differs"
	default:
		return nil
	}
	p.mismatch = &DamagedError{Index: i + 1, Name: got.Name, Reason: reason}
	return nil
}

// shortName keeps what a hostile archive calls a name out of long-lived errors.
func shortName(name string) string {
	if len(name) > maxName {
		name = strings.Clone(name[:maxName])
	}
	return name
}

func (p *manifestParser) missing() {
	if p.mismatch == nil && p.total < len(p.entries) {
		p.mismatch = &DamagedError{Index: p.total + 1, Name: p.entries[p.total].Name, Reason: "the manifest does not list the entry"}
	}
}

func (p *manifestParser) secret(s Secret) error {
	line, err := json.Marshal(s)
	if err != nil {
		return errShape
	}
	if err := s.check(len(line)); err != nil {
		return fmt.Errorf("has a bad secret: %w", err)
	}
	if err := p.spool.add(line); err != nil {
		p.local = err
		return err
	}
	return nil
}
