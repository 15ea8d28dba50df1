package archive

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// maxSecret is the length of one secret's JSON.
const maxSecret = 64 << 10

// encode writes the canonical manifest.json: the fields in the order of the
// struct, no white space, and the secrets as they come.
func (m *Manifest) encode(w io.Writer, secrets iter.Seq2[[]byte, error]) error {
	b := bufio.NewWriterSize(w, 64<<10)
	if err := m.encodeHead(b); err != nil {
		return err
	}
	b.WriteString(`,"secrets":[`)
	first := true
	for line, err := range secrets {
		if err != nil {
			return err
		}
		if !first {
			b.WriteByte(',')
		}
		first = false
		if _, err := b.Write(line); err != nil {
			return err
		}
	}
	b.WriteString("]}")
	return b.Flush()
}

// encodeHead writes everything before the secrets, lists element by element.
func (m *Manifest) encodeHead(b *bufio.Writer) error {
	scalars, err := json.Marshal(manifestScalars(*m))
	if err != nil {
		return err
	}
	b.Write(scalars[:len(scalars)-1])
	if err := encodeList(b, "findings", m.Findings); err != nil {
		return err
	}
	if err := encodeList(b, "census", m.Census); err != nil {
		return err
	}
	if err := encodeList(b, "tables", m.Tables); err != nil {
		return err
	}
	return encodeList(b, "entries", m.Entries)
}

func encodeList[T any](b *bufio.Writer, name string, list []T) error {
	b.WriteString(`,"` + name + `":[`)
	for i := range list {
		element, err := json.Marshal(&list[i])
		if err != nil {
			return err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		if _, err := b.Write(element); err != nil {
			return err
		}
	}
	return b.WriteByte(']')
}

// manifestScalars is a Manifest whose lists JSON does not see.
type manifestScalars struct {
	Format         int       `json:"format"`
	ID             ID        `json:"id"`
	Instance       string    `json:"instance"`
	Created        time.Time `json:"created"`
	KeyFingerprint string    `json:"key_fingerprint"`
	Tool           string    `json:"tool"`

	Engine        string `json:"engine"`
	N8NVersion    string `json:"n8n_version"`
	LastMigration string `json:"last_migration"`
	TablePrefix   string `json:"table_prefix"`
	Schema        string `json:"schema"`
	DigestSalt    []byte `json:"digest_salt"`
	State         State  `json:"state"`
	Unproved      bool   `json:"unproved"`
	History       string `json:"history"`

	Findings []Finding    `json:"-"`
	Census   []PlaceCount `json:"-"`
	Tables   []TableCount `json:"-"`
	Entries  []Entry      `json:"-"`
}

// Strings from a database may hold bytes that are not UTF-8. JSON cannot, and
// would not encode them the same way twice.
func clean(fields ...*string) {
	for _, f := range fields {
		*f = strings.ToValidUTF8(*f, "\uFFFD")
	}
}

func (h *Header) clean() { clean(&h.KeyFingerprint, &h.Tool) }

func (s *Secret) clean() {
	clean(&s.Place, &s.Row, &s.KeyID, &s.Format, &s.Problem, &s.Digest)
}

func (m *Manifest) clean() {
	clean(&m.KeyFingerprint, &m.Tool, &m.Engine, &m.N8NVersion, &m.LastMigration, &m.TablePrefix, &m.Schema, &m.History)
	m.Findings = append([]Finding(nil), m.Findings...)
	for i := range m.Findings {
		clean(&m.Findings[i].Code, &m.Findings[i].Place, &m.Findings[i].Detail)
	}
	m.Census = append([]PlaceCount(nil), m.Census...)
	for i := range m.Census {
		clean(&m.Census[i].Place)
		byKey := make(map[string]int64, len(m.Census[i].ByKey))
		for k, n := range m.Census[i].ByKey {
			byKey[strings.ToValidUTF8(k, "\uFFFD")] += n
		}
		m.Census[i].ByKey = byKey
	}
	m.Tables = append([]TableCount(nil), m.Tables...)
	for i := range m.Tables {
		clean(&m.Tables[i].Table)
	}
	if m.DigestSalt == nil {
		m.DigestSalt = []byte{}
	}
}

func (h *Header) check() error {
	if _, err := ParseID(string(h.ID)); err != nil {
		return err
	}
	switch {
	case h.Instance != h.ID.Instance():
		return fmt.Errorf("the id %q is not of instance %q", h.ID, h.Instance)
	case h.Created.IsZero():
		return errors.New("the time is missing")
	case !isWholeUTC(h.Created):
		return errors.New("the time is not in UTC and whole seconds")
	case h.Created.Year() < 1970 || h.Created.Year() > 9999:
		return fmt.Errorf("the year %d is out of range", h.Created.Year())
	case len(h.KeyFingerprint)+len(h.Tool) > 1024:
		return errors.New("the key fingerprint or tool is too long")
	}
	return nil
}

func isWholeUTC(t time.Time) bool {
	_, offset := t.Zone()
	return offset == 0 && t.Nanosecond() == 0
}

func (s *Secret) check(size int) error {
	switch {
	case s.Place == "":
		return errors.New("it has no place")
	case size > maxSecret:
		return fmt.Errorf("its description has %d bytes, more than %d", size, maxSecret)
	case s.Opens && s.Problem != "":
		return errors.New("it opens and has a problem")
	}
	return nil
}

func (m *Manifest) check() error {
	h := m.header()
	if err := h.check(); err != nil {
		return err
	}
	switch {
	case m.State != StateGood && m.State != StateDegraded:
		return fmt.Errorf("unknown state %q", m.State)
	case len(m.DigestSalt) != 0 && len(m.DigestSalt) != saltSize:
		return fmt.Errorf("the salt of the digests has %d bytes, want %d", len(m.DigestSalt), saltSize)
	case m.weight() > maxLists:
		return errHeavy
	}
	return nil
}

var errHeavy = fmt.Errorf("has findings, census and tables of more than %d bytes", maxLists)

// An element of a list weighs about what it takes in memory, whatever its JSON
// is: 64, its strings, and for a map 256 and 64 for each of its keys.
const (
	elementWeight = 64
	mapWeight     = 256
)

func (f *Finding) weight() int { return elementWeight + len(f.Code) + len(f.Place) + len(f.Detail) }

func (t *TableCount) weight() int { return elementWeight + len(t.Table) }

func (c *PlaceCount) weight() int {
	n := elementWeight + len(c.Place)
	if len(c.ByKey) > 0 {
		n += mapWeight
	}
	for k := range c.ByKey {
		n += elementWeight + len(k)
	}
	return n
}

func (m *Manifest) weight() int {
	n := 0
	for i := range m.Findings {
		n += m.Findings[i].weight()
	}
	for i := range m.Census {
		n += m.Census[i].weight()
	}
	for i := range m.Tables {
		n += m.Tables[i].weight()
	}
	return n
}

// checkValues says whether a Reader would take every value: none of its texts
// may be longer than maxValue, and the fields that are no lists not together.
func (m *Manifest) checkValues() error {
	scalars, err := json.Marshal((*manifestScalars)(m))
	if err != nil {
		return err
	}
	if len(scalars) > maxValue {
		return fmt.Errorf("the fields of the manifest have %d bytes, more than %d", len(scalars), maxValue)
	}
	for _, err := range []error{checkList("finding", m.Findings), checkList("place of the census", m.Census), checkList("table", m.Tables)} {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkList[T any](what string, list []T) error {
	for i := range list {
		element, err := json.Marshal(&list[i])
		if err != nil {
			return err
		}
		if len(element) > maxValue {
			return fmt.Errorf("a %s of the manifest has %d bytes, more than %d", what, len(element), maxValue)
		}
	}
	return nil
}
