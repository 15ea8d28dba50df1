package rotate

import "context"

// Run makes a rotation, up to verified. It returns a Result whenever there is a
// journal, also beside an error. With values in quarantine it ends in an error of kind
// Partial, and is verified all the same.
func Run(ctx context.Context, cfg Config) (*Result, error) { panic("soon") }

// Resume goes on with a rotation, or with a rollback, wherever it was left.
func Resume(ctx context.Context, cfg Config) (*Result, error) { panic("soon") }

// Rollback takes a rotation back, at any time before it is finalised.
func Rollback(ctx context.Context, cfg Config) (*Result, error) { panic("soon") }

// Finalise ends a verified rotation and destroys what could undo it.
func Finalise(ctx context.Context, cfg Config, hooks FinaliseHooks) (*Result, error) { panic("soon") }
