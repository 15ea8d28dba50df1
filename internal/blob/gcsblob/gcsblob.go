// Package gcsblob is a [blob.Store] in a bucket of Google Cloud Storage, spoken to
// by its JSON API (v1) over plain HTTP.
//
// An object is sent by a resumable upload in chunks of a few MiB, of which two are
// in memory. It appears when the last chunk has arrived, under the condition that no
// object of the name exists (ifGenerationMatch=0), so it is there as a whole or not
// at all and is never replaced. After a lost connection, a 429 or a 5xx the server is
// asked how far it got, and the rest follows. An upload that fails is cancelled; one
// that could not even be cancelled is invisible and dropped by Google after a week.
// The checksum of what arrived is compared with that of what was sent.
//
// Where a retention is asked for, every upload carries it (the bucket must have
// object retention enabled). Where the bucket keeps versions, the oldest one of a
// name is the object: who overwrites or deletes it only hides it, and [blob.Info]
// says so. Soft-deleted objects are not looked for.
//
// Storing needs the permission storage.objects.create (with a retention also
// storage.objects.setRetention) and nothing else. Errors never hold tokens or
// upload URLs, which are secrets. The store adds no framing of its own: an object is
// the bytes that were put, also those of older versions.
package gcsblob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"golang.org/x/oauth2"
)

// Store keeps objects in one bucket under one prefix. It is safe for use from
// several goroutines.
type Store struct {
	cfg  Config
	http *http.Client
	base string

	heard atomic.Bool // something answered once

	tokenOnce sync.Once
	token     oauth2.TokenSource // nil: requests go without
	tokenErr  error
}

// New returns the store that cfg names. It reads the credentials' file, if there is
// one, and asks nobody.
func New(_ context.Context, cfg Config) (*Store, error) {
	if cfg.Bucket == "" || cfg.Env == nil {
		return nil, problem.New(problem.Usage, "opening a Google Cloud Storage target: no bucket or no environment given")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.ChunkSize == 0 {
		cfg.ChunkSize = 8 << 20
	}
	if cfg.ChunkSize%granularity != 0 {
		return nil, problem.New(problem.Usage, "opening a Google Cloud Storage target: a chunk of %d bytes, want a multiple of %d", cfg.ChunkSize, granularity)
	}
	s := &Store{cfg: cfg, http: cfg.HTTP, base: cfg.Endpoint}
	s.cfg.Retry.Heard = s.heard.Load
	if s.base == "" {
		s.base = "https://storage.googleapis.com"
	}
	if s.http == nil {
		s.http = newClient()
	}
	if err := s.readCredentials(); err != nil {
		return nil, problem.Wrap(problem.Usage, err, "opening %q", cfg.location()).WithHint("%s", whereSecretsBelong)
	}
	return s, nil
}

// Properties implements [blob.Store]. Whether the bucket keeps versions is not
// known without asking; reading copes with both.
func (s *Store) Properties() blob.Properties {
	return blob.Properties{Location: s.cfg.location(), AtomicPut: true, Versioned: true}
}

// Put implements [blob.Store].
func (s *Store) Put(ctx context.Context, name string, r io.Reader) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	info, err := s.put(ctx, name, r, s.cfg.Retain)
	if err != nil {
		return blob.Info{}, s.fail(err, "storing %q in %q", name, s.cfg.location())
	}
	return info, nil
}

// Get implements [blob.Store].
func (s *Store) Get(ctx context.Context, name string) (io.ReadCloser, blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, blob.Info{}, err
	}
	v, info, err := s.oldest(ctx, name)
	if err == nil {
		var r io.ReadCloser
		if r, err = s.reader(ctx, name, v.Generation, info.Size); err == nil {
			return r, info, nil
		}
	}
	return nil, blob.Info{}, s.fail(err, "opening %q in %q", name, s.cfg.location())
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
		for v, err := range s.versions(ctx, s.cfg.Prefix+prefix, "") {
			if err == nil && len(group) > 0 && v.Name < group[0].Name {
				err = errors.New("the server's list is out of order")
			}
			if err != nil {
				yield(blob.Info{}, s.fail(err, "listing %q", s.cfg.location()))
				return
			}
			if len(group) > 0 && v.Name != group[0].Name && !emit() {
				return
			}
			group = append(group, v)
		}
		emit()
	}
}

// Delete implements [blob.Store]. All versions go, the oldest one last: until the
// end it is what the name yields.
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
	for i := len(group) - 1; i >= 0; i-- {
		if err := s.removeGeneration(ctx, name, group[i].Generation); err != nil && !isStatus(err, http.StatusNotFound) {
			return err
		}
	}
	return nil
}

func (s *Store) removeGeneration(ctx context.Context, name, generation string) error {
	query := url.Values{}
	if generation != "" {
		query.Set("generation", generation)
	}
	return s.call(ctx, request{method: http.MethodDelete, url: s.objectURL(name, query)}, nil)
}

// Clock implements [blob.Clocked] by the Date of any answer, also of a refusal.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	var date time.Time
	err := s.call(ctx, request{
		method: http.MethodGet, url: s.base + "/storage/v1/b/" + url.PathEscape(s.cfg.Bucket) + "?fields=name",
		header: func(h http.Header) { date, _ = http.ParseTime(h.Get("Date")) },
	}, nil)
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
	var api *apiError
	var lost *lostError
	if errors.As(err, &lost) && !s.heard.Load() {
		return problem.Wrap(problem.Unreachable, err, "%s", doing).WithHint("nothing has answered there: check the endpoint, the network and any proxy in between")
	}
	if errors.As(err, &lost) {
		return problem.Wrap(problem.Unreachable, err, "%s", doing).WithHint("it was tried for a while: check the network and the endpoint, then run it again")
	}
	if !errors.As(err, &api) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	p := problem.Wrap(problem.Unreachable, err, "%s", doing)
	switch {
	case api.Status == http.StatusUnauthorized:
		return p.WithHint("%s", whereSecretsBelong)
	case api.Status == http.StatusForbidden:
		return p.WithHint("see what this identity may do: n8keep target check '%s'", s.cfg.location())
	case api.Status == http.StatusNotFound:
		return p.WithHint("make the bucket first, or correct its name: gcloud storage buckets describe gs://%s", s.cfg.Bucket)
	case api.Status == http.StatusBadRequest && s.cfg.Retain > 0:
		return p.WithHint("retain needs a bucket with object retention: gcloud storage buckets create gs://BUCKET --enable-per-object-retention")
	}
	return p
}
