package app

import (
	"context"

	"github.com/n8keep/n8keep/internal/api"
)

// ReencryptOptions are the options of "reencrypt".
type ReencryptOptions struct {
	To            string // active, a data key's id, legacy
	Flag          string // on, off, "": as in this environment
	AssumeStopped bool
	HealthURL     string
	Executions    string // waiting, all
	Rate          int    // rows per second; 0: unlimited
	DryRun        bool
	// Confirm is shown the plan before anything is changed. Required unless DryRun.
	Confirm func(*api.Reencryption) error
}

func (a *App) Reencrypt(ctx context.Context, io InstanceOptions, o ReencryptOptions) (*api.Reencryption, error) {
	return nil, errSoon
}
