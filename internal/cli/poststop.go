// The poststop command.

package cli

import (
	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
)

func (p *program) poststopCommand() *cli.Command {
	command := &cli.Command{
		Name:  "poststop",
		Usage: "revoke the tokens of the container whose state is on standard input",
	}
	return p.stageCommand(command, withTokens(hook.Settings.Poststop))
}
