package cli

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/n8keep/n8keep/internal/problem"
)

// helpWidth is what help is wrapped to, on a terminal of any width.
const helpWidth = 80

// plainText is where help and completion scripts are written. With --json they
// are kept for one document at the end.
type plainText struct {
	term *Terminal
	json bool
	kept bytes.Buffer
}

func (p *plainText) Write(b []byte) (int, error) {
	if p.json {
		return p.kept.Write(b)
	}
	p.term.print(string(b)) // which remembers an error for Run
	return len(b), nil
}

// finish prints the document with the text, if there was any.
func (p *plainText) finish() error {
	if p.kept.Len() == 0 {
		return nil
	}
	return p.term.PrintJSON(struct {
		Text string `json:"text"`
	}{p.kept.String()})
}

// wantsJSON looks for --json before flags are parsed, so that an error in the
// flags is a document, too. A value that is no boolean counts as yes.
func wantsJSON(args []string) bool {
	wanted := false
	for i, a := range args {
		if a == "--" || i == 0 && strings.HasPrefix(a, cobra.ShellCompRequestCmd) {
			break
		}
		if a == "--json" {
			wanted = true
		} else if value, ok := strings.CutPrefix(a, "--json="); ok {
			v, err := strconv.ParseBool(value)
			wanted = v || err != nil
		}
	}
	return wanted
}

// usage writes how a command is called: its commands and its flags.
func usage(cmd *cobra.Command) error {
	var b strings.Builder
	b.WriteString("Usage:\n")
	if cmd.Runnable() && !cmd.HasSubCommands() {
		b.WriteString("  " + cmd.UseLine() + "\n")
	}
	if cmd.HasAvailableSubCommands() {
		b.WriteString("  " + cmd.CommandPath() + " [command]\n\nCommands:\n")
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, "  %-*s %s\n", sub.NamePadding(), sub.Name(), sub.Short)
			}
		}
	}
	if cmd.HasAvailableLocalFlags() {
		b.WriteString("\nFlags:\n" + cmd.LocalFlags().FlagUsagesWrapped(helpWidth))
	}
	if cmd.HasAvailableInheritedFlags() {
		b.WriteString("\nFlags of every command:\n" + cmd.InheritedFlags().FlagUsagesWrapped(helpWidth))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n\"%s [command] --help\" says more about a command.\n", cmd.CommandPath())
	}
	_, err := io.WriteString(cmd.OutOrStdout(), b.String())
	return err
}

// showHelp is what a command does that only holds others. A script that asks for
// a document has forgotten the command.
func showHelp(cmd *cobra.Command, _ []string) error {
	if wanted, _ := cmd.Flags().GetBool("json"); wanted {
		return problem.New(problem.Usage, "no command given to %q", cmd.CommandPath()).WithHint("see \"%s --help\"", cmd.CommandPath())
	}
	return cmd.Help()
}

func helpCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Say more about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err == nil {
				err = noArgs(cmd, rest)
			}
			if err != nil {
				return err
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// strictCompletion makes the library's completion commands refuse what they do
// not know, as all others do.
func strictCompletion(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Short = "Print the completion script of a shell"
		cmd.Args, cmd.RunE = noArgs, showHelp
		for _, shell := range cmd.Commands() {
			shell.Args = noArgs
		}
	}
}
