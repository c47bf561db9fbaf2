// The precreate command. It does not touch the token file.

package cli

import (
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/hook"
)

func (p *program) precreateCommand() *cli.Command {
	command := &cli.Command{
		Name:  "precreate",
		Usage: "add pointers to gate.env and the gate to the configuration on standard input",
	}
	return p.stageCommand(command, func(s hook.Settings, stdin io.Reader) (hook.Outcome, error) {
		config, did, err := s.Precreate(stdin)
		if err == nil {
			_, err = os.Stdout.Write(config)
		}
		return did, err
	})
}
