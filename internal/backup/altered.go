package backup

import (
	"context"
	"errors"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/blob"
)

// Altered asks the target what was done to the two objects of an archive after they
// were put: one finding with the code [FoundAltered] for each that was touched, none
// when nothing was or when the target has no versions. An object that is missing is
// no finding.
func Altered(ctx context.Context, store blob.Store, id archive.ID) ([]archive.Finding, error) {
	var found []archive.Finding
	for _, name := range []string{id.SidecarName(), id.ArchiveName()} {
		info, err := store.Stat(ctx, name)
		switch {
		case errors.Is(err, blob.ErrNotFound):
			continue
		case err != nil:
			return found, targetProblem(err, store, "looking whether %q was altered", name)
		}
		found = append(found, altered(id, info)...)
	}
	return found, nil
}

func altered(id archive.ID, info blob.Info) []archive.Finding {
	if info.Altered == "" {
		return nil
	}
	what := "the archive "
	if info.Name == id.SidecarName() {
		what = "the sidecar "
	}
	return []archive.Finding{{Code: FoundAltered, Place: string(id), Detail: what + info.Name + " was altered in the target: " + info.Altered}}
}
