package backup

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/state"
)

// SidecarCache remembers sidecars by target and object, so that a list of many
// archives does not read each of them again. What it gives back is checked as if
// it came from the target.
type SidecarCache interface {
	Sidecars(ctx context.Context, target string) (map[string]state.Sidecar, error)
	UpdateSidecars(ctx context.Context, target string, added []state.Sidecar, gone []string) error
}

// sidecarReaders is how many sidecars are read at a time: enough to hide the way to
// a bucket, few enough for any server.
const sidecarReaders = 16

// sidecarRead is a sidecar to be read, and what it belongs to.
type sidecarRead struct {
	info  blob.Info
	into  *Listed
	fresh *state.Sidecar // what the cache does not have
}

// readSidecars reads those that the cache does not have, and checks all.
func (cfg ListConfig) readSidecars(ctx context.Context, reads []sidecarRead) error {
	known := cfg.remembered(ctx)
	g, ctx2 := errgroup.WithContext(ctx)
	g.SetLimit(sidecarReaders)
	for i := range reads {
		r := &reads[i]
		g.Go(func() error {
			if err := ctx2.Err(); err != nil {
				return err
			}
			signed, err := r.read(ctx2, cfg.Store, known)
			return r.into.take(signed, err, cfg.Trust)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	cfg.remember(ctx, reads, known)
	return nil
}

func (r *sidecarRead) read(ctx context.Context, store blob.Store, known map[string]state.Sidecar) (archive.SignedSidecar, error) {
	if k, ok := known[r.info.Name]; ok && k.Size == r.info.Size && k.ETag == r.info.ETag && k.ModTime.Equal(r.info.ModTime) {
		if signed, err := parseSidecar(k.Content, store, r.into.ID); err == nil {
			return signed, nil
		}
	}
	b, info, err := sidecarBytes(ctx, store, r.into.ID)
	if err != nil {
		return archive.SignedSidecar{}, err
	}
	signed, err := parseSidecar(b, store, r.into.ID)
	// Only what the listing will show again is worth remembering.
	if err == nil && info.Size == r.info.Size && info.ETag == r.info.ETag {
		r.fresh = &state.Sidecar{Name: r.info.Name, Size: r.info.Size, ETag: r.info.ETag, ModTime: r.info.ModTime, Content: b}
	}
	return signed, err
}

func (cfg ListConfig) remembered(ctx context.Context) map[string]state.Sidecar {
	if cfg.Cache == nil {
		return nil
	}
	known, err := cfg.Cache.Sidecars(ctx, cfg.Store.Properties().Location)
	if err != nil {
		cfg.logger().Warn("remembered sidecars cannot be used, each is read from the target", "error", err)
		return nil
	}
	return known
}

func (cfg ListConfig) remember(ctx context.Context, reads []sidecarRead, known map[string]state.Sidecar) {
	if cfg.Cache == nil {
		return
	}
	var added []state.Sidecar
	there := make(map[string]bool, len(reads))
	for _, r := range reads {
		there[r.info.Name] = true
		if r.fresh != nil {
			added = append(added, *r.fresh)
		}
	}
	var gone []string
	for name := range known {
		if !there[name] {
			gone = append(gone, name)
		}
	}
	if err := cfg.Cache.UpdateSidecars(ctx, cfg.Store.Properties().Location, added, gone); err != nil {
		cfg.logger().Warn("sidecars cannot be remembered", "error", err)
	}
}

func (cfg ListConfig) logger() *slog.Logger {
	if cfg.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return cfg.Logger
}
