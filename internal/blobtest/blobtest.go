// Package blobtest is the test kit of blob stores: [Run], the suite that every
// store passes; [Memory], a store for the tests of its users; and [Faulty],
// which makes any store fail in the ways that real ones do.
//
// It is imported by tests only.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
)

// Run checks that a store keeps every promise in the comments of [blob.Store].
// open returns a new, empty store for each test.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for _, tc := range []struct {
		name string
		run  func(*testing.T, blob.Store)
	}{
		{"PutThenRead", putThenRead},
		{"ETags", etags},
		{"PutNeverOverwrites", putNeverOverwrites},
		{"PutSameNameAtOnce", putSameNameAtOnce},
		{"PutWithFailingReader", putWithFailingReader},
		{"PutCancelled", putCancelled},
		{"PutNotVisibleBeforeEnd", putNotVisibleBeforeEnd},
		{"Missing", missing},
		{"BadNames", badNames},
		{"OddNames", oddNames},
		{"ListOrderAndPrefix", listOrderAndPrefix},
		{"ListStopsEarly", listStopsEarly},
		{"Delete", deleteObject},
		{"Large", large},
		{"ReadersAtOnce", readersAtOnce},
		{"CancelledContext", cancelledContext},
		{"Properties", properties},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.run(t, open(t)) })
	}
}

// ReadAll returns the content of an object and checks its announced size.
func ReadAll(t testing.TB, s blob.Store, name string) []byte {
	t.Helper()
	r, info, err := s.Get(t.Context(), name)
	if err != nil {
		t.Fatalf("Get %q: %v", name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("reading %q: %v", name, err)
	}
	if info.Name != name || info.Size != int64(len(b)) {
		t.Fatalf("Get %q: info %+v, read %d bytes", name, info, len(b))
	}
	return b
}

// Names returns the names that List yields.
func Names(t testing.TB, s blob.Store, prefix string) []string {
	t.Helper()
	names := []string{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatalf("List %q: %v", prefix, err)
		}
		names = append(names, info.Name)
	}
	return names
}

func put(t testing.TB, s blob.Store, name, content string) blob.Info {
	t.Helper()
	info, err := s.Put(t.Context(), name, strings.NewReader(content))
	if err != nil {
		t.Fatalf("Put %q: %v", name, err)
	}
	return info
}

func absent(t testing.TB, s blob.Store, name string) {
	t.Helper()
	ctx := context.Background()
	if _, err := s.Stat(ctx, name); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Stat %q: %v, want ErrNotFound", name, err)
	}
	if r, _, err := s.Get(ctx, name); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Get %q: %v, want ErrNotFound", name, err)
		if err == nil {
			r.Close()
		}
	}
	for info, err := range s.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		if info.Name == name {
			t.Errorf("List yields %q", name)
		}
	}
}

func putThenRead(t *testing.T, s blob.Store) {
	for name, content := range map[string]string{"a": "content", "empty": "", "binary": "\x00\xff\r\n\x1a"} {
		info := put(t, s, name, content)
		if info.Name != name || info.Size != int64(len(content)) || info.ModTime.IsZero() {
			t.Errorf("Put returned %+v", info)
		}
		if got := ReadAll(t, s, name); string(got) != content {
			t.Errorf("%q holds %q", name, got)
		}
		stat, err := s.Stat(t.Context(), name)
		if err != nil || stat.Name != name || stat.Size != info.Size || stat.ModTime.Sub(info.ModTime).Abs() > time.Minute {
			t.Errorf("Stat: %+v, %v; Put said %+v", stat, err, info)
		}
		if info.ETag != "" && info.ETag != stat.ETag {
			t.Errorf("Put said ETag %q, Stat says %q", info.ETag, stat.ETag)
		}
		if stat.Altered != "" {
			t.Errorf("an object that nobody touched: %q", stat.Altered)
		}
	}
}

// etags: what remembers objects by their ETag must not confuse two contents.
func etags(t *testing.T, s blob.Store) {
	seen := map[string]string{}
	for i := range 3 {
		name := fmt.Sprint("a", i)
		put(t, s, name, strings.Repeat("x", i))
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		stat, err := s.Stat(t.Context(), info.Name)
		if err != nil || stat.ETag != info.ETag || stat.Altered != info.Altered {
			t.Errorf("List says %+v; Stat says %+v, %v", info, stat, err)
		}
		if other := seen[info.ETag]; info.ETag != "" && other != "" {
			t.Errorf("%q and %q have one ETag", other, info.Name)
		}
		seen[info.ETag] = info.Name
	}
	if err := s.Delete(t.Context(), "a1"); err != nil {
		t.Fatal(err)
	}
	before := put(t, s, "a1", "y")
	if other := seen[before.ETag]; before.ETag != "" && other != "" {
		t.Errorf("another content has the ETag of %q", other)
	}
	if got := ReadAll(t, s, "a1"); string(got) != "y" {
		t.Errorf("after delete and put it holds %q", got)
	}
}

func putNeverOverwrites(t *testing.T, s blob.Store) {
	put(t, s, "a", "first")
	for _, content := range []string{"second", "first"} {
		if _, err := s.Put(t.Context(), "a", strings.NewReader(content)); !errors.Is(err, blob.ErrExists) {
			t.Errorf("second Put: %v, want ErrExists", err)
		}
	}
	if got := ReadAll(t, s, "a"); string(got) != "first" {
		t.Errorf("holds %q", got)
	}
}

func putSameNameAtOnce(t *testing.T, s blob.Store) {
	const writers = 8
	var wg sync.WaitGroup
	start := make(chan struct{})
	errs := make([]error, writers)
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 100_000+i) }
	for i := range writers {
		wg.Go(func() {
			<-start
			_, errs[i] = s.Put(t.Context(), "a", iotest.HalfReader(bytes.NewReader(content(i))))
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Errorf("writers %d and %d both won", winner, i)
		case !errors.Is(err, blob.ErrExists):
			t.Errorf("writer %d: %v, want ErrExists", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	if got := ReadAll(t, s, "a"); !bytes.Equal(got, content(winner)) {
		t.Errorf("holds %d bytes of %q, the winner wrote %q", len(got), got[0], content(winner)[0])
	}
}

var errReader = errors.New("the reader broke")

func putWithFailingReader(t *testing.T, s blob.Store) {
	for name, r := range map[string]io.Reader{
		"at-once":        iotest.ErrReader(errReader),
		"after-a-little": io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(errReader)),
		"after-a-lot":    io.MultiReader(bytes.NewReader(make([]byte, 3<<20)), iotest.ErrReader(errReader)),
	} {
		if _, err := s.Put(t.Context(), name, r); !errors.Is(err, errReader) {
			t.Errorf("Put %q: %v, want the reader's error", name, err)
		}
		absent(t, s, name)
		put(t, s, name, "second try")
	}
	// An early end that the source itself reports must not pass for an end.
	r := io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrUnexpectedEOF))
	if _, err := s.Put(t.Context(), "cut", r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Put of a cut source: %v", err)
	}
	absent(t, s, "cut")
}

// cancelReader cancels a context when its content was read.
type cancelReader struct {
	io.Reader
	cancel context.CancelFunc
}

func (r cancelReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF {
		r.cancel()
		err = nil
	}
	return n, err
}

func putCancelled(t *testing.T, s blob.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	// After the content the reader yields nothing for ever, so only the
	// context can end the Put.
	_, err := s.Put(ctx, "a", cancelReader{bytes.NewReader(make([]byte, 2<<20)), cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v, want context.Canceled", err)
	}
	absent(t, s, "a")
	put(t, s, "a", "second try")
}

// peekReader looks at the store at each Read.
type peekReader struct {
	io.Reader
	peek func()
}

func (r peekReader) Read(p []byte) (int, error) {
	r.peek()
	return r.Reader.Read(p)
}

func putNotVisibleBeforeEnd(t *testing.T, s blob.Store) {
	looks := 0
	_, err := s.Put(t.Context(), "a", peekReader{bytes.NewReader(make([]byte, 5<<20)), func() {
		looks++
		absent(t, s, "a")
	}})
	if err != nil || looks == 0 {
		t.Fatalf("Put: %v after %d looks", err, looks)
	}
	if got := Names(t, s, ""); !slices.Equal(got, []string{"a"}) {
		t.Errorf("List: %q", got)
	}
}

func missing(t *testing.T, s blob.Store) {
	put(t, s, "present", "")
	absent(t, s, "missing")
	absent(t, s, "presen")
	if err := s.Delete(t.Context(), "missing"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("Delete: %v, want ErrNotFound", err)
	}
	if got := Names(t, s, "missing"); len(got) != 0 {
		t.Errorf("List: %q", got)
	}
}

func badNames(t *testing.T, s blob.Store) {
	put(t, s, "good", "")
	for _, name := range []string{"", ".", "..", ".hidden", "-flag", "a/b", "/a", "../a", `a\b`, "a b", "ä", "a\x00", "a\n", "a:b", "a*", strings.Repeat("x", 201)} {
		ctx := t.Context()
		_, putErr := s.Put(ctx, name, strings.NewReader("x"))
		_, _, getErr := s.Get(ctx, name)
		_, statErr := s.Stat(ctx, name)
		for op, err := range map[string]error{"Put": putErr, "Get": getErr, "Stat": statErr, "Delete": s.Delete(ctx, name)} {
			if err == nil || errors.Is(err, blob.ErrNotFound) || !strings.Contains(err.Error(), "object name") {
				t.Errorf("%s %q: %v", op, name, err)
			}
		}
	}
	if got := Names(t, s, ""); !slices.Equal(got, []string{"good"}) {
		t.Errorf("List: %q", got)
	}
}

func oddNames(t *testing.T, s blob.Store) {
	names := []string{"0", "A.B", "_", "_a", "a", "a-", "a..b", "a.tmp", "a_b", strings.Repeat("x", 200)}
	for _, name := range names {
		put(t, s, name, "content of "+name)
	}
	for _, name := range names {
		if got := ReadAll(t, s, name); string(got) != "content of "+name {
			t.Errorf("%q holds %q", name, got)
		}
	}
	slices.Sort(names)
	if got := Names(t, s, ""); !slices.Equal(got, names) {
		t.Errorf("List: %q, want %q", got, names)
	}
}

func listOrderAndPrefix(t *testing.T, s blob.Store) {
	if got := Names(t, s, ""); len(got) != 0 {
		t.Fatalf("a new store lists %q", got)
	}
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprintf("%c-%d", "abB_9"[i%5], i*7%30))
	}
	for _, i := range rand.Perm(len(want)) {
		put(t, s, want[i], strings.Repeat("x", i))
	}
	slices.Sort(want)
	if got := Names(t, s, ""); !slices.Equal(got, want) {
		t.Errorf("List: %q, want %q", got, want)
	}
	for _, prefix := range []string{"a", "a-", "a-1", "B", "nothing", "."} {
		matching := []string{}
		for _, name := range want {
			if strings.HasPrefix(name, prefix) {
				matching = append(matching, name)
			}
		}
		if got := Names(t, s, prefix); !slices.Equal(got, matching) {
			t.Errorf("List %q: %q, want %q", prefix, got, matching)
		}
	}
	for info, err := range s.List(t.Context(), "") {
		stat, statErr := s.Stat(t.Context(), info.Name)
		if err != nil || statErr != nil || stat.Size != info.Size || !stat.ModTime.Equal(info.ModTime) {
			t.Errorf("List says %+v, %v; Stat says %+v, %v", info, err, stat, statErr)
		}
	}
}

func listStopsEarly(t *testing.T, s blob.Store) {
	for i := range 5 {
		put(t, s, fmt.Sprint("a", i), "")
	}
	n := 0
	for range s.List(t.Context(), "") {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Errorf("%d objects", n)
	}
}

func deleteObject(t *testing.T, s blob.Store) {
	put(t, s, "a", "1")
	put(t, s, "ab", "2")
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	absent(t, s, "a")
	if got := ReadAll(t, s, "ab"); string(got) != "2" {
		t.Errorf("the other object holds %q", got)
	}
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("second Delete: %v, want ErrNotFound", err)
	}
	put(t, s, "a", "3")
	if got := ReadAll(t, s, "a"); string(got) != "3" {
		t.Errorf("holds %q", got)
	}
}

func large(t *testing.T, s blob.Store) {
	const size = 20<<20 + 1
	content := func() io.Reader {
		return io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
	}
	info, err := s.Put(t.Context(), "large", content())
	if err != nil || info.Size != size {
		t.Fatalf("Put: %+v, %v", info, err)
	}
	r, _, err := s.Get(t.Context(), "large")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if !sameContent(t, r, content()) {
		t.Error("content differs")
	}
}

func sameContent(t *testing.T, a, b io.Reader) bool {
	t.Helper()
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) || (errA == nil) != (errB == nil) {
			return false
		}
		if errA != nil {
			if errA != errB {
				t.Fatalf("reading: %v and %v", errA, errB)
			}
			return true
		}
	}
}

func readersAtOnce(t *testing.T, s blob.Store) {
	put(t, s, "a", strings.Repeat("x", 1<<20))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			r, _, err := s.Get(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if n, err := io.Copy(io.Discard, r); n != 1<<20 || err != nil {
				t.Errorf("read %d bytes, %v", n, err)
			}
		})
	}
	wg.Wait()
}

func cancelledContext(t *testing.T, s blob.Store) {
	put(t, s, "a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	r, _, err := s.Get(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("reading: %v", err)
	}
	_, putErr := s.Put(ctx, "b", strings.NewReader("x"))
	_, _, getErr := s.Get(ctx, "a")
	_, statErr := s.Stat(ctx, "a")
	var listErr error
	for _, err := range s.List(ctx, "") {
		listErr = err
	}
	for op, err := range map[string]error{"Put": putErr, "Get": getErr, "Stat": statErr, "List": listErr, "Delete": s.Delete(ctx, "a")} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", op, err)
		}
	}
	absent(t, s, "b")
	if got := ReadAll(t, s, "a"); string(got) != "1" {
		t.Errorf("holds %q", got)
	}
}

func properties(t *testing.T, s blob.Store) {
	if s.Properties().Location == "" {
		t.Error("no location")
	}
}
