package cli

import (
	"io"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/n8keep/n8keep/internal/config"
)

// TestConfigNamesFlags: a flag that the config's manual names for a setting is one.
func TestConfigNamesFlags(t *testing.T) {
	known := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		add := func(f *pflag.Flag) { known[f.Name] = true }
		cmd.Flags().VisitAll(add)
		cmd.PersistentFlags().VisitAll(add)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(New(Config{Term: &Terminal{Out: io.Discard, Err: io.Discard}}))
	fields := config.Fields()
	if len(fields) < 40 {
		t.Fatalf("only %d settings", len(fields))
	}
	for _, f := range fields {
		if f.Flag != "" && !known[f.Flag] {
			t.Errorf("%s: no command has --%s", f.Path, f.Flag)
		}
	}
}
