package backup_test

import (
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/backup"
	"github.com/n8keep/n8keep/internal/problem"
)

// TestAltered: a verification says of each object what was done to it, also when
// the archive turns out to be damaged.
func TestAltered(t *testing.T) {
	s := newShelf(t)
	id := s.add(0)
	for _, c := range []struct{ name, text string }{{id.SidecarName(), "the sidecar "}, {id.ArchiveName(), "the archive "}} {
		store := &marked{Store: s.memory, altered: map[string]string{c.name: "overwritten once"}}
		want := c.text + c.name + " was altered in the target: overwritten once"
		v, err := backup.Verify(t.Context(), backup.VerifyConfig{Store: store, ID: id, Trust: s.trust})
		if err != nil || len(v.Altered) != 1 || v.Altered[0].Code != backup.FoundAltered || v.Altered[0].Place != string(id) || v.Altered[0].Detail != want {
			t.Errorf("%+v %v", v, err)
		}
		if found, err := backup.Altered(t.Context(), store, id); err != nil || len(found) != 1 || found[0].Detail != want {
			t.Errorf("%+v %v", found, err)
		}
	}
	if found, err := backup.Altered(t.Context(), s.memory, id); err != nil || len(found) != 0 {
		t.Errorf("nobody touched it: %+v %v", found, err)
	}
	s.memory.Tamper(id.ArchiveName(), func(b []byte) []byte { b[9] ^= 1; return b })
	store := &marked{Store: s.memory, altered: map[string]string{id.ArchiveName(): "overwritten once"}}
	_, err := backup.Verify(t.Context(), backup.VerifyConfig{Store: store, ID: id, Trust: s.trust})
	if problem.KindOf(err) != problem.Damaged || !strings.Contains(problem.HintOf(err), "was altered in the target: overwritten once") {
		t.Errorf("%v (hint %q)", err, problem.HintOf(err))
	}
}
