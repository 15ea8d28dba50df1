// Package pgcopy reads and writes the text format of PostgreSQL's COPY, and finds
// the COPY blocks in plain SQL scripts: what "pg_restore -f -" prints, what pg_dump
// writes in plain format, and n8keep's own data files.
//
// A script is read as psql reads it, as a stream and with memory for one row. What
// looks like COPY inside a string, a dollar-quoted body, a quoted identifier, a
// comment or the data of a row is not one. Meta-commands of psql (\restrict,
// \connect) and all other statements are skipped: nothing is executed here, and
// whether the statements make sense is not looked at.
//
// Refused, with the number of the line: a COPY block that has no end ([ErrTruncated],
// also for a statement, string or comment that is cut off), a COPY FROM stdin with
// options, which would change the format, a row whose number of columns is not that
// of its COPY statement, a row above 1 GiB (PostgreSQL cannot write one), line ends
// of Windows. A script that is cut exactly between two statements looks whole;
// whoever needs to know must have its length or checksum.
//
// The text format is the same since PostgreSQL 7.4. Values are bytes in whatever
// encoding the script names; the encodings a server can have keep ASCII apart.
//
// Scripts may come from others: nothing in them makes this package panic or use
// more memory than its longest row.
package pgcopy

import "errors"

// ErrTruncated says that the script ends inside a COPY block or a statement.
var ErrTruncated = errors.New("the script is cut off")

// Table is where a COPY block goes, as its statement says: unquoted names in lower
// case, Schema empty if there is none. Columns is nil if the statement lists none;
// pg_dump lists them for every table that has any.
type Table struct {
	Schema, Name string
	Columns      []string
}

// String is the name with its schema, not quoted, for messages.
func (t Table) String() string {
	if t.Schema == "" {
		return t.Name
	}
	return t.Schema + "." + t.Name
}

// Handler gets what [ReadScript] finds. An error of any method ends the reading and
// comes back wrapped.
type Handler interface {
	// Begin starts a block. With skip its rows are counted, but neither decoded nor
	// given to Row.
	Begin(t Table) (skip bool, err error)
	// Row gets the decoded values of a row, nil for NULL. They and the slice are
	// valid during the call only, and may be overwritten by it.
	Row(fields [][]byte) error
	// End follows the last row of a block, skipped or not.
	End(rows int64) error
}
