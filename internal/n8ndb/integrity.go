package n8ndb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/n8keep/n8keep/internal/problem"
)

// integrityLimit bounds both lists of an Integrity.
const integrityLimit = 100

// Integrity is what SQLite says about a database file.
type Integrity struct {
	// OK is true when both lists are empty.
	OK bool
	// Problems are the lines of PRAGMA integrity_check, at most 100.
	Problems []string
	// ForeignKeys names rows that refer to a row that is not there, at most 100
	// lines, then one that says there are more.
	ForeignKeys []string
}

// CheckIntegrity runs PRAGMA integrity_check and foreign_key_check on a private
// copy that nobody else has open: the file is opened immutable, without locks.
// A file with a journal or write-ahead log beside it is refused, because its
// content would be left out. Damage is in the result, not in the error.
func CheckIntegrity(ctx context.Context, path string) (Integrity, error) {
	if _, err := os.Stat(path); err != nil {
		return Integrity{}, problem.Wrap(snapFileKind(err), snapCause(err), "checking database %q", path)
	}
	for _, suffix := range []string{"-wal", "-journal"} {
		if info, err := os.Stat(path + suffix); err == nil && info.Size() > 0 {
			return Integrity{}, problem.New(problem.Usage, "checking database %q: it has a %s file beside it", path, suffix).
				WithHint("check a snapshot of it instead")
		}
	}
	var found Integrity
	db, err := snapPool(snapURI(path, "mode=ro&immutable=1&_pragma=cache_size(-4000)"))
	if err != nil {
		return found, problem.Wrap(problem.Unexpected, err, "checking database %q", path)
	}
	defer db.Close()
	for _, check := range []func() error{
		func() error { return integrityStructure(ctx, db, &found) },
		func() error { return integrityReferences(ctx, db, &found) },
	} {
		err := check()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return Integrity{}, ctx.Err()
		case snapCode(err) == sqlite3.SQLITE_CORRUPT || snapCode(err) == sqlite3.SQLITE_NOTADB || snapCode(err) == sqlite3.SQLITE_IOERR:
			found.Problems = append(found.Problems, err.Error())
		default:
			return Integrity{}, problem.Wrap(problem.Unexpected, err, "checking database %q", path)
		}
	}
	found.OK = len(found.Problems) == 0 && len(found.ForeignKeys) == 0
	return found, nil
}

func integrityStructure(ctx context.Context, db *sql.DB, found *Integrity) error {
	rows, err := db.QueryContext(ctx, fmt.Sprintf("PRAGMA integrity_check(%d)", integrityLimit))
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return err
		}
		if line != "ok" {
			found.Problems = append(found.Problems, line)
		}
	}
	return rows.Err()
}

func integrityReferences(ctx context.Context, db *sql.DB, found *Integrity) error {
	rows, err := db.QueryContext(ctx, `SELECT "table", rowid, parent FROM pragma_foreign_key_check`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if len(found.ForeignKeys) == integrityLimit {
			found.ForeignKeys = append(found.ForeignKeys, "more rows refer to missing ones; the rest is not listed")
			return nil
		}
		var table, parent string
		var row sql.NullInt64
		if err := rows.Scan(&table, &row, &parent); err != nil {
			return err
		}
		line := fmt.Sprintf("a row of %q refers to a missing row of %q", table, parent)
		if row.Valid {
			line = fmt.Sprintf("row %d of %q refers to a missing row of %q", row.Int64, table, parent)
		}
		found.ForeignKeys = append(found.ForeignKeys, line)
	}
	return rows.Err()
}

func snapFileKind(err error) problem.Kind {
	if errors.Is(err, os.ErrNotExist) {
		return problem.NotFound
	}
	return problem.Unexpected
}
