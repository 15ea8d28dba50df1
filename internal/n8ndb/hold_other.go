//go:build !linux

package n8ndb

// holdVFS is SQLite's usual one, which locks as well as it can.
const holdVFS = ""

// holdLock is nothing here: only Linux has locks that belong to an open file, and
// the others are lost as soon as any part of the process closes the file.
type holdLock struct{ gap string }

func holdTakeLock(string) (lock *holdLock, conflict, err error) {
	return &holdLock{gap: "this system has no way to see who has the database open"}, nil, nil
}

func (l *holdLock) release() error { return nil }

func holdFileSystem(string) string { return "" }
