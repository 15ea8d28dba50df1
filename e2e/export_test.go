//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/api"
	"github.com/n8keep/n8keep/internal/labn8n"
)

// TestExport moves workflows and credentials from one n8n into another, which has another key, by n8n's own import.
func TestExport(t *testing.T) {
	for _, v := range versions() {
		t.Run(v, func(t *testing.T) { exportStory(t, v) })
	}
}

func exportStory(t *testing.T, version string) {
	echo := labn8n.NewEcho(t)
	in := labn8n.NewInstance(version, t.TempDir())
	server := labn8n.Start(t, in)
	facts := labn8n.Seed(t, server, echo)
	k := newKeeper(t, in, facts)
	flows := filepath.Join(k.home, "flows")
	export := func(want func(api.ExportedWorkflows) bool) map[string]string {
		t.Helper()
		var doc api.Export
		decode(t, k.run(t, 0, "export", "--workflows", flows, "--n8n-dir", in.Dir(), "--json"), &doc)
		if doc.Workflows == nil || doc.Workflows.Workflows == 0 || !want(*doc.Workflows) {
			t.Fatalf("export: %+v", doc.Workflows)
		}
		return tree(t, flows)
	}

	// n8n runs, its executions go on, and the same workflows give the same bytes.
	first := export(func(w api.ExportedWorkflows) bool { return w.New == w.Workflows })
	if _, err := server.Client(t, "").CallWebhook(t.Context(), facts); err != nil {
		t.Fatal(err)
	}
	second := export(func(w api.ExportedWorkflows) bool { return w.Unchanged == w.Workflows })
	if d := cmp.Diff(first, second); d != "" {
		t.Errorf("nothing was edited: %s", d)
	}

	// An edit through n8n's API changes one file.
	client := server.Client(t, facts.APIKey)
	id, file := "", ""
	for name, text := range first {
		if strings.HasSuffix(name, "/Manual with three credentials.json") {
			file = name
			var w struct{ ID string }
			decode(t, []byte(text), &w)
			id = w.ID
		}
	}
	var wf map[string]any
	if err := client.Do(t.Context(), "GET", "/api/v1/workflows/"+id, nil, &wf); err != nil {
		t.Fatal(err)
	}
	wf["nodes"].([]any)[0].(map[string]any)["position"] = []int{-40, 60}
	edited := map[string]any{"name": wf["name"], "nodes": wf["nodes"], "connections": wf["connections"], "settings": map[string]any{"executionOrder": "v1"}}
	if err := client.Do(t.Context(), "PUT", "/api/v1/workflows/"+id, edited, nil); err != nil {
		t.Fatal(err)
	}
	third := export(func(w api.ExportedWorkflows) bool { return w.Changed == 1 && w.Unchanged == w.Workflows-1 })
	for name := range third {
		if (third[name] != second[name]) != (name == file) {
			t.Errorf("%s changed, or %s did not", name, file)
		}
	}

	sealed := filepath.Join(k.home, "credentials.age")
	var doc api.Export
	decode(t, k.run(t, 0, "export", "--credentials", "--recipient", k.recipient, "--out", sealed, "--n8n-dir", in.Dir(), "--json"), &doc)
	if doc.Credentials == nil || doc.Credentials.Credentials != len(facts.Credentials) {
		t.Fatalf("export: %+v", doc.Credentials)
	}
	opened := open(t, sealed, k.identity)
	var list []map[string]any
	decode(t, opened, &list)
	wantCredentials, wantWorkflows := in.ExportCredentials(t), in.ExportWorkflows(t)
	for _, c := range list {
		if d := cmp.Diff(without(wantCredentials[c["id"].(string)], "shared"), c); d != "" {
			t.Errorf("credential %v is not as n8n exports it: %s", c["id"], d)
		}
	}
	server.Stop(t)

	// Another n8n, with a key of its own.
	other := labn8n.NewInstance(version, t.TempDir())
	target := labn8n.Start(t, other)
	owner := map[string]string{"email": "other@example.test", "firstName": "Otto", "lastName": "Other", "password": "Passw0rd-other"}
	if err := target.Client(t, "").Do(t.Context(), "POST", "/rest/owner/setup", owner, nil); err != nil {
		t.Fatal(err)
	}
	if other.Key(t) == in.Key(t) {
		t.Fatal("both have one key")
	}
	clear := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(clear, opened, 0o600); err != nil {
		t.Fatal(err)
	}
	other.CLI(t, "import:credentials", "--input="+clear)
	var folders []string
	for name := range third {
		if dir := filepath.Dir(name); dir != "." && !slices.Contains(folders, dir) {
			folders = append(folders, dir)
		}
	}
	if len(folders) != 1 {
		t.Errorf("folders %q", folders)
	}
	if strings.HasPrefix(version, "2.0.") {
		// n8n 2.0 on SQLite waits for itself when it imports a workflow that is active, also from its own export.
		deactivate(t, flows, third)
	}
	for _, dir := range folders {
		if out := other.CLI(t, "import:workflow", "--separate", "--input="+filepath.Join(flows, dir)); !strings.Contains(out, fmt.Sprintf("Successfully imported %d workflow", len(third)-1)) {
			t.Errorf("n8n said %s", out)
		}
	}

	got := other.ExportCredentials(t)
	for id, want := range wantCredentials {
		if d := cmp.Diff(without(want, "shared", "createdAt", "updatedAt"), without(got[id], "shared", "createdAt", "updatedAt")); d != "" {
			t.Errorf("credential %s in the other n8n: %s", id, d)
		}
	}
	imported := other.ExportWorkflows(t)
	if len(imported) != len(wantWorkflows) {
		t.Errorf("%d workflows in the other n8n, want %d", len(imported), len(wantWorkflows))
	}
	for id, want := range wantWorkflows {
		for _, member := range []string{"id", "name", "nodes", "connections", "settings", "pinData", "meta"} {
			if d := cmp.Diff(want[member], imported[id][member]); d != "" {
				t.Errorf("workflow %s in the other n8n, %s: %s", id, member, d)
			}
		}
	}
	target.Stop(t)

	// Its own export has the same files, but for what n8n's import gives anew.
	flows, in = filepath.Join(k.home, "other-flows"), other
	again := export(func(w api.ExportedWorkflows) bool { return w.New == w.Workflows })
	for name, text := range third {
		if name == "n8keep-export.json" {
			continue
		}
		moved := "Otto Other _other@example.test_/" + filepath.Base(name)
		var want, got map[string]any
		decode(t, []byte(text), &want)
		decode(t, []byte(again[moved]), &got)
		anew := []string{"createdAt", "updatedAt", "versionId", "activeVersionId", "active", "versionMetadata"}
		if d := cmp.Diff(without(want, anew...), without(got, anew...)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// deactivate does what the manual says for n8n 2.0.
func deactivate(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if name == "n8keep-export.json" {
			continue
		}
		var w map[string]any
		decode(t, []byte(text), &w)
		w["active"] = false
		delete(w, "activeVersionId")
		b, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// tree is the files of a folder: content by name.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// open decrypts a file with an identity.
func open(t *testing.T, file, identity string) []byte {
	t.Helper()
	text, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := age.Decrypt(f, ids...)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b) {
		t.Fatal("what was encrypted is no JSON")
	}
	return b
}
