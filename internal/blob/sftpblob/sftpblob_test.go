package sftpblob

import (
	"context"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/remote"
)

// config is for a new folder on the server and a store that does not wait.
func config(t *testing.T, srv *cloudtest.SFTP) Config {
	return Config{
		User: srv.User, Addr: srv.Addr, Dir: t.TempDir(), Keys: []string{srv.Key}, KnownHosts: []string{srv.KnownHosts}, Env: cloudtest.Env(),
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
	srv := cloudtest.NewSFTP(t)
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, config(t, srv)) })
}
