package sftpblob

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
)

// manner is how a temporary file gets the object's name without replacing anything.
type manner int32

const (
	byLink   manner = iota + 1 // a hard link: the server's kernel decides
	byRename                   // a rename that was seen to refuse an existing name
	byClaim                    // a rename that replaces, under a claim file that one writer can make
)

const claimPrefix = ".n8keep-claim-"

// claimAge is when a claim counts as left behind.
const claimAge = 24 * time.Hour

// findManner tries out what the server can do, once.
func (s *Store) findManner(c *conn, l *litter) error {
	if s.manner.Load() != 0 {
		return nil
	}
	var files [2]string
	for i := range files {
		t, err := s.create(c, l)
		if err != nil {
			return err
		}
		files[i] = t.path
		if err := t.file.Close(); err != nil {
			return err
		}
	}
	free := files[0] + "-new"
	*l = append(*l, free)
	found, err := s.tryOut(c, files[0], files[1], free)
	if err != nil {
		return err
	}
	for _, f := range []string{files[0], files[1], free} {
		if err := l.remove(c, f); err != nil {
			return err
		}
	}
	s.manner.Store(int32(found))
	return nil
}

// tryOut has two existing files and a name that is free.
func (s *Store) tryOut(c *conn, a, b, free string) (manner, error) {
	if v, ok := c.sftp.HasExtension("hardlink@openssh.com"); ok && v == "1" {
		taken := c.sftp.Link(a, b)
		if lost(taken) {
			return 0, taken
		}
		err := c.sftp.Link(a, free)
		if lost(err) {
			return 0, err
		}
		if taken != nil && err == nil {
			return byLink, nil
		}
	}
	switch err := c.sftp.Rename(a, b); {
	case lost(err):
		return 0, err
	case err != nil:
		if err := c.sftp.Rename(a, free); err != nil {
			return 0, fmt.Errorf("renaming a file: %w", err)
		}
		return byRename, nil
	}
	f, err := c.sftp.OpenFile(b, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err == nil {
		f.Close()
		return 0, &localError{problem.New(problem.Unreachable, "the server replaces existing files whatever it is asked for, so that an object might be overwritten").
			WithHint("use another kind of target, or a server like OpenSSH's")}
	}
	if lost(err) {
		return 0, err
	}
	return byClaim, nil
}

// place gives the temporary file its name, which must be free; again says that an
// earlier try was not heard.
func (s *Store) place(c *conn, t *temp, name string, again bool, l *litter) error {
	to := s.path(name)
	switch manner(s.manner.Load()) {
	case byLink:
		if err := c.sftp.Link(t.path, to); err != nil {
			return s.taken(c, to, err)
		}
		// A second name that stays is no failure: the next Put removes it.
		_ = l.remove(c, t.path)
		return nil
	case byRename:
		return s.taken(c, to, c.sftp.Rename(t.path, to))
	}
	claim := s.path(claimPrefix + name)
	f, err := c.sftp.OpenFile(claim, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		if lost(err) {
			return err
		}
		// The other writer may have finished meanwhile and taken its claim away.
		_, claimed := c.sftp.Lstat(claim)
		_, there := c.sftp.Lstat(to)
		switch {
		case there == nil:
			return blob.ErrExists
		case claimed == nil && again:
			return &localError{fmt.Errorf("the connection broke, and whose %q is cannot be told", claimPrefix+name)}
		case claimed == nil:
			return blob.ErrExists // another writer is at it, or died at it within a day
		}
		return err
	}
	*l = append(*l, claim)
	defer l.remove(c, claim)
	if err := f.Close(); err != nil {
		return err
	}
	if _, err := c.sftp.Lstat(to); err == nil {
		return blob.ErrExists
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.sftp.Rename(t.path, to)
}

// taken finds out why a name could not be given: servers say no more than "failure".
func (s *Store) taken(c *conn, to string, err error) error {
	if err == nil || lost(err) {
		return err
	}
	if _, there := c.sftp.Lstat(to); there == nil {
		return blob.ErrExists
	}
	return fmt.Errorf("giving the file its name: %w", err)
}
