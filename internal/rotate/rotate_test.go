package rotate

import (
	"testing"
)

// engines are the fixtures of both.
func engines() map[string]string {
	return map[string]string{"sqlite": "2.41.1-sqlite", "postgres": "2.41.1-postgres"}
}

// TestThereAndBack rotates a database with a value in every place, and rolls it back
// to the bytes it had.
func TestThereAndBack(t *testing.T) {
	for name, fixture := range engines() {
		t.Run(name, func(t *testing.T) {
			b := newBase(t, fixture)
			for _, leak := range []bool{false, true} {
				j := b.world(t)
				j.Leak = leak
				before := b.rowsOf(t, j)
				r, err := j.do()
				if err != nil {
					t.Fatalf("%v: %+v", err, r)
				}
				if b.check(t, j, "rotated") != newWorld {
					t.Error("not rotated")
				}
				if r.Journal.Values < 40 || r.Journal.Bundles != 1 || len(r.Journal.ChangedSince) > 0 || r.Journal.State != Verified || len(r.Warnings) > 0 {
					t.Errorf("%+v, warnings %q", r.Journal, r.Warnings)
				}
				j.Do = "rollback"
				if r, err = j.do(); err != nil {
					t.Fatal(err)
				}
				if b.check(t, j, "rolled back") != oldWorld {
					t.Error("not rolled back")
				}
				if after := b.rowsOf(t, j); after != before && !leak {
					t.Error("the rows have other bytes than before")
				}
				if r.Journal.Undone.Changed != 0 || r.Journal.Undone.Gone != 0 || r.Journal.Undone.Restored == 0 {
					t.Errorf("%+v", r.Journal.Undone)
				}
			}
		})
	}
}
