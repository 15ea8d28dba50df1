package s3blob

import (
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/blob"
	"github.com/n8keep/n8keep/internal/blobtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/internal/remote"
	"github.com/n8keep/n8keep/internal/s3test"
)

func TestMain(m *testing.M) { os.Exit(s3test.Main(m)) }

// open is the store at u for an identity, with little patience.
func open(t *testing.T, u *url.URL, i s3test.Identity, change ...func(*Config)) *Store {
	t.Helper()
	cfg, err := Parse(u, i.Env)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Retry = remote.Retry{Attempts: 4, First: time.Millisecond, Longest: 10 * time.Millisecond}
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	server := s3test.New(t)
	for name, kind := range map[string]s3test.Kind{"plain": s3test.Plain, "versioned": s3test.Versioned, "locked": s3test.Locked} {
		t.Run(name, func(t *testing.T) {
			blobtest.Run(t, func(t *testing.T) blob.Store {
				return open(t, server.Bucket(t, kind).URL("some/prefix"), server.Root)
			})
		})
	}
}

func put(t *testing.T, s *Store, name, content string) blob.Info {
	t.Helper()
	info, err := s.Put(t.Context(), name, strings.NewReader(content))
	if err != nil {
		t.Fatalf("Put %q: %v", name, err)
	}
	return info
}

// wantError checks an error's text and hint.
func wantError(t *testing.T, err error, text, hint string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(problem.HintOf(err), hint) {
		t.Errorf("error %v with hint %q\nwant %q with %q", err, problem.HintOf(err), text, hint)
	}
}
