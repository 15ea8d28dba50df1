package n8ndb

import (
	"context"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Keyset is everything that may open a value of one database.
type Keyset struct {
	keys n8ncrypt.Keys
}

// Keyset reads the data keys of the database, which the instance key opens.
func (db *DB) Keyset(ctx context.Context, r audit.Receipt, key n8ncrypt.InstanceKey) (*Keyset, error) {
	panic("not written yet")
}

// Fingerprint is the instance key's; the first call takes half a second.
func (k *Keyset) Fingerprint() n8ncrypt.Fingerprint { return k.keys.Instance.Fingerprint() }

// KeyIDs are the ids of the data keys that opened, sorted.
func (k *Keyset) KeyIDs() []string { panic("not written yet") }
