package deploy

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/n8keep/n8keep/internal/n8ndb"
	"github.com/n8keep/n8keep/n8ncrypt"
)

// The search that backups use, with keys that it finds anywhere and keys that it
// finds only as whole values.
func TestRealNeedle(t *testing.T) {
	for _, text := range []string{"a4f1c9b2e7a6d3058b1e2f4a7c9d0e3b", "with \"quotes\" / and ü, long enough", "weak-key"} {
		key, err := n8ncrypt.NewInstanceKey(text)
		if err != nil {
			t.Fatal(err)
		}
		needle := n8ndb.NewNeedle(key)
		quoted := jsonString(t, text)
		contents := []string{
			"env:\n  HARMLESS: " + quoted + "\n  list: [" + jsonString(t, "A="+text) + "]\n",
			"{\"x\": " + quoted + "}",
		}
		if !needle.Weak() {
			contents = append(contents, "# "+text+"\nx: "+base64.StdEncoding.EncodeToString([]byte("a"+text+"b"))+"\n")
		}
		for _, content := range contents {
			for _, keep := range []bool{true, false} {
				res, err := Redact("a.yml", []byte(content), Config{Digest: digest, Needle: needle.Ranges, KeepSecrets: keep})
				if err != nil {
					t.Fatalf("%q: %v", content, err)
				}
				got := string(res.Content)
				if strings.Contains(got, text) || strings.Contains(got, quoted) || needle.Find(res.Content) || len(res.Redacted) == 0 {
					t.Errorf("keep %v: %q", keep, got)
				}
			}
		}
	}
}
