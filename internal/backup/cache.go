package backup

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
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

// sidecarRead is a sidecar, read and checked, or why not.
type sidecarRead struct {
	id     archive.ID
	info   blob.Info // as it was listed
	signed archive.SignedSidecar
	err    error
	fresh  *state.Sidecar // what the cache does not have
}

// sidecarReads reads sidecars while they are being listed.
type sidecarReads struct {
	*errgroup.Group
	cfg    ListConfig
	ctx    context.Context // ends with the first error that is about more than one sidecar
	cancel func()
	known  map[string]state.Sidecar
	byID   map[archive.ID]*sidecarRead
}

func (cfg ListConfig) startReading(ctx context.Context) *sidecarReads {
	s := &sidecarReads{cfg: cfg, known: cfg.remembered(ctx), byID: map[archive.ID]*sidecarRead{}}
	ctx, s.cancel = context.WithCancel(ctx)
	s.Group, s.ctx = errgroup.WithContext(ctx)
	s.SetLimit(sidecarReaders)
	return s
}

// read begins to read one that was listed. It waits while as many as may be are
// being read.
func (s *sidecarReads) read(id archive.ID, info blob.Info) {
	r := &sidecarRead{id: id, info: info}
	s.byID[id] = r
	s.Go(func() error {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if r.get(s.ctx, s.cfg.Store, s.known); !aboutSidecar(r.err) {
			return r.err
		}
		return nil
	})
}

// finish waits for all, and remembers them.
func (s *sidecarReads) finish(ctx context.Context) error {
	defer s.cancel()
	if err := s.Wait(); err != nil {
		return err
	}
	s.cfg.remember(ctx, s.byID, s.known)
	return nil
}

// aboutSidecar reports whether err, or nil, says something of this one sidecar:
// that it is forged, damaged, of a newer format, or was deleted since.
func aboutSidecar(err error) bool {
	switch problem.KindOf(err) {
	case "", problem.Untrusted, problem.Damaged, problem.Usage, problem.NotFound:
		return true
	}
	return false
}

func (r *sidecarRead) get(ctx context.Context, store blob.Store, known map[string]state.Sidecar) {
	if k, ok := known[r.info.Name]; ok && k.Size == r.info.Size && k.ETag == r.info.ETag && k.ModTime.Equal(r.info.ModTime) {
		if r.signed, r.err = parseSidecar(k.Content, store, r.id); r.err == nil {
			return
		}
	}
	b, info, err := sidecarBytes(ctx, store, r.id)
	if err != nil {
		r.err = err
		return
	}
	r.signed, r.err = parseSidecar(b, store, r.id)
	// Only what the listing will show again is worth remembering.
	if r.err == nil && info.Size == r.info.Size && info.ETag == r.info.ETag {
		r.fresh = &state.Sidecar{Name: r.info.Name, Size: r.info.Size, ETag: r.info.ETag, ModTime: r.info.ModTime, Content: b}
	}
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

func (cfg ListConfig) remember(ctx context.Context, reads map[archive.ID]*sidecarRead, known map[string]state.Sidecar) {
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
