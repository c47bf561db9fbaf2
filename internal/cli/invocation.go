// Which command is called, and where its audit trail is. A stage has to be recorded even
// if its command line makes no sense, so this is found out first.

package cli

import (
	"cmp"
	"flag"
	"io"
	"os"
	"slices"
	"strings"

	"terok-gate-hook/hook"
)

// invocation is what can be told of a command line before it is read in full.
type invocation struct {
	command string // as typed; empty if there is none of ours, or help or the version is asked for
	logFile string // empty for none
}

// calledBy looks for the command among the arguments: it is the first word. A word after
// an unknown flag counts as the flag's value, unless a command has that name.
func calledBy(args []string) invocation {
	var s hook.Settings
	set := flag.NewFlagSet("", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range hook.Flags {
		if f.Common() {
			set.Var(f.Value(&s), f.Name, "")
		}
	}
	var instead bool
	for _, name := range []string{"help", "h", "version", "v"} {
		set.BoolVar(&instead, name, false, "")
	}
	word := ""
	for len(args) > 0 && word == "" {
		err := set.Parse(args)
		rest := set.Args()
		switch {
		case len(rest) == 0:
		case err == nil || isCommand(rest[0]):
			word = rest[0]
		case len(rest) == len(args) || !strings.HasPrefix(rest[0], "-"):
			rest = rest[1:]
		}
		args = rest
	}
	if instead || !isCommand(word) {
		word = ""
	}
	return invocation{word, cmp.Or(s.LogFile, os.Getenv(environmentVariable("log-file")))}
}

func isCommand(word string) bool { return slices.Contains(names, word) || isStage(word) }

func isStage(word string) bool { return slices.Contains(hook.Stages, word) }
