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
	"iter"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// Reader reads one archive from its beginning to its end. It is not for
// concurrent use. Memory is about 20 MB, about 300 bytes for each
// entry beside its name, and for the lists of the manifest what they weigh, at
// most 16 MiB.
//
//	for {
//		e, err := r.Next()
//		if err == io.EOF {
//			break // only now does what was read count
//		}
//		...
//	}
type Reader struct {
	src     *watched // what the caller gave
	plain   *watched // what age decrypted
	zstd    *zstd.Decoder
	tar     *tar.Reader
	spool   *spool
	header  Header
	names   *nameSet
	entries []Entry // read so far, with computed checksums

	current *Entry
	sum     hash.Hash
	read    int64

	manifest Manifest
	err      error // sticky; io.EOF after a good end
	closed   bool
}

// NewReader opens an archive with the first identity that fits and reads its
// header. The list of secrets is kept in a nameless 0600 file in spoolDir (""
// for the system's temporary folder).
//
// Errors: [ErrNoIdentity], [ErrFormat], and [DamagedError], which matches
// ErrDamaged. An error of r itself is passed on and is no damage.
func NewReader(r io.Reader, spoolDir string, ids ...age.Identity) (*Reader, error) {
	if len(ids) == 0 {
		return nil, fmt.Errorf("%w: none was given", ErrNoIdentity)
	}
	ar := &Reader{
		src:   &watched{r: r, left: maxAgeHeader, bounded: true},
		names: newNameSet(),
	}
	plain, err := age.Decrypt(ar.src, ids...)
	if err != nil {
		return nil, ar.openError(err, ids)
	}
	ar.src.unbind()
	ar.plain = &watched{r: plain}
	if ar.spool, err = newSpool(spoolDir); err != nil {
		return nil, err
	}
	if ar.zstd, err = zstd.NewReader(ar.plain,
		zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecodeBuffersBelow(0),
		zstd.WithDecoderConcurrency(2)); err != nil {
		err = ar.damage(err)
		ar.Close()
		return nil, err
	}
	ar.tar = tar.NewReader(ar.zstd)
	if err := ar.readHeader(); err != nil {
		ar.Close()
		return nil, err
	}
	return ar, nil
}

// openError sorts out why age did not get past its header.
func (r *Reader) openError(err error, ids []age.Identity) error {
	eof, srcErr := r.src.state()
	var noMatch *age.NoIdentityMatchError
	switch {
	case errors.Is(srcErr, errLongHeader):
		return &DamagedError{Reason: errLongHeader.Error()}
	case srcErr != nil:
		return fmt.Errorf("reading the archive: %w", srcErr)
	case errors.As(err, &noMatch):
		return fmt.Errorf("%w: it is encrypted to %s", ErrNoIdentity, describeStanzas(noMatch.StanzaTypes))
	case r.src.empty() || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return &DamagedError{Reason: "it ends inside the age header", truncated: true}
	case strings.HasPrefix(err.Error(), "failed to read header") && strings.Contains(err.Error(), "intro"):
		return &DamagedError{Reason: "it is not an age file"}
	case onlyNative(ids) || strings.HasPrefix(err.Error(), "failed to read header") || strings.HasPrefix(err.Error(), "bad header MAC"):
		if eof {
			return &DamagedError{Reason: "the age header is cut short or was changed"}
		}
		return &DamagedError{Reason: "the age header was changed"}
	}
	return fmt.Errorf("opening the archive with an identity: %w", err)
}

func describeStanzas(types []string) string {
	kinds := map[string]int{}
	for _, t := range types {
		kinds[strings.ToLower(t)]++
	}
	names := make([]string, 0, len(kinds))
	for k := range kinds {
		names = append(names, fmt.Sprintf("%.40q", k))
	}
	slices.Sort(names)
	if len(names) > 5 {
		names = append(names[:5], "others")
	}
	noun := "recipients"
	if len(types) == 1 {
		noun = "recipient"
	}
	return fmt.Sprintf("%d %s of kind %s", len(types), noun, strings.Join(names, ", "))
}

func (r *Reader) readHeader() error {
	hdr, err := r.tar.Next()
	if err != nil {
		return r.damage(err)
	}
	if hdr.Name != headerName || hdr.Typeflag != tar.TypeReg || hdr.Size > maxHeader || len(hdr.PAXRecords) > 0 {
		return &DamagedError{Reason: "the first entry is not a header.json"}
	}
	text, err := io.ReadAll(r.tar)
	if err != nil {
		return r.damage(err)
	}
	var format struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &format); err != nil {
		return &DamagedError{Reason: "header.json is not JSON"}
	}
	if format.Format > FormatVersion {
		return newerFormat("the archive", format.Format)
	}
	if err := unmarshalCanonical(text, &r.header); err != nil {
		return &DamagedError{Reason: "header.json " + err.Error()}
	}
	if err := r.header.check(); err != nil {
		return &DamagedError{Reason: "header.json: " + err.Error()}
	}
	if r.header.Format != FormatVersion {
		return &DamagedError{Reason: fmt.Sprintf("header.json: unknown format %d", r.header.Format)}
	}
	return nil
}

// Header is the archive's header.json. Like all output it counts only after
// the end was reached.
func (r *Reader) Header() Header { return r.header }

// Next goes to the next entry, reading what is left of the current one. It
// returns io.EOF when the archive was read and checked to its last byte, and
// never before. header.json and manifest.json are not returned. The SHA256 of
// the returned Entry is empty: it is known, and checked, at the end.
func (r *Reader) Next() (Entry, error) {
	if r.err != nil {
		return Entry{}, r.err
	}
	e, err := r.next()
	if err != nil {
		r.err = err
		r.current = nil
	}
	return e, err
}

func (r *Reader) next() (Entry, error) {
	if err := r.finishEntry(); err != nil {
		return Entry{}, err
	}
	hdr, err := r.tar.Next()
	if err == io.EOF {
		return Entry{}, &DamagedError{Reason: "the manifest, its last entry, is missing", truncated: true}
	}
	if err != nil {
		return Entry{}, r.damage(err)
	}
	if err := checkTarHeader(hdr); err != nil {
		return Entry{}, &DamagedError{Index: len(r.entries) + 1, Name: shortName(hdr.Name), Reason: err.Error()}
	}
	if hdr.Name == manifestName {
		return Entry{}, r.finish(hdr)
	}
	e := Entry{Name: hdr.Name, Size: hdr.Size, Mode: fs.FileMode(hdr.Mode), ModTime: hdr.ModTime.UTC()}
	err = CheckEntryName(e.Name)
	if err == nil {
		err = r.names.add(e.Name)
	}
	if err != nil {
		return Entry{}, &DamagedError{Index: len(r.entries) + 1, Name: shortName(hdr.Name), Reason: err.Error()}
	}
	r.current, r.sum, r.read = &e, sha256.New(), 0
	return e, nil
}

func checkTarHeader(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeReg {
		return errors.New("it is not a regular file")
	}
	for k := range hdr.PAXRecords {
		// A sparse file can claim terabytes in a few bytes.
		if k != "path" && k != "size" {
			return fmt.Errorf("its tar header has an unexpected record %.40q", k)
		}
	}
	if hdr.Mode&^int64(fs.ModePerm) != 0 {
		return fmt.Errorf("its mode %#o has more than permission bits", hdr.Mode)
	}
	if !hdr.ModTime.Equal(tarTime(hdr.ModTime)) {
		return fmt.Errorf("its time %d is out of range", hdr.ModTime.Unix())
	}
	return nil
}

// Read reads the current entry, io.EOF at its end.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.current == nil {
		return 0, io.EOF
	}
	n, err := r.tar.Read(p)
	r.sum.Write(p[:n])
	r.read += int64(n)
	if err != nil && err != io.EOF {
		err = r.damage(err)
		r.err = err
	}
	return n, err
}

func (r *Reader) finishEntry() error {
	if r.current == nil {
		return nil
	}
	// The tar reader fails when the file is shorter than its header says.
	if _, err := io.Copy(io.Discard, onlyReader{r}); err != nil {
		return err
	}
	r.current.SHA256 = hex.EncodeToString(r.sum.Sum(nil))
	r.entries = append(r.entries, *r.current)
	r.current = nil
	return nil
}

// finish reads the manifest and everything behind it.
func (r *Reader) finish(hdr *tar.Header) error {
	if hdr.Size > maxManifest {
		return &DamagedError{Name: manifestName, Reason: fmt.Sprintf("the manifest has %d bytes, more than %d", hdr.Size, int64(maxManifest))}
	}
	m, err := r.readManifest()
	if err != nil {
		return err
	}
	// The tar package does not insist on the two zero blocks at the end, and
	// the age stream is authenticated only when its end was reached.
	want := int(-hdr.Size&511) + 1024
	tail, err := io.ReadAll(io.LimitReader(r.zstd, int64(want)+1))
	if err != nil {
		return r.damage(err)
	}
	switch {
	case len(tail) < want:
		return &DamagedError{Reason: "the tar stream ends too early", truncated: true}
	case len(tail) > want:
		return &DamagedError{Reason: "there is more data behind the end of the tar stream"}
	case !bytes.Equal(tail, make([]byte, want)):
		return &DamagedError{Reason: "the tar stream does not end after the manifest"}
	}
	if eof, _ := r.plain.state(); !eof {
		return &DamagedError{Reason: "there is more data behind the end of the compressed stream"}
	}
	r.manifest = m
	return io.EOF
}

// damage says in our words what a lower layer found. The layers are asked from
// the bottom, because each passes on the trouble of the one below as its own.
func (r *Reader) damage(err error) error {
	d := &DamagedError{}
	if r.header.Format != 0 {
		d.Index = len(r.entries) + 1
	}
	if r.current != nil {
		d.Name = r.current.Name
	}
	srcEOF, srcErr := r.src.state()
	_, ageErr := r.plain.state()
	switch {
	case srcErr != nil:
		return fmt.Errorf("reading the archive: %w", srcErr)
	case errors.Is(ageErr, io.ErrUnexpectedEOF):
		d.Reason, d.truncated = "the end is missing", true
	case ageErr != nil && strings.HasPrefix(ageErr.Error(), "trailing data"):
		d.Reason = "there is more data behind the end"
	case ageErr != nil && srcEOF:
		d.Reason = "the last chunk is cut short or was changed"
	case ageErr != nil:
		d.Reason = "the encrypted data were changed"
	case errors.Is(err, tar.ErrHeader):
		d.Reason = "the tar stream is not valid"
	case errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded):
		d.Reason = fmt.Sprintf("the compressed data need a window of more than %d bytes", maxWindow)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		d.Reason, d.truncated = "the compressed data end too early", true
	default:
		d.Reason = "the compressed data are not valid"
	}
	return d
}

// Verify reads everything that is left and returns nil exactly if Next came to
// io.EOF.
func (r *Reader) Verify() error {
	for {
		if _, err := r.Next(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Manifest is the archive's manifest. It is the zero value until Next returned
// io.EOF.
func (r *Reader) Manifest() Manifest { return r.manifest }

// Secrets yields the manifest's secrets in their order, as often as it is
// called. Until Next returned io.EOF, and after Close, it yields an error.
func (r *Reader) Secrets() iter.Seq2[Secret, error] {
	if r.err != io.EOF {
		return func(yield func(Secret, error) bool) {
			yield(Secret{}, errors.New("reading the list of secrets: the archive was not read to its end"))
		}
	}
	return r.spool.secrets()
}

// Close ends the goroutines and removes the spool. The underlying reader is the
// caller's.
func (r *Reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed, r.err = true, fs.ErrClosed
	if r.zstd != nil {
		r.zstd.Close()
	}
	return r.spool.close()
}
