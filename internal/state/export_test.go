package state

import "fmt"

// SetVersion pretends that another n8keep wrote the file.
func SetVersion(db *DB, version int) error {
	_, err := db.pool.Exec(fmt.Sprintf("PRAGMA user_version = %d", version))
	return err
}
