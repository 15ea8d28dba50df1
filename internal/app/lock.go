package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/problem"
)

// lockDatabase keeps all other commands that change a database, or rest on nobody
// changing it, away until unlock: they look for rotations that have not ended, read
// n8n's key, ask a person, and must find everything as it was when they write. It is
// of the whole database of a server, since a restore exchanges all of it; a backup
// takes another lock, its instance's. Each of the names is locked; people know it as
// shown. Taken is Busy.
func (a *App) lockDatabase(shown string, names ...string) (unlock func(), err error) {
	dir := a.lockDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, problem.Wrap(problem.Unexpected, err, "making lock folder %q", dir).WithHint("choose another with --state-dir")
	}
	var held []*durable.Lock
	unlock = func() {
		for _, lock := range held {
			if err := lock.Unlock(); err != nil {
				a.Logger.Warn("the lock of the database was not released", "error", err)
			}
		}
	}
	for _, name := range lockedDatabases(names) {
		sum := sha256.Sum256([]byte(name))
		lock, err := durable.TryLock(filepath.Join(dir, "_database-"+hex.EncodeToString(sum[:8])+".lock"))
		if err != nil {
			unlock()
		}
		switch {
		case errors.Is(err, durable.ErrLocked):
			return nil, problem.New(problem.Busy, "another n8keep is changing the database %s, or about to", lockedDatabase(shown)).
				WithHint("let it end, or answer its question, and run this again; \"n8keep rotate status\" shows whether a rotation is under way")
		case err != nil:
			return nil, problem.Wrap(problem.Unexpected, err, "locking the database %s", lockedDatabase(shown)).WithHint("choose another state folder with --state-dir")
		}
		held = append(held, lock)
	}
	return unlock, nil
}

// lockedDatabase is a name less schema and prefix.
func lockedDatabase(name string) string {
	database, _, _ := strings.Cut(name, "?")
	return database
}

// lockedDatabases are the different ones of names.
func lockedDatabases(names []string) (list []string) {
	for _, name := range names {
		if name = lockedDatabase(name); name != "" && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// lockChange is lockDatabase for a command that changes something unless dryRun says
// otherwise, and a look for rotations that have not ended. It asks for the database's
// other name when nobody can exchange the database any more.
func (a *App) lockChange(ctx context.Context, db *namedDatabase, dryRun bool) (unlock func(), err error) {
	var undo []func()
	unlock = func() {
		for _, u := range slices.Backward(undo) {
			u()
		}
	}
	lock := func(name string) error {
		if dryRun || name == "" {
			return nil
		}
		one, err := a.lockDatabase(db.at, name)
		if err == nil {
			undo = append(undo, one)
		}
		return err
	}
	if err = lock(db.at); err == nil {
		if err = db.recognise(ctx); err == nil {
			if err = lock(db.same); err == nil {
				err = a.notRotating(db)
			}
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}
