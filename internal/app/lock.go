package app

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
)

// lockDatabase keeps all other commands that change a database, or rest on nobody
// changing it, away until unlock: they look for rotations that have not ended, read
// n8n's key, ask a person, and must find everything as it was when they write. It is
// of the whole database of a server, since a restore exchanges all of it; a backup
// takes another lock, its instance's. Taken is Busy.
func (a *App) lockDatabase(identity string) (unlock func(), err error) {
	database := lockedDatabase(identity)
	dir := a.lockDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "making lock folder %q", dir).WithHint("choose another with --state-dir")
	}
	sum := sha256.Sum256([]byte(database))
	lock, err := durable.TryLock(filepath.Join(dir, "_database-"+hex.EncodeToString(sum[:8])+".lock"))
	switch {
	case errors.Is(err, durable.ErrLocked):
		return nil, problem.New(problem.Busy, "another n8keep is changing the database %s, or about to", database).
			WithHint("let it end, or answer its question, and run this again; \"n8keep rotate status\" shows whether a rotation is under way")
	case err != nil:
		return nil, problem.Wrap(problem.Unexpected, err, "locking the database %s", database).WithHint("choose another state folder with --state-dir")
	}
	return func() {
		if err := lock.Unlock(); err != nil {
			a.Logger.Warn("the lock of the database was not released", "error", err)
		}
	}, nil
}

// lockedDatabase is an identity less schema and prefix.
func lockedDatabase(identity string) string {
	database, _, _ := strings.Cut(identity, "?")
	return database
}

func sameLock(a, b string) bool { return lockedDatabase(a) == lockedDatabase(b) }

// lockChange is lockDatabase for a command that changes something unless dryRun says
// otherwise, and notRotating.
func (a *App) lockChange(identity string, dryRun bool) (unlock func(), err error) {
	unlock = func() {}
	if !dryRun {
		if unlock, err = a.lockDatabase(identity); err != nil {
			return nil, err
		}
	}
	if err := a.notRotating(identity); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}
