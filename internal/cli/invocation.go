// Which command is called, and where its audit trail is: known before the command line
// is understood, and if it is not.

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

// invocation is what a command line calls.
type invocation struct {
	command string // as it was typed; empty for none of ours, for help and for the version
	logFile string // empty for none
}

// calledBy looks for the command among the arguments. The first word is it; but a word
// after a flag that we don't know may be the flag's value, unless a command is called so.
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

// withoutWords has "help" and "version", which many try, mean the flags.
func withoutWords(args []string) []string {
	if len(args) < 2 {
		return args
	}
	switch program, word, rest := args[0], args[1], args[2:]; word {
	case "help":
		return slices.Concat([]string{program}, rest, []string{"--help"})
	case "version":
		return []string{program, "--version"}
	}
	return args
}
