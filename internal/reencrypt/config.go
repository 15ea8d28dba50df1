package reencrypt

import (
	"context"
	"log/slog"
	"time"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Target is the key that every value is to be under. The zero Target is none; see
// [ParseTarget].
type Target struct {
	word string // active, legacy, or ""
	id   string
}

// ParseTarget reads "active", "legacy" or the id of a data key.
func ParseTarget(s string) (Target, error) {
	switch {
	case s == "active" || s == "legacy":
		return Target{word: s}, nil
	case n8ncrypt.ValidKeyID(s):
		return Target{id: s}, nil
	}
	return Target{}, problem.New(problem.Usage, "%q is neither active nor legacy nor the id of a data key", s).
		WithHint("n8keep data-key list shows the ids")
}

// Legacy reports whether the instance key is meant.
func (t Target) Legacy() bool { return t.word == "legacy" }

// Active reports whether the data key is meant that n8n writes with at the time.
func (t Target) Active() bool { return t.word == "active" }

// String is what ParseTarget reads.
func (t Target) String() string {
	if t.word != "" {
		return t.word
	}
	return t.id
}

// Config is what a re-encryption needs.
type Config struct {
	// DB is n8n's database, which n8n may be using.
	DB      *n8ndb.Swapper
	Key     n8ncrypt.InstanceKey
	Receipt audit.Receipt
	To      Target
	Flag    Flag
	// Attached says who uses the database at the moment, nil if nobody can. Required;
	// usually [n8ndb.Swapper.Attached] with a HoldConfig.
	Attached func(context.Context) (n8ndb.Attached, error)
	// Storage is n8n's storage folder, in which the data of some executions lies; ""
	// is none. It is rewritten only while n8n is stopped.
	Storage string
	// Executions says of which executions the data is rewritten; the zero value is
	// those that are not finished.
	Executions n8ndb.ExecutionScope
	// Retired are data keys that no value may be moved to, by id.
	Retired map[string]time.Time
	// RowsPerSecond bounds how many rows are written in a second; 0 is no bound.
	RowsPerSecond int
	// BatchRows is how many rows one transaction writes at most; 0 is 25.
	BatchRows int
	// MostPasses is after how many walks it gives up; 0 is 10.
	MostPasses int
	Now        func() time.Time // nil: time.Now
	Logger     *slog.Logger     // nil: none
	Progress   func(Progress)   // optional

	betweenBatches func() // of tests
}

// Progress is where a run is.
type Progress struct {
	Pass    int    // counted from 1; 0 while the values are counted
	Table   string // that is being read
	Rows    int64  // of it that were looked at
	Changed int64  // values that were written so far
	Of      int64  // values that the plan wants to write
}

// Place counts one place.
type Place struct {
	Place    n8ndb.PlaceID
	Number   int // row of the catalogue
	Values   int64
	Change   int64 // not under the key that is wanted
	Unopened int64 // under no key we have; they are left as they are
	ByKey    map[string]int64
}

// Refusal is a reason not to do it.
type Refusal struct {
	Code string // stable: combination, flag-unknown, no-such-key, ...
	Kind problem.Kind
	Text string
	Hint string
}

// Plan is what a run would do.
type Plan struct {
	Version  n8ndb.Version
	To       Target
	KeyID    string // the data key; "" for legacy, or when there is none
	Flag     Flag
	State    State
	By       []string      // who has the database open
	Table    []Combination // the whole table, the row that applies marked
	Refusals []Refusal     // empty when it may be done
	Places   []Place       // of the catalogue that n8n reads with either kind of key
	Values   int64
	Change   int64
	Unopened int64
	// Failures are the first 100 values that open under no key.
	Failures []n8ndb.Secret
	// MFA counts people with a second factor who have to log in again: n8n's sessions
	// depend on the first characters of its ciphertext.
	MFA int64
	// Bundles is where executions lie whose data is not in the database.
	Bundles   n8ndb.Bundles
	Obstacles []string // to legacy: what else stands in the way of an older n8n
	Warnings  []string
}

// Pass is one walk through the database.
type Pass struct {
	Number   int
	Values   int64 // that were looked at
	Changed  int64 // that were written
	Lost     int64 // rows that n8n, or somebody, has written first
	Unopened int64
	Longest  float64 // seconds that one transaction took at most
	Seconds  float64
}

// Result is what a run did. With an error it holds what was done until then.
type Result struct {
	Plan     *Plan
	KeyID    string // the data key of the last walk; "" for legacy
	Passes   []Pass
	Changed  int64
	Lost     int64
	ByPlace  map[n8ndb.PlaceID]int64 // values that were written
	Bundles  int64                   // files that were rewritten
	MFA      int64                   // people who have to log in again
	Unopened int64
	Failures []n8ndb.Secret // the first 100 values that open under no key
	// Left counts values that are not under the key at the end, by the last census; 0
	// when Converged.
	Left int64
	// Proved counts values that the last census has opened under the key.
	Proved    int64
	Converged bool
	Seconds   float64
	Warnings  []string
}
