package rotate

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"maps"
	"slices"

	"github.com/n8keep/n8keep/internal/n8ndb"
)

// legacyPlace holds the instance key itself: its plaintext changes with the key.
const legacyPlace = n8ndb.PlaceID("deployment_key[data_encryption/aes-256-cbc]")

const mostListed = 100

// proof counts and digests what a census, or a rewrite before it changes anything,
// sees. Two proofs of the same plaintexts in the same order are equal. Memory does not
// grow with the database.
type proof struct {
	key    []byte
	skip   string                   // row of deployment_key that is left out
	moves  func(n8ndb.PlaceID) bool // places whose plaintext is meant to change
	places map[n8ndb.PlaceID]*chain
	left   []Left
	failed int64
	byKey  map[string]int64 // of what opened
}

type chain struct {
	PlaceProof
	sum   hash.Hash
	moves bool // its plaintexts are meant to change
}

func (e *engine) newProof() *proof {
	j := e.j
	return &proof{key: e.key.digest, skip: j.NewDataKey, places: map[n8ndb.PlaceID]*chain{}, byKey: map[string]int64{},
		moves: func(id n8ndb.PlaceID) bool {
			if id == legacyPlace {
				return true
			}
			p, _ := n8ndb.Catalogued(id)
			return j.Choices.AfterLeak && p.Encoding == n8ndb.Pinned
		}}
}

func (p *proof) place(id n8ndb.PlaceID) *chain {
	c := p.places[id]
	if c == nil {
		c = &chain{sum: hmac.New(sha256.New, p.key), moves: p.moves(id)}
		p.places[id] = c
	}
	return c
}

func (c *chain) add(kind byte, parts ...[]byte) {
	c.sum.Write([]byte{kind})
	var n [8]byte
	for _, b := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		c.sum.Write(n[:])
		c.sum.Write(b)
	}
}

// digest is the Digest of a census; what it makes stays here.
func (p *proof) digest(place, row string, plaintext []byte) string {
	if p.skip != "" && row == p.skip {
		return ""
	}
	if c := p.place(n8ndb.PlaceID(place)); !c.moves {
		c.add('p', []byte(row), plaintext)
	}
	return ""
}

// visit is the Visit of a census.
func (p *proof) visit(s n8ndb.Secret) error {
	if p.skip != "" && s.Row == p.skip {
		return nil
	}
	c := p.place(s.Place)
	c.Values++
	switch {
	case s.Plain:
		c.Plain++
		c.add('c', []byte(s.Row))
	case s.Opens:
		c.Opened++
		p.byKey[s.KeyRef]++
		if c.moves {
			c.add('c', []byte(s.Row)) // in clear or not, it is there
		}
	default:
		c.add('x', []byte(s.Row))
		p.failed++
		if len(p.left) < mostListed {
			p.left = append(p.left, Left{s.Place, s.Row, s.Problem})
		}
	}
	return nil
}

func (p *proof) sums() map[n8ndb.PlaceID]PlaceProof {
	out := map[n8ndb.PlaceID]PlaceProof{}
	for id, c := range p.places {
		s := c.PlaceProof
		if c.moves {
			s.Opened, s.Plain = s.Opened+s.Plain, 0
		}
		s.Digest = hex.EncodeToString(c.sum.Sum(nil))
		out[id] = s
	}
	return out
}

// differ lists the places in which two proofs are not equal, sorted.
func differ(a, b map[n8ndb.PlaceID]PlaceProof) []n8ndb.PlaceID {
	var out []n8ndb.PlaceID
	for _, id := range slices.Sorted(maps.Keys(a)) {
		if a[id] != b[id] {
			out = append(out, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[id]; !ok {
			out = append(out, id)
		}
	}
	return out
}
