// Package rotate replaces the instance key of an n8n in everything that is encrypted
// with it, and undoes that.
//
// [Run] takes a rotation through its steps: backup, stage, stop, apply, start,
// verify. Each is recorded in a journal before it begins and after it ended, so that
// [Resume] goes on and [Rollback] goes back after a kill at any point. The database
// is changed in one transaction, in which every plaintext is proved equal before and
// after; whether its commit went through is not believed from the journal but read
// from the database. [Finalise] ends a rotation and destroys what could undo it.
//
// It refuses a value that opens under no key (unless quarantined), a value in a column
// that the catalogue does not list (unless accepted), a database that somebody else
// is attached to, and a journal that it cannot open with either key.
//
// Old data: what a rotation replaces stays in the journal, encrypted to a key of its
// own, until the rotation is finalised. The journal key is wrapped under the old and
// under the new instance key, so that either opens it. A rolled-back database holds
// the bytes it had, and in the old key what n8n has written since.
//
// Trust boundary: the state folder is the user's alone, and its journal names files
// that are replaced. The pre-images are authenticated and belong to one rotation: one
// that was cut, altered or taken from elsewhere is refused before anything is written.
// n8n's database and storage folder are not trusted; symbolic links in the latter are
// not followed.
//
// docs/design/rotation.md has the states, and what a kill in each leaves.
package rotate

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8nhome"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Key is an instance key and where it was read.
type Key struct {
	// Key may be zero in Resume, Rollback and Finalise: what is possible without it
	// is done, and the rest is WrongKey.
	Key n8ncrypt.InstanceKey
	// Path is the file it was read from, absolute; "" when it came from elsewhere.
	Path string
	// Fingerprint is Key's; computed (half a second) when empty.
	Fingerprint n8ncrypt.Fingerprint
}

// Service stops and starts n8n with everything that belongs to it: workers, webhook
// processes. All methods may be called again when they were already obeyed.
type Service interface {
	// Stop returns when no process of n8n is left.
	Stop(ctx context.Context) error
	// Start returns when the processes are there.
	Start(ctx context.Context) error
	// Healthy returns when n8n answers, or what it said last.
	Healthy(ctx context.Context) error
	// String is for people and for the journal: `systemd unit "n8n.service"`.
	String() string
}

// Choices are what the user decided. They are recorded: a resumed rotation keeps them.
type Choices struct {
	// Executions is Unfinished (waiting) or AllExecutions.
	Executions n8ndb.ExecutionScope `json:"-"`
	// Quarantine leaves values that open under no key as they are.
	Quarantine bool `json:"quarantine,omitempty"`
	// AcceptUnlisted are columns, "table.column", whose values may stay under the old key.
	AcceptUnlisted []string `json:"accept_unlisted,omitempty"`
	// AfterLeak presumes the old key and the database to be known to somebody.
	AfterLeak bool `json:"after_leak,omitempty"`
}

// BackupRef names the backup that a rotation rests on.
type BackupRef struct {
	ID      string    `json:"id"`
	Target  string    `json:"target"`
	Created time.Time `json:"created"`
	Taken   bool      `json:"taken"` // for the rotation, not found
	// Missed are targets that the backup was meant for and is not in, with the reason.
	Missed []string `json:"missed_targets,omitempty"`
}

// Config is what an engine needs. Everything that reaches outside is injected.
type Config struct {
	// StateDir is n8keep's state folder; journals are below it in "rotations". Required.
	StateDir string
	// ID names the rotation. Required but in Run, which makes one ([NewID]).
	ID string
	// Instance and Database are for people and for [Unfinished]: the instance's name,
	// and the database's path or its address without password. Required in Run. Later
	// the journal's count; a Database that is another one is asked for more proof.
	Instance, Database string
	// SameDatabase is another name of the database, which it keeps however it is reached;
	// "" when there is none. Run only; optional.
	SameDatabase string
	// Reopen is whatever the caller needs to make this Config again from the ID alone;
	// it must hold no secret. Run only; optional.
	Reopen json.RawMessage

	Old, New Key
	// Others are further keys that may open values: retired ones of the keyring.
	Others []n8ndb.OtherKey
	// Receipt proves that the command was recorded before it acted. Required.
	Receipt audit.Receipt

	// Read opens the live database for reading. Required.
	Read func(context.Context) (*n8ndb.DB, error)
	// Write opens it for changing, with nobody else attached. Required.
	Write func(context.Context) (*n8ndb.Writer, error)
	// Backup takes a backup and verifies it, or names a verified one that is young
	// enough. nil: the user goes without, which is recorded.
	Backup func(context.Context) (BackupRef, error)
	// Service stops and starts n8n; nil: the user does.
	Service Service
	// Files are those in which the instance key is set, n8n's config last. Run only: the
	// journal remembers them.
	Files []n8nhome.KeyFile
	// KeyElsewhere are places, in words, in which n8n's key is set, or may be, and n8keep
	// does not change it: on the way back of something that failed n8n is not started then.
	// Run only.
	KeyElsewhere []string
	// KeyPlaces refuses while a place that n8n takes its key from, and that is none of
	// Files, is seen to hold another key than the new one, or with back than the old one. It
	// is asked before each start of n8n, and before a rotation is finalised. Optional.
	KeyPlaces func(ctx context.Context, back bool) error
	// Storage is n8n's storage folder, in which executions are kept as files; "" for none.
	Storage string
	// Choices count in Run; later they are the journal's.
	Choices Choices
	// Plan is what the user has agreed to. The journal keeps of it what later commands say
	// again. Run only; optional.
	Plan *Plan

	// Now is the clock. Optional; time.Now by default.
	Now func() time.Time
	// Wait is a pause, which ends with the context's error. Optional.
	Wait func(context.Context, time.Duration) error
	// Logger gets notes without secrets. Optional; nothing by default.
	Logger *slog.Logger
	// Progress is told each step as it begins, and rows as they pass; table is "" for
	// the former. Optional.
	Progress func(step StepName, table string, rows int64)

	fault func(op, name string) error // tests let operations fail
}

// FinaliseHooks are what ends a rotation beside the journal. Each may be called again
// by the next Finalise if something failed after it; the journal's OldKey is there as
// long as Keyring is called.
type FinaliseHooks struct {
	// Keyring makes the new key the active one and retires the old one. Optional.
	Keyring func(context.Context) error
	// Backup takes a backup with the new key. Optional.
	Backup func(context.Context) (BackupRef, error)
}

// Result is how a command left a rotation.
type Result struct {
	// Journal is as it stands on the disk.
	Journal *Journal
	// Warnings are for people.
	Warnings []string
	// Do is what is left to a person, in order.
	Do []string
	// Next are the commands that make sense now.
	Next []string
	// Exposure is the checklist after a leak, as long as there is a key that opens it: also
	// of Finalise, which destroys it. nil when there is none.
	Exposure *Exposure
}
