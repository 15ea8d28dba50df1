package s3blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
)

// nullVersion is the version id of objects that were put while the bucket had no
// versions.
const nullVersion = "null"

// object is what a name stands for: the version of a key that was stored first, and
// what lies over it.
type object struct {
	info    blob.Info
	version string   // "" for the only one
	over    []string // newer versions, newest first, and delete markers
	gone    bool     // no version is left, only delete markers
}

// remembered is the most objects that List keeps for Get.
const remembered = 100_000

func (s *Store) remember(o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.objects) < remembered {
		s.objects[o.info.Name] = o
	}
}

func (s *Store) forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
}

func (s *Store) recall(name string) (object, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[name]
	return o, ok
}

// plainList says whether the bucket is read without versions.
func (s *Store) plainList() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plain != ""
}

// withoutVersions decides what to do when versions cannot be listed: go on with
// what the bucket shows, or not.
func (s *Store) withoutVersions(err error) error {
	why := ""
	switch {
	case refused(err):
		why = "this identity may not list versions (s3:ListBucketVersions)"
	case code(err) == "NotImplemented" || status(err) == http.StatusNotImplemented || status(err) == http.StatusMethodNotAllowed:
		why = "the service has no versions"
	default:
		return err
	}
	if s.cfg.Lock != "" {
		p := problem.New(problem.Unreachable, "%s, without which a forged or hidden object under lock cannot be told from the real one", why)
		p.Err = err
		return p.WithHint(`"n8keep target policy --role restorer" prints what reading needs; without lock in the URL the bucket is read as it looks now`)
	}
	s.mu.Lock()
	known := s.plain != ""
	s.plain = why
	s.mu.Unlock()
	if !known {
		s.cfg.Logger.Warn("older versions of objects are not seen", "target", s.cfg.location(), "reason", why)
	}
	return nil
}

// scan yields the objects whose keys begin with prefix, in the order of keys.
// Those of which only delete markers are left come with gone set.
func (s *Store) scan(ctx context.Context, prefix string) iter.Seq2[object, error] {
	return func(yield func(object, error) bool) {
		if !s.plainList() {
			more, err := s.scanVersions(ctx, prefix, yield)
			if !more {
				return
			}
			if err = s.withoutVersions(err); err != nil {
				yield(object{}, err)
				return
			}
		}
		s.scanPlain(ctx, prefix, yield)
	}
}

// layer is one version or delete marker of a key.
type layer struct {
	key, id string
	at      time.Time
	marker  bool
	size    int64
	etag    string
}

// scanVersions returns true when nothing was yielded yet and the first request
// failed with the error it returns.
func (s *Store) scanVersions(ctx context.Context, prefix string, yield func(object, error) bool) (failed bool, err error) {
	in := &s3.ListObjectVersionsInput{Bucket: &s.cfg.Bucket, Prefix: optional(prefix)}
	var pending []layer // all of one key, which the next page may go on with
	flush := func() bool {
		if len(pending) == 0 {
			return true
		}
		o := s.pile(pending)
		pending = pending[:0]
		return yield(o, nil)
	}
	for page := 0; ; page++ {
		var out *s3.ListObjectVersionsOutput
		err := s.request(ctx, func() (err error) {
			out, err = s.client.ListObjectVersions(ctx, in)
			return err
		})
		if err != nil {
			if page == 0 && (refused(err) || code(err) == "NotImplemented" || status(err) == http.StatusNotImplemented || status(err) == http.StatusMethodNotAllowed) {
				return true, err
			}
			yield(object{}, err)
			return false, nil
		}
		for _, l := range layers(out) {
			if len(pending) > 0 && pending[0].key != l.key && !flush() {
				return false, nil
			}
			pending = append(pending, l)
		}
		if !aws.ToBool(out.IsTruncated) {
			flush()
			return false, nil
		}
		if aws.ToString(out.NextKeyMarker) == "" {
			yield(object{}, errors.New("the list of versions is cut without saying where it goes on"))
			return false, nil
		}
		in.KeyMarker, in.VersionIdMarker = out.NextKeyMarker, out.NextVersionIdMarker
	}
}

// layers are the versions and markers of a page by key, and of one key the versions
// before the markers, each newest first. How markers lie between versions is lost
// in the client.
func layers(out *s3.ListObjectVersionsOutput) []layer {
	var all []layer
	for _, v := range out.Versions {
		all = append(all, layer{key: aws.ToString(v.Key), id: aws.ToString(v.VersionId), at: aws.ToTime(v.LastModified), size: aws.ToInt64(v.Size), etag: etag(v.ETag)})
	}
	for _, m := range out.DeleteMarkers {
		all = append(all, layer{key: aws.ToString(m.Key), id: aws.ToString(m.VersionId), at: aws.ToTime(m.LastModified), marker: true})
	}
	slices.SortStableFunc(all, func(a, b layer) int { return strings.Compare(a.key, b.key) })
	return all
}

// pile makes an object of all that one key has. The original is the version that is
// listed last: a service lists those of one key newest first, in the order in which
// it stored them. Times tell less, since that of an upload in parts is when it was
// begun: one that was begun before ours and completed years later bears the earlier
// time. Only for markers do times decide, because their place in the order is
// unknown. A service that orders its list by times offers nothing better.
func (s *Store) pile(all []layer) object {
	all = once(all)
	first := -1
	for i, l := range all {
		if !l.marker {
			first = i
		}
	}
	name := strings.TrimPrefix(all[0].key, s.cfg.Prefix)
	o := object{info: blob.Info{Name: name}, gone: first < 0}
	var c changes
	for i, l := range all {
		if i == first {
			continue
		}
		o.over = append(o.over, l.id)
		if first >= 0 {
			c.add(l, all[first].at)
		}
	}
	if first < 0 {
		return o
	}
	f := all[first]
	o.info.Size, o.info.ModTime, o.info.ETag, o.version = f.size, f.at, f.etag, f.id
	if f.id == nullVersion && len(o.over) == 0 {
		o.version = ""
	}
	o.info.Altered = c.String()
	return o
}

// once drops what is listed a second time: some services repeat the version without
// an id on every page.
func once(all []layer) []layer {
	seen := make(map[string]bool, len(all))
	return slices.DeleteFunc(all, func(l layer) bool {
		again := seen[l.id]
		seen[l.id] = l.id != ""
		return again
	})
}

// changes is what was done to an object after it was put.
type changes struct {
	versions, markers int
	since             time.Time // the first that bears a time after the object's
	earlier           time.Time // the earliest of a version that bears one before it
}

func (c *changes) add(l layer, put time.Time) {
	early := l.at.Before(put)
	switch {
	case l.marker && early:
		return // from before the object was put, it hides nothing
	case l.marker:
		c.markers++
	default:
		c.versions++
	}
	t := &c.since
	if early {
		t = &c.earlier
	}
	if t.IsZero() || l.at.Before(*t) {
		*t = l.at
	}
}

// String is for [blob.Info.Altered].
func (c *changes) String() string {
	if c.versions+c.markers == 0 {
		return ""
	}
	var what []string
	for _, w := range []struct {
		n    int
		noun string
	}{{c.versions, "overwritten"}, {c.markers, "deleted"}} {
		switch {
		case w.n == 1:
			what = append(what, w.noun)
		case w.n > 1:
			what = append(what, fmt.Sprintf("%s %d times", w.noun, w.n))
		}
	}
	text := strings.Join(what, " and ")
	if !c.since.IsZero() {
		text += " since " + c.since.UTC().Format(time.RFC3339)
	}
	text += "; the version that was put first is read"
	if !c.earlier.IsZero() {
		text += ", though a later one bears an earlier time, " + c.earlier.UTC().Format(time.RFC3339) + ", as one does whose upload was begun before"
	}
	return text
}

func (s *Store) scanPlain(ctx context.Context, prefix string, yield func(object, error) bool) {
	in := &s3.ListObjectsV2Input{Bucket: &s.cfg.Bucket, Prefix: optional(prefix)}
	for {
		var out *s3.ListObjectsV2Output
		err := s.request(ctx, func() (err error) {
			out, err = s.client.ListObjectsV2(ctx, in)
			return err
		})
		if err != nil {
			yield(object{}, err)
			return
		}
		for _, c := range out.Contents {
			name := strings.TrimPrefix(aws.ToString(c.Key), s.cfg.Prefix)
			if !yield(object{info: blob.Info{Name: name, Size: aws.ToInt64(c.Size), ModTime: aws.ToTime(c.LastModified), ETag: etag(c.ETag)}}, nil) {
				return
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return
		}
		if aws.ToString(out.NextContinuationToken) == "" {
			yield(object{}, errors.New("the list is cut without saying where it goes on"))
			return
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}

// find asks for one object and all that lies over it.
func (s *Store) find(ctx context.Context, name string) (object, error) {
	key := s.cfg.Prefix + name
	if s.plainList() {
		return s.findPlain(ctx, name)
	}
	for o, err := range s.scan(ctx, key) {
		if err != nil {
			return object{}, err
		}
		if o.info.Name == name {
			if o.gone {
				return o, blob.ErrNotFound
			}
			return o, nil
		}
		break // keys come in order, and no longer one precedes it
	}
	return object{}, blob.ErrNotFound
}

func (s *Store) findPlain(ctx context.Context, name string) (object, error) {
	var out *s3.HeadObjectOutput
	err := s.request(ctx, func() (err error) {
		out, err = s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.cfg.Bucket, Key: aws.String(s.cfg.Prefix + name)})
		return err
	})
	if missing(err) {
		return object{}, blob.ErrNotFound
	}
	if err != nil {
		return object{}, err
	}
	return object{info: blob.Info{Name: name, Size: aws.ToInt64(out.ContentLength), ModTime: aws.ToTime(out.LastModified), ETag: etag(out.ETag), LockedUntil: lockedUntil(out)}}, nil
}

// forever is the end of a legal hold, which has none.
var forever = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)

func lockedUntil(out *s3.HeadObjectOutput) time.Time {
	if out.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn {
		return forever
	}
	return aws.ToTime(out.ObjectLockRetainUntilDate)
}

// lock asks until when a version is locked; zero when it is not, or when this
// identity may not ask.
func (s *Store) lock(ctx context.Context, name, version string) (time.Time, error) {
	key := aws.String(s.cfg.Prefix + name)
	var until time.Time
	err := s.request(ctx, func() error {
		out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.cfg.Bucket, Key: key, VersionId: optional(version)})
		if err == nil {
			until = lockedUntil(out)
		}
		return err
	})
	if missing(err) {
		return time.Time{}, blob.ErrNotFound
	}
	if err != nil && !refused(err) {
		return time.Time{}, err
	}
	if until.IsZero() && version != "" && version != nullVersion {
		// Some services tell of the lock of a hidden version only when asked for it alone.
		if until, err = s.askLock(ctx, key, &version); err != nil {
			return time.Time{}, err
		}
	}
	if until.After(s.now()) {
		return until, nil
	}
	return time.Time{}, nil
}

// askLock asks for retention and legal hold. Every answer but these two says that
// there is none, or that it is not for this identity.
func (s *Store) askLock(ctx context.Context, key, version *string) (time.Time, error) {
	var until time.Time
	err := s.request(ctx, func() error {
		hold, err := s.client.GetObjectLegalHold(ctx, &s3.GetObjectLegalHoldInput{Bucket: &s.cfg.Bucket, Key: key, VersionId: version})
		if err == nil && hold.LegalHold != nil && hold.LegalHold.Status == types.ObjectLockLegalHoldStatusOn {
			until = forever
		}
		return err
	})
	if until.IsZero() && (err == nil || status(err) != 0) {
		err = s.request(ctx, func() error {
			out, err := s.client.GetObjectRetention(ctx, &s3.GetObjectRetentionInput{Bucket: &s.cfg.Bucket, Key: key, VersionId: version})
			if err == nil && out.Retention != nil {
				until = aws.ToTime(out.Retention.RetainUntilDate)
			}
			return err
		})
	}
	if err != nil && status(err) == 0 {
		return until, err
	}
	return until, nil
}

// Stat implements [blob.Store].
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	o, err := s.find(ctx, name)
	if err == nil && o.info.LockedUntil.IsZero() && !s.plainList() {
		o.info.LockedUntil, err = s.lock(ctx, name, o.version)
	}
	if err != nil {
		return blob.Info{}, s.explain(ctx, fmt.Sprintf("looking for %q in %q", name, s.cfg.location()), err)
	}
	return o.info, nil
}

// List implements [blob.Store].
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		for o, err := range s.scan(ctx, s.cfg.Prefix+prefix) {
			if err != nil {
				yield(blob.Info{}, s.explain(ctx, fmt.Sprintf("listing %q", s.cfg.location()), err))
				return
			}
			if o.gone || blob.CheckName(o.info.Name) != nil {
				continue
			}
			s.remember(o)
			if !yield(o.info, nil) {
				return
			}
		}
	}
}

// Get implements [blob.Store].
func (s *Store) Get(ctx context.Context, name string) (io.ReadCloser, blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, blob.Info{}, err
	}
	r, err := s.get(ctx, name)
	if err != nil {
		return nil, blob.Info{}, s.explain(ctx, fmt.Sprintf("opening %q in %q", name, s.cfg.location()), err)
	}
	return r, r.object.info, nil
}

func (s *Store) get(ctx context.Context, name string) (*reader, error) {
	o, known := s.recall(name)
	for {
		if !known {
			var err error
			if o, err = s.find(ctx, name); err != nil {
				return nil, err
			}
		}
		r := &reader{ctx: ctx, store: s, object: o}
		err := r.open()
		if err == nil {
			return r, nil
		}
		if !known || !missing(err) && !precondition(err) {
			if missing(err) {
				return nil, blob.ErrNotFound
			}
			return nil, err
		}
		s.forget(name)
		known = false
	}
}

// reader yields exactly the object's size, over as many connections as it takes.
type reader struct {
	ctx    context.Context
	store  *Store
	object object
	body   io.ReadCloser
	at     int64
}

// open asks for the rest of the object.
func (r *reader) open() error {
	return r.store.request(r.ctx, r.ask)
}

func (r *reader) ask() error {
	s, info := r.store, r.object.info
	in := &s3.GetObjectInput{Bucket: &s.cfg.Bucket, Key: aws.String(s.cfg.Prefix + info.Name), VersionId: optional(r.object.version)}
	if r.at > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", r.at))
	}
	if info.ETag != "" {
		in.IfMatch = aws.String(`"` + info.ETag + `"`)
	}
	out, err := s.client.GetObject(r.ctx, in)
	if err != nil {
		return err
	}
	if got := aws.ToInt64(out.ContentLength); got != info.Size-r.at {
		out.Body.Close()
		return fmt.Errorf("the service announces %d bytes where %d are left of %d", got, info.Size-r.at, info.Size)
	}
	r.body = out.Body
	return nil
}

// Read implements io.Reader. A connection that is lost is replaced as long as
// each yields something, or as often as a request is tried.
func (r *reader) Read(p []byte) (int, error) {
	left := r.object.info.Size - r.at
	if left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	p = p[:min(int64(len(p)), left)]
	var n int
	err := r.store.retry.Do(r.ctx, func(attempt int) error {
		if r.body == nil {
			if err := r.ask(); err != nil {
				return r.store.again(attempt, err)
			}
		}
		var err error
		n, err = r.body.Read(p)
		r.at += int64(n)
		if n > 0 || err == nil {
			return nil // an error comes again with the next reading
		}
		r.body.Close()
		r.body = nil
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		r.store.cfg.Logger.Debug("reading was interrupted, going on", "name", r.object.info.Name, "at", r.at, "error", r.store.brief(err))
		return remote.Again(err, 0)
	})
	if err != nil {
		return n, r.store.explain(r.ctx, fmt.Sprintf("reading %q from %q", r.object.info.Name, r.store.cfg.location()), err)
	}
	return n, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.body == nil {
		return nil
	}
	body := r.body
	r.body = nil
	return body.Close()
}

// Delete implements [blob.Store]: of what one name has, everything. What lies over
// the object goes first, so that a deletion which is interrupted leaves
// the object, and a version that somebody forged never takes its place.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	s.forget(name)
	err := s.remove(ctx, name)
	return s.explain(ctx, fmt.Sprintf("deleting %q from %q", name, s.cfg.location()), err)
}

func (s *Store) remove(ctx context.Context, name string) error {
	o, err := s.find(ctx, name)
	if err != nil {
		return err
	}
	until, err := s.lock(ctx, name, o.version)
	if err != nil {
		return err
	}
	if !until.IsZero() {
		return lockedError(until)
	}
	for _, version := range append(slices.Clone(o.over), o.version) {
		err := s.request(ctx, func() error {
			_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.cfg.Bucket, Key: aws.String(s.cfg.Prefix + name), VersionId: optional(version)})
			return err
		})
		if refused(err) {
			if until, lockErr := s.lock(ctx, name, version); lockErr == nil && !until.IsZero() {
				return lockedError(until)
			}
		}
		if err != nil && !missing(err) {
			return err
		}
	}
	return nil
}

func lockedError(until time.Time) error {
	if until.Equal(forever) {
		return fmt.Errorf("%w by a legal hold", blob.ErrLocked)
	}
	return fmt.Errorf("%w until %s", blob.ErrLocked, until.UTC().Format(time.RFC3339))
}
