package api

import "time"

// Copy is an archive as one target has it.
type Copy struct {
	Target      string        `json:"target"`
	State       string        `json:"state"` // good, degraded, damaged, incomplete, unreadable; missing, unreachable
	Size        int64         `json:"size"`
	Stored      *time.Time    `json:"stored,omitempty"`       // the target's own time
	LockedUntil *time.Time    `json:"locked_until,omitempty"` // as far as the target's listing says
	Verified    *Verification `json:"verified,omitempty"`     // absent: never here
	Findings    []Finding     `json:"findings,omitempty"`     // tampering, times that differ
	Problem     string        `json:"problem,omitempty"`
}

// Verification is the last one of a copy on this side.
type Verification struct {
	Time  time.Time `json:"time"`
	Level string    `json:"level"` // "" when it is damaged
	Sound bool      `json:"sound"`
}

// Policy is what retention keeps: of how many periods one archive each.
type Policy struct {
	Last    int `json:"last"`
	Hourly  int `json:"hourly"`
	Daily   int `json:"daily"`
	Weekly  int `json:"weekly"`
	Monthly int `json:"monthly"`
	Yearly  int `json:"yearly"`
}

// Prune is the document of "backup prune", done or only planned.
type Prune struct {
	Target   string            `json:"target"`
	DryRun   bool              `json:"dry_run"`
	Policy   map[string]Policy `json:"policy"`   // of "archives" and "workflows"
	Archives []Decision        `json:"archives"` // newest first
	ToProve  []string          `json:"to_prove"` // the newest good ones, of keys too, read before anything goes
	Proved   []string          `json:"proved"`   // those that were, and were sound
	Removed  int64             `json:"removed"`  // with dry_run: that would be
	Kept     int64             `json:"kept"`
	Failed   int64             `json:"failed"` // were to go, or to be proved, and could not
	Bytes    int64             `json:"bytes"`  // of the removed ones
	Findings []Finding         `json:"findings"`
	Warnings []string          `json:"warnings"`
	Seconds  float64           `json:"seconds"`
	Error    *Error            `json:"error,omitempty"`
}

// Decision is what a prune does with one archive.
type Decision struct {
	ID       string    `json:"id"`
	Instance string    `json:"instance"`
	Kind     string    `json:"kind"` // archives, workflows
	Signer   string    `json:"signer"`
	Stored   time.Time `json:"stored"`
	Size     int64     `json:"size"`
	Keep     bool      `json:"keep"`
	Reason   string    `json:"reason"`
	Problem  string    `json:"problem,omitempty"` // why it could not be removed or proved
}

// Copied is the document of "backup copy".
type Copied struct {
	From     string        `json:"from"`
	To       string        `json:"to"`
	Archives []CopyOutcome `json:"archives"` // in the order in which they were copied
	Copied   int64         `json:"copied"`
	There    int64         `json:"there"` // were there already, the same
	Failed   int64         `json:"failed"`
	Bytes    int64         `json:"bytes"` // of the copied ones
	Seconds  float64       `json:"seconds"`
	Error    *Error        `json:"error,omitempty"`
}

// CopyOutcome is what became of one archive.
type CopyOutcome struct {
	ID      string `json:"id"`
	Outcome string `json:"outcome"` // copied, there, failed
	Size    int64  `json:"size"`
	Problem string `json:"problem,omitempty"`
}

// Sampled is the document of "backup verify --sample".
type Sampled struct {
	Target   string          `json:"target"`
	Level    string          `json:"level"`
	Sample   string          `json:"sample"`
	Total    int             `json:"total"`    // archives to choose from
	Archives []SampleOutcome `json:"archives"` // in the order in which they were verified
	Sound    int             `json:"sound"`
	Failed   int             `json:"failed"`
	Warnings []string        `json:"warnings"`
	Seconds  float64         `json:"seconds"`
	Error    *Error          `json:"error,omitempty"`
}

// SampleOutcome is what the verification of one archive showed.
type SampleOutcome struct {
	ID      string  `json:"id"`
	Level   string  `json:"level"`   // full instead of secrets when the key is another's
	Outcome string  `json:"outcome"` // sound, degraded, altered, or the kind of the error
	Problem string  `json:"problem,omitempty"`
	Hint    string  `json:"hint,omitempty"`
	Seconds float64 `json:"seconds"`
}
