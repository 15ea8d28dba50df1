package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/api"
)

// TestWhereTheChecklistIs: a resume prints the checklist of a verified rotation. Elsewhere
// it would go on, and there is no list once the rotation has ended.
func TestWhereTheChecklistIs(t *testing.T) {
	for _, state := range []string{"preparing", "applied", "verified", "rolling-back", "finalising", "finalised", "rolled-back"} {
		var out bytes.Buffer
		term := &Terminal{Out: &out, Err: &out}
		c := &commands{term: term}
		c.printRotation(&api.Rotation{ID: "R", State: state, ExposedTotal: 3, Next: []string{"go on"}})
		const line = `3 lines on the checklist, which "n8keep rotate resume R" prints`
		if got := strings.Contains(out.String(), line); got != (state == "verified") {
			t.Errorf("%s: %s", state, &out)
		}
	}
}
