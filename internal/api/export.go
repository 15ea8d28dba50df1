package api

// Export is the document of "export".
type Export struct {
	Instance    string               `json:"instance"`
	Workflows   *ExportedWorkflows   `json:"workflows,omitempty"`
	Credentials *ExportedCredentials `json:"credentials,omitempty"`
	Warnings    []string             `json:"warnings"`
	Seconds     float64              `json:"seconds"`
	Error       *Error               `json:"error,omitempty"`
}

// ExportedWorkflows counts files below a folder.
type ExportedWorkflows struct {
	Dir       string   `json:"dir"`
	Workflows int      `json:"workflows"` // in n8n
	New       int      `json:"new"`       // files
	Changed   int      `json:"changed"`
	Unchanged int      `json:"unchanged"`
	Removed   int      `json:"removed"`  // files of workflows that are gone or elsewhere
	HoldKey   []string `json:"hold_key"` // ids of workflows not written, because the instance key is in them
	Kept      []string `json:"kept"`     // files that were not removed, because they hold something else now
}

// ExportedCredentials is an encrypted file of credentials.
type ExportedCredentials struct {
	File          string    `json:"file"`
	Credentials   int       `json:"credentials"`
	RecipientKind string    `json:"recipient_kind"`
	KeySource     KeySource `json:"key_source"`
	Failures      []Secret  `json:"failures"`
}
