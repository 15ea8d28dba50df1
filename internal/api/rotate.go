package api

import "time"

// KeyRef is an instance key in a rotation.
type KeyRef struct {
	Fingerprint string `json:"fingerprint"`
	Path        string `json:"path,omitempty"` // the file it was read from; "" for a variable
}

// RotationPlan is the document of "rotate instance --dry-run": what a rotation
// would do, and what stands in its way.
type RotationPlan struct {
	Instance      string          `json:"instance"`
	Database      string          `json:"database"`
	Engine        string          `json:"engine"`
	N8NVersion    string          `json:"n8n_version"`
	DryRun        bool            `json:"dry_run"`
	OldKey        KeyRef          `json:"old_key"`
	NewKey        KeyRef          `json:"new_key"`
	AfterLeak     bool            `json:"after_leak"`
	Executions    string          `json:"executions"` // waiting, all
	Places        []RotationPlace `json:"places"`
	Values        int64           `json:"values"`
	Change        int64           `json:"change"` // of these, get new bytes
	Already       int64           `json:"already_new"`
	Unopened      int64           `json:"unopened"` // of these, open under no key
	Misread       int64           `json:"misread"`  // open here, but not in n8n as it is
	Failures      []Secret        `json:"failures"` // the first of those that open under no key
	Unlisted      []Unlisted      `json:"unlisted"`
	Derived       []Derived       `json:"derived"`
	KeyPlaces     []KeyPlace      `json:"key_places"`
	Effects       []string        `json:"effects"`
	MFALogouts    int64           `json:"mfa_logouts"`
	WaitingValues int64           `json:"waiting_values"`       // of executions that are not finished
	Bundles       int64           `json:"bundles"`              // files of executions that are looked into
	LeftBehind    int64           `json:"left_behind"`          // finished executions whose data stays under the old key
	LeftValues    int64           `json:"left_behind_values"`   // in these, as far as they are in the database
	LeftKeyed     int64           `json:"left_behind_data_key"` // after_leak: finished executions whose data stays under data keys that could be read with the old key
	LeftUnseen    int64           `json:"left_behind_unseen"`   // finished executions elsewhere, which nobody looked into
	LeftUnread    int64           `json:"left_behind_unread"`   // finished executions in the database, older than those that were counted
	Backup        string          `json:"backup"`               // what is taken or accepted, in words
	Service       string          `json:"service"`              // how n8n is stopped and started, in words
	JournalBytes  int64           `json:"journal_bytes"`
	Exposed       []Exposed       `json:"exposed,omitempty"` // with after_leak
	ExposedAdvice []string        `json:"exposed_advice,omitempty"`
	Refusals      []Refusal       `json:"refusals"`
	Warnings      []string        `json:"warnings"`
	Seconds       float64         `json:"seconds"`
	Error         *Error          `json:"error,omitempty"`
}

// RotationPlace is one place in a plan.
type RotationPlace struct {
	Place    string           `json:"place"`
	Number   int              `json:"number"`
	Values   int64            `json:"values"`
	Change   int64            `json:"change"`
	Unopened int64            `json:"unopened"`
	ByKey    map[string]int64 `json:"by_key"`
}

// Derived is a secret that n8n computes from the instance key.
type Derived struct {
	Secret   string `json:"secret"`
	How      string `json:"how"` // rows, environment, set already, cannot, ends: what keeps it, or that nothing does
	Variable string `json:"variable,omitempty"`
	Obtain   string `json:"obtain,omitempty"` // a shell command that prints the value for Variable
	Effect   string `json:"effect"`
}

// KeyPlace is where n8n's instance key is set.
type KeyPlace struct {
	Source  string `json:"source"`
	Where   string `json:"where"`
	Holds   string `json:"holds"` // old, new, other, unknown
	By      string `json:"by"`    // n8keep, user, nobody: who changes it
	Do      string `json:"do,omitempty"`
	Ignored string `json:"ignored,omitempty"` // why n8n does not take its key from there
}

// Exposed is a secret that somebody could read who had the database and the old
// key. It names no credential, only what leads to it.
type Exposed struct {
	Kind      string        `json:"kind"` // credential, or the place of another secret
	ID        string        `json:"id,omitempty"`
	Type      string        `json:"type"`
	Name      string        `json:"-"` // for the person at the terminal
	Count     int64         `json:"count"`
	Workflows []WorkflowUse `json:"workflows"`
	Agents    []string      `json:"agents,omitempty"` // ids
	Replaced  bool          `json:"replaced"`         // by the rotation itself
	Do        string        `json:"do"`
}

// WorkflowUse is a workflow that uses a credential.
type WorkflowUse struct {
	ID     string `json:"id"`
	Name   string `json:"-"`
	Active bool   `json:"active"`
}

// Refusal is a reason for which a plan is not carried out.
type Refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

// Rotation is the document of "rotate instance", "resume", "rollback" and
// "finalise", and an entry of "status".
type Rotation struct {
	ID         string          `json:"id"`
	Instance   string          `json:"instance"`
	Database   string          `json:"database"`
	State      string          `json:"state"`
	Situation  string          `json:"situation,omitempty"` // the state in words, as long as it has not ended
	Started    time.Time       `json:"started"`
	Ended      *time.Time      `json:"ended,omitempty"`
	OldKey     KeyRef          `json:"old_key"`
	NewKey     KeyRef          `json:"new_key"`
	AfterLeak  bool            `json:"after_leak"`
	Steps      []RotationStep  `json:"steps"`
	Backup     *RotationBackup `json:"backup,omitempty"`
	Fresh      *RotationBackup `json:"fresh_backup,omitempty"`         // taken by finalise, with the new key
	Values     int64           `json:"values"`                         // that got new bytes
	Quarantine int64           `json:"quarantined"`                    // left as they are: open under no key
	Left       []Secret        `json:"quarantine,omitempty"`           // the first 100 of these
	LeftBehind int64           `json:"left_behind,omitempty"`          // finished executions still under the old key
	LeftValues int64           `json:"left_behind_values,omitempty"`   // in these
	LeftKeyed  int64           `json:"left_behind_data_key,omitempty"` // after_leak: finished executions still under data keys that could be read with the old key
	LeftUnseen int64           `json:"left_behind_unseen,omitempty"`   // finished executions in files, S3 or Azure, which nobody looked into
	LeftUnread int64           `json:"left_behind_unread,omitempty"`   // finished executions in the database, older than those that were counted
	// Downtime is from n8n's stop until it was healthy again; 0 as long as that is
	// not known.
	Downtime      float64       `json:"downtime_seconds"`
	Rollback      *RolledBack   `json:"rollback,omitempty"`
	NeedOldKey    []KeptArchive `json:"need_old_key,omitempty"`  // archives that open with the old key only
	ExposedTotal  int           `json:"exposed_total,omitempty"` // lines of the checklist after a leak, which only the keys open
	Exposed       []Exposed     `json:"exposed,omitempty"`       // the checklist, but in "status"
	ExposedAdvice []string      `json:"exposed_advice,omitempty"`
	Plan          *RotationPlan `json:"plan,omitempty"` // of "rotate instance"
	Do            []string      `json:"do"`             // what is left to a person, in order
	Next          []string      `json:"next"`           // commands
	Warnings      []string      `json:"warnings"`
	Seconds       float64       `json:"seconds"` // of this command
	Error         *Error        `json:"error,omitempty"`
}

// RotationStep is one step of a rotation.
type RotationStep struct {
	Step    string     `json:"step"`
	State   string     `json:"state"` // begun, done, by user, skipped, failed
	Began   *time.Time `json:"began,omitempty"`
	Seconds float64    `json:"seconds"`
	Detail  string     `json:"detail,omitempty"`
}

// RotationBackup is the backup that a rotation rests on.
type RotationBackup struct {
	ID      string    `json:"id"`
	Target  string    `json:"target"`
	Created time.Time `json:"created"`
	Taken   bool      `json:"taken"`                    // by the rotation itself, not found
	Missed  []string  `json:"missed_targets,omitempty"` // that it was meant for and is not in, with the reason
}

// RolledBack counts what a rollback did.
type RolledBack struct {
	Restored  int64 `json:"restored"`  // written back byte for byte
	Rewritten int64 `json:"rewritten"` // written by n8n since, and encrypted with the old key
	Gone      int64 `json:"gone"`      // rows that were deleted since
}

// KeptArchive is an archive in a target.
type KeptArchive struct {
	ID     string `json:"id"`
	Target string `json:"target"`
}

// Rotations is the document of "rotate status" without an id.
type Rotations struct {
	Rotations []Rotation `json:"rotations"` // newest first
	Warnings  []string   `json:"warnings"`
	// Error is set when a journal could not be read.
	Error *Error `json:"error,omitempty"`
}
