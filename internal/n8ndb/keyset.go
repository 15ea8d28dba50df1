package n8ndb

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Keyset is everything that may open a value of one database: the instance key,
// and from n8n 2.18 the data keys and legacy rows of deployment_key that it opens.
// It is safe for concurrent use.
type Keyset struct {
	keys        n8ncrypt.Keys
	data        map[string]n8ncrypt.DataKey
	clear       map[string]bool // data keys that are stored in clear, and prove nothing
	foreign     map[string]bool // data keys that open with another key than the instance key
	others      []OtherKey
	unread      map[string]bool              // names of keys that n8n does not have
	names       []string                     // what each of keys.Legacy is called: an other key's name, or the id of a legacy row
	legacyIDs   []string                     // rows that hold another key than the instance key
	legacyOnly  bool                         // n8n reads un-prefixed values with a legacy row, not with the instance key
	legacySame  bool                         // a legacy row holds the instance key
	legacyOther bool                         // a legacy row that n8n can open holds another one
	stored      map[string][sha256.Size]byte // of the text of every key row, by its id
	fingerprint func() n8ncrypt.Fingerprint
}

// Keyset reads the key rows of the database and opens them with the instance key.
// Rows that do not open are left out here and appear in a census as places 19 and
// 20. It takes the rows of every status: inactive data keys open older values, and
// a legacy row may hold an older instance key that un-prefixed values are under.
func (db *DB) Keyset(ctx context.Context, r audit.Receipt, key n8ncrypt.InstanceKey) (*Keyset, error) {
	return db.KeysetOf(ctx, r, key)
}

// OtherKey is a further instance key that may open values; its Name becomes
// Secret.KeyRef.
type OtherKey struct {
	Name string
	Key  n8ncrypt.InstanceKey
}

// KeysetOf is Keyset with further instance keys, which are tried after key in their
// order, for un-prefixed values, for wraps and for the data keys in them alike. What
// they open n8n does not: such values are Misread.
func (db *DB) KeysetOf(ctx context.Context, r audit.Receipt, key n8ncrypt.InstanceKey, others ...OtherKey) (*Keyset, error) {
	if key.IsZero() {
		return nil, problem.New(problem.Usage, "no instance key given")
	}
	k := &Keyset{
		keys:        n8ncrypt.Keys{Instance: key},
		data:        map[string]n8ncrypt.DataKey{},
		clear:       map[string]bool{},
		foreign:     map[string]bool{},
		unread:      map[string]bool{},
		fingerprint: sync.OnceValue(key.Fingerprint),
	}
	k.keys.Data = func(id string) (n8ncrypt.DataKey, bool) {
		d, ok := k.data[id]
		return d, ok
	}
	for _, o := range others {
		if o.Key.IsZero() || o.Name == "" || o.Name == KeyInstance || o.Name == KeyUnknown {
			return nil, problem.New(problem.Unexpected, "a further key needs text and a name of its own")
		}
		if k.addLegacy(o.Name, o.Key, false) {
			k.others = append(k.others, o)
		}
	}
	if err := db.view(ctx, func(v *view) error { return k.load(ctx, v, r) }); err != nil {
		return nil, err
	}
	version, err := db.Version(ctx)
	if err != nil {
		return nil, err
	}
	// From 2.39 n8n looks for the legacy row on every read, before only with the rotation flag on, which
	// the database does not tell.
	k.legacyOnly = (k.legacyOther || k.legacySame) && !version.Before(2, 39)
	return k, nil
}

func (k *Keyset) load(ctx context.Context, v *view, r audit.Receipt) (err error) {
	// Before anything is opened: where reads are not of one moment, a change between
	// them must be seen later.
	if k.stored, err = v.storedKeys(ctx); err != nil {
		return err
	}
	for _, p := range Catalogue() {
		if p.Key != dataEncryption {
			continue
		}
		err := v.place(ctx, p, func(row placeRow) error {
			s := sealed{as: aDataKey, id: row.id, stored: row.value}
			if p.Algorithm == string(n8ncrypt.AlgorithmCBC) {
				s.as = aLegacyKey
			}
			o, foreign, err := k.unwrap(r, s)
			switch {
			case errors.Is(err, errNoReceipt):
				return err
			case err != nil:
			case s.as == aDataKey:
				k.data[row.id] = o.data
				k.clear[row.id] = o.wrap == n8ncrypt.WrapPlaintext
				k.foreign[row.id] = foreign
			case o.legacy.Equal(k.keys.Instance):
				k.legacySame = k.legacySame || !foreign
			default:
				k.addLegacy(row.id, o.legacy, !foreign)
				k.legacyIDs = append(k.legacyIDs, row.id)
				k.legacyOther = k.legacyOther || !foreign
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// storedKeys digests what is stored in each row of deployment_key; there is none before
// n8n 2.18.
func (v *view) storedKeys(ctx context.Context) (map[string][sha256.Size]byte, error) {
	stored := map[string][sha256.Size]byte{}
	t := v.db.table(keysTable)
	if t.Column("id") == nil || t.Column("value") == nil {
		return stored, nil
	}
	_, err := v.rows(ctx, `SELECT t."id", t."value" FROM `+v.db.from(t)+` AS t`, nil, 2, 0, func(cols []any) error {
		stored[textOf(cols[0])] = sha256.Sum256([]byte(textOf(cols[1])))
		return nil
	})
	return stored, err
}

// addLegacy takes a key among those that are tried after the instance key, unless it
// is there already. Read says that n8n has it, too.
func (k *Keyset) addLegacy(name string, key n8ncrypt.InstanceKey, read bool) (added bool) {
	if key.Equal(k.keys.Instance) {
		return false
	}
	i := slices.IndexFunc(k.keys.Legacy, key.Equal)
	if i < 0 {
		k.keys.Legacy = append(k.keys.Legacy, key)
		k.names = append(k.names, name)
		i, added = len(k.names)-1, true
		k.unread[name] = true
	}
	if read {
		delete(k.unread, k.names[i])
	}
	return added
}

// unwrap opens a key row with the instance key, or, foreign, with another one.
func (k *Keyset) unwrap(r audit.Receipt, s sealed) (o opened, foreign bool, err error) {
	s.under = k.keys.Instance
	if o, err = k.open(r, s); err == nil || errors.Is(err, errNoReceipt) {
		return o, false, err
	}
	for _, other := range k.others {
		s.under = other.Key
		if o, e := k.open(r, s); e == nil {
			return o, true, nil
		}
	}
	return o, false, err
}

// Fingerprint is the instance key's; the first call takes half a second.
func (k *Keyset) Fingerprint() n8ncrypt.Fingerprint { return k.fingerprint() }

// KeyIDs are the ids of the data keys that opened, sorted.
func (k *Keyset) KeyIDs() []string {
	ids := make([]string, 0, len(k.data))
	for id := range k.data {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// LegacyIDs are the legacy rows that hold another instance key than the one given.
func (k *Keyset) LegacyIDs() []string { return slices.Clone(k.legacyIDs) }

// Names of keys in Secret.KeyRef beside ids.
const (
	KeyInstance = "instance"
	KeyUnknown  = "unknown"
)

// judge opens a value as its place demands and fills in everything of the secret
// but place, row and digest. The plaintext is the caller's to wipe.
func (k *Keyset) judge(r audit.Receipt, p *Place, row placeRow) (s Secret, plaintext []byte, err error) {
	if p.Encoding == Clear || p.Encoding == Pinned && !row.hasAlgorithm {
		return Secret{Plain: true, Format: n8ncrypt.None.String()}, nil, nil
	}
	if p.Encoding == Wrap && k.storedInClear(p, row.value) {
		return Secret{Plain: true, Format: n8ncrypt.Detect(row.value).String()}, nil, nil
	}
	o, err := k.open(r, sealed{as: aValue, stored: row.value, shape: p.Shape})
	if errors.Is(err, errNoReceipt) {
		return s, nil, err
	}
	s.Format = o.ref.Format.String()
	s.KeyRef = KeyUnknown
	if o.ref.Format != n8ncrypt.None && !p.takes(o.ref.Format) {
		clear(o.plaintext)
		s.Problem = Malformed
		return s, nil, nil
	}
	if o.ref.Kind == n8ncrypt.KeyData {
		s.KeyRef = o.ref.ID
	}
	if s.Problem = problemOf(err); s.Problem != "" {
		return s, nil, nil
	}
	s.Opens = true
	switch o.ref.Kind {
	case n8ncrypt.KeyInstance:
		s.KeyRef = KeyInstance
		s.Misread = p.Encoding == V2 && k.legacyOnly && !k.legacySame
	case n8ncrypt.KeyLegacy:
		s.KeyRef = k.names[o.ref.Index]
		if p.Encoding != V2 || k.unread[s.KeyRef] { // wraps are read with the instance key only
			s.Misread = true
		}
	case n8ncrypt.KeyData:
		s.Unproved = k.clear[o.ref.ID]
		s.Misread = k.foreign[o.ref.ID]
	}
	if o.ref.Encoding == n8ncrypt.UTF8 { // written by n8n <= 1.15
		s.Misread, s.OldEncoding = true, true
	}
	return s, o.plaintext, nil
}

// storedInClear: a data key as n8n 2.18 stored it, or the instance key verbatim.
func (k *Keyset) storedInClear(p *Place, stored string) bool {
	switch {
	case p.Key != dataEncryption:
		return false
	case p.Algorithm == string(n8ncrypt.AlgorithmCBC):
		return stored == k.keys.Instance.Reveal() || slices.ContainsFunc(k.others, func(o OtherKey) bool { return stored == o.Key.Reveal() })
	}
	return n8ncrypt.Detect(stored) == n8ncrypt.RawHex
}
