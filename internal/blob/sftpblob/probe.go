package sftpblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/pkg/sftp"
)

// Probe implements [blob.Prober]. An SFTP server has no locks and no versions, so
// there is nothing to hide and no retention to shorten.
func (s *Store) Probe(ctx context.Context, name string) ([]blob.Trial, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	trials := map[blob.Capability]blob.Trial{}
	note := func(c blob.Capability, a blob.Answer, detail string) {
		trials[c] = blob.Trial{Capability: c, Answer: a, Detail: detail}
	}
	judge := func(c blob.Capability, err error) bool {
		var status *sftp.StatusError
		switch {
		case err == nil:
			note(c, blob.Yes, "")
		case errors.Is(err, fs.ErrPermission), errors.As(err, &status):
			note(c, blob.No, "the server refuses")
		default:
			note(c, blob.Unknown, err.Error())
		}
		return err == nil
	}
	_, err := s.put(ctx, name, strings.NewReader("n8keep tries what it may do here\n"))
	var broke *lostError
	var local *localError
	if errors.As(err, &broke) || errors.As(err, &local) || errors.Is(err, blob.ErrExists) || ctx.Err() != nil {
		return nil, s.fail(err, "trying out %q", s.cfg.location())
	}
	there := judge(blob.CanPut, err)
	err = s.do(ctx, func(c *conn, _ int) error {
		_, err := c.sftp.ReadDir(s.dir())
		if judge(blob.CanList, err); lost(err) {
			return err
		}
		err = readable(c, s.path(name))
		if !there && errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if judge(blob.CanGet, err); lost(err) || !there {
			if !lost(err) {
				err = nil
			}
			return err
		}
		f, err := c.sftp.OpenFile(s.path(name), os.O_WRONLY)
		if err == nil {
			_, err = f.Write([]byte("overwritten"))
			f.Close()
		}
		if judge(blob.CanOverwrite, err); lost(err) {
			return err
		}
		err = c.sftp.Remove(s.path(name))
		if !judge(blob.CanDelete, err) && !lost(err) {
			note(blob.CanDelete, trials[blob.CanDelete].Answer, fmt.Sprintf("%s; the canary %s stays", trials[blob.CanDelete].Detail, name))
		}
		if lost(err) {
			return err
		}
		return nil
	})
	if errors.As(err, &broke) || ctx.Err() != nil {
		return nil, s.fail(err, "trying out %q", s.cfg.location())
	}
	note(blob.CanHide, blob.NotApplicable, "SFTP has no versions")
	note(blob.CanShortenRetain, blob.NotApplicable, "SFTP has no locks")
	var list []blob.Trial
	for _, c := range blob.Capabilities() {
		t, ok := trials[c]
		if !ok {
			t = blob.Trial{Capability: c, Answer: blob.Unknown, Detail: "there was no canary to try it with"}
		}
		list = append(list, t)
	}
	return list, nil
}

func readable(c *conn, path string) error {
	f, err := c.sftp.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	return err
}
