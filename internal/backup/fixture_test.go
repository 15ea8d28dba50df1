package backup_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func fixtureKey(t testing.TB, fixture string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../testdata/fixtures", fixture, "fixture.json"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ EncryptionKey string }
	if err := json.Unmarshal(b, &doc); err != nil || doc.EncryptionKey == "" {
		t.Fatalf("no key in %s: %v", fixture, err)
	}
	return doc.EncryptionKey
}
