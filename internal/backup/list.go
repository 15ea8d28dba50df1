package backup

import (
	"cmp"
	"context"
	"errors"
	"io"
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
	Stored  time.Time // the target's own time of the archive object
	Size    int64     // as stored; 0 when the archive object is missing
	Problem string    // why it is incomplete, unreadable or untrusted
}

// List returns the archives of a target, newest first. It reads sidecars only
// and believes none of them: Trusted says which are signed by a known signer.
func List(ctx context.Context, store blob.Store, trust Trust) ([]Listed, error) {
	byID := map[archive.ID]*Listed{}
	sidecars := map[archive.ID]bool{}
	for info, err := range store.List(ctx, "") {
		if err != nil {
			return nil, targetProblem(err, store, "listing the target")
		}
		id, kind, ok := archive.IDFromName(info.Name)
		if !ok {
			continue
		}
		l := byID[id]
		if l == nil {
			l = &Listed{ID: id}
			byID[id] = l
		}
		if kind == archive.SidecarObject {
			sidecars[id] = true
		} else {
			l.Size, l.Stored = info.Size, info.ModTime
		}
	}
	list := make([]Listed, 0, len(byID))
	for id, l := range byID {
		switch {
		case !sidecars[id]:
			l.State, l.Problem = StateIncomplete, "no sidecar: the backup did not finish"
		case l.Stored.IsZero():
			l.State, l.Problem = StateIncomplete, "the archive object is missing"
		default:
			if err := l.read(ctx, store, trust); err != nil {
				return nil, err
			}
		}
		list = append(list, *l)
	}
	slices.SortFunc(list, func(a, b Listed) int {
		return newer(b.ID, b.Stored, a.ID, a.Stored)
	})
	return list, nil
}

// newer compares two archives by age. Ids have whole seconds; within one the
// target's clock decides.
func newer(a archive.ID, aStored time.Time, b archive.ID, bStored time.Time) int {
	return cmp.Or(a.Time().Compare(b.Time()), aStored.Compare(bStored), strings.Compare(string(a), string(b)))
}

func (l *Listed) read(ctx context.Context, store blob.Store, trust Trust) error {
	signed, err := readSidecar(ctx, store, l.ID)
	if err != nil {
		switch problem.KindOf(err) {
		case problem.Untrusted, problem.Damaged, problem.Usage: // forged, damaged, of a newer format
			l.State, l.Problem = StateUnreadable, err.Error()
			return nil
		case problem.NotFound: // deleted since it was listed
			l.State, l.Problem = StateIncomplete, "no sidecar: it was deleted just now"
			return nil
		}
		return err
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
	return nil
}

// readSidecar reads and checks the signature, not whether the signer is trusted.
func readSidecar(ctx context.Context, store blob.Store, id archive.ID) (archive.SignedSidecar, error) {
	r, _, err := store.Get(ctx, id.SidecarName())
	if err != nil {
		return archive.SignedSidecar{}, targetProblem(err, store, "reading the sidecar of %q", id)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, archive.MaxSidecar+1))
	if err != nil {
		return archive.SignedSidecar{}, targetProblem(err, store, "reading the sidecar of %q", id)
	}
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
	if ref == "latest" {
		return latest(ctx, store, trust, instance)
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

func latest(ctx context.Context, store blob.Store, trust Trust, instance string) (archive.ID, error) {
	archives, err := List(ctx, store, trust)
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
