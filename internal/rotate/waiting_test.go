package rotate

import (
	"errors"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
)

// TestWaiting: by default the data of finished executions stays under the old key. What
// was rotated and has finished since comes back all the same, also when n8n was started
// by hand before the rotation had come to that.
func TestWaiting(t *testing.T) {
	for name, fixture := range engines() {
		t.Run(name, func(t *testing.T) {
			b := newBase(t, fixture)
			for _, op := range []string{"", "place-bundle 1"} {
				j := b.world(t)
				j.Waiting = true
				before := b.rowsOf(t, j)
				_, err := j.with(t, t.Context(), at(op, func() error { return errors.New("interrupted by the test") }))
				if (err == nil) != (op == "") {
					t.Fatal(err)
				}
				db, err := b.open(b.location(j))
				if err != nil {
					t.Fatal(err)
				}
				now := readingOf(t, db, mustKey(newText), nil, "", n8ndb.Unfinished)
				all := reading(t, db, mustKey(newText), []n8ndb.OtherKey{{Name: "old", Key: mustKey(j.Old)}}, "")
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				old := 0
				for _, ref := range all.keys {
					if ref == "old" {
						old++
					}
				}
				if len(now.closed)+len(all.closed) > 0 || old == 0 || len(now.values) >= len(all.values) {
					t.Errorf("%d and %d values do not open, %d are under the old key, %d of %d in scope", len(now.closed), len(all.closed), old, len(now.values), len(all.values))
				}
				b.exec(t, j, `UPDATE execution_entity SET status = 'success', finished = true, "stoppedAt" = CURRENT_TIMESTAMP WHERE status IN ('waiting', 'running', 'new')`)
				j.Do = "rollback"
				if _, err := j.do(); err != nil {
					t.Fatal(err)
				}
				b.check(t, j, "rolled back")
				if b.rowsOf(t, j) != before {
					t.Error("the rows have other bytes than before")
				}
			}
		})
	}
}

func (b *base) location(j job) string {
	if j.DSN != "" {
		return j.DSN
	}
	return j.path("home", "database.sqlite")
}
