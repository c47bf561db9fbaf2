// What is said about a command line that makes no sense.

package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/store"
)

// misuseError is an error in the command line itself.
type misuseError struct{ error }

func (e misuseError) Unwrap() error { return e.error }

func misusef(format string, a ...any) error { return misuseError{fmt.Errorf(format, a...)} }

// explainMisuse adds a way out to an error of package flag.
func explainMisuse(args []string) cli.OnUsageErrorFunc {
	return func(c *cli.Context, err error, isSubcommand bool) error {
		text := asTyped(err.Error(), args)
		_, unknown, _ := strings.Cut(text, "flag provided but not defined: --")
		if isSubcommand && isShared(unknown) {
			return misusef("%s: it stands before the command, as in terok-gate-hook --%s ... %s", text, unknown, c.Command.Name)
		}
		return misusef("%s: see %s --help", text, c.Command.HelpName)
	}
}

// asTyped restores the two dashes of flags that were typed with two: package flag's errors
// say -foo for --foo.
func asTyped(text string, args []string) string {
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

func isShared(name string) bool {
	return slices.ContainsFunc(hook.Flags, func(f hook.Flag) bool { return f.Common() && f.Name == name })
}

// checkLine refuses what makes no sense for any command.
func checkLine(c *cli.Context) error {
	if c.Args().Present() {
		return misusef("takes no argument %s: see %s --help", quote(c.Args().First()), c.Command.HelpName)
	}
	return nil
}

// quote quotes a stray argument, unless it is a token.
func quote(arg string) string {
	if strings.HasPrefix(arg, "terok-g-") {
		return "token " + store.Token(arg).Fingerprint() + ", which belongs on standard input"
	}
	return fmt.Sprintf("%q", arg)
}
