package n8ndb_test

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func dataKeys(t *testing.T, f n8ndbtest.Fixture, db *n8ndb.DB) []n8ndb.DataKeyRow {
	t.Helper()
	r := n8ndbtest.Receipt(t)
	k, err := db.Keyset(context.Background(), r, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := db.DataKeys(context.Background(), r, k)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestDataKeys lists what n8n said it has.
func TestDataKeys(t *testing.T) {
	listed := 0
	for _, name := range append(n8ndbtest.Few(t), "2.38.7-sqlite-keyrotation") {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			rows := dataKeys(t, f, f.Open(t, f.Copy(t)))
			want := 0
			for _, d := range f.Deployment {
				if d.Type == "data_encryption" {
					want++
				}
			}
			if len(rows) != want {
				t.Errorf("%d rows, want %d", len(rows), want)
			}
			for i, r := range rows {
				listed++
				d := f.Deployment[r.ID]
				if d.Algorithm != r.Algorithm || d.Status != r.Status || r.Wrap != "gcm" || r.Legacy() != (d.Algorithm == "aes-256-cbc") || r.Active() != (d.Status == "active") {
					t.Errorf("row %+v of %+v", r, d)
				}
				if r.Created.Year() != 2026 || r.Updated.Before(r.Created.Truncate(time.Second)) || i > 0 && r.Created.Before(rows[i-1].Created) {
					t.Errorf("times of %+v", r)
				}
			}
		})
	}
	if listed < 6 {
		t.Errorf("only %d data keys in all fixtures", listed)
	}
}

// TestAddDataKey does what n8n does: one key is active, the one before is inactive with
// its value untouched, times are as n8n writes them, and what was encrypted still opens.
func TestAddDataKey(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite-keyrotation", "2.38.7-sqlite-keyrotation", "2.41.1-postgres-keyrotation"} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			s := openSwapper(t, f, location)
			before := dataKeys(t, f, s.DB)
			made, err := s.AddDataKey(ctx, n8ndbtest.Receipt(t), f.Key)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(`^[0-9A-Za-z]{16}$`).MatchString(made.ID) || made.Wrap != "gcm" || len(made.Previous) != 1 || made.Previous[0] != activeID(f) {
				t.Errorf("made %+v", made)
			}
			after := dataKeys(t, f, s.DB)
			if len(after) != len(before)+1 {
				t.Fatalf("%d keys of %d", len(after), len(before))
			}
			active := 0
			for _, r := range after {
				if r.Active() {
					active++
				}
				i := slices.IndexFunc(before, func(b n8ndb.DataKeyRow) bool { return b.ID == r.ID })
				recent := time.Since(r.Updated).Abs() < time.Hour
				switch {
				case r.ID == made.ID:
					if r.Wrap != "gcm" || !r.Active() || time.Since(r.Created).Abs() > time.Hour || !recent {
						t.Errorf("new row %+v", r)
					}
				case r.ID == made.Previous[0]:
					if r.Active() || !recent || !r.Created.Equal(before[i].Created) {
						t.Errorf("demoted row %+v", r)
					}
				case r != before[i]:
					t.Errorf("row %+v was %+v", r, before[i])
				}
			}
			if active != 1 {
				t.Errorf("%d are active", active)
			}
			// In the form in which n8n itself writes them.
			var created, updated, demoted string
			db := rawDB(t, f, location)
			text := `SELECT CAST("createdAt" AS text), CAST("updatedAt" AS text) FROM deployment_key WHERE id = $1`
			if err := db.QueryRow(text, made.ID).Scan(&created, &updated); err != nil {
				t.Fatal(err)
			}
			if err := db.QueryRow(text, made.Previous[0]).Scan(new(string), &demoted); err != nil {
				t.Fatal(err)
			}
			if f.Engine == n8ndb.SQLite {
				if len(created) != len("2026-11-21 00:24:55.404") || created != updated || len(demoted) != len("2026-11-21 00:24:55") {
					t.Errorf("times %q %q %q", created, updated, demoted)
				}
			} else if created != updated || updated != demoted {
				t.Errorf("times %q %q %q", created, updated, demoted)
			}
			r := n8ndbtest.Census(t, s.DB, f.Key, n8ndb.CensusConfig{})
			if r.Census.Failed != 0 || r.Census.MisreadTotal != 0 {
				t.Errorf("census %+v", r.Census)
			}
		})
	}
}

// TestAddDataKeyAtOnce: several that rotate at once leave one active key.
func TestAddDataKeyAtOnce(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite-keyrotation", "2.41.1-postgres-keyrotation"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location := f.Copy(t)
			const n = 4
			var all sync.WaitGroup
			for range n {
				s, r := openSwapper(t, f, location), n8ndbtest.Receipt(t)
				all.Go(func() {
					if _, err := s.AddDataKey(context.Background(), r, f.Key); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			rows := dataKeys(t, f, f.Open(t, location))
			active := 0
			for _, r := range rows {
				if r.Active() {
					active++
				}
			}
			if active != 1 || len(rows) != n+3 {
				t.Errorf("%d of %d keys are active", active, len(rows))
			}
		})
	}
}

// TestAddDataKeyAsTheVersionDoes: formats of n8n 2.18 and 2.19.
func TestAddDataKeyAsTheVersionDoes(t *testing.T) {
	for _, c := range []struct {
		minor int
		wrap  string
	}{{18, "plaintext"}, {19, "cbc"}, {20, "gcm"}, {41, "gcm"}} {
		f := n8ndbtest.Load(t, "2.41.1-sqlite-keyrotation")
		location := f.Copy(t)
		f.Exec(t, location, `UPDATE instance_version_history SET minor = $1`, c.minor)
		s := openSwapper(t, f, location)
		made, err := s.AddDataKey(context.Background(), n8ndbtest.Receipt(t), f.Key)
		if err != nil || made.Wrap != c.wrap {
			t.Errorf("2.%d: %v, %+v", c.minor, err, made)
			continue
		}
		rows := dataKeys(t, f, s.DB)
		i := slices.IndexFunc(rows, func(r n8ndb.DataKeyRow) bool { return r.ID == made.ID })
		if i < 0 || rows[i].Wrap != c.wrap {
			t.Errorf("2.%d: rows %+v", c.minor, rows)
		}
	}
}

func TestAddDataKeyRefusals(t *testing.T) {
	for _, c := range []struct {
		fixture, prepare, key string
		kind                  problem.Kind
		want                  string
	}{
		{"2.0.3-sqlite", "", "", problem.CheckFailed, "n8n before 2.18 has no data keys"},
		{"2.38.7-sqlite", "", "", problem.CheckFailed, "this database has no data key yet"},
		{"2.41.1-sqlite-keyrotation", "", "another-instance-key-0123456789", problem.WrongKey, "the instance key opens none of the 2 data keys of this database"},
	} {
		f := n8ndbtest.Load(t, c.fixture)
		key := f.Key
		if c.key != "" {
			key = n8ndbtest.Key(t, c.key)
		}
		location := f.Copy(t)
		s := openSwapper(t, f, location)
		_, err := s.AddDataKey(context.Background(), n8ndbtest.Receipt(t), key)
		if problem.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) || problem.HintOf(err) == "" {
			t.Errorf("%s: %v; hint %q", c.fixture, err, problem.HintOf(err))
		}
	}
	f := n8ndbtest.Load(t, "2.41.1-sqlite-keyrotation")
	s := openSwapper(t, f, f.Copy(t))
	var none n8ndb.CensusConfig
	if _, err := s.AddDataKey(context.Background(), none.Receipt, f.Key); err == nil || !strings.Contains(err.Error(), "before the audit event") {
		t.Errorf("%v", err)
	}
}
