package n8ndb

import (
	"github.com/n8keep/n8keep/internal/audit"
)

// Secret is one encrypted value and whether it opens. It never holds the
// plaintext.
type Secret struct {
	Place PlaceID
	// Row is the primary key, its columns joined by "/"; "key#3" is the third
	// recovery code, counted from 0, or the element of flatted JSON.
	Row string
	// KeyRef is "instance", the id of a data key or of a legacy row that holds
	// another instance key, "unknown", or "" for plaintext.
	KeyRef string
	Format string // n8ncrypt.Format as text
	Opens  bool
	// Plain marks a row that n8n keeps in clear by design; it counts neither way.
	Plain bool
	// Unproved marks what opens without the instance key having a part in it:
	// through a data key that is stored in clear.
	Unproved bool
	// Misread marks what opens here but not in n8n, which reads un-prefixed values
	// with the key of the legacy row only (n8n >= 2.39).
	Misread bool
	// OldEncoding marks those of Misread that n8n to 1.15 has written: CBC under the
	// UTF-8 bytes of a key that is not ASCII.
	OldEncoding bool
	Problem     Problem // "" when it opens
	Digest      string  // CensusConfig.Digest of the plaintext, "" without
}

// Problem says why a value does not open.
type Problem string

const (
	WrongKey      Problem = "wrong key"
	Malformed     Problem = "malformed"
	UnknownKeyID  Problem = "unknown key id"
	WrongShape    Problem = "wrong shape"
	NotCiphertext Problem = "not ciphertext"
)

// ExecutionScope says of which executions the data is read.
type ExecutionScope int

const (
	Unfinished    ExecutionScope = iota // new, running and waiting ones
	AllExecutions                       // finished ones, too
	NoExecutions                        // none
)

// CensusConfig says what a census reads and whom it tells.
type CensusConfig struct {
	Keys    *Keyset       // required
	Receipt audit.Receipt // required, valid
	// Executions bounds places 17 and 18 and the sweep of execution_data.
	Executions ExecutionScope
	// BundleDir is n8n's storage folder, in which executions that are kept on disk
	// lie (place 18); "" leaves them out.
	BundleDir string
	// Digest makes Secret.Digest of a plaintext, which is wiped afterwards and must
	// not be kept. Optional.
	Digest func(place, row string, plaintext []byte) string
	// DigestPlain has Digest called with the text of values in clear, too.
	DigestPlain bool
	// Visit is called for every value in the order of the catalogue, then of the
	// primary key; the places of one flatted column are visited together. An error
	// ends the census. Optional.
	Visit func(Secret) error
	// SkipPlaces leaves the catalogue out: only Sweep and Needle, for a second
	// look beside a census that was made already. Census.Places stays empty.
	SkipPlaces bool
	// Sweep looks for ciphertext in all text outside the catalogue.
	Sweep bool
	// Needle is looked for in every column value. Optional.
	Needle *Needle
	// Progress is called now and then while a table is read. Optional.
	Progress func(table string, rows int64)
}

// PlaceCount is the result for one place.
type PlaceCount struct {
	ID     PlaceID
	Values int64 // with plaintext rows
	Opened int64
	Failed int64
	Plain  int64
	ByKey  map[string]int64 // opened and failed values by Secret.KeyRef
}

// Unlisted is a column outside the catalogue that holds what looks like n8n's
// ciphertext. With Opened 0 it is a look-alike, such as a crypto-js string that a
// user pinned.
type Unlisted struct {
	Table, Column string
	Values        int64
	Opened        int64
	Row           string // the first one, an opened one if there is any
}

// NeedleHit is a column value that contains the instance key.
type NeedleHit struct {
	Table, Column, Row string
}

// Census is what a database holds. Its size does not depend on the database.
type Census struct {
	Places   []PlaceCount // of places that exist in this database, catalogue order
	Unlisted []Unlisted   // by table and column
	// NeedleHits are the first 100.
	NeedleHits  []NeedleHit
	NeedleTotal int64
	// Failures are the first 100 values that do not open.
	Failures []Secret
	// Findings are the first 100 values that open but are Misread.
	Misread []Secret

	Values, Opened, Failed, Plain, Unproved, MisreadTotal int64
	// Proved counts values that opened through the instance key.
	Proved int64
	ByKey  map[string]int64
}

const listed = 100 // entries kept of lists that could grow with the database
