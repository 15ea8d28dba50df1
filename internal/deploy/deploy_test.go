package deploy

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func digest(row string, plaintext []byte) string {
	h := hmac.New(sha256.New, []byte("test"))
	fmt.Fprintf(h, "%d:%s%s", len(row), row, plaintext)
	return hex.EncodeToString(h.Sum(nil))
}

// find returns a Ranges that finds the key as it is.
func find(key string) Ranges {
	return func(b []byte) [][2]int {
		var out [][2]int
		for at := 0; key != ""; {
			n := bytes.Index(b[at:], []byte(key))
			if n < 0 {
				break
			}
			out = append(out, [2]int{at + n, at + n + len(key)})
			at += n + len(key)
		}
		return out
	}
}

var config = Config{Digest: digest, Needle: find("")}

func files(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	paths, _ := filepath.Glob("testdata/files/*")
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(p)] = b
	}
	if len(out) < 8 {
		t.Fatalf("%d files in testdata", len(out))
	}
	return out
}

// What the files keep secret: all of it has a mark, or is such a text in base64.
var planted = regexp.MustCompile(`(?i)s3cr3t|czNjcjN0|94710283`)

func TestFiles(t *testing.T) {
	for name, content := range files(t) {
		t.Run(name, func(t *testing.T) {
			res, err := Redact(name, content, config)
			if err != nil {
				t.Fatal(err)
			}
			for i, line := range strings.Split(string(res.Content), "\n") {
				if planted.MatchString(line) {
					t.Errorf("line %d still has %q", i+1, line)
				}
			}
			var list strings.Builder
			for _, r := range res.Redacted {
				fmt.Fprintf(&list, "%d %s (%s)\n", r.Line, r.Row, r.Reason)
			}
			for _, r := range res.Reported {
				fmt.Fprintf(&list, "%d %s (reported: %s)\n", r.Line, r.Row, r.Reason)
			}
			golden(t, name, string(res.Content))
			golden(t, name+".list", list.String())
			again, err := Redact(name, res.Content, config)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(res.Content), string(again.Content)); d != "" || len(again.Redacted) > 0 {
				t.Errorf("the second time it changes:\n%s", d)
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s: -want +got:\n%s", name, d)
	}
}
