package s3blob

import (
	"context"
	"errors"

	"github.com/n8keep/n8keep/internal/blob"
)

// Probe implements [blob.Prober].
func (s *Store) Probe(ctx context.Context, name string) ([]blob.Trial, error) {
	return nil, errors.New("not yet")
}
