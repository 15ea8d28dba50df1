// Package azureblob is a [blob.Store] in a container of Azure Blob Storage.
//
// An object is a block blob. Its blocks are staged one after the other, two of them
// in memory, and committed at the end under the condition that no blob of the name
// exists (If-None-Match: *). Staged blocks are invisible and forgotten by Azure after
// a week, so an object is there as a whole or not at all, and is never replaced.
//
// An identity that may only create (a shared access signature with "c" alone) is
// not allowed to stage blocks. Then the rest of the stream goes into a temporary
// file that has no name, and from there in one request, which Azure limits to 5000 MiB.
//
// Where a retention is asked for, the same request that makes the blob visible
// carries an immutability policy (the container must support version-level
// immutability). Where the account keeps versions, the oldest one of a name is the
// object: who overwrites or deletes it only hides it, and [blob.Info] says so.
// Soft-deleted blobs are not looked for.
//
// Errors never hold keys, signatures or request URLs, which may contain one. The
// store adds no framing of its own: an object is the bytes that were put, also those
// of older versions.
package azureblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
)

// Store keeps objects in one container under one prefix. It is safe for use from
// several goroutines.
type Store struct {
	cfg    Config
	client *container.Client
	clock  *skew
}

// New returns the store that cfg names. It reads the credentials and asks nobody.
func New(_ context.Context, cfg Config) (*Store, error) {
	if cfg.Account == "" || cfg.Container == "" || cfg.Env == nil {
		return nil, problem.New(problem.Usage, "opening an Azure target: no account, no container or no environment given")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.BlockSize == 0 {
		cfg.BlockSize = 8 << 20
	}
	s := &Store{cfg: cfg, clock: &skew{now: cfg.Now}}
	s.cfg.Retry.Heard = s.clock.heard.Load
	if err := s.connect(); err != nil {
		return nil, problem.Wrap(problem.Usage, err, "opening %q", cfg.location()).WithHint("%s", whereSecretsBelong)
	}
	return s, nil
}

// Properties implements [blob.Store]. Whether the account keeps versions is not
// known without asking; reading copes with both.
func (s *Store) Properties() blob.Properties {
	return blob.Properties{Location: s.cfg.location(), AtomicPut: true, Versioned: true}
}

// Put implements [blob.Store].
func (s *Store) Put(ctx context.Context, name string, r io.Reader) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	v, err := s.put(ctx, name, r, s.cfg.Retain)
	if err != nil {
		return blob.Info{}, s.fail(err, "storing %q in %q", name, s.cfg.location())
	}
	return s.info(v), nil
}

// Get implements [blob.Store].
func (s *Store) Get(ctx context.Context, name string) (io.ReadCloser, blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, blob.Info{}, err
	}
	v, info, err := s.oldest(ctx, name)
	if err == nil {
		var r io.ReadCloser
		if r, err = s.reader(ctx, v, info); err == nil {
			return r, info, nil
		}
	}
	return nil, blob.Info{}, s.fail(err, "opening %q in %q", name, s.cfg.location())
}

// reader reads one version, and nothing else should the blob be replaced meanwhile.
func (s *Store) reader(ctx context.Context, v version, info blob.Info) (io.ReadCloser, error) {
	r := &remote.Reader{
		Size: info.Size, Retry: s.cfg.Retry,
		Open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			c, err := s.version(v.full, v.id)
			if err != nil {
				return nil, err
			}
			resp, err := c.DownloadStream(ctx, &azblob.DownloadStreamOptions{
				Range:            azblob.HTTPRange{Offset: offset},
				AccessConditions: &azblob.AccessConditions{ModifiedAccessConditions: &azblob.ModifiedAccessConditions{IfMatch: v.etag}},
			})
			if err != nil {
				return nil, s.classify(err)
			}
			return resp.Body, nil
		},
		Fail: func(err error, offset int64) error {
			var api *apiError
			if !errors.As(err, &api) {
				err = &lostError{withoutURL(err)}
			}
			return s.fail(err, "reading %q from %q at byte %d", info.Name, s.cfg.location(), offset)
		},
	}
	return r, r.Start(ctx)
}

// Stat implements [blob.Store].
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	_, info, err := s.oldest(ctx, name)
	if err != nil {
		return blob.Info{}, s.fail(err, "looking for %q in %q", name, s.cfg.location())
	}
	return info, nil
}

// List implements [blob.Store].
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		var group []version
		emit := func() bool {
			if len(group) == 0 {
				return true
			}
			_, info := s.pick(group)
			group = group[:0]
			return blob.CheckName(info.Name) != nil || yield(info, nil)
		}
		for v, err := range s.versions(ctx, s.cfg.Prefix+prefix) {
			if err == nil && len(group) > 0 && v.full < group[0].full {
				err = errors.New("the server's list is out of order")
			}
			if err != nil {
				yield(blob.Info{}, s.fail(err, "listing %q", s.cfg.location()))
				return
			}
			if len(group) > 0 && v.full != group[0].full && !emit() {
				return
			}
			group = append(group, v)
		}
		emit()
	}
}

// Delete implements [blob.Store]. All versions go, the oldest one last.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	if err := s.remove(ctx, name); err != nil {
		return s.fail(err, "deleting %q from %q", name, s.cfg.location())
	}
	return nil
}

func (s *Store) remove(ctx context.Context, name string) error {
	group, err := s.group(ctx, name)
	if err != nil {
		return err
	}
	if len(group) == 0 {
		return blob.ErrNotFound
	}
	// A plain delete of a locked blob would succeed and hide it.
	if _, info := s.pick(group); !info.LockedUntil.IsZero() {
		return &apiError{Status: http.StatusConflict, Code: "locked", Message: "it is locked until " + info.LockedUntil.UTC().Format(time.DateTime), hint: "retention keeps it until then"}
	}
	if group[len(group)-1].current {
		// The current version cannot be deleted by its id; it becomes an older one.
		if err := s.removeVersion(ctx, s.cfg.Prefix+name, ""); err != nil && !isStatus(err, http.StatusNotFound) {
			return err
		}
	}
	for i := len(group) - 1; i >= 0; i-- {
		if group[i].id == "" {
			continue
		}
		if err := s.removeVersion(ctx, s.cfg.Prefix+name, group[i].id); err != nil && !isStatus(err, http.StatusNotFound) {
			return err
		}
	}
	return nil
}

func (s *Store) removeVersion(ctx context.Context, full, id string) error {
	options := &azblob.DeleteOptions{}
	if id == "" {
		include := azblob.DeleteSnapshotsOptionTypeInclude
		options.DeleteSnapshots = &include
	}
	return s.try(ctx, callTimeout, func(ctx context.Context, _ int) error {
		c, err := s.version(full, id)
		if err == nil {
			_, err = c.Delete(ctx, options)
		}
		return err
	})
}

// Clock implements [blob.Clocked] by the Date of any answer, also of a refusal.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	var date time.Time
	err := s.try(ctx, callTimeout, func(ctx context.Context, _ int) error {
		var resp *http.Response
		_, err := s.client.GetProperties(policy.WithCaptureResponse(ctx, &resp), nil)
		if resp != nil {
			date, _ = http.ParseTime(resp.Header.Get("Date"))
		}
		return err
	})
	if !date.IsZero() {
		return date, nil
	}
	if err == nil {
		err = errors.New("it does not tell")
	}
	return time.Time{}, s.fail(err, "asking %q for its time", s.cfg.location())
}

// fail says what was being done. Refusals get a hint, as far as there is one.
func (s *Store) fail(err error, format string, args ...any) error {
	doing := fmt.Sprintf(format, args...)
	if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrExists) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	var done *problem.Error
	if errors.As(err, &done) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	var lost *lostError
	if errors.As(err, &lost) {
		return problem.Wrap(problem.Unreachable, err, "%s", doing).WithHint("it was tried for a while: check the network and the endpoint, then run it again")
	}
	var api *apiError
	if !errors.As(err, &api) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	p := problem.Wrap(problem.Unreachable, err, "%s", doing)
	switch {
	case api.Code == "ContainerNotFound":
		return p.WithHint("make the container first, or correct its name: az storage container create --account-name %s --name %s", s.cfg.Account, s.cfg.Container)
	case api.Code == "locked", api.Code == codeTooLarge:
		return p.WithHint("%s", api.hint)
	case api.Status == http.StatusUnauthorized, api.Code == "AuthenticationFailed", api.Code == codeCredentials:
		return p.WithHint("%s", whereSecretsBelong)
	case api.Status == http.StatusForbidden:
		return p.WithHint("see what this identity may do: n8keep target check '%s'", s.cfg.location())
	case s.cfg.Retain > 0 && (api.Status == http.StatusBadRequest || api.Status == http.StatusConflict || api.Status == http.StatusNotImplemented):
		return p.WithHint("retain needs a container with version-level immutability: az storage container-rm create --enable-vlw")
	}
	return p
}
