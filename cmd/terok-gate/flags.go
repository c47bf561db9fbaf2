// Flags that more than one command has.

package main

import (
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/internal/control"
	"terok-gate-hook/internal/misuse"
)

func projectFlag() cli.Flag {
	return &cli.StringFlag{Name: "project", Usage: "the project `P`"}
}

func taskFlag() cli.Flag {
	return &cli.StringFlag{Name: "task", Usage: "the task `T`"}
}

func dryRunFlag() cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", Usage: "print what would be done, and do nothing"}
}

func reposFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "repos", TakesFile: true,
		Usage: "the directory `DIR` of repositories, each called <project>.git; default: /var/lib/terok-gate/repos for root, else terok-gate/repos in $XDG_DATA_HOME or ~/.local/share",
	}
}

// reposOf returns the directory of repositories that the command line names, or the
// default. There is no default if the installed gate has its repositories on another machine.
func reposOf(c *cli.Context) (string, error) {
	if dir := c.String("repos"); dir != "" {
		return filepath.Abs(dir)
	}
	if elsewhere := repositoryGate(); elsewhere != "" {
		return "", fmt.Errorf("the repositories are at %s: run this on that machine, or name a directory with --repos", elsewhere)
	}
	dir, err := control.DefaultRepos()
	if err != nil {
		return "", misuse.Errorf("no default directory of repositories: %w: name one with --repos", err)
	}
	return dir, nil
}
