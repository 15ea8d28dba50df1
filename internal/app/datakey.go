package app

import (
	"context"

	"github.com/n8keep/n8keep/internal/api"
)

// DataKeyOptions are the options of "data-key list", "rotate" and "retire".
type DataKeyOptions struct {
	ID            string // retire
	AllExecutions bool   // list
	N8NURL        string // rotate: where n8n's editor answers
	SessionFile   string // rotate: a file with the cookie of a session
	DryRun        bool
	// Confirm is asked before anything is changed. Required unless DryRun.
	Confirm func(*api.DataKeyChange) error
}

func (a *App) DataKeyList(ctx context.Context, io InstanceOptions, o DataKeyOptions) (*api.DataKeys, error) {
	return nil, errSoon
}
func (a *App) DataKeyRotate(ctx context.Context, io InstanceOptions, o DataKeyOptions) (*api.DataKeyChange, error) {
	return nil, errSoon
}
func (a *App) DataKeyRetire(ctx context.Context, io InstanceOptions, o DataKeyOptions) (*api.DataKeyChange, error) {
	return nil, errSoon
}
