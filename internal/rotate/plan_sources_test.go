package rotate

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/n8keep/n8keep/internal/n8nhome"
)

// TestKeySourcesOf: what n8nhome finds in real files becomes sources of a plan.
func TestKeySourcesOf(t *testing.T) {
	const old = "old-key-text-0123456789"
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("config", fmt.Sprintf(configText, old))
	compose := write("compose.yaml", "services:\n  n8n:\n    image: n8nio/n8n\n    environment:\n      N8N_ENCRYPTION_KEY: "+old+"\n")
	found, err := n8nhome.FindKeyPlaces(n8nhome.KeyPlacesConfig{Key: planKey(t, old), New: planKey(t, strongKey), Dir: dir, N8NVersion: "2.41.1", ComposeFiles: []string{compose}})
	if err != nil {
		t.Fatal(err)
	}
	p := &Plan{}
	p.sources(PlanConfig{Old: Key{Key: planKey(t, old)}, New: Key{Key: planKey(t, strongKey)}, Sources: KeySourcesOf(found)})
	by := map[string]string{}
	for _, s := range p.Sources {
		by[s.Source] = s.Holds + " " + s.By
		if (s.By == "user") != (s.Do != "") {
			t.Errorf("%+v", s)
		}
	}
	if diff := cmp.Diff(map[string]string{"config": "old n8keep", "N8N_ENCRYPTION_KEY in the docker compose file": "old user"}, by); diff != "" {
		t.Error(diff)
	}
	if len(p.Refusals) != 1 || p.Refusals[0].Code != "key-source" || !strings.HasPrefix(p.Refusals[0].Message, "n8n's key is set in N8N_ENCRYPTION_KEY in the docker compose file ("+compose) {
		t.Errorf("%+v", p.Refusals)
	}
}

// TestIgnoredSources: a place that n8n ignores stands against nothing, and is none.
func TestIgnoredSources(t *testing.T) {
	old := Key{Key: planKey(t, "old-key-text")}
	p := &Plan{}
	p.sources(PlanConfig{Old: old, New: Key{Key: planKey(t, strongKey)}, Sources: []KeySource{{Source: "key-file", Where: "/k", Key: old.Key, Ignored: "this n8n does not read it"}}})
	if len(p.Refusals) != 1 || p.Refusals[0].Code != "key-source-unknown" || p.Sources[0].By != "nobody" {
		t.Errorf("%+v %+v", p.Refusals, p.Sources)
	}
}

// TestConfigThatStays: a command that starts n8n with the new key is no help where n8n's
// settings file keeps the old one.
func TestConfigThatStays(t *testing.T) {
	cfg := PlanConfig{Old: Key{Key: planKey(t, "old-key-text")}, New: Key{Key: planKey(t, strongKey)}}
	for source, refused := range map[string]bool{"config": true, "environment": false} {
		cfg.Sources = []KeySource{{Source: source, Where: "/n/config", Key: cfg.Old.Key, Do: "change it"}}
		for _, yourself := range []bool{false, true} {
			cfg.KeySetByStart, cfg.KeySetByUser = true, yourself
			p := &Plan{}
			p.sources(cfg)
			if got := len(p.Refusals) == 1 && p.Refusals[0].Code == "key-source" && strings.Contains(p.Refusals[0].Hint, "n8n does not start with another key"); got != (refused && !yourself) {
				t.Errorf("%s, %t: %+v", source, yourself, p.Refusals)
			}
		}
	}
}
