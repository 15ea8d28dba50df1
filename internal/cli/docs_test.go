package cli

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestManualHasEveryCommandAndFlag: a flag stands in the section of its command in
// docs/operators.md, or above all of them when several commands share it; and the
// manual has no flag that no command knows.
func TestManualHasEveryCommandAndFlag(t *testing.T) {
	b, err := os.ReadFile("../../docs/operators.md")
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, ok := strings.Cut(string(b), "\n## Commands\n")
	if !ok {
		t.Fatal("docs/operators.md has no chapter \"Commands\"")
	}
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	sections := strings.Split(chapter, "\n### ")
	shared, sections := sections[0], sections[1:]

	root := New(Config{Term: &Terminal{Out: io.Discard, Err: io.Discard}})
	known := map[string]bool{"help": true}
	commands, flags := 0, 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden || cmd.Name() == "help" {
			return
		}
		section := shared
		if path := cmd.CommandPath(); cmd.Runnable() && cmd.HasParent() && cmd.Parent().Name() != "completion" && (!cmd.HasSubCommands() || cmd.Name() == "completion") {
			commands++
			found := false
			for _, s := range sections {
				if title, text, _ := strings.Cut(s, "\n"); title == path {
					section, found = shared+text, true
				}
			}
			if !found {
				t.Errorf("the chapter has no section %q", path)
			}
		} else if strings.HasPrefix(path, "n8keep completion") {
			section = chapter
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			known[f.Name] = true
			if f.Hidden || strings.Contains(section, "`--"+f.Name+"`") || strings.Contains(section, "`--"+f.Name+" ") {
				flags++
			} else {
				t.Errorf("%s: the manual does not have --%s", cmd.CommandPath(), f.Name)
			}
		})
		cmd.PersistentFlags().VisitAll(func(f *pflag.Flag) {
			known[f.Name] = true
			if !strings.Contains(shared, "`--"+f.Name) {
				t.Errorf("the manual does not have --%s", f.Name)
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if commands < 10 || flags < 40 {
		t.Errorf("only %d commands with %d flags", commands, flags)
	}
	for _, s := range append(sections, shared) {
		for _, line := range strings.Split(s, "\n") {
			name, ok := strings.CutPrefix(line, "| `--")
			if !ok {
				continue
			}
			if name = name[:strings.IndexAny(name, " `")]; !known[name] {
				t.Errorf("the manual has --%s, which no command knows", name)
			}
		}
	}
}
