package gcsblob

import (
	"context"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/remote"
)

// config is for a bucket that needs no credentials and a store that does not wait.
func config(g *cloudtest.GCS) Config {
	return Config{
		Bucket: g.Bucket, Prefix: "backups/n8n/", Endpoint: g.URL, Credentials: "none", Env: cloudtest.Env(),
		Retry: remote.Retry{First: time.Millisecond, Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }},
	}
}

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, config(cloudtest.NewGCS(t, false))) })
}

func TestConformanceWithVersions(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, config(cloudtest.NewGCS(t, true))) })
}
