package archive

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
)

// spool is a list of secrets in a file that only this process can reach: mode
// 0600, and without a name from the start, so a killed process leaves nothing.
// One JSON object a line.
type spool struct {
	file *os.File
	w    *bufio.Writer
	n    int64
	size int64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, ".n8keep-tmp-spool-*")
	if err != nil {
		return nil, fmt.Errorf("making a spool file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("making a spool file: %w", err)
	}
	return &spool{file: f, w: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (s *spool) add(line []byte) error {
	s.w.Write(line)
	if err := s.w.WriteByte('\n'); err != nil {
		return fmt.Errorf("writing the spool file: %w", err)
	}
	s.n++
	s.size += int64(len(line))
	return nil
}

// lines yields what was added. A line is valid until the next one.
func (s *spool) lines() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if err := s.w.Flush(); err != nil {
			yield(nil, fmt.Errorf("writing the spool file: %w", err))
			return
		}
		r := bufio.NewReaderSize(io.NewSectionReader(s.file, 0, 1<<62), 64<<10)
		var long []byte
		for {
			line, err := r.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				long = append(long, line...)
				continue
			}
			if err == io.EOF && len(line)+len(long) == 0 {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("reading the spool file: %w", err))
				return
			}
			if len(long) > 0 {
				long = append(long, line...)
				line = long
			}
			if !yield(line[:len(line)-1], nil) {
				return
			}
			long = long[:0]
		}
	}
}

func (s *spool) secrets() iter.Seq2[Secret, error] {
	return func(yield func(Secret, error) bool) {
		for line, err := range s.lines() {
			var secret Secret
			if err == nil {
				err = json.Unmarshal(line, &secret)
			}
			if !yield(secret, err) || err != nil {
				return
			}
		}
	}
}

func (s *spool) close() error { return s.file.Close() }
