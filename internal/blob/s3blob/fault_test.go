package s3blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/faultproxy"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/s3test"
)

// behind is a store whose connections pass a proxy.
func behind(t *testing.T, b *s3test.Bucket, i s3test.Identity, change ...func(*Config)) (*Store, *faultproxy.Proxy) {
	t.Helper()
	p := faultproxy.New(t, b.Server.Addr)
	hasty := func(c *Config) { c.PartSize, c.Retry.Attempts = 5<<20, 6 }
	return open(t, b.URL("n8n", "endpoint", p.URL()), i, append([]func(*Config){hasty}, change...)...), p
}

// stall is little patience with connections that stand still, where one will.
func stall(f faultproxy.Fault) func(*Config) {
	return func(c *Config) {
		if f.Kind == faultproxy.StallRequest || f.Kind == faultproxy.StallAnswer {
			c.Stall = 400 * time.Millisecond
		}
	}
}

func large(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// state is what the bucket holds: versions of all keys, and uploads going on.
func state(t *testing.T, b *s3test.Bucket) (versions, uploads int) {
	t.Helper()
	c := b.Server.Client(b.Server.Root)
	list, err := c.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &b.Name})
	if err != nil {
		t.Fatal(err)
	}
	multi, err := c.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: &b.Name})
	if err != nil {
		t.Fatal(err)
	}
	return len(list.Versions) + len(list.DeleteMarkers), len(multi.Uploads)
}

// TestPutSurvivesFaults: whatever happens to one request, the object is stored
// once, and as it was.
func TestPutSurvivesFaults(t *testing.T) {
	server := s3test.New(t)
	slow := faultproxy.S3Error("SlowDown")
	method := faultproxy.Method
	begin, complete := faultproxy.Query("POST", "uploads"), func(r *http.Request) bool {
		return r.Method == "POST" && r.URL.Query().Has("uploadId")
	}
	secondPart := func(r *http.Request) bool { return r.Method == "PUT" && r.URL.Query().Get("partNumber") == "2" }
	for _, tc := range []struct {
		name  string
		size  int
		fault faultproxy.Fault
	}{
		{"small, throttled", 1000, faultproxy.Fault{Times: 2, Status: 503, Body: slow}},
		{"small, too many requests", 1000, faultproxy.Fault{Status: 429}},
		{"small, error", 1000, faultproxy.Fault{Status: 500, Body: faultproxy.S3Error("InternalError")}},
		{"small, gateway's error", 1000, faultproxy.Fault{Status: 502, Body: "<html>bad gateway</html>"}},
		{"small, error after the work", 1000, faultproxy.Fault{Kind: faultproxy.AnswerAfter, Status: 500, Body: faultproxy.S3Error("InternalError")}},
		{"small, answer lost", 1000, faultproxy.Fault{Kind: faultproxy.LoseAnswer}},
		{"small, answer lost twice", 1000, faultproxy.Fault{Kind: faultproxy.LoseAnswer, Times: 2}},
		{"small, reset", 1000, faultproxy.Fault{Kind: faultproxy.Reset, Times: 2}},
		{"cut in mid-body", 3 << 20, faultproxy.Fault{Kind: faultproxy.CutRequest, After: 1 << 20}},
		{"stalled in mid-body", 3 << 20, faultproxy.Fault{Kind: faultproxy.StallRequest, After: 1 << 20}},
		{"conflict", 1000, faultproxy.Fault{Match: method("PUT"), Status: 409, Body: faultproxy.S3Error("ConditionalRequestConflict")}},
		{"parts, beginning fails", 11 << 20, faultproxy.Fault{Match: begin, Status: 503, Body: slow}},
		{"parts, one throttled", 11 << 20, faultproxy.Fault{Match: secondPart, Times: 3, Status: 503, Body: slow}},
		{"parts, one cut", 11 << 20, faultproxy.Fault{Match: secondPart, Kind: faultproxy.CutRequest, After: 3 << 20}},
		{"parts, one stalled", 11 << 20, faultproxy.Fault{Match: secondPart, Kind: faultproxy.StallRequest, After: 3 << 20}},
		{"parts, one's answer lost", 11 << 20, faultproxy.Fault{Match: secondPart, Kind: faultproxy.LoseAnswer}},
		{"parts, end fails", 11 << 20, faultproxy.Fault{Match: complete, Status: 500, Body: faultproxy.S3Error("InternalError")}},
		{"parts, error in an answer of 200", 11 << 20, faultproxy.Fault{Match: complete, Status: 200, Body: faultproxy.S3Error("InternalError")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for who, i := range map[string]s3test.Identity{"full": server.Root, "put only": server.Writer} {
				b := server.Bucket(t, s3test.Versioned)
				b.Allow(t, server.Writer, "s3:PutObject", "s3:AbortMultipartUpload")
				s, proxy := behind(t, b, i, stall(tc.fault))
				proxy.Inject(tc.fault)
				content := large(tc.size)
				info, err := s.Put(t.Context(), "a", bytes.NewReader(content))
				if err != nil || info.Size != int64(tc.size) {
					t.Fatalf("%s: Put: %+v, %v", who, info, err)
				}
				if proxy.Left() != 0 {
					t.Errorf("%s: the fault did not happen", who)
				}
				if versions, uploads := state(t, b); versions != 1 || uploads != 0 {
					t.Errorf("%s: %d versions and %d uploads, want one version", who, versions, uploads)
				}
				if got := blobtest.ReadAll(t, open(t, b.URL("n8n"), server.Root), "a"); !bytes.Equal(got, content) {
					t.Errorf("%s: the object differs", who)
				}
			}
		})
	}
}

// TestPutThatCannotSucceed: nothing is visible, and no upload is left.
func TestPutThatCannotSucceed(t *testing.T) {
	server := s3test.New(t)
	parts := faultproxy.Query("PUT", "partNumber")
	for _, tc := range []struct {
		name  string
		fault faultproxy.Fault
		text  string
		hint  string
	}{
		{"throttled for ever", faultproxy.Fault{Match: parts, Times: -1, Status: 503, Body: faultproxy.S3Error("SlowDown")}, "uploading part 1: SlowDown: injected (503)", ""},
		{"cut for ever", faultproxy.Fault{Match: parts, Times: -1, Kind: faultproxy.Reset}, "uploading part 1: ", "check the endpoint, the network and any proxy in between"},
		{"stalled for ever", faultproxy.Fault{Match: parts, Times: -1, Kind: faultproxy.StallRequest, After: 100}, "the connection stood still for 400ms", "check the endpoint"},
		{"refused", faultproxy.Fault{Match: parts, Times: -1, Status: 403, Body: faultproxy.S3Error("AccessDenied")}, "AccessDenied: injected (403)", `"n8keep target policy"`},
		{"no conditions", faultproxy.Fault{Match: faultproxy.Method("POST"), Times: -1, Status: 501, Body: faultproxy.S3Error("NotImplemented")}, "NotImplemented", "n8keep needs a service that knows If-None-Match"},
		{"another region", faultproxy.Fault{Match: faultproxy.Method("POST"), Times: -1, Status: 301, Body: faultproxy.S3Error("PermanentRedirect"), Header: http.Header{"X-Amz-Bucket-Region": {"eu-west-9"}}}, "PermanentRedirect", "add region=eu-west-9 to the URL"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := server.Bucket(t, s3test.Plain)
			s, proxy := behind(t, b, server.Root, stall(tc.fault))
			proxy.Inject(tc.fault)
			_, err := s.Put(t.Context(), "a", bytes.NewReader(large(11<<20)))
			wantError(t, err, tc.text, tc.hint)
			if problem.KindOf(err) != problem.Unreachable {
				t.Errorf("kind %s", problem.KindOf(err))
			}
			if strings.Contains(err.Error(), "X-Amz-Signature") || strings.Contains(err.Error(), "RequestID") {
				t.Errorf("the error tells too much: %v", err)
			}
			if versions, uploads := state(t, b); versions != 0 || uploads != 0 {
				t.Errorf("%d versions and %d uploads are left", versions, uploads)
			}
			proxy.Clear()
			put(t, s, "a", "second try")
		})
	}
}

func TestAbortWhenTheSourceFailsOrTheCallerGivesUp(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	s, _ := behind(t, b, server.Root)
	broken := errors.New("broken source")
	if _, err := s.Put(t.Context(), "a", io.MultiReader(bytes.NewReader(large(11<<20)), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("Put: %v, want the source's error", err)
	}
	if versions, uploads := state(t, b); versions+uploads != 0 {
		t.Errorf("a broken source leaves %d versions, %d uploads", versions, uploads)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("n8n wants the database")
	r := io.MultiReader(bytes.NewReader(large(11<<20)), readerFunc(func([]byte) (int, error) { cancel(gone); return 0, nil }))
	if _, err := s.Put(ctx, "a", r); !errors.Is(err, gone) {
		t.Errorf("Put: %v, want the reason of the end", err)
	}
	if versions, uploads := state(t, b); versions+uploads != 0 {
		t.Errorf("a cancelled put leaves %d versions, %d uploads", versions, uploads)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAbortThatFailsIsSaid(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	var log bytes.Buffer
	s, proxy := behind(t, b, server.Root, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	proxy.Inject(faultproxy.Fault{Match: faultproxy.Method("DELETE"), Times: -1, Status: 403, Body: faultproxy.S3Error("AccessDenied")})
	if _, err := s.Put(t.Context(), "a", io.MultiReader(bytes.NewReader(large(11<<20)), iotest.ErrReader(io.ErrClosedPipe))); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("Put: %v", err)
	}
	if !strings.Contains(log.String(), "lifecycle rule for abandoned uploads removes it") {
		t.Errorf("log: %s", log.String())
	}
}

// TestTakenNameAfterALostAnswer: only who may look can tell whose object it is.
func TestTakenNameAfterALostAnswer(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Versioned)
	b.Allow(t, server.Writer, "s3:PutObject", "s3:AbortMultipartUpload")
	put(t, open(t, b.URL("n8n"), server.Root), "a", "somebody else's")
	for who, i := range map[string]s3test.Identity{"full": server.Root, "put only": server.Writer} {
		s, proxy := behind(t, b, i)
		proxy.Inject(faultproxy.Fault{Match: faultproxy.Method("PUT"), Status: 500, Body: faultproxy.S3Error("InternalError")})
		_, err := s.Put(t.Context(), "a", strings.NewReader("ours"))
		if who == "full" && !errors.Is(err, blob.ErrExists) || who == "put only" && err != nil {
			t.Errorf("%s: %v", who, err)
		}
		// Throttled means not stored, so whoever has the name, it is not us.
		proxy.Inject(faultproxy.Fault{Match: faultproxy.Method("PUT"), Status: 503, Body: faultproxy.S3Error("SlowDown")})
		if _, err := s.Put(t.Context(), "a", strings.NewReader("ours")); !errors.Is(err, blob.ErrExists) {
			t.Errorf("%s, throttled: %v, want ErrExists", who, err)
		}
	}
	if versions, _ := state(t, b); versions != 1 {
		t.Errorf("%d versions", versions)
	}
}

// TestUploadThatIsGoneAfterALostAnswer: completed or aborted, only who may look can
// tell, and nobody else takes it for stored.
func TestUploadThatIsGoneAfterALostAnswer(t *testing.T) {
	server := s3test.New(t)
	complete := func(r *http.Request) bool { return r.Method == "POST" && r.URL.Query().Has("uploadId") }
	for name, fault := range map[string]faultproxy.Fault{
		"completed": {Match: complete, Kind: faultproxy.LoseAnswer},
		"aborted":   {Match: complete, Status: 500, Body: faultproxy.S3Error("InternalError")},
	} {
		for who, i := range map[string]s3test.Identity{"full": server.Root, "put only": server.Writer} {
			t.Run(name+", "+who, func(t *testing.T) {
				b := server.Bucket(t, s3test.Versioned)
				b.Allow(t, server.Writer, "s3:PutObject", "s3:AbortMultipartUpload")
				s, proxy := behind(t, b, i)
				if name == "aborted" {
					fault.Match = func(r *http.Request) bool {
						if !complete(r) {
							return false
						}
						id := r.URL.Query().Get("uploadId")
						if _, err := server.Client(server.Root).AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: &b.Name, Key: aws.String("n8n/a"), UploadId: &id}); err != nil {
							t.Errorf("aborting: %v", err)
						}
						return true
					}
				}
				proxy.Inject(fault, faultproxy.Fault{Match: complete, Status: 404, Body: faultproxy.S3Error("NoSuchUpload")})
				content := large(11 << 20)
				_, err := s.Put(t.Context(), "a", bytes.NewReader(content))
				if proxy.Left() != 0 {
					t.Error("the faults did not happen")
				}
				switch versions, _ := state(t, b); {
				case (versions == 1) != (name == "completed"):
					t.Errorf("%d versions", versions)
				case who == "put only":
					wantError(t, err, "the upload's last answer was lost, the service no longer knows the upload, and this identity may not look: it is not known whether the object is stored",
						"look for it with an identity that may read (a restorer's), and run the backup again")
					if problem.KindOf(err) != problem.Unreachable {
						t.Errorf("kind %s", problem.KindOf(err))
					}
				case name == "aborted":
					wantError(t, err, "InternalError", "")
				case err != nil:
					t.Errorf("Put: %v", err)
				case !bytes.Equal(blobtest.ReadAll(t, open(t, b.URL("n8n"), server.Root), "a"), content):
					t.Error("the object differs")
				}
			})
		}
	}
}

func TestReadingSurvivesFaults(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Versioned)
	content := large(5 << 20)
	if _, err := open(t, b.URL("n8n"), server.Root).Put(t.Context(), "a", bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	object := func(r *http.Request) bool { return r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/n8n/a") }
	for name, fault := range map[string]faultproxy.Fault{
		"throttled":           {Times: 2, Status: 503, Body: faultproxy.S3Error("SlowDown")},
		"reset":               {Match: object, Kind: faultproxy.Reset},
		"cut in mid-body":     {Match: object, Kind: faultproxy.CutAnswer, After: 1 << 20},
		"cut again and again": {Match: object, Kind: faultproxy.CutAnswer, After: 700_000, Times: 7},
		"stalled in mid-body": {Match: object, Kind: faultproxy.StallAnswer, After: 1 << 20},
		"list's answer cut":   {Match: faultproxy.Query("GET", "versions"), Kind: faultproxy.CutAnswer, After: 100},
		"list's answer lost":  {Match: faultproxy.Query("GET", "versions"), Kind: faultproxy.LoseAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			s, proxy := behind(t, b, server.Root, stall(fault))
			proxy.Inject(fault)
			if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, content) {
				t.Errorf("read %d bytes that differ", len(got))
			}
			if got := blobtest.Names(t, s, ""); !slices.Equal(got, []string{"a"}) {
				t.Errorf("listed %q", got)
			}
			if proxy.Left() != 0 {
				t.Error("the fault did not happen")
			}
		})
	}
	s, proxy := behind(t, b, server.Root)
	r, _, err := s.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	// The connection of now is let go on; what replaces it is not.
	proxy.Inject(faultproxy.Fault{Match: object, Kind: faultproxy.Reset, Times: -1})
	r.(*reader).body.Close()
	if n, err := io.Copy(io.Discard, r); err == nil || n >= int64(len(content)) {
		t.Errorf("reading without a connection: %d bytes, %v", n, err)
	} else if !strings.Contains(err.Error(), `reading "a" from "s3://`) || problem.KindOf(err) != problem.Unreachable {
		t.Errorf("reading without a connection: %v", err)
	}
}

func TestObjectThatIsExchangedWhileItIsRead(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	s, proxy := behind(t, b, server.Root)
	put(t, s, "a", strings.Repeat("first", 100_000))
	proxy.Inject(faultproxy.Fault{Match: func(r *http.Request) bool { return r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/a") }, Kind: faultproxy.CutAnswer, After: 100_000, Times: -1})
	r, _, err := s.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := server.Client(server.Root).PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.Name, Key: aws.String("n8n/a"), Body: strings.NewReader(strings.Repeat("other", 100_000))}); err != nil {
		t.Fatal(err)
	}
	proxy.Clear()
	got, err := io.ReadAll(r)
	if err == nil || strings.Contains(string(got), "other") {
		t.Errorf("read %d bytes of two contents, %v", len(got), err)
	}
}

// TestClockSkew: the second attempt has the service's time, in its signature and
// in the retention it asks for.
func TestClockSkew(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Locked)
	proxy := faultproxy.New(t, server.Addr)
	s := open(t, locked(b, "endpoint", proxy.URL()), server.Root)
	const ahead = 100 * 24 * time.Hour
	proxy.Inject(
		faultproxy.Fault{Status: 403, Body: faultproxy.S3Error("RequestTimeTooSkewed"), Shift: ahead},
		faultproxy.Fault{Status: 200, Header: http.Header{"Etag": {`"x"`}}, Shift: ahead},
		faultproxy.Fault{Status: 404, Shift: -ahead},
	)
	if _, err := s.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	all := proxy.Requests()
	if len(all) != 2 {
		t.Fatalf("%d requests", len(all))
	}
	signed, err := time.Parse("20060102T150405Z", all[1].Header.Get("X-Amz-Date"))
	if off := time.Until(signed) - ahead; err != nil || off.Abs() > time.Minute {
		t.Errorf("the second attempt is signed at %v, %v", signed, err)
	}
	until, err := time.Parse(time.RFC3339, all[1].Header.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if off := time.Until(until) - ahead - time.Hour; err != nil || off.Abs() > time.Minute {
		t.Errorf("the second attempt is locked until %v, %v", until, err)
	}
	at, err := s.Clock(t.Context())
	if off := time.Until(at) + ahead; err != nil || off.Abs() > time.Minute {
		t.Errorf("clock %v, %v", at, err)
	}
}

func TestClock(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	for who, i := range map[string]s3test.Identity{"root": server.Root, "who may do nothing": server.Nobody} {
		at, err := open(t, b.URL(""), i).Clock(t.Context())
		if err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("%s: %v, %v", who, at, err)
		}
	}
}

func TestPartsHoldATerabyteInBoundedMemory(t *testing.T) {
	s := &Store{}
	var total, upTo32 int64
	for n := 1; n <= 10000; n++ {
		size := int64(s.partSize(n))
		if total += size; 2*size <= 32<<20 {
			upTo32 = total
		}
	}
	if total < 1e12 || upTo32 < 20<<30 {
		t.Errorf("10,000 parts hold %d bytes, %d of them with 32 MiB of memory", total, upTo32)
	}
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	s = open(t, b.URL(""), server.Root)
	const size = 96 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := s.Put(t.Context(), "a", io.LimitReader(rand.NewChaCha8([32]byte{}), size)); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 48<<20 {
		t.Errorf("a put of %d bytes allocates %d", size, got)
	}
}

func TestPartSizeIsFixedOnRequest(t *testing.T) {
	server := s3test.New(t)
	b := server.Bucket(t, s3test.Plain)
	proxy := faultproxy.New(t, server.Addr)
	s := open(t, b.URL("", "endpoint", proxy.URL(), "part_size", "5MiB"), server.Root)
	if _, err := s.Put(t.Context(), "a", bytes.NewReader(large(15<<20))); err != nil {
		t.Fatal(err)
	}
	parts := 0
	for _, r := range proxy.Requests() {
		if strings.Contains(r.Query, "partNumber") {
			parts++
			if r.Header.Get("Content-Length") != "" && r.Header.Get("Content-Length") != "5242880" {
				t.Errorf("a part of %s bytes", r.Header.Get("Content-Length"))
			}
		}
	}
	if parts != 3 {
		t.Errorf("%d parts, want 3", parts)
	}
}
