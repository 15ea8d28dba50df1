package restore

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/problem"
)

func TestJournalRoundTrip(t *testing.T) {
	staging := stagingPrefix + string(testID) + "/"
	at := time.Date(2026, 8, 1, 2, 0, 0, 123456789, time.UTC)
	j := &journal{Format: journalFormat, ID: testID, Started: at, Stage: placing, Folders: []string{"nodes"}, Flawed: true, Moves: []move{
		{Path: "nodes/a\nb", Staged: staging + "unpacked/1", Size: 7, ModTime: at},
		{Path: "database.sqlite", Staged: staging + "unpacked/2", Kept: "database.sqlite.before-x", Size: 8, ModTime: at},
	}}
	var b bytes.Buffer
	if err := j.encode(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if n := strings.Count(text, "\n"); n != 3 {
		t.Errorf("%d lines: %s", n, text)
	}
	read := func(text string) (*journal, error) {
		got := new(journal)
		if err := got.decode(strings.NewReader(text)); err != nil {
			return nil, err
		}
		return got, got.check(testID)
	}
	got, err := read(text)
	if err != nil {
		t.Fatal(err)
	}
	want := *j
	want.Count = 2
	if diff := cmp.Diff(&want, got, cmp.AllowUnexported(journal{})); diff != "" {
		t.Error(diff)
	}
	lines := strings.SplitAfter(text, "\n")
	for _, c := range []struct{ text, want string }{
		{lines[0] + lines[1], "it ends after 1 of 2 moves"},
		{lines[0] + lines[1] + lines[2][:20], "unexpected EOF"},
		{text + lines[2], "there is more after its last move"},
		{strings.Replace(text, `"format":2`, `"format":9`, 1), "the journal has format 9, this n8keep knows 2"},
		{strings.Replace(lines[0], `"count":2`, `"count":0`, 1), "the journal has no moves"},
	} {
		if _, err := read(c.text); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// A database whose log cannot be finished is held all the same.
func TestHoldAloneOfDamaged(t *testing.T) {
	dir := scenarios()[1].build(t)
	path := filepath.Join(dir, "database.sqlite")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 300), 100); err != nil { // all but the header of the first page
		t.Fatal(err)
	}
	f.Close()
	h, err := holdAlone(t.Context(), path, holdOptions{assumeStopped: true})
	if err != nil {
		t.Fatal(err)
	}
	if h.damaged == nil {
		t.Fatal("the database was read")
	}
	if _, err := hold(t.Context(), path, holdOptions{assumeStopped: true}); problem.KindOf(err) != problem.Busy {
		t.Errorf("not held: %v", err)
	}
	if err := h.release(); err != nil {
		t.Fatal(err)
	}
	damaged, busy := problem.New(problem.Damaged, "malformed"), problem.New(problem.Busy, "in use")
	for _, c := range []struct {
		again   error
		assume  bool
		kind    problem.Kind
		refused string
	}{
		{nil, false, "", ""},
		{busy, true, problem.Busy, "in use"},
		{os.ErrPermission, true, "", ""},
		{os.ErrPermission, false, problem.Usage, "it cannot be found out whether n8n is stopped, because its database cannot be read: malformed"},
	} {
		err := unheld(c.again, damaged, holdOptions{assumeStopped: c.assume})
		switch {
		case c.refused == "" && err != nil, c.refused != "" && (err == nil || err.Error() != c.refused || problem.KindOf(err) != c.kind):
			t.Errorf("%v, %v: got %v", c.again, c.assume, err)
		case c.kind == problem.Usage && !strings.Contains(problem.HintOf(err), "--assume-stopped"):
			t.Errorf("hint %q", problem.HintOf(err))
		}
	}
}
