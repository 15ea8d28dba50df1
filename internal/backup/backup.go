// Package backup takes, lists and verifies backups of one n8n instance.
//
// A backup is a private copy of the database, taken in one step while n8n
// writes, and everything that is said about it is proved on that copy: its
// integrity, and that every secret in it opens with the instance key. The
// archive is streamed to the target as it is made, encrypted to the recipients;
// the signed sidecar is written last and is what makes the archive exist.
//
// The package refuses to call a backup good that it has not proved. A backup
// with a secret that does not open, a database that fails its integrity check,
// or the instance key inside is kept, because something is better than nothing
// at 3 a.m., but it is marked degraded and the caller gets the list.
//
// Trust: whoever holds the target can delete or replace what is there, but not
// forge a sidecar; a signature proves which host wrote an archive, not that the
// host was honest. The copy in the work folder holds what the database holds:
// 0600 in a 0700 folder, removed on every exit, and by the next run after a kill.
// Archives of every earlier format version stay readable.
package backup

import (
	"crypto/ed25519"
	"log/slog"
	"time"

	"filippo.io/age"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/audit"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// Config says what one backup run works on. Fields without a remark are required.
type Config struct {
	Instance    string    // name; becomes part of the archive's id
	N8NDir      string    // the .n8n folder; "" leaves its files out
	Database    string    // path of the SQLite database, unless Postgres is set
	Postgres    *Postgres // the PostgreSQL database; nil: SQLite
	TablePrefix string    // DB_TABLE_PREFIX; may be empty
	Key         n8ncrypt.InstanceKey
	OtherKeys   []n8ncrypt.InstanceKey // further keys that are known here; none may be in the archive
	Recipients  []age.Recipient        // at least one, all of one kind
	Stores      []blob.Store           // at least one; the archive is streamed to all at once
	SigningKey  ed25519.PrivateKey
	Receipt     audit.Receipt // proof that the command is in the audit log

	Only            string           // OnlyWorkflows, or "" for the whole instance
	History         n8ndb.History    // which finished executions to keep; zero: all
	DropWaiting     bool             // leave out executions that are not finished, too
	Binary          bool             // include binary data of the .n8n folder
	DeploymentFiles []string         // compose files, env files, manifests
	KeepSecrets     bool             // keep secret values of deployment files; never the instance key
	Unproved        bool             // go on when the key opens no secret at all
	Exclude         []string         // folders of n8keep's that are left out where they lie in N8NDir
	WorkDir         string           // where the private copy is made
	LockDir         string           // one lock file per instance
	Tool            string           // name and version of the writing program, for the manifest
	Now             func() time.Time // nil: time.Now
	Logger          *slog.Logger     // nil: slog.Default
	Progress        Progress         // nil: none
}

// Progress is told how far a phase is; total is 0 when it is not known. It is
// called from several goroutines.
type Progress func(phase string, done, total int64)

func (p Progress) of(phase string) func(done, total int64) {
	if p == nil {
		return func(int64, int64) {}
	}
	return func(done, total int64) { p(phase, done, total) }
}

// Result is what a backup run made.
type Result struct {
	Sidecar  archive.Sidecar
	Targets  []Stored // in the order of Stores; at least one without an error
	Findings []archive.Finding
	Failures []n8ndb.Secret // secrets that do not open, the first 100
	Warnings []string       // things to know that leave the backup good
	Notes    []string       // what is worth knowing about a PostgreSQL server
	Elapsed  time.Duration
}

// OnlyWorkflows makes an archive of the workflows alone, in n8n's import format:
// portable, without secrets, kept by a policy of its own. Its sidecar and
// manifest name EngineWorkflows.
const (
	OnlyWorkflows   = "workflows"
	EngineWorkflows = "workflows"
)

// Codes of findings in a manifest. A finding of the first group makes the
// archive degraded.
const (
	FindingSecret        = "secret_does_not_open"
	FindingUnproved      = "key_opens_nothing"
	FindingIntegrity     = "database_integrity"
	FindingKeyInside     = "instance_key_in_database"
	FindingExecutionData = "execution_data_missing" // of executions that are not finished
	FindingForeignKeys   = "foreign_keys"           // says so, stays good
	FindingUnlisted      = "unlisted_place"         // says so, stays good
	FindingFileKey       = "file_holds_key"         // the file was left out, stays good
	FindingFileSkipped   = "file_not_in_archive"    // symbolic link, socket, unreadable
	FindingWorkflowKey   = "workflow_holds_key"     // its JSON file was left out
	FindingRunning       = "executions_running"     // were not finished, stays good
	FindingMisread       = "misread_by_n8n"         // opens here, but n8n reads it with another key
)

// Degrades reports whether a finding of that code makes an archive degraded.
func Degrades(code string) bool {
	switch code {
	case FindingSecret, FindingUnproved, FindingIntegrity, FindingKeyInside, FindingExecutionData:
		return true
	}
	return false
}
