package azureblob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/cloudtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
)

// content is three blocks of 512 KiB, of which the last is shorter.
func content() []byte {
	b := make([]byte, 1<<20+100_001)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

func small(a *cloudtest.Azure) Config {
	cfg := config(a)
	cfg.BlockSize = 512 << 10
	return cfg
}

// TestFaultsOfTheConnection breaks each request of an upload in each way that passes;
// the blob is there afterwards, once and whole.
func TestFaultsOfTheConnection(t *testing.T) {
	faults := map[string]cloudtest.Fault{
		"503":               {Status: 503, Header: http.Header{"Retry-After": {"1"}}},
		"500":               {Status: 500},
		"429":               {Status: 429},
		"reset at once":     {CutRequest: -1},
		"reset in the body": {CutRequest: 300_000},
		"answer lost":       {CutResponse: -1},
	}
	for name, fault := range faults {
		for request := 1; request <= 4; request++ { // three blocks and the commit
			t.Run(fmt.Sprintf("%s of request %d", name, request), func(t *testing.T) {
				a := cloudtest.NewAzure(t)
				a.Rule = cloudtest.Once("PUT", request, fault)
				s := open(t, small(a))
				info, err := s.Put(t.Context(), "a", bytes.NewReader(content()))
				if err != nil {
					t.Fatal(err)
				}
				if got := blobtest.ReadAll(t, s, "a"); info.Size != int64(len(got)) || !bytes.Equal(got, content()) {
					t.Errorf("%d bytes stored, %d sent, Put says %+v", len(got), len(content()), info)
				}
			})
		}
		t.Run(name+" of a blob in one request", func(t *testing.T) {
			a := cloudtest.NewAzure(t)
			a.Rule = cloudtest.Once("PUT", 1, fault)
			s := open(t, config(a))
			if _, err := s.Put(t.Context(), "a", bytes.NewReader(content())); err != nil {
				t.Fatal(err)
			}
			if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, content()) {
				t.Errorf("%d bytes stored, %d sent", len(got), len(content()))
			}
		})
	}
}

// An identity that may only create stores, also when the answer is lost, with no
// other request than those which its permission allows; and it can do nothing else.
func TestCreateOnly(t *testing.T) {
	for name, fault := range map[string]cloudtest.Fault{"no fault": {}, "503": {Status: 503}, "reset in the body": {CutRequest: 300_000}, "answer lost": {CutResponse: -1}} {
		t.Run(name, func(t *testing.T) {
			a := cloudtest.NewAzure(t)
			var asked []string
			puts := 0
			a.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
				op := cloudtest.Operation(r)
				if asked = append(asked, op); op == "put blob" {
					if puts++; puts == 1 && name != "no fault" {
						return &fault
					}
					if puts == 2 && name == "answer lost" { // Azurite's answer does not say that it is the overwriting
						return &cloudtest.Fault{Status: 403, Header: http.Header{"X-Ms-Error-Code": {"UnauthorizedBlobOverwrite"}}}
					}
				}
				return nil
			}
			cfg := small(a)
			cfg.Spool = t.TempDir()
			cfg.Env = cloudtest.Env("AZURE_STORAGE_SAS_TOKEN", a.SAS(t, "c", time.Hour))
			s := open(t, cfg)
			info, err := s.Put(t.Context(), "a", bytes.NewReader(content()))
			if err != nil || info.Size != int64(len(content())) || info.ModTime.IsZero() {
				t.Fatalf("%+v, %v", info, err)
			}
			if name == "no fault" && !slices.Equal(asked, []string{"put block", "put blob"}) {
				t.Errorf("asked for %q", asked)
			}
			if left, err := os.ReadDir(cfg.Spool); err != nil || len(left) > 0 {
				t.Errorf("left in the folder: %v, %v", left, err)
			}
			if got := blobtest.ReadAll(t, open(t, config(a)), "a"); !bytes.Equal(got, content()) {
				t.Errorf("%d bytes stored", len(got))
			}
			if _, err := s.Stat(t.Context(), "a"); problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "AuthorizationPermissionMismatch") {
				t.Errorf("Stat: %v", err)
			}
			if err := s.Delete(t.Context(), "a"); problem.KindOf(err) != problem.Unreachable {
				t.Errorf("Delete: %v", err)
			}
			if _, err := s.Put(t.Context(), "a", strings.NewReader("other")); err == nil {
				t.Error("overwrote it")
			}
		})
	}
}

// Blocks that are gone after a lost answer are no evidence of a blob.
func TestBlocksThatAreGoneAfterALostAnswer(t *testing.T) {
	a := cloudtest.NewAzure(t)
	commits := 0
	a.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		switch op := cloudtest.Operation(r); {
		case op == "put block list":
			if commits++; commits == 1 {
				return &cloudtest.Fault{CutRequest: -1}
			}
			return &cloudtest.Fault{Status: 400, Header: http.Header{"X-Ms-Error-Code": {"InvalidBlockList"}}}
		case op == "head":
			return &cloudtest.Fault{Status: 403, Header: http.Header{"X-Ms-Error-Code": {"AuthorizationPermissionMismatch"}}}
		}
		return nil
	}
	_, err := open(t, small(a)).Put(t.Context(), "a", bytes.NewReader(content()))
	if err == nil || problem.KindOf(err) != problem.Unreachable || !strings.Contains(err.Error(), "it is not known whether the blob is stored") || !strings.Contains(problem.HintOf(err), "run the backup again") {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
	if commits != 2 {
		t.Errorf("%d commits", commits)
	}
}

// A refusal after a lost answer may be one that was there from the beginning.
func TestRefusedAfterALostAnswer(t *testing.T) {
	a := cloudtest.NewAzure(t)
	puts := 0
	a.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if cloudtest.Operation(r) == "put blob" {
			if puts++; puts == 1 {
				return &cloudtest.Fault{CutRequest: -1}
			}
		}
		return nil
	}
	cfg := small(a)
	cfg.Spool = t.TempDir()
	cfg.Env = cloudtest.Env("AZURE_STORAGE_SAS_TOKEN", a.SAS(t, "l", time.Hour))
	_, err := open(t, cfg).Put(t.Context(), "a", bytes.NewReader(content()))
	if problem.KindOf(err) != problem.Unreachable || !strings.Contains(fmt.Sprint(err), "it is not known whether the blob is stored") || !strings.Contains(problem.HintOf(err), "run the backup again") {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
	if puts != 2 {
		t.Errorf("%d puts", puts)
	}
}

// Nobody listens at the address: somebody waits for the answer.
func TestServiceThatNeverAnswers(t *testing.T) {
	a := cloudtest.NewAzure(t)
	cfg := config(a)
	cfg.Endpoint = "http://127.0.0.1:1"
	waits := 0
	cfg.Retry = remote.Retry{Attempts: 1000, Wait: func(context.Context, time.Duration) error { waits++; return nil }}
	if _, err := open(t, cfg).Stat(t.Context(), "a"); problem.KindOf(err) != problem.Unreachable {
		t.Errorf("Stat: %v", err)
	}
	if waits > 10 {
		t.Errorf("tried %d times", waits+1)
	}
}

// Nothing of a stream stays when it breaks while it is kept in the temporary file.
func TestBrokenSourceWhileSpooled(t *testing.T) {
	a := cloudtest.NewAzure(t)
	cfg := small(a)
	cfg.Spool = t.TempDir()
	cfg.Env = cloudtest.Env("AZURE_STORAGE_SAS_TOKEN", a.SAS(t, "rlc", time.Hour))
	s := open(t, cfg)
	broke := errors.New("the source broke")
	_, err := s.Put(t.Context(), "a", io.MultiReader(bytes.NewReader(content()), errReader{broke}))
	if !errors.Is(err, broke) {
		t.Errorf("Put: %v", err)
	}
	if left, err := os.ReadDir(cfg.Spool); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
	cfg.Spool += "/missing"
	if _, err := open(t, cfg).Put(t.Context(), "a", bytes.NewReader(content())); err == nil || !strings.Contains(err.Error(), "making a temporary file: ") {
		t.Errorf("without a folder: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestTooLarge(t *testing.T) {
	s := open(t, small(cloudtest.NewAzure(t)))
	u := &upload{s: s, ids: make([]string, maxBlocks), size: 7}
	err := s.fail(u.stage(t.Context(), []byte("x")), "storing %q", "a")
	if err == nil || !strings.Contains(err.Error(), "it has more than 7 bytes, the most that Azure takes in blocks of 524288") {
		t.Error(err)
	}
}

// A download goes on where it was.
func TestDownloadIsResumed(t *testing.T) {
	a := cloudtest.NewAzure(t)
	s := open(t, small(a))
	if _, err := s.Put(t.Context(), "a", bytes.NewReader(content())); err != nil {
		t.Fatal(err)
	}
	gets := 0
	a.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if cloudtest.Operation(r) != "get" {
			return nil
		}
		switch gets++; gets {
		case 1:
			return &cloudtest.Fault{CutResponse: 400_000}
		case 2:
			return &cloudtest.Fault{Status: 503}
		case 3:
			if got := r.Header.Get("x-ms-range"); got != "bytes=400000-" {
				t.Errorf("went on at %q", got)
			}
		}
		return nil
	}
	if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, content()) || gets != 3 {
		t.Errorf("%d bytes read in %d requests", len(got), gets)
	}
	// A blob that is another one now is not read on.
	gets = 0
	r, _, err := s.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "a", bytes.NewReader(bytes.Repeat([]byte("x"), len(content())))); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err == nil || !strings.Contains(err.Error(), "ConditionNotMet") {
		t.Errorf("reading on: %v", err)
	}
}

// A server that stays away: nothing is visible, and the error holds no signature.
func TestServerThatStaysAway(t *testing.T) {
	a := cloudtest.NewAzure(t)
	a.Rule = func(_ int, r *http.Request) *cloudtest.Fault { return &cloudtest.Fault{CutRequest: -1} }
	cfg := small(a)
	sas := a.SAS(t, "rwcdl", time.Hour)
	cfg.Env = cloudtest.Env("AZURE_STORAGE_SAS_TOKEN", "?"+sas)
	s := open(t, cfg)
	_, err := s.Put(t.Context(), "a", bytes.NewReader(content()))
	if problem.KindOf(err) != problem.Unreachable || problem.HintOf(err) == "" || strings.Contains(err.Error(), "sig=") {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
	a.Follow(nil)
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
	if loc := s.Properties().Location; strings.Contains(loc, "sig") {
		t.Error(loc)
	}
}

// Two writers of one name, the slower one in the middle of its blocks.
func TestBlobAppearsMeanwhile(t *testing.T) {
	a := cloudtest.NewAzure(t)
	s, other := open(t, small(a)), open(t, small(a))
	n := 0
	_, err := s.Put(t.Context(), "a", readFunc(func(p []byte) (int, error) {
		switch n++; n {
		case 4: // two blocks are on their way
			if _, err := other.Put(t.Context(), "a", bytes.NewReader(content())); err != nil {
				t.Error(err)
			}
		case 8:
			return 0, io.EOF
		}
		return len(p), nil
	}))
	if !errors.Is(err, blob.ErrExists) {
		t.Errorf("Put: %v", err)
	}
	if got := blobtest.ReadAll(t, s, "a"); !bytes.Equal(got, content()) {
		t.Errorf("holds %d bytes", len(got))
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// A clock that is hours wrong: the first refusal shows the server's time, and requests
// are dated by it.
func TestWrongClock(t *testing.T) {
	a := cloudtest.NewAzure(t)
	wrong := time.Now().Add(-6 * time.Hour)
	refused, dated := 0, ""
	a.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		date, err := http.ParseTime(r.Header.Get("x-ms-date"))
		if err == nil && time.Since(date).Abs() < time.Minute && refused > 0 {
			dated = r.Header.Get("x-ms-date")
			return nil
		}
		refused++
		return &cloudtest.Fault{Status: 403, Header: http.Header{"X-Ms-Error-Code": {"AuthenticationFailed"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}}
	}
	cfg := config(a)
	cfg.Now = func() time.Time { return wrong }
	if _, err := open(t, cfg).Put(t.Context(), "a", strings.NewReader("x")); err != nil || refused != 1 || dated == "" {
		t.Errorf("%v; refused %d times, then dated %q", err, refused, dated)
	}
}

func TestClock(t *testing.T) {
	a := cloudtest.NewAzure(t)
	want := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	a.Rule = func(int, *http.Request) *cloudtest.Fault {
		return &cloudtest.Fault{Status: 403, Header: http.Header{"Date": {want.Format(http.TimeFormat)}}}
	}
	if got, err := open(t, config(a)).Clock(t.Context()); err != nil || !got.Equal(want) {
		t.Errorf("%v, %v", got, err)
	}
}

// The lock goes along in the request that makes the blob visible. The test server
// takes it without keeping it, which a probe finds out.
func TestRetention(t *testing.T) {
	for lock, mode := range map[string]string{"governance": "Unlocked", "compliance": "Locked"} {
		for _, size := range []int{10, len(content())} {
			a := cloudtest.NewAzure(t)
			var modes, until []string
			a.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
				if op := cloudtest.Operation(r); op == "put blob" || op == "put block list" {
					modes, until = append(modes, r.Header.Get("x-ms-immutability-policy-mode")), append(until, r.Header.Get("x-ms-immutability-policy-until-date"))
				}
				return nil
			}
			cfg := small(a)
			cfg.Retain, cfg.Lock = 48*time.Hour, lock
			cfg.Now = func() time.Time { return time.Now().Add(-10 * 365 * 24 * time.Hour) } // ours does not count
			s := open(t, cfg)
			_, err := s.Put(t.Context(), "a", bytes.NewReader(content()[:size]))
			modes, until = slices.Compact(modes), slices.Compact(until) // a request may be tried again
			end, parseErr := http.ParseTime(strings.Join(until, ","))
			if !slices.Equal(modes, []string{mode}) || parseErr != nil || time.Until(end).Round(time.Hour) != 48*time.Hour {
				t.Errorf("%s of %d bytes: modes %q until %q", lock, size, modes, until)
			}
			if err != nil {
				t.Error(err)
			}
			trials, err := s.Probe(t.Context(), "canary")
			if err != nil || trials[6].Answer != blob.Yes || trials[6].Detail != "the container takes the lock and does not keep it" {
				t.Errorf("%+v, %v", trials, err)
			}
			a.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
				if r.Method == http.MethodPut {
					return &cloudtest.Fault{Status: 400, Header: http.Header{"X-Ms-Error-Code": {"UnsupportedHeader"}}}
				}
				return nil
			}
			_, err = s.Put(t.Context(), "b", bytes.NewReader(content()[:10]))
			if err == nil || !strings.Contains(problem.HintOf(err), "version-level immutability") {
				t.Errorf("%v, hint %q", err, problem.HintOf(err))
			}
		}
	}
}

func TestListIsPaged(t *testing.T) {
	a := cloudtest.NewAzure(t)
	s := open(t, config(a))
	for i := range 25 {
		if _, err := s.Put(t.Context(), fmt.Sprintf("a%02d", i), strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	pages := 0
	cfg := config(a)
	cfg.Env = cloudtest.Env("AZURE_STORAGE_SAS_TOKEN", a.SAS(t, "rl", time.Hour)) // a signed request could not be changed
	a.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if cloudtest.Operation(r) == "list" {
			q := r.URL.Query()
			q.Set("maxresults", "10")
			r.URL.RawQuery = q.Encode()
			pages++
		}
		return nil
	}
	if names := blobtest.Names(t, open(t, cfg), ""); len(names) != 25 || pages != 3 || !slices.IsSorted(names) {
		t.Errorf("%d names in %d pages", len(names), pages)
	}
}

// Folders beside the prefix and below it are other people's.
func TestPrefix(t *testing.T) {
	cfg := config(cloudtest.NewAzure(t))
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

func TestMemoryIsBounded(t *testing.T) {
	a := cloudtest.NewAzure(t)
	cfg := config(a)
	cfg.BlockSize = 1 << 20
	const size = 16 << 20
	var read, sent atomic.Int64
	source := io.LimitReader(rand.NewChaCha8([32]byte{}), size)
	a.Rule = func(_ int, r *http.Request) *cloudtest.Fault {
		if sent.Add(r.ContentLength); cloudtest.Operation(r) == "put block" && read.Load()-sent.Load() > 2<<20+2 {
			t.Errorf("%d bytes read and not sent", read.Load()-sent.Load())
		}
		return nil
	}
	if _, err := open(t, cfg).Put(t.Context(), "a", readFunc(func(p []byte) (int, error) {
		n, err := source.Read(p)
		read.Add(int64(n))
		return n, err
	})); err != nil || sent.Load() < size {
		t.Errorf("%d bytes sent, %v", sent.Load(), err)
	}
}

func TestCancelled(t *testing.T) {
	a := cloudtest.NewAzure(t)
	s := open(t, small(a))
	ctx, cancel := context.WithCancel(t.Context())
	a.Rule = func(n int, r *http.Request) *cloudtest.Fault {
		if n == 2 {
			cancel()
		}
		return nil
	}
	if _, err := s.Put(ctx, "a", bytes.NewReader(content())); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v", err)
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
}
