//go:build e2e

package e2e

import (
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/api"
)

// TestRetreat has what n8keep cannot help get in the way of a rotation of a living n8n, and of the way back: either nothing
// was changed and n8n runs again as before, or the rotation is resumed.
func TestRetreat(t *testing.T) {
	if !every() {
		return // the tests of internal/rotate have it, without an n8n
	}
	for _, v := range versions() {
		if strings.HasPrefix(v, "1.") {
			continue // whoever reads its SQLite file keeps n8n from starting
		}
		for _, p := range []place{{version: v}, {version: v, postgres: true}} {
			t.Run(p.name(), func(t *testing.T) { retreatStory(t, p) })
		}
	}
}

func retreatStory(t *testing.T, p place) {
	step := stepsOf(t)
	h, l := begin(t, p)
	r := newRotator(t, h, l)
	oldKey, newKey := r.key, r.read(t, r.newKey)
	failed := func(t *testing.T, doc []byte, code int, state string, says ...string) api.Rotation {
		t.Helper()
		var not api.Rotation
		decode(t, doc, &not)
		if not.State != state || not.Error == nil || not.Error.Exit != code || not.Do == nil {
			t.Fatalf("a failure that should leave it %s: %+v, error %+v", state, not, not.Error)
		}
		for _, s := range says {
			if !strings.Contains(not.Error.Message+" "+not.Error.Hint, s) {
				t.Errorf("the error does not say %q: %+v", s, not.Error)
			}
		}
		return not
	}

	step("somebody uses the database for too long", func(t *testing.T) {
		release := h.holdOnceStopped(t, l)
		doc := r.instance(t, 11, append(r.hooks(t), "--yes")...)
		release()
		failed(t, doc, 11, "abandoned", "nothing was changed", "old key")
		r.keyIs(t, oldKey)
		l.on(t, h)
	})
	var done api.Rotation
	step("somebody uses the database in passing, and n8n does not start", func(t *testing.T) {
		release := h.holdOnceStopped(t, l)
		h.then(func() { time.AfterFunc(3*time.Second, release) })
		h.breaks(true)
		doc := r.instance(t, 1, append(r.hooks(t), "--yes")...)
		h.breaks(false)
		done = failed(t, doc, 1, "applied", "rotate resume")
		r.keyIs(t, newKey)
	})
	step("resume", func(t *testing.T) {
		done = r.rotation(t, r.run(t, 0, "rotate", "resume", done.ID, "--yes", "--json"), "verified")
		l.on(t, h)
	})
	step("somebody uses the database while it is rolled back", func(t *testing.T) {
		release := h.holdOnceStopped(t, l)
		doc := r.run(t, 11, "rotate", "rollback", done.ID, "--yes", "--json")
		release()
		failed(t, doc, 11, "verified", "changed nothing", "started again")
		r.keyIs(t, newKey)
		l.on(t, h)
	})
	step("somebody uses it once more, and n8n does not start", func(t *testing.T) {
		release := h.holdOnceStopped(t, l)
		h.breaks(true)
		doc := r.run(t, 11, "rotate", "rollback", done.ID, "--yes", "--json")
		release()
		h.breaks(false)
		failed(t, doc, 11, "rolling-back", "on the way back", "start command ended", "rotate rollback")
		r.keyIs(t, newKey)
	})
	step("rollback", func(t *testing.T) {
		r.rotation(t, r.run(t, 0, "rotate", "rollback", done.ID, "--yes", "--json"), "rolled-back")
		r.keyIs(t, oldKey)
		l.on(t, h)
	})
}

// holdOnceStopped has somebody read the database from the moment at which n8n was stopped next, until release.
func (h *helm) holdOnceStopped(t *testing.T, l *life) (release func()) {
	t.Helper()
	db := openRaw(t, l)
	var tx *sql.Tx
	h.then(func() {
		var err error
		if tx, err = db.Begin(); err == nil {
			var n int
			err = tx.QueryRow("SELECT count(*) FROM credentials_entity").Scan(&n)
		}
		if err != nil {
			t.Errorf("reading the database: %v", err)
		}
	})
	return func() {
		if err := errors.Join(tx.Rollback(), db.Close()); err != nil {
			t.Errorf("letting go of the database: %v", err)
		}
	}
}
