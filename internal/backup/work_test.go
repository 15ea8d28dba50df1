package backup

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

// TestWorkSpace: each command names only flags that it has.
func TestWorkSpace(t *testing.T) {
	w, err := OpenWork(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, c := range []struct {
		need       func(int64) error
		text, hint string
	}{
		{w.Need, "MiB for a private copy of the database and has", "choose a larger file system with --work-dir, or leave finished executions out with --history none"},
		{w.NeedToUnpack, "MiB for what the archive holds and has", "give another folder with --work-dir"},
	} {
		if err := c.need(1); err != nil {
			t.Error(err)
		}
		if err := c.need(1 << 62); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), c.text) || problem.HintOf(err) != c.hint {
			t.Errorf("%v\n%s", err, problem.HintOf(err))
		}
	}
}
