package deploy

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
)

// Whatever the file is: no panic, and the output is taken again without a change.
func FuzzRedact(f *testing.F) {
	for name, content := range files(f) {
		f.Add(name, string(content))
	}
	f.Add("a.yml", "a: [b, {c: d}]\n--- |\n x\n...\n")
	f.Add(".env", "A='x\ny' # z\n")
	f.Add("x.service", "[S]\nEnvironment=\"A=b c\" d\\\n e=f\n")
	f.Fuzz(func(t *testing.T, name, content string) {
		if len(content) > 1<<14 {
			return
		}
		for _, keep := range []bool{false, true} {
			cfg := Config{Digest: digest, Needle: find(instanceKey), KeepSecrets: keep}
			res, err := Redact(name, []byte(content), cfg)
			if err != nil {
				continue
			}
			if strings.Contains(string(res.Content), instanceKey) {
				t.Fatalf("the key is in %q", res.Content)
			}
			again, err := Redact(name, res.Content, cfg)
			if err != nil {
				t.Fatalf("%q became %q: %v", content, res.Content, err)
			}
			if string(again.Content) != string(res.Content) {
				t.Fatalf("%q became %q, then %q", content, res.Content, again.Content)
			}
		}
	})
}

// A secret of any text, written by an encoder under a secret's name, is nowhere
// in the output.
func FuzzPlanted(f *testing.F) {
	for i, v := range []string{"hunter2hunter2", "it's \"quoted\" here", "line one\nline two", "a: b # c, {d}", "ünï©ode\u2028pass", "p@ss:w/ord?&=x", "%tab\there\\n", "-----BEGIN x", "'''''''''", "=====\"\"\"\""} {
		f.Add(byte(i), v)
	}
	names := []string{"DB_POSTGRESDB_PASSWORD", "N8N_ENCRYPTION_KEY", "apiKey", "client_secret", "SMTP_PASS", "token"}
	f.Fuzz(func(t *testing.T, choice byte, value string) {
		value = strings.TrimSpace(value)
		if !utf8.ValidString(value) || len(value) < 10 || strings.ContainsAny(value, "\x00\r\u0085\ufeff") || isPath(value) || elsewhere.MatchString(value) ||
			strings.Contains(value, "{{") || strings.Contains(value, "${") || strings.Contains(value, "$(") || redactedPart.MatchString(value) ||
			bareReference.MatchString(value) || isSecretsName("passwordKey", value) {
			t.Skip()
		}
		name := names[int(choice)%len(names)]
		doc := map[string]any{"services": map[string]any{"n8n": map[string]any{"image": "n8nio/n8n", "environment": map[string]string{name: value}, "list": []string{name + "=" + value},
			"env": []map[string]string{{"name": name, "value": value}}}}}
		asJSON, err := json.Marshal(doc)
		if err != nil {
			t.Skip()
		}
		asYAML, err := yaml.Marshal(doc)
		if err != nil {
			t.Skip()
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(value)
		var back any
		for file, content := range map[string]string{
			"a.json": string(asJSON), "a.yml": string(asYAML), "b.yaml": string(asJSON),
			".env":       "A=1\n" + name + "=\"" + quoted + "\"\nB=2\n",
			"x.service":  "[Service]\nEnvironment=\"" + name + "=" + quoted + "\" B=2\n",
			"c.yml":      "data:\n  app.env: |\n    A=1\n    " + name + "=\"" + quoted + "\"\n    B=2\n",
			"secret.yml": "apiVersion: v1\nkind: Secret\nstringData: {x: " + strings.TrimSpace(jsonString(t, value)) + "}\n",
		} {
			if strings.HasPrefix(file, "a.y") && (yaml.Unmarshal([]byte(content), &back) != nil || find(value)([]byte(content)) == nil && !strings.Contains(content, name)) {
				continue // the encoder's own mistake
			}
			res, err := Redact(file, []byte(content), config)
			if err != nil {
				if file == "a.json" || file == ".env" || file == "x.service" {
					t.Fatalf("%s %q: %v", file, content, err)
				}
				continue
			}
			for _, form := range []string{value, quoted, jsonString(t, value)} {
				if strings.Contains(string(res.Content), form) {
					t.Fatalf("%s: %q is in %q, from %q", file, form, res.Content, content)
				}
			}
		}
	})
}

func jsonString(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
