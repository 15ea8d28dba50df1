package azureblob

import (
	"context"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/remote"
)

// config is for a container with the account's key and a store that does not wait.
func config(a *cloudtest.Azure) Config {
	return Config{
		Account: cloudtest.AzureAccount, Container: a.Container, Prefix: "backups/n8n/", Endpoint: a.URL,
		Env:   cloudtest.Env("AZURE_STORAGE_KEY", a.Key),
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
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, config(cloudtest.NewAzure(t))) })
}

// A signature without the permission to write cannot stage blocks.
func TestConformanceWithoutWrite(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		a := cloudtest.NewAzure(t)
		cfg := config(a)
		cfg.Env = cloudtest.Env("AZURE_STORAGE_SAS_TOKEN", a.SAS(t, "rcdl", time.Hour))
		return open(t, cfg)
	})
}
