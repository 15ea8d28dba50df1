package n8ndb_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/problem"
	"github.com/n8keep/n8keep/n8ncrypt"
)

const newKeyText = "the-new-instance-key-of-a-test"

// resealer is what a rotation's sealer is, without its reasons: everything under the
// old key comes under the new one, in the same format.
func resealer(old, fresh n8ncrypt.InstanceKey) n8ndb.Sealer {
	return func(p n8ndb.Place, s n8ndb.Secret, plaintext []byte) (string, bool, error) {
		legacy := p.ID == "deployment_key[data_encryption/aes-256-cbc]"
		switch {
		case s.Plain && legacy && string(plaintext) == old.Reveal():
			return fresh.Reveal(), true, nil
		case !s.Opens || s.KeyRef != n8ndb.KeyInstance && !legacy:
			return "", false, nil
		case legacy:
			plaintext = []byte(fresh.Reveal())
		}
		if s.Format == n8ncrypt.GCM.String() {
			text, err := fresh.Wrap(plaintext)
			return text, true, err
		}
		v, err := fresh.EncryptCBC(plaintext)
		return v.String(), true, err
	}
}

func writer(t testing.TB, f n8ndbtest.Fixture, location string) *n8ndb.Writer {
	t.Helper()
	w, err := openWriter(f, location)
	// The server shows a session for a moment after it has ended.
	for i := 0; i < 200 && f.Engine == n8ndb.Postgres && problem.KindOf(err) == problem.Busy; i++ {
		w, err = openWriter(f, location)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("closing the writer: %v", err)
		}
	})
	return w
}

func openWriter(f n8ndbtest.Fixture, location string) (*n8ndb.Writer, error) {
	if f.Engine == n8ndb.Postgres {
		return n8ndb.WritePostgres(context.Background(), n8ndb.PostgresWriteConfig{DSN: location})
	}
	return n8ndb.WriteSQLite(context.Background(), n8ndb.SQLiteWriteConfig{Path: location, Hold: n8ndb.HoldConfig{AssumeStopped: true}})
}

// dumped is a database as text: by table, primary key and column.
type dumped map[string]map[string]map[string]string

func dump(t testing.TB, f n8ndbtest.Fixture, location string) dumped {
	t.Helper()
	ctx := context.Background()
	var db *n8ndb.DB
	var pool *sql.DB
	var err error
	if f.Engine == n8ndb.Postgres {
		if db, err = n8ndb.OpenPostgres(ctx, n8ndb.PostgresConfig{DSN: location}); err == nil {
			pool, err = sql.Open("pgx", location)
		}
	} else if db, err = n8ndb.OpenSQLite(ctx, n8ndb.SQLiteConfig{Path: location}); err == nil {
		pool, err = sql.Open("sqlite", "file:"+location+"?mode=ro")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	defer pool.Close()
	tables, err := db.Tables(ctx)
	if err != nil || len(tables) == 0 {
		t.Fatalf("%d tables, %v", len(tables), err)
	}
	all := dumped{}
	for _, table := range tables {
		all[table.Name] = map[string]map[string]string{}
		exprs := make([]string, len(table.Columns))
		for i, c := range table.Columns {
			exprs[i] = `coalesce("` + c.Name + `"::text, 'NULL')`
			if f.Engine == n8ndb.SQLite {
				exprs[i] = `quote("` + c.Name + `")`
			}
		}
		rows, err := pool.Query(`SELECT ` + strings.Join(exprs, ", ") + ` FROM "` + table.Name + `"`)
		if err != nil {
			t.Fatal(err)
		}
		texts, dest := make([]string, len(exprs)), make([]any, len(exprs))
		for i := range dest {
			dest[i] = &texts[i]
		}
		n := 0
		for rows.Next() {
			if err := rows.Scan(dest...); err != nil {
				t.Fatal(err)
			}
			row, key := map[string]string{}, []string{}
			for i, c := range table.Columns {
				row[c.Name] = texts[i]
			}
			for _, name := range table.PrimaryKey {
				key = append(key, strings.Trim(row[name], "'"))
			}
			if len(key) == 0 {
				key = []string{fmt.Sprint("row ", n)}
			}
			all[table.Name][strings.Join(key, "/")] = row
			n++
		}
		if err := rows.Err(); err != nil || n != len(all[table.Name]) {
			t.Fatalf("%s: %d rows, %d keys, %v", table.Name, n, len(all[table.Name]), err)
		}
		rows.Close()
	}
	return all
}

// difference is what cmp.Diff would say, in a fraction of the time.
func difference(want, got dumped) string {
	var list []string
	for table := range want {
		if len(want[table]) != len(got[table]) {
			list = append(list, fmt.Sprintf("%s has %d rows, not %d", table, len(got[table]), len(want[table])))
		}
		for key, row := range want[table] {
			if !maps.Equal(row, got[table][key]) {
				list = append(list, fmt.Sprintf("%s %q: %s", table, key, cmp.Diff(row, got[table][key])))
			}
		}
	}
	if len(want) != len(got) || len(want) == 0 {
		list = append(list, fmt.Sprintf("%d tables, not %d", len(got), len(want)))
	}
	return strings.Join(list[:min(len(list), 5)], "\n")
}

// quoted is a text as dump has it.
func quoted(f n8ndbtest.Fixture, text string) string {
	if f.Engine == n8ndb.SQLite {
		return "'" + strings.ReplaceAll(text, "'", "''") + "'"
	}
	return text
}

// apply makes changes to a dump.
func (d dumped) apply(t testing.TB, f n8ndbtest.Fixture, changes []n8ndb.Change) {
	t.Helper()
	for _, c := range changes {
		row := d[c.Table][strings.Join(c.Key, "/")]
		switch {
		case row == nil:
			t.Errorf("a change of row %q, which %q does not have", c.Key, c.Table)
			continue
		case row[c.Column] != quoted(f, c.Before):
			t.Errorf("%s.%s of %q held something else before", c.Table, c.Column, c.Key)
		case sha256.Sum256([]byte(c.After)) != c.AfterSum || c.After == c.Before:
			t.Errorf("%s.%s of %q: the change does not fit itself", c.Table, c.Column, c.Key)
		}
		row[c.Column] = quoted(f, c.After)
	}
}

func sequence(changes []n8ndb.Change) iter.Seq2[n8ndb.Change, error] {
	return func(yield func(n8ndb.Change, error) bool) {
		for _, c := range changes {
			c.After = "" // a journal has only its sum
			if !yield(c, nil) {
				return
			}
		}
	}
}

// rewrite runs old to new in a transaction that is not ended.
func rewrite(t testing.TB, w *n8ndb.Writer, old, fresh n8ncrypt.InstanceKey) (changes []n8ndb.Change, secrets []n8ndb.Secret, out *n8ndb.Rewritten) {
	t.Helper()
	ctx := context.Background()
	r := n8ndbtest.Receipt(t)
	keys, err := w.Keyset(ctx, r, old)
	if err != nil {
		t.Fatal(err)
	}
	out, err = w.Rewrite(ctx, n8ndb.RewriteConfig{Keys: keys, Receipt: r, Executions: n8ndb.AllExecutions, Seal: resealer(old, fresh),
		Digest: func(place, row string, plaintext []byte) string { return "digest" },
		Visit:  func(s n8ndb.Secret) error { secrets = append(secrets, s); return nil },
		Record: func(c n8ndb.Change) error { changes = append(changes, c); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	return changes, secrets, out
}

// byPlace sorts secrets by place, leaving the order within each: the places of one
// column are read together by a Rewrite.
func byPlace(secrets []n8ndb.Secret) []n8ndb.Secret {
	list := slices.DeleteFunc(slices.Clone(secrets), func(s n8ndb.Secret) bool { return strings.HasPrefix(string(s.Place), "bundle") })
	slices.SortStableFunc(list, func(a, b n8ndb.Secret) int { return strings.Compare(string(a.Place), string(b.Place)) })
	return list
}

// TestRewrite takes a database from the old key to a new one, and back by its
// pre-images.
func TestRewrite(t *testing.T) {
	// What is seeded holds all that the same without it does.
	names := slices.DeleteFunc(n8ndbtest.Few(t), func(name string) bool { return name == "2.41.1-sqlite" || name == "2.41.1-postgres" })
	names = append(names, "2.41.1-sqlite seeded")
	if soak() {
		names = append(names, "2.41.1-postgres seeded")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			base, seed := strings.CutSuffix(name, " seeded")
			f := n8ndbtest.Load(t, base)
			location, _ := f.Prepare(t, seed)
			ctx := context.Background()
			fresh := n8ndbtest.Key(t, newKeyText)
			cfg := n8ndb.CensusConfig{Executions: n8ndb.AllExecutions}
			before := dump(t, f, location)
			db := f.Open(t, location)
			read := n8ndbtest.Census(t, db, f.Key, cfg)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}

			w := writer(t, f, location)
			changes, secrets, out := rewrite(t, w, f.Key, fresh)
			if diff := cmp.Diff(byPlace(read.Secrets), byPlace(secrets)); diff != "" {
				t.Errorf("a census and a rewrite meet other values: %s", diff)
			}
			if out.Columns != int64(len(changes)) || out.Unopened != read.Census.Failed || out.Values < out.Columns || len(changes) == 0 {
				t.Errorf("%d changes, %+v", len(changes), out)
			}
			check := func(db *n8ndb.DB, where string) {
				t.Helper()
				again := n8ndbtest.Census(t, db, fresh, cfg)
				want := map[string]string{}
				for id, text := range read.Plaintexts {
					if text == f.Key.Reveal() && strings.HasPrefix(id, "deployment_key[data_encryption/aes-256-cbc]") {
						text = newKeyText
					}
					want[id] = text
				}
				if diff := cmp.Diff(want, again.Plaintexts); diff != "" {
					t.Errorf("%s, the plaintexts differ: %s", where, diff)
				}
				if c := again.Census; c.Failed != read.Census.Failed || c.Opened != read.Census.Opened || c.MisreadTotal != read.Census.MisreadTotal {
					t.Errorf("%s: %+v, before %+v", where, c, read.Census)
				}
				if where == "afterwards" && !soak() {
					return
				}
				sw := n8ndbtest.Census(t, db, f.Key, n8ndb.CensusConfig{Executions: n8ndb.AllExecutions, Sweep: true, Needle: n8ndb.NewNeedle(f.Key)})
				if len(sw.Census.Unlisted) != 0 || sw.Census.NeedleTotal != 0 {
					t.Errorf("%s, the sweep finds %v, the old key %v", where, sw.Census.Unlisted, sw.Census.NeedleHits)
				}
				for _, s := range sw.Secrets {
					if s.Opens && !s.Unproved {
						t.Errorf("%s, %s %s opens under the old key", where, s.Place, s.Row)
					}
				}
			}
			check(w.DB, "in the transaction")
			if err := w.Commit(ctx); err != nil || len(w.Warnings) != 0 {
				t.Fatalf("%v, warnings %v", err, w.Warnings)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			db = f.Open(t, location)
			check(db, "afterwards")
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			want := dump(t, f, location)
			expected := dumped{}
			for table, rows := range before {
				expected[table] = map[string]map[string]string{}
				for key, row := range rows {
					expected[table][key] = map[string]string{}
					for column, text := range row {
						expected[table][key][column] = text
					}
				}
			}
			expected.apply(t, f, changes)
			if diff := difference(expected, want); diff != "" {
				t.Errorf("something else has changed: %s", diff)
			}

			w = writer(t, f, location)
			restored, err := w.Restore(ctx, sequence(changes))
			if err != nil || restored != (n8ndb.Restored{Restored: int64(len(changes))}) {
				t.Errorf("%+v of %d, %v", restored, len(changes), err)
			}
			restored, err = w.Restore(ctx, sequence(changes))
			if err != nil || restored != (n8ndb.Restored{Same: int64(len(changes))}) {
				t.Errorf("a second time: %+v of %d, %v", restored, len(changes), err)
			}
			if err := w.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if diff := difference(before, dump(t, f, location)); diff != "" {
				t.Errorf("the pre-images do not bring everything back: %s", diff)
			}
		})
	}
}

func soak() bool { return os.Getenv("N8KEEP_SOAK") != "" }

// both are one database of each engine with every place filled.
func both(t *testing.T, do func(t *testing.T, f n8ndbtest.Fixture, location string)) {
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			f := n8ndbtest.Load(t, name)
			location, _ := f.CopySeeded(t)
			do(t, f, location)
		})
	}
}

func TestRewriteRolledBack(t *testing.T) {
	both(t, func(t *testing.T, f n8ndbtest.Fixture, location string) {
		before := dump(t, f, location)
		for range 2 { // a rollback leaves nothing that stands against the next attempt
			w := writer(t, f, location)
			rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Errorf("closing again: %v", err)
			}
			if diff := difference(before, dump(t, f, location)); diff != "" {
				t.Error(diff)
			}
		}
	})
}

// TestRestoreAfterChanges: what n8n has written since is left alone.
func TestRestoreAfterChanges(t *testing.T) {
	both(t, func(t *testing.T, f n8ndbtest.Fixture, location string) {
		ctx := context.Background()
		w := writer(t, f, location)
		changes, _, _ := rewrite(t, w, f.Key, n8ndbtest.Key(t, newKeyText))
		if err := w.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		f.Exec(t, location, `UPDATE settings SET value = 'something else' WHERE key = 'features.oidc'`)
		f.Exec(t, location, `DELETE FROM execution_data WHERE "executionId" = 9003`)
		f.Exec(t, location, `DROP TABLE git_connection`)
		var composite, dropped int64
		for _, c := range changes {
			if len(c.Key) == 3 {
				composite++
			}
			if c.Table == "git_connection" {
				dropped++
			}
		}
		if composite == 0 || dropped == 0 {
			t.Fatalf("%d changes of composite keys, %d of a table that is dropped", composite, dropped)
		}
		w = writer(t, f, location)
		got, err := w.Restore(ctx, sequence(changes))
		want := n8ndb.Restored{Restored: int64(len(changes)) - 2 - dropped, Changed: 1, Gone: 1 + dropped}
		if got != want || err != nil {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
		_, err = w.Restore(ctx, sequence([]n8ndb.Change{{Table: "settings", Column: "value", Key: []string{"a", "b"}}}))
		if err == nil || err.Error() != `a change of "settings" has a key of 2 columns` {
			t.Errorf("%v", err)
		}
	})
}

// TestRewriteBundle: the file of an execution that is kept on disk goes to the new key
// and back, byte for byte elsewhere.
func TestRewriteBundle(t *testing.T) {
	f := n8ndbtest.Load(t, "2.41.1-sqlite")
	location, seeded := f.CopySeeded(t)
	ctx, r, fresh := context.Background(), n8ndbtest.Receipt(t), n8ndbtest.Key(t, newKeyText)
	db := f.Open(t, location)
	files, err := db.BundleFiles(ctx, seeded.BundleDir, n8ndb.Unfinished)
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	for scope, want := range map[n8ndb.ExecutionScope]int{n8ndb.NoExecutions: 0, n8ndb.AllExecutions: 1} {
		if list, err := db.BundleFiles(ctx, seeded.BundleDir, scope); len(list) != want || err != nil {
			t.Errorf("scope %d: %q, %v", scope, list, err)
		}
	}
	if list, err := db.BundleFiles(ctx, filepath.Join(t.TempDir(), "none"), n8ndb.AllExecutions); len(list) != 0 || err != nil {
		t.Errorf("without a folder: %q, %v", list, err)
	}
	cfg := n8ndb.CensusConfig{Receipt: r, BundleDir: seeded.BundleDir, Executions: n8ndb.AllExecutions}
	bundled := func(key n8ncrypt.InstanceKey) map[string]string {
		list := map[string]string{}
		for id, text := range n8ndbtest.Census(t, db, key, cfg).Plaintexts {
			if strings.HasPrefix(id, "bundle") {
				list[id] = text
			}
		}
		return list
	}
	want := bundled(f.Key)
	file := filepath.Join(seeded.BundleDir, filepath.FromSlash(files[0]))
	before, err := os.ReadFile(file)
	if err != nil || len(want) != 3 {
		t.Fatalf("%d values, %v", len(want), err)
	}
	keys, err := db.Keyset(ctx, r, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	rewriting := n8ndb.RewriteConfig{Receipt: r, Seal: resealer(f.Key, fresh), Digest: func(place, row string, plaintext []byte) string {
		got[place+"["+row+"]"] = string(plaintext)
		return ""
	}}
	after, n, err := keys.RewriteBundle(rewriting, n8ndb.BundleRow(files[0]), before)
	if err != nil || n != 2 { // the third one is under a data key
		t.Fatalf("%d values, %v", n, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a census and a rewrite meet other values: %s", diff)
	}
	if err := os.WriteFile(file, after, 0o600); err != nil {
		t.Fatal(err)
	}
	// The data key is still wrapped under the old key.
	both, err := db.KeysetOf(ctx, r, fresh, n8ndb.OtherKey{Name: "old", Key: f.Key})
	if err != nil {
		t.Fatal(err)
	}
	again := map[string]string{}
	rewriting.Digest = func(place, row string, plaintext []byte) string {
		again[place+"["+row+"]"] = string(plaintext)
		return ""
	}
	rewriting.Seal = func(p n8ndb.Place, s n8ndb.Secret, plaintext []byte) (string, bool, error) {
		if !s.Opens || s.KeyRef == "old" {
			t.Errorf("%+v", s)
		}
		return "", false, nil
	}
	same, n, err := both.RewriteBundle(rewriting, n8ndb.BundleRow(files[0]), after)
	if err != nil || n != 0 || string(same) != string(after) {
		t.Errorf("%d values, %v", n, err)
	}
	if diff := cmp.Diff(want, again); diff != "" {
		t.Error(diff)
	}
	if _, _, err := both.RewriteBundle(n8ndb.RewriteConfig{Receipt: r}, "", nil); err == nil || err.Error() != "rewriting needs a key set and a sealer" {
		t.Errorf("%v", err)
	}
}
