package export

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	_ "modernc.org/sqlite"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/internal/n8ndbtest"
	"github.com/n8keep/n8keep/internal/pgtest"
	"github.com/n8keep/n8keep/internal/problem"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// bench is a database of a real n8n and a folder to export into.
type bench struct {
	t        *testing.T
	fixture  n8ndbtest.Fixture
	location string
	dir      string
}

func newBench(t *testing.T, fixture string) *bench {
	f := n8ndbtest.Load(t, fixture)
	return &bench{t, f, f.Copy(t), filepath.Join(t.TempDir(), "flows")}
}

func (b *bench) sql(statements ...string) {
	b.t.Helper()
	for _, s := range statements {
		var err error
		if b.fixture.Engine == n8ndb.Postgres {
			conn, e := pgx.Connect(context.Background(), b.location)
			if e != nil {
				b.t.Fatal(e)
			}
			_, err = conn.Exec(context.Background(), s)
			conn.Close(context.Background())
		} else {
			db, e := sql.Open("sqlite", b.location)
			if e != nil {
				b.t.Fatal(e)
			}
			_, err = db.Exec(s)
			db.Close()
		}
		if err != nil {
			b.t.Fatalf("%s: %v", s, err)
		}
	}
}

func (b *bench) try(needle *n8ndb.Needle) (*Written, error) {
	b.t.Helper()
	db := b.fixture.Open(b.t, b.location)
	return Workflows(b.t.Context(), WorkflowsConfig{DB: db, Dir: b.dir, Needle: needle})
}

func (b *bench) export() Written {
	b.t.Helper()
	w, err := b.try(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return *w
}

// files is the folder: content by name.
func (b *bench) files() map[string]string {
	b.t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(b.dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(b.dir, path))
		files[path] = string(text)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return files
}

func (b *bench) put(name, text string) {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// changes are the names of which the content differs.
func changes(before, after map[string]string) []string {
	var list []string
	for name := range before {
		if text, ok := after[name]; !ok {
			list = append(list, "-"+name)
		} else if text != before[name] {
			list = append(list, "~"+name)
		}
	}
	for name := range after {
		if _, ok := before[name]; !ok {
			list = append(list, "+"+name)
		}
	}
	return list
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	sorted := cmp.Transformer("set", func(s []string) map[string]int {
		m := map[string]int{}
		for _, x := range s {
			m[x]++
		}
		return m
	})
	if d := cmp.Diff(want, got, sorted); d != "" {
		t.Error(d)
	}
}

// TestEveryFixture exports each database twice, and compares with what n8n itself
// exported from it.
func TestEveryFixture(t *testing.T) {
	for _, name := range n8ndbtest.Names(t) {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, name)
			first := b.export()
			files := b.files()
			if first.New != first.Workflows || first.Workflows == 0 || len(files) != first.Workflows+1 {
				t.Fatalf("%+v, %d files", first, len(files))
			}
			second := b.export()
			if second.Unchanged != first.Workflows || second.New+second.Changed+second.Removed != 0 {
				t.Errorf("%+v", second)
			}
			same(t, changes(files, b.files()))
			again := newBench(t, name)
			again.export()
			same(t, changes(files, again.files()))

			var n8ns []map[string]any
			raw, err := os.ReadFile(filepath.Join(b.fixture.Dir, "workflows.json"))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &n8ns); err != nil || len(n8ns) == 0 {
				t.Fatalf("%d workflows: %v", len(n8ns), err)
			}
			ours := map[string]map[string]any{}
			for name, text := range files {
				if name == IndexName {
					continue
				}
				var w map[string]any
				if err := json.Unmarshal([]byte(text), &w); err != nil {
					t.Fatal(err)
				}
				if !strings.HasSuffix(text, "}\n") || !strings.Contains(text, "\n  \"nodes\": [\n    {\n") {
					t.Errorf("%s is not as it should look:\n%.300s", name, text)
				}
				ours[w["id"].(string)] = w
			}
			for _, want := range n8ns {
				got := ours[want["id"].(string)]
				if got == nil {
					t.Errorf("workflow %v is missing", want["id"])
					continue
				}
				for _, member := range []string{"id", "name", "nodes", "connections", "settings", "pinData", "meta", "tags"} {
					if d := cmp.Diff(want[member], got[member]); d != "" {
						t.Errorf("%v, %s: %s", want["id"], member, d)
					}
				}
				for _, member := range []string{"staticData", "triggerCount", "versionCounter", "shared"} {
					if _, ok := got[member]; ok {
						t.Errorf("%v has %s", want["id"], member)
					}
				}
			}
		})
	}
}

func TestIndexNamesCredentials(t *testing.T) {
	b := newBench(t, "2.41.1-sqlite")
	b.export()
	var x index
	if err := json.Unmarshal([]byte(b.files()[IndexName]), &x); err != nil {
		t.Fatal(err)
	}
	uses := map[string][]use{}
	for _, w := range x.Workflows {
		if w.Project == nil || w.Project.Type != "personal" || w.Name == "" || w.File == "" {
			t.Errorf("%+v", w)
		}
		uses[w.Name] = w.Credentials
	}
	got := uses["W1 webhook header-auth (active)"]
	want := []use{{ID: "WNfPLdpMdzcKhp7W", Name: "Header auth (echo)", Type: "httpHeaderAuth", Nodes: []string{"HTTP header auth"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n := len(uses["W3 manual pg+slack+github (inactive)"]); n != 3 {
		t.Errorf("%d credentials of W3", n)
	}
	if got := usesOf([]byte(`[{"name":"old","credentials":{"a":"by name"}},{"name":"n","credentials":{"a":{"id":7,"name":"x"},"b":{"id":null,"name":"y"}}},{"name":"m","credentials":{"a":{"id":7,"name":"x"}}},3,{"credentials":4}]`)); cmp.Diff([]use{
		{Name: "by name", Type: "a", Nodes: []string{"old"}}, {ID: "7", Name: "x", Type: "a", Nodes: []string{"m", "n"}}, {Name: "y", Type: "b", Nodes: []string{"n"}}}, got) != "" {
		t.Errorf("%+v", got)
	}
}

// TestFoldersAndProjects moves workflows about in both kinds of database.
func TestFoldersAndProjects(t *testing.T) {
	for _, name := range []string{"2.41.1-sqlite", "2.41.1-postgres"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, name)
			b.export()
			personal := ""
			for file := range b.files() {
				if strings.Contains(file, "/W1 ") {
					personal = strings.Split(file, "/")[0]
				}
			}
			w1, w2, w3 := "W1 webhook header-auth (active).json", "W2 schedule basic-auth (active).json", "W3 manual pg+slack+github (inactive).json"
			now := "'2026-01-01 00:00:00'"
			b.sql(`INSERT INTO project (id, name, type, "createdAt", "updatedAt") VALUES ('pShop', 'Shop/EU', 'team', `+now+`, `+now+`)`,
				`INSERT INTO folder (id, name, "parentFolderId", "projectId", "createdAt", "updatedAt") VALUES ('fOuter', 'Daily', NULL, 'pShop', `+now+`, `+now+`)`,
				`INSERT INTO folder (id, name, "parentFolderId", "projectId", "createdAt", "updatedAt") VALUES ('fInner', '.hidden', 'fOuter', 'pShop', `+now+`, `+now+`)`,
				`UPDATE shared_workflow SET "projectId" = 'pShop' WHERE "workflowId" IN (SELECT id FROM workflow_entity WHERE name LIKE 'W1 %' OR name LIKE 'W2 %')`,
				`UPDATE workflow_entity SET "parentFolderId" = 'fInner' WHERE name LIKE 'W1 %'`,
				`UPDATE workflow_entity SET "parentFolderId" = 'fOuter' WHERE name LIKE 'W2 %'`)
			before := b.files()
			moved := b.export()
			if moved.New != 2 || moved.Removed != 2 || moved.Changed != 0 {
				t.Errorf("%+v", moved)
			}
			same(t, changes(before, b.files()), "-"+personal+"/"+w1, "-"+personal+"/"+w2, "+Shop_EU/Daily/_.hidden/"+w1, "+Shop_EU/Daily/"+w2, "~"+IndexName)

			// A change of one workflow is a change of one file.
			before = b.files()
			b.sql(`UPDATE workflow_entity SET name = name, nodes = replace(CAST(nodes AS text), 'HTTP', 'Http')` + map[bool]string{true: "::json", false: ""}[name == "2.41.1-postgres"] + ` WHERE name LIKE 'W3 %'`)
			b.sql(`UPDATE workflow_entity SET "staticData" = '{"recurrenceRules":[1]}', "triggerCount" = 7 WHERE name LIKE 'W1 %'`)
			b.sql(`UPDATE project SET name = name, "updatedAt" = '2026-02-02 00:00:00'`)
			b.sql(`UPDATE workflow_entity SET settings = '{"executionOrder":"v1","timezone":"UTC"}' WHERE name LIKE 'W3 %'`)
			if w := b.export(); w.Changed != 1 || w.New+w.Removed != 0 {
				t.Errorf("%+v", w)
			}
			same(t, changes(before, b.files()), "~"+personal+"/"+w3)

			// A ring of folders and a folder that is gone.
			b.sql(`UPDATE folder SET "parentFolderId" = 'fInner' WHERE id = 'fOuter'`)
			b.export()
			if _, ok := b.files()["Shop_EU/Daily/_.hidden/"+w1]; !ok {
				t.Errorf("%v", changes(nil, b.files()))
			}
			b.sql(`UPDATE folder SET "parentFolderId" = NULL`)

			// Gone from n8n, gone from the tree, with the folders that held it.
			b.sql(`DELETE FROM workflow_published_version`, `DELETE FROM workflow_entity WHERE name LIKE 'W1 %'`)
			b.export()
			after := b.files()
			if _, ok := after["Shop_EU/Daily/_.hidden/"+w1]; ok {
				t.Error("the file of a deleted workflow is still there")
			}
			if entries, err := os.ReadDir(filepath.Join(b.dir, "Shop_EU")); err != nil || len(entries) != 1 {
				t.Errorf("%v %v", entries, err)
			}
			b.sql(`DELETE FROM workflow_entity`)
			if w := b.export(); w.Workflows != 0 || w.Removed != 4 {
				t.Errorf("%+v", w)
			}
			same(t, changes(nil, b.files()), "+"+IndexName)
			if entries, err := os.ReadDir(b.dir); err != nil || len(entries) != 1 {
				t.Errorf("%v %v", entries, err)
			}
		})
	}
}

func TestForeignFiles(t *testing.T) {
	b := newBench(t, "2.41.1-sqlite")
	personal := "Olga Owner _owner@example.test_"
	file := personal + "/W1 webhook header-auth (active).json"

	// In the way: nothing is changed.
	b.put(file, "mine")
	b.put(".git/config", "git's")
	b.put("notes.json", `{"id":"x","nodes":[]}`)
	before := b.files()
	_, err := b.try(nil)
	want := `"` + filepath.Join(b.dir, file) + `" is in the way of a workflow: it was not written by n8keep`
	if problem.KindOf(err) != problem.Usage || err.Error() != want || problem.HintOf(err) != "nothing was changed; move it away, or name another folder" {
		t.Errorf("%v / %s", err, problem.HintOf(err))
	}
	same(t, changes(before, b.files()))
	if err := os.Remove(filepath.Join(b.dir, file)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(b.dir, file), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := b.try(nil); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "is in the way of a workflow: is a directory") {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(b.dir, file)); err != nil {
		t.Fatal(err)
	}
	b.export()
	after := b.files()
	for name, text := range map[string]string{".git/config": "git's", "notes.json": `{"id":"x","nodes":[]}`} {
		if after[name] != text {
			t.Errorf("%s was touched: %q", name, after[name])
		}
	}

	// An index that was lost: the files are known by their workflows.
	if err := os.Remove(filepath.Join(b.dir, IndexName)); err != nil {
		t.Fatal(err)
	}
	if w := b.export(); w.Unchanged != 5 {
		t.Errorf("%+v", w)
	}
	same(t, changes(after, b.files()))

	// An index that lists what is not n8keep's to remove.
	var x index
	if err := json.Unmarshal([]byte(after[IndexName]), &x); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(filepath.Dir(b.dir), "outside.json")
	if err := os.WriteFile(outside, []byte(`{"id":"evil","nodes":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.put("other/mine.json", `{"id":"mine","nodes":[]}`)
	b.put("other/listed.json", `{"id":"somebody else","nodes":[]}`)
	b.put(".git/x.json", `{"id":"evil","nodes":[]}`)
	if err := os.Symlink(outside, filepath.Join(b.dir, "other", "link.json")); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"../outside.json", outside, "notes.json", ".git/x.json", "other/link.json", "other/../../outside.json", "other/gone.json", "other/listed.json"} {
		x.Workflows = append(x.Workflows, indexed{ID: "evil", File: file})
	}
	text, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	b.put(IndexName, string(text))
	w := b.export()
	same(t, w.Kept, "other/link.json", "other/listed.json")
	if w.Removed != 0 {
		t.Errorf("%+v", w)
	}
	for _, path := range []string{outside, filepath.Join(b.dir, ".git/x.json"), filepath.Join(b.dir, "notes.json"), filepath.Join(b.dir, "other/listed.json")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if b.files()[IndexName] != after[IndexName] {
		t.Error("the index still lists what is not n8keep's")
	}
}

func TestRefusals(t *testing.T) {
	b := newBench(t, "2.41.1-sqlite")
	b.export()
	for text, want := range map[string]string{
		"<<<<<<< HEAD\n":              "is not the index of an export",
		`{"workflows":[]}`:            "is not the index of an export",
		`{"format":"n8keep flows 9"}`: `has format "n8keep flows 9", which this version does not know`,
	} {
		b.put(IndexName, text)
		if _, err := b.try(nil); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), want) || problem.HintOf(err) == "" {
			t.Errorf("%v / %s", err, problem.HintOf(err))
		}
	}
	if err := os.Remove(filepath.Join(b.dir, IndexName)); err != nil {
		t.Fatal(err)
	}
	dir := b.dir
	b.dir = filepath.Join(dir, "no", "such", "parent")
	if _, err := b.try(nil); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "making folder") {
		t.Error(err)
	}
	b.dir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(b.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.try(nil); problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), "opening folder") {
		t.Error(err)
	}

	// A link that leads out of the folder is not followed.
	b.dir = filepath.Join(t.TempDir(), "flows")
	elsewhere := t.TempDir()
	b.put("x", "")
	if err := os.Symlink(elsewhere, filepath.Join(b.dir, "Olga Owner _owner@example.test_")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.try(nil); err == nil || !strings.Contains(err.Error(), "path escapes from parent") {
		t.Error(err)
	}
	if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) != 0 {
		t.Errorf("%v %v", entries, err)
	}
}

func TestWorkflowWithTheKey(t *testing.T) {
	b := newBench(t, "2.41.1-sqlite")
	b.export()
	key := b.fixture.Key.Reveal()
	b.sql(`UPDATE workflow_entity SET meta = '{"note":"` + key + `"}' WHERE name LIKE 'W2 %'`)
	w, err := b.try(n8ndb.NewNeedle(b.fixture.Key))
	if err != nil || len(w.HoldKey) != 1 || w.HoldKey[0] != "1arcTRapyG0QXK9E" || w.Removed != 1 || w.Unchanged != 4 {
		t.Errorf("%+v %v", w, err)
	}
	for name, text := range b.files() {
		if strings.Contains(text, key) || strings.Contains(name, "/W2 ") {
			t.Errorf("%s holds the key", name)
		}
	}
	// Again: it is not there, and nothing changes.
	before := b.files()
	if _, err := b.try(n8ndb.NewNeedle(b.fixture.Key)); err != nil {
		t.Fatal(err)
	}
	same(t, changes(before, b.files()))
}

// TestInterrupted ends the export at every workflow, changes the database, and
// exports again: the tree is as if nothing had happened.
func TestInterrupted(t *testing.T) {
	for stop := 1; stop <= 5; stop++ {
		b := newBench(t, "2.41.1-sqlite")
		db := b.fixture.Open(t, b.location)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := Workflows(ctx, WorkflowsConfig{DB: db, Dir: b.dir, Progress: func(done, _ int64) {
			if done == int64(stop) {
				cancel()
			}
		}})
		cancel()
		if stop < 5 && !errors.Is(err, context.Canceled) {
			t.Fatalf("%d: %v", stop, err)
		}
		b.put("Olga Owner _owner@example.test_/"+tempName, "half a fi")
		b.sql(`UPDATE workflow_entity SET name = 'renamed ' || name WHERE name LIKE 'W1 %' OR name LIKE 'W2 %'`, `DELETE FROM workflow_entity WHERE name LIKE 'W3 %'`)
		b.export()
		clean := &bench{t, b.fixture, b.location, filepath.Join(t.TempDir(), "flows")}
		clean.export()
		same(t, changes(clean.files(), b.files()))
	}
}

func TestModeIsKept(t *testing.T) {
	b := newBench(t, "2.41.1-sqlite")
	b.export()
	path := filepath.Join(b.dir, "Olga Owner _owner@example.test_", "W3 manual pg+slack+github (inactive).json")
	mode := func() fs.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if mode() != 0o600 {
		t.Errorf("%v", mode())
	}
	if err := os.Chmod(path, 0o664); err != nil {
		t.Fatal(err)
	}
	b.sql(`UPDATE workflow_entity SET settings = '{}' WHERE name LIKE 'W3 %'`)
	if w := b.export(); w.Changed != 1 || mode() != 0o664 {
		t.Errorf("%+v %v", w, mode())
	}
}

func TestPortable(t *testing.T) {
	text, _, err := portable([]byte(`{"id":"a","staticData":{"x":1},"nodes":[{"position":[1.50,-20],"n":12345678901234567890,"s":"<&>"}],"shared":[],"triggerCount":3,"pinData":{"z":1,"a":2}}`))
	want := "{\n  \"id\": \"a\",\n  \"nodes\": [\n    {\n      \"position\": [\n        1.50,\n        -20\n      ],\n      \"n\": 12345678901234567890,\n      \"s\": \"<&>\"\n    }\n  ],\n  \"pinData\": {\n    \"z\": 1,\n    \"a\": 2\n  }\n}\n"
	if err != nil || string(text) != want {
		t.Errorf("%s %v", text, err)
	}
	for _, bad := range []string{"", "[]", "{", `{"a":1} {}`, `{"a"}`} {
		if _, _, err := portable([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if !bytes.Equal(text, []byte(want)) {
		t.Error("changed")
	}
}
