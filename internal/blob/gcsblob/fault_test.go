package gcsblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/problem"
)

// content is what is sent: two chunks of 512 KiB and a third that is no multiple of anything.
func content() []byte {
	b := make([]byte, 1<<20+100_001)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

func small(g *cloudtest.GCS) Config {
	cfg := config(g)
	cfg.ChunkSize = 512 << 10
	return cfg
}

// TestFaultsOfTheConnection breaks each request of an upload in each way that passes;
// the object is there afterwards, once and whole, and no session is left.
func TestFaultsOfTheConnection(t *testing.T) {
	unavailable := http.Header{"Retry-After": {"1"}}
	faults := map[string]cloudtest.Fault{
		"503":                   {Status: 503, Body: "<html>busy</html>", Header: unavailable},
		"500":                   {Status: 500},
		"429":                   {Status: 429, Body: `{"error":{"code":429,"message":"slow down"}}`},
		"408":                   {Status: 408},
		"reset at once":         {CutRequest: -1},
		"reset in the body":     {CutRequest: 300_000},
		"answer lost":           {CutResponse: -1},
		"answer cut":            {CutResponse: 10},
		"reset early in a body": {CutRequest: 1000},
	}
	for name, fault := range faults {
		for request := 1; request <= 4; request++ {
			t.Run(fmt.Sprintf("%s of request %d", name, request), func(t *testing.T) {
				g := cloudtest.NewGCS(t, false)
				g.Rule = cloudtest.Once("/upload/", request, fault)
				s := open(t, small(g))
				info, err := s.Put(t.Context(), "a", bytes.NewReader(content()))
				if err != nil {
					t.Fatal(err)
				}
				if info.Size != int64(len(content())) {
					t.Errorf("Put says %+v", info)
				}
				if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, content()) {
					t.Errorf("%d bytes stored, %d sent", len(got), len(content()))
				}
				// A start whose answer was lost leaves a session that nobody knows.
				if n := g.Sessions(); n > 0 && (request != 1 || fault.CutResponse == 0) {
					t.Errorf("%d uploads left", n)
				}
			})
		}
	}
}

// Every chunk fails several times in a row, and still all arrives.
func TestManyFaults(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	r := rand.New(rand.NewPCG(1, 2))
	g.Rule = func(n int, req *http.Request) *cloudtest.Fault {
		if !strings.Contains(req.URL.Path, "/upload/") {
			return nil
		}
		switch r.IntN(5) {
		case 0:
			return &cloudtest.Fault{Status: 503}
		case 1:
			return &cloudtest.Fault{CutRequest: 1 + r.Int64N(500_000)}
		case 2:
			return &cloudtest.Fault{CutResponse: -1}
		}
		return nil
	}
	s := open(t, small(g))
	s.cfg.Retry.Attempts = 50
	for i := range 5 {
		name := fmt.Sprint("a", i)
		if _, err := s.Put(t.Context(), name, bytes.NewReader(content())); err != nil {
			t.Fatal(err)
		}
		if got := blobtest.ReadAll(t, s, name); !bytes.Equal(got, content()) {
			t.Errorf("%d bytes stored, %d sent", len(got), len(content()))
		}
	}
}

// A download goes on where it was.
func TestDownloadIsResumed(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	s := open(t, small(g))
	if _, err := s.Put(t.Context(), "a", bytes.NewReader(content())); err != nil {
		t.Fatal(err)
	}
	media := 0
	g.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if r.URL.Query().Get("alt") != "media" {
			return nil
		}
		switch media++; media {
		case 1:
			return &cloudtest.Fault{CutResponse: 400_000}
		case 2:
			return &cloudtest.Fault{Status: 503}
		case 3:
			if got := r.Header.Get("Range"); got != "bytes=400000-" {
				t.Errorf("went on at %q", got)
			}
			return &cloudtest.Fault{CutResponse: 1}
		}
		return nil
	}
	if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, content()) || media != 4 {
		t.Errorf("%d bytes read in %d requests", len(got), media)
	}
	g.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if r.URL.Query().Get("alt") == "media" {
			return &cloudtest.Fault{CutResponse: -1}
		}
		return nil
	}
	_, _, err := s.Get(t.Context(), "a")
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), `opening "a" in "gcs://`) {
		t.Errorf("with a server that always resets: %v", err)
	}
}

// A server that stays away: nothing is visible, the error says so, and holds no
// upload URL.
func TestServerThatStaysAway(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	g.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if r.Method == http.MethodPut {
			return &cloudtest.Fault{CutRequest: 1000}
		}
		return nil
	}
	s := open(t, small(g))
	_, err := s.Put(t.Context(), "a", bytes.NewReader(content()))
	if problem.KindOf(err) != problem.Unreachable || problem.HintOf(err) == "" || strings.Contains(err.Error(), "upload_id") {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
	g.Follow(nil)
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
	if g.Sessions() != 0 {
		t.Error("the upload was not cancelled")
	}
}

// A session that the server forgot cannot be resumed; what is stored is told apart
// from what is not.
func TestForgottenSession(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	s := open(t, small(g))
	g.Rule = func(n int, r *http.Request) *cloudtest.Fault {
		if strings.HasPrefix(r.Header.Get("Content-Range"), "bytes 524288-") {
			g.ForgetSessions()
		}
		return nil
	}
	_, err := s.Put(t.Context(), "a", bytes.NewReader(content()))
	if err == nil || !strings.Contains(err.Error(), "the server forgot the upload: the server answers 404: Not Found") {
		t.Errorf("in the middle: %v", err)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
	// Now the answer to the last chunk is lost, and the session with it.
	seen := 0
	g.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if strings.HasSuffix(r.Header.Get("Content-Range"), fmt.Sprint("/", len(content()))) {
			if seen++; seen == 1 {
				return &cloudtest.Fault{CutResponse: -1}
			}
			g.ForgetSessions()
		}
		return nil
	}
	info, err := s.Put(t.Context(), "b", bytes.NewReader(content()))
	if err != nil || info.Size != int64(len(content())) {
		t.Errorf("after the end: %+v, %v", info, err)
	}
	// The same to a writer who cannot look.
	g.May = func(p string) bool { return p == "storage.objects.create" }
	seen = 0
	_, err = s.Put(t.Context(), "c", bytes.NewReader(content()))
	if err == nil || !strings.Contains(err.Error(), "the answer to the last request was lost: it may have been stored") {
		t.Errorf("without the right to look: %v", err)
	}
}

// An object of the name that appears during the upload is not replaced.
func TestObjectAppearsMeanwhile(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	s := open(t, small(g))
	other := open(t, small(g))
	fired := false
	_, err := s.Put(t.Context(), "a", readFunc(func(p []byte) (int, error) {
		if fired {
			return 0, io.EOF
		}
		fired = true
		_, err := other.Put(t.Context(), "a", strings.NewReader("first"))
		return copy(p, "second"), err
	}))
	if !errors.Is(err, blob.ErrExists) {
		t.Errorf("Put: %v", err)
	}
	if got := blobtest.ReadAll(t, s, "a"); string(got) != "first" {
		t.Errorf("holds %q", got)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// An existing object is refused before anything is read.
func TestExistingObjectIsNotReadFor(t *testing.T) {
	s := open(t, config(cloudtest.NewGCS(t, false)))
	if _, err := s.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Put(t.Context(), "a", readFunc(func([]byte) (int, error) {
		t.Error("it was read")
		return 0, io.EOF
	}))
	if !errors.Is(err, blob.ErrExists) {
		t.Error(err)
	}
}

// Storing needs the permission to create, with a lock one more, and nothing else.
// The permissions that requests need are the front's, from Google's documentation.
func TestPutNeedsCreateOnly(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	g.May = func(p string) bool { return p == "storage.objects.create" || p == "storage.objects.setRetention" }
	cfg := small(g)
	for _, want := range [][]string{{"create"}, {"create", "setRetention"}} {
		s := open(t, cfg)
		if _, err := s.Put(t.Context(), fmt.Sprint("a", len(want)), bytes.NewReader(content())); err != nil {
			t.Fatal(err)
		}
		if got := g.Used(); !slices.Equal(got, want) {
			t.Errorf("used %q, want %q", got, want)
		}
		cfg.Retain, cfg.Lock = time.Hour, "compliance"
	}
}

// The lock goes along with the upload and counts from the server's time.
func TestRetention(t *testing.T) {
	for lock, mode := range map[string]string{"governance": "Unlocked", "compliance": "Locked"} {
		t.Run(lock, func(t *testing.T) {
			g := cloudtest.NewGCS(t, false)
			cfg := config(g)
			cfg.Retain, cfg.Lock = 48*time.Hour, lock
			s := open(t, cfg)
			// The server lives two years later than we do.
			later := time.Now().Add(2 * 365 * 24 * time.Hour).UTC().Truncate(time.Second)
			g.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
				if r.URL.Query().Get("fields") == "name" {
					return &cloudtest.Fault{Skew: later.Format(http.TimeFormat)}
				}
				return nil
			}
			if _, err := s.Put(t.Context(), "a", strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
			v, info, err := s.oldest(t.Context(), "a")
			if err != nil || v.Retention == nil || v.Retention.Mode != mode || !info.LockedUntil.Equal(later.Add(cfg.Retain)) {
				t.Errorf("%+v, %+v, %v", v.Retention, info, err)
			}
			err = s.Delete(t.Context(), "a")
			if problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "subject to object retention") {
				t.Errorf("Delete: %v", err)
			}
		})
	}
}

// Whoever overwrites or deletes where versions are kept only hides the object.
func TestTampering(t *testing.T) {
	g := cloudtest.NewGCS(t, true)
	s := open(t, config(g))
	for _, name := range []string{"deleted", "overwritten", "both", "untouched"} {
		if _, err := s.Put(t.Context(), name, strings.NewReader("truth")); err != nil {
			t.Fatal(err)
		}
	}
	forge := func(name string) {
		p := &probe{s: s, name: name, generation: "1", trials: map[blob.Capability]blob.Trial{}}
		p.overwrite(t.Context())
		if a := p.trials[blob.CanHide].Answer; a == blob.No {
			t.Fatalf("forging %q: %+v", name, p.trials)
		}
	}
	forge("overwritten")
	forge("both")
	for _, name := range []string{"deleted", "both"} {
		if err := s.removeGeneration(t.Context(), name, ""); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"deleted": "deleted on", "overwritten": "overwritten on", "both": "and deleted; this is what was put first", "untouched": ""}
	seen := 0
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		seen++
		if w := want[info.Name]; (w == "") != (info.Altered == "") || !strings.Contains(info.Altered, w) {
			t.Errorf("%q: %q, want %q", info.Name, info.Altered, w)
		}
		if got := blobtest.ReadAll(t, s, info.Name); string(got) != "truth" {
			t.Errorf("%q holds %q", info.Name, got)
		}
	}
	if seen != len(want) {
		t.Errorf("%d objects", seen)
	}
	for name := range want {
		if err := s.Delete(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if names := blobtest.Names(t, s, ""); len(names) != 0 {
		t.Errorf("left: %q", names)
	}
}

func TestListIsPaged(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	s := open(t, config(g))
	for i := range 25 {
		if _, err := s.Put(t.Context(), fmt.Sprintf("a%02d", i), strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	pages := 0
	g.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if strings.HasSuffix(r.URL.Path, "/o") {
			q := r.URL.Query()
			q.Set("maxResults", "10")
			r.URL.RawQuery = q.Encode()
			pages++
		}
		return nil
	}
	if names := blobtest.Names(t, s, ""); len(names) != 25 || pages != 3 || !slices.IsSorted(names) {
		t.Errorf("%d names in %d pages", len(names), pages)
	}
}

// Folders beside the prefix and below it are other people's.
func TestPrefix(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	cfg := config(g)
	for _, prefix := range []string{"", "backups/", "backups/n8n/", "backups/n8n/deeper/", "backups/n8nother/"} {
		cfg.Prefix = prefix
		if _, err := open(t, cfg).Put(t.Context(), "a"+fmt.Sprint(len(prefix)), strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Prefix = "backups/n8n/"
	if names := blobtest.Names(t, open(t, cfg), ""); !slices.Equal(names, []string{"a12"}) {
		t.Errorf("%q", names)
	}
}

func TestClock(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	s := open(t, config(g))
	want := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	g.Rule = func(int, *http.Request) *cloudtest.Fault {
		return &cloudtest.Fault{Status: 403, Header: http.Header{"Date": {want.Format(http.TimeFormat)}}}
	}
	if got, err := s.Clock(t.Context()); err != nil || !got.Equal(want) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	cfg := config(cloudtest.NewGCS(t, false))
	cfg.ChunkSize = 1 << 20
	s := open(t, cfg)
	const size = 16 << 20
	ahead := &counter{r: io.LimitReader(rand.NewChaCha8([32]byte{}), size)}
	sent := 0
	s.http = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPut {
			sent += int(r.ContentLength)
			if d := ahead.n.Load() - int64(sent); d > 2<<20+2 {
				t.Errorf("%d bytes read and not sent", d)
			}
		}
		return http.DefaultTransport.RoundTrip(r)
	}), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if _, err := s.Put(t.Context(), "a", ahead); err != nil || sent != size {
		t.Errorf("%d bytes sent, %v", sent, err)
	}
}

func TestCancelledUploadLeavesNoSession(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	s := open(t, small(g))
	ctx, cancel := context.WithCancel(t.Context())
	g.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if strings.HasPrefix(r.Header.Get("Content-Range"), "bytes 524288-") {
			cancel()
		}
		return nil
	}
	if _, err := s.Put(ctx, "a", bytes.NewReader(content())); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if g.Sessions() != 0 {
		t.Error("the upload was not cancelled")
	}
}

// A service that never answered is tried a few times only: meanwhile a snapshot of
// the database is held.
func TestServiceThatNeverAnswers(t *testing.T) {
	g := cloudtest.NewGCS(t, false)
	s, tries, gone := open(t, config(g)), 0, true
	s.http = &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
		if tries++; gone {
			return nil, syscall.ECONNREFUSED
		}
		return http.DefaultTransport.RoundTrip(r)
	})}
	_, err := s.Stat(t.Context(), "a")
	if tries != 5 || problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "connection refused") || !strings.HasPrefix(problem.HintOf(err), "nothing has answered there: check the endpoint") {
		t.Errorf("%v after %d tries, hint %q", err, tries, problem.HintOf(err))
	}
	gone = false
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Fatal(err)
	}
	tries, gone = 0, true
	if _, err := s.Stat(t.Context(), "a"); tries != 9 || !strings.HasPrefix(problem.HintOf(err), "it was tried for a while") {
		t.Errorf("once it has answered: %v after %d tries, hint %q", err, tries, problem.HintOf(err))
	}
}
