// Package restore puts an archive back as a .n8n folder with its SQLite
// database.
//
// A restore is a [Plan] that only looks, and refuses, and an Apply that follows
// it. Everything is unpacked into a staging folder inside the target and proved
// there: nothing of the target is touched before every entry, the database and
// every secret agreed. Then the files are put in place, and last of all the new
// database is renamed over the old one, which is the moment that counts: a
// process killed before it leaves the old database, one killed after it the new
// one, both whole. A journal in the staging folder says what was under way, so
// that the next run ([Recover]) undoes or completes it. What stood in the target
// is kept: the database as database.sqlite.before-ID beside the new one, files
// in .n8keep-before-ID. If the new database does not prove itself where it now
// stands, everything is put back without being asked.
//
// The package refuses, before it writes anything: a key that is not the
// archive's, a config with another key, a folder that n8n is working in, a
// folder that holds data unless Overwrite is set, a database that is a symbolic
// link or a mount point of its own (neither can be renamed over), too little
// space. It never renames the .n8n folder, which is usually a mount point.
//
// Promise about old data: it is renamed or linked, never rewritten, with one
// exception: n8n's write-ahead log is first finished into the old database,
// because a log left beside a new database would show the old rows again.
//
// Trust: the archive is decrypted and proved by an injected function, and what
// it returns is checked here for names that lead out of the target. Whoever
// owns the target folder can disturb a restore, but not make it write elsewhere.
//
// On disk during a restore, below the target:
//
//	.n8keep-restore-ID/journal.json   what is under way, see journal.go
//	.n8keep-restore-ID/unpacked/      what the archive holds
//	.n8keep-restore-ID/home/          the config that will be placed
package restore

import (
	"context"
	"io/fs"
	"log/slog"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// UnpackFunc decrypts the archive into dir, which is empty, 0700, and on the
// file system of the target. It verifies every entry, the database's integrity,
// and every secret and its digest with the instance key, and returns only when
// all of it agreed. After an error the content of dir is not used.
type UnpackFunc func(ctx context.Context, dir string) (Unpacked, error)

// Unpacked is what an archive held.
type Unpacked struct {
	Manifest      archive.Manifest
	Database      string // path of the database, below dir; "" when the archive has none
	Files         []File // the entries of files/
	SecretsOpened int64  // secrets that opened and whose digest agreed
	SecretsFailed int64  // secrets that do not open, as the manifest says too
}

// File is a file of the .n8n folder.
type File struct {
	Path    string      // relative to the .n8n folder, slash-separated
	Staged  string      // where it was unpacked, below dir
	Mode    fs.FileMode // permission bits; others are ignored
	ModTime time.Time   // zero: left as unpacked
	Size    int64       // bytes
}

// ProveFunc opens the database where it now stands and checks that its census is
// the manifest's. It must not write beside the database: it opens it immutable.
type ProveFunc func(ctx context.Context, database string, m archive.Manifest) error

// Owner is who is to own what a restore writes.
type Owner struct {
	UID int `json:"uid"`
	GID int `json:"gid"`
}

// Config says what is restored, and where to.
type Config struct {
	// Sidecar is the archive's, its signature checked by the caller. Required.
	Sidecar archive.Sidecar
	// Unpack brings the archive. Required.
	Unpack UnpackFunc
	// Prove looks at the database after it was put in place. Optional; the
	// integrity check is made in any case.
	Prove ProveFunc
	// To is the .n8n folder; it and its parents are made when missing. Required.
	To string
	// Key is the instance key, written to the config when there is none. Required.
	Key n8ncrypt.InstanceKey
	// KeyFingerprint is Key's; computed (half a second) when empty.
	KeyFingerprint n8ncrypt.Fingerprint
	// OtherArchives names the archives made with the key of a fingerprint, newest
	// first, for the message of a wrong key. Optional.
	OtherArchives func(n8ncrypt.Fingerprint) []archive.ID
	// PlainSize is how many bytes the archive unpacks to, as far as the caller
	// knows; 0: what the sidecar says, and if that is 0, too (older archives), the
	// size of the archive is taken, the least that is needed.
	PlainSize int64

	// Overwrite allows a target that holds data; what stood there is kept.
	Overwrite bool
	// NoConfig leaves a missing config missing; the report says which variable to set.
	NoConfig bool
	// AssumeStopped goes on when it cannot be found out whether n8n is attached.
	AssumeStopped bool
	// DryRun makes NewPlan only look, even at what a killed restore left.
	DryRun bool
	// Owner of what is written; nil: that of the target folder or, when it is
	// missing, of its nearest existing parent. Only root can give files away.
	Owner *Owner
	// HealthURL is the n8n's, asked whether it is running. Optional.
	HealthURL string

	// Env reads the environment n8n will have, for DB_SQLITE_DATABASE. Optional;
	// an empty environment by default.
	Env func(string) (string, bool)
	// Now is the clock. Optional; time.Now by default.
	Now func() time.Time
	// Logger gets notes of what was recovered. Optional; nothing by default.
	Logger *slog.Logger
	// Progress is told each step as it begins. Optional.
	Progress func(step string)
	// Receipt proves that the command was recorded before it acted. Required
	// unless DryRun.
	Receipt audit.Receipt

	faults faults
}

// Step is one thing that a restore does, in words.
type Step struct {
	Do   string `json:"do"`             // "keep the old database as database.sqlite.before-..."
	Path string `json:"path,omitempty"` // what it touches
	Size int64  `json:"size,omitempty"` // bytes, where they are known
}

// Plan is what a restore would do. It is made by [NewPlan], and applied once.
type Plan struct {
	ID         archive.ID `json:"id"`
	To         string     `json:"to"`                    // absolute, symbolic links resolved
	Database   string     `json:"database"`              // where the database will be
	Steps      []Step     `json:"steps"`                 // in order
	NewFolder  bool       `json:"new_folder"`            // To does not exist yet
	Replaces   int64      `json:"replaces,omitempty"`    // bytes of the database that is there
	SafetyCopy string     `json:"safety_copy,omitempty"` // where it will be kept
	Config     string     `json:"config"`                // ConfigWritten, ConfigKept or ConfigLeftOut
	Owner      Owner      `json:"owner"`
	NeedBytes  int64      `json:"need_bytes"` // at least this much space is used for a while
	FreeBytes  int64      `json:"free_bytes"`
	Warnings   []string   `json:"warnings"`
	Recovery   Recovery   `json:"recovery"` // what a killed restore had left; with DryRun: what would be done about it

	cfg    Config
	target target
}

// What happens to n8n's config file.
const (
	ConfigWritten = "written"
	ConfigKept    = "kept"     // there is one, with the same key
	ConfigLeftOut = "left out" // NoConfig
)

// Report is what a restore did.
type Report struct {
	ID            archive.ID    `json:"id"`
	To            string        `json:"to"`
	Database      string        `json:"database"`
	DatabaseBytes int64         `json:"database_bytes"`
	SafetyCopy    string        `json:"safety_copy,omitempty"`   // the database that stood there before
	SafetyFolder  string        `json:"safety_folder,omitempty"` // the files that stood there before
	Files         int64         `json:"files"`                   // placed, without database and config
	FilesReplaced int64         `json:"files_replaced"`
	Config        string        `json:"config"`             // as in Plan
	KeyLine       string        `json:"key_line,omitempty"` // with ConfigLeftOut: what has to be set before n8n starts
	N8NVersion    string        `json:"n8n_version"`
	LastMigration string        `json:"last_migration"`
	State         archive.State `json:"state"`
	SecretsOpened int64         `json:"secrets_opened"`
	SecretsFailed int64         `json:"secrets_failed"`
	Warnings      []string      `json:"warnings"`
	Recovery      Recovery      `json:"recovery"`
	Elapsed       time.Duration `json:"-"`
}

// RecoverConfig says where to look for what a killed restore left.
type RecoverConfig struct {
	To            string       // the .n8n folder
	AssumeStopped bool         // as in Config
	HealthURL     string       // as in Config
	Logger        *slog.Logger // as in Config
	DryRun        bool         // only says what it would do

	faults faults
}

// Recovery is what was found and done; nothing found is the zero value.
type Recovery struct {
	Runs []RecoveredRun `json:"runs,omitempty"`
}

// RecoveredRun is one restore that was killed.
type RecoveredRun struct {
	ID         archive.ID `json:"id"`
	Outcome    Outcome    `json:"outcome"`
	Did        []string   `json:"did"`                   // in words
	SafetyCopy string     `json:"safety_copy,omitempty"` // kept, when it was completed
	Warnings   []string   `json:"warnings,omitempty"`
}

// Outcome says how a killed restore ended.
type Outcome string

// The outcomes of a recovery.
const (
	Undone    Outcome = "undone"    // the target is as it was before the restore
	Completed Outcome = "completed" // the new database was in place, and stays
)
