package api

import "time"

// DataKeys is the document of "data-key list".
type DataKeys struct {
	Instance   string    `json:"instance"`
	Engine     string    `json:"engine"`
	N8NVersion string    `json:"n8n_version"`
	Keys       []DataKey `json:"keys"`
	Legacy     int64     `json:"legacy_values"` // un-prefixed, under the instance key
	Unopened   int64     `json:"unopened"`
	Warnings   []string  `json:"warnings"`
	Error      *Error    `json:"error,omitempty"`
}

// DataKey is one key of n8n's own, without the key.
type DataKey struct {
	ID         string     `json:"id"`
	Algorithm  string     `json:"algorithm"`
	Status     string     `json:"status"` // n8n's: active, inactive
	Created    *time.Time `json:"created,omitempty"`
	AgeSeconds float64    `json:"age_seconds"`
	Values     int64      `json:"values"`            // that it opens
	Opens      bool       `json:"opens"`             // with the instance key
	Legacy     bool       `json:"legacy"`            // a row that holds the instance key, not a key of its own
	Wrap       string     `json:"wrap"`              // how it is stored: gcm, cbc, plaintext
	Retired    *time.Time `json:"retired,omitempty"` // by n8keep
}

// DataKeyChange is the document of "data-key rotate" and "data-key retire".
type DataKeyChange struct {
	Instance string   `json:"instance"`
	DryRun   bool     `json:"dry_run"`
	ID       string   `json:"id"`                 // the key that was made, or retired; "" in a dry run of rotate
	Previous string   `json:"previous,omitempty"` // rotate: the key that was active
	Through  string   `json:"through,omitempty"`  // rotate: database, n8n
	Values   int64    `json:"values"`             // retire: that still use it
	Warnings []string `json:"warnings"`
	Next     []string `json:"next"`
	Seconds  float64  `json:"seconds"`
	Error    *Error   `json:"error,omitempty"`
}

// Reencryption is the document of "reencrypt".
type Reencryption struct {
	Instance   string          `json:"instance"`
	N8NVersion string          `json:"n8n_version"`
	To         string          `json:"to"` // a data key's id, or legacy
	DryRun     bool            `json:"dry_run"`
	Running    bool            `json:"n8n_running"`
	Allowed    []Combination   `json:"allowed"`
	Places     []RotationPlace `json:"places"`
	Values     int64           `json:"values"`
	Change     int64           `json:"change"`  // dry run: that would get new bytes
	Changed    int64           `json:"changed"` // that got them
	Lost       int64           `json:"lost"`    // n8n saved them first; the next pass looked again
	Unopened   int64           `json:"unopened"`
	Failures   []Secret        `json:"failures"`
	Left       int64           `json:"left"` // at the end, not under the key that was asked for
	Passes     []ReencryptPass `json:"passes"`
	MFA        int64           `json:"mfa_logouts"` // users with a second factor who have to log in again
	Obstacles  []string        `json:"obstacles"`   // legacy: what else stands in the way of an older n8n
	Refusals   []Refusal       `json:"refusals"`
	Warnings   []string        `json:"warnings"`
	Next       []string        `json:"next"`
	Seconds    float64         `json:"seconds"`
	Error      *Error          `json:"error,omitempty"`
}

// ReencryptPass is one walk through the database.
type ReencryptPass struct {
	Pass    int     `json:"pass"`
	Changed int64   `json:"changed"`
	Lost    int64   `json:"lost"`
	Seconds float64 `json:"seconds"`
}

// Combination is one row of the table that says which re-encryption is allowed.
type Combination struct {
	Versions string `json:"versions"`
	Flag     string `json:"flag"`
	Running  string `json:"running"`
	To       string `json:"to"`
	Answer   string `json:"answer"`
	Why      string `json:"why"`
	Here     bool   `json:"here"` // it is this instance's
}
