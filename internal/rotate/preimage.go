package rotate

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/n8keep/n8keep/internal/durable"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/problem"
)

// Pre-images are records in an age file:
//
//	"n8keep rotation 1\n" | name of the file | rotation id | attempt
//	0x01 | number of fields | fields            a record
//	0x00 | number of records                    the end, and nothing after it
//
// Numbers are uvarints, texts and fields have their length in front.
const (
	preimageMagic = "n8keep rotation 1\n"
	aRecord       = 1
	theEnd        = 0
)

// recordWriter writes one file of records. It appears under its name when committed.
type recordWriter struct {
	name string
	file *durable.File
	age  io.WriteCloser
	buf  *bufio.Writer
	n    int64
}

func (e *engine) createRecords(name string, attempt int) (*recordWriter, error) {
	var w *recordWriter
	err := e.do("preimages", name, func() error {
		file, err := durable.Create(filepath.Join(e.j.dir, name), 0o600)
		if err != nil {
			return err
		}
		to, err := age.Encrypt(file, e.key.identity.Recipient())
		if err != nil {
			file.Abort()
			return fmt.Errorf("writing %q: %w", name, err)
		}
		w = &recordWriter{name: name, file: file, age: to, buf: bufio.NewWriterSize(to, 64<<10)}
		w.buf.WriteString(preimageMagic)
		w.text(name)
		w.text(e.j.ID)
		w.number(uint64(attempt))
		return nil
	})
	return w, err
}

func (w *recordWriter) number(n uint64) {
	w.buf.Write(binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64), n))
}

func (w *recordWriter) text(s string) {
	w.number(uint64(len(s)))
	w.buf.WriteString(s)
}

// record writes one record; an error of any write before shows here.
func (w *recordWriter) record(fields ...string) error {
	w.n++
	w.buf.WriteByte(aRecord)
	w.number(uint64(len(fields)))
	for _, f := range fields {
		w.text(f)
	}
	// bufio keeps its first error: an empty write returns it.
	if _, err := w.buf.Write(nil); err != nil {
		return fmt.Errorf("writing %q: %w", w.name, err)
	}
	failpoint.Hit("rotate.preimage")
	return nil
}

func (e *engine) commitRecords(w *recordWriter) error {
	return e.do("preimages-complete", w.name, func() error {
		w.buf.WriteByte(theEnd)
		w.number(uint64(w.n))
		if err := w.buf.Flush(); err != nil {
			return fmt.Errorf("writing %q: %w", w.name, err)
		}
		if err := w.age.Close(); err != nil {
			return fmt.Errorf("writing %q: %w", w.name, err)
		}
		return w.file.Commit()
	})
}

func (w *recordWriter) abort() {
	if w != nil {
		w.file.Abort()
	}
}

// records reads a file of records. After its last record the file has been proved
// whole; any error means that it is not, and satisfies problem.Damaged.
func (e *engine) records(name string, attempt int) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		err := e.eachRecord(name, attempt, func(fields []string) error {
			if !yield(fields, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

var errStopped = errors.New("stopped")

func (e *engine) eachRecord(name string, attempt int, fn func([]string) error) error {
	return e.scanRecords(name, func(of uint64) bool { return of == uint64(attempt) }, fn)
}

// attemptOf reads a file of records to its end, and says of which attempt it is.
func (e *engine) attemptOf(name string) (attempt int, err error) {
	err = e.scanRecords(name, func(of uint64) bool {
		attempt = int(of)
		return of <= math.MaxInt32
	}, func([]string) error { return nil })
	return attempt, err
}

func (e *engine) scanRecords(name string, of func(attempt uint64) bool, fn func([]string) error) error {
	damaged := func(err error) error {
		return problem.Wrap(problem.Damaged, err, "%q of rotation %q is damaged", name, e.j.ID)
	}
	f, err := os.Open(filepath.Join(e.j.dir, name))
	if err != nil {
		return damaged(err)
	}
	defer f.Close()
	from, err := age.Decrypt(bufio.NewReaderSize(f, 64<<10), e.key.identity)
	if err != nil {
		return damaged(err)
	}
	r := &recordReader{r: bufio.NewReaderSize(from, 64<<10)}
	magic := make([]byte, len(preimageMagic))
	if _, err := io.ReadFull(r.r, magic); err != nil || string(magic) != preimageMagic {
		return damaged(errors.Join(errors.New("it does not begin as it must"), err))
	}
	if n, id, at := r.text(), r.text(), r.number(); r.err != nil || n != name || id != e.j.ID || !of(at) {
		return damaged(errors.Join(errors.New("it belongs to something else"), r.err))
	}
	for n := uint64(0); ; n++ {
		kind, err := r.r.ReadByte()
		if err != nil {
			return damaged(err)
		}
		if kind == theEnd {
			if count := r.number(); r.err != nil || count != n {
				return damaged(fmt.Errorf("it has %d of %d records", n, count))
			}
			if _, err := r.r.ReadByte(); err != io.EOF {
				return damaged(errors.Join(errors.New("it goes on after its end"), err))
			}
			return nil
		}
		fields := make([]string, 0, 8)
		for range r.number() {
			if fields = append(fields, r.text()); r.err != nil {
				break
			}
		}
		if r.err != nil {
			return damaged(r.err)
		}
		if err := fn(fields); err != nil {
			return err
		}
	}
}

type recordReader struct {
	r   *bufio.Reader
	err error
}

func (r *recordReader) number() uint64 {
	if r.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(r.r)
	r.err = err
	return n
}

// mostText is above everything that a database or a file of n8n holds in one piece.
const mostText = 2 << 30

func (r *recordReader) text() string {
	n := r.number()
	if r.err != nil {
		return ""
	}
	if n > mostText {
		r.err = errors.New("a field is too long")
		return ""
	}
	b := make([]byte, n)
	_, r.err = io.ReadFull(r.r, b)
	return string(b)
}

// writeChange and changes are the records of rows.age.
func (w *recordWriter) writeChange(c n8ndb.Change) error {
	return w.record(append([]string{c.Table, c.Column, c.Before, string(c.AfterSum[:])}, c.Key...)...)
}

func (e *engine) changes() iter.Seq2[n8ndb.Change, error] {
	return func(yield func(n8ndb.Change, error) bool) {
		for f, err := range e.records(rowsName, e.j.Attempt) {
			var c n8ndb.Change
			switch {
			case err != nil:
			case len(f) < 5 || len(f[3]) != len(c.AfterSum):
				err = problem.New(problem.Damaged, "%q of rotation %q has a record that is none", rowsName, e.j.ID)
			default:
				c = n8ndb.Change{Table: f[0], Column: f[1], Before: f[2], Key: f[4:]}
				copy(c.AfterSum[:], f[3])
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// proveRecords reads a file of records to its end.
func (e *engine) proveRecords(name string, attempt int) error {
	return e.eachRecord(name, attempt, func([]string) error { return nil })
}
