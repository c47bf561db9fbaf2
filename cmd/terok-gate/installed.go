// Finds the hooks that this user has installed, and makes commands use their token and log files.

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/engines"
)

// hookBinary returns the path of terok-gate-hook, which is installed beside this program.
func hookBinary() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	hook := filepath.Join(filepath.Dir(self), "terok-gate-hook")
	if _, err := os.Stat(hook); err != nil {
		return "", fmt.Errorf("the hook's program: %w: install both programs in one directory", err)
	}
	return hook, nil
}

// repositoryGate returns the URL of the gate that has the repositories, on another machine. It is ""
// if the installed gate has them itself.
func repositoryGate() string {
	return installed().Fleet.RepositoryGate
}

// installed returns what this user has installed, as far as it can be read.
func installed() engines.Registration {
	place, err := engines.OwnPlace()
	if err != nil {
		return engines.Registration{} // nothing can be installed here
	}
	registration, _, _ := place.Registration()
	return registration
}

// onInstalled makes the command use the installed hooks' token file and log file, unless the
// caller names others.
func onInstalled(command *cli.Command) *cli.Command {
	action := command.Action
	command.Action = func(c *cli.Context) error {
		if err := asInstalled(c); err != nil {
			return err
		}
		return action(c)
	}
	return command
}

// asInstalled sets --token-file and --log-file to the files of the installed hooks, unless the
// command line or the environment names other files. If the hooks were installed with --hashed, and
// the command is create and uses their token file, asInstalled also sets --hashed, unless the command
// line does.
func asInstalled(c *cli.Context) error {
	settings := installed().Settings
	hooksFile := c.String("token-file") == "" || c.String("token-file") == settings.Tokens.Path
	if hooksFile && settings.Hashed && c.Command.Name == "create" && !c.IsSet("hashed") {
		if err := c.Set("hashed", "true"); err != nil {
			return err
		}
	}

	for _, named := range []struct{ flag, path string }{
		{"token-file", settings.Tokens.Path}, {"log-file", settings.LogFile},
	} {
		if c.String(named.flag) != "" || !filepath.IsAbs(named.path) {
			continue
		}
		if err := c.Set(named.flag, named.path); err != nil {
			return err
		}
	}
	return nil
}
