// Package azureblob is being built.
package azureblob

import (
	"errors"

	"context"
	"github.com/n8keep/n8keep/internal/blob"
)

// Store keeps objects.
type Store struct {
	blob.Store
	cfg Config
}

// New returns the store that cfg names.
func New(ctx context.Context, cfg Config) (*Store, error) { return nil, errors.New("not built yet") }

// Policy is the least an identity of the role needs.
func Policy(cfg Config, role blob.Role) (string, error) { return "", errors.New("not built yet") }
