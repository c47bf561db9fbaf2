// The poststop command.

package cli

import (
	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
)

func poststopCommand() *cli.Command {
	command := &cli.Command{
		Name:  "poststop",
		Usage: "revoke the tokens of the container whose state is on standard input",
		Flags: []cli.Flag{&cli.StringFlag{Name: "env-dir", Usage: "where prestart put the env file on the host, as `D`/<container id>.env"}},
	}
	return stageWithTokens(command, hook.Hook.Poststop)
}
