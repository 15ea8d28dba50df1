package app

import (
	"context"
	"time"

	"filippo.io/age"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/problem"
)

// HookOptions say how n8n is stopped and started. Empty ones take what the
// configuration says; without any, the user does it.
type HookOptions struct {
	StopCommand     string
	StartCommand    string
	SystemdUnit     string
	ComposeFile     string
	ComposeServices []string
	HealthURL       string
}

// RotateOptions are the options of "rotate instance".
type RotateOptions struct {
	NewKeyFile     string
	Executions     string // waiting, all
	Quarantine     bool
	AcceptUnlisted []string // table.column
	AfterLeak      bool
	Finalise       bool
	KeySetByUser   bool
	AssumeStopped  bool
	DryRun         bool
	Hooks          HookOptions

	Targets           []string
	Recipients        []string
	RecipientFiles    []string
	Identities        []age.Identity
	BackupYoungerThan time.Duration
	NoBackup          bool

	// Confirm is shown the plan before it is carried out; an error ends the command
	// with nothing done. Required unless DryRun.
	Confirm func(*api.RotationPlan) error
}

// JournalOptions are the options of "rotate resume", "rollback" and "finalise".
// What is empty is taken from the journal.
type JournalOptions struct {
	ID             string // or the beginning of one
	KeyFile        string
	NewKeyFile     string
	Database       string
	N8NDir         string
	AssumeStopped  bool
	Hooks          HookOptions
	Targets        []string
	Recipients     []string
	RecipientFiles []string
	Identities     []age.Identity
	NoBackup       bool

	// Confirm is shown the rotation before anything is done. Required.
	Confirm func(*api.Rotation) error
}

var errSoon = problem.New(problem.Unexpected, "not there yet")

func (a *App) RotateInstance(ctx context.Context, io InstanceOptions, o RotateOptions) (*api.RotationPlan, *api.Rotation, error) {
	return nil, nil, errSoon
}
func (a *App) RotationStatus(ctx context.Context, id string) (*api.Rotation, error) {
	return nil, errSoon
}
func (a *App) Rotations(ctx context.Context) (*api.Rotations, error) { return nil, errSoon }
func (a *App) RotateResume(ctx context.Context, o JournalOptions) (*api.Rotation, error) {
	return nil, errSoon
}
func (a *App) RotateRollback(ctx context.Context, o JournalOptions) (*api.Rotation, error) {
	return nil, errSoon
}
func (a *App) RotateFinalise(ctx context.Context, o JournalOptions) (*api.Rotation, error) {
	return nil, errSoon
}
