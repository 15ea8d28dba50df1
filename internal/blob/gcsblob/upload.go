package gcsblob

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/remote"
)

// All chunks but the last are multiples of this many bytes.
const granularity = 256 << 10

// tokenKey is the metadata by which an upload recognises its own object.
const tokenKey = "n8keep-upload"

// upload is a resumable upload session.
type upload struct {
	s       *Store
	name    string
	session string // its URL, a secret: who has it can write
	token   string
	sum     uint32 // CRC-32C of everything handed to send so far
	offset  int64  // bytes that the server confirmed
	unheard bool   // the last chunk was sent, and no answer heard
}

func (s *Store) put(ctx context.Context, name string, r io.Reader, retain time.Duration) (blob.Info, error) {
	u := &upload{s: s, name: name, token: rand.Text()}
	if err := u.start(ctx, retain); err != nil {
		return blob.Info{}, err
	}
	v, err := u.sendAll(ctx, r)
	if err != nil {
		u.cancel(ctx)
		return blob.Info{}, err
	}
	if err := u.check(v); err != nil {
		s.discard(ctx, name, v)
		return blob.Info{}, err
	}
	return s.info(v), nil
}

// start opens the session. A start that is tried again may leave an empty session
// behind, which Google forgets after a week.
func (u *upload) start(ctx context.Context, retain time.Duration) error {
	meta := map[string]any{
		"name": u.s.cfg.Prefix + u.name, "contentType": "application/octet-stream",
		"metadata": map[string]string{tokenKey: u.token},
	}
	if u.s.cfg.StorageClass != "" {
		meta["storageClass"] = u.s.cfg.StorageClass
	}
	if retain > 0 {
		// By the server's clock: with ours a wrong clock would shorten the lock.
		now, err := u.s.Clock(ctx)
		if err != nil {
			return err
		}
		mode := "Locked"
		if u.s.cfg.Lock == "governance" {
			mode = "Unlocked"
		}
		meta["retention"] = map[string]string{"mode": mode, "retainUntilTime": now.Add(retain).UTC().Format(time.RFC3339)}
	}
	body, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	query := url.Values{"uploadType": {"resumable"}, "name": {u.s.cfg.Prefix + u.name}, "ifGenerationMatch": {"0"}}
	if u.s.cfg.KMSKey != "" {
		query.Set("kmsKeyName", u.s.cfg.KMSKey)
	}
	location := ""
	err = u.s.call(ctx, request{
		method: http.MethodPost, url: u.s.base + "/upload/storage/v1/b/" + url.PathEscape(u.s.cfg.Bucket) + "/o?" + query.Encode(),
		body: body, kind: "application/json", set: map[string]string{"X-Upload-Content-Type": "application/octet-stream"},
		header: func(h http.Header) { location = h.Get("Location") },
	}, nil)
	if isStatus(err, http.StatusPreconditionFailed) {
		return blob.ErrExists
	}
	if err != nil {
		return err
	}
	u.session, err = u.s.sessionURL(location)
	return err
}

// sessionURL refuses to send the archive and our token to another host than the one that was asked.
func (s *Store) sessionURL(location string) (string, error) {
	base, err := url.Parse(s.base)
	if err != nil {
		return "", errors.New("the endpoint is not a URL")
	}
	l, err := base.Parse(location)
	if err != nil || location == "" {
		return "", errors.New("the server opens an upload without saying where to")
	}
	if l.Scheme != base.Scheme || l.Hostname() != base.Hostname() {
		return "", fmt.Errorf("the server wants the upload to go to another host, %q", l.Host)
	}
	return l.String(), nil
}

func (u *upload) sendAll(ctx context.Context, r io.Reader) (version, error) {
	chunks := remote.NewChunks(ctx, r, u.s.cfg.ChunkSize)
	defer chunks.Close()
	for {
		c := chunks.Next(ctx)
		if c.Err != nil {
			return version{}, c.Err
		}
		v, err := u.send(ctx, c.Data, c.Last)
		if err != nil || c.Last {
			return v, err
		}
		chunks.Free(c)
	}
}

// send delivers one chunk, whatever happens to the connection meanwhile; the
// version is that of the complete object if it was the last chunk.
func (u *upload) send(ctx context.Context, data []byte, last bool) (version, error) {
	u.sum = crc32.Update(u.sum, castagnoli(), data)
	begin, end := u.offset, u.offset+int64(len(data))
	var done version
	err := u.s.cfg.Retry.Do(ctx, func(attempt int) error {
		for round := 0; ; round++ {
			var a answer
			var err error
			if attempt > 0 && round == 0 {
				a, err = u.ask(ctx, end, last)
			} else {
				a, err = u.request(ctx, data[u.offset-begin:], u.offset, end, last)
				u.unheard = u.unheard || last && remote.IsAgain(err)
			}
			switch {
			case err != nil:
				return err
			case a.complete && !last:
				return errors.New("the server ended the upload early")
			case a.complete:
				done = a.version
				return nil
			case a.received < u.offset || a.received > end:
				return fmt.Errorf("the server has %d bytes, %d were sent and %d confirmed", a.received, end, u.offset)
			case a.received == end && !last:
				u.offset = end
				return nil
			case a.received == u.offset && round > 0:
				return remote.Again(&apiError{Status: http.StatusPermanentRedirect, Message: "it takes none of the bytes"}, 0)
			}
			u.offset = a.received
		}
	})
	if errors.Is(err, errPrecondition) || isStatus(err, http.StatusNotFound) || isStatus(err, http.StatusGone) {
		return u.settle(ctx, err)
	}
	return done, err
}

var errPrecondition = errors.New("an object of this name appeared meanwhile")

// settle finds out what a session that ended means: another writer was faster, or
// we were and did not hear of it.
func (u *upload) settle(ctx context.Context, cause error) (version, error) {
	if u.unheard {
		v, err := u.s.live(ctx, u.name)
		if err == nil && v.Metadata[tokenKey] == u.token {
			return v, nil
		}
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return version{}, fmt.Errorf("%w, and the answer to the last request was lost: it may have been stored", cause)
		}
	}
	if errors.Is(cause, errPrecondition) {
		return version{}, blob.ErrExists
	}
	return version{}, fmt.Errorf("the server forgot the upload: %w", cause)
}

// answer is what the server says of an upload.
type answer struct {
	complete bool
	version  version // if complete
	received int64   // bytes, if not
}

func (u *upload) request(ctx context.Context, data []byte, from, end int64, last bool) (answer, error) {
	total := "*"
	if last {
		total = strconv.FormatInt(end, 10)
	}
	span := fmt.Sprintf("bytes %d-%d/%s", from, end-1, total)
	if from == end {
		span = "bytes */" + total
	}
	return u.do(ctx, data, span, chunkTimeout)
}

// ask asks how far the upload got.
func (u *upload) ask(ctx context.Context, end int64, last bool) (answer, error) {
	total := "*"
	if last {
		total = strconv.FormatInt(end, 10)
	}
	return u.do(ctx, nil, "bytes */"+total, callTimeout)
}

func (u *upload) do(ctx context.Context, data []byte, span string, limit time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if data == nil {
		data = []byte{}
	}
	resp, err := u.s.send(ctx, request{method: http.MethodPut, url: u.session, body: data, set: map[string]string{"Content-Range": span}})
	if err != nil {
		return answer{}, err
	}
	defer drain(resp)
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated:
		a := answer{complete: true}
		return a, decode(resp, &a.version)
	case http.StatusPermanentRedirect:
		received, err := received(resp.Header.Get("Range"))
		return answer{received: received}, err
	case http.StatusPreconditionFailed:
		return answer{}, errPrecondition
	}
	return answer{}, refused(resp)
}

// received reads "bytes=0-N"; no header means nothing.
func received(header string) (int64, error) {
	if header == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.TrimPrefix(header, "bytes=0-"), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("the server confirms %.40q, want bytes=0-N", header)
	}
	return n + 1, nil
}

// check compares what the server says it has with what was sent.
func (u *upload) check(v version) error {
	if v.Crc32c == "" {
		return errors.New("the server does not say the checksum of what it stored")
	}
	want := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, u.sum))
	if v.Crc32c != want {
		return errors.New("what the server stored has another checksum than what was sent")
	}
	return nil
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// cancel ends the session, also when ctx has ended.
func (u *upload) cancel(ctx context.Context) {
	if u.session == "" {
		return
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer stop()
	// Google answers 499. Whatever the answer, nothing is left to do.
	_ = u.s.call(ctx, request{method: http.MethodDelete, url: u.session}, nil)
}

// discard removes an object that arrived damaged, as far as this identity may.
func (s *Store) discard(ctx context.Context, name string, v version) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer stop()
	_ = s.removeGeneration(ctx, name, v.Generation)
}
