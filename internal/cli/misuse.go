// The way out of a command line that makes no sense.

package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
	"terok-gate-hook/internal/misuse"
)

// explainMisuse adds a way out to an error of package flag.
func explainMisuse(args []string) cli.OnUsageErrorFunc {
	return func(c *cli.Context, err error, isSubcommand bool) error {
		text := misuse.AsTyped(err.Error(), args)
		_, unknown, _ := strings.Cut(text, "flag provided but not defined: --")
		if isSubcommand && isShared(unknown) {
			return misuse.Errorf("%s: it stands before the command, as in terok-gate-hook --%s ... %s", text, unknown, c.Command.Name)
		}
		return misuse.Errorf("%s: see %s --help", text, c.Command.HelpName)
	}
}

func isShared(name string) bool {
	return slices.ContainsFunc(hook.Flags, func(f hook.Flag) bool { return f.Common() && f.Name == name })
}
