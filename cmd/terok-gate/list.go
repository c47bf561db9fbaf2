// The list command: chooses the tokens to show. table.go prints them.

package main

import (
	"os"

	"github.com/urfave/cli/v2"

	"terok-gate-hook/store"
)

func listCommand() *cli.Command {
	return &cli.Command{
		Name:   "list",
		Usage:  "list the tokens, by project, task, container and fingerprint",
		Flags:  []cli.Flag{projectFlag(), taskFlag(), &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"}},
		Action: list,
	}
}

func list(c *cli.Context) error {
	file, err := tokenFile(c)
	if err != nil {
		return err
	}
	project, task := c.String("project"), c.String("task")
	ofAnyProject, ofAnyTask := !c.IsSet("project"), !c.IsSet("task")
	tokens, err := listTokens(c.Context, file, func(e store.Entry) bool {
		_, isFor := e.In(project)
		return (ofAnyProject || isFor) && (ofAnyTask || e.Task == task)
	})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(os.Stdout, tokens)
	}
	return printTable(os.Stdout, tokens)
}
