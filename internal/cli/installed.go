// What is installed here for the user who asks: commands for people are about the tokens
// of the hooks that install registered.

package cli

import (
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/podman"
)

// placeOfOurs is where this user's installation is.
func placeOfOurs() (podman.Place, error) {
	if os.Geteuid() == 0 {
		return podman.SystemPlace(), nil
	}
	return podman.UserPlace()
}

// aboutInstalled makes the command one about what is installed, unless it is told
// otherwise.
func aboutInstalled(command *cli.Command) *cli.Command {
	action := command.Action
	command.Action = func(c *cli.Context) error {
		if err := asInstalled(c); err != nil {
			return err
		}
		return action(c)
	}
	return command
}

// asInstalled takes the token file and the log file from the installed hooks, unless
// the command line or the environment names them. Without an installation all is as it
// was. Stages never ask: their definitions say it.
func asInstalled(c *cli.Context) error {
	if c.String("token-file") != "" && c.String("log-file") != "" {
		return nil
	}
	place, err := placeOfOurs()
	if err != nil {
		return nil // there cannot be one
	}
	for _, name := range []string{"token-file", "log-file"} {
		path := place.Flag("--" + name)
		if c.String(name) != "" || !filepath.IsAbs(path) {
			continue
		}
		if err := c.Set(name, path); err != nil {
			return err
		}
	}
	return nil
}
