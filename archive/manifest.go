package archive

import (
	"time"
)

// State is what a backup is worth.
type State string

// The states of a backup.
const (
	StateGood     State = "good"     // every secret was opened with the instance key
	StateDegraded State = "degraded" // kept, but something in it needs attention
)

// Header is header.json, the first entry: enough to know what the rest is.
type Header struct {
	Format         int       `json:"format"`
	ID             ID        `json:"id"`
	Instance       string    `json:"instance"`
	Created        time.Time `json:"created"`         // UTC, whole seconds
	KeyFingerprint string    `json:"key_fingerprint"` // n8k1-..., of the instance key
	Tool           string    `json:"tool"`            // "n8keep 1.2.3"
}

// Secret is what the manifest says about one secret of the database. A row that
// n8n keeps in plaintext by design neither opens nor has a problem.
type Secret struct {
	Place   string `json:"place"`             // catalogue id, as in "credentials_entity.data"
	Row     string `json:"row"`               // primary key
	KeyID   string `json:"key_id,omitempty"`  // "instance", a data key's id, "unknown"
	Format  string `json:"format,omitempty"`  // ciphertext format
	Opens   bool   `json:"opens"`             // opened with its expected shape
	Problem string `json:"problem,omitempty"` // why it does not open
	Digest  string `json:"digest,omitempty"`  // see [Digester]; lower hex, only when it opens
}

// Finding is something about the backup that a person should know.
type Finding struct {
	Code   string `json:"code"`
	Place  string `json:"place,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// TableCount is the number of rows of one table in the archive.
type TableCount struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
}

// PlaceCount is the census of one place. Values is the sum of the others.
type PlaceCount struct {
	Place     string           `json:"place"`
	Values    int64            `json:"values"`
	Opened    int64            `json:"opened"`
	Failed    int64            `json:"failed"`
	Plaintext int64            `json:"plaintext"`
	ByKey     map[string]int64 `json:"by_key,omitempty"` // ciphertexts by key id
}

// Manifest is manifest.json, the last entry, without the list of secrets, which
// is too long for memory and comes from [Reader.Secrets].
type Manifest struct {
	Format         int       `json:"format"`
	ID             ID        `json:"id"`
	Instance       string    `json:"instance"`
	Created        time.Time `json:"created"`
	KeyFingerprint string    `json:"key_fingerprint"`
	Tool           string    `json:"tool"`

	Engine        string `json:"engine"` // "sqlite" or "postgres"
	N8NVersion    string `json:"n8n_version"`
	LastMigration string `json:"last_migration"`
	TablePrefix   string `json:"table_prefix"`
	Schema        string `json:"schema"`
	DigestSalt    []byte `json:"digest_salt"` // 32 bytes, see [NewSalt]; empty without digests
	State         State  `json:"state"`
	Unproved      bool   `json:"unproved"` // taken although the key opened nothing
	History       string `json:"history"`  // "all", "none" or a duration as in "30d"

	Findings []Finding    `json:"findings"`
	Census   []PlaceCount `json:"census"`
	Tables   []TableCount `json:"tables"`
	Entries  []Entry      `json:"entries"` // filled by the Writer; without header and manifest
}

// header is the part of the manifest that repeats header.json.
func (m *Manifest) header() Header {
	return Header{m.Format, m.ID, m.Instance, m.Created, m.KeyFingerprint, m.Tool}
}
