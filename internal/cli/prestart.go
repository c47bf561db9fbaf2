// The prestart command, which is also called createRuntime.

package cli

import (
	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
)

func (p *program) prestartCommand(name string) *cli.Command {
	command := &cli.Command{
		Name:  name,
		Usage: "issue a token for the container whose state is on standard input",
	}
	if name == "prestart" {
		command.Aliases = []string{"createRuntime"}
	}
	return p.stageCommand(command, withTokens(hook.Settings.Prestart))
}
