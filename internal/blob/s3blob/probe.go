package s3blob

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/n8keep/n8keep/internal/blob"
)

const canaryText = "n8keep tried out here what this identity may do. This object may be deleted.\n"

// Probe implements [blob.Prober]. Deleting, hiding and shortening are tried on
// objects of its own alone, one without and, if the store locks, one with a lock
// of a few minutes, which then stays at least that long. An identity that may not
// put is tried on names that do not exist, and reads the first byte of an object
// that does.
func (s *Store) Probe(ctx context.Context, name string) ([]blob.Trial, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	p := &probe{Store: s, ctx: ctx, answers: map[blob.Capability]blob.Trial{}, left: map[string]time.Time{}}
	err := p.run(name)
	// Also when ctx ended in between.
	cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	p.ctx = cleaning
	p.clean()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		doing := fmt.Sprintf("trying out %q", s.cfg.location())
		if left := p.leftovers(); left != "" {
			doing += " (" + left + ")"
		}
		return nil, s.explain(ctx, doing, err)
	}
	var trials []blob.Trial
	for _, c := range blob.Capabilities() {
		t, ok := p.answers[c]
		if !ok {
			t = blob.Trial{Answer: blob.Unknown, Detail: "could not be tried"}
		}
		t.Capability = c
		if c == blob.CanDelete {
			t.Detail = joinDetail(t.Detail, p.leftovers())
		}
		trials = append(trials, t)
	}
	return trials, nil
}

type probe struct {
	*Store
	ctx      context.Context
	answers  map[blob.Capability]blob.Trial
	versions bool                 // the bucket keeps versions
	made     []canary             // what clean has to remove
	doubtful []string             // keys of failed puts that may have been stored all the same
	left     map[string]time.Time // canaries that stay, and until when; zero for good
	perhaps  []string             // keys of canaries that perhaps stay
}

// canary is one version, or delete marker, that the probe made.
type canary struct {
	key, version string
	until        time.Time
}

func (p *probe) hint(c blob.Capability, hint string) {
	t := p.answers[c]
	t.Hint = hint
	p.answers[c] = t
}

func (p *probe) note(c blob.Capability, a blob.Answer, detail string) {
	// What was shown once is not taken back by a trial that failed.
	if old, ok := p.answers[c]; ok && old.Answer == blob.Yes && a != blob.Yes {
		return
	}
	p.answers[c] = blob.Trial{Answer: a, Detail: detail}
}

// judge notes the outcome of a trial: yes, no, or what came in between.
func (p *probe) judge(c blob.Capability, err error, detail string) bool {
	switch {
	case err == nil:
		p.note(c, blob.Yes, detail)
		return true
	case denied(err):
		p.note(c, blob.No, "")
	default:
		p.note(c, blob.Unknown, p.brief(err))
	}
	return false
}

// denied is refused, and what services answer instead when a lock is in the way.
func denied(err error) bool {
	switch code(err) {
	case "InvalidRequest", "InvalidArgument", "ObjectLockedError", "MalformedXML":
		return true
	}
	return refused(err)
}

func joinDetail(a, b string) string {
	if a != "" && b != "" {
		return a + "; " + b
	}
	return a + b
}

func (p *probe) run(name string) error {
	key := p.cfg.Prefix + name
	version, err := p.put(key, true, time.Time{})
	switch {
	case err == nil:
		p.note(blob.CanPut, blob.Yes, "")
		p.overwriting(key, version)
		p.reading(key, version)
		p.deleting(key, version)
	case precondition(err):
		return fmt.Errorf("the name %q is taken", name)
	case refused(err) && p.cfg.Lock == "":
		p.without(key)
	case !refused(err):
		return err // wrong keys, no bucket, no network: nothing can be tried
	}
	if p.cfg.Lock != "" {
		p.locking(key+"-locked", err == nil)
	} else {
		p.shortening(key, err == nil)
	}
	p.list()
	return nil
}

// put stores a canary, under lock if until is set.
func (p *probe) put(key string, isNew bool, until time.Time) (version string, err error) {
	in := &s3.PutObjectInput{Bucket: &p.cfg.Bucket, Key: &key, ContentLength: aws.Int64(int64(len(canaryText))),
		ServerSideEncryption: types.ServerSideEncryption(p.cfg.SSE), SSEKMSKeyId: optional(p.cfg.KMSKey)}
	if isNew {
		in.IfNoneMatch = aws.String("*")
	}
	if !until.IsZero() {
		in.ObjectLockRetainUntilDate, in.ObjectLockMode = &until, p.mode()
	}
	sum := p.sums([]byte(canaryText))
	in.ChecksumCRC32, in.ChecksumSHA256, in.ContentMD5 = sum.crc32, sum.sha256, sum.md5
	err = p.request(p.ctx, func() error {
		in.Body = strings.NewReader(canaryText)
		out, err := p.client.PutObject(p.ctx, in)
		if err == nil {
			version = aws.ToString(out.VersionId)
		}
		return err
	})
	switch {
	case err == nil:
		p.made = append(p.made, canary{key, version, until})
		p.versions = p.versions || version != "" && version != nullVersion
	case maybeStored(err) && p.heard.Load() != 0, !until.IsZero() && !refused(err) && !precondition(err):
		// Some services store the object, and then find that they cannot lock it.
		p.doubtful = append(p.doubtful, key)
	}
	return version, err
}

func (p *probe) mode() types.ObjectLockMode {
	if p.cfg.Lock == "governance" {
		return types.ObjectLockModeGovernance
	}
	return types.ObjectLockModeCompliance
}

// overwriting puts a second canary on the first.
func (p *probe) overwriting(key, first string) {
	second, err := p.put(key, false, time.Time{})
	switch {
	case err == nil && p.versions && second != first:
		p.note(blob.CanOverwrite, blob.No, "the bucket keeps what was put first")
		p.note(blob.CanHide, blob.Yes, "a newer version can be put over an object")
	case err == nil:
		p.note(blob.CanOverwrite, blob.Yes, "the bucket has no versions")
		hint := "turn versions on for the bucket: no policy keeps who may put from overwriting without them"
		if p.cfg.Lock != "" {
			hint = "turn versions and object lock on for the bucket: no policy keeps who may put from overwriting without them"
		}
		p.hint(blob.CanOverwrite, hint)
	case precondition(err):
		p.note(blob.CanOverwrite, blob.No, "")
	default:
		p.judge(blob.CanOverwrite, err, "")
	}
}

func (p *probe) reading(key, version string) {
	err := p.get(key, version)
	if denied(err) && version != "" {
		err = p.get(key, "")
	}
	p.judge(blob.CanGet, err, "")
}

func (p *probe) get(key, version string) error {
	return p.request(p.ctx, func() error {
		out, err := p.client.GetObject(p.ctx, &s3.GetObjectInput{Bucket: &p.cfg.Bucket, Key: &key, VersionId: optional(version), Range: aws.String("bytes=0-0")})
		if err != nil {
			return err
		}
		defer out.Body.Close()
		_, err = io.Copy(io.Discard, out.Body)
		return err
	})
}

// remove deletes a version, or hides the object when it has no version.
func (p *probe) remove(key, version string, bypass bool) (marker string, err error) {
	in := &s3.DeleteObjectInput{Bucket: &p.cfg.Bucket, Key: &key, VersionId: optional(version)}
	if bypass {
		in.BypassGovernanceRetention = aws.Bool(true)
	}
	err = p.request(p.ctx, func() error {
		out, err := p.client.DeleteObject(p.ctx, in)
		if err == nil && aws.ToBool(out.DeleteMarker) {
			marker = aws.ToString(out.VersionId)
		}
		return err
	})
	return marker, err
}

func (p *probe) forgetCanary(key, version string) {
	p.made = slices.DeleteFunc(p.made, func(c canary) bool { return c.key == key && c.version == version })
}

func (p *probe) deleting(key, version string) {
	marker, err := p.remove(key, "", false)
	if !p.versions {
		if p.judge(blob.CanDelete, err, "") {
			p.forgetCanary(key, "")
		}
		p.note(blob.CanHide, blob.NotApplicable, "the bucket has no versions")
		return
	}
	if p.judge(blob.CanHide, err, "a delete marker can be put over an object") {
		p.made = append(p.made, canary{key: key, version: marker})
	}
	_, err = p.remove(key, version, false)
	detail := ""
	if p.cfg.Lock != "" {
		detail = "an object without lock"
	}
	if p.judge(blob.CanDelete, err, detail) {
		p.forgetCanary(key, version)
	}
}

// lockTime is the lock of a canary, and what the trial tries to shorten it to.
const (
	lockTime  = 10 * time.Minute
	shortTime = 2 * time.Minute
)

// locking tries to undo a lock.
func (p *probe) locking(key string, putWithout bool) {
	until := p.now().Add(lockTime).UTC().Truncate(time.Second)
	version, err := p.put(key, true, until)
	if refused(err) {
		// A bucket may demand the whole retention.
		until = p.now().Add(p.cfg.Retain).UTC().Truncate(time.Second)
		version, err = p.put(key, true, until)
	}
	if err != nil {
		if !putWithout {
			p.without(strings.TrimSuffix(key, "-locked"))
		}
		p.unlockable(err, putWithout)
		if refused(err) {
			p.shortening(key, false)
		} else {
			p.note(blob.CanShortenRetain, blob.Unknown, "nothing could be put under lock")
		}
		return
	}
	if !putWithout {
		p.note(blob.CanPut, blob.Yes, "under lock only")
		p.overwriting(key, version)
		p.reading(key, version)
		if p.versions {
			if marker, err := p.remove(key, "", false); p.judge(blob.CanHide, err, "a delete marker can be put over an object") {
				p.made = append(p.made, canary{key: key, version: marker})
			}
		}
	}
	short := p.now().Add(shortTime).UTC().Truncate(time.Second)
	err = p.shorten(key, version, short, false)
	detail := "without any special permission"
	if denied(err) {
		err, detail = p.shorten(key, version, short, true), "by bypassing governance"
	}
	if p.judge(blob.CanShortenRetain, err, detail) {
		p.extendCanary(key, version, short)
	}
	_, err = p.remove(key, version, false)
	detail = "even under lock"
	if denied(err) {
		_, err = p.remove(key, version, true)
		detail = "even under lock, by bypassing governance"
	}
	if err == nil {
		p.forgetCanary(key, version)
		p.note(blob.CanDelete, blob.Yes, detail)
	} else if a := p.answers[blob.CanDelete]; a.Answer == blob.Yes {
		p.note(blob.CanDelete, blob.Yes, "not under lock, but afterwards")
	} else {
		p.judge(blob.CanDelete, err, "")
	}
}

// unlockable notes that a put under lock failed. A backup to this target puts
// nothing else, so that this identity may put without lock is worth nothing.
func (p *probe) unlockable(err error, putWithout bool) {
	t := blob.Trial{Answer: blob.No}
	if !refused(err) || putWithout {
		t.Detail = "under lock it fails: " + p.brief(err)
	}
	if p.withoutLock(err) {
		t.Hint = "the bucket has no object lock: turn versions and object lock on for it, or leave lock and retain out of the URL"
	}
	p.answers[blob.CanPut] = t
}

// withoutLock says that a put failed because the bucket locks nothing.
func (p *probe) withoutLock(err error) bool {
	switch code(err) {
	case "InvalidBucketObjectLockConfiguration", "ObjectLockConfigurationNotFoundError":
		return true
	}
	return strings.Contains(p.brief(err), "ObjectLockConfiguration") || strings.Contains(p.brief(err), "Object Lock Configuration")
}

func (p *probe) extendCanary(key, version string, until time.Time) {
	for i, c := range p.made {
		if c.key == key && c.version == version {
			p.made[i].until = until
		}
	}
}

func (p *probe) shorten(key, version string, until time.Time, bypass bool) error {
	in := &s3.PutObjectRetentionInput{Bucket: &p.cfg.Bucket, Key: &key, VersionId: optional(version),
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionMode(p.mode()), RetainUntilDate: &until}, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32}
	if bypass {
		in.BypassGovernanceRetention = aws.Bool(true)
	}
	return p.request(p.ctx, func() error {
		_, err := p.client.PutObjectRetention(p.ctx, in)
		return err
	})
}

// shortening says what can be said of retention without an object under lock.
func (p *probe) shortening(key string, mayPut bool) {
	if p.cfg.Lock == "" {
		detail := "the URL asks for no lock"
		if !mayPut {
			detail = "the URL asks for no lock, and this identity puts nothing"
		}
		p.note(blob.CanShortenRetain, blob.NotApplicable, detail)
		return
	}
	err := p.shorten(key, "", p.now().Add(shortTime).UTC(), false)
	switch {
	case err != nil && refused(err):
		p.note(blob.CanShortenRetain, blob.No, "")
	case p.cfg.Lock == "compliance":
		p.note(blob.CanShortenRetain, blob.No, "nobody can, under compliance")
	default:
		p.note(blob.CanShortenRetain, blob.Unknown, "may change retentions; there was no object to try it on")
	}
}

// without tries what an identity that may not put can do, on a name that does not
// exist.
func (p *probe) without(key string) {
	p.note(blob.CanPut, blob.No, "")
	p.note(blob.CanOverwrite, blob.No, "")
	absent := "tried on a name that does not exist"
	any := key
	for o, err := range p.scan(p.ctx, p.cfg.Prefix) {
		if err == nil && !o.gone {
			any = p.cfg.Prefix + o.info.Name
			if err := p.get(any, o.version); p.judge(blob.CanGet, err, "") || denied(err) {
				any = ""
			}
		}
		break
	}
	if any == key {
		err := p.get(key, "")
		if missing(err) {
			err = nil
		}
		p.judge(blob.CanGet, err, absent)
	}
	marker, err := p.remove(key, "", false)
	if err == nil && marker != "" {
		p.versions = true
		p.made = append(p.made, canary{key: key, version: marker})
	}
	if p.cfg.Lock == "" && (err == nil && marker == "" || missing(err)) {
		p.note(blob.CanDelete, blob.Yes, absent)
		p.note(blob.CanHide, blob.NotApplicable, "the bucket has no versions")
		return
	}
	p.judge(blob.CanHide, err, "a delete marker can be put over an object")
	version := marker
	if version == "" {
		version = nullVersion
	}
	_, err = p.remove(key, version, false)
	if err == nil {
		p.forgetCanary(key, version)
	}
	if missing(err) || code(err) == "InvalidVersionId" {
		err = nil
	}
	p.judge(blob.CanDelete, err, absent)
}

func (p *probe) list() {
	err := p.request(p.ctx, func() error {
		_, err := p.client.ListObjectVersions(p.ctx, &s3.ListObjectVersionsInput{Bucket: &p.cfg.Bucket, Prefix: optional(p.cfg.Prefix), MaxKeys: aws.Int32(1)})
		return err
	})
	detail := ""
	if err != nil {
		first := err
		err = p.request(p.ctx, func() error {
			_, err := p.client.ListObjectsV2(p.ctx, &s3.ListObjectsV2Input{Bucket: &p.cfg.Bucket, Prefix: optional(p.cfg.Prefix), MaxKeys: aws.Int32(1)})
			return err
		})
		detail = "without versions: forged and hidden objects are not told from real ones"
		if !refused(first) {
			detail = "the service lists no versions"
		}
	}
	p.judge(blob.CanList, err, detail)
}

// clean removes the canaries, newest first.
func (p *probe) clean() {
	for _, c := range slices.Backward(p.made) {
		if _, err := p.remove(c.key, c.version, false); err != nil && !missing(err) {
			p.left[c.key] = maxTime(p.left[c.key], c.until)
		}
	}
	for _, key := range p.doubtful {
		if _, sure := p.left[key]; !sure && !p.removeDoubtful(key) {
			p.perhaps = append(p.perhaps, key)
		}
	}
}

// removeDoubtful removes what a put may have stored that was not answered with a
// version, and reports whether nothing of it is left for certain. A name that it
// finds and cannot remove is in left.
func (p *probe) removeDoubtful(key string) bool {
	var found []string
	err := p.request(p.ctx, func() error {
		found = nil
		out, err := p.client.ListObjectVersions(p.ctx, &s3.ListObjectVersionsInput{Bucket: &p.cfg.Bucket, Prefix: &key})
		if err != nil {
			return err
		}
		for _, v := range out.Versions {
			if aws.ToString(v.Key) == key {
				found = append(found, aws.ToString(v.VersionId))
			}
		}
		for _, v := range out.DeleteMarkers {
			if aws.ToString(v.Key) == key {
				found = append(found, aws.ToString(v.VersionId))
			}
		}
		return nil
	})
	if err != nil {
		if p.versions {
			return false // a plain deletion would only hide it
		}
		marker, err := p.remove(key, "", false)
		if marker == "" {
			return err == nil || missing(err)
		}
		// The bucket keeps versions after all.
		if _, err := p.remove(key, marker, false); err != nil {
			p.left[key] = time.Time{}
		}
		return false
	}
	for _, version := range found {
		if _, err := p.remove(key, version, false); err != nil && !missing(err) {
			p.left[key] = time.Time{}
		}
	}
	return true
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// leftovers says what the probe could not remove.
func (p *probe) leftovers() string {
	text := ""
	if len(p.left) > 0 {
		text = "left behind: " + p.names(slices.Collect(maps.Keys(p.left)))
		var until time.Time
		for _, t := range p.left {
			until = maxTime(until, t)
		}
		if until.IsZero() {
			text += ", until somebody deletes it"
		} else {
			text += ", locked until " + until.Format(time.RFC3339)
		}
	}
	if len(p.perhaps) > 0 {
		text = joinDetail(text, "perhaps left behind, though the put failed: "+p.names(p.perhaps))
	}
	return text
}

// names are the canaries' names in the store.
func (p *probe) names(keys []string) string {
	var names []string
	for _, key := range keys {
		names = append(names, fmt.Sprintf("%q", strings.TrimPrefix(key, p.cfg.Prefix)))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " and ")
}
