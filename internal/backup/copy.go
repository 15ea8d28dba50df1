package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/n8keep/n8keep/archive"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/failpoint"
	"github.com/n8keep/n8keep/internal/problem"
)

// CopyConfig says from where to where. Fields without a remark are required.
type CopyConfig struct {
	From, To blob.Store
	Trust    Trust
	Progress Progress // nil: none
}

// CopyResult is what became of one archive.
type CopyResult struct {
	Sidecar archive.Sidecar
	Signer  archive.Signer
	There   bool // it was there already, the same
}

// Copy copies one archive byte for byte. The bytes are compared with the signed
// sidecar as they pass, and what does not agree is not stored; the sidecar is
// written last, as it is, so the copy has the same signer. An equal archive at the
// destination is left alone, and one without its sidecar, which an interrupted copy
// leaves, is read and completed. Nothing is ever replaced. An identity that may
// only put is enough at the destination as long as nothing is there.
func Copy(ctx context.Context, cfg CopyConfig, id archive.ID) (CopyResult, error) {
	raw, _, err := sidecarBytes(ctx, cfg.From, id)
	if err != nil {
		return CopyResult{}, err
	}
	signed, err := parseSidecar(raw, cfg.From, id)
	if err == nil {
		err = cfg.Trust.Check(signed)
	}
	c := &copying{CopyConfig: cfg, raw: raw, CopyResult: CopyResult{Sidecar: signed.Sidecar, Signer: signed.Signer}}
	if err != nil {
		return c.CopyResult, err
	}
	if c.There, err = c.there(ctx); c.There || err != nil {
		return c.CopyResult, err
	}
	if err := c.archive(ctx); err != nil {
		return c.CopyResult, err
	}
	failpoint.Hit("copy.archive-stored")
	_, err = cfg.To.Put(ctx, id.SidecarName(), bytes.NewReader(raw))
	if errors.Is(err, blob.ErrExists) { // another copy was faster, if it is the same
		if same, lookErr := c.there(ctx); same || lookErr != nil {
			err = lookErr
		}
	}
	if err != nil {
		return c.CopyResult, c.wrap(err, cfg.To, "writing the sidecar of %q", id)
	}
	return c.CopyResult, nil
}

type copying struct {
	CopyConfig
	CopyResult
	raw []byte // the sidecar
}

func (c *copying) wrap(err error, store blob.Store, format string, args ...any) error {
	if p := (*problem.Error)(nil); errors.As(err, &p) {
		return err
	}
	return targetProblem(err, store, format, args...)
}

// there reports whether the destination has the archive already. What it does not
// let be seen counts as not there: putting it tells.
func (c *copying) there(ctx context.Context) (bool, error) {
	id := c.Sidecar.ID
	raw, _, err := sidecarBytes(ctx, c.To, id)
	if err != nil {
		return false, ctx.Err()
	}
	info, err := c.To.Stat(ctx, id.ArchiveName())
	switch {
	case !bytes.Equal(raw, c.raw):
		return false, c.other("another sidecar")
	case errors.Is(err, blob.ErrNotFound):
		return false, nil
	case err != nil:
		return false, targetProblem(err, c.To, "looking for archive %q", id)
	case info.Size != c.Sidecar.Size:
		return false, c.other(fmt.Sprintf("an archive of %d bytes instead of %d", info.Size, c.Sidecar.Size))
	}
	return true, nil
}

func (c *copying) other(what string) error {
	return problem.New(problem.Damaged, "the destination holds %s under the id %q", what, c.Sidecar.ID).
		WithHint("nothing was changed there; look at it with \"n8keep backup verify %s --target %s\"", c.Sidecar.ID, flagValue(c.To.Properties().Location))
}

func (c *copying) archive(ctx context.Context) error {
	s := c.Sidecar
	r, err := c.open(ctx, c.From)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = c.To.Put(ctx, s.ID.ArchiveName(), r)
	switch {
	case errors.Is(err, blob.ErrExists):
		return c.compare(ctx)
	case r.err != nil: // the source's fault, whatever the destination makes of it
		return r.err
	case err != nil:
		return c.wrap(err, c.To, "writing archive %q", s.ID)
	case r.left != 0:
		return problem.New(problem.Unreachable, "storing %q: the target took only a part of it and reported success", s.ID.ArchiveName()).
			WithHint("do not rely on this target; what it holds under that name is incomplete and not listed as a backup")
	}
	return nil
}

// compare reads what the destination holds under the name.
func (c *copying) compare(ctx context.Context) error {
	r, err := c.open(ctx, c.To)
	if err == nil {
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
	}
	switch {
	case err == nil:
		return nil
	case problem.KindOf(err) == problem.Damaged:
		return c.other("other data")
	}
	return c.wrap(err, c.To, "reading what is stored as archive %q", c.Sidecar.ID)
}

func (c *copying) open(ctx context.Context, store blob.Store) (*checkedReader, error) {
	s := c.Sidecar
	body, info, err := store.Get(ctx, s.ID.ArchiveName())
	if err != nil {
		return nil, targetProblem(err, store, "reading archive %q", s.ID)
	}
	if info.Size != s.Size {
		body.Close()
		return nil, damagedAt(store, s, fmt.Sprintf("%d of %d bytes are stored", info.Size, s.Size))
	}
	report := c.Progress.of("copying " + string(s.ID))
	return &checkedReader{body: body, store: store, sidecar: s, hash: sha256.New(), left: s.Size, report: report}, nil
}

func damagedAt(store blob.Store, s archive.Sidecar, what string) error {
	where := store.Properties().Location
	return problem.New(problem.Damaged, "archive %q is damaged in %q: %s", s.ID, where, what).
		WithHint("nothing was written; take another archive: \"n8keep backup list --target %s\"", flagValue(where))
}

// checkedReader yields an archive's bytes, and io.EOF only if all of them were what
// the sidecar says.
type checkedReader struct {
	body    io.ReadCloser
	store   blob.Store
	sidecar archive.Sidecar
	hash    hash.Hash
	left    int64
	report  func(done, total int64)
	err     error // why the bytes could not be had, or are wrong
}

func (r *checkedReader) Close() error { return r.body.Close() }

func (r *checkedReader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.hash.Write(p[:n])
	r.left -= int64(n)
	r.report(r.sidecar.Size-r.left, r.sidecar.Size)
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF:
		r.err = targetProblem(err, r.store, "reading archive %q", r.sidecar.ID)
	case r.left != 0:
		r.err = damagedAt(r.store, r.sidecar, fmt.Sprintf("it ended %d bytes early", r.left))
	case hex.EncodeToString(r.hash.Sum(nil)) != r.sidecar.SHA256:
		r.err = damagedAt(r.store, r.sidecar, "the checksum of the stored bytes differs from the signed one")
	default:
		return n, io.EOF
	}
	// The last bytes are held back with the error, so that nobody stores them.
	return 0, r.err
}

// Missing are the archives of from that to does not have whole, oldest first, so
// that the copies' order is that of the originals. Incomplete and unreadable ones
// are left out; those of untrusted signers are in, so that copying them says so.
func Missing(ctx context.Context, from, to ListConfig, instance string) ([]archive.ID, error) {
	list, err := from.List(ctx)
	if err != nil {
		return nil, err
	}
	there, err := to.List(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a folder that is yet to be made
		return nil, err
	}
	has := map[archive.ID]string{}
	for _, l := range there {
		if l.State != StateIncomplete && l.State != StateUnreadable {
			has[l.ID] = l.Sidecar.SHA256
		}
	}
	var missing []archive.ID
	for i := len(list) - 1; i >= 0; i-- {
		l := list[i]
		if l.State == StateIncomplete || l.State == StateUnreadable || instance != "" && l.ID.Instance() != instance || has[l.ID] == l.Sidecar.SHA256 {
			continue
		}
		missing = append(missing, l.ID)
	}
	return missing, nil
}
