// The prestart command, also called createRuntime.

package cli

import (
	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
)

func prestartCommand() *cli.Command {
	command := &cli.Command{
		Name: "prestart", Aliases: []string{"createRuntime"},
		Usage: "issue a token for the container whose state is on standard input",
	}
	return stageCommand(command, withTokens(hook.Settings.Prestart))
}
