package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/n8keep/n8keep/internal/problem"
)

// Verify reads the record at path and checks every line and its place in the
// chain. lines is how many lines are good before the first broken one, which the
// error names. A file that was cut off at the end of a line passes: only
// somebody who noted a later hash could tell. It waits for a writer that is busy
// and changes nothing.
func Verify(path string) (lines int, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, problem.New(problem.NotFound, "there is no audit log at %q", path).
			WithHint("the first command that opens secrets makes it in the state folder (--state-dir)")
	}
	if err != nil {
		return 0, problem.Wrap(problem.Unexpected, err, "reading the audit log")
	}
	defer f.Close()
	if err := waitLock(context.Background(), f, syscall.LOCK_SH); err != nil {
		return 0, problem.Wrap(problem.Busy, err, "reading the audit log %q", path)
	}
	broken := func(format string, args ...any) error {
		return problem.New(problem.Damaged, "the audit log %q is broken at line %d: %s", path, lines+1, fmt.Sprintf(format, args...))
	}
	in := bufio.NewReaderSize(f, maxLine)
	prev := noHash
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case err == io.EOF && len(line) == 0:
			return lines, nil
		case err == io.EOF:
			return lines, broken("it is cut off").(*problem.Error).
				WithHint("a power loss does that; the next n8keep command puts the rest of the line aside and goes on")
		case errors.Is(err, bufio.ErrBufferFull):
			return lines, broken("%v", errNotALine)
		case err != nil:
			return lines, problem.Wrap(problem.Unexpected, err, "reading the audit log")
		}
		r, hash, err := unseal(line[:len(line)-1])
		switch {
		case err != nil:
			return lines, broken("%v", err)
		case r.Seq != int64(lines)+1:
			return lines, broken("it has number %d, so lines were removed, added or moved", r.Seq)
		case r.Prev != prev:
			return lines, broken("it does not follow the line before it: one of the two was replaced")
		}
		prev = hash
		lines++
	}
}
