package archive

import (
	"io"
	"iter"

	"filippo.io/age"
)

// Reader reads one archive.
type Reader struct{}

// NewReader opens an archive.
func NewReader(r io.Reader, spoolDir string, ids ...age.Identity) (*Reader, error) { panic("soon") }

// Header is the archive's header.json.
func (r *Reader) Header() Header { panic("soon") }

// Next goes to the next entry.
func (r *Reader) Next() (Entry, error) { panic("soon") }

// Read reads the current entry.
func (r *Reader) Read(p []byte) (int, error) { panic("soon") }

// Manifest is the archive's manifest, after Next returned io.EOF.
func (r *Reader) Manifest() Manifest { panic("soon") }

// Secrets yields the manifest's secrets, after Next returned io.EOF.
func (r *Reader) Secrets() iter.Seq2[Secret, error] { panic("soon") }

// Close removes the spool.
func (r *Reader) Close() error { panic("soon") }
