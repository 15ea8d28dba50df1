package n8ndbtest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
)

// Suite checks one fixture against everything that n8n itself said about it. It is
// the same for both engines.
func Suite(t *testing.T, f Fixture) {
	location := f.Copy(t)
	db := f.Open(t, location)
	t.Run("right key", func(t *testing.T) { rightKey(t, f, db) })
	t.Run("wrong key", func(t *testing.T) { wrongKey(t, f, db) })
	t.Run("version", func(t *testing.T) { version(t, f, db) })
	t.Run("row counts", func(t *testing.T) { rowCounts(t, f, db) })
	t.Run("workflows", func(t *testing.T) { workflows(t, f, db) })
	t.Run("sweep", func(t *testing.T) { clean(t, f, db) })
}

func (f Fixture) rotated() bool { return strings.HasSuffix(f.Name, "-keyrotation") }

func rightKey(t *testing.T, f Fixture, db *n8ndb.DB) {
	r := Census(t, db, f.Key, n8ndb.CensusConfig{Executions: n8ndb.AllExecutions})
	c := r.Census
	if c.Failed != 0 || c.MisreadTotal != 0 || c.Unproved != 0 || c.Opened == 0 || c.Proved != c.Opened || c.Values != c.Opened+c.Plain || int(c.Values) != len(r.Secrets) {
		t.Errorf("census %+v", c)
	}
	got := map[string]string{}
	for _, s := range r.Secrets {
		if strings.HasPrefix(string(s.Place), "credentials_entity") {
			got[s.Row] = r.Plaintexts[string(s.Place)+"["+s.Row+"]"]
		}
	}
	if len(f.Credentials) == 0 || len(got) != len(f.Credentials) {
		t.Errorf("%d credentials, n8n exported %d", len(got), len(f.Credentials))
	}
	for id, want := range f.Credentials {
		// A credential that was changed after the fixture's list was written, where n8n could not export it.
		if diff := cmp.Diff(decoded(t, want), decoded(t, got[id])); diff != "" && !(f.rotated() && !exists(filepath.Join(f.Dir, "credentials-decrypted.json"))) {
			t.Errorf("credential %q: %s", id, diff)
		}
	}
	for id, want := range f.Values {
		place, row, _ := strings.Cut(strings.TrimSuffix(id, "]"), "[")
		key := place + "[" + row + "]"
		if place == "settings" {
			key = id + "[" + row + "]"
			if name, member, ok := strings.Cut(id, "]."); ok {
				row = strings.TrimPrefix(name, "settings[")
				key = name + "]." + member + "[" + row + "]"
			}
		}
		if have, ok := r.Plaintexts[key]; !ok || have != want {
			t.Errorf("%s: not opened as n8n would (found %t)", id, ok)
		}
	}
	for _, s := range r.Secrets {
		if d, ok := f.Deployment[s.Row]; ok && strings.HasPrefix(string(s.Place), "deployment_key") {
			if s.Opens && r.Plaintexts[string(s.Place)+"["+s.Row+"]"] != d.Plain {
				t.Errorf("deployment key %q of type %q has another plaintext", d.ID, d.Type)
			}
			if s.Plain != (d.Plain == d.Value) {
				t.Errorf("deployment key %q of type %q: plain is %t", d.ID, d.Type, s.Plain)
			}
			delete(f.Deployment, s.Row)
		}
	}
	for id, d := range f.Deployment {
		t.Errorf("deployment key %q of type %q was not visited", id, d.Type)
	}
	if f.rotated() && len(c.ByKey) < 3 {
		t.Errorf("keys %v, want the instance key and two data keys", c.ByKey)
	}
	again := Census(t, db, f.Key, n8ndb.CensusConfig{Executions: n8ndb.AllExecutions})
	if diff := cmp.Diff(r.Secrets, again.Secrets); diff != "" {
		t.Errorf("a second census differs: %s", diff)
	}
}

func decoded(t *testing.T, s string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Errorf("not JSON: %v", err)
	}
	return v
}

func wrongKey(t *testing.T, f Fixture, db *n8ndb.DB) {
	for _, text := range []string{"wrong-key-0123456789abcdef", f.Key.Reveal() + "x", strings.ToUpper(f.Key.Reveal())} {
		r := Census(t, db, Key(t, text), n8ndb.CensusConfig{Executions: n8ndb.AllExecutions})
		if r.Census.Opened != 0 || r.Census.Failed == 0 || len(r.Plaintexts) != 0 {
			t.Errorf("%d of %d values open with a wrong key", r.Census.Opened, r.Census.Values)
		}
		for _, s := range r.Secrets {
			if !s.Plain && s.Problem != n8ndb.WrongKey && s.Problem != n8ndb.UnknownKeyID {
				t.Errorf("%s %s: problem %q", s.Place, s.Row, s.Problem)
			}
		}
	}
}

func version(t *testing.T, f Fixture, db *n8ndb.DB) {
	v, err := db.Version(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want, source := f.N8NVersion, "instance_version_history"
	if known := map[string]string{"1.123.81": "1.123.x", "2.0.3": "2.0.x"}[want]; known != "" {
		want, source = known, "migrations"
	}
	if v.N8N != want || v.Source != source || v.Warning != "" || v.LastMigration == "" || v.Migrations < 100 {
		t.Errorf("version %+v, want %q from %s", v, want, source)
	}
}

func rowCounts(t *testing.T, f Fixture, db *n8ndb.DB) {
	counts, err := db.RowCounts(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, c := range counts {
		got[c.Table] = c.Rows
	}
	if len(f.TableCounts) == 0 {
		t.Fatal("the fixture has no counts")
	}
	for table, want := range f.TableCounts {
		// n8n compacts its insights on a timer of its own.
		if have, ok := got[table]; !strings.HasPrefix(table, "sqlite_") && !strings.HasPrefix(table, "insights_") && (!ok || have != want) {
			t.Errorf("%s has %d rows (listed %t), want %d", table, have, ok, want)
		}
	}
	if !slices.IsSortedFunc(counts, func(a, b n8ndb.RowCount) int { return strings.Compare(a.Table, b.Table) }) {
		t.Error("tables are not sorted")
	}
}

// workflows compares with what n8n export:workflow --all wrote, byte by byte where
// the member order is n8n's own.
func workflows(t *testing.T, f Fixture, db *n8ndb.DB) {
	b, err := os.ReadFile(filepath.Join(f.Dir, "workflows.json"))
	if err != nil {
		t.Fatal(err)
	}
	var exported []json.RawMessage
	if err := json.Unmarshal(b, &exported); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, w := range exported {
		var head struct{ ID string }
		if err := json.Unmarshal(w, &head); err != nil {
			t.Fatal(err)
		}
		want[head.ID] = string(w)
	}
	n := 0
	for w, err := range db.Workflows(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		var have bytes.Buffer
		if err := json.Compact(&have, w.JSON); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(decoded(t, want[w.ID]), decoded(t, have.String())); diff != "" {
			t.Errorf("workflow %q: %s", w.ID, diff)
		} else if have.String() != want[w.ID] {
			t.Errorf("workflow %q has its members in another order than n8n's\n%s\n%s", w.ID, have.String(), want[w.ID])
		}
		if w.Name == "" || !bytes.HasSuffix(w.JSON, []byte("}\n")) {
			t.Errorf("workflow %q: name %q", w.ID, w.Name)
		}
	}
	if n == 0 || n != len(exported) {
		t.Errorf("%d workflows, n8n exported %d", n, len(exported))
	}
}

// clean: a real database holds nothing outside the catalogue, nor the key.
func clean(t *testing.T, f Fixture, db *n8ndb.DB) {
	r := Census(t, db, f.Key, n8ndb.CensusConfig{Executions: n8ndb.AllExecutions, Sweep: true, Needle: n8ndb.NewNeedle(f.Key)})
	if len(r.Census.Unlisted) != 0 || r.Census.NeedleTotal != 0 {
		t.Errorf("unlisted %v, needle %v", r.Census.Unlisted, r.Census.NeedleHits)
	}
}

// SuiteSeeded checks that each of the 24 rows of the catalogue is found, opened and
// not opened by a wrong key.
func SuiteSeeded(t *testing.T, f Fixture) {
	location, seeded := f.CopySeeded(t)
	db := f.Open(t, location)
	cfg := n8ndb.CensusConfig{Executions: n8ndb.AllExecutions, BundleDir: seeded.BundleDir, Sweep: true}
	r := Census(t, db, f.Key, cfg)
	found := map[string]n8ndb.Secret{}
	for _, s := range r.Secrets {
		found[string(s.Place)+"["+s.Row+"]"] = s
	}
	for _, want := range seeded.Secrets {
		id := string(want.Place) + "[" + want.Row + "]"
		s, ok := found[id]
		switch {
		case !ok:
			t.Errorf("%s: not found", id)
		case want.Plaintext == "" && !s.Plain:
			t.Errorf("%s: not seen as stored in clear: %+v", id, s)
		case want.Plaintext != "" && (!s.Opens || r.Plaintexts[id] != want.Plaintext || s.KeyRef != want.KeyRef):
			t.Errorf("%s: want key %q, got %+v", id, want.KeyRef, s)
		}
	}
	if r.Census.Failed != 0 || len(r.Census.Unlisted) != 0 {
		t.Errorf("failures %+v, unlisted %+v", r.Census.Failures, r.Census.Unlisted)
	}
	rows := map[int]bool{}
	for _, p := range n8ndb.Catalogue() {
		for _, s := range r.Secrets {
			rows[p.Number] = rows[p.Number] || s.Place == p.ID
		}
	}
	for n := 1; n <= 24; n++ {
		if !rows[n] {
			t.Errorf("row %d of the catalogue has no value", n)
		}
	}
	wrong := Census(t, db, Key(t, "another-instance-key-0123"), cfg)
	for _, s := range wrong.Secrets {
		if s.Opens {
			t.Errorf("%s %s opens with a wrong key", s.Place, s.Row)
		}
	}
	if len(wrong.Secrets) != len(r.Secrets) {
		t.Errorf("a wrong key finds %d values, the right one %d", len(wrong.Secrets), len(r.Secrets))
	}
	scopes(t, f, db, seeded)
}

func scopes(t *testing.T, f Fixture, db *n8ndb.DB, seeded Seeded) {
	receipt := Receipt(t)
	for scope, want := range map[n8ndb.ExecutionScope]int{n8ndb.NoExecutions: 0, n8ndb.Unfinished: 4 * 3, n8ndb.AllExecutions: 5 * 3} {
		r := Census(t, db, f.Key, n8ndb.CensusConfig{Receipt: receipt, Executions: scope, BundleDir: seeded.BundleDir, Sweep: true})
		n := 0
		for _, s := range r.Secrets {
			if p, _ := n8ndb.Catalogued(s.Place); p.Number == 17 || p.Number == 18 {
				n++
				if scope == n8ndb.Unfinished && strings.HasPrefix(s.Row, seeded.Executions["success"]+"#") {
					t.Errorf("%s %s belongs to a finished execution", s.Place, s.Row)
				}
			}
		}
		if n != want || len(r.Census.Unlisted) != 0 {
			t.Errorf("scope %d has %d values, want %d; unlisted %v", scope, n, want, r.Census.Unlisted)
		}
	}
}
