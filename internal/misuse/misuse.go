// Package misuse makes and recognizes usage errors. A usage error has its own exit status, and
// never shows a token that was typed in the wrong place.
package misuse

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/store"
)

type misuse struct{ error }

func (e misuse) Unwrap() error { return e.error }

// Errorf is fmt.Errorf for an error in the command line itself.
func Errorf(format string, a ...any) error { return misuse{fmt.Errorf(format, a...)} }

// Is reports whether err wraps a usage error.
func Is(err error) bool { return errors.As(err, new(misuse)) }

// AsTyped restores the second dash of flags that were typed as --foo, since package flag's errors
// write -foo.
func AsTyped(text string, args []string) string {
	words := strings.Split(text, " ")
	for i, word := range words {
		if !strings.HasPrefix(word, "-") {
			continue
		}
		typed := "-" + strings.TrimSuffix(word, ":")
		if slices.ContainsFunc(args, func(arg string) bool { return arg == typed || strings.HasPrefix(arg, typed+"=") }) {
			words[i] = "-" + word
		}
	}
	return strings.Join(words, " ")
}

// NoArguments returns a usage error if there is any argument besides flags.
func NoArguments(c *cli.Context) error {
	if c.Args().Present() {
		return Errorf("takes no argument %s: see %s --help", Quote(c.Args().First()), c.Command.HelpName)
	}
	return nil
}

// OneArgument returns a usage error if there is more than one argument besides flags, or if the
// argument is empty, as when a shell variable is not set.
func OneArgument(c *cli.Context) error {
	if c.NArg() > 1 {
		return Errorf("takes no second argument %s: see %s --help", Quote(c.Args().Get(1)), c.Command.HelpName)
	}
	if c.NArg() == 1 && c.Args().First() == "" {
		return Errorf("the argument is empty: see %s --help", c.Command.HelpName)
	}
	return nil
}

// Quote quotes an unexpected argument. If the argument is a token, Quote describes the token
// instead of showing it.
func Quote(arg string) string {
	if strings.HasPrefix(arg, "terok-g-") {
		return "(a token, " + store.Token(arg).Fingerprint() + ": give tokens on standard input)"
	}
	return fmt.Sprintf("%q", arg)
}

// WordsAsFlags turns the words "help" and "version" into flags, since many people try them as
// commands. The first of args is the program's name.
func WordsAsFlags(args []string) []string {
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
