package s3blob

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/problem"
)

const (
	mib = 1 << 20

	// nonceKey is metadata by which a put recognises its own object.
	nonceKey = "n8keep-put"
)

// partSize is the size of the n-th part, counted from 1. Up to 86 GiB two parts
// take 64 MiB of memory at most, and up to 23 GiB 32 MiB; 10,000 of them hold
// 1.2 TiB.
func (s *Store) partSize(n int) int {
	switch {
	case s.cfg.PartSize != 0:
		return int(s.cfg.PartSize)
	case n <= 1000:
		return 8 * mib
	case n <= 2000:
		return 16 * mib
	case n <= 4000:
		return 32 * mib
	case n <= 6000:
		return 64 * mib
	}
	return 256 * mib
}

// Put implements [blob.Store].
func (s *Store) Put(ctx context.Context, name string, r io.Reader) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	u := &upload{store: s, name: name, key: s.cfg.Prefix + name, nonce: rand.Text()}
	info, err := u.run(ctx, r)
	if err != nil {
		return blob.Info{}, s.explain(ctx, fmt.Sprintf("storing %q in %q", name, s.cfg.location()), err)
	}
	s.forget(name)
	return info, nil
}

// upload is one put.
type upload struct {
	store *Store
	name  string
	key   string
	nonce string
}

func (u *upload) run(ctx context.Context, r io.Reader) (blob.Info, error) {
	if err := ctx.Err(); err != nil {
		return blob.Info{}, context.Cause(ctx)
	}
	source := newParts(ctx, r, u.store.partSize)
	defer source.close()
	p := source.next(ctx)
	if p.err != nil {
		return blob.Info{}, notService{p.err}
	}
	if p.last {
		return u.whole(ctx, p.data)
	}
	return u.multipart(ctx, source, p)
}

// retention is the lock of an object that is put now.
func (u *upload) retention() (types.ObjectLockMode, *time.Time) {
	cfg := u.store.cfg
	if cfg.Lock == "" {
		return "", nil
	}
	until := u.store.now().Add(cfg.Retain).UTC().Truncate(time.Second)
	if cfg.Lock == "governance" {
		return types.ObjectLockModeGovernance, &until
	}
	return types.ObjectLockModeCompliance, &until
}

func (u *upload) metadata() map[string]string { return map[string]string{nonceKey: u.nonce} }

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return aws.String(s)
}

// sums are the checksums that the service compares on arrival.
type sums struct{ crc32, sha256, md5 *string }

func (s *Store) sums(data []byte) sums {
	b64 := base64.StdEncoding.EncodeToString
	switch s.cfg.Checksum {
	case "sha256":
		h := sha256.Sum256(data)
		return sums{sha256: aws.String(b64(h[:]))}
	case "md5":
		h := md5.Sum(data)
		return sums{md5: aws.String(b64(h[:]))}
	case "none":
		return sums{}
	}
	return sums{crc32: aws.String(b64(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(data))))}
}

// algorithm is that of an upload in parts.
func (s *Store) algorithm() types.ChecksumAlgorithm {
	switch s.cfg.Checksum {
	case "sha256":
		return types.ChecksumAlgorithmSha256
	case "md5", "none":
		return ""
	}
	return types.ChecksumAlgorithmCrc32
}

// whole stores an object by one request.
func (u *upload) whole(ctx context.Context, data []byte) (blob.Info, error) {
	s := u.store
	sum := s.sums(data)
	var out *s3.PutObjectOutput
	err := u.commit(ctx, func() (err error) {
		mode, until := u.retention()
		out, err = s.client.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &s.cfg.Bucket, Key: &u.key, Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
			IfNoneMatch: aws.String("*"), Metadata: u.metadata(), ObjectLockMode: mode, ObjectLockRetainUntilDate: until,
			ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE), SSEKMSKeyId: optional(s.cfg.KMSKey),
			StorageClass: types.StorageClass(s.cfg.StorageClass), ContentType: aws.String("application/octet-stream"),
			ChecksumCRC32: sum.crc32, ChecksumSHA256: sum.sha256, ContentMD5: sum.md5,
		})
		return err
	})
	if err != nil {
		return blob.Info{}, err
	}
	info := blob.Info{Name: u.name, Size: int64(len(data)), ModTime: s.now()}
	if out != nil {
		info.ETag = etag(out.ETag)
	}
	return info, nil
}

// commit sends the request that makes the object visible, unless one exists.
// When an answer was lost and the next says that the name is taken, or that there is
// no such upload, it finds out by whom, and what became of the upload.
func (u *upload) commit(ctx context.Context, send func() error) error {
	var lost error // an earlier attempt's error after which the object may be there
	return u.store.retry.Do(ctx, func(attempt int) error {
		err := send()
		switch {
		case err == nil:
			return nil
		case lost != nil && precondition(err):
			return u.recognise(ctx, lost, nil)
		case lost != nil && code(err) == "NoSuchUpload":
			return u.recognise(ctx, lost, unknown(lost))
		case precondition(err):
			return blob.ErrExists
		case !transient(err):
			return err
		}
		if maybeStored(err) {
			lost = err
		}
		return u.store.again(attempt, err)
	})
}

// unknown is the answer when an upload is gone and nobody may tell where to: into
// the object, or away by a lifecycle rule or an operator.
func unknown(lost error) error {
	p := problem.New(problem.Unreachable, "the upload's last answer was lost, the service no longer knows the upload, and this identity may not look: it is not known whether the object is stored")
	p.Err = lost
	return p.WithHint("look for it with an identity that may read (a restorer's), and run the backup again")
}

// recognise returns nil when the object under our name is the one we put, and blind
// when this identity may not look.
func (u *upload) recognise(ctx context.Context, lost, blind error) error {
	s := u.store
	return s.retry.Do(ctx, func(attempt int) error {
		head, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.cfg.Bucket, Key: &u.key})
		switch {
		case err == nil && head.Metadata[nonceKey] == u.nonce:
			return nil
		case err == nil:
			return blob.ErrExists
		case refused(err):
			return blind
		case missing(err):
			// It was there a moment ago, so somebody hides it; or the upload was lost.
			return lost
		}
		return s.again(attempt, err)
	})
}

// multipart stores an object in parts, the first of which was read already.
func (u *upload) multipart(ctx context.Context, source *parts, p part) (info blob.Info, err error) {
	s := u.store
	var id string
	err = s.do(ctx, "beginning the upload", func(int) error {
		mode, until := u.retention()
		out, err := s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
			Bucket: &s.cfg.Bucket, Key: &u.key, Metadata: u.metadata(), ObjectLockMode: mode, ObjectLockRetainUntilDate: until,
			ServerSideEncryption: types.ServerSideEncryption(s.cfg.SSE), SSEKMSKeyId: optional(s.cfg.KMSKey),
			StorageClass: types.StorageClass(s.cfg.StorageClass), ContentType: aws.String("application/octet-stream"),
			ChecksumAlgorithm: s.algorithm(),
		})
		if err == nil {
			id = aws.ToString(out.UploadId)
		}
		return err
	})
	if err != nil {
		return info, err
	}
	defer func() {
		if err != nil {
			u.abort(ctx, id)
		}
	}()
	var done []types.CompletedPart
	for n := 1; ; n++ {
		if p.err != nil {
			return info, notService{p.err}
		}
		if n > 10000 {
			return info, notService{fmt.Errorf("the object is larger than %d GiB, the most that 10,000 parts hold: raise part_size", info.Size>>30)}
		}
		sent, err := u.part(ctx, id, int32(n), p.data)
		if err != nil {
			return info, err
		}
		done = append(done, sent)
		info.Size += int64(len(p.data))
		last := p.last
		source.release(p)
		if last {
			break
		}
		p = source.next(ctx)
	}
	var out *s3.CompleteMultipartUploadOutput
	err = u.commit(ctx, func() (err error) {
		out, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
			Bucket: &s.cfg.Bucket, Key: &u.key, UploadId: &id, IfNoneMatch: aws.String("*"),
			MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
		}, func(o *s3.Options) { o.HTTPClient = s.slow })
		return err
	})
	if err != nil {
		return info, err
	}
	info.Name, info.ModTime = u.name, s.now()
	if out != nil {
		info.ETag = etag(out.ETag)
	}
	return info, nil
}

func (u *upload) part(ctx context.Context, id string, n int32, data []byte) (types.CompletedPart, error) {
	s := u.store
	sum := s.sums(data)
	done := types.CompletedPart{PartNumber: &n}
	err := s.do(ctx, fmt.Sprintf("uploading part %d", n), func(int) error {
		out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &s.cfg.Bucket, Key: &u.key, UploadId: &id, PartNumber: &n,
			Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
			ChecksumCRC32: sum.crc32, ChecksumSHA256: sum.sha256, ContentMD5: sum.md5,
		})
		if err != nil {
			return err
		}
		done.ETag, done.ChecksumCRC32, done.ChecksumSHA256 = out.ETag, sum.crc32, sum.sha256
		return nil
	})
	return done, err
}

// abort gives the parts back. The upload failed already, perhaps because ctx
// ended, so it has a time of its own and its failure is only noted.
func (u *upload) abort(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	s := u.store
	err := s.do(ctx, "aborting the upload", func(int) error {
		_, err := s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.cfg.Bucket, Key: &u.key, UploadId: &id})
		if code(err) == "NoSuchUpload" {
			return nil
		}
		return err
	})
	if err != nil {
		s.cfg.Logger.Warn("an upload that failed could not be aborted; the bucket's lifecycle rule for abandoned uploads removes it", "name", u.name, "error", err)
	}
}

// etag is without the quotes of the protocol.
func etag(p *string) string {
	e := aws.ToString(p)
	if len(e) >= 2 && e[0] == '"' && e[len(e)-1] == '"' {
		return e[1 : len(e)-1]
	}
	return e
}

// parts reads a stream in parts, one ahead of the upload.
type parts struct {
	cancel context.CancelFunc
	filled chan part
	free   chan []byte
	ended  chan struct{}
}

type part struct {
	data []byte
	last bool
	err  error
}

func newParts(ctx context.Context, r io.Reader, size func(n int) int) *parts {
	ctx, cancel := context.WithCancel(ctx)
	p := &parts{cancel: cancel, filled: make(chan part), free: make(chan []byte, 2), ended: make(chan struct{})}
	p.free <- nil
	p.free <- nil
	go func() {
		defer close(p.ended)
		p.read(ctx, r, size)
	}()
	return p
}

// read delivers parts until the end or an error. Only the byte after a full part
// tells whether it is the last.
func (p *parts) read(ctx context.Context, r io.Reader, size func(n int) int) {
	var ahead []byte
	for n := 1; ; n++ {
		var buf []byte
		select {
		case buf = <-p.free:
		case <-ctx.Done():
			return
		}
		want := size(n)
		data, err := fill(ctx, r, append(buf[:0], ahead...), want+1)
		out := part{data: data, last: err == io.EOF && len(data) <= want}
		if err != nil && err != io.EOF {
			out = part{err: err}
		}
		ahead = nil
		if out.err == nil && len(data) > want {
			ahead = []byte{data[want]}
			out.data = data[:want]
		}
		select {
		case p.filled <- out:
		case <-ctx.Done():
			return
		}
		if out.last || out.err != nil {
			return
		}
	}
}

// fill reads until buf holds n bytes; it grows buf only as the content does, so
// that a small object takes little memory.
func fill(ctx context.Context, r io.Reader, buf []byte, n int) ([]byte, error) {
	for len(buf) < n {
		if ctx.Err() != nil {
			return buf, context.Cause(ctx)
		}
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(n, max(64<<10, 4*cap(buf))))
			copy(grown, buf)
			buf = grown
		}
		m, err := r.Read(buf[len(buf):min(n, cap(buf))])
		buf = buf[:len(buf)+m]
		if err != nil {
			return buf, err
		}
	}
	return buf, nil
}

func (p *parts) next(ctx context.Context) part {
	select {
	case out := <-p.filled:
		return out
	case <-ctx.Done():
		return part{err: context.Cause(ctx)}
	}
}

// release gives a part's memory back for the next reading.
func (p *parts) release(out part) { p.free <- out.data }

// close waits until the source is no longer read from.
func (p *parts) close() {
	p.cancel()
	<-p.ended
}
