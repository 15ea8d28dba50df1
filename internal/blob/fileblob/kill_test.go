package fileblob

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/failpoint/failtest"
)

const killContent = "0123456789abcdef"

func TestMain(m *testing.M) { os.Exit(failtest.Main(m.Run, putInto)) }

// putInto is what the process does that is killed.
func putInto(dir string) error {
	s, err := New(dir)
	if err == nil {
		_, err = s.Put(context.Background(), "a", strings.NewReader(strings.Repeat(killContent, 200_000)))
	}
	if err == nil {
		_, err = s.Put(context.Background(), "b", strings.NewReader("b"))
	}
	if err == nil {
		err = s.Delete(context.Background(), "b")
	}
	return err
}

// TestKilledAnywhere kills a process at each point where it changes something,
// and then looks at the folder with the eyes of the next one.
func TestKilledAnywhere(t *testing.T) {
	points := failtest.Points(t, filepath.Join(t.TempDir(), "target"))
	for _, want := range []string{"fileblob.folder-made", "durable.created", "fileblob.written", "fileblob.copied", "durable.synced", "durable.renamed", "durable.dir-synced", "fileblob.remove", "fileblob.removed"} {
		if !slices.Contains(points, want) {
			t.Errorf("point %q is never passed; got %q", want, points)
		}
	}
	for i, point := range points {
		t.Run(fmt.Sprintf("%d-%s", i+1, point), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "target")
			failtest.MustKill(t, dir, i+1)
			s, err := New(dir)
			if err != nil {
				t.Fatal(err)
			}
			content := strings.Repeat(killContent, 200_000)
			checkWhole(t, s, content, nil)
			retry(t, s, content)
		})
	}
}
