package rotate

import (
	"errors"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/problem"
)

// TestNamedOnce: an error names its rotation, and only once.
func TestNamedOnce(t *testing.T) {
	e := &engine{j: &Journal{ID: "20260801T020000Z-prod-abcdef", State: Verified}}
	for _, cause := range []error{
		errors.New("the disk is full"),
		problem.New(problem.Usage, "rotation %q is over: it is %s", e.j.ID, e.j.State),
	} {
		if _, err := e.result(cause); err == nil || strings.Count(err.Error(), e.j.ID) != 1 || problem.KindOf(err) != problem.KindOf(cause) {
			t.Errorf("%v", err)
		}
	}
}

// TestJournalIs: a rotation is of a database by either name, and an empty name is none.
func TestJournalIs(t *testing.T) {
	j := &Journal{Database: "postgres://a:5432/d", SameDatabase: "server:1"}
	for name, want := range map[string]bool{"postgres://a:5432/d": true, "server:1": true, "postgres://b:5432/d": false, "server:2": false, "": false} {
		if got := j.Is(name, "another"); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if (&Journal{Database: "x"}).Is("") {
		t.Error("a database without a second name is not every one")
	}
}
