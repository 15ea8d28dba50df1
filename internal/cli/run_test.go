package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rivo/uniseg"
	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/api"
)

func run(t *testing.T, args ...string) (exit int, out, errs string) {
	t.Helper()
	term, stdout, stderr := screen()
	env := environment(map[string]string{"HOME": t.TempDir()})
	exit = Run(t.Context(), Config{Version: "1.2.3", Term: term, Env: env}, args)
	return exit, stdout.String(), stderr.String()
}

// With --json anywhere a wrong command line is one document, and nothing else.
func TestWrongUseAsJSON(t *testing.T) {
	for _, line := range []string{
		"version --nosuch --json", "version --json --nosuch", "--json version --nosuch", "version --json=maybe", "version --json --json=maybe",
		"nosuch --json", "--json nosuch", "--json=true backup nosuch", "--json", "backup --json", "--json key", "completion --json", "completion nosuch --json",
		"completion bash extra --json", "help nosuch --json", "--json=1 version extra", "backup show --json", "census --n8n-dir --json",
		"backup list --accept-signer foo --json", "version --json=false --json --nosuch",
	} {
		exit, out, errs := run(t, strings.Fields(line)...)
		d := json.NewDecoder(strings.NewReader(out))
		d.DisallowUnknownFields()
		var doc api.Failure
		if err := d.Decode(&doc); err != nil || d.More() || errs != "" {
			t.Errorf("%s: %v: %q, %q", line, err, out, errs)
		}
		want := 2
		if strings.HasPrefix(line, "census") { // a folder named --json
			want = 10
		}
		if exit != want || doc.Error.Exit != want || doc.Error.Hint == "" {
			t.Errorf("%s: exit %d, %+v", line, exit, doc.Error)
		}
	}
}

func TestWrongUseAsText(t *testing.T) {
	for line, want := range map[string]string{
		"version --nosuch":                     "unknown flag: --nosuch",
		"version -- --json":                    `unexpected argument "--json"`,
		"version --json --json=false --nosuch": "unknown flag: --nosuch",
		"completion nosuch":                    `unknown command "nosuch" for "n8keep completion"`,
		"completion bash extra":                `unexpected argument "extra"`,
		"help nosuch":                          `unknown command "nosuch" for "n8keep"`,
		"help backup nosuch":                   `unknown command "nosuch" for "n8keep backup"`,
		"--version extra":                      `unknown command "extra" for "n8keep"`,
		"restore x --accept-signer foo":        `invalid argument "foo" for "--accept-signer" flag: a signer's fingerprint is n8s1- and 32 letters a to z and digits 2 to 7`,
	} {
		exit, out, errs := run(t, strings.Fields(line)...)
		if exit != 2 || out != "" || !strings.HasPrefix(errs, "n8keep: error: "+want+"\nn8keep: hint: ") {
			t.Errorf("%s: exit %d, %q, %q", line, exit, out, errs)
		}
	}
}

func TestHelpAndCompletion(t *testing.T) {
	for line, want := range map[string]string{
		"":                       "Usage:\n  n8keep [command]",
		"--help":                 "Usage:\n  n8keep [command]",
		"backup":                 "Usage:\n  n8keep backup [command]",
		"help backup create":     "Usage:\n  n8keep backup create [flags]",
		"restore --help":         "Usage:\n  n8keep restore ID --to FOLDER|ADDRESS [flags]",
		"completion":             "Usage:\n  n8keep completion [command]",
		"completion bash":        "__start_n8keep",
		"completion zsh":         "#compdef n8keep",
		"__complete backup l":    "list\tList the archives",
		"__complete --json vers": "version\tPrint the version",
	} {
		exit, out, _ := run(t, strings.Fields(line)...)
		if exit != 0 || !strings.Contains(out, want) || strings.HasPrefix(out, "{") {
			t.Errorf("%s: exit %d, %.300q", line, exit, out)
		}
	}
	for _, line := range []string{"--help --json", "backup create --json -h", "help census --json", "completion fish --json"} {
		exit, out, errs := run(t, strings.Fields(line)...)
		d := json.NewDecoder(strings.NewReader(out))
		d.DisallowUnknownFields()
		var doc struct{ Text string }
		if err := d.Decode(&doc); err != nil || d.More() || !strings.Contains(doc.Text, "n8keep") || errs != "" || exit != 0 {
			t.Errorf("%s: exit %d, %v, %.300q, %q", line, exit, err, out, errs)
		}
	}
}

func TestVersion(t *testing.T) {
	_, want, _ := run(t, "version")
	if exit, out, _ := run(t, "--version"); exit != 0 || out != want || !strings.HasPrefix(out, "n8keep 1.2.3 (go") {
		t.Errorf("exit %d, %q, want %q", exit, out, want)
	}
	_, want, _ = run(t, "version", "--json")
	if exit, out, _ := run(t, "--version", "--json"); exit != 0 || out != want || !strings.HasPrefix(out, "{") {
		t.Errorf("exit %d, %q, want %q", exit, out, want)
	}
}

func TestHelpFitsEightyColumns(t *testing.T) {
	root := New(Config{Term: &Terminal{Out: io.Discard, Err: io.Discard}})
	seen := 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "completion" {
			return
		}
		seen++
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.InitDefaultHelpFlag()
		if err := cmd.Help(); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(out.String()) {
			if w := uniseg.StringWidth(strings.TrimSuffix(line, "\n")); w > helpWidth {
				t.Errorf("%s: %d columns: %s", cmd.CommandPath(), w, line)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if seen < 15 {
		t.Errorf("only %d commands", seen)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// What could not be printed is an error, as text and as JSON.
func TestOutputThatFails(t *testing.T) {
	for _, line := range []string{"version", "--version", "--help", "completion bash", "key generate --out KEY", "version --json", "help --json", "completion bash --json"} {
		key := filepath.Join(t.TempDir(), "key")
		var errs bytes.Buffer
		term := &Terminal{In: strings.NewReader(""), Out: full{}, Err: &errs}
		exit := Run(t.Context(), Config{Term: term, Env: environment(nil)}, strings.Fields(strings.ReplaceAll(line, "KEY", key)))
		if exit != 1 || !strings.HasPrefix(errs.String(), "n8keep: error: printing ") || !strings.Contains(errs.String(), ": no space left on device\n") {
			t.Errorf("%s: exit %d, %q", line, exit, errs.String())
		}
	}
}

func TestKeyGenerateRefusals(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for out, want := range map[string]string{
		"":                           "n8keep: error: no file to write the key to\nn8keep: hint: give one with --out FILE; a key is never printed\n",
		there:                        "n8keep: error: file \"" + there + "\" exists already\nn8keep: hint: name a new file: a key is never overwritten\n",
		dir:                          "n8keep: error: file \"" + dir + "\" exists already\nn8keep: hint: name a new file: a key is never overwritten\n",
		filepath.Join(dir, "no/key"): "n8keep: error: writing the key: creating \"" + dir + "/no/key\": no such file or directory\nn8keep: hint: name a file in a folder that exists and that this user may write\n",
	} {
		exit, stdout, errs := run(t, "key", "generate", "--out", out)
		if exit != 2 || stdout != "" {
			t.Errorf("%q: exit %d, %q", out, exit, stdout)
		}
		diff(t, want, errs)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v %v", entries, err)
	}
}
