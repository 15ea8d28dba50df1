package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/n8keep/n8keep/internal/problem"
	"pgregory.net/rapid"
)

var errBroke = errors.New("it broke")

func TestOptionsNeverRepeatValues(t *testing.T) {
	known := []string{"endpoint", "retain", "lock", "credentials"}
	tried := 0
	rapid.Check(t, func(t *rapid.T) {
		tried++
		name := rapid.SampledFrom(append([]string{"sig", "PASSWORD", "colour", "%zz", ""}, known...)).Draw(t, "name")
		u := &url.URL{Scheme: "s3", Host: "b", RawQuery: name + "=geheim" + rapid.SampledFrom([]string{"", "&retain=geheim", "&sig=geheim", ";a", "%zz"}).Draw(t, "more")}
		o, err := ParseOptions(u, "put it into a file", known...)
		if err == nil {
			_, _, err = o.Retention()
		}
		if err == nil {
			_, err = o.Endpoint("endpoint")
		}
		if err == nil {
			_, err = o.File("credentials")
		}
		if err != nil && (strings.Contains(err.Error()+problem.HintOf(err), "geheim") || problem.KindOf(err) != problem.Usage) {
			t.Fatalf("%v, hint %q", err, problem.HintOf(err))
		}
	})
	if tried == 0 {
		t.Error("nothing was tried")
	}
}

func TestRetention(t *testing.T) {
	for query, want := range map[string]struct {
		retain time.Duration
		lock   string
	}{"": {}, "retain=30d&lock=compliance": {720 * time.Hour, "compliance"}, "lock=governance&retain=90m": {90 * time.Minute, "governance"}} {
		o, err := ParseOptions(&url.URL{Scheme: "s3", RawQuery: query}, "", "retain", "lock")
		if err != nil {
			t.Fatal(err)
		}
		if retain, lock, err := o.Retention(); err != nil || retain != want.retain || lock != want.lock {
			t.Errorf("%q: %v %q %v", query, retain, lock, err)
		}
	}
}

func TestPrefix(t *testing.T) {
	for path, want := range map[string]string{"": "", "/": "", "/a": "a/", "/a/b/": "a/b/", "/ä b": "ä b/"} {
		if got, err := Prefix("s3", path); err != nil || got != want {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"/a//b", "/a/../b", "/.", "/a\n", `/a"b`, "/a'b", "/a*", `/a\b`, "/a`b"} {
		if got, err := Prefix("s3", path); err == nil {
			t.Errorf("%q: %q", path, got)
		}
	}
}

// The waits grow, are bounded, differ, and respect what the server asks for.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		err := Retry{}.Do(t.Context(), func(attempt int) error {
			if attempt != len(at) {
				t.Errorf("attempt %d is the %d.", attempt, len(at)+1)
			}
			at = append(at, time.Since(start))
			after := time.Duration(0)
			if attempt == 2 {
				after = time.Minute
			}
			return Again(errBroke, after)
		})
		if err != errBroke || len(at) != 9 {
			t.Fatalf("%v after %d attempts", err, len(at))
		}
		for i, mean := range []time.Duration{500 * time.Millisecond, time.Second, time.Minute, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
			if d := at[i+1] - at[i]; d < mean/2 || d > mean*3/2 || i == 2 && d != mean {
				t.Errorf("wait %d: %v, want about %v", i, d, mean)
			}
		}
	})
	calls := 0
	if err := (Retry{}).Do(t.Context(), func(int) error { calls++; return errBroke }); err != errBroke || calls != 1 {
		t.Errorf("an error that is not marked: %v after %d", err, calls)
	}
	if Again(nil, 0) != nil || !IsAgain(Again(errBroke, 0)) || IsAgain(errBroke) {
		t.Error("Again")
	}
}

// A service that never answered is not waited for as long as one that did.
func TestRetryOfAServiceNeverHeard(t *testing.T) {
	for name, tc := range map[string]struct {
		each    time.Duration // that an attempt takes
		heardAt int           // the attempt that is answered; -1 for none
		want    int
		longest time.Duration
	}{
		"refused":         {0, -1, unheard, 12 * time.Second},
		"silent":          {30 * time.Second, -1, 1, 30 * time.Second},
		"slow to resolve": {4 * time.Second, -1, 3, 16 * time.Second},
		"heard at once":   {0, 0, 9, 4 * time.Minute},
		"heard late":      {0, 3, 9, 4 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			heard, calls, start := false, 0, time.Now()
			err := Retry{Heard: func() bool { return heard }}.Do(t.Context(), func(attempt int) error {
				calls++
				heard = heard || attempt == tc.heardAt
				time.Sleep(tc.each)
				return Again(errBroke, 0)
			})
			spent := time.Since(start)
			if err != errBroke || calls > tc.want || calls < min(tc.want, 2) || tc.each == 0 && calls != tc.want || spent > tc.longest {
				t.Errorf("%s: %v after %d attempts in %v, want %d in at most %v", name, err, calls, spent, tc.want, tc.longest)
			}
		})
	}
}

func TestRetryEndsWithContext(t *testing.T) {
	cause := errors.New("somebody waits")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := Retry{}.Do(ctx, func(attempt int) error {
			if attempt == 1 {
				time.AfterFunc(time.Millisecond, func() { cancel(cause) })
			}
			return Again(errBroke, 0)
		})
		if err != cause {
			t.Errorf("in a wait: %v", err)
		}
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := (Retry{}).Do(ctx, func(int) error { cancel(cause); return errBroke }); err != cause {
		t.Errorf("in an attempt: %v", err)
	}
}

// Chunks hold the stream's bytes, all but the last of full size, however the source yields them.
func TestChunks(t *testing.T) {
	content := make([]byte, 1000)
	rand.NewChaCha8([32]byte{}).Read(content)
	tried := 0
	for _, size := range []int{1, 7, 99, 100, 250, 999, 1000, 1001} {
		for _, length := range []int{0, 1, 99, 100, 101, 500, 1000} {
			for name, wrap := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "data and end": iotest.DataErrReader} {
				tried++
				c := NewChunks(t.Context(), wrap(bytes.NewReader(content[:length])), size)
				var got []byte
				for {
					chunk := c.Next(t.Context())
					if chunk.Err != nil {
						t.Fatal(chunk.Err)
					}
					got = append(got, chunk.Data...)
					if chunk.Last {
						break
					}
					if len(chunk.Data) != size {
						t.Errorf("%s: a chunk of %d bytes, want %d", name, len(chunk.Data), size)
					}
					c.Free(chunk)
				}
				c.Close()
				if !bytes.Equal(got, content[:length]) {
					t.Errorf("%s: %d bytes in chunks of %d: %d bytes came", name, length, size, len(got))
				}
			}
		}
	}
	if tried == 0 {
		t.Error("nothing was tried")
	}
}

func TestChunksOfBrokenSource(t *testing.T) {
	for name, err := range map[string]error{"broken": errBroke, "cut": io.ErrUnexpectedEOF} {
		c := NewChunks(t.Context(), io.MultiReader(strings.NewReader("abcdef"), iotest.ErrReader(err)), 4)
		first := c.Next(t.Context())
		c.Free(first)
		if second := c.Next(t.Context()); second.Err != err || len(second.Data) > 0 {
			t.Errorf("%s: %+v", name, second)
		}
		c.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := NewChunks(ctx, strings.NewReader("abc"), 4)
	c.Free(c.Next(ctx))
	cancel()
	if chunk := c.Next(ctx); !errors.Is(chunk.Err, context.Canceled) {
		t.Errorf("%+v", chunk)
	}
	c.Close()
}

// flaky is an object whose connections yield so many bytes each, then an error.
type flaky struct {
	content []byte
	each    int
	opens   int
	refuse  error
}

func (f *flaky) open(_ context.Context, offset int64) (io.ReadCloser, error) {
	f.opens++
	if f.refuse != nil && f.opens > 1 {
		return nil, f.refuse
	}
	rest := f.content[offset:]
	n := min(f.each, len(rest))
	return io.NopCloser(io.MultiReader(bytes.NewReader(rest[:n]), iotest.ErrReader(errBroke))), nil
}

func TestReader(t *testing.T) {
	content := make([]byte, 10_000)
	rand.NewChaCha8([32]byte{}).Read(content)
	wait := Retry{Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
	f := &flaky{content: content, each: 1234}
	r := &Reader{Size: 10_000, Open: f.open, Retry: wait}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) || f.opens != 9 {
		t.Errorf("%d bytes, %v, in %d connections", len(got), err, f.opens)
	}
	f = &flaky{content: content, each: 0}
	r = &Reader{Size: 10_000, Open: f.open, Retry: wait, Fail: func(err error, offset int64) error {
		return errors.Join(err, errors.New("at "+string(rune('0'+offset))))
	}}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, errBroke) || !strings.Contains(err.Error(), "at 0") || f.opens != 6 {
		t.Errorf("nothing ever comes: %v in %d connections", err, f.opens)
	}
	f = &flaky{content: content, each: 10, refuse: errors.New("gone")}
	r = &Reader{Size: 10_000, Open: f.open, Retry: wait}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); len(got) != 10 || err != f.refuse {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestReaderOfSilentConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opens := 0
		r := &Reader{Size: 3, Open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			if opens++; opens == 1 {
				<-ctx.Done() // not even an answer
				return nil, ctx.Err()
			}
			if opens == 2 {
				return silent{ctx}, nil
			}
			return io.NopCloser(strings.NewReader("abc")), nil
		}}
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); string(got) != "abc" || err != nil || opens != 3 {
			t.Errorf("%q, %v in %d connections", got, err, opens)
		}
	})
}

type silent struct{ ctx context.Context }

func (s silent) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}
func (silent) Close() error { return nil }
