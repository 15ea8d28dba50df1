// Package api is the program's language towards scripts: the documents that the
// commands print with --json. Fields are added, never renamed or removed; times
// are RFC 3339 in UTC, sizes bytes, durations seconds. A field without
// `omitempty` is always there. No document holds a secret, a digest of one, or
// the name of a credential.
package api

import "time"

// Error is how a failure looks. It is the whole document when a command had
// nothing to say but the failure, else it stands beside the result.
type Error struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
	Exit    int    `json:"exit"`
}

// Failure is the document of a command that failed.
type Failure struct {
	Error Error `json:"error"`
}

// KeySource says where an instance key came from.
type KeySource struct {
	Source string `json:"source"`          // "--key-file", "N8N_ENCRYPTION_KEY", "N8N_ENCRYPTION_KEY_FILE", "config", "n8keep.yaml"
	Where  string `json:"where,omitempty"` // path or variable
	Same   *bool  `json:"same,omitempty"`  // of a source that did not win: whether it holds the same key
}

// Totals counts secrets. Plaintext rows are values that n8n itself does not
// encrypt; they count neither as opened nor as failed.
type Totals struct {
	Values    int64 `json:"values"`
	Opened    int64 `json:"opened"`
	Failed    int64 `json:"failed"`
	Plaintext int64 `json:"plaintext"`
}

// Place is one row of a census.
type Place struct {
	Place  string `json:"place"`
	Number int    `json:"number"` // of n8keep's catalogue, 1 to 24
	Totals
	ByKey map[string]int64 `json:"by_key"` // "instance", a data key's id, or "unknown"
}

// Secret names one secret that does not open.
type Secret struct {
	Place   string `json:"place"`
	Row     string `json:"row"`
	KeyID   string `json:"key_id"`
	Format  string `json:"format"`
	Problem string `json:"problem"`
}

// Unlisted is a column outside the catalogue that holds what looks like n8n's
// ciphertext.
type Unlisted struct {
	Table  string `json:"table"`
	Column string `json:"column"`
	Values int64  `json:"values"`
	Opened int64  `json:"opened"` // of these, under a known key
	Row    string `json:"row"`    // an example
}

// Census is the document of "census" and "key check".
type Census struct {
	Instance       string      `json:"instance"`
	Engine         string      `json:"engine"`
	N8NVersion     string      `json:"n8n_version"`
	LastMigration  string      `json:"last_migration"`
	KeyFingerprint string      `json:"key_fingerprint"`
	KeySource      KeySource   `json:"key_source"`
	OtherSources   []KeySource `json:"other_sources"`
	Verdict        string      `json:"verdict"`
	Totals         Totals      `json:"totals"`
	Places         []Place     `json:"places"`
	Unlisted       []Unlisted  `json:"unlisted"`
	Failures       []Secret    `json:"failures"` // the first 100
	Warnings       []string    `json:"warnings"`
	Error          *Error      `json:"error,omitempty"`
}

// Finding is something a backup or restore has to say about what it saw.
type Finding struct {
	Code   string `json:"code"`
	Place  string `json:"place"`
	Detail string `json:"detail"`
}

// Archive is one archive, as "backup list" prints it.
type Archive struct {
	ID             string    `json:"id"`
	Instance       string    `json:"instance"`
	Time           time.Time `json:"time"`
	State          string    `json:"state"` // good, degraded, incomplete, unreadable
	Unproved       bool      `json:"unproved,omitempty"`
	Size           int64     `json:"size"`
	N8NVersion     string    `json:"n8n_version"`
	KeyFingerprint string    `json:"key_fingerprint"`
	Engine         string    `json:"engine"`
	History        string    `json:"history"`
	RecipientKind  string    `json:"recipient_kind"`
	Secrets        int64     `json:"secrets"` // with rows that n8n keeps in clear
	SecretsOpened  int64     `json:"secrets_opened"`
	SecretsFailed  int64     `json:"secrets_failed"`
	Workflows      int64     `json:"workflows"`
	Signer         string    `json:"signer"` // its fingerprint
	Trusted        bool      `json:"trusted"`
	Problem        string    `json:"problem,omitempty"`
	Copies         []Copy    `json:"copies,omitempty"` // "backup list": one per target
}

// Backup is the document of "backup create".
type Backup struct {
	Archive
	LastMigration string      `json:"last_migration"`
	SHA256        string      `json:"sha256"`
	Targets       []Stored    `json:"targets"`
	KeySource     KeySource   `json:"key_source"`
	OtherSources  []KeySource `json:"other_sources"`
	Findings      []Finding   `json:"findings"`
	Failures      []Secret    `json:"failures"`
	Warnings      []string    `json:"warnings"`
	Notes         []string    `json:"notes"` // about a PostgreSQL server: version, point-in-time recovery
	Seconds       float64     `json:"seconds"`
	Error         *Error      `json:"error,omitempty"`
}

// Stored is what became of a backup in one of its targets.
type Stored struct {
	Target  string `json:"target"`
	Problem string `json:"problem,omitempty"` // why it is not there
}

// Table is a table and its rows in a manifest.
type Table struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
}

// Shown is the document of "backup show". The manifest's part is there when an
// identity was given.
type Shown struct {
	Archive
	LastMigration string    `json:"last_migration"`
	SHA256        string    `json:"sha256"`
	Target        string    `json:"target"`
	Findings      []Finding `json:"findings,omitempty"` // "altered" without an identity, too
	Warnings      []string  `json:"warnings"`
	Places        []Place   `json:"places,omitempty"`
	Tables        []Table   `json:"tables,omitempty"`
	Entries       []Entry   `json:"entries,omitempty"`
}

// Entry is one file inside an archive.
type Entry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Verified is the document of "backup verify".
type Verified struct {
	ID            string    `json:"id"`
	Target        string    `json:"target"`
	Level         string    `json:"level"`
	State         string    `json:"state"`
	Signer        string    `json:"signer"`
	Size          int64     `json:"size"`
	Entries       int       `json:"entries"`        // 0 at level quick
	SecretsOpened int64     `json:"secrets_opened"` // 0 below level secrets
	Failures      []Secret  `json:"failures"`
	Findings      []Finding `json:"findings"`
	Warnings      []string  `json:"warnings"`
	Scratch       string    `json:"scratch,omitempty"` // server where it was loaded and proved, too
	Seconds       float64   `json:"seconds"`
	Error         *Error    `json:"error,omitempty"`
}

// Restore is the document of "restore", done or only planned.
type Restore struct {
	ID            string   `json:"id"`
	Target        string   `json:"to"`
	DryRun        bool     `json:"dry_run"`
	Steps         []string `json:"steps"`
	Database      string   `json:"database"`
	SafetyCopy    string   `json:"safety_copy,omitempty"`   // the database that stood there before
	SafetyFolder  string   `json:"safety_folder,omitempty"` // other files that stood there before
	DropWith      string   `json:"drop_with,omitempty"`     // PostgreSQL: the statement that removes the old database
	FilesTo       string   `json:"files_to,omitempty"`      // PostgreSQL: where the files went
	ConfigWritten bool     `json:"config_written"`
	// SetBeforeStart is what n8n's environment needs when no config was written.
	SetBeforeStart string    `json:"set_before_start,omitempty"`
	Files          int64     `json:"files"`
	SecretsOpened  int64     `json:"secrets_opened"`
	Failures       []Secret  `json:"failures"`
	Findings       []Finding `json:"findings"`
	Warnings       []string  `json:"warnings"`
	Seconds        float64   `json:"seconds"`
	Error          *Error    `json:"error,omitempty"`
}

// Key is the document of "key generate" and "key fingerprint".
type Key struct {
	Fingerprint  string      `json:"fingerprint"`
	KeySource    *KeySource  `json:"key_source,omitempty"`
	OtherSources []KeySource `json:"other_sources,omitempty"`
	Out          string      `json:"out,omitempty"`
	Warnings     []string    `json:"warnings"`
}

// Init is the document of "init".
type Init struct {
	Config        string   `json:"config"`
	Recipient     string   `json:"recipient"`
	IdentityOut   string   `json:"identity_out,omitempty"`
	Signer        string   `json:"signer"`
	SignerKey     string   `json:"signer_public_key"`
	SigningKey    string   `json:"signing_key"`
	SigningKeyNew bool     `json:"signing_key_new"`
	Next          []string `json:"next"`
	Warnings      []string `json:"warnings"`
}

// Status is the document of "status".
type Status struct {
	Version   string           `json:"version"`
	Config    string           `json:"config"` // "" when there is none
	StateDir  string           `json:"state_dir"`
	Signer    string           `json:"signer"` // fingerprint; "" before the first backup, "unreadable"
	SignerKey string           `json:"signer_public_key"`
	Instances []InstanceStatus `json:"instances"`
	Warnings  []string         `json:"warnings"`
}

// InstanceStatus is one instance of a Status.
type InstanceStatus struct {
	Instance       string      `json:"instance"`
	Database       string      `json:"database"`
	Engine         string      `json:"engine"`
	N8NVersion     string      `json:"n8n_version"`
	KeyFingerprint string      `json:"key_fingerprint"`
	KeySource      *KeySource  `json:"key_source,omitempty"`
	OtherSources   []KeySource `json:"other_sources,omitempty"`
	Target         string      `json:"target"`
	Archives       int         `json:"archives"`
	LastGood       *Archive    `json:"last_good,omitempty"`
	AgeSeconds     float64     `json:"age_seconds,omitempty"` // of LastGood
	Problems       []string    `json:"problems"`
}

// Version is the document of "version".
type Version struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	Newest  string `json:"newest_known_n8n"`
	Format  int    `json:"archive_format"`
}

// Demo is the document of "demo".
type Demo struct {
	Backup        string   `json:"backup"`
	SecretsProved int64    `json:"secrets_proved"`
	Steps         []string `json:"steps"`
}
