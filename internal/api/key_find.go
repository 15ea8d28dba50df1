package api

// KeyFind is the document of "key find". Keys are named by the place of their
// candidate and by fingerprint.
type KeyFind struct {
	Instance      string         `json:"instance"`
	Engine        string         `json:"engine"`
	N8NVersion    string         `json:"n8n_version"`
	LastMigration string         `json:"last_migration"`
	Verdict       string         `json:"verdict"`
	Next          []string       `json:"next"`      // what to do
	Encrypted     int64          `json:"encrypted"` // values that need a key
	Closed        int64          `json:"closed"`    // of them, those that no key opens
	Broken        int64          `json:"broken"`    // of closed, those that no key can open: not whole
	Tried         int64          `json:"tried"`     // texts that were tried
	Keys          []FoundKey     `json:"keys"`      // the instance key first
	Candidates    []KeyCandidate `json:"candidates"`
	Out           string         `json:"out,omitempty"` // file that the instance key was written to
	Warnings      []string       `json:"warnings"`
	Error         *Error         `json:"error,omitempty"`
}

// FoundKey is a key that opens something.
type FoundKey struct {
	KeyFingerprint string `json:"key_fingerprint"`
	// Role is "instance_key": n8n needs this key now; "older_data": it opens values,
	// and n8n needs another one; "no_proof": it opens only what a wrong key may open
	// by chance.
	Role      string   `json:"role"`
	Candidate string   `json:"candidate"` // what it came from
	Steps     []string `json:"steps"`     // what had to be done to the candidate
	InUse     bool     `json:"in_use"`    // n8n takes this key by itself, from its environment or config
	Totals
	Proved      int64   `json:"proved"`       // opened values that a wrong key would not open
	OldEncoding int64   `json:"old_encoding"` // opened values that n8n 1.16 and later cannot read with it
	Places      []Place `json:"places"`
}

// KeyCandidate is what became of a candidate.
type KeyCandidate struct {
	Candidate string          `json:"candidate"` // its place in words
	Source    string          `json:"source"`    // "--candidate", "--key-file", "N8N_ENCRYPTION_KEY", "N8N_ENCRYPTION_KEY_FILE", "config", "n8keep.yaml", "keyring", "deployment_key"
	File      string          `json:"file,omitempty"`
	Line      int             `json:"line,omitempty"`
	Name      string          `json:"name,omitempty"` // variable or member
	Role      string          `json:"role"`           // the best of its keys, or "nothing"
	Keys      []CandidateForm `json:"keys"`
}

// CandidateForm is a form in which a candidate is a key that opens something.
type CandidateForm struct {
	KeyFingerprint string   `json:"key_fingerprint"`
	Steps          []string `json:"steps"`
}
