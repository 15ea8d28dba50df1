package fileblob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/n8keep/n8keep/internal/blob"
)

// Probe implements [blob.Prober]. Where nothing can be put, an object that is there
// is opened for reading and for writing, and closed again unchanged.
func (s *Store) Probe(ctx context.Context, name string) ([]blob.Trial, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	failed := func(err error) ([]blob.Trial, error) {
		return nil, fmt.Errorf("trying out %q: %w", s.dir, err)
	}
	answers := map[blob.Capability]blob.Trial{
		blob.CanHide:          {Answer: blob.NotApplicable, Detail: "a folder has no versions"},
		blob.CanShortenRetain: {Answer: blob.NotApplicable, Detail: "a folder has no retention"},
	}
	judge := func(c blob.Capability, err error) {
		switch {
		case err == nil:
			answers[c] = blob.Trial{Answer: blob.Yes}
		case denied(err):
			answers[c] = blob.Trial{Answer: blob.No}
		default:
			answers[c] = blob.Trial{Answer: blob.Unknown, Detail: unwrapPath(err).Error()}
		}
	}
	_, err := s.Put(ctx, name, strings.NewReader("n8keep tried out here what this identity may do. This file may be deleted.\n"))
	if err != nil && !denied(err) {
		return failed(err)
	}
	judge(blob.CanPut, err)
	canary := err == nil
	// List yields names that a reader of the folder alone could not open.
	existing := ""
	var listErr error
	for info, err := range s.List(ctx, "") {
		if listErr = err; err == nil && existing == "" {
			existing = info.Name
		}
	}
	if errors.Is(listErr, fs.ErrNotExist) {
		return failed(listErr)
	}
	judge(blob.CanList, listErr)
	if canary {
		existing = name
	}
	if existing != "" {
		for c, flag := range map[blob.Capability]int{blob.CanGet: os.O_RDONLY, blob.CanOverwrite: os.O_WRONLY} {
			f, err := os.OpenFile(filepath.Join(s.dir, existing), flag, 0)
			if err == nil {
				f.Close()
			}
			judge(c, err)
		}
	}
	switch {
	case canary:
		err := s.Delete(ctx, name)
		judge(blob.CanDelete, err)
		if err != nil {
			t := answers[blob.CanDelete]
			t.Detail = fmt.Sprintf("left behind: %q, until somebody deletes it", name)
			answers[blob.CanDelete] = t
		}
	default:
		// Making and removing names are one permission of a folder.
		answers[blob.CanDelete] = blob.Trial{Answer: blob.No, Detail: "nothing can be put, so nothing can be removed"}
	}
	if err := ctx.Err(); err != nil {
		return failed(err)
	}
	var trials []blob.Trial
	for _, c := range blob.Capabilities() {
		t, ok := answers[c]
		if !ok {
			t = blob.Trial{Answer: blob.Unknown, Detail: "there is no object to try it on"}
		}
		t.Capability = c
		trials = append(trials, t)
	}
	return trials, nil
}

// denied says that it is a matter of permission and not of luck.
func denied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)
}
