package backup

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
)

// States of a Listed archive beyond those of a sidecar.
const (
	StateIncomplete = "incomplete" // an archive without its sidecar, or a sidecar without its archive
	StateUnreadable = "unreadable" // a sidecar that is damaged or forged
)

// Listed is one archive of a target.
type Listed struct {
	ID      archive.ID
	State   string // good, degraded, incomplete, unreadable
	Sidecar archive.Sidecar
	Signer  archive.Signer
	Trusted bool
	Stored  time.Time // the target's own time of the archive object, of the sidecar when that is missing
	Size    int64     // as stored; 0 when the archive object is missing
	Problem string    // why it is incomplete, unreadable or untrusted

	// LockedUntil is when the target lets both objects be deleted, as far as its
	// listing says; zero for now.
	LockedUntil time.Time
	// Altered says what was done to an object after it was put; "" for nothing.
	Altered string
	// NoArchive says that there is a sidecar and nothing that it belongs to.
	NoArchive bool
}

// ListConfig says what to list.
type ListConfig struct {
	Store  blob.Store
	Trust  Trust
	Cache  SidecarCache // nil: every sidecar is read from the target
	Logger *slog.Logger // is told when the cache fails; nil: nobody is
}

// List returns the archives of a target, newest first. It reads sidecars only
// and believes none of them: Trusted says which are signed by a known signer.
func List(ctx context.Context, store blob.Store, trust Trust) ([]Listed, error) {
	return ListConfig{Store: store, Trust: trust}.List(ctx)
}

// List is [List] with a cache. Sidecars are read and checked while the listing goes
// on, which for thousands of archives takes as long.
func (cfg ListConfig) List(ctx context.Context) ([]Listed, error) {
	byID := map[archive.ID]*Listed{}
	sidecars := cfg.startReading(ctx)
	for info, err := range cfg.Store.List(ctx, "") {
		if err != nil {
			sidecars.cancel()
			sidecars.Wait()
			return nil, targetProblem(err, cfg.Store, "listing the target")
		}
		id, kind, ok := archive.IDFromName(info.Name)
		if !ok {
			continue
		}
		l := byID[id]
		if l == nil {
			l = &Listed{ID: id, NoArchive: true}
			byID[id] = l
		}
		if kind == archive.SidecarObject {
			sidecars.read(id, info)
		} else {
			l.Size, l.Stored, l.NoArchive = info.Size, info.ModTime, false
		}
		l.Altered = joinText(l.Altered, info.Altered)
		if info.LockedUntil.After(l.LockedUntil) {
			l.LockedUntil = info.LockedUntil
		}
	}
	if err := sidecars.finish(ctx); err != nil {
		return nil, err
	}
	list := make([]Listed, 0, len(byID))
	for id, l := range byID {
		r := sidecars.byID[id]
		switch {
		case r == nil:
			l.State, l.Problem = StateIncomplete, "no sidecar: the backup did not finish"
		case l.NoArchive:
			l.State, l.Problem, l.Stored = StateIncomplete, "the archive object is missing", r.info.ModTime
		default:
			l.take(r.signed, r.err, cfg.Trust)
		}
		list = append(list, *l)
	}
	slices.SortFunc(list, func(a, b Listed) int {
		return newer(b.ID, b.Stored, a.ID, a.Stored)
	})
	return list, nil
}

func joinText(a, b string) string {
	switch {
	case b == "" || a == b:
		return a
	case a == "":
		return b
	}
	return a + "; " + b
}

// newer compares two archives by age. Ids have whole seconds; within one the
// target's clock decides.
func newer(a archive.ID, aStored time.Time, b archive.ID, bStored time.Time) int {
	return cmp.Or(a.Time().Compare(b.Time()), aStored.Compare(bStored), strings.Compare(string(a), string(b)))
}

// take fills in what a sidecar says, or why it says nothing: err is one that
// [aboutSidecar] knows.
func (l *Listed) take(signed archive.SignedSidecar, err error, trust Trust) {
	switch {
	case problem.KindOf(err) == problem.NotFound: // deleted since it was listed
		l.State, l.Problem = StateIncomplete, "no sidecar: it was deleted just now"
		return
	case err != nil:
		l.State, l.Problem = StateUnreadable, err.Error()
		return
	}
	l.Sidecar, l.Signer, l.State = signed.Sidecar, signed.Signer, string(signed.Sidecar.State)
	switch {
	case signed.Sidecar.Size != l.Size:
		l.State, l.Problem = StateIncomplete, "the stored size differs from the sidecar"
	case trust.Check(signed) != nil:
		l.Problem = "signed by " + signed.Signer.Fingerprint() + ", not a trusted signer"
	default:
		l.Trusted = true
	}
}

// readSidecar reads and checks the signature, not whether the signer is trusted.
func readSidecar(ctx context.Context, store blob.Store, id archive.ID) (archive.SignedSidecar, blob.Info, error) {
	b, info, err := sidecarBytes(ctx, store, id)
	if err != nil {
		return archive.SignedSidecar{}, info, err
	}
	signed, err := parseSidecar(b, store, id)
	return signed, info, err
}

func sidecarBytes(ctx context.Context, store blob.Store, id archive.ID) ([]byte, blob.Info, error) {
	r, info, err := store.Get(ctx, id.SidecarName())
	if err != nil {
		return nil, info, targetProblem(err, store, "reading the sidecar of %q", id)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, archive.MaxSidecar+1))
	if err != nil {
		return nil, info, targetProblem(err, store, "reading the sidecar of %q", id)
	}
	return b, info, nil
}

func parseSidecar(b []byte, store blob.Store, id archive.ID) (archive.SignedSidecar, error) {
	signed, err := archive.ParseSidecar(b)
	if err == nil && signed.Sidecar.ID != id {
		err = archive.ErrSignature
	}
	switch {
	case errors.Is(err, archive.ErrFormat):
		return signed, problem.Wrap(problem.Usage, err, "sidecar of %q", id).WithHint("use the n8keep that wrote it, or a newer one")
	case err != nil:
		return signed, problem.Wrap(problem.Untrusted, err, "sidecar of %q", id).
			WithHint("it was damaged or forged; take another archive: \"n8keep backup list --target %s\"", flagValue(store.Properties().Location))
	}
	return signed, nil
}

// Find resolves an id, a unique prefix of one, or "latest": the newest archive
// that is complete and signed by a trusted signer, of the instance if one is
// given. It refuses to choose between instances.
func Find(ctx context.Context, store blob.Store, trust Trust, ref, instance string) (archive.ID, error) {
	return ListConfig{Store: store, Trust: trust}.Find(ctx, ref, instance)
}

// Find is [Find] with a cache.
func (cfg ListConfig) Find(ctx context.Context, ref, instance string) (archive.ID, error) {
	store := cfg.Store
	if ref == "latest" {
		return cfg.latest(ctx, instance)
	}
	var matches []archive.ID
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return "", targetProblem(err, store, "listing the target")
		}
		id, kind, ok := archive.IDFromName(info.Name)
		if !ok || kind != archive.SidecarObject || instance != "" && id.Instance() != instance {
			continue
		}
		if string(id) == ref {
			return id, nil
		}
		if ref != "" && strings.HasPrefix(string(id), ref) {
			matches = append(matches, id)
		}
	}
	switch {
	case len(matches) == 0:
		return "", notThere(store, ref)
	case len(matches) > 1:
		return "", problem.New(problem.Usage, "%q is the beginning of %d archives", ref, len(matches)).
			WithHint("give more of the id: %q or %q", matches[0], matches[1])
	}
	return matches[0], nil
}

func notThere(store blob.Store, ref string) error {
	return problem.New(problem.NotFound, "no archive %q in the target", ref).
		WithHint("see what is there: \"n8keep backup list --target %s\"", flagValue(store.Properties().Location))
}

func (cfg ListConfig) latest(ctx context.Context, instance string) (archive.ID, error) {
	store := cfg.Store
	archives, err := cfg.List(ctx)
	if err != nil {
		return "", err
	}
	newest, unknown := archive.ID(""), archive.ID("")
	for _, l := range archives {
		switch {
		case instance != "" && l.ID.Instance() != instance, l.State == StateIncomplete, l.State == StateUnreadable:
		case !l.Trusted:
			unknown = cmp.Or(unknown, l.ID)
		case newest == "":
			newest = l.ID
		case l.ID.Instance() != newest.Instance():
			return "", problem.New(problem.Usage, "the target holds archives of several instances, %q and %q among them", newest.Instance(), l.ID.Instance()).
				WithHint("choose with --instance NAME, or give the id: \"n8keep backup list --target %s\"", flagValue(store.Properties().Location))
		}
	}
	switch {
	case newest != "":
		return newest, nil
	case unknown != "":
		return unknown, nil // its reader says whose signature it has, and what to do
	}
	return "", notThere(store, "latest")
}
