package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"time"

	"filippo.io/age"
)

// WriterConfig says what a [Writer] needs.
type WriterConfig struct {
	// Header becomes header.json. Format is set by the Writer, Created is cut to
	// whole seconds in UTC. Required: ID, Instance, Created.
	Header Header
	// Recipients can open the archive. At least one, all of one kind.
	Recipients []age.Recipient
	// SpoolDir is where the list of secrets is kept until Close, in a nameless
	// 0600 file. Zero: the system's temporary folder.
	SpoolDir string
}

// Summary is what [Writer.Close] knows about the archive.
type Summary struct {
	Size      int64  // bytes written to the underlying writer
	SHA256    string // of these bytes, lower hex
	Entries   int    // without header.json and manifest.json
	PlainSize int64  // bytes of the entries' contents, without header.json and manifest.json

	Secrets       int64 // added by AddSecret
	SecretsOpened int64
	SecretsFailed int64 // with a Problem
}

// Writer writes one archive: entries with [Writer.Add] or [Writer.Stream],
// secrets with [Writer.AddSecret], then [Writer.Close]. It is not for concurrent
// use. A name or mode that is refused spoils nothing. After any other error every
// call returns that error, and what was written is no archive: the caller throws
// it away.
//
// Compression and encryption run in goroutines, which Close and [Writer.Abort]
// end; one of them must be called. Memory is about 30 MB, and about 300 bytes for each entry.
type Writer struct {
	header  Header
	out     *countingWriter
	age     io.WriteCloser
	comp    *compressor
	tar     *tar.Writer
	spool   *spool
	names   *nameSet
	entries []Entry
	summary Summary
	stream  *streamWriter
	buf     []byte
	err     error
	done    bool
}

var errClosed = errors.New("the archive writer is closed")

// NewWriter begins an archive on w and writes header.json. w is only written
// to from one goroutine at a time, until Close or Abort return.
func NewWriter(w io.Writer, cfg WriterConfig) (*Writer, error) {
	h := cfg.Header
	h.Format = FormatVersion
	h.Created = wholeSeconds(h.Created)
	h.clean()
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("beginning an archive: %w", err)
	}
	if _, err := RecipientKind(cfg.Recipients); err != nil {
		return nil, fmt.Errorf("beginning archive %q: %w", h.ID, err)
	}
	spool, err := newSpool(cfg.SpoolDir)
	if err != nil {
		return nil, fmt.Errorf("beginning archive %q: %w", h.ID, err)
	}
	aw := &Writer{header: h, spool: spool, names: newNameSet(), out: &countingWriter{w: w, hash: sha256.New()}}
	if err := aw.begin(cfg.Recipients); err != nil {
		aw.Abort()
		return nil, fmt.Errorf("beginning archive %q: %w", h.ID, err)
	}
	return aw, nil
}

func (w *Writer) begin(recipients []age.Recipient) error {
	var err error
	if w.age, err = age.Encrypt(w.out, recipients...); err != nil {
		return err
	}
	if w.comp, err = newCompressor(w.age); err != nil {
		return err
	}
	w.tar = tar.NewWriter(w.comp)
	w.buf = make([]byte, 256<<10)
	text, err := json.Marshal(w.header)
	if err != nil {
		return err
	}
	if err := w.tarHeader(headerName, int64(len(text)), 0o600, w.header.Created); err != nil {
		return err
	}
	_, err = w.tar.Write(text)
	return err
}

func (w *Writer) tarHeader(name string, size int64, mode fs.FileMode, mtime time.Time) error {
	return w.tar.WriteHeader(&tar.Header{
		Format:   tar.FormatPAX, // or ustar, but never GNU's
		Typeflag: tar.TypeReg,
		Name:     name,
		Size:     size,
		Mode:     int64(mode.Perm()),
		ModTime:  tarTime(mtime),
	})
}

// Add writes one file. e.Size is required and r must yield exactly that many
// bytes; e.SHA256 is computed, and compared if it was given. A zero ModTime
// becomes the archive's time, and one that a plain tar header cannot hold the
// nearest that it can: years 1970 to 2242.
func (w *Writer) Add(e Entry, r io.Reader) error {
	if err := w.usable(); err != nil {
		return err
	}
	if w.stream != nil {
		return w.fail(fmt.Errorf("adding %q: the stream %q is not closed", e.Name, w.stream.prefix))
	}
	return w.add(e, r)
}

func (w *Writer) add(e Entry, r io.Reader) error {
	// A name or mode that is refused spoils nothing: the caller may go on.
	if err := CheckEntryName(e.Name); err != nil {
		return err
	}
	if err := checkMode(e.Mode); err != nil {
		return fmt.Errorf("adding %q: %w", e.Name, err)
	}
	if e.Size < 0 {
		return fmt.Errorf("adding %q: size %d", e.Name, e.Size)
	}
	if err := w.names.add(e.Name); err != nil {
		return err
	}
	if e.ModTime.IsZero() {
		e.ModTime = w.header.Created
	}
	e.ModTime = tarTime(e.ModTime)
	if err := w.tarHeader(e.Name, e.Size, e.Mode, e.ModTime); err != nil {
		return w.fail(fmt.Errorf("adding %q: %w", e.Name, err))
	}
	sum := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(w.tar, sum), onlyReader{io.LimitReader(r, e.Size)}, w.buf)
	if err != nil {
		return w.fail(fmt.Errorf("adding %q: %w", e.Name, err))
	}
	if n < e.Size {
		return w.fail(fmt.Errorf("adding %q: it ended after %d of %d bytes: it was changed meanwhile", e.Name, n, e.Size))
	}
	if more, err := io.ReadFull(r, w.buf[:1]); more > 0 {
		return w.fail(fmt.Errorf("adding %q: it has more than the %d bytes that were announced: it was changed meanwhile", e.Name, e.Size))
	} else if err != io.EOF {
		return w.fail(fmt.Errorf("adding %q: %w", e.Name, err))
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	if e.SHA256 != "" && e.SHA256 != digest {
		return w.fail(fmt.Errorf("adding %q: its content is not what was announced: checksum differs", e.Name))
	}
	e.SHA256 = digest
	w.entries = append(w.entries, e)
	w.summary.PlainSize += e.Size
	return nil
}

// Stream returns a writer for content of unknown length. It becomes entries
// PREFIX.000001, PREFIX.000002 and so on, at least one, of at most 16 MiB; put
// together in that order they are the content. Close it before the next Add.
func (w *Writer) Stream(prefix string, mode fs.FileMode) io.WriteCloser {
	s := &streamWriter{w: w, prefix: prefix, mode: mode}
	switch {
	case w.usable() != nil:
		s.err = w.usable()
	case w.stream != nil:
		s.err = w.fail(fmt.Errorf("adding %q: the stream %q is not closed", prefix, w.stream.prefix))
	default:
		w.stream = s
	}
	return s
}

// AddSecret adds to the manifest's list of secrets; the order is kept. Opened
// secrets are counted as opened, those with a Problem as failed.
func (w *Writer) AddSecret(s Secret) error {
	if err := w.usable(); err != nil {
		return err
	}
	s.clean()
	line, err := json.Marshal(s)
	if err == nil {
		err = s.check(len(line))
	}
	if err != nil {
		return fmt.Errorf("recording a secret of %q: %w", s.Place, err)
	}
	if w.spool.size+w.spool.n+int64(len(line)) > maxManifest/2 {
		return w.fail(errors.New("recording a secret: the manifest would be too long"))
	}
	if err := w.spool.add(line); err != nil {
		return w.fail(err)
	}
	w.summary.Secrets++
	if s.Opens {
		w.summary.SecretsOpened++
	} else if s.Problem != "" {
		w.summary.SecretsFailed++
	}
	return nil
}

// Close writes the manifest and ends the archive. The fields of m that repeat
// the header, and Entries, are filled in; State is required. When Close returns
// nil, every byte was accepted by the underlying writer.
func (w *Writer) Close(m Manifest) (Summary, error) {
	if err := w.usable(); err != nil {
		return Summary{}, err
	}
	defer w.Abort()
	if w.stream != nil {
		return Summary{}, w.fail(fmt.Errorf("ending the archive: the stream %q is not closed", w.stream.prefix))
	}
	if err := w.finish(m); err != nil {
		return Summary{}, w.fail(fmt.Errorf("ending archive %q: %w", w.header.ID, err))
	}
	w.summary.Size = w.out.n
	w.summary.SHA256 = hex.EncodeToString(w.out.hash.Sum(nil))
	w.summary.Entries = len(w.entries)
	return w.summary, nil
}

func (w *Writer) finish(m Manifest) error {
	h := w.header
	m.Format, m.ID, m.Instance, m.Created, m.KeyFingerprint, m.Tool = h.Format, h.ID, h.Instance, h.Created, h.KeyFingerprint, h.Tool
	m.Entries = w.entries
	m.clean()
	if err := m.check(); errors.Is(err, errHeavy) {
		return fmt.Errorf("the manifest %w", err)
	} else if err != nil {
		return err
	}
	if err := m.checkValues(); err != nil {
		return err
	}
	size := &countingWriter{w: io.Discard}
	if err := m.encode(size, w.spool.lines()); err != nil {
		return err
	}
	if size.n > maxManifest {
		return fmt.Errorf("the manifest has %d bytes, more than %d", size.n, int64(maxManifest))
	}
	if err := w.tarHeader(manifestName, size.n, 0o600, h.Created); err != nil {
		return err
	}
	if err := m.encode(w.tar, w.spool.lines()); err != nil {
		return err
	}
	if err := w.tar.Close(); err != nil {
		return err
	}
	if err := w.comp.Close(); err != nil {
		return err
	}
	return w.age.Close()
}

// Abort ends the goroutines and removes the spool. What was written is no
// archive. A write of the underlying writer that hangs must be ended by the
// caller first. After Close it does nothing.
func (w *Writer) Abort() {
	if w.done {
		return
	}
	w.done = true
	if w.comp != nil {
		w.comp.Abort()
	}
	w.spool.close()
	if w.err == nil {
		w.err = errClosed
	}
}

func (w *Writer) usable() error { return w.err }

func (w *Writer) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// streamWriter holds one piece in memory, because a tar header states the size.
type streamWriter struct {
	w      *Writer
	prefix string
	mode   fs.FileMode
	piece  []byte
	pieces int
	err    error
	closed bool
}

func (s *streamWriter) Write(p []byte) (int, error) {
	if s.closed {
		return 0, fs.ErrClosed
	}
	total := len(p)
	for len(p) > 0 && s.err == nil {
		if s.piece == nil {
			s.piece = make([]byte, 0, pieceBytes)
		}
		n := copy(s.piece[len(s.piece):pieceBytes], p)
		s.piece = s.piece[:len(s.piece)+n]
		p = p[n:]
		if len(s.piece) == pieceBytes {
			s.flush()
		}
	}
	return total - len(p), s.err
}

func (s *streamWriter) flush() {
	s.pieces++
	e := Entry{Name: fmt.Sprintf("%s.%06d", s.prefix, s.pieces), Size: int64(len(s.piece)), Mode: s.mode}
	if s.pieces > 999_999 {
		s.err = s.w.fail(fmt.Errorf("adding %q: the stream is too long", s.prefix))
	} else if err := s.w.add(e, bytes.NewReader(s.piece)); err != nil {
		s.err = s.w.fail(err)
	}
	s.piece = s.piece[:0]
}

func (s *streamWriter) Close() error {
	if s.closed {
		return s.err
	}
	s.closed = true
	if s.err == nil && (len(s.piece) > 0 || s.pieces == 0) {
		s.flush()
	}
	if s.w.stream == s {
		s.w.stream = nil
	}
	s.piece = nil
	return s.err
}

// onlyReader hides WriteTo, so that io.CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }

type countingWriter struct {
	w    io.Writer
	hash hash.Hash // nil: none
	n    int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if c.hash != nil {
		c.hash.Write(p[:n])
	}
	return n, err
}
