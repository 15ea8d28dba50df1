package api

// TargetCheck is the document of "target check".
type TargetCheck struct {
	Target string  `json:"target"`
	Role   string  `json:"role"` // writer, restorer, pruner
	Fits   bool    `json:"fits"` // it can do what the role needs, and nothing that does harm
	Trials []Trial `json:"trials"`
	Error  *Error  `json:"error,omitempty"`
}

// Trial is one capability of an identity.
type Trial struct {
	Capability string `json:"capability"` // put, get, list, overwrite, delete, hide, shorten retention
	Answer     string `json:"answer"`     // yes, no, not applicable, unknown
	Need       string `json:"need"`       // of the role: required, harmless, excess
	Wrong      bool   `json:"wrong"`      // the answer is not what the role needs
	Detail     string `json:"detail"`
}

// TargetPolicy is the document of "target policy".
type TargetPolicy struct {
	Target string `json:"target"`
	Role   string `json:"role"`
	Policy string `json:"policy"` // text: documents between lines that begin with "#"
}
