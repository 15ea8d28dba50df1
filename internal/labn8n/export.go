package labn8n

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// ExportCredentials is what n8n's own export says: each credential by id with all its fields, data decrypted by n8n.
func (in Instance) ExportCredentials(t testing.TB) map[string]map[string]any {
	t.Helper()
	return in.export(t, "export:credentials", "--all", "--decrypted")
}

// ExportWorkflows is what n8n's own export says: each workflow by id with all its fields.
func (in Instance) ExportWorkflows(t testing.TB) map[string]map[string]any {
	t.Helper()
	return in.export(t, "export:workflow", "--all")
}

func (in Instance) export(t testing.TB, args ...string) map[string]map[string]any {
	t.Helper()
	file := filepath.Join(t.TempDir(), "export.json")
	in.CLI(t, append(args, "--output="+file)...)
	var list []map[string]any
	readJSON(t, file, &list)
	if len(list) == 0 {
		t.Fatalf("labn8n: n8n %v exported nothing", args)
	}
	byID := map[string]map[string]any{}
	for _, e := range list {
		byID[e["id"].(string)] = e
	}
	return byID
}

func readJSON(t testing.TB, file string, into any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("labn8n: %v", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("labn8n: decoding %s: %v", file, err)
	}
}
